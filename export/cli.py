"""What the export scripts share: the flags about files and proof, the checkpoint with its origin, names that are free.

Importing this does not import torch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli
from common.network import NetworkSettings
from inference.backend_options import INSTALL

from . import ParityError

if TYPE_CHECKING:
    from model import MattingBase

    from .parity import Comparison, Limits


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
        help='compare with the original on pictures that it did not see; write nothing if results differ')  # fmt: skip
    add('--validate-pair', nargs=2, type=Path, metavar=('SRC', 'BGR'),
        help='a photograph of yours and its plate to compare on; sample photographs if left out')  # fmt: skip


def add_form_argument(group: argparse._ArgumentGroup, default: str) -> None:
    """Adds the flag for the refiner's form; `default` says what it is where the flag is left out."""
    group.add_argument(
        '--refine-form', choices=('gather', 'masked'),
        help='compute the chosen cells alone, by top-k and gathering, or all cells and keep the chosen; '
        f'if left out {default}')  # fmt: skip


def name_problems(args: argparse.Namespace) -> list[str]:
    """What stands in the way of the output's name."""
    found, out = [], args.output
    if not out.parent.is_dir():
        found.append(f'--output {out}: there is no folder {out.parent}')
    elif not os.access(out.parent, os.W_OK):
        found.append(f'--output {out}: the folder {out.parent} cannot be written to')
    elif out.exists() and out.is_dir() != (out.suffix == '.mlpackage' and (out / 'Manifest.json').is_file()):
        found.append(f'--output {out}: is a {"folder" if out.is_dir() else "file"}; choose another name')
    elif out.exists() and not args.overwrite:
        found.append(f'--output {out}: exists; choose another name, or replace it with -y')
    return found


def output_problems(args: argparse.Namespace, suffixes: Sequence[str], modules: Sequence[str] = ()) -> list[str]:
    """What is wrong with these flags, and which of the modules that an export needs are missing."""
    found, out = [], args.output
    if out.suffix not in suffixes:
        found.append(f'--output {out}: must end in {" or ".join(suffixes)}')
    found += name_problems(args)
    if args.model_checkpoint.exists() and out.exists() and out.samefile(args.model_checkpoint):
        found.append(f'--output {out}: is the checkpoint itself; choose another name')
    for path in args.validate_pair or ():
        if not path.is_file():
            found.append(f'--validate-pair {path}: no such file')
        elif args.validate:
            from dataset.readers import ImageError, read_rgb

            try:
                read_rgb(path)
            except ImageError as error:
                found.append(f'--validate-pair: {error}')
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        found.append(f'{", ".join(missing)} is not installed, which this export needs: {INSTALL}')
    if args.validate and not args.validate_pair and importlib.util.find_spec('sklearn') is None:
        found.append(f'--validate: the sample photographs are in scikit-learn, which is not installed: {INSTALL}; '
                     'or give photographs of yours with --validate-pair')  # fmt: skip
    return found


@contextlib.contextmanager
def unfinished(args: argparse.Namespace) -> Iterator[Path]:
    """A path beside the output; the file that is written there gets the output's name when the block ends well."""
    with tempfile.TemporaryDirectory(prefix=f'.{args.output.name}.', dir=args.output.parent) as folder:
        path = Path(folder) / args.output.name
        yield path
        cli.raise_problems(name_problems(args))  # what has come there in the meantime
        os.replace(path, args.output)
    proved = '' if args.validate else '; not compared with the original'
    print(f'{args.output}: {args.output.stat().st_size / 1e6:.1f} MB{proved}', flush=True)


def read_source(args: argparse.Namespace) -> Source:
    """Reads the checkpoint of the model's flags.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds other weights than the flags say.
    """
    from inference.networks import load_network

    settings, path = NetworkSettings.from_options(vars(args)).values, args.model_checkpoint
    network, report, origin = load_network(path, **settings)
    about = {key: str(value) for key, value in settings.items()}
    about |= {'checkpoint': path.name, 'checkpoint_sha256': origin.sha256}
    about |= {key: str(value) for key, value in origin.position.items()}
    trained = origin.refiner.backbone_scale if origin.refiner else None
    text = str(report)
    if 'backbone_scale' in about:
        text += f'; backbone scale {about["backbone_scale"]}, {about["refine_mode"]}'
        text += f' of {about["refine_sample_pixels"]} pixels' if about['refine_mode'] == 'sampling' else ''
        if trained not in (None, settings['backbone_scale']):
            text += f' (note: it was trained at scale {trained}, for pictures of another size perhaps)'
    return Source(network.eval(), about, text)


def judge(comparisons: Sequence[Comparison], limits: Limits, verdict: str) -> None:
    """Prints what was compared, and then, in the words of `verdict`, that nothing differs by more than the limits.

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
    unseen = all(comparison.refined == 0 for comparison in comparisons)
    note = '; but it refined no cell of these pictures, so try yours: --validate-pair' if unseen else ''
    allowed = f'worst {limits.worst:g}, mean {limits.mean:g}, {limits.cells:.1%} of the cells'
    print(f'{verdict} (limits: {allowed}){note}', flush=True)


def finish(run: Callable[[], None]) -> int:
    """Runs an export; returns the script's exit code and says in a line what went wrong. SIGTERM ends it as Ctrl-C."""
    stopped = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    try:
        run()
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except (ParityError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        from common.cli import out_of_memory

        if not isinstance(error, MemoryError) and not out_of_memory(error):
            raise
        print('error: too little memory; nothing was written', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped: nothing was written', file=sys.stderr)
        return 128 + (stopped[0] if stopped else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, former)
    return 0
