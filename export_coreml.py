"""Makes a Core ML package of a trained network, for iPhone, iPad and Mac, and proves that it computes the same.

a network for HD pictures:
  python export_coreml.py --model-type mattingrefine --model-backbone mobilenetv2 \\
      --model-checkpoint checkpoint/my-refine/best.pth --resolution 1920 1080 --output Matting.mlpackage
three sizes in one package, the first as default, for iOS 18:
  python export_coreml.py --model-type mattingrefine --model-backbone mobilenetv2 \\
      --model-checkpoint checkpoint/my-refine/best.pth --resolution 1280 720 1920 1080 1080 1920 \\
      --minimum-deployment-target iOS18 --output Matting.mlpackage

Converts on Linux or macOS. Before the package gets its name, its program is run by an interpreter in torch that keeps
every value in the type that the package declares (on macOS by Core ML, too) and compared with the original network, on
photographs and on drawings of each size. Where results differ by more than rounding explains, nothing is written.

Exit code 0: the package is there; 1: it differs from the original, or cannot be written; 2: nothing was started.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli
from common.network import ALL_OUTPUTS, OUTPUTS
from export import cli as exporting
from inference import options

if TYPE_CHECKING:
    from export.coreml.conversion import Settings
    from export.parity import Limits

TARGETS = ('iOS15', 'iOS16', 'iOS17', 'iOS18')
MODULES = ('coremltools',)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = cli.Parser(__doc__)
    options.add_model_arguments(parser)
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
    add('--array-inputs', dest='image_inputs', action='store_false', help='the same as --no-image-inputs')
    add('--image-outputs', action=argparse.BooleanOptionalAction, default=True,
        help='give pha as a grey image in half precision and fgr as an RGB one, instead of arrays of 0..1')  # fmt: skip
    add('--outputs', nargs='+', default=['pha', 'fgr'], choices=('com', *ALL_OUTPUTS),
        help='com: the subject as RGB multiplied by alpha, and alpha, in an array of four channels')  # fmt: skip
    add('--plate-state', action='store_true',
        help='the plate is a state, written once, instead of an input; needs iOS18')  # fmt: skip
    add('--quantize', choices=('none', 'int8', 'palette6'), default='none',
        help='weights of 8 bits, half the size, or of 6 bits, 0.4 of it')  # fmt: skip
    exporting.add_form_argument(group, 'gather, but masked for thresholding')
    for flag in ('author', 'license', 'version'):
        add(f'--{flag}', metavar='TEXT', help='kept in the package, shown by Xcode')
    exporting.add_output_arguments(parser, 'the package, a folder that ends in .mlpackage')
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace) -> Settings:
    """Checks everything that can be checked before anything is loaded.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    args.precision, precision = 'float32', args.precision
    problems = [*options.model_problems(args), *exporting.output_problems(args, ['.mlpackage'], MODULES)]
    args.precision = precision
    sides, refines = args.resolution, args.model_type == 'mattingrefine'
    sizes = list(dict.fromkeys(zip(sides[::2], sides[1::2])))
    if len(sides) % 2:
        problems.append(f'--resolution {" ".join(map(str, sides))}: width and height, in pairs')
    scaled = refines and 0 < args.model_backbone_scale <= 0.5  # else it is among the problems already
    least = max(16, math.ceil(1 / args.model_backbone_scale)) if scaled else 16
    if min(sides) < least or max(sides) > 16_384:
        problems.append(f'--resolution {" ".join(map(str, sides))}: sides must be in {least}..16384')
    needs_18 = ['several sizes'] * (len(sizes) > 1) + ['--plate-state'] * args.plate_state
    target = args.minimum_deployment_target or ('iOS18' if needs_18 else 'iOS16')
    if needs_18 and target != 'iOS18':
        problems.append(f'--minimum-deployment-target {target}: must be iOS18 for {" and ".join(needs_18)}')
    allowed = ('com', *OUTPUTS[args.model_type])
    foreign = [name for name in args.outputs if name not in allowed]
    if foreign:
        problems.append(f'--outputs {" ".join(foreign)}: {args.model_type} has {", ".join(allowed)}')
    thresholding = refines and args.model_refine_mode == 'thresholding'
    form = args.refine_form or ('masked' if thresholding else 'gather')
    if thresholding and form == 'gather':
        problems.append('--refine-form gather: in thresholding mode the number of cells depends on the picture, which '
                        'Core ML cannot have; leave it out')  # fmt: skip
    if target == 'iOS15' and refines and form == 'gather' and args.model_refine_mode == 'sampling':
        problems.append('--minimum-deployment-target iOS15: needs --refine-form masked')
    if target == 'iOS15' and args.image_outputs:
        problems.append('--minimum-deployment-target iOS15: has no images in half precision; add --no-image-outputs')
    cli.raise_problems(problems)
    from export.coreml.conversion import Settings

    return Settings(sizes, tuple(dict.fromkeys(args.outputs)), args.precision, target, args.image_inputs,
                    args.image_outputs, args.plate_state, args.quantize, form)  # fmt: skip


