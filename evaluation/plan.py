"""The plan of an evaluation: pictures, networks and files, found, paired and checked, and the rows that they give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.console import some
from common.files import digest
from common.network import MIN_SIDE
from common.stores import named
from inference.images.inputs import Job

from .folders import PredictionFiles, as_clips, clip_problems, compare_sizes, find_predictions
from .results import Results
from .tables import COLOUR_METRICS, TITLES, read_json
from .testset.layout import MANIFEST, Truth, find_testset, find_truth

if TYPE_CHECKING:
    from .networks import EvaluatedNetwork

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class ScoringRequest:
    """What the flags of evaluate.py say about the networks and files to be scored, and how."""

    checkpoints: Sequence[Path]
    testset: Path | None
    predictions: Sequence[Path]
    truth: Path | None
    results: Sequence[Path]
    base_only: bool
    clips: bool  # each folder of pictures is a clip, unless the set itself knows its clips
    refiner: Mapping[str, Any]  # settings that replace those of refiners, by their names in `RefinerSettings`
    metrics: Sequence[str] | None  # None: all that can be computed
    region: str
    scaling: str
    sort: str | None
    report: bool
    precisions: Sequence[str] = ('auto',)  # as `common.cli` names them: each network gives a row in each


@dataclass(frozen=True)
class ScoringPlan:
    """Everything that is to be scored, found and checked."""

    truths: list[Truth] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)  # what a network reads for each of them
    networks: dict[str, EvaluatedNetwork] = field(default_factory=dict)  # by the names of their rows
    base_only: bool = False  # networks that refine give a second row, without their refiner
    predictions: dict[str, PredictionFiles] = field(default_factory=dict)  # by the names of their rows
    metrics: list[str] = field(default_factory=list)
    largest: Size = (1, 1)  # of the picture with the most pixels
    settings: dict[str, Any] = field(default_factory=dict)  # of all new rows alike, in plain values
    earlier: list[Results] = field(default_factory=list)  # rows that are there already
    notes: list[str] = field(default_factory=list)  # to be printed for the user

    @property
    def with_fgr(self) -> bool:
        """Whether colours are scored, not alpha alone."""
        return not COLOUR_METRICS.isdisjoint(self.metrics)


def prepare(request: ScoringRequest) -> ScoringPlan:
    """Find the pictures, and check everything that can be checked before a network is built.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    plan = ScoringPlan()
    problems: list[str] = []
    if request.testset is not None:
        plan, problems = _plan_for_networks(request, request.testset)
    elif request.truth is not None:
        plan, problems = _plan_for_predictions(request, request.truth)
    cli.raise_problems(problems)
    earlier, problems, notes = _earlier(request, plan)
    if request.report and plan.metrics == ['dtssd']:
        problems.append('--report: shows pictures, and dtssd is of clips; ask for another metric as well')
    cli.raise_problems(problems)
    return replace(plan, earlier=earlier, notes=plan.notes + notes)


def base_only(name: str) -> str:
    """Return the name of the row of a network without its refiner."""
    return f'{name} (base only)'


def _plan_for_networks(request: ScoringRequest, folder: Path) -> tuple[ScoringPlan, list[str]]:
    from .networks import find_networks

    try:
        truths = _in_clips(request, find_testset(folder))
    except (ValueError, OSError) as error:
        return ScoringPlan(), [f'--testset {error}']
    sizes, problems = _sizes(f'--testset {folder}', truths, plates=True)
    if problems:
        return ScoringPlan(), problems
    small = [f'{x.src} is {"x".join(map(str, sizes[x.name]))}' for x in truths if min(sizes[x.name]) < MIN_SIDE]
    if small:
        problems.append(f'--testset {folder}: networks need {MIN_SIDE}x{MIN_SIDE} pixels; {some(small)}')
    largest = max(sizes.values(), key=math.prod)
    still = all(truth.clip is None for truth in truths)
    networks, wrong = find_networks(request.checkpoints, request.refiner, largest, still, request.base_only)
    metrics, lacking = _metrics(request, '--testset', truths, sizes, has_fgr=True)
    names = _row_names([network.path for network in networks])
    precisions = list(dict.fromkeys(request.precisions))
    plan = ScoringPlan(
        truths,
        jobs=[Job(x.name, x.src or x.pha, x.bgr or x.pha, sizes[x.name]) for x in truths],  # a test set has both
        networks={
            f'{name} ({precision})' if len(precisions) > 1 else name: replace(network, precision=precision)
            for name, network in zip(names, networks) for precision in precisions
        },
        base_only=request.base_only, metrics=metrics, largest=largest, settings=_settings(request, folder),
    )  # fmt: skip
    return plan, problems + wrong + lacking


def _plan_for_predictions(request: ScoringRequest, folder: Path) -> tuple[ScoringPlan, list[str]]:
    try:
        truths = _in_clips(request, find_truth(folder))
    except (ValueError, OSError) as error:
        return ScoringPlan(), [f'--truth {error}']
    sizes, problems = _sizes(f'--truth {folder}', truths)
    found: dict[str, PredictionFiles] = {}
    with_fgr = request.metrics is None or not COLOUR_METRICS.isdisjoint(request.metrics)
    for name, predicted in zip(_row_names(request.predictions), request.predictions):
        try:
            found[name] = find_predictions(predicted, truths, with_fgr)
            problems += [f'--predictions {problem}' for problem in found[name].problems]
        except (ValueError, OSError) as error:
            problems.append(f'--predictions {error}')
    if problems:
        return ScoringPlan(), problems
    metrics, lacking = _metrics(request, '--truth', truths, sizes, any(files.fgr for files in found.values()))
    plan = ScoringPlan(
        truths, predictions=found, metrics=metrics, settings=_settings(request, folder),
        largest=max(sizes.values(), key=math.prod),
        notes=[f'--predictions {note}' for files in found.values() for note in files.notes],
    )  # fmt: skip
    return plan, lacking


