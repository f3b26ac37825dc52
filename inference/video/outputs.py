"""What becomes of a matted video: a video per type, or numbered pictures, with which a later run can go on."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from common.files import write_atomic
from inference.compositing import composite, cut_out
from inference.images.writer import PictureWriter
from inference.matte import Matte

from .stages import Shot
from .writer import ROOM, VideoWriter

RECORD = 'sequence.json'
GREEN = (120, 255, 155)  # what a composite stands on that has no background of its own, as published
Drawn = tuple[Shot, Any]


class Pictures:
    """Numbered pictures: `<folder>/<type>/000000.png`, ...

    Beside them lies `sequence.json` with the settings of the run, so that a run with the same ones goes on with a
    sequence that was cut: what is there is whole, and is kept. With other settings all is made anew.

    Args:
        writer: of the pictures. Its folder gets the record now.
        settings: all that the pictures follow from; anything JSON takes.
        on_target: `com` is the subject before a background, not a cut-out with alpha.

    Attributes:
        note: what to tell the user about pictures of an earlier run, or None.
        frames: how many are done, in order.
    """

    def __init__(self, writer: PictureWriter, settings: Mapping[str, Any], on_target: bool):
        self._writer, self._on_target, self.frames = writer, on_target, 0
        record = writer.folder / RECORD
        text = json.dumps(settings, indent=1, default=str)
        earlier = record.read_text(errors='replace') if record.is_file() else None
        self._resumes = earlier == text
        self.note = None
        if self._resumes:
            self.note = f'{writer.folder}: goes on with this sequence; pictures that are there are kept'
        elif earlier is not None:
            self.note = f'{writer.folder}: made with other settings, so all pictures are made anew'
        if not self._resumes:
            write_atomic(record, text.encode())
        self._since = record.stat().st_mtime_ns  # older pictures were made with other settings

    def done(self, index: int) -> bool:
        """Whether all pictures of a frame are there."""
        paths = [self._writer.path(kind, _name(index)) for kind in self._writer.formats]
        return self._resumes and all(path.is_file() and path.stat().st_mtime_ns >= self._since for path in paths)

    def draw(self, shot: Shot, matte: Matte) -> None:
        """Write a frame's pictures. Any thread may call it, in any order."""
        for kind in self._writer.formats:
            on_target = kind == 'com' and self._on_target
            picture = composite(matte, _backdrop(shot, matte)) if on_target else getattr(matte, kind)
            self._writer.write_picture(kind, _name(shot.index), picture)

    def encoders(self) -> list[Callable[[Drawn], Drawn]]:
        """Nothing is left to do in order, but to count."""
        return [self._count]

    def _count(self, drawn: Drawn) -> Drawn:
        self.frames += 1
        return drawn

    def finish(self, complete: bool) -> list[str]:
        """Every picture is whole already; says which others lie beside them."""
        names = {self._writer.path(kind, _name(i)) for kind in self._writer.formats for i in range(self.frames)}
        folders = [self._writer.folder / kind for kind in self._writer.formats]
        others = sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir() if path not in names)
        if not complete or not others:
            return []
        return [f'{self._writer.folder}: holds {len(others)} pictures that are not of this video, such as {others[0]}']


class Videos:
    """One video per type of output.

    Args:
        writers: by type. They are closed here.
        alpha: `com` is a cut-out with alpha, not the subject before a background.
    """

    note = None

    def __init__(self, writers: Mapping[str, VideoWriter], alpha: bool):
        self._writers, self._alpha = writers, alpha
        self._begun: deque[Drawn] = deque()  # some of their types are encoded, others not yet

    @property
    def frames(self) -> int:
        """How many every file has."""
        return min(writer.frames for writer in self._writers.values())

    def done(self, index: int) -> bool:
        """A video is made from its beginning."""
        del index
        return False

    def draw(self, shot: Shot, matte: Matte) -> dict[str, Any]:
        """The frames to encode, in the colours of each file. Any thread may call it, in any order."""
        return {kind: writer.prepared(self._picture(kind, shot, matte)) for kind, writer in self._writers.items()}

    def _picture(self, kind: str, shot: Shot, matte: Matte) -> np.ndarray:
        if kind != 'com':
            return getattr(matte, kind)
        return cut_out(matte) if self._alpha else composite(matte, _backdrop(shot, matte))

    def encoders(self) -> list[Callable[[Drawn], Drawn]]:
        """A stage for each file, to be run one after the other on a frame, each on a thread of its own, in order.

        They raise OSError: the file cannot be written.
        """
        return [partial(self._encode, kind) for kind in self._writers]

    def _encode(self, kind: str, drawn: Drawn) -> Drawn:
        shot, frames = drawn
        if len(frames) == len(self._writers):
            self._check_room()
            self._begun.append(drawn)
        self._writers[kind].write(frames.pop(kind), shot.pts, shot.duration)
        if not frames:
            self._begun.popleft()
        return drawn

    def _check_room(self) -> None:
        """Stop while the files can still be finished."""
        folder = next(iter(self._writers.values())).path.parent
        free = shutil.disk_usage(folder).free
        if free < ROOM * len(self._writers):
            raise OSError(f'{folder}: only {free / 1e6:.0f} MB are free; what was done is kept and plays')

    def finish(self, complete: bool) -> list[str]:
        """Close all files so that they play; returns what there is to tell about them.

        Args:
            complete: the video was written to its end; else its sound is cut, too.

        Raises:
            OSError: a file cannot be finished. All others are.
        """
        errors: list[OSError] = []
        notes: list[str] = []
        for shot, frames in [] if complete else self._begun:
            for kind in frames:  # all files end with the same frame
                with suppress(OSError, ValueError):
                    self._writers[kind].write(frames[kind], shot.pts, shot.duration)
        for writer in self._writers.values():
            try:
                writer.close(complete)
            except OSError as error:
                errors.append(error)
            notes += writer.notes
        if errors:
            raise errors[0]
        return list(dict.fromkeys(notes))


def _backdrop(shot: Shot, matte: Matte) -> np.ndarray:
    return np.full_like(matte.fgr, GREEN) if shot.target is None else shot.target


def _name(index: int) -> str:
    return f'{index:06d}'
