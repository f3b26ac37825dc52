# PYTHON_ARGCOMPLETE_OK
"""Make a test set: foregrounds over backgrounds, disturbed plates, true alphas, trimaps, and a manifest of every draw.

the validation pictures of a data set, each over five backgrounds:
  python make_testset.py --dataset-name photomatte13k --data-config data_path.toml --backgrounds-per-foreground 5 \\
      --output-dir testset/
folders of your own, fitted into HD, twenty of the foregrounds:
  python make_testset.py --fgr cutouts/fgr --pha cutouts/pha --bgr rooms/ --resolution 1920 1080 --limit 20 \\
      --output-dir testset/
clips of 30 frames, in which the subject moves:
  python make_testset.py ... --clip-frames 30 --output-dir clips/

Writes <output-dir>/src, bgr, fgr, pha and trimap, all PNG, and, when all is there, <output-dir>/manifest.json. The same
seed and sources give the same files. Exit code 0: all done; 1: a picture could not be read or written, and there is no
test set; 2: nothing was started; 130 or 143: stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, path_checks

if TYPE_CHECKING:
    from evaluation.testset.recipes import Recipe, Sources, TestsetSettings


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group('sources: three folders, or a data set of the configuration').add_argument
    add('--fgr', type=Path, metavar='DIR', help='foregrounds, in sub-folders or not')
    add('--pha', type=Path, metavar='DIR', help='their alphas, of equal relative path')
    add('--bgr', type=Path, metavar='DIR', help='backgrounds')
    add('--dataset-name', metavar='NAME', help='data set in the configuration')
    add('--data-config', type=Path, default=Path('data_path.toml'), metavar='FILE', help='folders of each data set')
    add('--split', choices=('valid', 'train'), default='valid', help='of the data set and of the backgrounds')
    add('--limit', type=int, metavar='N', help='take N foregrounds, spread evenly; all if left out')
    add = parser.add_argument_group('pictures').add_argument
    add('--backgrounds-per-foreground', type=int, default=1, metavar='N', help='each another one')
    add('--resolution', '--size', type=int, nargs=2, metavar=('W', 'H'),
        help='of the pictures, in pixels; foregrounds are fitted in; each one\'s own if left out')  # fmt: skip
    add('--clip-frames', type=int, default=1, metavar='N', help='1: stills; more: clips of N frames')
    add('--noise', type=float, nargs=2, default=(0.01, 0.01), metavar=('LOW', 'HIGH'),
        help='range of the plates\' noise, as sigma in parts of white; the paper prints 0.08 0.15. A mean '
        'within +-0.02 belongs to it; 0 0 adds neither')  # fmt: skip
    add('--seed', type=int, default=0, metavar='N', help='of all draws')
    add = parser.add_argument_group('output').add_argument
    add('--output-dir', type=Path, required=True, metavar='DIR', help='must be empty or new')
    add('-y', dest='overwrite', action='store_true',
        help='write into a folder that is not empty; files of equal name are replaced')  # fmt: skip
    return parser.parse_args(argv)


def number_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with numbers, each as the flag, its value and what is allowed."""
    found = cli.at_least_problems(args, {'limit': 1, 'backgrounds_per_foreground': 1, 'clip_frames': 1, 'seed': 0})
    if args.resolution and min(args.resolution) < 1:
        found.append(f'--resolution {args.resolution[0]} {args.resolution[1]}: both must be at least 1')
    low, high = args.noise
    if not 0 <= low <= high <= 1:
        found.append(f'--noise {low} {high}: must be in 0..1, the lower one first')
    return found


