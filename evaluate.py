# PYTHON_ARGCOMPLETE_OK
"""Score mattes: the usual metrics over a test set, with intervals, for several networks side by side.

your networks, and what the refiner adds:
  python evaluate.py --checkpoint base.pth refine.pth --testset testset/ --base-only
a table for the paper, a page to look at, and everything in a file:
  python evaluate.py --checkpoint refine.pth --testset testset/ --report report.html --json refine.json
what a precision costs your network:
  python evaluate.py --checkpoint refine.pth --testset testset/ --precision float32 bfloat16
mattes of any program, as files:
  python evaluate.py --predictions out/ --truth testset/
today's network beside the figures of last week:
  python evaluate.py --checkpoint refine.pth --testset testset/ --results old.json

Networks' results are rounded to 8 bits, so that their figures are those of the PNG files that inference_images.py
writes. The table has each metric's mean over the pictures with its 95 % interval by bootstrap and, from the second row
on, the mean of the differences from the first on the same pictures; a * says that its interval leaves out 0 (with at
least 10 subjects or clips). Lower is better everywhere. docs/evaluation.md explains what intervals can and cannot tell.

Exit code 0: all is scored; 1: something failed on the way; 2: nothing was started; 130 or 143: stopped
by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, console
from common.devices import keep_memory
from common.network import weights_path

if TYPE_CHECKING:
    from evaluation.plan import ScoringPlan
    from evaluation.results import Results

METRICS = ('sad', 'mse', 'grad', 'conn', 'fg_mse', 'fg_mse_bmv2', 'mad', 'dtssd')
SCALINGS = ('bmv2', 'dim', 'rvm', 'raw')


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group('what is scored').add_argument
    add('--checkpoint', '--model-checkpoint', type=weights_path, nargs='+', metavar='FILE|starter',
        help='networks, to be run on --testset')  # fmt: skip
    add('--testset', type=Path, metavar='DIR',
        help='of make_testset.py, or a folder with src/, bgr/, pha/ and maybe fgr/, trimap/')  # fmt: skip
    add('--predictions', type=Path, nargs='+', metavar='DIR',
        help='output folders of inference_images.py, or folders of alphas, to be compared with --truth')  # fmt: skip
    add('--truth', type=Path, metavar='DIR', help='a test set, a folder with pha/ and maybe fgr/, or one of alphas')
    add('--results', type=Path, nargs='+', metavar='FILE', help='earlier --json files, for more rows')
    add('--base-only', action='store_true', help='add for each network that refines a row of it without its refiner')
    add('--clips', action='store_true', help='each folder of pictures is a clip, unless the set itself knows its clips')
    add = parser.add_argument_group('network (left out: as trained, else as published for the size)').add_argument
    cli.add_refiner_arguments(add, None, kernel=False)
    add = parser.add_argument_group('figures').add_argument
    add(
        '--metrics',
        nargs='+',
        choices=METRICS,
        help='all that can be computed if left out, but fg_mse_bmv2, as its published code has it; dtssd is for clips',
    )
    add('--region', choices=('unknown', 'whole'),
        help='pixels that count: the unknown ones of the trimap, which is made of the true alpha where the set has '
        'none; or all. fg_mse is over the subject (default: unknown)')  # fmt: skip
    add('--scaling', choices=SCALINGS,
        help='of Background Matting V2, Deep Image Matting, Robust Video Matting, or none (default: bmv2)')  # fmt: skip
    add = parser.add_argument_group('output').add_argument
    add('--per-picture', action='store_true', help='print the figures of every picture, too')
    add('--sort', choices=METRICS, help="by which the first row's worst pictures come first; sad for the report")
    add('--json', type=Path, metavar='FILE', help='write everything there, for --results')
    add('--csv', type=Path, metavar='FILE', help='write a line for each row, picture and metric')
    add('--report', type=Path, metavar='FILE', help='write a page (.html) with the worst, median and best pictures')
    add('-y', dest='overwrite', action='store_true', help='replace these files if they are there')
    add = parser.add_argument_group('machine').add_argument
    cli.add_device_argument(add)
    add('--precision', choices=cli.PRECISIONS, nargs='+', default=['auto'],
        help=f'of the networks, a row in each of several; {cli.AUTO_PRECISION}')  # fmt: skip
    add('--batch-size', type=int, default=1, metavar='N', help='pictures of equal size computed at once')
    cli.add_threads_argument(add, 'score')
    parser.set_defaults(compile=False, backend='pytorch')
    args = parser.parse_args(argv)
    for name in ('checkpoint', 'predictions', 'results'):
        setattr(args, name, getattr(args, name) or [])
    return args


def prepared(args: argparse.Namespace) -> ScoringPlan:
    """Check the flags, find everything that they name, and return what is to be scored.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    from common.network import RefinerSettings
    from evaluation.flags import flag_problems
    from evaluation.plan import ScoringRequest, prepare

    cli.raise_problems(flag_problems(args))
    names = vars(RefinerSettings())
    refiner = {name: value for name in names if (value := getattr(args, f'model_{name}', None)) is not None}
    return prepare(ScoringRequest(
        checkpoints=args.checkpoint, testset=args.testset, predictions=args.predictions, truth=args.truth,
        results=args.results, base_only=args.base_only, clips=args.clips, refiner=refiner, metrics=args.metrics,
        region=args.region or 'unknown', scaling=args.scaling or 'bmv2', sort=args.sort, report=args.report is not None,
        precisions=args.precision,
    ))  # fmt: skip


