"""How make_testset.py ends where it cannot finish: one line, no half file, nothing that could pass for a set."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from support.pictures import noise, save
from support.testset_case import make, make_sources, refusal, script

from evaluation.testset import compose
from evaluation.testset.layout import find_testset


@pytest.fixture
def sources(tmp_path):
    return make_sources(tmp_path / 'in')


@pytest.fixture
def stoppable():
    """Signals are answered again afterwards, which a stopped script leaves ignored."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_damaged_picture_stops_it_and_leaves_no_test_set(sources, tmp_path, capsys):
    path = sources.fgr / 'zoe.png'
    path.write_bytes(path.read_bytes()[:-600])  # the header is whole
    out = make(tmp_path / 'out', replace(sources, fgr=sources.pha))
    assert script(sources, out, '-y') == 1
    assert 'zoe.png: cannot be read' in capsys.readouterr().err
    assert not list(out.rglob('.*.tmp'))
    with pytest.raises(ValueError, match='an unfinished test set'):
        find_testset(out)
    save(path, noise(31, 33, 3))
    assert script(sources, out, '-y') == 0
    assert len(find_testset(out)) == 3
    assert not (out / 'manifest.unfinished').exists()


def test_a_full_disk_is_one_line(sources, tmp_path, capsys, monkeypatch):
    def full(self, data):
        if self.parent.name == 'trimap':
            write(self, data[:20])
            raise OSError(28, 'No space left on device')
        return write(self, data)

    write = Path.write_bytes
    monkeypatch.setattr(Path, 'write_bytes', full)
    assert script(sources, tmp_path / 'out') == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'cannot be written: No space left on device' in error
    assert not list((tmp_path / 'out').rglob('.*'))
    assert not (tmp_path / 'out/trimap/ann-00.png').exists()


@pytest.mark.usefixtures('stoppable')
def test_a_stop_ends_a_long_clip_at_its_next_picture(sources, tmp_path, capsys, monkeypatch):
    written = []

    def interrupting(path, data):
        if path.parent.name == 'ann-00':
            written.append(path)
            if len(written) == 1:
                os.kill(os.getpid(), signal.SIGINT)
        return write(path, data)

    write = compose.write_atomic
    monkeypatch.setattr(compose, 'write_atomic', interrupting)
    assert script(sources, tmp_path / 'out', '--clip-frames', 3000) == 130
    assert 'stopped' in capsys.readouterr().err
    assert 0 < len(written) < 500
    assert not (tmp_path / 'out/manifest.json').exists()


@pytest.mark.usefixtures('stoppable')
def test_a_stop_in_the_last_picture_leaves_no_test_set(sources, tmp_path, monkeypatch):
    def interrupting(path, data):
        if path.name == 'ann-00.png' and path.parent.name == 'src':
            os.kill(os.getpid(), signal.SIGINT)
        return write(path, data)

    write = compose.write_atomic
    monkeypatch.setattr(compose, 'write_atomic', interrupting)
    assert script(sources, tmp_path / 'out', '--limit', 1) == 130
    with pytest.raises(ValueError, match='an unfinished test set'):
        find_testset(tmp_path / 'out')


def test_a_name_that_is_too_long_is_one_line(sources, capsys):
    error = refusal(capsys, sources, 'x' * 300)
    assert error.count('\n') == 1
    assert 'File name too long' in error


@pytest.mark.parametrize(
    'error', [MemoryError('Unable to allocate 9 GiB'), cv2.error('(-4:Insufficient memory) Failed to allocate 9 bytes')]
)
def test_too_little_memory_is_one_line(sources, tmp_path, capsys, monkeypatch, error):
    def failing(*_):
        raise error

    monkeypatch.setattr(compose, 'disturbed', failing)
    assert script(sources, tmp_path / 'out') == 1
    message = capsys.readouterr().err
    assert message.startswith('error: stopped, so this is no test set yet: too little memory: ')
    assert message.count('\n') == 1
