# PYTHON_ARGCOMPLETE_OK
"""Put training pictures into tar shards: a few large files, which a network disk or a store reads faster than many.

a data set's pairs, and backgrounds:
  python make_shards.py --fgr my-data/train/fgr --pha my-data/train/pha --output-dir shards/my-data
  python make_shards.py --bgr backgrounds/train --output-dir shards/backgrounds
an index for tars that are there, of WebDataset or of yours:
  python make_shards.py --index shards/others

In data_path.toml shards/my-data/fgr, shards/my-data/pha and shards/backgrounds then stand for the folders. A training
reads the same samples from them, bit for bit, and one that was begun on the folders goes on with them. To have them in
a store, copy the whole folder there.

Writes 000000.tar and so on, in WebDataset's layout, and the index shards.json at the end: without it nothing is read.
Exit code 0: done; 1: a picture could not be read, or a tar not written; 2: nothing was started; 130 or 143: stopped by
Ctrl-C or SIGTERM.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, path_checks

if TYPE_CHECKING:
    from dataset.stores import Picture


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group('what goes in: pairs, backgrounds, or tars that are there').add_argument
    add('--fgr', type=os.path.expanduser, metavar='DIR', help='foregrounds, in sub-folders or not; a folder or a URL')
    add('--pha', type=os.path.expanduser, metavar='DIR', help='their alphas, of equal relative path')
    add('--bgr', type=os.path.expanduser, metavar='DIR', help='backgrounds')
    add('--index', type=Path, metavar='DIR', help='index the tars in this folder, and write nothing else')
    add = parser.add_argument_group('output').add_argument
    add('--output-dir', type=Path, metavar='DIR', help='must be empty or new')
    add('--shard-megabytes', type=int, default=1000, metavar='N', help='most of a tar, in MB')
    add('-y', dest='overwrite', action='store_true',
        help='write into a folder that is not empty; files of equal name are replaced')  # fmt: skip
    return parser.parse_args(argv)


def flag_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags, one line each."""
    found = cli.at_least_problems(args, {'shard_megabytes': 1})
    given = [f'--{name}' for name in ('fgr', 'pha', 'bgr', 'index') if getattr(args, name) is not None]
    if given not in (['--fgr', '--pha'], ['--bgr'], ['--index']):
        found.append(f'{" ".join(given) or "--fgr"}: give --fgr and --pha, or --bgr alone, or --index alone')
    if args.index is not None:
        found += path_checks.folder_problems(args, 'index') or path_checks.unwritable_problems('--index', args.index)
    elif args.output_dir is None:
        found.append('--output-dir: must be given')
    elif not (problems := path_checks.output_folder_problems(args.output_dir)):
        held = min(args.output_dir.iterdir(), default=None) if args.output_dir.is_dir() else None
        found += path_checks.not_empty_problems(args.output_dir, held, args.overwrite)
    else:
        found += problems
    return found


def samples(args: argparse.Namespace) -> list[dict[str, Picture]]:
    """Return the pictures that stay together, by their names in a tar.

    Raises:
        ValueError: pictures without a partner, or of one name; a folder without pictures.
        OSError: a folder cannot be listed.
    """
    from dataset.pairing import match_listed
    from dataset.paths import find_images
    from dataset.shards import member_name
    from dataset.stores import name_below, open_folder

    folders = {name: open_folder(text) for name in ('fgr', 'pha', 'bgr') if (text := getattr(args, name)) is not None}
    names = {name: find_images(folder, by_text=True) for name, folder in folders.items()}
    if empty := [f'--{name} {folders[name]}: no pictures in it' for name, found in names.items() if not found]:
        cli.raise_problems(empty)
    if args.bgr is not None:
        return [{member_name(name.as_posix()): folders['bgr'] / name} for name in names['bgr']]
    pairing = match_listed(folders['fgr'], names['fgr'], folders['pha'], names['pha'])
    cli.raise_problems(pairing.problems(folders['fgr'], folders['pha']))
    return [
        {member_name(name_below(picture, folders[role]).as_posix(), role): picture
         for role, picture in zip(('fgr', 'pha'), pair)}
        for pair in pairing.pairs
    ]  # fmt: skip


def source_problems(folder: Path, chosen: list[dict[str, Picture]]) -> list[str]:
    """Return why a set must not be written into a folder: it would replace the tars that are read."""
    from dataset.stores import StoredPicture, local_path

    pictures = [picture for sample in chosen for picture in sample.values() if isinstance(picture, StoredPicture)]
    tars = {local_path(picture.file) for picture in pictures if picture.offset is not None}
    folders = {place.resolve() for tar in tars if tar is not None for place in (tar.parent, tar.resolve().parent)}
    if folder.resolve() in folders:
        return [f'--output-dir {folder}: holds the tars that are read; choose another folder']
    return []


def make(args: argparse.Namespace, chosen: list[dict[str, Picture]]) -> int:
    """Write the set, or the index of one that is there; return the exit code."""
    from common.console import progress
    from dataset.shards import index_shard, write_index, write_shards

    if args.index is None:
        folder, shown = args.output_dir, progress(chosen, len(chosen), ' samples')
        shards = list(write_shards(folder, shown, args.shard_megabytes * 10**6))
    else:
        folder, tars = args.index, sorted(args.index.glob('*.tar'))
        if not tars:
            raise ValueError(f'--index {folder}: no .tar files in it')
        shards = [index_shard(path) for path in progress(tars, len(tars), ' tars')]
        write_index(folder, shards)
    names = [member.name for shard in shards for member in shard.members]
    pairs = sum(name.startswith('fgr/') for name in names)
    of_pairs = '' if args.bgr is not None else f', of them {pairs} foregrounds of pairs,'
    print(f'{len(names)} pictures{of_pairs} in {len(shards)} tars: {folder}')
    return 0


def start(argv: Sequence[str] | None) -> int:
    """Read the flags, find the pictures and write; return the exit code."""
    args = parse(argv)
    try:
        cli.raise_problems(flag_problems(args))
        chosen: list[dict[str, Picture]] = []
        if args.index is None:
            chosen = samples(args)
            cli.raise_problems(source_problems(args.output_dir, chosen))
    except (ValueError, OSError) as error:
        return cli.report_error(error, 2)
    try:
        return make(args, chosen)
    except (ValueError, OSError) as error:
        return cli.report_error(error, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    from common.signals import run_until_stopped

    return run_until_stopped(partial(start, argv), 'stopped: without its index the set is not read; -y begins anew')


if __name__ == '__main__':
    sys.exit(cli.run(main))
