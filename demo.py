# PYTHON_ARGCOMPLETE_OK
"""First result at once, then a short training: cut out by the starter model, fine-tune it, cut out again.

  python demo.py             the first picture in seconds, all of it in a minute or two on two cores
  python demo.py --steps 10  only to see that everything works

Everything goes to demo_output/: first result.png, then fine_tuned.png. Run again, it goes on where it stopped.
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
UNSEEN = 1007  # a seed that neither training here nor that of the starter model draws from
DRAWN = (5, 6, 19)
COLUMNS = ('source', 'plate', 'alpha', 'cut out on white', 'on a new background')
LABEL = 22  # pixels, the height of the line over the columns
SIDE = 256
# Small pictures: the coarse network sees half their size.
REFINER = ('--model-backbone-scale', '0.5', '--model-refine-sample-pixels', '16000')
# A photograph in the public domain, which comes with matplotlib, and a line around the person in its upper 512 pixels.
PHOTOGRAPH = 'sample_data/grace_hopper.jpg'
OUTLINE = (
    (8, 512), (18, 460), (30, 412), (37, 379), (58, 364), (100, 358), (140, 349), (172, 333), (192, 312), (165, 287),
    (155, 262), (158, 245), (149, 210), (146, 178), (144, 130), (156, 96), (170, 82), (178, 60), (196, 44), (216, 36),
    (240, 21), (262, 19), (284, 24), (308, 34), (336, 50), (358, 77), (371, 83), (378, 110), (378, 160), (392, 172),
    (386, 215), (378, 235), (369, 285), (356, 308), (342, 314), (362, 329), (400, 348), (440, 359), (480, 374),
    (498, 388), (512, 420), (512, 512),
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return its exit code."""
    parser = cli.Parser(__doc__)
    parser.add_argument('--steps', type=int, default=32, metavar='N', help='of the fine-tuning')
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
    """Make the pictures and all they need; return the exit code. `again` is the command that goes on after a stop."""
    import train_refine
    from common.devices import choose_device, fast_in_bfloat16

    draw_pictures()
    print('1 of 3: cut out at once, by the starter model', flush=True)
    if code := cut_out('result', [], again):
        return code
    precision = 'bfloat16' if fast_in_bfloat16(choose_device('auto')) else 'auto'
    quarter = str(max(1, args.steps // 4))
    train = [
        '--dataset-name', 'synthetic', '--synthetic-size', '8000', '--model-backbone', 'mobilenetv2',
        '--model-name', 'fine-tuned', '--train-resolution', str(SIDE), '--epoch-end', '1', '--valid-samples', '8',
        '--num-workers', '2', '--precision', precision, *REFINER, '--learning-rate-scale', '0.3',
        '--warmup-steps', '8', '--log-train-loss-interval', '4', '--log-valid-interval', quarter,
        '--checkpoint-interval', quarter,
        '--model-last-checkpoint', 'auto', '--model-start-weights', 'starter',
        '--checkpoint-dir', str(OUT / 'checkpoint'), '--log-dir', str(OUT / 'log'),
    ]  # fmt: skip
    for what, steps in (
        ('2 of 3: fine-tune the starter model; so few steps show how, and improve nothing', max(1, args.steps // 2)),
        ('the same line again with more steps: it goes on where it stopped', args.steps),
    ):
        words = [*train, '--max-steps', str(steps)]
        print(f'\n{what}\n{command("train_refine.py", words)}', flush=True)
        if code := train_refine.main([*words, '--part-of', again]):
            return code
    print('\n3 of 3: cut out with the weights that were trained', flush=True)
    return cut_out('fine_tuned', ['--model-checkpoint', str(OUT / 'checkpoint/fine-tuned/best.pth')], again)


def cut_out(name: str, weights: list[str], again: str) -> int:
    """Cut the subjects out, and lay the results out in the sheet of that name; return the exit code."""
    import inference_images
    from inference.processes import process_shard

    folder = OUT / 'cut_out' / name
    words = [
        *weights, '--images-src', str(OUT / 'pictures'), '--images-bgr', str(OUT / 'plates'),
        '--output-dir', str(folder), '--output-types', 'com', 'pha', 'fgr', '-y',
    ]  # fmt: skip
    print(command('inference_images.py', words), flush=True)
    if code := run_until_stopped(partial(inference_images.start, words, process_shard()), f'stopped; {again} goes on'):
        return code
    sheet = make_sheet(folder, OUT / f'{name}.png')
    print(f'\n{", ".join(COLUMNS)}: {sheet}')
    if sys.stdout.isatty():
        show(sheet)
    return 0


def command(script: str, words: list[str]) -> str:
    """Return the command line that does the same."""
    return f'  python {script} {" ".join(words)}\n'


def draw_pictures() -> None:
    """Write sources and plates: drawn ones, and a photograph."""
    import torch
    from PIL import Image

    from dataset.geometry import AffineRange
    from dataset.loaders import WarpedPairs, collate
    from dataset.sampling import VALIDATION, Sample
    from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes

    mattes, backgrounds = SyntheticMattes(100, UNSEEN), SyntheticBackgrounds(100, UNSEEN)
    still = AffineRange((1, 1), degrees=0, translate=0, shear=0, flip=0)
    pairs = WarpedPairs(mattes, backgrounds, still, AffineRange((1, 1), 0, 0, 0, 0))
    keys = [Sample(7, VALIDATION, i, i, i, SIDE, SIDE, len(DRAWN)) for i in DRAWN]
    with torch.no_grad():
        true = collate([pairs[key] for key in keys]).compose()
    drawn = zip(*((255 * x).round().byte().permute(0, 2, 3, 1).numpy() for x in (true.src, true.bgr)))
    pictures = {f'drawn-{i:02d}': pair for i, pair in zip(DRAWN, drawn)}
    if (pair := photograph()) is not None:
        pictures['a-photograph'] = pair
    for folder, which in (('pictures', 0), ('plates', 1)):
        (OUT / folder).mkdir(parents=True, exist_ok=True)
        for name, pair in pictures.items():
            Image.fromarray(pair[which]).save(OUT / folder / f'{name}.png')


def photograph() -> tuple[np.ndarray, np.ndarray] | None:
    """Return a photograph of a person and its plate, uint8 RGB (512, 512, 3); None where matplotlib lacks it.

    The plate is the photograph with the person painted over by what surrounds her.
    """
    import cv2
    import matplotlib
    import numpy as np

    from dataset.readers import read_rgb

    path = Path(matplotlib.get_data_path(), PHOTOGRAPH)
    if not path.is_file():
        print(f'note: {path} is not there, so all pictures are drawn ones', file=sys.stderr)
        return None
    source = np.ascontiguousarray(read_rgb(path)[:512])
    person = cv2.fillPoly(np.zeros(source.shape[:2], np.uint8), [np.array(OUTLINE)], 255)
    return source, cv2.inpaint(source, person, 5, cv2.INPAINT_TELEA)


def make_sheet(folder: Path, path: Path) -> Path:
    """Lay the pictures and their results in a folder out in rows under the names of the columns; return the path."""
    import cv2
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from dataset.readers import read_alpha, read_rgb
    from dataset.synthetic import SyntheticBackgrounds

    rows = []
    for i, source in enumerate(sorted((OUT / 'pictures').glob('*.png'))):
        pictures = [
            read_rgb(source),
            read_rgb(OUT / 'plates' / source.name),
            read_rgb(folder / f'fgr/{source.stem}.jpg'),
        ]
        alpha = read_alpha(folder / f'pha/{source.stem}.jpg')
        *pictures, alpha = (cv2.resize(x, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for x in [*pictures, alpha])
        src, bgr, fgr, pha = *pictures, alpha[..., None]
        new = SyntheticBackgrounds(100, seed=8).read(i, min_size=(SIDE, SIDE))
        rows.append(np.hstack([src, bgr, np.repeat(pha, 3, 2), blend(fgr, 255, pha), blend(fgr, new, pha)]))
    sheet = Image.fromarray(np.pad(np.vstack(rows), ((LABEL, 0), (0, 0), (0, 0)), constant_values=255))
    for column, name in enumerate(COLUMNS):
        place = (column * SIDE + SIDE // 2, LABEL // 2)
        ImageDraw.Draw(sheet).text(place, name, 'black', ImageFont.load_default(15), anchor='mm')
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
