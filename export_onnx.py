# PYTHON_ARGCOMPLETE_OK
"""Export a trained network as ONNX, for ONNX Runtime, OpenVINO, TensorRT and others, for any batch and any sides.

a network as it was trained, or as published for HD if its weights have no record:
  python export_onnx.py --model-checkpoint model.pth --output model.onnx
for 4K, in half precision, alpha and foreground alone:
  python export_onnx.py ... --model-backbone-scale 0.125 --model-refine-sample-pixels 320000 \\
      --precision float16 --outputs pha fgr --output model.onnx
for pictures of one size, which OpenCV 4 and converters for phones want:
  python export_onnx.py ... --resolution 640 360 --output model.onnx
try it:
  python inference_images.py ... --model-checkpoint model.onnx

Inputs are src and bgr, (batch, 3, height, width), RGB, 0..1; sides are multiples of 4 if the network refines, unless
they are fixed. Before the file gets its name, ONNX Runtime runs it at three sizes, or its own, on photographs and
drawings, one by one and together, and the results are compared with those of the checkpoint's network. Its settings are
fixed; its metadata holds them and where the weights come from.

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

from common.cli import add_superseded_arguments, note_superseded, raise_problems, run
from common.network import ALL_OUTPUTS, PATCH_CROP_METHODS, PATCH_REPLACE_METHODS
from export import cli

# From the oldest that torch writes to the newest that it converts to.
OPSETS = range(18, 26)
OLDER_OPSETS = range(7, 18)  # those of former exporters
# Flags of the published script that change nothing here.
INSTEAD = {
    'model_refine_patch_crop_method': 'cells are gathered by index; --refine-form masked gathers none',
    'model_refine_patch_replace_method': 'cells are put back by rows; --refine-form masked moves none',
    'onnx_constant_folding': 'constants are always folded',
    'onnx_verbose': 'the differences from the original are always printed',
    'device': 'the CPU exports; the file runs on any device',
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.export_parser(__doc__, 'the file, which ends in .onnx')
    group = parser.add_argument_group('export')
    add = group.add_argument
    add('--onnx-opset-version', type=int, default=20, metavar='N',
        help=f'version of the operators, {OPSETS[0]} to {OPSETS[-1]}, lower for older runtimes')  # fmt: skip
    add('--precision', choices=('float32', 'float16'), default='float32', help='of weights, pictures and results')
    add('--outputs', nargs='+', metavar='NAME', choices=ALL_OUTPUTS,
        help='of pha fgr pha_sm fgr_sm err_sm ref_sm, mattingbase: pha fgr err hid; all if left out')  # fmt: skip
    cli.add_resolution_argument(group, 'make the file')
    cli.add_form_argument(group, 'gather, but masked for thresholding')
    add_superseded_arguments(
        parser, INSTEAD, onnx_constant_folding={'action': 'store_true'},
        model_refine_patch_crop_method={'choices': PATCH_CROP_METHODS},
        model_refine_patch_replace_method={'choices': PATCH_REPLACE_METHODS},
    )  # fmt: skip
    return parser.parse_args(argv)


def read(args: argparse.Namespace) -> cli.TrainedNetwork:
    """Check the flags and read the network; raise ValueError with all that is wrong, one line each."""
    modules = ['onnx', 'onnxscript', *(['onnxruntime'] if args.validate else [])]
    problems = cli.export_problems(args, ['.onnx'], modules) + cli.outputs_problems(args)
    if args.onnx_opset_version not in (*OLDER_OPSETS, *OPSETS):
        problems.append(f'--onnx-opset-version {args.onnx_opset_version}: must be in {OPSETS[0]}..{OPSETS[-1]}')
    raise_problems(problems)
    trained = cli.read_trained_network(args)
    raise_problems(cli.outputs_problems(args))
    return trained


def export(args: argparse.Namespace) -> None:
    """Convert the network, write the file, prove it, and give it its name."""
    note_superseded(args, INSTEAD)
    opset = max(args.onnx_opset_version, OPSETS[0])
    if opset > args.onnx_opset_version:
        print(
            f'note: --onnx-opset-version {args.onnx_opset_version}: {opset} is the oldest that torch writes, and taken',
            file=sys.stderr,
        )
    trained = read(args)
    print(f'{trained.report}\nconverting, which takes half a minute or more', flush=True)
    from export import onnx_file
    from model.folding import folded

    network = folded(trained.network)
    size = next(iter(cli.sizes_of(args)), None)
    model = onnx_file.convert(network, args.precision, args.refine_form, opset, trained.about, size)
    with cli.placed(args.output, args.overwrite, args.validate) as path:
        onnx_file.save(onnx_file.select_outputs(model, args.outputs) if args.outputs else model, path)
        if args.validate:
            onnx_file.prove(path, model, trained.network, args.precision, args.validate_pair or (), size)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run_export(export, parse(argv))


if __name__ == '__main__':
    sys.exit(run(main))
