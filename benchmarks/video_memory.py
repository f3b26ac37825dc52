"""Peak of resident memory of inference_video.py for videos of several lengths: it must not grow with them.

python benchmarks/video_memory.py --frames 1000 10000
python benchmarks/video_memory.py --published --frames 40 --resolution 1920 1080 --output-types com pha fgr

The videos show a square that moves in front of a texture; the weights are random.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from helpers import machine

from common import cli

SCALE = 0.25  # of the published way


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        '--frames', type=int, nargs='+', default=[1000, 10_000], help='of each video, the shortest first'
    )
    parser.add_argument('--resolution', type=int, nargs=2, default=[160, 96], metavar=('W', 'H'))
    parser.add_argument('--output-types', nargs='+', default=['com', 'pha'])
    parser.add_argument('--output-format', default='video')
    parser.add_argument('--published', action='store_true', help='measure the published way as well, and the ratio')
    cli.add_device_argument(parser.add_argument)
    parser.add_argument('--json', type=Path, help='write the numbers to this file, too')
    args = parser.parse_args(argv)

    import torch

    from common.network import NetworkSettings, RefinerSettings
    from inference.networks import random_network

    network = NetworkSettings('mattingrefine', 'mobilenetv2', RefinerSettings(backbone_scale=SCALE))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, 'weights.pth')
        torch.save(random_network(network).state_dict(), weights)
        for count in args.frames:
            rows.append(measured(Path(folder, str(count)), weights, count, args))
            first, last = rows[0], rows[-1]
            ratio = last['peak_mib'] / first['peak_mib']
            print(
                f'{count:6} frames: peak {last["peak_mib"]:6.0f} MiB, {ratio:.3f} x that of {first["frames"]} frames; '
                f'{last["frames_written"]} written, {last["frames_per_second"]:.1f} per second',
                flush=True,
            )
            if args.published:
                rows[-1] |= published(Path(folder, str(count)), weights, args)
                ratio = last['peak_mib'] / rows[-1]['published_peak_mib']
                print(
                    f'{count:6} frames: {ratio:.3f} x the {rows[-1]["published_peak_mib"]:.0f} MiB of the published way'
                )
    machine.write_json(args.json, {'rows': rows})


def measured(folder: Path, weights: Path, count: int, args: argparse.Namespace) -> dict[str, float]:
    """Run inference_video.py once and return what it took."""
    from inference.video.reader import VideoReader

    folder.mkdir()
    source, plate = draw(folder, count, *args.resolution)
    flags = {
        '--model-type': 'mattingrefine', '--model-backbone': 'mobilenetv2', '--model-checkpoint': weights,
        '--model-backbone-scale': SCALE, '--video-src': source, '--video-bgr': plate, '--output-dir': folder / 'out',
        '--output-format': args.output_format, '--device': args.device,
    }  # fmt: skip
    words = [str(word) for pair in flags.items() for word in pair]
    command = [sys.executable, str(machine.ROOT / 'inference_video.py'), *words, '--output-types', *args.output_types]
    took = numbers_of(command, folder)
    written = sorted(folder.glob(f'out/{args.output_types[0]}.*'))
    if written:
        with VideoReader(written[0]) as reader:
            frames = sum(1 for _ in reader)
    else:
        frames = len(list(folder.glob(f'out/{args.output_types[0]}/*')))
    return {
        'frames': count,
        'frames_written': frames,
        'peak_mib': took['peak_bytes'] / 2**20,
        'frames_per_second': count / (took['end'] - took['start']),
    }


def published(folder: Path, weights: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run the published way once on the video that is there, and return its peak."""
    from common.devices import choose_device

    flags = {
        '--video-src': folder / 'source.mp4', '--video-bgr': folder / 'plate.png', '--checkpoint': weights,
        '--output-dir': folder / 'published', '--backbone': 'mobilenetv2',
        '--device': choose_device(args.device),
    }  # fmt: skip
    words = [str(word) for pair in flags.items() for word in pair]
    command = [sys.executable, '-m', 'benchmarks.published.video', *words, '--output-types', *args.output_types]
    took = numbers_of(command, folder)
    return {'published_peak_mib': took['peak_bytes'] / 2**20}


def numbers_of(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command in the repository's root, and return its times and its peak of memory."""
    numbers = folder / 'numbers.json'
    measure = [sys.executable, str(machine.ROOT / 'benchmarks/helpers/measured.py'), str(numbers)]
    subprocess.run([*measure, *command], check=True, stdout=subprocess.DEVNULL, cwd=machine.ROOT)
    took = json.loads(numbers.read_text())
    if took['exit_code']:
        sys.exit(f'{command[1]} failed')
    return took


def draw(folder: Path, count: int, width: int, height: int) -> tuple[Path, Path]:
    """Write the video and its plate."""
    import av
    import cv2
    import numpy as np

    blotches = np.random.default_rng(0).integers(40, 200, (height // 8, width // 8, 3)).astype(np.uint8)
    back = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)
    plate, source = folder / 'plate.png', folder / 'source.mp4'
    cv2.imwrite(str(plate), back[..., ::-1])
    with av.open(str(source), 'w') as container:
        stream = container.add_stream('libx264', rate=25, options={'preset': 'ultrafast'})
        stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
        for i in range(count):
            picture = back.copy()
            left = i % (width - height // 2)
            picture[height // 4 : height * 3 // 4, left : left + height // 2] = (220, 200, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        container.mux(stream.encode(None))
    return source, plate


if __name__ == '__main__':
    sys.exit(cli.run(main))
