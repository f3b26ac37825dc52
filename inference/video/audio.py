"""The sound of a video into the video made of it: copied packet by packet where the new container takes it.

The file is opened a second time for its sound alone, so that reading frames and writing sound need not know of each
other, and no sound waits in memory while a network is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Discard

from .reader import JUMP, LEAP, reason_of

# What players understand in a container, which is less than what the container can hold.
PCM = {f'pcm_{kind}' for kind in ('s16le', 's16be', 's24le', 's24be', 's32le', 's32be', 'f32le', 'f32be')}
COPIED = {
    'mp4': {'aac', 'mp3', 'ac3', 'eac3', 'alac', 'opus', 'flac'},
    'mov': {'aac', 'mp3', 'ac3', 'eac3', 'alac'} | PCM,
    'webm': {'opus', 'vorbis'},
}
ENCODER = {'mp4': 'aac', 'mov': 'pcm_s16le', 'webm': 'libopus'}
FROM_ZERO = 'webm'  # has no times below 0: FFmpeg would let the picture begin later; the others hide what is early
BITS_PER_CHANNEL = 96_000  # per second, where it is encoded anew with loss


class AudioCopy:
    """Carries the sound of a file into a container, in step with the video.

    Times are kept. What the container does not take is encoded anew: AAC in MP4, PCM in QuickTime, Opus in WebM.
    Damaged sound never costs the video: what cannot be read is left out, and a note says so.

    Args:
        path: a file with any number of audio streams; all are taken.
        output: gets a stream for each; its header must not be written yet.
        shift: seconds to add to all times.

    Attributes:
        notes: what a user should hear of, one line each.
    """

    def __init__(self, path: Path, output: OutputContainer, shift: Fraction = Fraction(0)):
        self.notes: list[str] = []
        self._path, self._output, self._shift = path, output, shift
        self._input: InputContainer | None = None
        self._channels: dict[int, _Copied | _Encoded] = {}
        self._bounds: dict[int, tuple[int, int | None]] = {}  # stream to its first time and its last packet's
        self._jumps: dict[int, int] = {}  # stream to what is added since its times jumped back
        self._damaged = 0
        self._packets: Iterator[av.Packet] = iter(())
        self._waiting: tuple[Fraction, av.Packet] | None = None  # the next one, and when it begins
        try:
            self._input = av.open(str(path.absolute()), metadata_errors='replace')
        except (av.FFmpegError, OSError, ValueError) as error:
            self._note(f'cannot be read: {reason_of(error)}')
            return
        for stream in self._input.streams:
            if not isinstance(stream, AudioStream) or not self._add(stream):
                stream.discard = Discard.all
        if self._channels:
            self._packets = self._input.demux([self._input.streams[index] for index in self._channels])
            self._waiting = self._read()

    def _add(self, stream: AudioStream) -> bool:
        container = self._output.format.name
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else 'unknown'
        encoder = ENCODER[container]
        ways: list[Callable[[OutputContainer], _Copied | _Encoded]] = []
        if codec in COPIED[container]:
            ways.append(partial(_Copied, stream))
        if stream.codec_context:
            ways += [partial(_Encoded, stream, encoder, layout) for layout in (stream.layout.name, 'stereo')]
        for way in ways:
            if _works(way, container):
                self._channels[stream.index] = channel = way(self._output)
                if isinstance(channel, _Encoded):
                    self._note(f'{container} does not take {codec}: encoded anew with {encoder}')
                return True
        self._note(f'{codec} can be neither copied nor decoded: left out')
        return False

    def write_until(self, seconds: Fraction | None) -> None:
        """Write all that begins before a time, or all that there is.

        Raises:
            OSError: the file cannot be written.
        """
        while self._waiting is not None and (seconds is None or self._waiting[0] < seconds):
            packet = self._waiting[1]
            self._waiting = self._read()
            self._mux(partial(self._channels[packet.stream_index].packets, packet))

    def finish(self, seconds: Fraction | None) -> None:
        """Write the rest; of that, where a time is given, what begins before it. The second time, nothing is left.

        Raises:
            OSError: the file cannot be written.
        """
        self.write_until(seconds)
        while self._channels:
            self._mux(self._channels.popitem()[1].rest)
        if self._damaged:
            self._note(f'{self._damaged} packets are damaged and left out')
            self._damaged = 0

    def _mux(self, make: Callable[[], list[av.Packet]]) -> None:
        try:
            packets = make()
        except (av.FFmpegError, ValueError):  # a decoder's, which can look like the disk's
            self._damaged += 1
            return
        try:
            self._output.mux(packets)
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, OSError):  # the disk, not the sound
                raise
            self._damaged += 1

    def close(self) -> None:
        """Release the file."""
        self._packets = iter(())
        if self._input:
            self._input.close()

    def _read(self) -> tuple[Fraction, av.Packet] | None:
        """The next packet that can be written, its times shifted, and when it begins, in seconds."""
        while True:
            try:
                packet = next(self._packets, None)
            except av.FFmpegError as error:
                self._note(f'ends early: {reason_of(error)}')
                return None
            if packet is None:
                return None
            if packet.size and self._shifted(packet):  # an empty one marks the end of its stream
                return (packet.pts or 0) * Fraction(packet.time_base), packet

    def _shifted(self, packet: av.Packet) -> bool:
        """Shift a packet's times; whether it can be written then."""
        if packet.pts is None or packet.dts is None:
            self._damaged += 1
            return False
        # Some codecs begin before 0, with samples for the decoder alone.
        start, last = self._bounds.get(packet.stream_index, (min(0, packet.pts), None))
        shift = round(self._shift / packet.time_base) + self._jumps.get(packet.stream_index, 0)
        time = packet.dts + shift
        if last is not None and not last - JUMP / packet.time_base <= time <= last + LEAP / packet.time_base:
            # A new beginning, as in joined files: it goes on from where it was, as the picture does.
            jump = last + (packet.duration or 1) - (packet.dts + shift)
            self._jumps[packet.stream_index] = self._jumps.get(packet.stream_index, 0) + jump
            shift += jump
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        if last is not None and packet.dts < last:
            self._damaged += 1
            return False
        self._bounds[packet.stream_index] = start, packet.dts
        return packet.pts >= start or self._output.format.name != FROM_ZERO

    def _note(self, text: str) -> None:
        self.notes.append(f'{self._path}: sound: {text}')