def _in_clips(request: ScoringRequest, truths: list[Truth]) -> list[Truth]:
    return as_clips(truths) if request.clips and all(truth.clip is None for truth in truths) else truths


def _sizes(what: str, truths: Sequence[Truth], plates: bool = False) -> tuple[dict[str, Size], list[str]]:
    """Return the (width, height) of each picture, and which of its files differ from that."""
    beside = ((x, path) for x in truths for path in (x.src, x.bgr if plates else None, x.fgr, x.trimap))
    sizes, problems = compare_sizes((x.pha, path or x.pha) for x, path in beside)
    return {x.name: sizes[x.pha] for x in truths if x.pha in sizes}, [f'{what}: {problem}' for problem in problems]


def _metrics(
    request: ScoringRequest, where: str, truths: Sequence[Truth], sizes: Mapping[str, Size], has_fgr: bool
) -> tuple[list[str], list[str]]:
    """Return the metrics to compute, and why some of those asked for cannot be."""
    lacking: dict[str, str] = {}
    if not any(truth.fgr for truth in truths):
        lacking |= dict.fromkeys(COLOUR_METRICS, 'there is no true foreground')
    elif not has_fgr:
        lacking |= dict.fromkeys(COLOUR_METRICS, 'there is no predicted foreground')
    if max(Counter(truth.clip for truth in truths if truth.clip is not None).values(), default=0) < 2:
        lacking['dtssd'] = 'there are no clips of two frames or more; --clips takes each folder of pictures for one'
    asked = request.metrics or [metric for metric in TITLES if metric not in lacking and metric != 'fg_mse_bmv2']
    problems = [f'--metrics {metric}: {why}' for metric, why in lacking.items() if metric in asked]
    if request.sort is not None and request.sort not in asked:
        problems.append(f'--sort {request.sort}: is not computed; choose one of {", ".join(asked)}')
    if 'dtssd' in asked:
        problems += [f'{where}: {line}' for line in clip_problems(truths, sizes)]
    return list(dict.fromkeys(asked)), problems


def _settings(request: ScoringRequest, folder: Path) -> dict[str, Any]:
    manifest = folder / MANIFEST
    made = {'manifest_sha256': digest(manifest)} if manifest.is_file() else {}
    return {'truth': str(folder), **made, 'region': request.region, 'scaling': request.scaling}


def _row_names(paths: Sequence[Path]) -> list[str]:
    """Return the last two parts of each path without .pth, or all parts where these cannot tell paths apart."""
    found = [path if path.name not in ('', '..') else path.resolve() for path in paths]  # '.' has no parts
    full = [named(path) for path in found]
    # A URL is a file's, be it fetched or not.
    bare = [
        Path(name).with_suffix('') if path.is_file() or name != str(path) else path for path, name in zip(found, full)
    ]
    short = ['/'.join(path.parts[-2:]) for path in bare]
    names = [name if short.count(part) > 1 else part for name, part in zip(full, short)]
    return names if len(set(names)) == len(names) else [named(path) for path in paths]


def _earlier(request: ScoringRequest, plan: ScoringPlan) -> tuple[list[Results], list[str], list[str]]:
    """Return the rows of earlier files, why they do not fit the new ones, and notes."""
    rows: list[Results] = []
    problems, notes = [], []
    taken = {*plan.networks, *plan.predictions}
    taken |= {base_only(name) for name, network in plan.networks.items() if plan.base_only and network.refines}
    settings, names = plan.settings, {truth.name for truth in plan.truths}
    for path in request.results:
        try:
            found = read_json(path)
        except (ValueError, OSError) as error:
            problems.append(f'--results {error}')
            continue
        for row in found:
            settings, names = settings or row.settings, names or set(row.figures)
            problems += [
                f'--results {path}: was scored with --{key} {row.settings.get(key)}, not {settings.get(key)}, so its '
                'figures cannot be compared'
                for key in ('region', 'scaling')
                if row.settings.get(key) != settings.get(key)
            ]
            if row.settings.get('manifest_sha256') != settings.get('manifest_sha256') or names != set(row.figures):
                notes.append(
                    f'--results {path}: was scored on another test set, so differences are over pictures of equal name '
                    f'alone, of which there are {len(names & set(row.figures))}'
                )
            names_of_row = (row.model, f'{row.model} ({path.name})', f'{row.model} ({path})')
            name = next((name for name in names_of_row if name not in taken), '')
            if not name:
                problems.append(f'--results {path}: {row.model} is there already; give every file once')
            taken.add(name)
            rows.append(replace(row, model=name))
    held = {metric for row in rows for metric in row.metrics}
    if request.sort and not plan.truths and held and request.sort not in held:
        problems.append(f'--sort {request.sort}: is not in --results; choose one of {", ".join(sorted(held))}')
    if rows and request.report:
        notes.append('--report: leaves out the rows of --results, whose predictions are not there to be shown')
    return rows, list(dict.fromkeys(problems)), list(dict.fromkeys(notes))
