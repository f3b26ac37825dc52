"""What checkpoints.py takes from a terminal and gives to it: flags and their checks, tables, sizes, JSON, progress.

Nothing here imports torch, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, console, path_checks
from common.console import megabytes, shown, table
from common.files import collapsed_url, is_url
from common.network import weights_name, weights_path

if TYPE_CHECKING:
    from .diff import Comparison
    from .retention import Policy

LEAST = {'top': 1, 'keep': 1, 'best': 1, 'every': 1, 'keep_states': 2, 'last': 2, 'reestimate_batches': 1}


def parse(
    description: str | None, argv: Sequence[str] | None, add_scoring: Callable[[argparse.ArgumentParser], None]
) -> argparse.Namespace:
    """Read the command line; `command` is the name of what is to be done.

    Args:
        description: of the script.
        argv: the words; those of the process if None.
        add_scoring: adds the flags of scoring, which training knows.

    Raises:
        ValueError: all that is wrong with its values.
    """
    parser = cli.Parser(description)
    commands = parser.add_subparsers(required=True, metavar='COMMAND', dest='command')

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        about = f'{summary[0].upper()}{summary[1:]}.'
        return commands.add_parser(name, help=summary, description=about)

    _add_looking(command)
    average = command('average', 'the mean of several weight files, scored against each if data is given')
    _add_average(average)
    add_scoring(average)
    _add_changing(command)
    args = parser.parse_args(argv)
    given = [item for value in vars(args).values() for item in (value if isinstance(value, list) else [value])]
    urls = [url for item in given if (url := collapsed_url(item))]
    cli.raise_problems([f'{shown(url)}: {args.command} takes a path of this computer here, no URL' for url in urls])
    least = {**LEAST, 'best': 2} if args.command == 'average' else LEAST
    found = cli.at_least_problems(args, least)
    if args.command in ('show', 'diff', 'average', 'convert', 'pin'):  # these import torch, which takes seconds
        paths = [path for name in ('file', 'first', 'second') if (path := getattr(args, name, None))]
        paths += map(weights_path, filter(is_url, args.files)) if args.command == 'pin' else getattr(args, 'files', ())
        found += [f'{weights_name(path)}: {why}' for path in paths if (why := path_checks.file_problem(path))]
    if args.command == 'average':
        found += _average_problems(args)
    if args.command == 'interval':
        found += [
            f'{cli.flag(name)} {value:g}: must be above 0'
            for name in ('mtbf', 'save_seconds')
            if (value := getattr(args, name)) is not None and not 0 < value < math.inf
        ]
        if not 0 <= args.restart_seconds < math.inf:
            found.append(f'--restart-seconds {args.restart_seconds:g}: must be at least 0')
    if args.command == 'sync' and is_url(args.source) == is_url(args.target):
        words = shown(f'sync {args.source} {args.target}')
        found.append(f'{words}: give the folder of a run and the URL of its mirror, such as '
                     'checkpoint/base s3://bucket/checkpoint/base')  # fmt: skip
    elif args.command == 'sync' and args.log is not None and is_url(args.target) and not args.log.is_dir():
        found.append(f'--log {args.log}: no such folder')
    cli.raise_problems(found)
    return args


def _add_looking(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands that change nothing."""
    sub = command('list', 'every checkpoint: metric, size, what is kept and why, whether it is whole')
    sub.add_argument('paths', nargs='*', type=place, metavar='FOLDER', help='of a run; all if left out; or a URL')
    sub.add_argument('--fast', action='store_true', help='look at sizes only')
    sub.add_argument('--json', action='store_true', help='for programs')
    _add_parent(sub)

    sub = command('show', 'what a file of weights or a training state holds, and its record')
    sub.add_argument('file', type=weights_path, metavar='FILE')

    sub = command('verify', 'whether files are whole: own ones by sha256, foreign .pth by their checksums')
    sub.add_argument('paths', nargs='*', type=place, metavar='PATH',
                     help='a file, a folder or a URL; all runs if left out')  # fmt: skip
    _add_parent(sub)

    sub = command('diff', 'how two weight files differ, tensor by tensor, the largest difference first')
    sub.add_argument('first', type=weights_path, metavar='A')
    sub.add_argument('second', type=weights_path, metavar='B')
    sub.add_argument('--top', type=int, default=10, metavar='N', help='tensors shown')
    sub.add_argument('--json', action='store_true', help='for programs; all tensors')

    sub = command('interval', 'how often to save on machines that are lost now and then, by Young and Daly')
    add = sub.add_argument
    add('folder', nargs='?', type=run_place, metavar='FOLDER',
        help='of a run, or the URL of its mirror; may be left out if there is only one run')  # fmt: skip
    add('--mtbf', type=float, required=True, metavar='HOURS',
        help='mean time between losses of any machine of the run: that of one machine, by their number')  # fmt: skip
    add('--save-seconds', type=float, metavar='S',
        help='that a save holds training up for (left out: measured by saving the newest checkpoint anew)')  # fmt: skip
    add('--restart-seconds', type=float, default=0, metavar='S', help='from a loss until the run computes again')
    _add_parent(sub)


