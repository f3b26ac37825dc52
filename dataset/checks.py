"""Checks of the training data before the first step; all that is wrong is said at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from common.console import some
from common.files import IMAGES
from common.stores import StoreError

from .images import SampleDataset
from .pairing import alike, match_listed
from .paths import DataPaths, drawn_part, find_images
from .readers import ImageError, alpha_source, image_size, read_alpha, read_rgb
from .stores import Folder, Picture, StoredFolder, name_below

_HEADERS = 2000  # most pairs per folder whose sizes are compared, which takes about a second on a local disk
_THREADS = 4  # pictures in memory at a time
_ENOUGH = (256, 256)  # size to decode at where that shows what matters

_read_small = partial(read_rgb, min_size=_ENOUGH)

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


@dataclass
class DataReport:
    """What `check_files` found: files, problems that must be solved before training, and what is worth knowing."""

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    train_pairs: list[tuple[Picture, Picture]] = field(default_factory=list)
    valid_pairs: list[tuple[Picture, Picture]] = field(default_factory=list)
    train_bgr: list[Picture] = field(default_factory=list)
    valid_bgr: list[Picture] = field(default_factory=list)

    def raise_for_findings(self) -> None:
        """Raise one ValueError that lists all findings, if there are any."""
        if self.findings:
            lines = [f'  {number}. {finding}' for number, finding in enumerate(self.findings, 1)]
            raise ValueError('\n'.join([f'The training data is not ready ({len(lines)} found):', *lines]))


def check_files(paths: DataPaths, sample: int = 24) -> DataReport:
    """Check the folders of a training run.

    All files are listed. The headers of at most 2000 pairs per folder are read, and `sample` pairs and backgrounds,
    spread evenly over each folder, are decoded. Of a store, which gives whole files, no other pairs are read.
    """
    report = DataReport()
    pairs = _check_pairs('train', paths.train_fgr, paths.train_pha, sample, report)
    if paths.valid_share is None:
        report.train_pairs = pairs
        report.valid_pairs = _check_pairs('valid', paths.valid_fgr, paths.valid_pha, sample, report)
    else:
        alphas = dict(pairs)
        parts = _divide('pairs', alphas, paths.train_fgr, paths.valid_share, report)
        report.train_pairs, report.valid_pairs = ([(fgr, alphas[fgr]) for fgr in part] for part in parts)
    report.train_bgr = _check_backgrounds('train', paths.train_bgr, sample, report)
    if paths.valid_bgr_share is None:
        report.valid_bgr = _check_backgrounds('valid', paths.valid_bgr, sample, report)
    else:
        parts = _divide('backgrounds', report.train_bgr, paths.train_bgr, paths.valid_bgr_share, report)
        report.train_bgr, report.valid_bgr = parts
    for kind, train, valid, share in (
        ('foregrounds', paths.train_fgr, paths.valid_fgr, paths.valid_share),
        ('backgrounds', paths.train_bgr, paths.valid_bgr, paths.valid_bgr_share),
    ):
        if share is None and train.resolve() == valid.resolve():
            report.notes.append(f'train and valid share their {kind}: the validation loss will look too good.')
    return report


def _divide(
    kind: str, files: Iterable[Picture], folder: Folder, share: float, report: DataReport
) -> tuple[list[Picture], list[Picture]]:
    """Return the files of training and those of validation, which takes a share of the folder."""
    root = folder.absolute()
    names = [name_below(path, folder) for path in files]
    train, valid = ([root / name for name in drawn_part(names, share, split)] for split in ('train', 'valid'))
    report.notes.append(f'validation takes {len(valid)} of the {len(names)} {kind}, drawn by name (valid = {share}).')
    if names and not (train and valid):
        report.findings.append(
            f'valid = {share}: none of the {len(names)} {kind} in {folder} is left for '
            f'{"validation" if train else "training"}. {"Raise" if train else "Lower"} it in the data configuration, '
            'or give validation a folder of its own.'
        )
    return train, valid


def _check_pairs(
    split: str, fgr: Folder, pha: Folder, sample: int, report: DataReport
) -> list[tuple[Picture, Picture]]:
    fgr_names, pha_names = _listed(f'{split} fgr', fgr, report), _listed(f'{split} pha', pha, report)
    if not fgr_names or not pha_names:
        return []
    if fgr == pha and {'fgr', 'pha'} <= {name.parts[0] for name in fgr_names}:
        report.findings.append(f'{split}: {fgr} holds pairs, in two parts: name {fgr}/fgr and {fgr}/pha.')
        return []
    pairing = match_listed(fgr, fgr_names, pha, pha_names)
    for without, role, other in ((pairing.only_fgr, 'fgr', 'pha'), (pairing.only_pha, 'pha', 'fgr')):
        if without:
            report.findings.append(
                f'{split}: {len(without)} files of {role} have no {other}: {some(without)}. A pair has one path '
                'below its two folders, suffix aside. Rename the files, or move them away.'
            )
    if pairing.duplicates:
        doubles = [*map(alike, pairing.duplicates)]
        report.findings.append(f'{split}: {len(doubles)} names occur twice: {some(doubles)}. Move one of each away.')
    remote = any(isinstance(folder, StoredFolder) and folder.is_remote for folder in (fgr, pha))
    headers = _spread(pairing.pairs, sample if remote else _HEADERS)
    if len(headers) < len(pairing.pairs):
        report.notes.append(f'{split}: sizes are compared for {len(headers)} of {len(pairing.pairs)} pairs.')
    broken: dict[Picture, str] = {}
    _check_sizes(split, headers, broken, report)
    pairs = _spread(pairing.pairs, sample)
    _attempt(_read_small, [fgr for fgr, _ in pairs], broken)
    _check_looks(split, _attempt(_look_at, [pha for _, pha in pairs], broken), report)
    _report_broken(split, broken, report)
    return pairing.pairs


def _check_backgrounds(split: str, folder: Folder, sample: int, report: DataReport) -> list[Picture]:
    backgrounds = [folder.absolute() / name for name in _listed(f'{split} backgrounds', folder, report)]
    broken: dict[Picture, str] = {}
    _attempt(_read_small, _spread(backgrounds, sample), broken)
    _report_broken(f'{split} backgrounds', broken, report)
    return backgrounds


def _listed(label: str, folder: Folder, report: DataReport) -> list[Path]:
    try:
        names = find_images(folder, by_text=True)
    except OSError as error:
        hint = '' if isinstance(error, StoreError) else ' Correct the path in the data configuration.'
        report.findings.append(f'{label}: {error}.{hint}')
        return []
    if not names:
        report.findings.append(f'{label}: {folder} holds no pictures ({IMAGES}), nor do its sub-folders.')
    return names


def _check_sizes(
    split: str, pairs: list[tuple[Picture, Picture]], broken: dict[Picture, str], report: DataReport
) -> None:
    sizes = _attempt(image_size, [path for pair in pairs for path in pair], broken)
    different = [
        f'{fgr} is {sizes[fgr][0]}x{sizes[fgr][1]}, {pha} is {sizes[pha][0]}x{sizes[pha][1]}'
        for fgr, pha in pairs
        if fgr in sizes and pha in sizes and sizes[fgr] != sizes[pha]
    ]
    if different:
        report.findings.append(
            f'{split}: {len(different)} of {len(pairs)} compared pairs differ in size (upright, after EXIF rotation): '
            f'{some(different)}. Export both at one size.'
        )


@dataclass(frozen=True)
class _Look:
    """What an alpha file looks like."""

    source: str  # 'alpha' | 'luminance'
    coloured: bool
    undecided: bool  # hardly any pixel is clearly inside or clearly outside the subject


def _look_at(pha: Picture) -> _Look:
    source = alpha_source(pha)
    alpha = read_alpha(pha)
    coloured = False
    if source == 'luminance':
        rgb = _read_small(pha)
        low, high = rgb.min(axis=-1), rgb.max(axis=-1)
        between = (high > 5) & (low < 250)
        # JPEG tints grey by a few levels at edges, so a fifth of the pixels must be clearly coloured.
        coloured = between.mean() > 0.001 and (high - low > 24)[between].mean() > 0.2
    return _Look(source, bool(coloured), bool(((alpha <= 5) | (alpha >= 250)).mean() < 0.1))


def _check_looks(split: str, looks: dict[Picture, _Look], report: DataReport) -> None:
    """Judge the sampled alphas together: glass may fill one picture, but a folder full of them is photographs."""
    suspects = [path for path, look in looks.items() if look.coloured or look.undecided]
    if 2 * len(suspects) > len(looks):
        report.findings.append(
            f'{split}: pha looks like photographs: {len(suspects)} of {len(looks)} sampled files are coloured, or '
            f'have hardly a pixel near black or white: {some(suspects)}. It wants grey mattes, white = subject, or '
            'pictures with an alpha channel. Are fgr and pha swapped?'
        )
    elif coloured := [path for path in suspects if looks[path].coloured]:
        report.notes.append(
            f'{split}: {len(coloured)} of {len(looks)} sampled alphas are coloured; their brightness is taken: '
            f'{some(coloured)}.'
        )
    from_channel = sum(look.source == 'alpha' for look in looks.values())
    if from_channel:
        report.notes.append(
            f'{split}: pha is read from the alpha channel of {from_channel} of {len(looks)} sampled files'
            f'{"." if from_channel == len(looks) else ", from the brightness of the others."}'
        )


def _spread(items: list[_Item], count: int) -> list[_Item]:
    chosen = SampleDataset(items, count)
    return [chosen[index] for index in range(len(chosen))]


def _attempt(
    function: Callable[[Picture], _Result], paths: Sequence[Picture], broken: dict[Picture, str]
) -> dict[Picture, _Result]:
    """Apply a reader to files in parallel; note in `broken` why it fails on some, which are not tried again."""

    def attempt(path: Picture) -> _Result | ImageError | OSError:
        try:
            return function(path)
        except (ImageError, OSError) as error:
            return error

    results: dict[Picture, _Result] = {}
    remaining = [path for path in paths if path not in broken]
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, result in zip(remaining, pool.map(attempt, remaining)):
            if isinstance(result, (ImageError, OSError)):
                broken[path] = str(result)
            else:
                results[path] = result
    return results


def _report_broken(label: str, broken: dict[Picture, str], report: DataReport) -> None:
    if broken:
        report.findings.append(
            f'{label}: {len(broken)} of the sampled pictures cannot be read: {some(list(broken.values()), "; ")}. '
            'Replace them or move them away, with their partners.'
        )
