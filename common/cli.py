"""What all command lines share: parser, flags of machine and refiner, checks, and how a script says what went wrong.

Imports no torch, so `--help` answers at once. A check is a function that returns problems, one line each; a script
collects them all and raises them as one message.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .console import reader_left
from .installation import import_problem, python_problem
from .network import REFINE_MODES, RefinerSettings
from .stores import UnavailableStore, with_urls


class Devices(tuple[str, ...]):
    """The values of `--device` that a shell completes; one GPU of several is among them, too."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or re.fullmatch(r'cuda:\d+', str(name)) is not None


DEVICES = Devices(('auto', 'cuda', 'mps', 'cpu'))
PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16')
AUTO_PRECISION = 'auto: float16 on cuda, float32 elsewhere'
LEFT = 141  # of a program whose reader has left, as a shell tells it
TRY_AGAIN = 75  # where nothing was started, and the same may succeed later, as sysexits.h has it
# How argparse begins its messages, and how this parser does.
MESSAGES = (
    (r'^argument ([^\s/:]+)[^\s:]*', r'\1'),
    (r"^(\S+): invalid int value: '(.*)'$", r'\1 \2: must be a whole number'),
    (r"^(\S+): invalid float value: '(.*)'$", r'\1 \2: must be a number'),
    (
        r'^the following arguments are required: (.*)',
        lambda m: f'{re.sub("/-[^,]*", "", m[1])}: must be given; --help explains',
    ),
    (r'^unrecognized arguments: (.*)', r'\1: belongs to no flag'),
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults that say something as they are typed, and keep the description's line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if isinstance(action, argparse.BooleanOptionalAction):
            return f'{action.help} (default: {"on" if default else "off"})'
        # Not `in (None, False)`: 0 equals False, and a default of 0 says something.
        if default is None or isinstance(default, bool) or default == [] or action.required:
            return action.help
        if isinstance(default, (list, tuple)):
            return f'{action.help} (default: {" ".join(map(str, default))})'
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = spellings(action)
        return super()._format_action_invocation(shown)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == '+':  # not the whole list of choices a second time
            return f'{self._metavar_formatter(action, default_metavar)(1)[0]} ...'
        return super()._format_args(action, default_metavar)


class Parser(argparse.ArgumentParser):
    """An argument parser whose help begins with what a script does, and whose errors are one line each.

    It takes no abbreviations. A flag's further long spellings are taken and not shown. Of a path, '~' means the home
    folder also in --flag=~/path, which a shell leaves as it is. Shells complete flags and choices by argcomplete.
    """

    def __init__(self, description: str | None, **more: Any):
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False, **more)
        self.register('type', Path, lambda text: Path(os.path.expanduser(text)))

    def group(self, title: str) -> argparse._ArgumentGroup:
        """Return the group of flags with this title; make it where there is none."""
        return next((g for g in self._action_groups if g.title == title), None) or self.add_argument_group(title)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the command line; from now on, closed streams take everything, and others what their encoding lacks."""
        if '_ARGCOMPLETE' in os.environ:
            import argcomplete

            argcomplete.autocomplete(self, exclude=set(self._option_string_actions) - set(self._flags()))
        for name in ('stdout', 'stderr'):
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115
        if getattr(sys.stdout, 'errors', '') == 'strict':
            sys.stdout.reconfigure(errors='backslashreplace')  # type: ignore[union-attr]
        return super().parse_args(args, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read a part of the command line; name flags that are not known before those that are missing."""
        words = sys.argv[1:] if args is None else list(args)
        if unknown := [self._guess(word.split('=')[0]) for word in self._own(words) if not self._knows(word)]:
            self.error(one_message(unknown))
        return super().parse_known_args(words, namespace)

    def _own(self, words: Sequence[str]) -> Iterable[str]:
        """Return the words before '--', or before a sub-command."""
        for word in words:
            if word == '--' or (self._subparsers and not word.startswith('-')):
                return
            yield word

    def _knows(self, word: str) -> bool:
        """Return whether a word is no flag, or one of this parser's; short ones may have their value attached."""
        known = self._option_string_actions
        is_flag = word.startswith('-') and word != '-' and ' ' not in word and not re.match(r'-\.?\d', word)
        return not is_flag or word.split('=')[0] in known or (word[1] != '-' and word[:2] in known)

    def _flags(self) -> list[str]:
        return [spelling for action in self._actions for spelling in spellings(action)]

    def _guess(self, name: str) -> str:
        near = nearest(name.strip('-').replace('_', '-'), {flag.strip('-'): flag for flag in self._flags()})
        return f'{name}: no such flag; ' + (f'did you mean {near}?' if near else f'{self.prog} --help lists them')

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name, choices = next(iter(action.option_strings), action.metavar), [str(x) for x in action.choices]
            hint = f'; did you mean {near}?' if (near := nearest(str(value), dict(zip(choices, choices)))) else ''
            raise argparse.ArgumentError(None, f'{name} {value}: must be one of {", ".join(choices)}{hint}')

    def format_help(self) -> str:
        """Return what the script does, its shortest command line, and then all else."""
        words = [self.prog, *filter(None, map(self._in_usage, self._actions)), '[flags]']
        whole = ' '.join(word.replace(' ', '\0') for word in words)  # a flag and its value stay on one line
        lines = textwrap.wrap(whole, 110, subsequent_indent='    ', break_long_words=False, break_on_hyphens=False)
        self.usage = '\n'.join(lines).replace('\0', ' ').replace('%', '%%')
        usage, about, *rest = super().format_help().split('\n\n', 2)
        text = '\n\n'.join([about, usage, *rest] if self.description else [usage, about, *rest])
        if self.prog.startswith('bgmatting '):  # it works in any folder, and the scripts only in theirs
            text = re.sub(r'python (?:inference_)?(\w+)\.py', lambda m: f'bgmatting {m[1].replace("_", "-")}', text)
        return text

    def _in_usage(self, action: argparse.Action) -> str:
        """Return a flag that must be given, with its value, or a word that may be; else ''."""
        flag = next(iter(action.option_strings), '')
        if flag and not action.required:
            return ''
        value = self._get_formatter()._format_args(action, action.dest.upper())
        return f'{flag} {value}'.strip() if action.required or action.nargs in ('?', '*') else value

    def error(self, message: str) -> Any:
        """End the script with code 2 and one line, without its usage."""
        for pattern, words in MESSAGES:
            message = re.sub(pattern, words, message)
        self.exit(2, f'error: {message}\n')


