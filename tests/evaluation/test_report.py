"""The page of an evaluation: which pictures it shows and what it says."""

import base64
import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from support.pictures import noise, smooth

from evaluation.report.build import ReportPictures, chosen, report_bytes
from evaluation.report.pictures import error_picture, error_scale, matte_uri, small
from evaluation.results import Results, means
from metrics.error_colours import TOO_LITTLE, TOO_MUCH

NASTY = '<b>&"x\'</script>.png'
SADS = {'p1': 4.0, 'p2': 9.5, 'p10': math.nan, NASTY: 11.25, 'shots/p3': 1.5}
MADS = {'p1': 7.0, 'p2': 2.0, 'p10': 30.0, NASTY: math.nan, 'shots/p3': 5.0}


def results(model='first', factor=1.0, sads=SADS, mads=MADS, **more):
    figures = {name: {'sad': sads[name] * factor, 'mad': mads[name] * factor} for name in sads}
    more = {'clips': {}, 'clip_figures': {}, 'settings': {}, **more}
    return Results(model, figures, **more)


def pictures(model, name):
    return ReportPictures(smooth(6, 8), noise(6, 8, seed=1), noise(6, 8, seed=2))


class Page(HTMLParser):
    """The elements of a page as (tag, attributes), and the text of each table's rows."""

    def __init__(self, data: bytes):
        super().__init__()
        self.elements, self.tables, self.texts, self._cell = [], [], {}, False
        self._tag = ''
        self.feed(data.decode('utf-8'))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._tag = tag
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('th', 'td'):
            self.tables[-1][-1].append('')
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ('th', 'td'):
            self.tables[-1][-1][-1] = self.tables[-1][-1][-1].strip()
            self._cell = False

    def handle_data(self, data):
        self.texts[self._tag] = self.texts.get(self._tag, '') + data
        if self._cell:
            self.tables[-1][-1][-1] += data

    def all(self, tag):
        return [attributes for kind, attributes in self.elements if kind == tag]


def pixels(uri):
    kind, data = uri.split(',')
    assert kind == 'data:image/webp;base64'
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


# Which pictures


@pytest.mark.parametrize(
    ('count', 'expected'),
    [
        (0, {}),
        (1, {'Worst': [0]}),
        (2, {'Worst': [0], 'Best': [1]}),
        (3, {'Worst': [0], 'Median': [1], 'Best': [2]}),
        (4, {'Worst': [0, 1], 'Median': [2], 'Best': [3]}),
        (5, {'Worst': [0, 1], 'Median': [2], 'Best': [3, 4]}),
        (6, {'Worst': [0, 1], 'Median': [2, 3], 'Best': [4, 5]}),
        (9, {'Worst': [0, 1], 'Median': [3, 4], 'Best': [7, 8]}),
        (10, {'Worst': [0, 1], 'Median': [4, 5], 'Best': [8, 9]}),
    ],
)
def test_worst_median_and_best_by_rank(count, expected):
    order = np.random.default_rng(count).permutation(count)
    sads = {f'r{rank}': 100.0 - rank for rank in order}
    found = chosen(results(sads=sads, mads=sads), 'sad', places=2)
    assert found == {group: [f'r{rank}' for rank in ranks] for group, ranks in expected.items()}


def test_three_places_of_an_odd_count_have_the_median_in_their_middle():
    sads = {f'{i:02}': float(i) for i in range(11)}
    assert chosen(results(sads=sads, mads=sads), 'sad')['Median'] == ['06', '05', '04']


def test_undefined_pictures_are_never_chosen_and_equal_ones_go_by_name():
    sads = {'b': 1.0, 'nan': math.nan, 'a': 1.0, 'c': 1.0}
    assert chosen(results(sads=sads, mads=sads), 'sad') == {'Worst': ['a'], 'Median': ['b'], 'Best': ['c']}


def test_a_clip_repeats_in_a_group_only_when_no_other_is_left():
    clips = {clip: [f'{clip}/{i}' for i in range(6)] for clip in 'ab'}
    sads = {name: float(i) for i, name in enumerate([*clips['b'], *clips['a']])}  # all frames of a are worse
    found = chosen(results(sads=sads, mads=sads, clips=clips), 'sad')
    assert found == {
        'Worst': ['a/5', 'a/4', 'a/3'],  # the worst third is all of one clip
        'Median': ['a/1', 'a/0', 'b/5'],
        'Best': ['b/2', 'b/1', 'b/0'],
    }


def test_a_group_takes_one_frame_of_each_clip_first():
    clips = {clip: [f'{clip}/{i}' for i in range(6)] for clip in 'ab'}
    sads = {name: float(i) for i, name in enumerate(name for pair in zip(*clips.values()) for name in pair)}
    sads |= {'b/4': 10.5, 'still': 8.5}  # b/5, b/4, a/5, still, ...
    found = chosen(results(sads=sads, mads=sads, clips=clips), 'sad')
    assert found['Worst'] == ['b/5', 'a/5', 'still']


