"""The sound of a video, carried into the video made of it: copied packet by packet where the new container takes it.

The file is opened a second time for its sound alone, so that no sound waits in memory while a network is slow, and
reading frames and writing sound are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from io import BytesIO
from typing import cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Discard

from .containers import open_container, reason_of
from .reader import JUMP, LEAP
from .settings import Source

# Codecs that players understand in a container, which are fewer than it can hold.
PCM = {f'pcm_{kind}' for kind in ('s16le', 's16be', 's24le', 's24be', 's32le', 's32be', 'f32le', 'f32be')}
COPIED = {
    'mp4': {'aac', 'mp3', 'ac3', 'eac3', 'alac', 'opus', 'flac'},
    'mov': {'aac', 'mp3', 'ac3', 'eac3', 'alac'} | PCM,
    'webm': {'opus', 'vorbis'},
}
ENCODER = {'mp4': 'aac', 'mov': 'pcm_s16le', 'webm': 'libopus'}
FROM_ZERO = 'webm'  # has no times below 0, for which FFmpeg would delay the picture; the others hide what is early
BITS_PER_CHANNEL = 96_000  # per second, where it is encoded anew with loss


class AudioCopy:
    """Copy of a file's sound into a container, in step with the video.

    Times are kept. What the container does not take is encoded anew: AAC in MP4, PCM in QuickTime, Opus in WebM.
    Damaged sound never costs the video: what cannot be read is left out, and a note says so.

    Args:
        path: a file or URL with any number of audio streams, all of which are copied.
        output: the container, which gets a stream for each; its header must not be written yet.
        shift: seconds to add to all times.
    """

    def __init__(self, path: Source, output: OutputContainer, shift: Fraction = Fraction(0)):
        self.notes: list[str] = []  # to tell the user, one line each
        self._path, self._output, self._shift = path, output, shift
        self._input: InputContainer | None = None
        self._streams: dict[int, _Copied] = {}  # by the index of their source
        self._damaged = 0
        self._packets: Iterator[av.Packet] = iter(())
        self._waiting: tuple[Fraction, av.Packet] | None = None  # the next one, and when it begins
        try:
            self._input = open_container(path)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._note(f'cannot be read: {reason_of(error)}')
            return
        for stream in self._input.streams:
            if not isinstance(stream, AudioStream) or not self._add(stream):
                stream.discard = Discard.all
        if self._streams:
            self._packets = self._input.demux([self._input.streams[index] for index in self._streams])
            self._waiting = self._read()

    def _add(self, stream: AudioStream) -> bool:
        container = self._output.format.name
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else 'unknown'
        encoder = ENCODER[container]
        ways: list[Callable[[OutputContainer], _Copied]] = []
        if codec in COPIED[container]:
            ways.append(partial(_Copied, stream))
        if stream.codec_context:
            ways += [partial(_Encoded, stream, encoder, layout) for layout in (stream.layout.name, 'stereo')]
        for way in ways:
            if _works(way, container):
                self._streams[stream.index] = added = way(self._output)
                if isinstance(added, _Encoded):
                    self._note(f'{container} does not take {codec}: encoded anew with {encoder}')
                return True
        self._note(f'{codec} can be neither copied nor decoded: left out')
        return False

    def write_until(self, seconds: Fraction | None) -> None:
        """Write all that begins before a time, or all that there is; raise an OSError where that fails."""
        while self._waiting is not None and (seconds is None or self._waiting[0] < seconds):
            packet = self._waiting[1]
            self._waiting = self._read()
            self._mux(partial(self._streams[packet.stream_index].packets, packet))

    def finish(self, seconds: Fraction | None) -> None:
        """Write the rest, up to a time if one is given, as `write_until` does. Calling it again does nothing."""
        self.write_until(seconds)
        while self._streams:
            self._mux(self._streams.popitem()[1].rest)
        if self._damaged:
            self._note(f'{self._damaged} packets are damaged and left out')
            self._damaged = 0

    def _mux(self, make: Callable[[], list[av.Packet]]) -> None:
        try:
            packets = make()
        except (av.FFmpegError, ValueError):  # a decoder's error, which can look like the disk's
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
        """Read the next packet that can be written, its times shifted; return when it begins, in seconds, and it."""
        while True:
            try:
                packet = next(self._packets, None)
            except av.FFmpegError as error:
                self._note(f'ends early: {reason_of(error)}')
                return None
            if packet is None:
                return None
            if packet.size and self._shift_times(packet):  # an empty one marks the end of its stream
                return (packet.pts or 0) * Fraction(packet.time_base), packet

    def _shift_times(self, packet: av.Packet) -> bool:
        """Shift a packet's times; return whether it can be written then."""
        if packet.pts is None or packet.dts is None:
            self._damaged += 1
            return False
        stream = self._streams[packet.stream_index]
        if stream.last is None:
            stream.start = min(0, packet.pts)  # some codecs begin before 0, with samples that only start up the decoder
        shift = round(self._shift / packet.time_base) + stream.jumped
        if stream.last is not None:
            ahead = (packet.dts + shift - stream.last) * packet.time_base
            if not -JUMP <= ahead <= LEAP:
                # A new beginning, as in joined files: sound goes on from where it was, as the picture does.
                jump = stream.last + (packet.duration or 1) - (packet.dts + shift)
                stream.jumped, shift = stream.jumped + jump, shift + jump
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        if stream.last is not None and packet.dts < stream.last:
            self._damaged += 1
            return False
        stream.last = packet.dts
        return packet.pts >= stream.start or self._output.format.name != FROM_ZERO

    def _note(self, text: str) -> None:
        self.notes.append(f'{self._path}: sound: {text}')


