"""Names of picture files: their order, and which belong together.

A name is the path below a folder without its suffix, '/' between its parts. Two names are one where they differ only
in how letters with accents are stored, as a letter and a mark (NFD, which Macs write) or as one character (NFC).
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.console import some

from .stores import Folder, Picture


@dataclass
class Pairing:
    """Which files of a foreground folder and an alpha folder belong together. All paths include the folder."""

    pairs: list[tuple[Picture, Picture]] = field(default_factory=list)  # (fgr, pha), in the order of the foregrounds
    only_fgr: list[Picture] = field(default_factory=list)
    only_pha: list[Picture] = field(default_factory=list)
    # Files of one folder that have one name; `pairs` has the first of each two.
    duplicates: list[tuple[Picture, Picture]] = field(default_factory=list)

    def problems(self, fgr: Folder, pha: Folder) -> list[str]:
        """Return what is wrong with the two folders, one line each."""
        found = [
            f'{len(without)} pictures have no partner of their name in {other}: {some(without)}'
            for without, other in ((self.only_fgr, pha), (self.only_pha, fgr))
            if without
        ]
        if doubles := [*map(alike, self.duplicates)]:
            found.append(f'{len(doubles)} names occur twice, keep one of each: {some(doubles)}')
        return found


def composed(name: str) -> str:
    """Return a name as it is compared with others: with one character for each letter and its accents (NFC)."""
    return unicodedata.normalize('NFC', name)


def name_of(path: Path) -> str:
    """Return the name, composed, of a file given by its path below a folder."""
    return composed(path.with_suffix('').as_posix())


def natural_order(name: str) -> list[tuple[list[str | int], str]]:
    """Return a sort key that puts 2 before 10, and what lies in one folder together."""
    # Text and digits by turns, so that like meets like; the part itself decides between 1 and 01.
    turns = ((re.split(r'(\d+)', part), part) for part in composed(name).split('/'))
    return [([int(x) if i % 2 else x for i, x in enumerate(split)], part) for split, part in turns]


def by_name(paths: Iterable[Path], root: Folder) -> dict[str, list[Any]]:
    """Group the files of a folder by name; `paths` lie below `root`, and the result has both."""
    found = defaultdict(list)
    for path in paths:
        found[name_of(path)].append(root / path)
    return dict(found)


def by_last_parts(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Match each name with the one other that shares the most of its last parts; those that have several are left out.

    So 'frame_00001/images/cam_A' belongs to 'cam_A', or rather to 'images/cam_A' where there are both.
    """
    ending = defaultdict(list)
    for other in others:
        for tail in _tails(other):
            ending[tail].append(other)
    nearest = ((name, next((ending[tail] for tail in _tails(name) if tail in ending), [])) for name in names)
    return {name: found[0] for name, found in nearest if len(found) == 1}


def shared_end(name: str, other: str) -> str:
    """Return the last parts that two names share; '' if there are none."""
    return next((tail for tail in _tails(other) if tail in _tails(name)), '')


def alike(paths: Sequence[Picture]) -> str:
    """Name files that have one name; letters that only differ in how they are stored are escaped."""
    same = len({composed(str(path)) for path in paths}) < len(paths)
    return ' and '.join(ascii(str(path))[1:-1] if same else str(path) for path in paths)


def match_listed(fgr: Folder, fgr_paths: Iterable[Path], pha: Folder, pha_paths: Iterable[Path]) -> Pairing:
    """Match what `find_images` lists in two folders by name: `a/x.jpg` belongs to `a/x.png`."""
    fgrs, phas = by_name(fgr_paths, fgr.absolute()), by_name(pha_paths, pha.absolute())
    return Pairing(
        [(paths[0], phas[name][0]) for name, paths in fgrs.items() if name in phas],
        [paths[0] for name, paths in fgrs.items() if name not in phas],
        [paths[0] for name, paths in phas.items() if name not in fgrs],
        [(paths[0], other) for paths in (*fgrs.values(), *phas.values()) for other in paths[1:]],
    )


def _tails(name: str) -> list[str]:
    parts = name.split('/')
    return ['/'.join(parts[start:]) for start in range(len(parts))]
