"""What the export scripts share: flags and checks, reading the trained network, placing the output, the exit code.

Importing this does not import torch.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, files, path_checks, signals
from common.console import megabytes
from common.installation import missing_problems
from common.network import ALL_OUTPUTS, MIN_SIDE, OUTPUTS, Size
from inference import backend_options, options

from . import ParityError

if TYPE_CHECKING:
    from model import MattingBase

# A Core ML package is a folder with a manifest.
PACKAGE = '.mlpackage'
MANIFEST = 'Manifest.json'
EXPORTED = ('.onnx', '.pt2', PACKAGE)  # which hold no weights that could be read
MAX_SIDE = 16_384


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with trained weights, and where these come from."""

    network: MattingBase  # in evaluation mode, float32, on the CPU, BatchNorm not folded
    about: dict[str, str]  # settings, the checkpoint's name, sha256, and step, epoch and run if it has a record
    report: str  # one line for the console


def export_parser(description: str | None, output: str, metavar: str = 'FILE') -> argparse.ArgumentParser:
    """Return a parser with the flags for network, output and comparison; `output` is the help of `--output`."""
    parser = cli.Parser(description)
    options.add_model_arguments(parser, required=True)
    add = parser.add_argument_group('output').add_argument
    add('--output', type=Path, required=True, metavar=metavar, help=output)
    add('-y', dest='overwrite', action='store_true', help='replace it if it is there')
    add('--validate', action=argparse.BooleanOptionalAction, default=True,
        help='compare with the original on pictures that it did not see; write nothing if results differ')  # fmt: skip
    add('--validate-pair', nargs=2, type=Path, metavar=('SRC', 'BGR'),
        help='a photograph of yours and its plate to compare on; sample photographs if left out')  # fmt: skip
    return parser


def add_form_argument(group: argparse._ArgumentGroup, default: str) -> None:
    """Add `--refine-form`; `default` says in its help what is taken if it is left out."""
    group.add_argument(
        '--refine-form', choices=('gather', 'masked'),
        help='compute the chosen cells alone, by top-k and gathering, or all cells and keep the chosen; '
        f'if left out {default}')  # fmt: skip


def add_resolution_argument(group: argparse._ArgumentGroup, what: str) -> None:
    """Add `--resolution` of one size; `what` begins its help."""
    group.add_argument(
        '--resolution', type=int, nargs=2, metavar=('WIDTH', 'HEIGHT'),
        help=f'{what} for one picture of this size alone, as converters for phones want; any sides do')  # fmt: skip


def sizes_of(args: argparse.Namespace) -> list[Size]:
    """Return the sizes (width, height) of `--resolution`, each once; none where the flag is left out or not there."""
    sides = getattr(args, 'resolution', None) or []
    return list(dict.fromkeys(zip(sides[::2], sides[1::2])))


def resolution_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with `--resolution`, also for the network's scale where that is known."""
    sides = getattr(args, 'resolution', None) or []
    found = []
    if len(sides) % 2:
        found.append('width and height, in pairs')
    if sides and not MIN_SIDE <= min(sides) <= max(sides) <= MAX_SIDE:
        found.append(f'sides must be in {MIN_SIDE}..{MAX_SIDE}')
    elif sides and args.model_type == 'mattingrefine' and min(sides) * (args.model_backbone_scale or 1) < 1:
        found.append(f'too small for --model-backbone-scale {args.model_backbone_scale}')
    return [f'--resolution {" ".join(map(str, sides))}: {problem}' for problem in found]


