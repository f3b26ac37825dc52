# PYTHON_ARGCOMPLETE_OK
"""Export a trained network as a Core ML package for iPhone, iPad and Mac.

a network for HD pictures:
  python export_coreml.py --model-checkpoint checkpoint/my-refine/best.pth --resolution 1920 1080 \\
      --output Matting.mlpackage
three sizes in one package, the first as default, for iOS 18:
  python export_coreml.py --model-checkpoint checkpoint/my-refine/best.pth \\
      --resolution 1280 720 1920 1080 1080 1920 --minimum-deployment-target iOS18 --output Matting.mlpackage

Runs on Linux or macOS. Before the package gets its name, its program is run by an interpreter in torch that keeps every
value in the type that the package declares (on macOS by Core ML, too) and compared with the original network, on
photographs and on drawings of each size. Where results differ by more than rounding explains, nothing is written.

Exit code 0: the package is there; 1: it differs from the original, or cannot be written; 2: nothing was started; 130:
Ctrl-C. Only with 0 is anything written.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from common.cli import raise_problems, run
from common.network import ALL_OUTPUTS
from export import cli

if TYPE_CHECKING:
    from export.coreml.conversion import PackageSettings

TARGETS = ('iOS15', 'iOS16', 'iOS17', 'iOS18')


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.export_parser(__doc__, f'the package, a folder that ends in {cli.PACKAGE}')
    group = parser.add_argument_group('package')
    add = group.add_argument
    add('--resolution', type=int, nargs='+', required=True, metavar='SIDE',
        help='width and height of the pictures, or several, which become functions of one package')  # fmt: skip
    add('--precision', choices=('float16', 'float32'), default='float16',
        help='of computing; the neural engine has float16 only')  # fmt: skip
    add('--minimum-deployment-target', choices=TARGETS, metavar='SYSTEM',
        help=f'{", ".join(TARGETS)}, with macOS 12 to 15; iOS16 if left out, iOS18 where that is needed')  # fmt: skip
    add('--image-inputs', action=argparse.BooleanOptionalAction, default=True,
        help='take src and bgr as images (CVPixelBuffer), instead of arrays of 0..1')  # fmt: skip
    add('--array-inputs', dest='image_inputs', action='store_false', help=argparse.SUPPRESS)
    add('--image-outputs', action=argparse.BooleanOptionalAction, default=True,
        help='give pha as a grey image in half precision and fgr as an RGB one, instead of arrays of 0..1')  # fmt: skip
    add('--outputs', nargs='+', default=['pha', 'fgr'], choices=('com', *ALL_OUTPUTS),
        help='com: the subject as RGB multiplied by alpha, and alpha, in an array of four channels')  # fmt: skip
    add('--plate-state', action='store_true',
        help='the plate is a state, written once, instead of an input; needs iOS18')  # fmt: skip
    add('--quantize', choices=('none', 'int8', 'palette6'), default='none',
        help='weights of 8 bits, half the size, or of 6 bits, 0.4 of it')  # fmt: skip
    cli.add_form_argument(group, 'gather, but masked for thresholding')
    for flag in ('author', 'license', 'version'):
        add(f'--{flag}', metavar='TEXT', help='kept in the package, shown by Xcode')
    return parser.parse_args(argv)


def read(args: argparse.Namespace) -> cli.TrainedNetwork:
    """Check what can be checked before anything is loaded, then read the network.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    raise_problems(cli.export_problems(args, [cli.PACKAGE], ['coremltools']))
    return cli.read_trained_network(args)


def package_settings(args: argparse.Namespace) -> PackageSettings:
    """Return the package's settings, when the flags of the network are known.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    problems, sizes, refines = [], cli.sizes_of(args), args.model_type == 'mattingrefine'
    needs_18 = ['several sizes'] * (len(sizes) > 1) + ['--plate-state'] * args.plate_state
    target = args.minimum_deployment_target or ('iOS18' if needs_18 else 'iOS16')
    if needs_18 and target != 'iOS18':
        problems.append(f'--minimum-deployment-target {target}: must be iOS18 for {" and ".join(needs_18)}')
    problems += cli.outputs_problems(args, ['com'])
    thresholding = refines and args.model_refine_mode == 'thresholding'
    form = args.refine_form or ('masked' if thresholding else 'gather')
    if thresholding and form == 'gather':
        problems.append('--refine-form gather: in thresholding mode the number of cells depends on the picture, which '
                        'Core ML cannot have; leave it out')  # fmt: skip
    if target == 'iOS15' and refines and form == 'gather' and args.model_refine_mode == 'sampling':
        problems.append('--minimum-deployment-target iOS15: needs --refine-form masked')
    if target == 'iOS15' and args.image_outputs:
        problems.append('--minimum-deployment-target iOS15: has no images in half precision; add --no-image-outputs')
    raise_problems(problems)
    from export.coreml.conversion import PackageSettings

    return PackageSettings(sizes, tuple(dict.fromkeys(args.outputs)), args.precision, target, args.image_inputs,
                           args.image_outputs, args.plate_state, args.quantize, form)  # fmt: skip


def describe(args: argparse.Namespace, trained: cli.TrainedNetwork, settings: PackageSettings) -> dict[str, str]:
    """Return the package's metadata."""
    sizes = ', '.join('{}x{}'.format(*size) for size in settings.sizes)
    given = {key: getattr(args, key) for key in ('author', 'license', 'version') if getattr(args, key)}
    return {
        **given,
        **trained.about,
        'short description': f'Background matting of {sizes} pictures: alpha and foreground of what a plate lacks',
        'sizes': sizes,
        'precision': settings.precision,
        'quantize': settings.quantize,
        'refine_form': settings.form if args.model_type == 'mattingrefine' else 'none',
    }


def export(args: argparse.Namespace) -> None:
    """Convert the network, prove the package, quantize it if that is asked for, and give it its name."""
    trained = read(args)
    settings = package_settings(args)
    print(trained.report, flush=True)
    from export.coreml import conversion, package, parity
    from model.folding import folded

    network, models = folded(trained.network), []
    for size in settings.sizes:
        begin = time.monotonic()
        models.append(conversion.convert(network, settings, size))
        print('converted for {}x{} in {:.0f} s'.format(*size, time.monotonic() - begin), flush=True)
    # A program is proved before its weights are quantized, which costs more than any error of the conversion would.
    plain = replace(settings, quantize='none')
    stages = [plain] if plain == settings else [plain, settings]
    with cli.placed(args.output, args.overwrite, args.validate, f', for {settings.target} and later') as path:
        for stage in stages:
            made = path if stage is stages[-1] else path.with_name(f'unquantized-{path.name}')
            if stage.quantize != 'none':
                models = [conversion.quantize(model, stage.quantize) for model in models]
            package.save(models, stage, made, describe(args, trained, stage))
            if args.validate:
                parity.prove(trained.network, made, stage, args.validate_pair or ())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run_export(export, parse(argv))


if __name__ == '__main__':
    sys.exit(run(main))
