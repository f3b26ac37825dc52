"""How a training ends, in words: what happened, and what to type next."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from checkpointing.links import best_file, free_name
from checkpointing.manager import Checkpoints

from .logs import Logger
from .progress import duration, figure

log = logging.getLogger(__name__)

# Flags that the refine stage takes over from the base stage where they were given.
SHARED = (
    '--dataset-name', '--data-config', '--synthetic-size', '--valid-samples', '--num-workers', '--seed',
    '--model-backbone', '--checkpoint-dir', '--log-dir', '--device', '--precision', '--compile',
)  # fmt: skip
# The coarse network sees a quarter of the refine stage's pictures, and the published batch is half as large.
RESOLUTION, BATCH = 4, 2


def summary(checkpoints: Checkpoints, logger: Logger, begin: int) -> str:
    """Return what happened: steps, time, the best checkpoint, where curves and pictures are.

    Args:
        checkpoints: of the run that has come to its end.
        logger: of the run.
        begin: steps that were done before this process.
    """
    display, monitor = logger.display, checkpoints.policy.monitor
    again = f' ({display.end - begin} of them now)' if begin else ''
    lines = [f'done: {display.end} steps{again} in {duration(time.monotonic() - display.began)}']
    if (best := checkpoints.standing({})[1]) is not None:
        file = checkpoints.folder / best_file(best, monitor)
        lines.append(f'best: {figure(monitor, best.metrics[monitor])} at step {best.step}, {file}')
    names = (f'valid-{display.end - 1}.jpg', 'curves.png', 'curves.csv')
    found = [name for name in names if (logger.folder / name).is_file()]
    show = shlex.join(['tensorboard', '--logdir', str(logger.folder.parent)])
    return '\n'.join([*lines, f'pictures and curves in {logger.folder}: {", ".join(found) or "none"}; {show}'])


def tell_what_next(args: argparse.Namespace, command: Sequence[str], code: int) -> None:
    """Say what to type after a run has ended or was stopped.

    Args:
        args: the checked command line of the stage.
        command: path of the stage's script, and its arguments.
        code: the exit code.
    """
    script, words = Path(command[0]), command[1:]
    if args.part_of is not None or args.dry_run:
        return
    if code:
        log.info('go on with:\n  %s', _line(script, _resuming(words)))
        return
    folder = args.checkpoint_dir / args.model_name
    weights = next((path for path in (folder / 'best.pth', folder / 'last.pth') if path.is_file()), None)
    if weights is not None:
        follow = _refine if script.stem == 'train_base' else _use
        log.info('next:\n  %s', '\n  '.join(follow(args, script, words, weights)))


def _refine(args: argparse.Namespace, script: Path, words: Sequence[str], weights: Path) -> list[str]:
    """Return the command that trains the refine stage from weights of the base stage."""
    given = {word.partition('=')[0] for word in words}
    stem = args.model_name.removesuffix('base').removesuffix('-')
    name = free_name(args.checkpoint_dir / (f'{stem}-refine' if stem else 'refine')).name
    chosen = [*_taken(words, SHARED), '--model-name', name]
    if '--train-resolution' in given:
        chosen += ['--train-resolution', str(RESOLUTION * args.train_resolution)]
    if '--batch-size' in given:
        chosen += ['--batch-size', str(max(2, args.batch_size // BATCH))]
    chosen += ['--model-last-checkpoint', 'auto', '--model-start-weights', str(weights)]
    return [_line(script.with_name('train_refine.py'), chosen)]


def _use(args: argparse.Namespace, script: Path, words: Sequence[str], weights: Path) -> list[str]:
    """Return the commands that score a trained network and run it on pictures."""
    lines, testset = [], f'testset-{args.dataset_name}'
    if args.dataset_name != 'synthetic':
        data = [*_taken(words, ('--dataset-name', '--data-config')), '--output-dir', testset]
        if not Path(testset).exists():
            lines.append(_line(script.with_name('make_testset.py'), data))
        lines.append(_line(script.with_name('evaluate.py'), ['--checkpoint', str(weights), '--testset', testset]))
    pictures = ['--images-src', 'pictures', '--images-bgr', 'plates', '--output-dir', f'out-{args.model_name}']
    return [*lines, _line(script.with_name('inference_images.py'), ['--model-checkpoint', str(weights), *pictures])]


def _taken(words: Sequence[str], flags: Collection[str]) -> Iterator[str]:
    """Yield those of the words that are one of the flags, or its value."""
    taking = False
    for word in words:
        taking = word.partition('=')[0] in flags if word.startswith('--') else taking
        if taking:
            yield word


def _resuming(words: Sequence[str]) -> list[str]:
    """Return a command line that goes on with the run of this one."""
    flag = '--model-last-checkpoint'
    if 'must' in (kept := list(_taken(words, [flag])))[-1:] or kept == [f'{flag}=must']:
        return list(words)
    others = {word.partition('=')[0] for word in words if word.startswith('--')} - {flag}
    first = itertools.takewhile(lambda word: not word.startswith('--'), words)
    return [*first, *_taken(words, others), flag, 'auto']


def _line(script: Path, words: Sequence[str]) -> str:
    """Return a command line, quoted for the shell, as short as the current folder allows."""
    line = [_short(script), *words]
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        return f'torchrun ... {shlex.join(line)}'
    python = 'python' if shutil.which('python') == sys.executable else _short(Path(sys.executable))
    return shlex.join([python, *line])


def _short(path: Path) -> str:
    """Return a path from the current folder, where it lies in there."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
