"""The page of an evaluation in a browser: headless Chromium opens it in a frame and reports what it finds there.

Without a browser these tests are skipped.
"""

import math

import numpy as np
import pytest
from support.browser import needs_chrome, seen_by_chrome
from support.pictures import noise, smooth

from evaluation.report.build import ReportPictures, report_bytes
from evaluation.results import Results

NASTY = '<b>&"x.png'
LONG = 'anamewithoutend' * 9
SADS = {'p2': 4.0, 'p10': 9.5, 'undefined': math.nan, NASTY: 11.25, 'shots/p3': 1.5, LONG: 2.0}
MADS = {name: {'p2': 30.0, 'p10': 2.0}.get(name, len(name) / 2) for name in SADS}

# Runs the steps of each visit in a new frame of the report, one after the other, and leaves what they return, as JSON,
# in the page around it: a browser takes seconds to start.
AROUND = """<!doctype html><meta charset="utf-8"><main></main><pre></pre>
<script>
async function visit(hash, width, steps) {
  const frame = document.createElement('iframe');
  frame.style = `width: ${width}px; height: 800px; border: 0`;
  frame.src = `report.html${hash}`;
  document.querySelector('main').replaceChildren(frame);
  await new Promise((resolve) => frame.addEventListener('load', resolve));
  const page = frame.contentWindow;
  const { document: inside } = page;
  const one = (selector) => inside.querySelector(selector);
  const all = (selector) => [...inside.querySelectorAll(selector)];
  const names = () => all('#all-pictures tbody tr').filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
  const press = (key) => inside.activeElement.dispatchEvent(new page.KeyboardEvent('keydown', { key, bubbles: true }));
  const type = (text) => {
    one('input').value = text;
    one('input').dispatchEvent(new page.Event('input'));
  };
  return await steps({ page, inside, one, all, names, press, type });
}
addEventListener('load', async () => {
  const found = {};
  %(visits)s
  document.querySelector('pre').textContent = JSON.stringify(found);
});
</script>"""
VISIT = """
  found['%s'] = await visit('%s', %d, async ({ page, inside, one, all, names, press, type }) => {
    %s
  });
"""

SORT = """
    const head = (key) => one(`#all-pictures [data-sort="${key}"]`);
    const sorted = () => all('#all-pictures [aria-sort]').map((th) => [th.dataset.sort, th.ariaSort]);
    const steps = [[names(), sorted(), page.location.hash]];
    for (const key of ['mad.B', 'mad.B', 'name', 'name']) {
      head(key).querySelector('button').click();
      steps.push([names(), sorted(), page.location.hash]);
    }
    type('P  1');
    steps.push([names(), one('output').textContent, page.location.hash]);
    type('');
    steps.push([names().length, one('output').textContent, page.location.hash]);
    one('#all-clips [data-sort="name"] button').click();
    steps.push(all('#all-clips tbody th').map((th) => th.textContent));
    return steps;
"""
ADDRESS = """
    const first = [names(), one('input').value];
    page.location.hash = '#sort=sad&filter=';
    await new Promise((resolve) => page.addEventListener('hashchange', resolve));
    return [first, [names(), one('input').value]];
"""
STRIPS = """
    const shown = () => one('dialog[open] h4')?.textContent ?? null;
    const steps = [shown()];
    all('.strip .pictures')[1].click();
    steps.push([shown(), all('dialog img').length, all('dialog .facts button').length]);
    for (const key of ['ArrowRight', 'ArrowLeft', 'ArrowLeft', 'ArrowLeft']) {
      press(key);
      steps.push(shown());
    }
    all('dialog button').at(-1).click();
    steps.push(shown());
    all('.strip button')[0].click();
    steps.push(shown());
    return [steps, all('main .strip h4').map((h4) => h4.textContent)];
"""
WIDTH = """
    one('details').open = true;
    const root = inside.documentElement;
    const widths = [page.innerWidth, root.scrollWidth, root.clientWidth];
    const box = one('#all-pictures .box');
    box.scrollLeft = 60;
    const stuck = box.getBoundingClientRect().left === box.querySelector('tbody th').getBoundingClientRect().left;
    const broken = all('img').filter((img) => !img.naturalWidth).length;
    const tops = all('.strip')[0].querySelectorAll('figure');
    const rows = new Set([...tops].map((figure) => figure.getBoundingClientRect().top)).size;
    all('.strip .pictures')[0].click();
    const dialog = one('dialog');
    return [widths, stuck, box.scrollLeft, broken, rows, dialog.scrollWidth - dialog.clientWidth];
"""
COLOUR = 'return page.getComputedStyle(inside.body).backgroundColor;'
REFUSED = """
    const refused = [];
    inside.addEventListener('securitypolicyviolation', (event) => refused.push(event.effectiveDirective));
    const script = inside.createElement('script');
    script.textContent = 'window.ran = true';
    inside.body.append(script);
    await page.fetch('report.html').catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 100));
    const loaded = page.performance.getEntriesByType('resource').map((entry) => entry.name.slice(0, 5));
    return [page.ran ?? false, refused.sort(), loaded.filter((scheme) => scheme !== 'data:')];
"""
WIDTHS = (320, 390, 1280)
# By name: steps, the address's end, and the frame's width.
VISITS = {
    'sort': (SORT, '', 390),
    'address': (ADDRESS, '#sort=sad.B&order=ascending&filter=P', 390),
    'strips': (STRIPS, '', 390),
    'colour': (COLOUR, '', 390),
    **{f'width {width}': (WIDTH, '', width) for width in WIDTHS},
}