def _add_average(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add('files', nargs='*', type=weights_path, metavar='FILE', help='weights, the newest at the end')
    add('--best', type=int, metavar='K', help='the K best checkpoints of a run')
    add('--last', type=int, metavar='K', help='the K newest checkpoints of a run')
    add('--run', type=run_place, metavar='FOLDER',
        help='of that run, or the URL of its mirror; may be left out if there is only one')  # fmt: skip
    add('--ema', action='store_true', help='of these the averages that training kept (.ema.pth)')
    add('--monitor', metavar='METRIC',
        help="loss, sad, mse, mad, grad, fg_mse or conn decides (default: the run's own, or loss)")  # fmt: skip
    add('--batch-norm', choices=('average', 'reestimate'), default='average',
        help='statistics: averaged, or estimated anew over training batches')  # fmt: skip
    add('--reestimate-batches', type=int, default=50, metavar='N', help='training batches for that')
    _add_output(sub)
    _add_parent(sub)


def _average_problems(args: argparse.Namespace) -> list[str]:
    ways = [bool(args.files), args.best is not None, args.last is not None]
    found = []
    if sum(ways) != 1:
        found.append('average: give files, or --best K, or --last K')
    if args.files and (args.run or args.ema):
        found.append('--run and --ema: only with --best or --last; files are averaged as they are')
    if args.batch_norm == 'reestimate' and args.dataset_name is None:
        found.append('--batch-norm reestimate: needs --dataset-name, since it estimates over training pictures')
    return found


def _add_changing(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands that remove, mark or write."""
    sub = command('prune', "remove what a policy does not keep: the run's own, changed by these flags")
    add = sub.add_argument
    add('folder', nargs='?', type=run_place, metavar='FOLDER',
        help='of a run, or the URL of its mirror; may be left out if there is only one run')  # fmt: skip
    add('--keep', type=int, metavar='N', help='keep the weights of the newest N steps')
    add('--best', type=int, metavar='K', help='keep the K best')
    add('--every', type=int, metavar='STEPS', help='keep one checkpoint in so many steps')
    add('--keep-states', type=int, metavar='N', help='keep the training state of the newest N steps, at least 2')
    add('--monitor', metavar='METRIC', help='that decides which are best')
    add('--monitor-mode', choices=('min', 'max'), help='whether lower or higher is better')
    add('--dry-run', action='store_true', help='only say what would go')
    _add_parent(sub)

    sub = command('pin', 'keep checkpoints, with their training state, whatever else is removed')
    sub.add_argument('files', nargs='+', type=place, metavar='FILE',
                     help='.pth of a checkpoint, best.pth, last.pth, or the URL of one in a mirror')  # fmt: skip
    sub.add_argument('--remove', action='store_true', help='take the pin away')

    sub = command('sync', 'copy what is missing of a run: from its folder to a mirror, or back')
    sub.add_argument('source', type=place, metavar='FROM', help='checkpoint/<model_name>, or the URL of its mirror')
    sub.add_argument('target', type=place, metavar='TO', help='the other of these')
    sub.add_argument('--log', type=Path, metavar='FOLDER', help="copy the run's curves in it, too: log/<model_name>")

    sub = command('convert', 'weights of any kind as a bare state_dict (.pth) or as .safetensors')
    sub.add_argument('file', type=weights_path, metavar='IN')
    sub.add_argument('--precision', choices=('float32', 'float16', 'bfloat16'),
                     help='of all floating tensors (default: as they are)')  # fmt: skip
    _add_output(sub)


def place(text: str) -> Path | str:
    """Return a path, that of weights known by a word too, or the URL of a mirror as it is."""
    return text if is_url(text) else _mirror_or_path(weights_path(text))


def run_place(text: str) -> Path | str:
    """Return the path of a run's folder, or the URL of its mirror as it is."""
    return text if is_url(text) else _mirror_or_path(Path(os.path.expanduser(text)))


def _mirror_or_path(path: Path) -> Path | str:
    """Return the URL of a folder that is a mirror, or has mirrors of runs in it; another path as it is."""
    from .mirror.contents import is_mirror

    return f'file://{path.absolute()}' if any(map(is_mirror, (path, *path.glob('*/')))) else path


def _add_output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('-o', '--output', type=Path, required=True, metavar='OUT', help='.pth or .safetensors')
    sub.add_argument('-y', '--overwrite', action='store_true', help='write over OUT if it is there')


def _add_parent(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--checkpoint-dir', type=Path, default=Path('checkpoint'), metavar='DIR',
                     help='parent of the run folders')  # fmt: skip


def folder_table(folder: Mapping[str, Any]) -> str:
    """Format a folder's inventory: a table of each run, then what else lies there."""
    lines = [f'{folder["folder"]}: {megabytes(folder["size"])}']
    for run in folder['runs']:
        rows = [('name', 'step', 'epoch', run['policy']['monitor'], 'size', 'kept because', 'verified')]
        for made in run['checkpoints']:
            metric = '-' if made['metric'] is None else f'{made["metric"]:.6g}'
            why = ', '.join(made['kept']) or 'goes when pruned'
            why += '; its training state goes' if made['kept'] and not made['keeps_state'] else ''
            whole = 'yes' if made['verified'] else 'not read'
            whole = f'DAMAGED: {"; ".join(made["damage"])}' if made['damage'] else whole
            numbers = (str(made['step']), str(made['epoch']), metric, megabytes(made['size']))
            rows.append((made['name'], *numbers, why, whole))
        lines += [f'  {run["stage"]} run {run["run"]}', table(rows, '    ')]
    lines += [f'  {name} is {file}' for name, file in folder['links'].items()]
    lines += [f'  {other["name"]}, {megabytes(other["size"])}: {other["what"]}' for other in folder['others']]
    return '\n'.join(lines)


def difference_table(result: Comparison, first: str, second: str, top: int) -> str:
    """Format how two weight files differ: the largest differences, and what is in one of them only.

    Counters, which differ between any two checkpoints, are counted and not listed.
    """
    tensors = [d for d in result.different if not d.counter]
    counters = [d for d in result.different if d.counter]
    lines = [f'{result.tensors} tensors in both, {len(result.different)} with other values']
    if tensors:
        rows = [('tensor', 'largest difference', 'relative', 'values that differ')]
        for d in tensors[:top]:
            rows.append((d.name, f'{d.largest:.3g}', f'{d.relative:.3g}', f'{100 * d.share:.3g} %'))
        lines.append(table(rows))
    if len(tensors) > top:
        lines.append(f'  and {len(tensors) - top} more (--top)')
    if counters:
        lines.append(f'  and {len(counters)} counters, such as {counters[0].name}, by up to {counters[0].largest:g}')
    for path, names in ((first, result.only_first), (second, result.only_second)):
        if names:
            lines.append(f'only in {path}: {", ".join(names)}')
    for what, pairs in (('shape', result.shapes), ('dtype', result.dtypes)):
        lines += [f'other {what}: {name}, {a} and {b}' for name, (a, b) in pairs.items()]
    return '\n'.join(lines)


def policy_words(policy: Policy) -> str:
    """Say in words what a policy keeps."""
    newest = 'all' if policy.keep is None else f'the newest {policy.keep}'
    every = f', of one in {policy.every} steps' if policy.every else ''
    limit = '' if policy.threshold is None else f', none worse than {policy.threshold:g}'
    best = f'the best {policy.best} by {policy.monitor} ({policy.mode}{limit})'
    return f'keeps the weights of {newest} and of {best}{every}, the newest {policy.states} training states, and pins'


def print_pairs(title: str, content: Mapping[str, Any]) -> None:
    """Print names and values, as many on a line as fit."""
    if not content:
        return
    text = ', '.join(f'{name} {value}' for name, value in content.items())
    print(textwrap.fill(f'{title}: {text}', 120, initial_indent='  ', subsequent_indent='    ', break_on_hyphens=False))


def print_json(content: Any) -> None:
    """Print JSON that every reader takes."""
    print(console.to_json(content))