def export_problems(
    args: argparse.Namespace, suffixes: Sequence[str], modules: Sequence[str] = (), marker: str | None = None
) -> list[str]:
    """Return what is wrong with the flags of `export_parser`, and which of the needed modules are not installed.

    `suffixes` are those that the output may have, none where any will do; `marker` is the file that says of a folder
    that it is an output of this kind, and may be replaced.
    """
    found = options.model_problems(args) + resolution_problems(args)
    if suffixes and args.output.suffix not in suffixes:
        found.append(f'--output {args.output}: must end in {" or ".join(suffixes)}')
    pair = args.validate_pair or ()
    if args.model_checkpoint.suffix in EXPORTED:
        found.append(f'--model-checkpoint {args.model_checkpoint}: exported already; give the weights it was made of')
    found += _name_problems(args.output, args.overwrite, marker, [args.model_checkpoint, *pair])
    for path in pair:
        if why := path_checks.file_problem(path, ['picture']):
            found.append(f'--validate-pair {path}: {why}')
        elif args.validate:
            from dataset.readers import ImageError, read_rgb

            try:
                read_rgb(path)
            except ImageError as error:
                found.append(f'--validate-pair: {error}')
    found += missing_problems(*modules)
    if args.validate and not pair:
        found += missing_problems('sklearn', needed_by='--validate-pair SRC BGR, or the photographs of scikit-learn: ')
    return found


def outputs_problems(args: argparse.Namespace, more: Sequence[str] = ()) -> list[str]:
    """Return which `--outputs` the network does not have, once its type is known; all have the `more` ones."""
    allowed = [*more, *OUTPUTS.get(args.model_type, ALL_OUTPUTS)]
    foreign = [name for name in args.outputs or () if name not in allowed]
    return [f'--outputs {" ".join(foreign)}: {args.model_type} has {", ".join(allowed)}'] if foreign else []


def _name_problems(output: Path, overwrite: bool, marker: str | None, inputs: Collection[Path] = ()) -> list[str]:
    marker = MANIFEST if output.suffix == PACKAGE else marker
    # Only a folder that has the marker may be replaced by one.
    replaces_folder = marker is not None and (output.is_file() or (output / marker).is_file())
    return path_checks.output_file_problems('--output', output, overwrite, inputs, replaces_folder)


def read_trained_network(args: argparse.Namespace) -> TrainedNetwork:
    """Read the checkpoint, and give the flags of the network that were left out what it says.

    Args:
        args: flags of which `export_problems` finds none wrong.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds weights of another network than that of the flags; or `--resolution` is
            too small for that.
    """
    found = backend_options.find(args, sizes_of(args), still=False, backend='pytorch')
    cli.raise_problems(resolution_problems(args))
    network, _ = found.build()
    assert found.weights is not None
    origin = found.weights.origin
    about = {key: str(value) for key, value in found.settings.values.items()}
    about |= {'checkpoint': found.path.name, 'checkpoint_sha256': origin.sha256}
    about |= {key: str(value) for key, value in origin.position.items()}
    return TrainedNetwork(network.eval(), about, str(found))


@contextlib.contextmanager
def placed(output: Path, overwrite: bool, validated: bool, more: str = '', marker: str | None = None) -> Iterator[Path]:
    """Give a path beside the output; what is there gets the output's name when the block ends without an error.

    Then print the name and size, `more`, and whether the block did not compare it with the original.

    Raises:
        ValueError: meanwhile the output's name was taken.
        OSError: the disk's own error.
    """
    with tempfile.TemporaryDirectory(prefix=f'.{output.name}.', dir=output.parent) as folder:
        path = Path(folder) / output.name
        yield path
        cli.raise_problems(_name_problems(output, overwrite, marker))
        files.replace_whole(path, output)
    parts = output.rglob('*') if output.is_dir() else [output]
    size = sum(path.stat().st_size for path in parts if path.is_file())
    print(f'{output}: {megabytes(size)}{more}{"" if validated else "; not compared with the original"}', flush=True)


def run_export(export: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run an export and return the script's exit code; print in one line what went wrong, or which signal came."""

    def work() -> int:
        try:
            export(args)
        except ParityError as error:
            print(f'error: {error}; --no-validate writes it unproved', file=sys.stderr)
            return 1
        except Exception as error:
            refused = isinstance(error, (ValueError, FileNotFoundError))
            return cli.report_error(error, 2 if refused else 1, memory='nothing was written')
        return 0

    return signals.run_until_stopped(work, 'stopped: nothing was written')