def results(model, factor, settings=None):
    figures = {name: {'sad': SADS[name] * factor, 'mad': MADS[name] * factor} for name in SADS}
    metrics = {'grad': 1000.0, 'conn': 900.0, 'fg_mse': 3.0, 'mse': 4.0}  # to make the tables wide
    figures = {name: {**found, **metrics} for name, found in figures.items()}
    return Results(model, figures, {'c': ['p2', 'p10']}, {'c': {'dtssd': 1.0}, 'd': {'dtssd': 2.0}}, settings or {})


def pictures(model, name):
    return ReportPictures(smooth(60, 80), noise(60, 80, seed=1), noise(60, 80, seed=2))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    settings = {'checkpoint': '/very/long/' * 20}
    rows = [results('first', 1, settings), results(LONG, np.pi, settings)]
    (folder / 'report.html').write_bytes(report_bytes(rows, pictures, title=f'Title {NASTY}'))
    return folder


def browse(folder, visits, *flags, silent=True):
    """Open the report once for each visit and run its steps; return what they return, by name.

    The console must stay silent.
    """
    lines = ''.join(VISIT % (name, hash, width, steps) for name, (steps, hash, width) in visits.items())
    (folder / 'around.html').write_text(AROUND % {'visits': lines})
    return seen_by_chrome(folder / 'around.html', *flags, silent=silent)


@pytest.fixture(scope='module')
def visited(folder):
    return browse(folder, VISITS)


@needs_chrome
def test_tables_sort_and_filter(visited):
    found = visited['sort']
    by_sad = [NASTY, 'p10', 'p2', LONG, 'shots/p3', 'undefined']
    by_mad = sorted(MADS, key=MADS.get, reverse=True)
    by_name = [NASTY, LONG, 'p2', 'p10', 'shots/p3', 'undefined']
    assert found[0] == [by_sad, [['sad.A', 'descending']], '']
    assert found[1] == [by_mad, [['mad.B', 'descending']], '#sort=mad.B&order=descending']
    assert found[2] == [by_mad[::-1], [['mad.B', 'ascending']], '#sort=mad.B&order=ascending']
    assert found[3] == [by_name, [['name', 'ascending']], '#sort=name&order=ascending']
    assert found[4] == [by_name[::-1], [['name', 'descending']], '#sort=name&order=descending']
    assert found[5] == [['p10'], '1 of 6', '#sort=name&order=descending&filter=P++1']
    assert found[6] == [6, '6 of 6', '#sort=name&order=descending']
    assert found[7] == ['c', 'd']


@needs_chrome
def test_the_address_says_what_is_shown(visited):
    by_sad = [NASTY, 'p10', 'p2', LONG, 'shots/p3', 'undefined']
    found = visited['address']
    # Undefined comes last in either order, and the filter takes capitals for small letters.
    assert found == [[['shots/p3', 'p2', 'p10', NASTY], 'P'], [by_sad, '']]


@needs_chrome
def test_strips_open_large_and_turn_by_keys(visited):
    found = visited['strips']
    steps, strips = found
    assert strips[:5] == [NASTY, 'p10', 'p2', LONG, 'shots/p3']
    assert steps == [None, ['p10', 6, 0], 'p2', 'p10', NASTY, strips[-1], None, NASTY]


@needs_chrome
@pytest.mark.parametrize('width', WIDTHS)
def test_the_page_never_scrolls_sideways(visited, width):
    found = visited[f'width {width}']
    wide = width > 1000  # enough for the table, and for the models side by side
    assert found == [[width] * 3, True, 0 if wide else 60, 0, 2 if wide else 3, 0]


@needs_chrome
def test_it_follows_the_colour_scheme(folder, visited):
    assert visited['colour'] == 'rgb(253, 253, 252)'
    assert browse(folder, {'': VISITS['colour']}, '--force-dark-mode') == {'': 'rgb(21, 24, 27)'}


@needs_chrome
def test_the_browser_refuses_to_load_or_run_anything_else(folder):
    found = browse(folder, {'': (REFUSED, '', 390)}, silent=False)
    assert found == {'': [False, ['connect-src', 'script-src-elem'], []]}