def test_pictures_are_asked_for_those_shown_only():
    sads = {f'{i:03}': float(i) for i in range(100)}
    asked = []

    def ask(model, name):
        asked.append((model, name))
        return pictures(model, name)

    rows = [results('first', sads=sads, mads=sads), results('second', factor=2, sads=sads, mads=sads)]
    report_bytes(rows, ask, places=1)
    # 098 is the one of the others that the models differ most on.
    assert asked == [(model, name) for name in ('099', '050', '000', '098') for model in ('first', 'second')]


def test_the_mean_over_the_models_says_which_pictures_are_worst():
    one, other = ({f'{i}': float(value) for i, value in enumerate(values)} for values in ([9, 1, 5], [1, 2, 6]))
    asked = []
    report_bytes(
        [results('first', sads=one, mads=one), results('second', sads=other, mads=other)],
        lambda model, name: asked.append(name) or pictures(model, name), places=1,
    )  # fmt: skip
    assert asked[::2] == ['2', '0', '1']


def test_the_models_of_a_picture_stand_side_by_side():
    def ask(model, name):
        return ReportPictures(
            smooth(6, 8), noise(6, 8, seed=1), np.full((6, 8), {'first': 50, 'second': 200}[model], np.uint8)
        )

    lacking = {name: value for name, value in SADS.items() if name != 'p2'}
    data = report_bytes([results('first'), results('second', 2, sads=lacking, mads=MADS | lacking)], ask)
    page = Page(data)
    figures = [style for style in (found.get('style') for found in page.all('figure')) if style]
    images = [found for found in page.all('img') if found['alt'].endswith(f' of {NASTY}')]
    kinds = ['Source', 'Truth', 'Prediction A', 'Error A', 'Prediction B', 'Error B']
    assert [found['alt'] for found in images] == [f'{kind} of {NASTY}' for kind in kinds]
    assert figures[:6] == [f'grid-column: {column}' for column in (1, 1, 2, 2, 3, 3)]
    assert [int(pixels(images[i]['src']).mean()) for i in (2, 4)] == [50, 200]
    assert [found['alt'].split(' of ')[0] for found in page.all('img') if found['alt'].endswith(' of p2')] == kinds[:4]
    facts = re.findall(r'<dd><span class="key">(.)</span> (.*?)</dd>', data.decode())
    assert facts[:4] == [('A', '11.250'), ('B', '22.500'), ('A', '–'), ('B', '22.500')]


# What the pictures show


def test_the_error_is_orange_for_too_much_and_blue_for_too_little():
    true_pha, pred_pha = np.uint8([[0, 255, 0, 255, 0, 128]]), np.uint8([[255, 0, 0, 255, 10, 128]])
    found = error_picture(pred_pha, true_pha)[0].tolist()
    faint = [int(channel * math.sqrt(10 / 255) + 0.5) for channel in TOO_MUCH]
    assert found == [[*TOO_MUCH], [*TOO_LITTLE], [0, 0, 0], [56, 56, 56], faint, [28, 28, 28]]


def test_opposite_errors_side_by_side_do_not_cancel_out_when_made_small():
    true_pha = np.zeros((1280, 1280), np.uint8)
    true_pha[:, ::2] = 255
    found = error_picture(255 - true_pha, true_pha)
    assert found.shape == (640, 640, 3)
    assert found.min() > 150  # both colours at 0.7 of their strength, added


def test_the_legend_runs_from_blue_to_orange_through_black():
    scale = error_scale()[0].tolist()
    assert (scale[0], scale[255], scale[510]) == ([*TOO_LITTLE], [0, 0, 0], [*TOO_MUCH])


@pytest.mark.parametrize(
    ('shape', 'expected'),
    [((720, 1280), (360, 640)), ((1280, 720, 3), (640, 360, 3)), ((640, 100), (640, 100)), ((5000, 2), (640, 1))],
)
def test_pictures_are_made_small(shape, expected):
    assert small(noise(*shape)).shape == expected


def test_mattes_are_lossless_unless_they_are_noise():
    matte = noise(90, 70)
    assert np.array_equal(pixels(matte_uri(matte))[..., 0], matte)
    large = noise(640, 640)
    assert len(matte_uri(large)) < large.size * 4 / 3
    assert not np.array_equal(pixels(matte_uri(large))[..., 0], large)


# What the page says


@pytest.fixture(scope='module')
def data():
    settings = {'checkpoint': 'a<i>.pth', 'region': 'unknown', 'pixels': [80000, None]}
    rows = [results(f'first {NASTY}', settings=settings), results('second', factor=2)]
    return report_bytes(rows, pictures, title=f'Title {NASTY}')


def test_names_come_out_right_and_make_no_elements(data):
    page = Page(data)
    names = [row[0] for row in page.tables[-1][2:]]
    assert names == [NASTY, 'p2', 'p1', 'shots/p3', 'p10']  # worst first, undefined last
    assert page.texts['title'].strip() == page.texts['h1'] == f'Title {NASTY}'
    assert [attributes['alt'] for attributes in page.all('img')][2] == f'Truth of {NASTY}'
    assert page.tables[0][1][0] == f'A first {NASTY}'
    assert page.tables[1][1] == ['checkpoint', 'a<i>.pth', '–']
    assert page.tables[1][3] == ['pixels', '[80000, null]', '–']
    assert len(page.all('script')) == 1
    assert not page.all('i')[6:]
    assert len(page.all('b')) == 6  # two means and a difference, of two metrics


