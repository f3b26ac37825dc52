"""Which files make a video's matte, what is written of it, and the formats of videos. Imports nothing slow."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeGuard

from common.console import some
from common.files import IMAGE_SUFFIXES, IMAGES

SEQUENCES = 'image_sequences'  # a folder of numbered pictures per type, in place of a format of videos
WORST_QUALITY = 51
DEFAULT_QUALITY = 18
DEFAULT_RATE = Fraction(25)  # of pictures that are frames, per second
NUMBER = re.compile(r'%0?\d*d')  # in the name of such pictures
MATRICES = {'bt601': 5, 'bt709': 1, 'bt2020': 9}  # FFmpeg's numbers by name
TIMES = 'timestamps.txt'  # beside pictures that are frames: when each is shown
STDIN = '-'
Source = Path | str  # a path; a URL, or `STDIN`, where it is text
NVIDIA_CODECS = ('decode', 'encode')  # what NVDEC and NVENC can do in place of the CPU


@dataclass(frozen=True)
class VideoFormat:
    """A format of video files and how it is encoded, in FFmpeg's names."""

    suffix: str
    muxer: str
    encoder: str
    options: dict[str, str]  # of the encoder
    pixels: str  # pixel format without alpha
    alpha_pixels: str | None  # with alpha; None where there is none
    worst: int | None  # the encoder's number for the worst quality; None if it has no such scale
    quality: str = 'crf'  # name of that number

    def encoder_options(self, quality: int) -> dict[str, str]:
        """Return the encoder's options for a quality of 0..`WORST_QUALITY`."""
        if self.worst is None:
            return self.options
        return {**self.options, self.quality: str(round(quality * self.worst / WORST_QUALITY))}


# Times are those of one core for a frame of 1920x1080.
# 30 ms; `medium`, FFmpeg's own choice, takes 90. B-frames would save 0 to 13 % at equal PSNR, but MP4 has durations in
# order of decoding, which with them do not add up to the length of the video and the duration of its last frame.
# It looks 4 frames ahead, which takes 40 MB of memory less than the preset's 10.
FAST_H264 = {'preset': 'veryfast', 'bf': '0', 'rc-lookahead': '4'}
H264 = VideoFormat('.mp4', 'mp4', 'libx264', FAST_H264, 'yuv420p', None, worst=51)
# One quantizer, whatever it costs: there is no constant rate factor.
NVENC = replace(
    H264, encoder='h264_nvenc', options={'preset': 'p4', 'profile': 'high', 'rc': 'constqp', 'bf': '0'}, quality='qp'
)
# 250 ms; 16 bits of alpha would hold nothing but the same levels.
PRORES = VideoFormat(
    '.mov', 'mov', 'prores_ks', {'profile': '4444', 'alpha_bits': '8'}, 'yuv444p10le', 'yuva444p10le', worst=None
)
# 40 ms, 60 with alpha; the deadline `good` takes seven times as long for files smaller by a tenth.
FAST_VP9 = {'deadline': 'realtime', 'cpu-used': '6', 'row-mt': '1', 'b': '0'}
WEBM = VideoFormat('.webm', 'webm', 'libvpx-vp9', FAST_VP9, 'yuv420p', 'yuva420p', worst=63)
FORMATS = {'video': H264, 'prores4444': PRORES, 'webm': WEBM}


