"""The last stage of matting a video: a video file per type of output, or numbered pictures, which a later run resumes.

`PictureSequences` and `VideoFiles` have the same methods, of which a run calls `done` before a frame is computed,
`draw` after it, each of `writers` in order, and `finish` once.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.console import progress, to_json
from common.files import Disk, write_atomic
from inference.compositing import composite, cut_out, with_detail
from inference.images.writer import PictureWriter
from inference.matte import Matte
from inference.options import COLOURED_TYPES

from .colour import HDR, Colour
from .inputs import VideoInputs
from .pictures import open_video, written_times
from .reader import VideoReader
from .settings import SEQUENCES, STDIN, TIMES, VideoSettings, is_sequence, sequence_paths, video_paths
from .stages import FrameItem
from .writer import ROOM, VideoWriter, whole_extent

RECORD = 'sequence.json'
MILLISECOND = Fraction(1, 1000)  # the unit of WebM's times
GREEN = (120, 255, 155)  # behind the subject where there is neither a background nor alpha, as published
# Flags that decide where and how fast something is computed, or where it lands, and not what.
NOT_IN_PICTURES = (
    'device', 'compile', 'cuda_graphs', 'num_workers', 'batch_size', 'output_dir', 'overwrite', 'audio',
    'video_quality', 'nvidia_codecs', 'skip_existing',
)  # fmt: skip
NEWER = ('frame_rate', 'deinterlace', 'video_matrix')  # flags that older versions lack; left out where None
Drawn = tuple[FrameItem, Any]


def open_outputs(inputs: VideoInputs, flags: Mapping[str, Any]) -> PictureSequences | VideoFiles:
    """Open what is written of `inputs`.

    `flags` are all values of the command line, by name: a sequence is resumed if none has changed that shows in it.

    Raises:
        ValueError: the encoder refuses the size.
        OSError: the folder cannot be made.
    """
    settings, folder = inputs.settings, inputs.settings.output_dir
    on_target = settings.video_target_bgr is not None
    if settings.output_format == SEQUENCES:
        writer = PictureWriter(
            folder, settings.picture_formats, settings.png_compression, settings.jpeg_quality, settings.skip_existing
        )
        return PictureSequences(
            writer,
            _record({**flags, **_read_otherwise(inputs)}),
            on_target,
            inputs.reader.time_base,
            inputs.reader.origin,
        )
    alpha = settings.output_format in ('prores4444', 'webm') and not on_target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f'--output-dir {folder}: cannot be made: {error.strerror}') from error
    video_format, reader = settings.output_format, inputs.reader
    pictures = inputs.size, reader.time_base, reader.rate, reader.colour
    aspect = Fraction(1) if settings.video_resize else reader.pixel_aspect
    nvenc = 'encode' in settings.nvidia_codecs
    make = partial(
        VideoWriter, quality=settings.video_quality, pixel_aspect=aspect, origin=reader.origin,
        recorded=reader.recorded, nvenc=nvenc, gpu=settings.gpu,
    )  # fmt: skip
    sounding = None if is_sequence(settings.video_src) or settings.video_src == STDIN else settings.video_src
    writers: dict[str, VideoWriter] = {}
    with ExitStack() as opening:
        for kind, path in video_paths(folder, tuple(settings.picture_formats), video_format).items():
            audio = sounding if settings.audio and kind in COLOURED_TYPES else None
            video = make(path, video_format, *pictures, alpha=alpha and kind == 'com', audio=audio)
            writers[kind] = opening.enter_context(video)
        opening.pop_all()
    return VideoFiles(folder, writers, alpha)


def _read_otherwise(inputs: VideoInputs) -> dict[str, Any]:
    """Return what was said of these flags, or else found: how the video is read otherwise than by older versions."""
    settings, interlaced, matrix = inputs.settings, None, None
    if isinstance(reader := inputs.reader, VideoReader):
        interlaced = reader.interlaced or None
        other = reader.colour.matrix != Colour.of(reader.peek(1)[0].decoded).matrix
        matrix = reader.colour.matrix if other else None
    return {
        'deinterlace': interlaced if settings.deinterlace else False,
        'video_matrix': settings.video_matrix or matrix,
    }


def without_whole(settings: VideoSettings) -> tuple[VideoSettings, list[Path]]:
    """Leave out the types of output whose video is there as a whole; return what is left, and these files.

    Whole is a file of the source's number of frames and time of the last one, from its first byte to its last.
    """
    paths = video_paths(settings.output_dir, tuple(settings.picture_formats), settings.output_format)
    found = {kind: extent for kind, path in paths.items() if (extent := whole_extent(path))}
    whole: list[str] = []
    for given in _extents(settings, max(count for count, _ in found.values())) if found else ():
        whole = [kind for kind, own in found.items() if own[0] == given[0] and abs(own[1] - given[1]) < MILLISECOND]
        if whole:  # packets that one of them has are frames
            break
    left = {kind: value for kind, value in settings.picture_formats.items() if kind not in whole}
    return replace(settings, picture_formats=left), [paths[kind] for kind in whole]


def _extents(settings: VideoSettings, most: int) -> Iterator[tuple[int, Fraction]]:
    """Yield how many frames the source gives and when the last is shown: by its packets, and, slowly, as decoded.

    Of the latter, one more than `most` are enough.
    """
    with open_video(settings.video_src, settings.frame_rate, deinterlace=False) as reader:
        begin = reader.origin * reader.time_base
        if isinstance(reader, VideoReader):
            count, last, _ = reader.packets()
            yield count, last - begin
        compared = progress(itertools.islice(reader, most + 1), lambda: reader.expected, ' frames compared')
        times = [frame.pts for frame in compared]
        yield len(times), times[-1] * reader.time_base - begin


def losses(inputs: VideoInputs) -> list[str]:
    """Return what the source has and the outputs cannot have, one line each."""
    settings = inputs.settings
    found = []
    if settings.video_src == STDIN and settings.audio and settings.output_format != SEQUENCES:
        found.append(f'{STDIN}: standard input is read once, so its sound is left out')
    colour, keeps = inputs.reader.colour, 10 if settings.output_format == 'prores4444' else 8
    lost = [f'{colour.bits} bit become {keeps}'] if colour.bits > keeps else []
    if transfer := HDR.get(colour.transfer):
        tags = 'pictures are not labelled so' if settings.output_format == SEQUENCES else 'labelled so'
        lost.append(
            f'its {transfer} is kept as it is, {tags}, and what is set behind the subject is not converted to it'
        )
        lost += ['its mastering data are left out'] if colour.light and keeps == 8 else []
    if lost:
        best = '' if keeps == 10 else '; --output-format prores4444 keeps 10 bit and mastering data'
        found.append(f'{settings.video_src}: {"; ".join(lost)}{best}')
    return found


def _record(flags: Mapping[str, Any]) -> str:
    """Return what pictures follow from, as JSON: flags, and the files they name by size and time of change."""
    # A flag that older versions lack is left out where it changes nothing, so that a sequence of theirs goes on.
    kept = {name: value for name, value in flags.items() if name not in NOT_IN_PICTURES}
    kept = {name: value for name, value in kept.items() if name not in NEWER or value is not None}
    for name, value in kept.items():
        if name in ('video_src', 'video_bgr') and isinstance(value, str):
            kept[name] = [value, time.time_ns()]  # it may be another film each time
        elif isinstance(value, Path):
            stats = [path.stat() for path in (sequence_paths(value) if is_sequence(value) else [value])]
            size, changed = sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)
            kept[name] = [str(value.resolve()), size, changed]
    return to_json(kept)


class PictureSequences:
    """Numbered pictures: `<folder>/<type>/000000.png`, ...

    With each type lies `timestamps.txt`, which says when each is shown. Beside the types lies `sequence.json` with the
    settings of the run, so that a run with the same ones goes on with a sequence that was cut: what is there is whole,
    and is kept. With other settings all is made anew, unless `pictures` keeps what is whole.

    Args:
        pictures: writes them. The folder gets the record now.
        record: all that the pictures follow from.
        on_target: `com` is the subject before a background, not a cut-out with alpha.
        time_base: unit of the frames' times, in seconds.
        origin: the time that becomes 0.

    Attributes:
        note: what to tell the user about pictures of an earlier run, or None.
        frames: how many are done, in order.
    """

    def __init__(self, pictures: PictureWriter, record: str, on_target: bool, time_base: Fraction, origin: int):
        self._time_base, self._times, self._origin = time_base, [0], origin
        self.folder, self.kinds, self.frames = pictures.folder, tuple(pictures.formats), 0
        self._pictures, self._on_target = pictures, on_target
        path = self.folder / RECORD
        earlier = path.read_text(errors='replace') if path.is_file() else None
        self._resumes = earlier == record and not pictures.keep
        self.note = None
        if self._resumes:
            self.note = f'{self.folder}: goes on with this sequence; pictures that are there are kept'
        elif earlier != record:
            write_atomic(path, record.encode())
            if earlier is not None and not pictures.keep:
                self.note = f'{self.folder}: made with other settings, so all pictures are made anew'
        self._since = path.stat().st_mtime_ns  # older pictures were made with other settings

    def _path(self, kind: str, index: int) -> Path:
        return self._pictures.path(kind, _name(index))

    def done(self, index: int) -> bool:
        """Return whether all pictures of a frame are there."""
        if self._pictures.keep:
            return not self._pictures.waits_for(_name(index))
        paths = [self._path(kind, index) for kind in self.kinds]
        return self._resumes and all(path.is_file() and path.stat().st_mtime_ns >= self._since for path in paths)

    def draw(self, item: FrameItem, matte: Matte) -> None:
        """Write a frame's pictures. Any thread may call it, in any order."""
        lost = self._pictures.lost(item.path)
        for kind in self.kinds:
            on_target = kind == 'com' and self._on_target
            picture = _before_target(item, matte) if on_target else getattr(matte, kind)
            self._pictures.write_picture(kind, _name(item.index), picture, lost=None if on_target else lost)

    def writers(self) -> list[Callable[[Drawn], Drawn]]:
        """Return a stage that counts: nothing else is left to do in order."""
        return [self._count]

    def _count(self, drawn: Drawn) -> Drawn:
        self.frames += 1
        begin = drawn[0].pts - self._origin
        self._times[-1:] = [begin, begin + drawn[0].duration]  # the last one ends the last frame
        return drawn

    def finish(self, complete: bool) -> list[str]:
        """Write when each picture is shown; return which others lie in the folders. This run's are whole already."""
        times = written_times(time * self._time_base for time in self._times)
        for path in (self.folder / kind / TIMES for kind in self.kinds if self.frames):
            earlier = path.read_bytes() if path.is_file() and (self._resumes or self._pictures.keep) else b''
            if complete or earlier.count(b'\n') < times.count(b'\n'):  # else an earlier run came farther
                write_atomic(path, times)
        names = {self._path(kind, i) for kind in self.kinds for i in range(self.frames)}
        others = sorted(
            path
            for kind in self.kinds
            for path in (self.folder / kind).glob('*')
            if path not in names and path.name != TIMES
        )
        if not complete or not others:
            return []
        return [f'{self.folder}: holds {len(others)} pictures that are not of this video, such as {others[0]}']


