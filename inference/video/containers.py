"""Files that hold films: what FFmpeg opens, what it says of errors, and the parts of which files consist."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import av.logging
from av.codec.hwaccel import HWAccel
from av.container import InputContainer

from .settings import STDIN, Source

DATED = ('creation_time', 'timecode')
PHONES = ('creationdate', 'location.ISO6709', 'make', 'model', 'software')
CAMERA = ('make', 'model', *(f'com.apple.quicktime.{word}' for word in PHONES))
RECORDED = (*DATED, 'location', *CAMERA)
# FFmpeg's names of what holds films. Others that it opens hold a still, of which it may decode one tile, or linear
# light as if it were none; or text.
FILMS = {
    'apng', 'apv', 'asf', 'asf_o', 'av1', 'avi', 'cavsvideo', 'cine', 'concat', 'dash', 'dirac', 'dnxhd', 'dv', 'evc',
    'flic', 'flv', 'gif', 'gxf', 'h261', 'h263', 'h264', 'hevc', 'hls', 'ivf', 'kux', 'lxf', 'm4v', 'matroska,webm',
    'mjpeg', 'mjpeg_2000', 'mlv', 'mov,mp4,m4a,3gp,3g2,mj2', 'mpeg', 'mpegts', 'mpegvideo', 'mpjpeg', 'mxf', 'mxg',
    'nsv', 'nut', 'nuv', 'obu', 'ogg', 'pva', 'r3d', 'rm', 'rtp', 'rtsp', 'sap', 'sdp', 'ser', 'swf', 'ty', 'vc1',
    'vvc', 'webm_dash_manifest', 'wtv', 'yuv4mpegpipe',
}  # fmt: skip
STILLS = ('hei', 'mif', 'avif')  # how the brands of HEIC and AVIF begin, which lie in a container of films
PATIENCE = 30.0  # seconds without an answer, until a URL is given up
RECONNECTING = {'reconnect': '1', 'reconnect_delay_max': '30'}  # servers drop whom they wait for, as for a slow GPU

av.logging.set_level(av.logging.PANIC)  # FFmpeg's lines would tear the progress display; what matters is said in one


def open_container(path: Source, accelerator: HWAccel | None = None) -> InputContainer:
    """Open what FFmpeg reads; raise its errors."""
    if isinstance(path, Path):
        return av.open(str(path.absolute()), metadata_errors='replace', hwaccel=accelerator)
    if path == STDIN:  # what writes it may take its time; from a file 'fd:', unlike 'pipe:', can seek
        return av.open('fd:', metadata_errors='replace', hwaccel=accelerator)
    return av.open(
        path, metadata_errors='replace', hwaccel=accelerator, timeout=PATIENCE, container_options=RECONNECTING
    )


def reason_of(error: Exception) -> str:
    """Return FFmpeg's own words alone."""
    if isinstance(error, av.ExitError):
        return f'no answer for {PATIENCE:g} seconds'
    return str(getattr(error, 'strerror', None) or error)


def hardware_reason(error: Exception) -> str:
    """Return what FFmpeg logged last, where its error is only the general 'Operation not permitted'."""
    logged = getattr(error, 'log', None)
    return logged[2].strip() if logged else reason_of(error)


def holds_film(container: InputContainer) -> bool:
    """Return whether a file is of a kind that holds films."""
    return container.format.name in FILMS and not container.metadata.get('major_brand', '').startswith(STILLS)


def ends_as_it_says(path: Path) -> bool:
    """Return whether a file ends with the last of its parts: boxes of MP4 and QuickTime, or elements of WebM."""
    with path.open('rb') as file:
        size, at = file.seek(0, os.SEEK_END), 0
        while at < size:
            file.seek(at)
            head = file.read(16).ljust(16, b'\0')
            if path.suffix == '.webm':  # the leading zeros of a name and of a length say how many bytes they have
                name = 9 - head[0].bit_length()
                length = 9 - head[min(name, 8)].bit_length()
                at += name + length + int.from_bytes(head[name : name + length]) % (1 << 7 * length)
            else:
                at += max(8, int.from_bytes(head[8:16] if head[:4] == b'\0\0\0\1' else head[:4]))
        file.seek(max(0, size - 16))
        return at == size and (path.suffix != '.webm' or any(file.read()))  # the others may end with silence


def add_boxes(path: Path, boxes: bytes) -> None:
    """Add boxes to the video of a QuickTime file whose index comes last: FFmpeg writes them, but PyAV cannot say so."""
    with path.open('r+b') as file:
        at, kind, size = 0, b'', 0
        while kind != b'moov':
            at = file.seek(at + size)
            size, kind = struct.unpack('>I4s', file.read(8))
            size = struct.unpack('>Q', file.read(8))[0] if size == 1 else size
        file.seek(at)
        index = file.read(size)
        file.seek(at)
        file.write(_with_boxes(index, [b'moov', b'trak', b'mdia', b'minf', b'stbl', b'stsd', b'ap4h'], boxes))


def _with_boxes(data: bytes, path: list[bytes], boxes: bytes) -> bytes:
    """Return boxes in which the first one at a path of nested ones has further ones at its end."""
    if not path:
        return data + boxes
    at = 0
    while (kind := data[at + 4 : at + 8]) != path[0]:
        at += struct.unpack_from('>I', data, at)[0]
    end = at + struct.unpack_from('>I', data, at)[0]
    head = 16 if kind == b'stsd' else 8
    inner = _with_boxes(data[at + head : end], path[1:], boxes)
    return data[:at] + struct.pack('>I', head + len(inner)) + data[at + 4 : at + head] + inner + data[end:]