@dataclass(frozen=True)
class VideoSettings:
    """Settings of a run over a video: the flags of inference_video.py, whose help says more."""

    video_src: Source
    video_bgr: Source | None  # None takes the plate from `video_src`
    video_bgr_time: float | None
    video_bgr_mode: str
    video_target_bgr: Path | None  # None for plain green, or alpha
    video_resize: Sequence[int] | None
    resize_bgr: bool
    preprocess_alignment: bool
    batch_size: int | None  # None leaves it to the device
    output_dir: Path
    output_format: str  # key of `FORMATS`, or `SEQUENCES`
    picture_formats: dict[str, str]  # each type of output that is written, and its format in a sequence
    video_quality: int
    audio: bool
    frame_rate: Fraction | None  # of pictures as source; None for `DEFAULT_RATE`
    deinterlace: bool
    video_matrix: str | None  # key of `MATRICES`; None for what the files say
    nvidia_codecs: Sequence[str]  # of `NVIDIA_CODECS`
    device: str
    png_compression: int
    skip_existing: bool
    jpeg_quality: int

    @staticmethod
    def from_options(options: Mapping[str, Any], picture_formats: dict[str, str]) -> VideoSettings:
        """Take the values of a command line, but for `picture_formats`."""
        values = {field.name: options[field.name] for field in fields(VideoSettings)}
        return VideoSettings(**values | {'picture_formats': picture_formats})

    @property
    def gpu(self) -> int:
        """The number of the GPU that `device` names; the first if it names none."""
        named = re.fullmatch(r'cuda:(\d+)', self.device)
        return int(named[1]) if named else 0


def video_paths(folder: Path, kinds: Sequence[str], file_format: str) -> dict[str, Path]:
    """Return the video file of each type of output."""
    return {kind: folder / f'{kind}{FORMATS[file_format].suffix}' for kind in kinds}


def as_source(text: str) -> Source:
    """Return a URL or `STDIN` as it is, and all else as a path."""
    return text if text == STDIN or re.match(r'[A-Za-z][\w+.-]+://', text) else Path(os.path.expanduser(text))


def is_picture(path: Source) -> bool:
    """Return whether a file is a picture, by its name."""
    return isinstance(path, Path) and path.suffix.lower() in IMAGE_SUFFIXES and not is_sequence(path)


def is_sequence(path: Source) -> TypeGuard[Path]:
    """Return whether a path means pictures that are frames: a folder of them, or a name such as `%05d.png`."""
    if not isinstance(path, Path):
        return False
    # Unlike pathlib's, these take names that are too long for the disk.
    return os.path.isdir(path) or (NUMBER.search(path.name) is not None and not os.path.isfile(path))


def sequence_paths(path: Path) -> list[Path]:
    """Return the pictures of a sequence by the numbers in their names.

    Raises:
        ValueError: there are none, two have one number, or of those named by number one within is missing.
    """
    from dataset.pairing import alike, natural_order

    folder = path if path.is_dir() else path.parent
    pictures = [entry for entry in folder.glob('[!.]*') if entry.suffix.lower() in IMAGE_SUFFIXES]
    if not path.is_dir():
        before, after = NUMBER.split(path.name, maxsplit=1)
        name = re.compile(rf'{re.escape(before)}\d+{re.escape(after)}')
        pictures = [entry for entry in pictures if name.fullmatch(entry.name)]
    if not pictures:
        raise ValueError(f'{path}: no such pictures ({IMAGES})')
    found = sorted(pictures, key=lambda entry: natural_order(entry.name))
    numbered = defaultdict(list)
    for entry in found:
        numbered[tuple(_numbers(entry))].append(entry)
    if same := [alike(entries) for entries in numbered.values() if len(entries) > 1]:
        raise ValueError(f'{path}: of one number, keep one of each: {some(same)}')
    if not path.is_dir() and (gaps := sequence_gaps(found)):
        raise ValueError(f'{path}: {gaps}')
    return found


def sequence_gaps(paths: Sequence[Path]) -> str | None:
    """Return how many numbers are missing between those of a sequence, in words; None if none is."""
    missing, first = 0, 0
    for names in itertools.pairwise(map(_numbers, paths)):
        match [turn for turn in itertools.zip_longest(*names) if turn[0] != turn[1]]:
            case [(int(before), int(after))] if after > before + 1:
                missing, first = missing + after - before - 1, first if missing else before + 1
    return f'{missing} of the pictures are missing, the first is number {first}' if missing else None


def _numbers(path: Path) -> list[str | int]:
    """Return the text and the numbers of a name by turns."""
    from dataset.pairing import natural_order

    return natural_order(path.stem)[0][0]
