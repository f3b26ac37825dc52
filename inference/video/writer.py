"""Writing videos: H.264, ProRes 4444 or VP9, at the times that the source's frames had, with its sound.

with VideoWriter(path, 'video', (1920, 1080), time_base, rate, colour, audio=source) as writer:
    for pixels, pts in frames:
        writer.write(writer.prepared(pixels), pts)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext

from common.devices import cores
from common.files import unfinished_name, unlink_quietly

from .audio import AudioCopy
from .colour import Colour, to_frame
from .containers import CAMERA, DATED, RECORDED, add_boxes, ends_as_it_says, hardware_reason, reason_of
from .reader import VideoReader
from .settings import DEFAULT_QUALITY, FORMATS, H264, NVENC, PRORES, WORST_QUALITY, Source, VideoFormat

LONGEST = 2**30  # units of the time base that the last frame may last: MP4 has 31 bits for it
ROOM = 2**26  # bytes that finishing a file takes at most: its index, and the frames that the encoder holds back


class VideoWriter:
    """Video file that is written frame by frame.

    It is written under a hidden name in the same folder and gets its own name when it is closed, in place of an older
    file of that name. Leaving the `with` block closes it, whatever the reason: what was written until then is kept and
    plays. Without a frame there is no file, nor where writing failed, for without its end a file does not play: leave
    `ROOM` on the disk. Killing the process leaves the hidden file.

    Frames are shown at the source's times, exactly, but in WebM, which counts milliseconds.

    A `KeyboardInterrupt` within a method can cost the file; in an `inference.pipeline.Pipeline` none comes there.

    Args:
        path: of the file. Its folder is made with the first frame.
        video_format: key of `settings.FORMATS`; its suffix is the one that the path should have.
        size: width and height of the frames. Where a side is odd, H.264, which has colour for pairs of pixels only,
            repeats the last column or row.
        time_base: unit of the frames' times, in seconds.
        rate: frames per second on average.
        colour: of the file. ProRes cannot be labelled with full range and is always limited.
        alpha: the frames are RGBA.
        quality: 0..51, smaller is better and larger: the constant rate factor of H.264, where 0 is lossless and few
            players show it; scaled to 0..63 for VP9. ProRes has one quality.
        pixel_aspect: width of a pixel by its height; WebM is written without.
        audio: the file or URL whose sound goes along, all its streams.
        origin: the source's time that becomes 0 here, for picture and sound, in units of the time base.
        recorded: date, timecode, place and camera, as the source's reader has them; WebM gets the first two.
        nvenc: encode H.264 on an NVIDIA GPU if that can be; its quality is a constant quantizer.
        gpu: the number of that GPU.

    Attributes:
        frames: how many were written.
        note: why NVENC does not encode although it was to, or None.

    Raises:
        ValueError: the format knows no alpha, the quality is out of range, or the encoder refuses the size.
    """

    def __init__(
        self,
        path: Path,
        video_format: str,
        size: tuple[int, int],
        time_base: Fraction,
        rate: Fraction,
        colour: Colour,
        alpha: bool = False,
        quality: int = DEFAULT_QUALITY,
        pixel_aspect: Fraction = Fraction(1),
        audio: Source | None = None,
        origin: int = 0,
        recorded: Mapping[str, str] | None = None,
        nvenc: bool = False,
        gpu: int = 0,
    ):
        self.path, self.frames = path, 0
        self.note: str | None = None
        self._format = FORMATS[video_format]
        pixel_format = self._format.alpha_pixels if alpha else self._format.pixels
        if pixel_format is None:
            raise ValueError(f'{path}: {video_format} has no alpha; choose one of webm, prores4444')
        if not 0 <= quality <= WORST_QUALITY:
            raise ValueError(f'{path}: a quality of {quality}; 0..{WORST_QUALITY} is allowed')
        self._shape, self._alpha, self._pixel_format = size[::-1], alpha, pixel_format
        self._colour = replace(colour, full_range=False) if self._format is PRORES else colour
        self._time_base, self._origin = time_base, origin
        self._light = colour.light if self._format is PRORES else b''
        self._usual = max(1, round(1 / (rate * time_base)))  # duration of a frame
        self._held: av.VideoFrame | None = None  # the last one; it is encoded with the next, which tells its duration
        self._end = 0  # of the last one
        self._closed = False
        kept = DATED if self._format.muxer == 'webm' else RECORDED
        self._recorded = {key: value for key, value in (recorded or {}).items() if key in kept}
        self._unfinished = unfinished_name(path.absolute())
        nvidia = replace(NVENC, options={**NVENC.options, 'gpu': str(gpu)})
        for encoding in (nvidia, self._format) if nvenc else (self._format,):
            try:
                self._container, self._encoder = self._opened(encoding, rate, quality, pixel_aspect)
                break
            except (av.FFmpegError, ValueError) as error:  # the latter where this FFmpeg was built without it
                if encoding is not nvidia:
                    reason = f'{encoding.encoder} cannot encode {size[0]}x{size[1]} pixels: {reason_of(error)}'
                    raise ValueError(f'{path}: {reason}') from None
                self.note = f'{path}: NVENC cannot encode it, the CPU does: {hardware_reason(error)}'
        self._container.metadata.update(self._recorded)
        self._audio = AudioCopy(audio, self._container, -origin * time_base) if audio else None

    def _opened(
        self, encoding: VideoFormat, rate: Fraction, quality: int, pixel_aspect: Fraction
    ) -> tuple[OutputContainer, VideoCodecContext]:
        named = not self._recorded.keys().isdisjoint(CAMERA)
        flags = {'faststart': not self._light, 'use_metadata_tags': named}
        container = _container(self._unfinished, encoding.muxer, self._time_base, flags)
        try:
            return container, self._added(container, encoding, rate, quality, pixel_aspect)
        except BaseException:
            container.close()
            raise

    def _added(
        self,
        container: OutputContainer,
        encoding: VideoFormat,
        rate: Fraction,
        quality: int,
        pixel_aspect: Fraction,
    ) -> VideoCodecContext:
        options = encoding.encoder_options(quality)
        encoder = container.add_stream(encoding.encoder, rate=rate, options=options).codec_context
        assert isinstance(encoder, VideoCodecContext)
        height, width = self._shape
        encoder.width, encoder.height = (side + side % 2 if self._format is H264 else side for side in (width, height))
        encoder.pix_fmt, encoder.time_base = self._pixel_format, self._time_base
        encoder.sample_aspect_ratio = pixel_aspect
        encoder.colorspace, encoder.color_range = self._colour.matrix, self._colour.range
        encoder.color_primaries, encoder.color_trc = self._colour.primaries, self._colour.transfer
        encoder.thread_count = max(1, cores() // 2)  # each holds frames; of themselves they are 1.5 per core, and file
        encoder.thread_type = 'AUTO'  # PyAV's default is threads within a frame: x264 gets worse, ProRes has but one
        encoder.flags |= Flags.frame_duration  # else every frame lasts 1 / rate
        encoder.open()
        return encoder

    @property
    def notes(self) -> list[str]:
        """What to tell the user about the sound, one line each. Grows until the file is closed."""
        return self._audio.notes if self._audio else []

    def prepared(self, pixels: np.ndarray) -> av.VideoFrame:
        """Convert a picture to a frame in the file's colours. Any thread may call it, in any order.

        The picture is uint8 RGB (H, W, 3) or grey (H, W); with alpha, RGBA (H, W, 4). ProRes takes uint16, too.
        """
        allowed = [(*self._shape, 4)] if self._alpha else [(*self._shape, 3), self._shape]
        depths = [np.uint8, np.uint16] if self._format is PRORES else [np.uint8]
        if pixels.dtype not in depths or pixels.shape not in allowed:
            expected = ' or '.join(map(str, allowed))
            raise ValueError(f'{self.path}: a frame of {pixels.dtype} {pixels.shape}, expected uint8 {expected}')
        height, width = self._shape
        if self._format is H264 and (height % 2 or width % 2):
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0))[: pixels.ndim], 'edge')
        return to_frame(pixels, self._pixel_format, self._colour)

    def write(self, frame: av.VideoFrame, pts: int, duration: int = 0) -> None:
        """Encode a frame.

        Args:
            frame: made by `prepared`.
            pts: when it is shown, in units of the time base; from the origin on, and later than the last one.
            duration: how long it is shown if it is the last one; 0 if unknown. Others last until the next one.

        Raises:
            ValueError: the time does not rise, or the file is closed.
            OSError: the file cannot be written. The message names it; nothing is left of it.
        """
        if self._closed:
            raise ValueError(f'{self.path}: is closed')
        least = self._origin if self._held is None else self._origin + cast(int, self._held.pts) + 1
        if pts < least:
            raise ValueError(f'{self.path}: a frame at {pts}, expected {least} or later')
        frame.pts, frame.time_base = pts - self._origin, self._time_base
        with self._naming_errors():
            if self._held is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            else:
                self._encode(self._held, until=frame.pts)
            self._held, self._end = frame, frame.pts + min(duration or self._usual, LONGEST)
            self.frames += 1

    def _encode(self, frame: av.VideoFrame, until: int) -> None:
        frame.duration = until - cast(int, frame.pts)
        self._container.mux(self._encoder.encode(frame))
        if self._audio:
            self._audio.write_until(until * self._time_base)

    def close(self, complete: bool = True) -> None:
        """Finish the file and give it its name. Does nothing where that is done already.

        All of the sound goes along if `complete`; else what begins after the end of the last frame is left out.
        """
        if self._closed:
            return
        if self._held is not None:
            with self._naming_errors():
                self._encode(self._held, until=self._end)
                self._container.mux(self._encoder.encode(None))
                if self._audio:
                    self._audio.finish(None if complete else self._end * self._time_base)
                self._container.close()
                if self._light:
                    add_boxes(self._unfinished, self._light)
                os.replace(self._unfinished, self.path)
        self._release()

    def _release(self) -> None:
        self._closed = True
        if self._audio:
            self._audio.close()
        with suppress(av.FFmpegError, OSError):
            self._container.close()
        unlink_quietly(self._unfinished)

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._release()
            raise OSError(f'{self.path}: cannot be written: {reason_of(error)}') from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(complete=kind is None)


def _container(path: Path, muxer: str, time_base: Fraction, flags: Mapping[str, bool]) -> OutputContainer:
    options: dict[str, str] = {}
    if muxer != 'webm':
        # The offset of a track from the file's start is in the file's units, by default milliseconds: take the
        # video's, as fine as it needs to be for the sound.
        units = time_base.denominator
        fine = units * -(-10_000 // units)
        chosen = ''.join(f'+{flag}' for flag, is_set in flags.items() if is_set)
        options = {'movflags': chosen} if chosen else {}
        options |= {'video_track_timescale': str(units), 'movie_timescale': str(fine)}
    return av.open(str(path), 'w', format=muxer, container_options=options)


def whole_extent(path: Path) -> tuple[int, Fraction] | None:
    """Return the number of a video's frames and when the last is shown, in seconds; None where it is not whole.

    The video is one that a `VideoWriter` wrote; copying and power cuts leave parts, and zeros in place of data.
    """
    try:
        if not ends_as_it_says(path):
            return None
        with VideoReader(path, deinterlace=False) as reader:
            count, last, tail = reader.packets()
    except (av.FFmpegError, OSError, ValueError):
        return None
    return (count, last) if any(tail) else None
