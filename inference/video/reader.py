"""Reading videos by what they hold, not by what their headers claim.

Every frame that can be decoded comes once, in order and upright. A damaged file gives all that can be decoded, and one
line about the rest. Reading goes through PyAV, that is FFmpeg.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.stream import Disposition
from av.video.stream import VideoStream

from common.files import IMAGES
from dataset.video import container_order, deinterlaced
from inference.compositing import fitted

from .colour import Colour, to_rgb
from .containers import RECORDED, hardware_reason, holds_film, open_container, reason_of
from .settings import STDIN, Source

SLACK = Fraction(1, 2)  # seconds that a header may claim more than there is, before a file counts as cut
JUMP = Fraction(1, 2)  # seconds back in time from which on it is a new beginning, as in joined files, not disorder
LEAP = Fraction(3600)  # seconds forward in time from which on it is one, too: nobody waits so long for a frame
FILM = 3000  # packets of all tracks, until which each film among them has a second one; a still has none
MOST_ERRORS = 100  # errors of reading, one after the other, until the rest of a file is given up
INDEXED = {'mov,mp4,m4a,3gp,3g2,mj2', 'matroska,webm'}  # containers in which seeking lands where it should
RUN_UP = 10.0  # seconds before the time that is wanted: the first frames after a key frame can be incomplete
SETTLED = 1.0  # seconds of a video after which its length in frames is estimated by what was read of it


@dataclass(frozen=True)
class Frame:
    """One frame, of which `pixels` makes an upright picture."""

    index: int  # from 0, over the frames that could be decoded
    pts: int  # when it is shown, in units of the reader's time base; rises from frame to frame
    duration: int  # how long, in the same unit; by the frame rate where the file does not say

    def pixels(self, deep: bool = False) -> np.ndarray:
        """Return it as uint8 RGB (H, W, 3); uint16 if `deep`, but for pictures. Slow; any thread may call it."""
        raise NotImplementedError


@dataclass(frozen=True)
class VideoFrame(Frame):
    """One frame of a file."""

    decoded: av.VideoFrame
    colour: Colour  # of the video
    size: tuple[int, int]  # width and height of the video

    def pixels(self, deep: bool = False) -> np.ndarray:
        """Convert it to uint8 RGB (H, W, 3), uint16 if `deep`; scaled to the video's size where its own is another."""
        turns = _quarter_turns(self.decoded)
        pixels = to_rgb(self.decoded, self.colour, 'rgb48le' if deep else 'rgb24')
        return fitted(np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels, self.size)