def test_figures_stand_side_by_side(data):
    head, keys, *rows = Page(data).tables[-1]
    assert head == ['Picture', 'SAD', 'MAD']
    assert keys == ['SAD of A', 'SAD of B', 'MAD of A', 'MAD of B']
    assert rows[0] == [NASTY, '11.250', '22.500', '–', '–']
    assert rows[4] == ['p10', '–', '–', '30.000', '60.000']


def test_means_are_those_of_the_results(data):
    found = means(results())['sad']
    head, first, second, difference = Page(data).tables[0]
    assert head == ['Model', 'SAD', 'MAD']
    assert found.value == 6.5625
    assert first[1] == f'6.562{found.low:.3f} to {found.high:.3f}1 undefined'
    assert second[1].startswith('13.125')
    assert difference[0] == 'B less A'
    assert difference[1] == f'+6.562+{found.low:.3f} to +{found.high:.3f}'


def test_a_difference_that_may_be_chance_gets_no_verdict():
    sads = {name: 1.0 + i for i, name in enumerate('abcdefghij')}
    swapped = {name: value + (-1) ** i for i, (name, value) in enumerate(sads.items())}
    better = {name: value - 0.5 for name, value in sads.items()}
    rows = [results(sads=values, mads=values) for values in (sads, swapped, better)]
    page = Page(report_bytes(rows, pictures))
    table = page.tables[0]
    assert table[4][1] == '+0.000−0.600 to +0.600'
    assert table[5][1] == '−0.500 better−0.500 to −0.500'
    assert 'where its interval leaves out 0.' in page.texts['p']


def test_a_difference_of_few_pictures_gets_no_verdict():
    sads = {str(i): 1.0 + i for i in range(9)}
    rows = [results(sads=values, mads=values) for values in (sads, {name: value - 0.5 for name, value in sads.items()})]
    page = Page(report_bytes(rows, pictures))
    assert page.tables[0][3][1] == '−0.500−0.500 to −0.500'
    assert 'where its interval leaves out 0, but never with fewer than 10 pictures.' in page.texts['p']


def test_nothing_is_loaded_from_elsewhere(data):
    page = Page(data)
    addresses = [attributes[key] for _, attributes in page.elements for key in ('src', 'href') if key in attributes]
    assert len(addresses) > 20
    assert all(address.startswith(('data:', '#')) for address in addresses)
    assert not re.search(rb'https?:|url\(|@import|fetch\(', data)


def test_a_single_model_needs_no_short_name():
    page = Page(report_bytes([results()], pictures))
    assert page.tables[-1][0] == ['Picture', 'SAD', 'MAD']
    assert [attributes['data-sort'] for attributes in page.all('th') if 'data-sort' in attributes] == [
        *('name', 'sad', 'mad')
    ]
    assert [attributes.get('aria-sort') for attributes in page.all('th') if 'data-sort' in attributes] == [
        *(None, 'descending', None)
    ]


def test_clips_have_a_table_of_their_own():
    row = results(clips={'p': ['p1', 'p2']}, clip_figures={'p': {'dtssd': 0.5}, 'q': {'dtssd': 0.75}})
    page = Page(report_bytes([row], pictures))
    assert page.tables[-1] == [['Clip', 'dtSSD'], ['q', '0.7500'], ['p', '0.5000']]
    assert 'pictures of a clip or subject are drawn together' in page.texts['p']


def test_without_a_photograph_a_strip_has_three_pictures():
    mattes = ReportPictures(None, noise(6, 8), noise(6, 8))
    page = Page(report_bytes([results()], lambda model, name: mattes))
    assert [attributes['alt'] for attributes in page.all('img')][1:4] == [
        f'{kind} of {NASTY}' for kind in ('Truth', 'Prediction', 'Error')
    ]


def test_a_name_that_is_no_text_does_not_stop_the_page():
    row = results(sads={'caf\udce9': 1.0}, mads={'caf\udce9': 1.0})
    assert Page(report_bytes([row], pictures)).tables[-1][1][0] == r'caf\udce9'


@pytest.mark.parametrize(
    ('rows', 'sort_by', 'message'),
    [
        ([], 'sad', 'at least one model'),
        ([results()], 'grad', "'grad' cannot sort pictures; the metrics of pictures here are sad, mad"),
    ],
)
def test_what_cannot_be_shown_is_refused(rows, sort_by, message):
    with pytest.raises(ValueError, match=message):
        report_bytes(rows, pictures, sort_by)


def test_pictures_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r'source, truth and prediction differ in size \(8x6, 9x6\)'):
        report_bytes([results()], lambda model, name: ReportPictures(None, noise(6, 8), noise(6, 9)))
