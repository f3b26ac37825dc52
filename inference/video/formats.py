"""The formats that videos are written in. Importing this imports nothing slow."""

from __future__ import annotations

from dataclasses import dataclass

WORST_QUALITY = 51
DEFAULT_QUALITY = 18


@dataclass(frozen=True)
class VideoFormat:
    """How one of the formats is encoded, in FFmpeg's names.

    Attributes:
        suffix, muxer: of the file.
        encoder, options: of the frames.
        pixels, alpha_pixels: pixel formats without and with alpha; None where there is no alpha.
        worst: the encoder's number for the worst quality, None if it has no such scale.
    """

    suffix: str
    muxer: str
    encoder: str
    pixels: str
    alpha_pixels: str | None
    options: dict[str, str]
    worst: int | None

    def encoder_options(self, quality: int) -> dict[str, str]:
        """Those of the encoder at a quality of 0..`WORST_QUALITY`."""
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