class _Copied:
    """Stream whose packets are written as they are."""

    def __init__(self, source: AudioStream, output: OutputContainer):
        self.start = 0  # least time of a packet where the container has no times below 0
        self.jumped = 0  # what is added to the times since they jumped
        self.last: int | None = None  # time of the last packet, shifted
        self._stream = self._added(source, output)
        about = source.metadata
        self._stream.metadata.update({key: about[key] for key in ('language', 'title') if key in about})
        self._stream.disposition = source.disposition

    def _added(self, source: AudioStream, output: OutputContainer) -> AudioStream:
        return output.add_stream_from_template(source)

    def packets(self, packet: av.Packet) -> list[av.Packet]:
        packet.stream = self._stream
        return [packet]

    def rest(self) -> list[av.Packet]:
        return []


class _Encoded(_Copied):
    """Stream whose packets are decoded and encoded anew."""

    def __init__(self, source: AudioStream, encoder: str, layout: str, output: OutputContainer):
        self._encoder, self._layout, self._from_zero = encoder, layout, output.format.name == FROM_ZERO
        super().__init__(source, output)

    def _added(self, source: AudioStream, output: OutputContainer) -> AudioStream:
        rates = av.Codec(self._encoder, 'w').audio_rates
        rate = source.rate if not rates or source.rate in rates else 48_000
        stream = output.add_stream(self._encoder, rate=rate, layout=self._layout)
        assert isinstance(stream, AudioStream)
        stream.bit_rate = BITS_PER_CHANNEL * stream.layout.nb_channels
        stream.codec_context.open()
        return stream

    def packets(self, packet: av.Packet) -> list[av.Packet]:
        frames = cast(list[av.AudioFrame], packet.decode())
        wanted = (frame for frame in frames if not self._from_zero or (frame.pts or 0) >= 0)
        return [encoded for frame in wanted for encoded in self._stream.encode(frame)]

    def rest(self) -> list[av.Packet]:
        return self._stream.encode(None)


def _works(way: Callable[[OutputContainer], object], container: str) -> bool:
    """Try in memory whether a container takes a stream: a header that fails would cost the video."""
    try:
        trial = av.open(BytesIO(), 'w', format=container)
        way(trial)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    with suppress(av.FFmpegError):
        trial.close()
    return True
