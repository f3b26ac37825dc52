"""Export a trained network as TorchScript, for Python and C++, or as a program of torch.export.

TorchScript, whose settings can be set after loading:
  python export_torchscript.py --model-type mattingrefine --model-backbone resnet50 --model-checkpoint model.pth \\
      --output model.pt
a program with fixed settings, for torch.export's compilers and runtimes:
  python export_torchscript.py ... --model-backbone-scale 0.25 --model-refine-sample-pixels 80000 --output model.pt2

The file is loaded again and compared with the checkpoint's network at three sizes, TorchScript with other settings as
well, before it gets its name. Exit code 0: written; 1: it gives other results, or the disk failed; 2: nothing was
started; 130: Ctrl-C. Nothing is written then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from common import cli
from export import cli as exporting
from inference import options

SUFFIXES = ('.pt', '.pth', '.pt2')


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = cli.Parser(__doc__)
    options.add_model_arguments(parser)
    exporting.add_output_arguments(parser, '.pt or .pth: TorchScript; .pt2: a program of torch.export')
    group = parser.add_argument_group('export')
    group.add_argument(
        '--precision', choices=('float32', 'float16'), default='float32',
        help='of the weights and of the pictures that it takes')  # fmt: skip
    exporting.add_form_argument(group, 'gather, but masked for .pt2 with --model-refine-mode thresholding')
    return parser.parse_args(argv)


def export(args: argparse.Namespace) -> None:
    """Writes the file that the command line asks for.

    Raises:
        ValueError, FileNotFoundError: something is wrong with the flags or with the checkpoint.
        export.ParityError: the file gives other results than the network.
    """
    problems = options.model_problems(args) + exporting.output_problems(args, SUFFIXES)
    cli.raise_problems(problems)
    import torch

    from export import torchscript
    from model.folding import folded

    source = exporting.read_source(args)
    is_program = args.output.suffix == torchscript.PROGRAM
    print(source.report + ('\nconverting, which takes half a minute or more' if is_program else ''), flush=True)
    form = args.refine_form or ('masked' if is_program and args.model_refine_mode == 'thresholding' else 'gather')
    about = source.about | {'precision': args.precision, 'torch': torch.__version__}
    if args.model_type == 'mattingrefine':
        about['refine_form'] = form
    network = folded(source.network) if is_program else source.network
    with exporting.unfinished(args) as path:
        torchscript.write(path, network, args.precision, form, about)
        if args.validate:
            files = args.validate_pair or ()
            for proof in torchscript.proofs(path, network, source.network, args.precision, files):
                exporting.judge(*proof)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit code."""
    args = parse(argv)
    return exporting.finish(lambda: export(args))


if __name__ == '__main__':
    sys.exit(main())