class VideoReader:
    """A video file, read once from its beginning; iterate over it for its frames. Use it in a `with` block.

    Headers lie about the number of frames and their rate; nothing here depends on them but the estimate for a progress
    display. Times that the file lacks are made up by the frame rate, and where they jump, as in joined files, they go
    on from where they were.

    Args:
        path: of any format that FFmpeg reads; also a URL, or `STDIN`, in which nothing is sought.
        nvdec: let an NVIDIA GPU decode if its first frame is the CPU's to the bit; where it fails later, or a frame is
            damaged, the CPU goes on. Damage within a frame that the GPU conceals is not seen.
        gpu: the number of that GPU.
        deinterlace: make whole frames of interlaced ones, and say so.
        matrix: FFmpeg's number of the one by which the colours are stored; None for what the file says.

    Attributes:
        width, height: of the upright frames, in pixels.
        time_base: unit of the frames' times, in seconds.
        rate: frames per second on average, as the file says; 25 if it does not.
        colour: of the frames.
        origin: time at which the file begins, with sound or picture, in units of the time base; most begin at 0.
        pixel_aspect: width of a pixel by its height, upright.
        interlaced: whether its first frame or the container says so; later frames may be, too.
        note: why the GPU does not decode although it was to, or None.
        recorded: date, timecode of the first frame, place and camera, named as in `RECORDED`, as far as said.
        damage: once all frames were read, what was wrong with the file, in one line; else None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no video, or not one frame of it can be decoded.
    """

    def __init__(
        self,
        path: Source,
        nvdec: bool = False,
        gpu: int = 0,
        deinterlace: bool = True,
        matrix: int | None = None,
    ):
        self.path, self._gpu, self._deinterlace = path, gpu, deinterlace
        self.note: str | None = None
        if isinstance(path, Path) and not path.is_file():
            raise FileNotFoundError(f'{path}: no such file')
        try:
            self._container = open_container(path)
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(f'{path}: cannot be read as a video: {reason_of(error)}') from None
        if not holds_film(self._container):
            self.close()
            files = '' if isinstance(path, Path) else 'files of '
            raise ValueError(f'{path}: not a film, for which FFmpeg takes it; of pictures, {files}{IMAGES} are read')
        if not self._container.streams.video:
            self.close()
            raise ValueError(f'{path}: holds no video')
        self._stream = self._film()
        if self._stream.codec_context is None:
            self.close()
            raise ValueError(f'{path}: cannot be decoded: its codec is not known')
        # Several threads within a frame, but one frame at a time: several at a time would lose good frames at an error.
        self._stream.thread_type = 'SLICE'
        self.damage: str | None = None
        self._undecodable = self._corrupt = self._scaled = 0
        self._cut_off: str | None = None
        self._frames = self._decoded()
        first = next(self._frames, None)
        if first is None:
            self.close()
            hint = '; an MP4 file from a pipe must have its index first (faststart)' if path == STDIN else ''
            raise ValueError(f'{path}: no frame can be decoded{f": {self._cut_off}" if self._cut_off else ""}{hint}')
        self.time_base = Fraction(self._stream.time_base or Fraction(1, 1000))
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self._ahead = deque([first])  # decoded already
        self.colour = Colour.of(first, matrix)
        self.interlaced = bool(first.interlaced_frame or container_order(self._stream))
        self.width, self.height = self._stored = first.width, first.height
        self.pixel_aspect = Fraction(self._stream.sample_aspect_ratio or 1) or Fraction(1)
        if _quarter_turns(first) % 2:
            self.width, self.height = self.height, self.width
            self.pixel_aspect = 1 / self.pixel_aspect
        self._start = first.pts if first.pts is not None else first.dts or 0
        begin = Fraction(self._container.start_time or 0, av.time_base) / self.time_base
        self.origin = min(math.floor(begin), self._start)
        self._count, self._length = 0, Fraction(0)  # frames and seconds read so far
        said = (*self._container.metadata.items(), *self._stream.metadata.items())  # Matroska says TIMECODE
        names = {name.lower(): name for name in RECORDED}
        self.recorded = {names[key.lower()]: value for key, value in said if key.lower() in names}
        self._skipped = Fraction(0)  # seconds of gaps that were too long to be kept
        if nvdec and path == STDIN:
            self.note = f'{path}: NVDEC would read it twice, the CPU decodes'
        elif nvdec:
            self._use_nvdec(first)

    def _film(self) -> VideoStream:
        """Return the track that players show: the default one, else the first; but no still beside a film."""
        tracks = sorted(self._container.streams.video, key=lambda track: not track.disposition & Disposition.default)
        if len(tracks) == 1 or self.path == STDIN:
            return tracks[0]
        packets = dict.fromkeys((track.index for track in tracks), 0)
        with suppress(av.FFmpegError), open_container(self.path) as container:
            for packet in itertools.islice(container.demux(container.streams.video), FILM):
                packets[packet.stream_index] += bool(packet.size)
                if packets[tracks[0].index] > 1:
                    break
        return max(tracks, key=lambda track: packets[track.index] > 1)

    @property
    def expected(self) -> int | None:
        """About how many frames the file has, the better the more of it is read; None if nothing tells."""
        whole = Fraction(self._container.duration, av.time_base) if self._container.duration else None
        length = self._claimed or whole
        if length and self._length >= SETTLED:
            return max(self._count, round(self._count * length / self._length))
        return self._stream.frames or (round(length * self.rate) if length else None)

    @property
    def _claimed(self) -> Fraction | None:
        """For how many seconds the file claims to have pictures; None where it only says how long all of it is."""
        if self._stream.duration:
            # FFmpeg takes an AVI that was cut for as long as its part of the bytes; its number of frames stays.
            headed = self._stream.frames / self.rate if self._container.format.name == 'avi' else Fraction(0)
            return max(headed, self._stream.duration * self.time_base)
        end = _seconds(self._stream.metadata.get('DURATION', ''))  # Matroska's
        if end is None and len(self._container.streams) == 1 and self._container.duration:
            end = Fraction(self._container.duration + (self._container.start_time or 0), av.time_base)
        return None if end is None else end - self._start * self.time_base

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield the frames, once. One of another size than the first is scaled to it."""
        step = max(1, round(1 / (self.rate * self.time_base)))
        clock = _Clock(step, round(JUMP / self.time_base), min(round(LEAP / self.time_base), 2**30))
        frames = self._from_ahead()
        if self._deinterlace:
            frames = deinterlaced(frames, self._stream, self.path)
        for index, frame in enumerate(frames):
            pts = clock.time(frame.pts, frame.dts)
            duration = frame.duration or step
            self._count, self._length = index + 1, (pts - self._start + duration) * self.time_base
            self._skipped = max(0, -clock.offset) * self.time_base
            self._scaled += (frame.width, frame.height) != self._stored
            yield VideoFrame(index, pts, duration, frame, self.colour, (self.width, self.height))
        self.damage = self._damage()

    def peek(self, count: int) -> list[VideoFrame]:
        """Return the first frames, without their times, before any is read; they come again."""
        self._ahead.extend(itertools.islice(self._frames, max(0, count - len(self._ahead))))
        frames = itertools.islice(self._ahead, count)
        return [VideoFrame(0, 0, 0, frame, self.colour, (self.width, self.height)) for frame in frames]

    @property
    def scaled(self) -> str | None:
        """How many of the frames read so far were of another size than the first, in one line; None if none was."""
        if not self._scaled:
            return None
        return f'{self.path}: {self._scaled} frames are of another size, and scaled to {self.width}x{self.height}'

    def _from_ahead(self) -> Iterator[av.VideoFrame]:
        while self._ahead:
            yield self._ahead.popleft()  # and nothing holds it any longer
        yield from self._frames

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Yield all that the decoder makes of the file, and count errors."""
        packets = self._container.demux(self._stream)
        errors = 0
        while True:
            try:
                packet, errors = next(packets, None), 0
            except av.FFmpegError as error:
                self._cut_off, errors = reason_of(error), errors + 1
                packets = self._container.demux(self._stream)  # what comes after may be whole again
                if errors < MOST_ERRORS:
                    continue
                packet = None
            try:
                decoded = self._stream.codec_context.decode(packet) if packet is None else packet.decode()
            except EOFError:
                return  # the decoder was emptied before, by the packet that ends a file
            except av.FFmpegError:
                self._undecodable += 1
                decoded = []
            self._corrupt += bool(packet is not None and packet.is_corrupt) or any(x.is_corrupt for x in decoded)
            yield from decoded
            if packet is None:
                return

    def _use_nvdec(self, first: av.VideoFrame) -> None:
        frames = self._decoded_by_nvdec()
        try:
            found = next(frames, None)
            same = found is not None and np.array_equal(to_rgb(found, self.colour), to_rgb(first, self.colour))
            reason = None if same else 'its first frame is another'
        except (av.FFmpegError, RuntimeError, ValueError) as error:  # the second where it does not know the codec
            reason = hardware_reason(error)
        if reason is None:
            self._frames = _continued(frames, self._frames)
        else:
            self.note = f'{self.path}: NVDEC cannot decode it, the CPU does: {reason}'

    def _decoded_by_nvdec(self) -> Iterator[av.VideoFrame]:
        """Yield the frames of an undamaged file; raise a ValueError at the first damage that is seen."""
        accelerator = HWAccel('cuda', device=str(self._gpu), allow_software_fallback=False)
        with open_container(self.path, accelerator) as container:
            for packet in container.demux(container.streams[self._stream.index]):
                frames = cast(list[av.VideoFrame], packet.decode())
                if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
                    raise ValueError('it is damaged')
                yield from frames

    def _damage(self) -> str | None:
        found, claimed, headed = [], self._claimed, self._stream.frames
        # The header of an AVI counts repeated frames, too: only a file that is short in time as well is short.
        if claimed and self._length + self._skipped + SLACK < claimed:
            found.append(f'ends after {float(self._length):.1f} of {float(claimed):.1f} seconds')
        elif not claimed and self._count < headed:
            found.append(f'has {self._count} frames that can be decoded, its header claims {headed}')
        if self._undecodable:
            found.append(f'{self._undecodable} frames or parts of them cannot be decoded')
        if self._corrupt:
            found.append(f'{self._corrupt} frames are damaged')
        if self._cut_off and not found:
            found.append(f'cannot be read to its end: {self._cut_off}')
        return f'{self.path}: {"; ".join(found)}' if found else None

    def seek(self, seconds: float) -> bool:
        """Go to a frame some seconds before a time from the start of the video, if that saves time; return whether.

        Files differ in what they promise: look at the time of the frame that comes first.
        """
        aim = min(seconds, float(self._claimed or 0)) - RUN_UP
        if self._container.format.name not in INDEXED or aim < RUN_UP:
            return False
        try:
            self._container.seek(self._start + round(aim / self.time_base), stream=self._stream)
        except av.FFmpegError:
            return False
        self._frames = self._decoded()
        self._ahead = deque(itertools.islice(self._frames, 1))
        return True

    def packets(self) -> tuple[int, Fraction, bytes]:
        """Read the film without decoding; return the number of its packets, the last time and the last content."""
        with open_container(self.path) as container:
            count, last, content = 0, 0, b''
            for packet in container.demux(container.streams[self._stream.index]):
                if packet.size and packet.pts is not None:
                    count, last, content = count + 1, max(last, packet.pts), bytes(packet)
            return count, last * self.time_base, content

    def seconds(self, frame: Frame) -> float:
        """Return when a frame is shown, from the start of the video."""
        return float((frame.pts - self._start) * self.time_base)

    def close(self) -> None:
        """Release the file."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _continued(by_gpu: Iterator[av.VideoFrame], by_cpu: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Yield the frames of the one, and of the other from where the one fails; both have given the first already."""
    given = 0
    try:
        for frame in by_gpu:
            yield frame
            given += 1
    except (av.FFmpegError, ValueError):
        yield from itertools.islice(by_cpu, given, None)


