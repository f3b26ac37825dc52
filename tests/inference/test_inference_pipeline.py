"""Stages that overlap, batches of neighbours, what was made recently, progress."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import common.console
import inference_images
from common.console import progress
from common.devices import torch_threads
from common.signals import StopSignals
from inference.images.inputs import Job
from inference.images.report import PictureResult
from inference.images.stages import compute
from inference.pipeline import Pipeline, Recent, batches


def test_results_come_in_order_and_work_overlaps() -> None:
    meeting = threading.Barrier(3, timeout=60)  # three calls must be running at once, or this breaks

    def work(i: int) -> int:
        if i < 3:
            meeting.wait()
        time.sleep(0.01 * (i % 3))
        return i * i

    with Pipeline() as pipeline:
        assert list(pipeline.ahead(work, range(20), threads=3)) == [i * i for i in range(20)]


def test_a_slow_consumer_bounds_what_is_in_flight() -> None:
    started: list[int] = []

    def source() -> Iterator[int]:
        for i in range(1000):
            started.append(i)
            yield i

    with Pipeline() as pipeline:
        results = pipeline.ahead(lambda i: time.sleep(0.2 if i == 0 else 0), source(), threads=2, depth=5)
        next(results)  # the first takes long: without a bound all others would start meanwhile
        time.sleep(0.1)
        assert len(started) == 5


def test_one_thread_keeps_the_order_of_the_work_itself() -> None:
    done: list[int] = []
    with Pipeline() as pipeline:
        assert len(list(pipeline.ahead(done.append, range(50), threads=1))) == 50
    assert done == list(range(50))


@pytest.mark.parametrize('stage', ['source', 'first', 'between', 'second', 'consumer'])
def test_an_error_in_any_stage_ends_all_threads(stage: str) -> None:
    def fail_in(name: str, i: int) -> int:
        if name == stage and i == 7:
            raise RuntimeError(stage)
        return i

    seen = []

    def run() -> None:
        with Pipeline() as pipeline:
            source = (fail_in('source', i) for i in range(1000))
            first = pipeline.ahead(lambda i: fail_in('first', i), source, threads=3)
            between = (fail_in('between', i) for i in first)
            for i in pipeline.ahead(lambda i: fail_in('second', i), between, threads=3):
                seen.append(fail_in('consumer', i))

    before = threading.active_count()
    with pytest.raises(RuntimeError, match=stage):
        run()
    assert seen == list(range(len(seen)))
    assert len(seen) <= 7
    assert threading.active_count() == before


def test_batches_hold_neighbours_of_equal_key() -> None:
    items = ['a1', 'a2', 'a3', 'b1', 'a4']
    assert list(batches(items, lambda _: 2, key=lambda item: item[0])) == [['a1', 'a2'], ['a3'], ['b1'], ['a4']]
    assert list(batches([], lambda _: 2, key=str)) == []


def test_recent_makes_each_value_once_and_forgets_the_oldest() -> None:
    made: list[str] = []
    lock = threading.Lock()

    def make(key: str) -> str:
        with lock:
            made.append(key)
        time.sleep(0.05)
        return key.upper()

    recent = Recent(2, make)
    with Pipeline() as pipeline:
        assert list(pipeline.ahead(recent.get, 'aaaabbbb', threads=8)) == list('AAAABBBB')
    assert sorted(made) == ['a', 'b']
    recent.get('a')
    recent.get('c')  # b is the oldest now
    recent.get('a')
    assert sorted(made) == ['a', 'b', 'c']
    recent.get('b')
    assert sorted(made) == ['a', 'b', 'b', 'c']


def test_recent_raises_to_everyone_who_asks() -> None:
    recent: Recent[int] = Recent(2, lambda key: 1 // key)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            recent.get(0)


def test_progress_prints_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common.console, 'PLAIN_LINE_SECONDS', 0.0)
    assert list(progress(range(3), 3, ' pictures')) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ['1/3', '2/3']
    assert 'per second' in lines[0]
    assert 'left' in lines[0]
    assert list(progress(range(3), 3, ' pictures', show=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ''


def test_a_value_that_failed_is_made_again() -> None:
    tries: list[int] = []

    def make(key: int) -> int:
        tries.append(key)
        return 1 // (len(tries) - 1)

    recent = Recent(2, make)
    with pytest.raises(ZeroDivisionError):
        recent.get(7)
    assert recent.get(7) == recent.get(7) == 1
    assert tries == [7, 7]


def test_batches_computed_side_by_side_keep_their_order_and_their_errors() -> None:
    meeting = threading.Barrier(3, timeout=60)  # three at once, or this breaks

    class Fake:
        def submit(self, srcs: list[torch.Tensor], plates: list[object], err: bool, ref: bool) -> str:
            number = int(srcs[0][0, 0])
            meeting.wait()
            time.sleep(0.02 * (2 - number % 3))
            if number == 4:
                raise ValueError('broken')
            return f'result {number}'

    fake: Any = Fake()
    plate: Any = None
    items = [
        PictureResult(Job(str(i), Path(f'{i}.jpg'), Path('plate.jpg')), inputs=(torch.full((1, 1), i), plate))
        for i in range(6)
    ]
    with Pipeline() as pipeline:
        done = list(compute(items, fake, 1, {'pha'}, partial(pipeline.ahead, threads=3)))
    assert [item.job.name for item, _, _ in done] == list('012345')
    assert [pending for _, pending, _ in done] == [f'result {i}' if i != 4 else None for i in range(6)]
    assert [item.error for item, _, _ in done] == [None] * 4 + ['4.jpg: broken', None]
    assert all(item.inputs is None for item, _, _ in done)


def test_threads_of_torch_are_set_for_new_threads_and_put_back() -> None:
    before, seen = torch.get_num_threads(), []
    with torch_threads(3):
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert seen == [3]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize('device', ['auto', 'cpu', 'cuda'])
def test_memory_is_kept_before_there_are_threads(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    calls: list[str] = []
    monkeypatch.setattr(inference_images, 'keep_memory', lambda: calls.append('keep'))

    def prepare(*_: object) -> None:
        calls.append('prepare')
        raise ValueError('enough')

    monkeypatch.setattr(inference_images, 'prepare', prepare)
    flags = '--model-type mattingbase --model-backbone resnet50 --model-checkpoint a --images-src a --images-bgr a'
    inference_images.main([*flags.split(), '--output-dir', 'out', '--output-types', 'pha', '--device', device])
    assert calls == ['keep', 'prepare']


def test_a_signal_within_a_pipeline_is_answered_between_two_items() -> None:
    done: list[int] = []

    def work(item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return item

    def consume() -> None:
        with Pipeline() as pipeline:
            for item in pipeline.ahead(work, range(1000), 1):
                try:
                    time.sleep(0.002)  # where a signal would strike, were it answered at once
                except KeyboardInterrupt:
                    pytest.fail('struck within a step')
                done.append(item)

    before = signal.getsignal(signal.SIGINT)
    try:
        with StopSignals() as signals, pytest.raises(KeyboardInterrupt):
            consume()
    finally:
        signal.signal(signal.SIGINT, before)
    assert signals.number == signal.SIGINT
    assert 3 <= len(done) < 20
    assert done == list(range(len(done)))


def test_a_signal_while_the_last_items_are_awaited_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with StopSignals(), pytest.raises(KeyboardInterrupt), Pipeline() as pipeline:
            next(pipeline.ahead(lambda _: os.kill(os.getpid(), signal.SIGINT), [0], 1))
    finally:
        signal.signal(signal.SIGINT, before)
    with Pipeline() as pipeline:  # nothing is left over
        assert list(pipeline.ahead(abs, [-1, -2], 1)) == [1, 2]
