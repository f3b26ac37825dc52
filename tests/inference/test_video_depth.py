"""Films of more than 8 bits and of high dynamic range: what ProRes keeps of them, and what is said where it is lost."""

from __future__ import annotations

import struct
from argparse import Namespace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.sidedata.sidedata import Type
from support.inference_case import save
from support.videos import decoded

import inference_video
from inference import Matting
from inference.compositing import as_levels, composite
from inference.options import Threads
from inference.video.colour import Colour, _light
from inference.video.inputs import VideoInputs
from inference.video.job import matte_video
from inference.video.outputs import losses, open_outputs
from inference.video.reader import VideoReader
from inference.video.settings import VideoSettings
from inference.video.writer import VideoWriter

PQ, BT2020 = 16, 9
SIDE = 64
# BT.2020 in red, green, blue, white, as x265 and as QuickTime count them: by 50000; 1000 and 0.005 cd/m2 by 10000.
MDCV = struct.pack('>I4s8H2I', 32, b'mdcv', 8500, 39850, 6550, 2300, 35400, 14600, 15635, 16450, 10_000_000, 50)
CLLI = struct.pack('>I4s2H', 12, b'clli', 1000, 400)


class Through(torch.nn.Module):
    """A network that takes the whole picture for the subject, and changes no colour."""

    def forward(self, src, bgr):
        return torch.ones_like(src[:, :1]), src


def blocks(seed: int) -> np.ndarray:
    """Colours of 16 bits, each 16 x 16 pixels, which ProRes keeps exactly."""
    colours = np.random.default_rng(seed).integers(8000, 57000, (SIDE // 16, SIDE // 16, 3), np.uint16)
    return colours.repeat(16, 0).repeat(16, 1)


def film(path: Path, colour: Colour) -> Path:
    with VideoWriter(path, 'prores4444', (SIDE, SIDE), Fraction(1, 25), Fraction(25), colour) as writer:
        for index in range(3):
            writer.write(writer.prepared(blocks(index)), index)
    return path


def run(folder: Path, source: Path, output_format: str) -> tuple[Path, list[str]]:
    """Matte a film with `Through`; return the folder, and what is said to be lost."""
    plate = save(folder / 'plate.png', np.zeros((SIDE, SIDE, 3), np.uint8))
    words = ['--model-checkpoint', plate, '--video-src', source, '--video-bgr', plate, '--output-dir', folder / 'out']
    words += ['--device', 'cpu', '--output-types', 'com', 'fgr', '--output-format', output_format]
    flags = vars(inference_video.parse([str(word) for word in words]))
    settings = VideoSettings.from_options(flags, {'com': 'png', 'fgr': 'png'})
    with VideoInputs(settings) as inputs:
        matte_video(inputs, open_outputs(inputs, flags), Matting(Through(), 'cpu'), Threads(1, 1, 1))
        return folder / 'out', losses(inputs)


def planes(frame: av.VideoFrame) -> np.ndarray:
    """Luma and chroma, 0..1023 (3, H, W); of 12 bits the upper 10."""
    shift = frame.format.components[0].bits - 10
    rows = [np.frombuffer(plane, np.uint16).reshape(SIDE, -1)[:, :SIDE] >> shift for plane in list(frame.planes)[:3]]
    return np.stack(rows).astype(int)


def test_light_beyond_what_a_box_can_hold_is_the_most_it_can():
    numbers = [2, 1] * 8 + [-1, 1, 500_000, 1, 1, 1]
    data = {
        Type.MASTERING_DISPLAY_METADATA: struct.pack('22i', *numbers),
        Type.CONTENT_LIGHT_LEVEL: struct.pack('2I', 70_000, 400),
    }
    boxes = _light(Namespace(side_data=data))
    assert boxes[8:32] == b'\xff' * 16 + struct.pack('>2I', 2**32 - 1, 0)
    assert boxes[40:] == struct.pack('>2H', 65_535, 400)


@pytest.mark.parametrize('transfer', [1, PQ])
def test_ten_bits_go_through_prores_exactly(tmp_path, transfer):
    colour = Colour(BT2020, False, BT2020, transfer, light=MDCV + CLLI)
    source = film(tmp_path / 'src.mov', colour)
    folder, lost = run(tmp_path, source, 'prores4444')
    for kind in ('com', 'fgr'):
        for before, after in zip(decoded(source), decoded(folder / f'{kind}.mov'), strict=True):
            assert np.abs(planes(after) - planes(before)).max() == 0
            assert (after.colorspace, after.color_primaries, after.color_trc) == (BT2020, BT2020, transfer)
        with VideoReader(folder / f'{kind}.mov') as reader:
            assert reader.colour.light == MDCV + CLLI
    assert len({tuple(plane) for plane in planes(decoded(source)[0]).reshape(3, -1).T}) == 16
    assert [line for line in lost if '10 bit' in line] == []


def test_mastering_data_of_a_stream_are_read(tmp_path):
    path = tmp_path / 'src.mkv'
    hdr = 'log-level=none:hdr10=1:max-cll=1000,400:master-display='
    hdr += 'G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,50)'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx265', rate=25, options={'x265-params': hdr, 'preset': 'ultrafast'})
        stream.width = stream.height = SIDE
        stream.pix_fmt = 'yuv420p10le'
        stream.codec_context.color_trc = PQ
        container.mux(stream.encode(av.VideoFrame(SIDE, SIDE, 'yuv420p10le')))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        assert reader.colour.light == MDCV + CLLI
        assert (reader.colour.bits, reader.colour.transfer) == (10, PQ)


@pytest.mark.parametrize(
    ('output_format', 'said'),
    [
        ('video', 'become 8; its PQ is kept as it is, labelled so, and what is set behind the subject is not converted '
                  'to it; its mastering data are left out; --output-format prores4444 keeps 10 bit and mastering data'),
        ('image_sequences', 'become 8; its PQ is kept as it is, pictures are not labelled so, and'),
        ('prores4444', 'its PQ is kept as it is, labelled so, and what is set behind the subject is not converted'),
    ],
)  # fmt: skip
def test_what_is_lost_is_one_line(tmp_path, output_format, said):
    source = film(tmp_path / 'src.mov', Colour(BT2020, False, BT2020, PQ, light=MDCV))
    _, lost = run(tmp_path, source, output_format)
    assert len(lost) == 1
    assert said in lost[0]


def test_sixteen_bits_are_composited_as_eight_are():
    random = np.random.default_rng(0)
    pha = random.integers(0, 256, (8, 8), np.uint8)
    fgr, backdrop = random.integers(0, 256, (2, 8, 8, 3), np.uint8)
    deep = composite(pha, as_levels(fgr, np.dtype(np.uint16)), backdrop)
    share = pha[..., None] / 255
    assert np.abs(deep / 257 - (fgr * share + backdrop * (1 - share))).max() < 0.01
