# PYTHON_ARGCOMPLETE_OK
"""All scripts of the toolkit as one command, which works in any folder.

  bgmatting COMMAND --help    what a script takes: bgmatting images is inference_images.py, and so on
  bgmatting demo              a first result at once

Shells complete commands, flags and names of files:
  eval "$(register-python-argcomplete bgmatting)"
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def scripts() -> dict[str, Path]:
    """Return the script of each command: 'train-base' for train_base.py, 'images' for inference_images.py."""
    # The mark of completion tells them from files that a user keeps beside them, such as a data_path.py.
    marked = (path for path in ROOT.glob('*.py') if path.read_bytes().startswith(b'# PYTHON_ARGCOMPLETE_OK'))
    paths = sorted(path for path in marked if path.stem != 'bgmatting')
    return {path.stem.removeprefix('inference_').replace('_', '-'): path for path in paths}


def parse(argv: Sequence[str], known: Mapping[str, Path]) -> argparse.Namespace:
    """Read what names no command, such as --help, and end the process with help, a mistake, or what a shell asked."""
    from common import cli

    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar='COMMAND', dest='command')
    for name, path in known.items():
        summary = (ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '').partition('\n')[0]
        commands.add_parser(name, help=summary, description=summary)
    return parser.parse_args(argv or ['--help'])


def typed() -> Sequence[str]:
    """Return the words after `bgmatting`, also where a shell asks how the last of them can be completed."""
    if '_ARGCOMPLETE' not in os.environ:
        return sys.argv[1:]
    words = os.environ['COMP_LINE'][: int(os.environ['COMP_POINT'])].split(' ')
    return [word for word in words[:-1] if word][1:]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    if not (ROOT / 'common').is_dir():
        print('error: bgmatting was installed without the toolkit, which runs from its folder; '
              'in a clone of it: pip install -c constraints.txt -e .', file=sys.stderr)  # fmt: skip
        return 2
    sys.path.insert(0, str(ROOT))
    from common import cli

    words, known = list(typed() if argv is None else argv), scripts()
    command = words[0] if words and words[0] in known else parse(words, known).command
    if '_ARGCOMPLETE' in os.environ:
        os.environ['_ARGCOMPLETE'] = '2'  # the script's parser completes what follows its command
    sys.argv[0] = f'bgmatting {command}'  # as its usage and messages are to call it
    return cli.run(importlib.import_module(known[command].stem).main, words[1:])


if __name__ == '__main__':
    sys.exit(main())
