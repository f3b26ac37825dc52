# PYTHON_ARGCOMPLETE_OK
"""First result in minutes: train both stages on drawn data, cut out subjects the network never saw, show a picture.

  python demo.py             about six minutes on two cores
  python demo.py --steps 20  only to see that everything works

Everything goes to demo_output/; the picture is demo_output/result.png. Run again, it goes on where it stopped.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import os
import shutil
import sys
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli
from common.signals import StopSignals, end_at_once, run_until_stopped, signal_name, tell

if TYPE_CHECKING:
    import numpy as np

OUT = Path('demo_output')
SHOWN = (3, 8, 11, 14)
COLUMNS = ('source', 'plate', 'alpha', 'cut out on white', 'on a new background')
LABEL = 22  # pixels, the height of the line over the columns
# Small pictures: half their size is what the coarse network was trained on.
REFINER = ('--model-backbone-scale', '0.5', '--model-refine-sample-pixels', '8000')
SIDE = 256


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return its exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument('--steps', type=int, default=340, metavar='N', help='of the base stage')
    parser.add_argument(
        '--refine-steps', type=int, metavar='N', help='of the refine stage (default: a quarter of that)'
    )
    words = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(words)
    called = sys.argv[0] if sys.argv[0].startswith('bgmatting ') else ''
    again = ' '.join([called or 'python demo.py', *words]) if called or words else 'make demo'

    def stop(number: int) -> None:
        tell(f'stopped by {signal_name(number)}; {again} goes on')
        end_at_once(number)

    with StopSignals(stop):  # what has something to save answers signals itself
        return make(args, again)


def make(args: argparse.Namespace, again: str) -> int:
    """Make the picture and all it needs; return the exit code. `again` is the command that goes on after a stop."""
    refine_steps = args.refine_steps or max(2, args.steps // 4)

    import inference_images
    import train_base
    import train_refine
    from common.devices import choose_device, fast_in_bfloat16
    from inference.processes import process_shard

    precision = 'bfloat16' if fast_in_bfloat16(choose_device('auto')) else 'auto'
    shared = [
        '--dataset-name', 'synthetic', '--synthetic-size', '8000', '--model-backbone', 'mobilenetv2',
        '--num-workers', '2', '--valid-samples', '16', '--epoch-end', '1', '--precision', precision,
        '--lr-schedule', 'cosine', '--warmup-steps', '30', '--model-last-checkpoint', 'auto',
        '--checkpoint-dir', str(OUT / 'checkpoint'), '--log-dir', str(OUT / 'log'), '--log-train-loss-interval', '25',
    ]  # fmt: skip
    base = [
        *shared, '--model-name', 'base', '--train-resolution', '128', '--max-steps', str(args.steps),
        '--learning-rate-scale', '2', '--log-valid-interval', '115', '--checkpoint-interval', '115',
    ]  # fmt: skip
    print('1 of 3: the coarse network\n' + command('train_base.py', base), flush=True)
    if code := train_base.main([*base, '--part-of', again]):
        return code
    refine = [
        *shared, '--model-name', 'refine', '--train-resolution', str(SIDE), '--max-steps', str(refine_steps),
        *REFINER, '--log-valid-interval', '115', '--checkpoint-interval', '115',
        '--model-start-weights', str(OUT / 'checkpoint/base/best.pth'),
    ]  # fmt: skip
    print('\n2 of 3: the whole network\n' + command('train_refine.py', refine), flush=True)
    if code := train_refine.main([*refine, '--part-of', again]):
        return code

    draw_pictures()
    run = [
        '--model-checkpoint', str(OUT / 'checkpoint/refine/best.pth'), '--images-src', str(OUT / 'src'),
        '--images-bgr', str(OUT / 'bgr'), '--output-dir', str(OUT / 'cut_out'), '--output-types', 'com', 'pha', 'fgr',
        '-y',
    ]  # fmt: skip
    print('\n3 of 3: cut out subjects it never saw\n' + command('inference_images.py', run), flush=True)
    if code := run_until_stopped(partial(inference_images.start, run, process_shard()), f'stopped; {again} goes on'):
        return code
    sheet = make_sheet()
    print(f'\n{", ".join(COLUMNS)}: {sheet}')
    if sys.stdout.isatty():
        show(sheet)
    return 0


def command(script: str, words: list[str]) -> str:
    """Return the command line that does the same."""
    return f'  python {script} {" ".join(words)}\n'


def draw_pictures() -> None:
    """Write sources, plates and new backgrounds that no training sample was drawn from."""
    import torch
    from torchvision.utils import save_image

    from dataset.geometry import AffineRange
    from dataset.loaders import WarpedPairs, collate
    from dataset.sampling import VALIDATION, Sample
    from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes

    mattes, backgrounds = SyntheticMattes(100, seed=7), SyntheticBackgrounds(100, seed=7)
    still = AffineRange((0.9, 0.9), degrees=0, translate=0, shear=0, flip=0)
    pairs = WarpedPairs(mattes, backgrounds, still, AffineRange((1, 1), 0, 0, 0, 0))
    keys = [Sample(7, VALIDATION, i, i, i, SIDE, SIDE, len(SHOWN)) for i in SHOWN]
    with torch.no_grad():
        true = collate([pairs[key] for key in keys]).compose()
    for folder, pictures in (('src', true.src), ('bgr', true.bgr)):
        (OUT / folder).mkdir(parents=True, exist_ok=True)
        for i, picture in zip(SHOWN, pictures):
            save_image(picture, OUT / folder / f'{i:02d}.png')


def make_sheet() -> Path:
    """Lay the pictures out in rows under the names of the columns and return the path of the sheet."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from dataset.readers import read_alpha, read_rgb
    from dataset.synthetic import SyntheticBackgrounds

    rows = []
    for i in SHOWN:
        pha = read_alpha(OUT / f'cut_out/pha/{i:02d}.jpg')[..., None]
        fgr = read_rgb(OUT / f'cut_out/fgr/{i:02d}.jpg')
        new = SyntheticBackgrounds(100, seed=8).read(i, min_size=(SIDE, SIDE))
        source, plate = read_rgb(OUT / f'src/{i:02d}.png'), read_rgb(OUT / f'bgr/{i:02d}.png')
        grey = np.repeat(pha, 3, 2)
        rows.append(np.hstack([source, plate, grey, blend(fgr, 255, pha), blend(fgr, new, pha)]))
    sheet = Image.fromarray(np.pad(np.vstack(rows), ((LABEL, 0), (0, 0), (0, 0)), constant_values=255))
    for column, name in enumerate(COLUMNS):
        place = (column * SIDE + SIDE // 2, LABEL // 2)
        ImageDraw.Draw(sheet).text(place, name, 'black', ImageFont.load_default(15), anchor='mm')
    path = OUT / 'result.png'
    sheet.save(path)
    return path


def show(path: Path) -> None:
    """Open a picture where there is a display, else print it where the terminal has all colours."""
    display = sys.platform in ('darwin', 'win32') or os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')
    opened = display and webbrowser.open(path.resolve().as_uri())
    if not opened and os.environ.get('COLORTERM') in ('truecolor', '24bit'):
        from dataset.readers import read_rgb

        print(in_half_blocks(read_rgb(path), shutil.get_terminal_size().columns))


def in_half_blocks(picture: np.ndarray, columns: int) -> str:
    """Return text that shows a picture, uint8 RGB (H, W, 3): a character is two pixels, one over the other."""
    import cv2

    height, width = picture.shape[:2]
    small = cv2.resize(picture, (columns, round(height * columns / width / 2) * 2), interpolation=cv2.INTER_AREA)
    lines = (
        ''.join('\x1b[38;2;{};{};{};48;2;{};{};{}m▀'.format(*upper, *lower) for upper, lower in zip(above, below))
        for above, below in zip(small[::2], small[1::2])
    )
    return '\x1b[0m\n'.join(lines) + '\x1b[0m'


def blend(fgr: np.ndarray, bgr: np.ndarray | int, pha: np.ndarray) -> np.ndarray:
    """Put fgr over bgr; all uint8, pha (H, W, 1)."""
    weight = pha.astype('float32') / 255
    return (fgr * weight + bgr * (1 - weight)).round().astype('uint8')


if __name__ == '__main__':
    sys.exit(cli.run(main))