def describe(args: argparse.Namespace, source: exporting.Source, settings: Settings) -> dict[str, str]:
    """What the package says of itself."""
    sizes = ', '.join('{}x{}'.format(*size) for size in settings.sizes)
    given = {key: getattr(args, key) for key in ('author', 'license', 'version') if getattr(args, key)}
    return {
        **given,
        **source.about,
        'short description': f'Background matting of {sizes} pictures: alpha and foreground of what a plate lacks',
        'sizes': sizes,
        'precision': settings.precision,
        'quantize': settings.quantize,
        'refine_form': settings.form if args.model_type == 'mattingrefine' else 'none',
    }


def export(args: argparse.Namespace, settings: Settings) -> None:
    """Converts, proves, and puts the package in its place.

    Raises:
        ValueError: the checkpoint is not what the flags say.
        export.ParityError: the package gives other results.
        OSError: it cannot be written.
    """
    source = exporting.read_source(args)
    print(source.report, flush=True)
    from export.coreml import conversion as coreml
    from export.coreml import package as coreml_package
    from export.coreml import parity as coreml_parity
    from model.folding import folded

    network, models, plain = folded(source.network), [], replace(settings, quantize='none')
    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix='.export-') as folder:
        for size in settings.sizes:
            begin = time.monotonic()
            models.append(coreml.convert(network, settings, size))
            print('converted for {}x{} in {:.0f} s'.format(*size, time.monotonic() - begin), flush=True)
        package = Path(folder) / 'Matting.mlpackage'
        coreml_package.write(models, plain, package, describe(args, source, plain))
        if args.validate:
            prove(args, source, plain, package, coreml_parity.LIMITS[settings.precision], 'proved equal by')
        if settings.quantize != 'none':
            package = Path(folder) / 'Quantized.mlpackage'
            models = [coreml.quantized(model, settings) for model in models]
            coreml_package.write(models, settings, package, describe(args, source, settings))
            if args.validate:
                loss = coreml_parity.LOSSES[settings.quantize]
                prove(args, source, settings, package, loss, f'what {settings.quantize} costs, by')
        cli.raise_problems(exporting.name_problems(args))  # what has come there in the meantime
        place(package, args.output)
    size = sum(file.stat().st_size for file in args.output.rglob('*') if file.is_file())
    print(f'{args.output}: {size / 1e6:.1f} MB, for {settings.target} and later'
          + ('' if args.validate else '; not compared with the original'))  # fmt: skip


def prove(
    args: argparse.Namespace, source: exporting.Source, settings: Settings, package: Path, limits: Limits, verdict: str
) -> None:
    """Compares a package with the original.

    Raises:
        export.ParityError: it gives other results.
    """
    from export.coreml import parity as coreml_parity

    files = args.validate_pair or ()
    compared, cells = coreml_parity.evaluate(source.network, package, settings, files)
    exporting.judge(compared, limits, f'{verdict} running the program of the package with torch, in its declared types')
    if sys.platform == 'darwin':
        compared = coreml_parity.predict(source.network, package, settings, files, cells)
        exporting.judge(compared, limits, f'{verdict} Core ML on this computer')


def place(package: Path, output: Path) -> None:
    """Gives a package its name. The one that was there goes when the new one is there, and comes back if it is not."""
    if not output.exists():
        package.rename(output)
        return
    former = output.with_name(f'.{output.name}.{os.getpid()}.former')
    output.rename(former)
    try:
        package.rename(output)
    except BaseException:
        former.rename(output)
        raise
    shutil.rmtree(former)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit code."""
    args = parse(argv)
    return exporting.finish(lambda: export(args, prepare(args)))


if __name__ == '__main__':
    sys.exit(main())
