// The page is complete without this. With it, tables sort and filter, and strips open large.
// The address says what is shown, so that a link can: #sort=mad or #sort=mad.B, &order=ascending, &filter=words
'use strict';

const tables = [...document.querySelectorAll('table.sortable')];
const pictureRows = [...tables[0].tBodies[0].rows];
const tools = document.querySelector('.tools');
const filter = tools.querySelector('input');
const byName = new Intl.Collator('en', { numeric: true }).compare;

// Figures sort worst first and names from A; a figure that is undefined comes last in both orders.
const usualOrder = (head) => (head.dataset.sort === 'name' ? 'ascending' : 'descending');
const heads = (table) => [...table.querySelectorAll('th[data-sort]')];

function sortTable(table, head, order) {
  const column = heads(table).indexOf(head);
  const sign = order === 'descending' ? -1 : 1;
  const text = (row) => row.cells[column].textContent;
  const figure = (row) => parseFloat(row.cells[column].dataset.value);
  const byFigure = (a, b) => isNaN(a) - isNaN(b) || sign * (a - b);
  const [key, compare] = column ? [figure, byFigure] : [text, (a, b) => sign * byName(a, b)];
  const keyed = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  keyed.sort(([a], [b]) => compare(a, b));
  for (const other of heads(table)) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', order);
  for (const [, row] of keyed) table.tBodies[0].append(row);
}

function filterPictures() {
  const words = filter.value.toLowerCase().split(/\s+/);
  let count = 0;
  for (const row of pictureRows) {
    const name = row.cells[0].textContent.toLowerCase();
    row.hidden = !words.every((word) => name.includes(word));
    count += !row.hidden;
  }
  tools.querySelector('output').textContent = `${count} of ${pictureRows.length}`;
}

const asked = () => new URLSearchParams(location.hash.slice(1));

function followAddress() {
  const wanted = asked();
  const key = wanted.get('sort');
  const order = ['ascending', 'descending'].find((known) => known === wanted.get('order'));
  for (const table of tables) {
    const head = heads(table).find(({ dataset }) => dataset.sort === key || dataset.sort.startsWith(`${key}.`));
    if (head) sortTable(table, head, order ?? usualOrder(head));
  }
  if (wanted.has('filter')) filter.value = wanted.get('filter');
  filterPictures();
  if (key || wanted.has('filter')) document.getElementById('all-pictures').scrollIntoView();
}

function changeAddress(changes) {
  const now = asked();
  const next = new URLSearchParams();
  for (const part of ['sort', 'order', 'filter']) {
    const value = part in changes ? changes[part] : now.get(part);
    if (value) next.set(part, value);
  }
  history.replaceState(null, '', `#${next}`);
}

for (const table of tables) {
  for (const head of heads(table)) {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const turned = head.getAttribute('aria-sort') === 'descending' ? 'ascending' : 'descending';
      const order = head.hasAttribute('aria-sort') ? turned : usualOrder(head);
      sortTable(table, head, order);
      changeAddress({ sort: head.dataset.sort, order });
    });
  }
}

tools.hidden = false;
filter.addEventListener('input', () => {
  filterPictures();
  changeAddress({ filter: filter.value });
});
window.addEventListener('hashchange', followAddress);
followAddress();

const strips = [...document.querySelectorAll('.strip')];
const large = document.createElement('dialog');
large.className = 'large';
let current = 0;

function button(text, title, action) {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  made.title = title;
  made.setAttribute('aria-label', title);
  made.addEventListener('click', action);
  return made;
}

const bar = document.createElement('p');
bar.append(
  button('←', 'Previous', () => turn(-1)),
  button('→', 'Next', () => turn(1)),
  button('Close', 'Close', () => large.close()),
);
large.append(bar);
document.body.append(large);

function enlarge(index) {
  current = index;
  const copy = strips[index].cloneNode(true);
  copy.querySelector('button').remove();
  // The bar stays in place: taken out and put back, its buttons would lose the focus, and with it the arrow keys.
  large.querySelector('.strip')?.remove();
  large.append(copy);
  large.scrollTop = 0;
  if (!large.open) large.showModal();
}

const turn = (step) => enlarge((current + step + strips.length) % strips.length);

strips.forEach((strip, index) => {
  strip.querySelector('.facts').append(button('Enlarge', 'Enlarge', () => enlarge(index)));
  strip.querySelector('.pictures').addEventListener('click', () => enlarge(index));
});
large.addEventListener('keydown', ({ key }) => {
  if (key === 'ArrowLeft') turn(-1);
  if (key === 'ArrowRight') turn(1);
});