class VideoFiles:
    """One video per type of output; its writer is closed here.

    With `alpha`, `com` is a cut-out with alpha, not the subject before a background.
    """

    def __init__(self, folder: Path, writers: Mapping[str, VideoWriter], alpha: bool):
        self.note = '\n'.join(writer.note for writer in writers.values() if writer.note) or None
        self.folder, self.kinds = folder, tuple(writers)
        self._writers, self._alpha = writers, alpha
        self._begun: deque[Drawn] = deque()  # some of their types are encoded, others not yet

    @property
    def frames(self) -> int:
        """How many frames every file has."""
        return min(writer.frames for writer in self._writers.values())

    def done(self, index: int) -> bool:
        """Return False: a video is always made from its beginning."""
        del index
        return False

    def draw(self, item: FrameItem, matte: Matte) -> dict[str, Any]:
        """Return the frames to encode, in the colours of each file. Any thread may call it, in any order."""
        return {kind: writer.prepared(self._picture(kind, item, matte)) for kind, writer in self._writers.items()}

    def _picture(self, kind: str, item: FrameItem, matte: Matte) -> np.ndarray:
        if item.deep is not None and kind in COLOURED_TYPES:
            matte = replace(matte, fgr=with_detail(matte.fgr, item.deep))
        if kind != 'com':
            return getattr(matte, kind)
        return cut_out(matte.pha, matte.fgr) if self._alpha else _before_target(item, matte)

    def writers(self) -> list[Callable[[Drawn], Drawn]]:
        """Return a stage for each file, to be run one after the other on a frame, on a thread each, in order."""
        return [partial(self._encode, kind) for kind in self._writers]

    def _encode(self, kind: str, drawn: Drawn) -> Drawn:
        item, frames = drawn
        if len(frames) == len(self._writers):
            free = Disk().free(self.folder)
            if free < ROOM * len(self._writers):  # stop while the files can still be finished
                raise OSError(f'{self.folder}: only {free / 1e6:.0f} MB are free; what was done is kept and plays')
            self._begun.append(drawn)
        self._writers[kind].write(frames.pop(kind), item.pts, item.duration)
        if not frames:
            self._begun.popleft()
        return drawn

    def finish(self, complete: bool) -> list[str]:
        """Close all files so that they play, with their sound cut if not `complete`; return what to tell about them.

        Raises:
            OSError: a file cannot be finished. All others are.
        """
        errors: list[OSError] = []
        notes: list[str] = []
        for item, frames in [] if complete else self._begun:
            for kind in frames:  # all files end with the same frame
                with suppress(OSError, ValueError):
                    self._writers[kind].write(frames[kind], item.pts, item.duration)
        for writer in self._writers.values():
            try:
                writer.close(complete)
            except OSError as error:
                errors.append(error)
            notes += writer.notes
        if errors:
            raise errors[0]
        return list(dict.fromkeys(notes))


def _before_target(item: FrameItem, matte: Matte) -> np.ndarray:
    return composite(
        matte.pha, matte.fgr, np.full((*matte.pha.shape, 3), GREEN, np.uint8) if item.target is None else item.target
    )


def _name(index: int) -> str:
    return f'{index:06d}'
