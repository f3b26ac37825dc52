"""What the export scripts share: the flags about files and proof, the checkpoint with its origin, names that are free.

Importing this does not import torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export import ParityError
from inference import options

if TYPE_CHECKING:
    from export.parity import Comparison, Limits
    from model import MattingBase

INSTALL = "pip install -e '.[export]'"


@dataclass(frozen=True)
class Source:
    """A trained network that is to be exported.

    Attributes:
        network: in evaluation mode, float32, on the CPU; BatchNorm as it was trained.
        about: what an export says of it, in plain words: settings, and the checkpoint's name, sha256, and step, epoch
            and run where its record is there.
        report: one line for the console.
    """

    network: MattingBase
    about: dict[str, str]
    report: str


def add_output_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """Adds the flags for the file that is written, which `output` describes, and for its proof."""
    add = parser.add_argument_group('output').add_argument
    add('--output', type=Path, required=True, metavar='FILE', help=output)
    add('-y', dest='overwrite', action='store_true', help='replace it if it is there')
    add('--validate', action=argparse.BooleanOptionalAction, default=True,
        help='compare with the original on two pictures, and write nothing if results differ')  # fmt: skip
    add('--validate-pair', nargs=2, type=Path, metavar=('SRC', 'BGR'),
        help='a photograph of yours and its plate to compare on; sample photographs if left out')  # fmt: skip


def output_problems(args: argparse.Namespace, suffixes: Sequence[str], modules: Sequence[str] = ()) -> list[str]:
    """What is wrong with these flags, and which of the modules that an export needs are missing."""
    found, out = [], args.output
    if out.suffix not in suffixes:
        found.append(f'--output {out}: must end in {" or ".join(suffixes)}')
    if not out.parent.is_dir():
        found.append(f'--output {out}: there is no folder {out.parent}')
    elif not os.access(out.parent, os.W_OK):
        found.append(f'--output {out}: the folder {out.parent} cannot be written to')
    elif out.exists() and not args.overwrite:
        found.append(f'--output {out}: exists; choose another name, or replace it with -y')
    if args.model_checkpoint.exists() and out.exists() and out.samefile(args.model_checkpoint):
        found.append(f'--output {out}: is the checkpoint itself; choose another name')
    for path in args.validate_pair or ():
        if not path.is_file():
            found.append(f'--validate-pair {path}: no such file')
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        found.append(f'{", ".join(missing)} is not installed, which this export needs: {INSTALL}')
    if args.validate and not args.validate_pair and importlib.util.find_spec('sklearn') is None:
        found.append(f'--validate: the sample photographs are in scikit-learn, which is not installed: {INSTALL}; '
                     'or give photographs of yours with --validate-pair')  # fmt: skip
    return found


def read_source(args: argparse.Namespace) -> Source:
    """Reads the checkpoint of the model's flags.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds other weights than the flags say.
    """
    import weight_files
    from inference.networks import load_network
    from training.record import read_records

    arguments, path = options.model_arguments(args), args.model_checkpoint
    verifier = weight_files.verifier()
    verdict = verifier.check(path)
    if verdict.damaged:
        raise ValueError(f'{path}: damaged: {verdict.text}')
    network, report = load_network(**arguments)
    about = {key: str(value) for key, value in arguments.items() if key != 'path'}
    sha256 = verifier.digest(path)
    about |= {'checkpoint': path.name, 'checkpoint_sha256': sha256}
    # By content: best.pth is another name of a checkpoint's file.
    for record in read_records(path.resolve().parent):
        if sha256 in (file.sha256 for file in record.files.values()):
            about |= {'run': record.run, 'epoch': str(record.epoch), 'step': str(record.step)}
    return Source(network.eval(), about, str(report))


def judge(comparisons: Sequence[Comparison], limits: Limits, proof: str) -> None:
    """Prints what was compared, and how.

    Raises:
        export.ParityError: something differs by more than the limits.
    """
    problems = []
    print('worst difference from the original (mean; mean of refined cells):')
    for comparison in comparisons:
        print(comparison, flush=True)
        problems += [f'{comparison.name}: {problem}' for problem in comparison.problems(limits)]
    if problems:
        raise ParityError('not equal to the original, nothing written:\n  ' + '\n  '.join(problems))
    print(f'proved equal by {proof}', flush=True)


def finish(run: Callable[[], None]) -> int:
    """Runs an export; returns the script's exit code and says in a line what went wrong."""
    try:
        run()
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except (ParityError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped: nothing was written', file=sys.stderr)
        return 130
    return 0


def refuse(problems: Sequence[str]) -> None:
    """Raises ValueError with all problems of a command line, a line each, if there are any."""
    if problems:
        raise ValueError('\n  '.join([f'{len(problems)} problems:', *problems]) if problems[1:] else problems[0])
