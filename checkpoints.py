# PYTHON_ARGCOMPLETE_OK
"""Look after checkpoints: what there is, whether it is whole, what may go, and what can be made of it.

of every run in checkpoint/: what is kept and why, and whether every byte is as it was written:
  python checkpoints.py list
  python checkpoints.py verify
what a file holds, and how two of them differ:
  python checkpoints.py show checkpoint/base/best.pth
  python checkpoints.py diff checkpoint/base/epoch-0.pth checkpoint/base/epoch-1.pth
the mean of the best three, scored against each of them:
  python checkpoints.py average --best 3 --run checkpoint/base -o average.pth --dataset-name my-data
how often to save where a machine is lost every six hours:
  python checkpoints.py interval checkpoint/base --mtbf 6
make room, and keep one checkpoint whatever happens:
  python checkpoints.py prune checkpoint/base --keep 2 --best 3 --dry-run
  python checkpoints.py pin checkpoint/base/epoch-3.pth
of the mirror of a run in a store, as of its folder, and a run from there or to there:
  python checkpoints.py list s3://bucket/checkpoint
  python checkpoints.py prune s3://bucket/checkpoint/base --keep 2 --best 3 --dry-run
  python checkpoints.py sync s3://bucket/checkpoint/base checkpoint/base --log log/base
another kind of file, half the size:
  python checkpoints.py convert checkpoint/refine/best.pth -o refine.safetensors --precision float16

Exit code 0: done; 1: something is damaged (verify, sync) or differs (diff); 2: a mistake or a refusal, with what to do
about it; 130 or 143: stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import train_base
import train_refine
from checkpointing.cli import (
    difference_table,
    folder_table,
    parse,
    print_json,
    print_pairs,
)
from common import cli
from common.console import megabytes, plain, progress, say, shown, some, table
from common.files import is_url
from common.network import weights_name
from common.signals import run_until_stopped
from training import scoring

if TYPE_CHECKING:
    from checkpointing.verify import Verdict

# By the model type that a stage trains.
STAGES = {'mattingbase': train_base, 'mattingrefine': train_refine}


def list_all(args: argparse.Namespace) -> int:
    """Print a table of each run, and what else lies in its folder."""
    from checkpointing.inventory import inventory, run_folders
    from checkpointing.mirror.tools import check, looking_at
    from checkpointing.verify import Verifier

    parents = args.paths or [args.checkpoint_dir]
    folders = [folder for parent in parents if not is_url(parent) for folder in run_folders(parent)]
    by_reading = None if args.fast else Verifier().check
    found = [inventory(folder, by_reading) for folder in progress(folders, len(folders), ' folders', leave=False)]
    with looking_at(list(filter(is_url, parents))) as mirrors:
        for mirror in progress(mirrors, len(mirrors), ' mirrors', leave=False):
            of_store = None if args.fast else partial(check, mirror)
            found.append({**inventory(mirror.folder, of_store), 'folder': mirror.store.url})
    if args.json:
        print_json(found)
        return 0
    for folder in found:
        print(folder_table(folder))
    if not found:
        print(f'no checkpoints in {", ".join(map(str, parents))}')
    return 0


def show(args: argparse.Namespace) -> int:
    """Print what a file is, what it holds, and its record or provenance."""
    from checkpointing.diff import flatten, summarize
    from checkpointing.origin import find_origin, read_training_state
    from model.weights import describe, read_weights

    origin = find_origin(args.file)
    path, record, kind = args.file.resolve(), origin.record, origin.kind
    print(f'{weights_name(args.file)}: {megabytes(path.stat().st_size)}; {_words(origin.verdict)}')
    if kind == 'state' or path.name.endswith('.state.pth'):
        content = read_training_state(path)
        tensors = flatten(content)
        print(f'training state of format {content.pop("format", None)}')
        moments = content.pop('optimizer', None) or {}
        words = sorted({name.rpartition('/')[2] for name in flatten(moments)})
        print(f'  optimizer: {", ".join(words)} of {len(moments)} parameters')
        print_pairs('rest', content)
    else:
        weights = read_weights(path, plain=False)
        tensors = weights.state_dict
        print(f'{weights.kind}: {describe(tensors)}')
    about = summarize(tensors)
    dtypes = ', '.join(f'{count} {dtype}' for dtype, count in about.dtypes.items())
    print(f'{about.tensors} tensors ({dtypes}): {about.parameters:,} values, {about.statistics:,} BatchNorm statistics')
    for name, count in about.non_finite.items():
        print(f'NOT FINITE: {count} values of {name}')
    if record is not None:
        print(f'{kind} of {record.name}: {record.stage} run {record.run}, step {record.step}, epoch {record.epoch}')
        print(f'written {record.written}; reason: {record.reason}')
        print_pairs('metrics', record.metrics)
        print_pairs('options', {name: value for name, value in record.options.items() if value is not None})
    if origin.provenance is not None:
        print_pairs('provenance', origin.provenance)
    return 0


def verify(args: argparse.Namespace) -> int:
    """Print a line for each file; return 1 if any is damaged."""
    from checkpointing.inventory import targets
    from checkpointing.mirror.tools import check, check_file, looking_at
    from checkpointing.verify import Verifier

    verifying, parents = Verifier(), args.paths or [args.checkpoint_dir]
    paths = list(dict.fromkeys(file for path in parents if not is_url(path) for file in targets(path)))
    for path in paths:
        if not path.exists():
            verifying.check(path)
    damaged, urls = 0, list(filter(is_url, parents))
    checks = [(str(path), partial(verifying.check, path)) for path in paths]
    checks += [(shown(url), partial(check_file, url)) for url in urls if url.endswith('.pth')]
    with looking_at([url for url in urls if not url.endswith('.pth')]) as mirrors:
        for mirror in mirrors:
            files = targets(mirror.folder)
            checks += [(f'{mirror.store.url}/{path.name}', partial(check, mirror, path)) for path in files]
        for name, judge in progress(checks, len(checks), ' files', leave=False):
            verdict = judge()
            damaged += verdict.damaged
            say(f'{name}: {_words(verdict)}', to_stdout=True)
    print(f'{len(checks)} files, {damaged} damaged')
    return 1 if damaged else 0


def _words(verdict: Verdict) -> str:
    return f'DAMAGED: {verdict.text}' if verdict.damaged else verdict.text


def diff(args: argparse.Namespace) -> int:
    """Print the tensors that differ, also of damaged files; return 1 if any does."""
    from dataclasses import asdict

    from checkpointing.diff import compare
    from checkpointing.origin import find_origin
    from model.weights import read_weights

    verdicts = {path: find_origin(path).verdict for path in (args.first, args.second)}
    result = compare(read_weights(args.first).state_dict, read_weights(args.second).state_dict)
    for path, verdict in verdicts.items():
        if verdict.damaged:
            say(f'{weights_name(path)}: {_words(verdict)}')
    if args.json:
        print_json({'equal': result.equal, **asdict(result)})
        return 0 if result.equal else 1
    print(difference_table(result, weights_name(args.first), weights_name(args.second), args.top))
    return 0 if result.equal else 1


def interval(args: argparse.Namespace) -> int:
    """Print the interval of checkpoints that loses least, and what others lose."""
    from checkpointing.interval import daly, measure_saving, share_lost, steps_per_second, young
    from checkpointing.mirror.tools import one_run

    saving, between, how = args.save_seconds, args.mtbf * 3600, 'as given'
    with one_run(args.folder, args.checkpoint_dir) as (run, mirror):
        rate = steps_per_second(run)
        if saving is None and mirror is not None:
            raise ValueError(f'{run}: what a save costs is measured on the disk of a run alone; give --save-seconds')
        if saving is None:
            saving, whole = measure_saving(run)
            how = f'measured; {plain(whole, 3)} s until the disk has it. A GPU waits for less'
    print(f'{run}: a save takes {plain(saving, 3)} s of training ({how}); '
          + ('no rate in its records' if rate is None else f'{plain(rate, 3)} steps/s by its records'))  # fmt: skip
    best = daly(saving, between)
    print(f'a loss every {plain(args.mtbf, 6)} h: {plain(young(saving, between), 4)} s between saves by Young, '
          f'{plain(best, 4)} s by Daly')  # fmt: skip
    rows = [('interval', 'steps', 'time lost', 'and for each loss')]
    for factor in (0.25, 0.5, 1, 2, 4):
        seconds = factor * best
        lost = share_lost(seconds, saving, between, args.restart_seconds)
        again = (seconds / 2 + args.restart_seconds) / 60
        steps = '-' if rate is None else f'{max(1, round(seconds * rate))}'
        rows.append((f'{plain(seconds, 4)} s', steps, f'{100 * lost:.2f} %', f'{again:.2f} min'))
    print(table(rows))
    steps = '' if rate is None else f'--checkpoint-interval {rows[3][1]}, or '
    print(f'so: {steps}--checkpoint-minutes {plain(best / 60, 2)}')
    return 0


def average(args: argparse.Namespace) -> int:
    """Write the mean of several weight files; with a data set, say whether it is better than they are."""
    import torch

    from checkpointing.average import average as mean
    from checkpointing.average import bare_metric, choose_members, find_members
    from checkpointing.convert import check_output, write_weights
    from checkpointing.mirror.tools import fetch_from, one_run
    from checkpointing.origin import read_original
    from checkpointing.verify import Verifier

    verifier, monitor, chosen = Verifier(), args.monitor or 'valid_loss', list(args.files)
    if not chosen:
        with one_run(args.run, args.checkpoint_dir) as (run, mirror):
            monitor = args.monitor or run.policy().monitor
            chosen = choose_members(run, monitor, args.best, args.last, args.ema)
            chosen = chosen if mirror is None else [fetch_from(mirror, path.name) for path in chosen]
    members = find_members(chosen, verifier)
    paths = {weights_name(member.path): member.path for member in members}
    check_output(args.output, args.overwrite, list(paths.values()), provenance=True)
    states = (read_original(path, verifier).state_dict for path in paths.values())
    state = mean(progress(states, len(paths), ' files', leave=False), list(paths))
    how = f'mean of {len(paths)} in float64, dtypes and counters of the last'
    print(f'{how}: {", ".join(paths)}')
    scores: dict[str, dict[str, float]] = {}
    if args.dataset_name is not None:
        read = {name: lambda path=path: read_original(path, verifier).state_dict for name, path in paths.items()}
        state, scores, words = scoring.judge(STAGES, args, state, read, members[-1].record, bare_metric(monitor))
        rows = [(name, *(f'{value:.6g}' for value in values.values())) for name, values in scores.items()]
        print('\n'.join([table([('weights', *next(iter(scores.values()))), *rows]), *words]))
    refiner = members[-1].refiner
    made_of = {
        'how': how,
        'refiner': refiner and vars(refiner),
        'batch_norm': scoring.batch_norm(args),
        'members': [
            {'path': weights_name(x.path), 'sha256': x.sha256, **x.position, 'metrics': x.metrics} for x in members
        ],
        'scores': scores,
        'torch': torch.__version__,
    }
    write_weights(args.output, state, made_of)
    print(f'wrote {args.output} ({made_of["batch_norm"]})')
    return 0


def prune(args: argparse.Namespace) -> int:
    """Remove what the policy of each run does not keep, unless its newest checkpoint is damaged."""
    from checkpointing.inventory import the_folder
    from checkpointing.mirror.tools import mirror_at
    from checkpointing.prune import prune_folder, prune_mirror
    from training.options import monitor_name

    monitor = None if args.monitor is None else monitor_name(args.monitor)
    changes = {'keep': args.keep, 'best': args.best, 'every': args.every, 'states': args.keep_states,
               'monitor': monitor, 'mode': args.monitor_mode}  # fmt: skip
    if is_url(args.folder):
        with mirror_at(args.folder) as mirror:
            prune_mirror(mirror, changes, args.dry_run)
    else:
        prune_folder(the_folder(args.folder, args.checkpoint_dir), changes, args.dry_run)
    return 0


def pin(args: argparse.Namespace) -> int:
    """Pin checkpoints, or take their pins away."""
    from checkpointing.inventory import checkpoint_of
    from checkpointing.mirror.tools import pin_mirrored
    from common.files import Disk, write_durable

    disk, pins = Disk(), {}
    for url in filter(is_url, args.files):
        words = 'is no longer pinned' if args.remove else 'is pinned'
        print(f'{pin_mirrored(url, args.remove)} {words} in the mirror')
    for path in args.files:
        if not is_url(path):
            folder, name = checkpoint_of(path)
            pins[name] = folder / f'{name}.pin'
    for name, path in pins.items():
        there = path.exists()
        if args.remove:
            if there:
                disk.unlink(path)
            print(f'{name} is no longer pinned' if there else f'{name} was not pinned')
        else:
            write_durable(disk, path, lambda _: None)
            print(f'{name} {"was pinned already" if there else "is pinned"}')
    return 0


def sync(args: argparse.Namespace) -> int:
    """Copy what is missing of a run to its mirror, or from there; return 1 if any is left out as damaged."""
    from checkpointing.mirror.tools import copy_run

    up = is_url(args.target)
    folder, url = (args.source, args.target) if up else (args.target, args.source)
    count, damaged = copy_run(folder, url, args.log, up)
    these = f'{count - len(damaged)} of the {count}' if damaged else f'the {count}'
    more = f'; left out as damaged: {some(damaged)}' if damaged else ''
    print(f'{shown(str(args.target))} now has {these} checkpoints of {shown(str(args.source))}{more}')
    return 1 if damaged else 0


def convert(args: argparse.Namespace) -> int:
    """Write weights as another kind of file or in another precision."""
    import torch

    from checkpointing.convert import check_output, convert_state, write_weights
    from checkpointing.origin import read_original
    from model.weights import describe

    original = read_original(args.file)
    weights, refiner = original.file, original.origin.refiner
    check_output(args.output, args.overwrite, [args.file], provenance=refiner is not None)
    try:
        done = convert_state(weights.state_dict, getattr(torch, args.precision) if args.precision else None)
    except ValueError as error:
        raise ValueError(f'--precision {args.precision}: {error}; nothing was written') from None
    # So that the copy, too, runs as it was trained.
    about = {'how': f'{weights_name(args.file)} in another form', 'sha256 of that': original.origin.sha256}
    write_weights(args.output, done.state, refiner and {**about, 'refiner': vars(refiner)})
    print(f'{weights_name(args.file)}: {weights.kind}, {describe(weights.state_dict)}')
    cast = f', {done.cast} cast to {args.precision}' if args.precision else ''
    print(f'wrote {args.output}: {len(done.state)} tensors{cast}; read back and compared')
    if done.vanished:
        print(f'too small for {args.precision}, now 0: {sum(done.vanished.values())} values, in {len(done.vanished)} '
              f'tensors such as {next(iter(done.vanished))}')  # fmt: skip
    return 0


COMMANDS = {
    'list': list_all, 'show': show, 'verify': verify, 'diff': diff, 'average': average, 'prune': prune, 'pin': pin,
    'sync': sync, 'convert': convert, 'interval': interval,
}  # fmt: skip


def start(argv: Sequence[str] | None) -> int:
    """Read the command line and do what it says; return the exit code."""
    try:
        args = parse(__doc__, argv, scoring.add_arguments)
        return COMMANDS[args.command](args)
    except Exception as error:
        return cli.report_error(error, 2, memory='lower --batch-size or --train-resolution')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_until_stopped(partial(start, argv), 'stopped: files are written whole or not at all')


if __name__ == '__main__':
    sys.exit(cli.run(main))
