# PYTHON_ARGCOMPLETE_OK
"""Export a trained network as TorchScript, for Python and C++, or as a program of torch.export.

TorchScript, whose settings can be set after loading:
  python export_torchscript.py --model-checkpoint model.pth --output model.pt
a program with fixed settings, for torch.export's compilers and runtimes:
  python export_torchscript.py ... --model-backbone-scale 0.25 --model-refine-sample-pixels 80000 --output model.pt2
the same for pictures of one size, which ExecuTorch and LiteRT want:
  python export_torchscript.py ... --resolution 640 360 --output model.pt2

Before the file gets its name, it is loaded again and compared with the checkpoint's network at three sizes, or its own,
TorchScript with other settings as well.

Exit code 0: written; 1: it gives other results, or the disk failed; 2: nothing was started; 130: Ctrl-C. Only with 0
is anything written.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import sys
from collections.abc import Sequence

from common.cli import raise_problems, run
from export import cli

SUFFIXES = ('.pt', '.pth', '.pt2')


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.export_parser(__doc__, '.pt or .pth: TorchScript; .pt2: a program of torch.export')
    group = parser.add_argument_group('export')
    group.add_argument(
        '--precision', choices=('float32', 'float16'), default='float32',
        help='of the weights and of the pictures that it takes')  # fmt: skip
    cli.add_resolution_argument(group, '.pt2: make it')
    cli.add_form_argument(group, 'gather, but masked for .pt2 with --model-refine-mode thresholding')
    return parser.parse_args(argv)


def export(args: argparse.Namespace) -> None:
    """Convert the network, write the file, prove it, and give it its name."""
    problems = cli.export_problems(args, SUFFIXES)
    if args.resolution and args.output.suffix in ('.pt', '.pth'):
        problems.append(f'--output {args.output}: takes any size; leave --resolution out, or end it in .pt2')
    raise_problems(problems)
    import torch

    from export import torchscript
    from model.folding import folded

    trained = cli.read_trained_network(args)
    is_program = args.output.suffix == torchscript.PROGRAM
    print(trained.report + ('\nconverting, which takes half a minute or more' if is_program else ''), flush=True)
    form = args.refine_form or ('masked' if is_program and args.model_refine_mode == 'thresholding' else 'gather')
    about = trained.about | {'precision': args.precision, 'torch': torch.__version__}
    if args.model_type == 'mattingrefine':
        about['refine_form'] = form
    size = next(iter(cli.sizes_of(args)), None)
    if size is not None:
        about['resolution'] = '{}x{}'.format(*size)
    network = folded(trained.network) if is_program else trained.network
    with cli.placed(args.output, args.overwrite, args.validate) as path:
        torchscript.save(network, path, args.precision, form, about, size)
        if args.validate:
            torchscript.prove(path, network, trained.network, args.precision, args.validate_pair or (), size)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run_export(export, parse(argv))


if __name__ == '__main__':
    sys.exit(run(main))
