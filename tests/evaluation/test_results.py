"""Means, intervals and tables of an evaluation."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from evaluation.results import Mean, Results, bootstrap, differences, means
from evaluation.tables import legend, means_table, pictures_table, read_json, to_csv, to_json

NAN = math.nan


def results(model: str, sad: dict[str, float], **more: dict) -> Results:
    figures = {name: {'sad': value} for name, value in sad.items()}
    return Results(model, figures, more.get('clips', {}), more.get('clip_figures', {}), more.get('settings', {}))


def test_two_values_give_an_interval_from_one_to_the_other() -> None:
    # Both are drawn equal in half of the cases, so the middle 95 % reach from the one to the other.
    assert bootstrap([3.0, 5.0]) == (3.0, 5.0)


def test_the_interval_is_that_of_the_binomial_distribution() -> None:
    # One of four values is 1: the sum of four draws has B(4, 1/4): 0 in 32 % of the cases, up to 2 in 95 %, up to 3 in
    # 99.6 %. So the 2.5th percentile of the mean is 0, the 97.5th is 3/4.
    assert bootstrap([0, 0, 0, 1]) == (0.0, 0.75)


def test_groups_are_drawn_whole() -> None:
    # Clips of 3 frames and of 1: AA has the mean 0, BB has 1, AB has 1/4; each of the extremes a quarter of the cases.
    assert bootstrap([0, 0, 0, 1], 'aaab') == (0.0, 1.0)
    assert bootstrap([0, 1, 0, 1], 'aabb') == (0.5, 0.5)


def test_one_value_or_one_clip_has_no_interval() -> None:
    for interval in (bootstrap([]), bootstrap([1.0]), bootstrap([1.0, 2.0], 'aa')):
        assert all(map(math.isnan, interval))


def test_equal_seeds_give_equal_intervals() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap(values) == bootstrap(values) != bootstrap(values, seed=1)


@pytest.mark.parametrize('at_once', [1, 4_000_000])
def test_draws_in_parts_are_all_there(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr('evaluation.results.DRAWS_AT_ONCE', at_once)
    low, high = bootstrap(np.arange(100.0), resamples=300)
    # The deviation of the mean is 28.9 / 10.
    assert low == pytest.approx(49.5 - 1.96 * 2.89, abs=1.5)
    assert high == pytest.approx(49.5 + 1.96 * 2.89, abs=1.5)


def test_intervals_cover_the_mean_of_a_normal_distribution_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap(rng.normal(7, 2, 50), resamples=1000, seed=i) for i in range(500)]
    covered = np.mean([low < 7 < high for low, high in intervals])
    assert 0.92 <= covered <= 0.96  # 0.94 at 50 values, by the width of the normal in place of Student's distribution


def test_means_leave_out_what_is_undefined_and_count_it() -> None:
    found = means(results('net', {'a': 1.0, 'b': NAN, 'c': 3.0}))
    assert found == {'sad': Mean(2.0, 1.0, 3.0, 2, 1, 2)}
    empty = means(results('net', {'a': NAN}))['sad']
    assert (empty.count, empty.undefined) == (0, 1)
    assert math.isnan(empty.value)


def test_frames_of_a_clip_count_together_and_stills_alone() -> None:
    sad = {'walk/0': 0.0, 'walk/1': 0.0, 'still': 3.0}
    found = means(results('net', sad, clips={'walk': ['walk/0', 'walk/1']}))['sad']
    assert found == Mean(1.0, 0.0, 3.0, 3, 0, 2)
    # A still may have the name of a clip.
    sad = {'walk/0': 0.0, 'walk/1': 0.0, 'walk': 3.0}
    assert means(results('net', sad, clips={'walk': ['walk/0', 'walk/1']}))['sad'] == found


def test_pictures_of_one_subject_count_together() -> None:
    sad = {'anna-00': 0.0, 'anna-01': 0.0, 'ben-00': 3.0}
    row = Results('net', {name: {'sad': value} for name, value in sad.items()}, {}, {}, {},
                  {'anna-00': 'anna', 'anna-01': 'anna', 'ben-00': 'ben'})  # fmt: skip
    assert means(row)['sad'] == Mean(1.0, 0.0, 3.0, 3, 0, 2)
    apart = Results('net', row.figures, {}, {}, {})
    assert means(apart)['sad'].low == 0.0
    assert (
        differences(row, Results('other', {name: {'sad': value * 0} for name, value in sad.items()}, {}, {}, {}))[
            'sad'
        ].high
        == 3.0
    )


def test_clips_of_one_subject_count_together() -> None:
    clips = {'anna-00': ['anna-00/0'], 'anna-01': ['anna-01/0'], 'ben-00': ['ben-00/0']}
    figures = {names[0]: {'sad': 1.0} for names in clips.values()}
    changes = {'anna-00': {'dtssd': 0.0}, 'anna-01': {'dtssd': 0.0}, 'ben-00': {'dtssd': 3.0}}
    subjects = {'anna-00/0': 'anna', 'anna-01/0': 'anna', 'ben-00/0': 'ben'}
    row = Results('net', figures, clips, changes, {}, subjects)
    assert means(row)['dtssd'] == Mean(1.0, 0.0, 3.0, 3, 0, 2)
    assert row.alike['anna-01/0'] == row.alike['anna-00/0'] == ('subject', 'anna')


def test_metrics_of_clips_are_means_over_clips() -> None:
    clips = {'a': ['a/0'], 'b': ['b/0'], 'c': ['c/0']}
    figures = {'a': {'dtssd': 1.0}, 'b': {'dtssd': 2.0}, 'c': {'dtssd': NAN}}
    row = results('net', {'a/0': 1.0, 'b/0': 1.0, 'c/0': 1.0}, clips=clips, clip_figures=figures)
    assert row.metrics == ['sad', 'dtssd']
    assert means(row)['dtssd'] == Mean(1.5, 1.0, 2.0, 2, 1, 2)


def test_paired_differences_are_clear_where_means_are_not() -> None:
    rng = np.random.default_rng(1)
    hard = rng.gamma(2, 10, 30)
    first = results('first', {str(i): x for i, x in enumerate(hard)})
    second = results('second', {str(i): x - 1 + rng.normal() for i, x in enumerate(hard)})
    one, other, apart = means(first)['sad'], means(second)['sad'], differences(second, first)['sad']
    assert other.high > one.low
    assert apart.value == pytest.approx(other.value - one.value)
    assert apart.excludes_0
    assert apart.high < 0
    same = differences(first, first)['sad']
    assert (same.value, same.low, same.high, same.excludes_0) == (0, 0, 0, False)


def test_differences_are_over_common_pictures_and_metrics() -> None:
    first = Results('first', {'a': {'sad': 1.0, 'mse': 5.0}, 'b': {'sad': 2.0}, 'x': {'sad': 9.0}}, {}, {}, {})
    second = results('second', {'b': 1.0, 'a': 3.0, 'y': 0.0})
    assert differences(second, first) == {'sad': Mean(0.5, -1.0, 2.0, 2, 2, 2)}


def sample() -> list[Results]:
    clips = {'walk': ['walk/0', 'walk/1']}
    first = {'walk/0': 2.0, 'walk/1': 4.0, 'b': 9.0, 'c': 5.0}
    second = {'walk/0': 1.0, 'walk/1': NAN, 'b': 7.75, 'c': 3.5}
    change = {'walk': {'dtssd': 0.25}}
    settings = {'checkpoint': 'a.pth', 'step': None, 'backbone_scale': 0.25}
    return [
        results('first', first, clips=clips, clip_figures=change, settings=settings),
        results('second', second, clips=clips, clip_figures={'walk': {'dtssd': NAN}}),
    ]


def test_the_table_of_means() -> None:
    # Of three groups, walk and b and c, each is drawn thrice in 1 of 27 cases: more than 2.5 %.
    assert means_table(sample()).splitlines() == [
        '                   pictures             SAD   dtSSD',
        'first                     4           5.000  0.2500',
        '  95 % interval                3.000..9.000       -',
        'second                    4           4.083       -',
        '  95 % interval                1.000..7.750       -',
        '  undefined                               1       1',
        '  minus the first                    -1.250       -',
        '  95 % interval              -1.500..-1.000       -',
    ]


def rows_of(count: int, **more: dict) -> list[Results]:
    """Two models, of which the second is better by a little everywhere."""
    names = [f'{i:02}' for i in range(count)]
    return [results(f'net {less}', {name: i + 1 - less for i, name in enumerate(names)}, **more) for less in (0, 0.5)]


def test_no_difference_counts_with_fewer_than_ten_groups() -> None:
    for count, marked in ((9, False), (10, True)):
        rows = rows_of(count)
        apart = differences(rows[1], rows[0])['sad']
        assert (apart.high < 0, apart.groups, apart.excludes_0) == (True, count, marked)
        assert ('-0.500*' in means_table(rows)) == marked
        assert legend(rows).endswith(' leaves out 0.') == marked
        (written,) = json.loads(to_json(rows))['differences']
        assert written['means']['sad']['excludes_0'] is (True if marked else None)
    assert legend(rows_of(9)).endswith('leaves out 0; no * with fewer than 10 pictures.')
    assert legend(rows_of(9)[:1]) == 'Over the pixels that are unknown in the trimap; as defined.'
    names = [f'{i:02}' for i in range(20)]
    clips = {str(i): names[2 * i : 2 * i + 2] for i in range(9)} | {'9': ['18'], '10': ['19']}
    assert legend(rows_of(20, clips=clips)).endswith(' leaves out 0.')
    clips = {str(i): names[5 * i : 5 * i + 5] for i in range(4)}
    few = rows_of(20, clips=clips)
    assert legend(few).endswith('; no * with fewer than 10 subjects or clips.')
    assert '*' not in means_table(few)
    mean = differences(few[1], few[0])['sad']
    assert (mean.count, mean.groups, mean.excludes_0) == (20, 4, False)


def test_an_interval_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    percentile = np.percentile
    monkeypatch.setattr(np, 'percentile', lambda *args: drawn.append(args) or percentile(*args))
    rows = [results(f'net {i}', {name: i + ord(name) * math.pi for name in 'abc'}) for i in (1, 3)]
    for _ in range(2):
        means_table(rows), to_json(rows), legend(rows)
    assert len(drawn) == 3  # two rows, one difference


def test_the_table_of_pictures_sorts_by_the_first_models_worst() -> None:
    assert pictures_table(sample()).splitlines()[1:3] == [
        'walk/0     first   2.000       -',
        '           second  1.000       -',
    ]
    lines = pictures_table(sample(), 'sad').splitlines()
    assert [line.split()[0] for line in lines[1::2]] == ['b', 'c', 'walk/1', 'walk/0', 'clip']
    assert lines[-2:] == ['clip walk  first       -  0.2500', '           second      -       -']
    undefined_last = pictures_table(sample()[::-1], 'sad').splitlines()
    assert [line.split()[0] for line in undefined_last[1::2]] == ['b', 'c', 'walk/0', 'walk/1', 'clip']


def test_json_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / 'results.json'
    path.write_text(to_json(sample()))
    first, second = read_json(path)
    assert first == sample()[0]
    assert math.isnan(second.figures['walk/1'].pop('sad'))
    assert second.figures['b'] == {'sad': 7.75}
    assert math.isnan(second.clip_figures['walk']['dtssd'])
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content['results'][1]['figures']['walk/1'] == {'sad': None}
    assert content['results'][0]['means']['sad']['value'] == 5.0
    assert content['differences'][0]['means']['sad'] == {
        'value': -1.25, 'low': -1.5, 'high': -1.0, 'count': 3, 'undefined': 1, 'groups': 3, 'excludes_0': None
    }  # fmt: skip


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    name = b'caf\xe9'.decode('utf-8', 'surrogateescape')
    path = tmp_path / 'results.json'
    path.write_bytes(to_json([results('net', {name: 1.0})]).encode())
    assert read_json(path)[0].figures == {name: {'sad': 1.0}}
    assert r'caf\udce9' in pictures_table(read_json(path))
    assert b'caf\xe9' in to_csv(read_json(path)).encode('utf-8', 'surrogateescape')


@pytest.mark.parametrize('content', ['', '[]', '{"format": 2}', '{"format": 1, "results": [{"model": "a"}]}', '\udcff'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / 'results.json'
    path.write_bytes(content.encode('utf-8', 'surrogateescape'))
    with pytest.raises(ValueError, match=r'results\.json: not the results of an evaluation'):
        read_json(path)
    with pytest.raises(FileNotFoundError, match=r'none\.json: no such file'):
        read_json(tmp_path / 'none.json')


@pytest.mark.parametrize(
    ('settings', 'problem'),
    [
        ({'region': 'hair'}, r"it has the region 'hair'; this version knows unknown, whole"),
        ({'scaling': 'x'}, r"it has the scaling 'x'; this version knows bmv2, dim, rvm, raw"),
        (None, 'it has no rows'),
    ],
)
def test_results_that_cannot_be_told_are_refused(tmp_path: Path, settings: dict | None, problem: str) -> None:
    path = tmp_path / 'results.json'
    path.write_text(to_json([] if settings is None else [results('net', {'a': 1.0}, settings=settings)]))
    with pytest.raises(ValueError, match=problem):
        read_json(path)


def test_csv_has_a_line_for_each_value() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(sample()))))
    assert len(rows) == 2 * (4 + 1)
    assert rows[0] == {'model': 'first', 'clip': 'walk', 'picture': 'walk/0', 'metric': 'sad', 'value': '2.0'}
    assert rows[4] == {'model': 'first', 'clip': 'walk', 'picture': '', 'metric': 'dtssd', 'value': '0.25'}
    assert [row['value'] for row in rows if row['model'] == 'second'] == ['1.0', '', '7.75', '3.5', '']
    assert rows[2]['clip'] == ''