def spellings(action: argparse.Action) -> list[str]:
    """Return how a flag is spelled, without the older long spellings that are taken, too."""
    longs = [name for name in action.option_strings if name.startswith('--')]
    older = [] if isinstance(action, argparse.BooleanOptionalAction) else longs[1:]
    return [name for name in action.option_strings if name not in older]


def nearest(word: str, meanings: Mapping[str, str]) -> str | None:
    """Return what the word nearest to one that was typed means; None if none is near."""
    near = difflib.get_close_matches(word, meanings, 1, cutoff=0.55)
    return meanings[near[0]] if near else None


def run(main: Callable[..., int | None], *args: Any) -> int:
    """Run a script's `main` and return its exit code; what its Python lacks ends it with one line.

    Sets, before torch is imported, how long the threads of a layer wait awake for each other: not for long, since other
    threads and processes need the cores, too (docs/experiments.md has what that brings).
    """
    os.environ.setdefault('GOMP_SPINCOUNT', '10000')
    if problem := python_problem():
        print(f'error: {problem}', file=sys.stderr)
        return 2
    try:
        code = main(*args) or 0
    except ImportError as error:
        code = report_error(error, 2)
    return LEFT if reader_left() else code


def flag(name: str) -> str:
    """Return the flag of an attribute: '--batch-size' for 'batch_size'."""
    return '--' + name.replace('_', '-')


def one_message(problems: Sequence[str]) -> str:
    """Return a message that lists problems, one line each."""
    return '\n  '.join([f'{len(problems)} problems:', *problems]) if problems[1:] else problems[0]


def raise_problems(problems: Sequence[str]) -> None:
    """Raise a ValueError that lists all problems, one line each, if there are any."""
    if problems:
        raise ValueError(one_message(problems))


def add_superseded_arguments(parser: argparse.ArgumentParser, instead: Mapping[str, str], **more: Any) -> None:
    """Add flags of published scripts that change nothing here.

    Args:
        parser: gets a group of them.
        instead: what is done instead, by attribute.
        more: settings of single flags, by attribute; those of the others take a value.
    """
    add = parser.add_argument_group('accepted from Background Matting V2, and of no effect').add_argument
    for name, what in instead.items():
        add(flag(name), default=argparse.SUPPRESS, help=what, **more.get(name, {'metavar': 'X'}))


