"""Which files make a video's matte, what is written of it, and the formats of videos. Imports nothing slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

SEQUENCES = 'image_sequences'  # a folder of numbered pictures per type, in place of a format of videos
WORST_QUALITY = 51
DEFAULT_QUALITY = 18


@dataclass(frozen=True)
class VideoFormat:
    """A format of video files and how it is encoded, in FFmpeg's names.

    Attributes:
        suffix, muxer: of the file.
        encoder, options: of the frames.
        pixels, alpha_pixels: pixel formats without and with alpha; None where there is no alpha.
        worst: the encoder's number for the worst quality; None if it has no such scale.
    """

    suffix: str
    muxer: str
    encoder: str
    pixels: str
    alpha_pixels: str | None
    options: dict[str, str]
    worst: int | None

    def encoder_options(self, quality: int) -> dict[str, str]:
        """Return the encoder's options for a quality of 0..`WORST_QUALITY`."""
        if self.worst is None:
            return self.options
        return {**self.options, 'crf': str(round(quality * self.worst / WORST_QUALITY))}


# Times are those of one core for a frame of 1920x1080.
H264 = VideoFormat(
    suffix='.mp4',
    muxer='mp4',
    encoder='libx264',
    pixels='yuv420p',
    alpha_pixels=None,
    options={'preset': 'veryfast'},  # 30 ms; `medium`, FFmpeg's own choice, takes 90
    worst=51,
)
PRORES = VideoFormat(
    suffix='.mov',
    muxer='mov',
    encoder='prores_ks',
    pixels='yuv444p10le',
    alpha_pixels='yuva444p10le',
    options={'profile': '4444', 'alpha_bits': '8'},  # 250 ms; 16 bits of alpha would hold nothing but the same levels
    worst=None,
)
WEBM = VideoFormat(
    suffix='.webm',
    muxer='webm',
    encoder='libvpx-vp9',
    pixels='yuv420p',
    alpha_pixels='yuva420p',
    # 40 ms, 60 with alpha; the deadline `good` takes seven times as long for files smaller by a tenth.
    options={'deadline': 'realtime', 'cpu-used': '6', 'row-mt': '1', 'b': '0'},
    worst=63,
)
FORMATS = {'video': H264, 'prores4444': PRORES, 'webm': WEBM}


@dataclass(frozen=True)
class VideoSettings:
    """Settings of a run over a video, named as the flags of inference_video.py.

    Attributes:
        video_src: the video.
        video_bgr: its plate, a picture or a video; None takes the plate from `video_src`.
        video_bgr_time: the plate is the frame at this time, in seconds; None takes the median of a video.
        video_bgr_mode: 'median', or 'each' for a plate that is followed frame for frame.
        video_target_bgr: picture or video behind the subject; None for plain green, or alpha.
        video_resize: (width, height) to compute and write at, in pixels; None for the video's own.
        resize_bgr: resize a plate of another size than the video's instead of refusing it.
        preprocess_alignment: warp the plate onto each frame.
        batch_size: frames computed at once, at most.
        output_dir: made if need be.
        output_format: key of `FORMATS`, or `SEQUENCES`.
        picture_formats: each type of output that is written, and its format in a sequence: 'png', 'jpg' or 'webp'.
        video_quality: 0..`WORST_QUALITY`, smaller is better.
        audio: copy the sound into 'com' and 'fgr'.
        png_compression: 0..9.
        jpeg_quality: 1..100, of jpg and webp.
    """

    video_src: Path
    video_bgr: Path | None
    video_bgr_time: float | None
    video_bgr_mode: str
    video_target_bgr: Path | None
    video_resize: Sequence[int] | None
    resize_bgr: bool
    preprocess_alignment: bool
    batch_size: int
    output_dir: Path
    output_format: str
    picture_formats: dict[str, str]
    video_quality: int
    audio: bool
    png_compression: int
    jpeg_quality: int

    @staticmethod
    def from_options(options: Mapping[str, Any], picture_formats: dict[str, str]) -> VideoSettings:
        """Take the values of a command line, but for `picture_formats`."""
        values = {field.name: options[field.name] for field in fields(VideoSettings)}
        return VideoSettings(**{**values, 'picture_formats': picture_formats})


def video_paths(folder: Path, kinds: Sequence[str], file_format: str) -> dict[str, Path]:
    """Return the video file of each type of output."""
    return {kind: folder / f'{kind}{FORMATS[file_format].suffix}' for kind in kinds}


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture, by its name."""
    from dataset.paths import IMAGE_SUFFIXES  # the room brings OpenCV and Pillow

    return path.suffix.lower() in IMAGE_SUFFIXES
