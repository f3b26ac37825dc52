"""Predictions as files, matched with the truths by name, and the sizes and clips of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from common.console import some
from common.files import LOSSLESS_SUFFIXES
from dataset.pairing import natural_order
from evaluation.testset.layout import Truth, matched, picture_sizes, pictures_by_name


@dataclass(frozen=True)
class PredictionFiles:
    """The predictions of one model as files, by the names of the pictures."""

    folder: Path  # as the user named it
    pha: dict[str, Path]
    fgr: dict[str, Path]  # of those that have one
    problems: list[str] = field(default_factory=list)  # why they cannot be scored
    notes: list[str] = field(default_factory=list)  # to be printed for the user


def as_clips(truths: Sequence[Truth]) -> list[Truth]:
    """Make each folder of pictures a clip, its frames in the order of the numbers in their names: 2 before 10."""
    clips = [replace(truth, clip=PurePosixPath(truth.name).parent.as_posix()) for truth in truths]
    return sorted(clips, key=lambda truth: (natural_order(truth.clip or ''), natural_order(truth.name)))


def find_predictions(folder: Path, truths: Sequence[Truth], with_fgr: bool = True) -> PredictionFiles:
    """Find predictions as inference_images.py writes them, in pha/ and maybe fgr/, or in a plain folder of alphas.

    If `with_fgr`, also look at fgr/, which may lack only pictures whose true foreground is unknown.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: two pictures of one name.
    """
    root = folder / 'pha' if (folder / 'pha').is_dir() else folder
    alphas = pictures_by_name(root)
    colours = pictures_by_name(folder / 'fgr') if with_fgr and root != folder and (folder / 'fgr').is_dir() else {}
    names = [truth.name for truth in truths]
    alphas_of, colours_of = matched(names, alphas, root), matched(names, colours, folder / 'fgr')
    coloured = [truth.name for truth in truths if truth.fgr is not None]
    found = PredictionFiles(
        folder,
        {name: alphas_of[name] for name in names if name in alphas_of},
        {name: colours_of[name] for name in names if name in colours_of},
    )
    for kind, held, needed, hint in (
        (root, found.pha, names, ''),
        (folder / 'fgr', found.fgr, coloured, '; only fg_mse needs them'),
    ):
        missing = [name for name in needed if name not in held]
        if missing and (held or kind == root):
            lacking = f'{len(missing)} of {len(needed)} pictures are missing'
            found.problems.append(f'{kind}: {lacking}: {some(missing)}{hint}')
    taken = set(found.pha.values())
    if surplus := [name for name, path in alphas.items() if path not in taken]:
        found.notes.append(f'{root}: {len(surplus)} pictures without a truth are left out: {some(surplus)}')
    suffixes = {path.suffix for path in (*found.pha.values(), *found.fgr.values())}
    lossy = sorted(suffix for suffix in suffixes if suffix.lower() not in LOSSLESS_SUFFIXES)
    if lossy:
        found.notes.append(f'{folder}: {", ".join(lossy)} may be lossy, and what the format loses counts as error')
    pairs = ((x.pha, held[x.name]) for held in (found.pha, found.fgr) for x in truths if x.name in held)
    found.problems.extend(compare_sizes(pairs)[1])
    return found


def compare_sizes(pairs: Iterable[tuple[Path, Path]]) -> tuple[dict[Path, tuple[int, int]], list[str]]:
    """Return the (width, height) of pictures, and which of them cannot be read or differ from their partner."""
    listed = list(pairs)
    sizes, unreadable = picture_sizes(path for pair in listed for path in pair)
    differ = [
        f'{first} is {sizes[first][0]}x{sizes[first][1]}, {second} {sizes[second][0]}x{sizes[second][1]}'
        for first, second in listed
        if first in sizes and second in sizes and sizes[first] != sizes[second]
    ]
    problems = [some(unreadable, '; ')] if unreadable else []
    return sizes, problems + ([f'sizes differ: {some(differ, "; ")}'] if differ else [])


def clip_problems(truths: Sequence[Truth], sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return which clips have frames of different (width, height), between which no change can be measured."""
    first: dict[str, Truth] = {}
    differ: dict[str, tuple[str, str]] = {}
    for truth in truths:
        if truth.clip is not None and sizes[truth.name] != sizes[first.setdefault(truth.clip, truth).name]:
            differ.setdefault(truth.clip, (first[truth.clip].name, truth.name))
    named = [', '.join(f'{name} is {sizes[name][0]}x{sizes[name][1]}' for name in names) for names in differ.values()]
    without = 'leave out --clips, or name --metrics without dtssd'
    return [f'frames of {len(named)} clips differ in size: {some(named, "; ")}; {without}'] if named else []