class _Copied:
    """Packets as they are."""

    def __init__(self, source: AudioStream, output: OutputContainer):
        self._stream = output.add_stream_from_template(source)
        _label(self._stream, source)

    def packets(self, packet: av.Packet) -> list[av.Packet]:
        packet.stream = self._stream
        return [packet]

    def rest(self) -> list[av.Packet]:
        return []


class _Encoded:
    """Packets decoded and encoded anew."""

    def __init__(self, source: AudioStream, encoder: str, layout: str, output: OutputContainer):
        rates = av.Codec(encoder, 'w').audio_rates
        rate = source.rate if not rates or source.rate in rates else 48_000
        stream = output.add_stream(encoder, rate=rate, layout=layout)
        assert isinstance(stream, AudioStream)
        stream.bit_rate = BITS_PER_CHANNEL * stream.layout.nb_channels
        stream.codec_context.open()
        _label(stream, source)
        self._stream, self._from_zero = stream, output.format.name == FROM_ZERO

    def packets(self, packet: av.Packet) -> list[av.Packet]:
        frames = cast(list[av.AudioFrame], packet.decode())
        wanted = (frame for frame in frames if not self._from_zero or (frame.pts or 0) >= 0)
        return [encoded for frame in wanted for encoded in self._stream.encode(frame)]

    def rest(self) -> list[av.Packet]:
        return self._stream.encode(None)


def _works(way: Callable[[OutputContainer], object], container: str) -> bool:
    """Whether a container takes a stream: tried in memory, since a header that fails would take the video along."""
    try:
        trial = av.open(BytesIO(), 'w', format=container)
        way(trial)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    with suppress(av.FFmpegError):
        trial.close()
    return True


def _label(stream: AudioStream, source: AudioStream) -> None:
    stream.metadata.update({key: source.metadata[key] for key in ('language', 'title') if key in source.metadata})
    stream.disposition = source.disposition