class _Clock:
    """Clock that makes times rise, whatever a file says: by `step` where it has none.

    Farther back than `jump` and forward than `leap` is a new beginning.
    """

    def __init__(self, step: int, jump: int, leap: int):
        self._step, self._jump, self._leap = step, jump, leap
        self._last: int | None = None
        self.offset = 0
        # Whether the times of display or of decoding are in disorder more often; in AVI it is the former.
        self._pts, self._dts = _Disorder(), _Disorder()

    def time(self, pts: int | None, dts: int | None) -> int:
        """Return when a frame is shown whose packet has these times."""
        self._pts.add(pts)
        self._dts.add(dts)
        given = pts if dts is None or (pts is not None and self._pts.count <= self._dts.count) else dts
        if self._last is None:
            self._last = given or 0
            return self._last
        time = self._last + self._step if given is None else given + self.offset
        if not self._last - self._jump <= time <= self._last + self._leap:
            self.offset += self._last + self._step - time
            time = self._last + self._step
        self._last = max(time, self._last + 1)
        return self._last


class _Disorder:
    """Counter of times that did not rise."""

    def __init__(self) -> None:
        self.count = 0
        self._last: int | None = None

    def add(self, time: int | None) -> None:
        if time is not None:
            self.count += self._last is not None and time <= self._last
            self._last = time


def _seconds(text: str) -> Fraction | None:
    """Read '00:01:02.5' as 62.5."""
    match = re.fullmatch(r'(\d+):(\d+):(\d+(?:\.\d+)?)', text)
    return int(match[1]) * 3600 + int(match[2]) * 60 + Fraction(match[3]) if match else None


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Return how often to turn by 90 degrees, counter-clockwise."""
    return round(frame.rotation / 90) % 4