def note_superseded(args: argparse.Namespace, instead: Mapping[str, str]) -> None:
    """Say in a line for each flag of `add_superseded_arguments` that was given what is done instead."""
    for name, what in instead.items():
        if hasattr(args, name):
            print(f'note: {flag(name)}: {what}', file=sys.stderr)


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: the GPU's, or the computer's, for which torch has no type of its own."""
    words = ('out of memory', "can't allocate memory", 'insufficient memory')
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def unstarted_code(error: BaseException) -> int:
    """Return the exit code of an error before anything was started: 2, or TRY_AGAIN where that may help."""
    return TRY_AGAIN if isinstance(error, UnavailableStore) else 2


def report_error(error: BaseException, code: int, prefix: str = '', memory: str = '') -> int:
    """Print an error that the user can act on as one line, and return the exit code.

    Args:
        error: what was caught.
        code: 2 where nothing was started, else 1. A store that is unavailable makes TRY_AGAIN of 2.
        prefix: begins the line, such as 'stopped: '.
        memory: what helps where memory ran out.

    Raises:
        BaseException: the error itself, if it is a fault of the toolkit's.
    """
    if isinstance(error, BrokenPipeError) and reader_left('\n'):  # which fails again, if it was standard output
        return LEFT
    if isinstance(error, ImportError) and (problem := import_problem(error)):
        text, code, prefix = problem, 2, ''
    elif out_of_memory(error):
        text = f'too little memory{": " if memory else ""}{memory}'
    elif isinstance(error, (ValueError, OSError)):
        text = str(error)
        code = unstarted_code(error) if code == 2 else code
    else:
        raise error
    print(f'error: {prefix}{with_urls(text)}', file=sys.stderr)
    return code


def at_least_problems(args: argparse.Namespace, least: dict[str, int]) -> list[str]:
    """Return a problem for each attribute that is given and below its least value."""
    return [
        f'{flag(name)} {value}: must be at least {low}'
        for name, low in least.items()
        if (value := getattr(args, name, None)) is not None and value < low
    ]


def range_problems(args: argparse.Namespace, ranges: dict[str, tuple[int, int]]) -> list[str]:
    """Return a problem for each attribute outside its range, both ends included."""
    values = {name: getattr(args, name) for name in ranges}
    return [
        f'{flag(name)} {values[name]}: must be in {low}..{high}'
        for name, (low, high) in ranges.items()
        if not low <= values[name] <= high
    ]


def add_device_argument(add: Callable[..., object]) -> None:
    """Add `--device`."""
    add('--device', choices=DEVICES, default='auto',
        help='where to compute; auto: cuda, else mps, else cpu; cuda:1 and so on: one GPU of several')  # fmt: skip


def add_precision_argument(add: Callable[..., object], more: str = '') -> None:
    """Add `--precision`; `more` is added to its help."""
    add('--precision', choices=PRECISIONS, default='auto', help=f'of the networks; {AUTO_PRECISION}{more}')


def add_threads_argument(add: Callable[..., object], work: str) -> None:
    """Add `--num-workers` of a script whose threads read pictures, and as many others do another work."""
    add('--num-workers', type=int, metavar='N',
        help=f'threads that read pictures, and as many that {work}; one per core if left out (CPU: per 2)')  # fmt: skip


def precision_problems(device: str, precision: str) -> list[str]:
    """Return what is wrong with `--precision` on a device that is named."""
    if (device, precision) != ('cpu', 'float16'):
        return []
    return ['--precision float16: needs a GPU; use bfloat16 or float32 with --device cpu']


def add_refiner_arguments(add: Callable[..., object], defaults: RefinerSettings | None, kernel: bool = True) -> None:
    """Add `--model-backbone-scale` and `--model-refine-*`.

    Args:
        add: of the group.
        defaults: None leaves every flag that is not given at None.
        kernel: add `--model-refine-kernel-size`, too.
    """
    chosen = RefinerSettings() if defaults is None else defaults
    default = None if defaults is None else vars(chosen).get
    get = (lambda _: None) if default is None else default
    add('--model-backbone-scale', type=float, default=get('backbone_scale'), metavar='X',
        help='sides of what the coarse network sees, of the picture\'s; 0.25 for HD, 0.125 for 4K')  # fmt: skip
    add('--model-refine-mode', choices=REFINE_MODES, default=get('refine_mode'),
        help='refine all cells of 4x4 pixels, a fixed number, or those of large error')  # fmt: skip
    add('--model-refine-sample-pixels', type=int, default=get('refine_sample_pixels'), metavar='N',
        help='pixels refined per picture, for sampling; 80000 for HD, 320000 for 4K')  # fmt: skip
    add('--model-refine-threshold', '--model-refine-thresholding', type=float, default=get('refine_threshold'),
        metavar='X', help='predicted error above which a cell is refined, 0..1, for thresholding')  # fmt: skip
    if kernel:
        add('--model-refine-kernel-size', type=int, choices=(1, 3), default=get('refine_kernel_size'),
            help="of the refiner's convolutions; part of the weights")  # fmt: skip


def refiner_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags of `add_refiner_arguments`; those that are None are left out."""
    scale, pixels, threshold = (
        args.model_backbone_scale, args.model_refine_sample_pixels, args.model_refine_threshold,
    )  # fmt: skip
    found = []
    if scale is not None and not 0 < scale <= 0.5:
        found.append(f'--model-backbone-scale {scale}: must be above 0 and at most 0.5')
    if pixels is not None and pixels < 16:
        found.append(f'--model-refine-sample-pixels {pixels}: must be at least 16, one cell')
    if threshold is not None and not 0 <= threshold <= 1:
        found.append(f'--model-refine-threshold {threshold}: must be in 0..1')
    return found
