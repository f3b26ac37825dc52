# PYTHON_ARGCOMPLETE_OK
"""Export a trained network as a page that runs it in a browser, on a phone, too, and without a network later.

make the folder, and look at it:
  python export_web.py --model-checkpoint model.pth --output web
  python -m http.server --directory web
then open http://localhost:8000; where npm is missing, with a file that it makes elsewhere:
  python export_web.py ... --runtime onnxruntime-web-1.30.0.tgz

The page takes a picture and a plate, or a camera, and gives alpha and the cut-out as PNG. All is computed in the
browser, by ONNX Runtime Web, with WebGPU if there is one that gives the toolkit's results. Other machines than your own
need https for the camera, for WebGPU, and to work without a network. The file with the network is that of
export_onnx.py, in float32, and compared as there.

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
from pathlib import Path

from common.cli import raise_problems, run
from export import cli
from export.web import CHECK, MARKER, MODEL, PAGE, runtime


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.export_parser(__doc__, 'the folder, which is made', metavar='FOLDER')
    group = parser.add_argument_group('export')
    cli.add_form_argument(group, 'gather, but masked for thresholding')
    group.add_argument(
        '--runtime', type=Path, metavar='FILE|FOLDER',
        help=f'npm\'s package {runtime.PACKAGE}; if left out, npm downloads version {runtime.VERSION}')  # fmt: skip
    return parser.parse_args(argv)


def foreign_problems(folder: Path) -> list[str]:
    """Return a problem if a folder that is to be replaced holds what this script did not write."""
    own = {MODEL, CHECK, MARKER, *(path.name for path in PAGE.iterdir())}
    names = [path.name for path in sorted(folder.glob('*')) if not path.name.startswith(f'{runtime.PACKAGE}-')]
    foreign = next((name for name in names if name not in own), None)
    return [f'--output {folder}: holds {foreign}, which would be lost; choose another name'] if foreign else []


def export(args: argparse.Namespace) -> None:
    """Convert the network, write the folder, prove the network's file, and give the folder its name."""
    modules = ['onnx', 'onnxscript', 'onnxruntime']
    found = cli.export_problems(args, [], modules, MARKER) + runtime.problems(args.runtime)
    raise_problems(found or foreign_problems(args.output))
    library = runtime.obtain(args.runtime)
    trained = cli.read_trained_network(args)
    print(f'{trained.report}\nconverting, which takes half a minute or more', flush=True)
    from export import onnx_file
    from export.web import folder
    from model.folding import folded

    model = onnx_file.convert(folded(trained.network), form=args.refine_form, about=trained.about)
    name = f', with {runtime.PACKAGE} {library.version}'
    with cli.placed(args.output, args.overwrite, args.validate, name, MARKER) as path:
        folder.write(path, model, trained.network, library)
        if args.validate:
            onnx_file.prove(path / MODEL, model, trained.network, 'float32', args.validate_pair or ())
    print(f'to see it: python -m http.server --directory {args.output}, and open http://localhost:8000')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run_export(export, parse(argv))


if __name__ == '__main__':
    sys.exit(run(main))