def run(args: argparse.Namespace, plan: ScoringPlan) -> list[str]:
    """Score all rows, write their figures, print the tables and write the page; return what went wrong with files."""
    from common.console import say
    from evaluation.rows import ComputeSettings, rows, scored
    from evaluation.tables import legend, means_table, pictures_table, show, to_csv, to_json

    for note in plan.notes:
        say(f'note: {note}')
    new: list[Results] = []
    files: dict[str, Callable[[str], Path]] = {}
    compute = ComputeSettings(args.device, args.batch_size, args.num_workers)
    with tempfile.TemporaryDirectory(prefix='evaluate-') as folder:
        for row in rows(plan, compute, Path(folder) if args.report else None):
            say(f'{row.name}: {row.report}')
            new.append(scored(row, plan))
            files[row.name] = row.file
            del row  # or its network would be there beside the next one
        results, problems = new + plan.earlier, []
        if args.json:
            problems += write('--json', args.json, lambda: to_json(results).encode())
        if args.csv:  # names as the disk has them
            problems += write('--csv', args.csv, lambda: to_csv(results).encode('utf-8', 'surrogateescape'))
        if args.per_picture:
            show(f'{pictures_table(results, args.sort)}\n')
        show(f'{means_table(results)}\n{legend(results)}')
        if args.report:
            problems += write('--report', args.report, lambda: report(args.sort, plan, new, files))
    return problems


def report(
    sort: str | None, plan: ScoringPlan, results: Sequence[Results], files: Mapping[str, Callable[[str], Path]]
) -> bytes:
    """Return the page; `files` says for each row where the alpha of a picture lies."""
    from dataset.readers import read_alpha, read_rgb
    from evaluation.report.build import ReportPictures, report_bytes

    truths = {truth.name: truth for truth in plan.truths}

    def pictures(model: str, name: str) -> ReportPictures:
        truth = truths[name]
        src = None if truth.src is None else read_rgb(truth.src)
        return ReportPictures(src, read_alpha(truth.pha), read_alpha(files[model](name)))

    sort_by = sort or next(metric for metric in METRICS if metric in plan.metrics)  # dtssd is the last of them
    return report_bytes(results, pictures, sort_by, f'Evaluation on {plan.settings["truth"]}')


def write(flag: str, path: Path, content: Callable[[], bytes]) -> list[str]:
    """Write a file, and return why it could not be written: that must cost neither the other files nor the table."""
    from common import files

    try:
        files.write_atomic(path, content())
    except (ValueError, OSError) as error:
        return [f'{flag}: {error}']
    console.say(f'{path}: written')
    return []


def start(argv: Sequence[str] | None) -> int:
    """Read the flags, prepare everything and run; return the exit code."""
    args = parse(argv)
    keep_memory()  # before there are threads
    try:
        plan = prepared(args)
    except (ValueError, OSError) as error:
        return cli.report_error(error, 2)
    try:
        problems = run(args, plan)
    except Exception as error:  # torch and OpenCV have types of their own
        return cli.report_error(error, 1, 'stopped: ', 'take a smaller --batch-size or fewer --num-workers')
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    from common.signals import run_until_stopped

    return run_until_stopped(partial(start, argv), 'stopped: files are written at the end, whole or not at all')


if __name__ == '__main__':
    sys.exit(cli.run(main))
