"""Checks of evaluate.py's flags: what can be said before any picture or network is looked at."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable

from common import cli, path_checks
from inference import options

ABOUT_NEW_ROWS = ('metrics', 'region', 'scaling', 'clips')
ABOUT_NETWORKS = (
    'base_only', 'model_backbone_scale', 'model_refine_mode', 'model_refine_sample_pixels', 'model_refine_threshold'
)  # fmt: skip


def flag_problems(args: argparse.Namespace) -> list[str]:
    """Return all that is wrong with the flags, one line each."""
    found = _input_problems(args) + _useless_flag_problems(args) + cli.at_least_problems(args, {'batch_size': 1})
    return found + cli.refiner_problems(args) + _output_problems(args) + options.device_problems(args)


def _input_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags that say what is scored."""
    found = []
    for first, values, second, folder in (
        ('--checkpoint', args.checkpoint, '--testset', args.testset),
        ('--predictions', args.predictions, '--truth', args.truth),
    ):
        if bool(values) != (folder is not None):
            found.append(f'{first}: needs {second} as well' if values else f'{second}: needs {first} as well')
    for name in ('checkpoint', 'predictions', 'results'):
        counts = Counter(getattr(args, name))
        found += [f'--{name} {path}: given twice' for path, count in counts.items() if count > 1]
    if args.checkpoint and args.predictions:
        found.append('--checkpoint, --predictions: one at a time; --json keeps rows, and --results adds them to others')
    if not (args.checkpoint or args.predictions or args.results or found):
        found.append('nothing to score: give --checkpoint and --testset, or --predictions and --truth')
    found += path_checks.file_problems(args, 'checkpoint')
    found += [f'--results {path}: no such file' for path in args.results if not path.is_file()]
    return found + path_checks.folder_problems(args, 'testset', 'truth')


def _useless_flag_problems(args: argparse.Namespace) -> list[str]:
    """Return the flags that would change nothing."""
    found = []
    new_rows = args.checkpoint or args.predictions
    if not args.checkpoint and (given := _given(args, ABOUT_NETWORKS)):
        found.append(f'{given}: needs --checkpoint: it is about running networks')
    if args.results and not new_rows:
        if given := _given(args, ABOUT_NEW_ROWS):
            found.append(f'{given}: cannot change the figures of --results; leave it out')
        if args.sort and not args.per_picture:
            found.append(f'--sort {args.sort}: sorts pictures; add --per-picture, or leave it out')
    if args.report and not new_rows:
        found.append('--report: needs pictures to show: give --checkpoint or --predictions as well')
    if args.report and args.sort == 'dtssd':
        found.append('--sort dtssd: is of clips, and a report shows pictures; choose another metric')
    return found


def _given(args: argparse.Namespace, names: Iterable[str]) -> str:
    return ', '.join(cli.flag(name) for name in names if getattr(args, name) not in (None, False))


def _output_problems(args: argparse.Namespace) -> list[str]:
    """Return why the files must not be written."""
    found, inputs = [], [*args.checkpoint, *args.results]
    outputs = {f'--{name}': path for name in ('json', 'csv', 'report') if (path := getattr(args, name)) is not None}
    for flag, path in outputs.items():
        found += path_checks.output_file_problems(flag, path, args.overwrite, inputs)
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        found.append(f'{", ".join(outputs)}: two of them name one file')
    return found