def find_sources(args: argparse.Namespace) -> Sources:
    """Return the folders that the flags name; whether they exist is not looked at.

    Raises:
        ValueError, FileNotFoundError: flags that contradict each other, or are not enough; no such data set.
    """
    from dataset.paths import read_data_config
    from evaluation.testset.recipes import Sources

    folders = {f'--{name}': getattr(args, name) for name in ('fgr', 'pha', 'bgr')}
    given = [flag for flag, folder in folders.items() if folder is not None]
    if args.dataset_name is None:
        if len(given) < 3:
            lacking = ', '.join(flag for flag in folders if flag not in given)
            raise ValueError(f'{lacking} missing: give --fgr, --pha and --bgr, or --dataset-name')
        return Sources(args.fgr, args.pha, args.bgr)
    if given:
        raise ValueError(f'{given[0]} {folders[given[0]]}: not together with --dataset-name, which names its folders')
    if args.dataset_name == 'synthetic':
        raise ValueError('--dataset-name synthetic: it is drawn and has no files; name one of --data-config')
    paths = read_data_config(args.data_config, args.dataset_name)
    shares = paths.valid_share, paths.valid_bgr_share, args.split
    if args.split == 'train':
        return Sources(paths.train_fgr, paths.train_pha, paths.train_bgr, *shares)
    return Sources(paths.valid_fgr, paths.valid_pha, paths.valid_bgr, *shares)


def folder_problems(folder: Path, sources: Sources | None, overwrite: bool) -> list[str]:
    """Return why a test set must not be written into a folder."""
    from evaluation.testset.layout import KINDS

    if problems := path_checks.output_folder_problems(folder):
        return problems
    for root in (sources.fgr, sources.pha, sources.bgr) if sources else ():
        read = root.resolve()
        for written in ((folder / kind).resolve() for kind in KINDS):
            if written == read or written in read.parents or read in written.parents:
                return [f'--output-dir {folder}: it would write among the pictures of {root}; choose another folder']
    held = min(folder.iterdir(), default=None) if folder.is_dir() else None
    return path_checks.not_empty_problems(folder, held, overwrite)


def prepare(args: argparse.Namespace) -> tuple[list[Recipe], Sources, TestsetSettings]:
    """Check everything that can be checked before a picture is decoded, and draw.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    from evaluation.testset.recipes import TestsetSettings, plan

    problems, sources, recipes = number_problems(args), None, []
    size = tuple(args.resolution) if args.resolution else None
    settings = TestsetSettings(
        args.seed, args.backgrounds_per_foreground, size, args.clip_frames, tuple(args.noise), args.limit
    )
    try:
        sources = find_sources(args)
        missing = path_checks.folder_problems(args, 'fgr', 'pha', 'bgr')
        problems += missing
        recipes = [] if missing else plan(sources, TestsetSettings() if problems else settings)
    except (ValueError, OSError) as error:
        problems += str(error).split('\n')
    try:
        problems += folder_problems(args.output_dir, sources, args.overwrite)
    except OSError as error:
        problems.append(f'--output-dir {args.output_dir}: {error.strerror or error}')
    cli.raise_problems(problems)
    assert sources is not None
    return recipes, sources, settings


def start(argv: Sequence[str] | None) -> int:
    """Read the flags, prepare everything and make the test set; return the exit code."""
    args = parse(argv)
    try:
        recipes, sources, settings = prepare(args)
    except ValueError as error:
        return cli.report_error(error, 2)
    from common.console import progress
    from common.signals import interruption
    from evaluation.testset.compose import compose_testset
    from inference.pipeline import Pipeline

    unit = ' clips' if settings.clip_frames > 1 else ' pictures'
    threads = min(4, os.cpu_count() or 1)  # each holds 0.7 GB at 4K
    try:
        with Pipeline() as pipeline:
            compose_testset(
                args.output_dir, recipes, sources, settings,
                lambda make, them: progress(pipeline.ahead(make, them, threads), len(recipes), unit),
                lambda: interruption.pending,
            )  # fmt: skip
    except Exception as error:
        hint = 'take a smaller --resolution, or smaller sources'
        # OpenCV has a type of its own, which says in `err` what was wrong.
        known = error if cli.out_of_memory(error) or not hasattr(error, 'err') else ValueError(error.err)
        return cli.report_error(known, 1, 'stopped, so this is no test set yet: ', hint)
    print(f'{len(recipes)}{unit} of {len({recipe.fgr for recipe in recipes})} foregrounds, in {args.output_dir}')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    from common.signals import run_until_stopped

    return run_until_stopped(partial(start, argv), 'stopped: this is no test set yet; -y allows to write there again')


if __name__ == '__main__':
    sys.exit(cli.run(main))
