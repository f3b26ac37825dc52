"""What evaluate.py does before it computes: from its flags to the rows of a table, found, paired and checked."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.network import MIN_SIDE
from dataset.sources import image_size
from evaluation.testset.layout import MANIFEST, find_testset, some
from inference import options
from inference.images.inputs import Job

from .folders import Predictions, Truth, as_clips, clip_problems, find_predictions, find_truth, size_problems, truths_of
from .results import Results
from .tables import TITLES, read_json

if TYPE_CHECKING:
    from .networks import Network

OF_NEW_ROWS = ('metrics', 'region', 'scaling', 'clips')
OF_NETWORKS = ('base_only', 'model_backbone_scale', 'model_refine_mode', 'model_refine_sample_pixels',
               'model_refine_threshold')  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is to be scored.

    Attributes:
        truths: the pictures.
        jobs: what a network reads for each of them.
        networks: those that give rows, by name.
        predictions: the rows of files, by name.
        metrics: to compute.
        largest: (width, height) of the picture with the most pixels.
        settings: of all new rows alike, in plain values.
        earlier: rows that are there already.
        notes: what to tell.
    """

    truths: list[Truth] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    networks: dict[str, Network] = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    largest: tuple[int, int] = (1, 1)
    settings: dict[str, Any] = field(default_factory=dict)
    earlier: list[Results] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def prepare(args: argparse.Namespace) -> Plan:
    """Finds the pictures and checks everything that can be checked before a network is built.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    problems = _choice_problems(args) + _output_problems(args) + options.device_problems(args)
    cli.raise_problems(problems)
    plan, problems = Plan(), []
    if args.checkpoint:
        plan, problems = _plan_for_networks(args)
    elif args.predictions:
        plan, problems = _plan_for_predictions(args)
    cli.raise_problems(problems)
    earlier, problems, notes = _earlier(args, plan)
    if args.report and plan.metrics == ['dtssd']:
        problems.append('--report: shows pictures, and dtssd is of clips; ask for another metric as well')
    cli.raise_problems(problems)
    return replace(plan, earlier=earlier, notes=plan.notes + notes)


def base_only(name: str) -> str:
    """The name of the row of a network without its refiner."""
    return f'{name} (base only)'


def _choice_problems(args: argparse.Namespace) -> list[str]:
    """What is wrong with the flags that say what is scored, before anything is looked at."""
    found = []
    for first, values, second, folder in (
        ('--checkpoint', args.checkpoint, '--testset', args.testset),
        ('--predictions', args.predictions, '--truth', args.truth),
    ):
        if bool(values) != (folder is not None):
            found.append(f'{first}: needs {second} as well' if values else f'{second}: needs {first} as well')
    for flag, values in (
        ('--checkpoint', args.checkpoint),
        ('--predictions', args.predictions),
        ('--results', args.results),
    ):
        found += [f'{flag} {path}: given twice' for path, count in Counter(values).items() if count > 1]
    if args.checkpoint and args.predictions:
        found.append('--checkpoint, --predictions: one at a time; --json keeps rows, and --results adds them to others')
    if not (args.checkpoint or args.predictions or args.results or found):
        found.append('nothing to score: give --checkpoint and --testset, or --predictions and --truth')
    files = [('--checkpoint', path) for path in args.checkpoint] + [('--results', path) for path in args.results]
    found += [f'{flag} {path}: no such file' for flag, path in files if not path.is_file()]
    if not args.checkpoint:
        given = [f'--{name.replace("_", "-")}' for name in OF_NETWORKS if getattr(args, name) not in (None, False)]
        found += [f'{", ".join(given)}: needs --checkpoint: it is about running networks'] if given else []
    if args.results and not (args.checkpoint or args.predictions):
        given = [f'--{name}' for name in OF_NEW_ROWS if getattr(args, name) not in (None, False)]
        found += [f'{", ".join(given)}: cannot change the figures of --results; leave it out'] if given else []
        if args.sort and not args.per_picture:
            found.append(f'--sort {args.sort}: sorts pictures; add --per-picture, or leave it out')
    if args.batch_size < 1:
        found.append(f'--batch-size {args.batch_size}: must be at least 1')
    if args.report and not (args.checkpoint or args.predictions):
        found.append('--report: needs pictures to show: give --checkpoint or --predictions as well')
    if args.report and args.sort == 'dtssd':
        found.append('--sort dtssd: is of clips, and a report shows pictures; choose another metric')
    return found


def _output_problems(args: argparse.Namespace) -> list[str]:
    """What stands in the way of the files to write."""
    found = []
    outputs = {f'--{name}': path for name in ('json', 'csv', 'report') if (path := getattr(args, name)) is not None}
    inputs = {path.resolve() for path in (*args.checkpoint, *args.results)}
    for flag, path in outputs.items():
        folder = path.absolute().parent
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            found.append(f'{flag} {path}: there is no folder {folder}, or it is not writable')
        elif path.resolve() in inputs:
            found.append(f'{flag} {path}: is one of the files to read; choose another name')
        elif path.is_dir() or (path.exists() and not args.overwrite):
            found.append(f'{flag} {path}: exists; choose another name, or add -y to replace a file')
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        found.append(f'{", ".join(outputs)}: two of them name one file')
    return found


def _plan_for_networks(args: argparse.Namespace) -> tuple[Plan, list[str]]:
    try:
        entries = find_testset(args.testset)
    except (ValueError, OSError) as error:
        return Plan(), [f'--testset {error}']
    plates = {entry.name: entry.bgr for entry in entries}
    truths = _in_clips(args, truths_of(entries))
    problems = _size_problems(f'--testset {args.testset}', truths, plates)
    if problems:
        return Plan(), problems
    from .networks import find_networks

    sizes = _sizes(truths)
    largest = max(sizes.values(), key=math.prod)
    problems = _too_small(args, truths, sizes)
    networks, wrong = find_networks(args, largest)
    metrics, lacking = _metrics(args, truths, sizes, has_fgr=True)
    jobs = [Job(x.name, x.src or x.pha, plates[x.name], sizes[x.name]) for x in truths]
    names = _row_names([network.flags.model_checkpoint for network in networks])
    plan = Plan(truths, jobs, dict(zip(names, networks)), {}, metrics, largest, _settings(args, args.testset))
    return plan, problems + wrong + lacking


def _plan_for_predictions(args: argparse.Namespace) -> tuple[Plan, list[str]]:
    try:
        truths = _in_clips(args, find_truth(args.truth))
    except (ValueError, OSError) as error:
        return Plan(), [f'--truth {error}']
    problems = _size_problems(f'--truth {args.truth}', truths, {})
    found: dict[str, Predictions] = {}
    with_fgr = args.metrics is None or 'fg_mse' in args.metrics
    for name, folder in zip(_row_names(args.predictions), args.predictions):
        try:
            found[name] = find_predictions(folder, truths, with_fgr)
            problems += [f'--predictions {problem}' for problem in found[name].problems]
        except (ValueError, OSError) as error:
            problems.append(f'--predictions {error}')
    if problems:
        return Plan(), problems
    notes = [f'--predictions {note}' for predictions in found.values() for note in predictions.notes]
    sizes = _sizes(truths)
    metrics, lacking = _metrics(args, truths, sizes, any(predictions.fgr for predictions in found.values()))
    largest = max(sizes.values(), key=math.prod)
    return Plan(truths, [], {}, found, metrics, largest, _settings(args, args.truth), [], notes), lacking


def _in_clips(args: argparse.Namespace, truths: list[Truth]) -> list[Truth]:
    return as_clips(truths) if args.clips and all(truth.clip is None for truth in truths) else truths


def _size_problems(what: str, truths: Sequence[Truth], plates: dict[str, Path]) -> list[str]:
    beside = ((x, path) for x in truths for path in (x.src, plates.get(x.name), x.fgr, x.trimap))
    return [f'{what}: {problem}' for problem in size_problems((x.pha, path or x.pha) for x, path in beside)]


def _too_small(args: argparse.Namespace, truths: Sequence[Truth], sizes: dict[str, tuple[int, int]]) -> list[str]:
    least = MIN_SIDE
    small = [f'{x.src} is {"x".join(map(str, sizes[x.name]))}' for x in truths if min(sizes[x.name]) < least]
    return [f'--testset {args.testset}: networks need {least}x{least} pixels; {some(small)}'] if small else []


def _sizes(truths: Sequence[Truth]) -> dict[str, tuple[int, int]]:
    return {truth.name: image_size(truth.pha) for truth in truths}


def _metrics(
    args: argparse.Namespace, truths: Sequence[Truth], sizes: dict[str, tuple[int, int]], has_fgr: bool
) -> tuple[list[str], list[str]]:
    """The metrics to compute, and why some of those asked for cannot be."""
    lacking = {}
    if not any(truth.fgr for truth in truths):
        lacking['fg_mse'] = 'there is no true foreground'
    elif not has_fgr:
        lacking['fg_mse'] = 'there is no predicted foreground'
    if max(Counter(truth.clip for truth in truths if truth.clip is not None).values(), default=0) < 2:
        lacking['dtssd'] = 'there are no clips of two frames or more; --clips takes each folder of pictures for one'
    asked = args.metrics or [metric for metric in TITLES if metric not in lacking]
    problems = [f'--metrics {metric}: {why}' for metric, why in lacking.items() if metric in asked]
    if args.sort is not None and args.sort not in asked:
        problems.append(f'--sort {args.sort}: is not computed; choose one of {", ".join(asked)}')
    if 'dtssd' in asked:
        problems += [
            f'{"--testset" if args.checkpoint else "--truth"}: {line}' for line in clip_problems(truths, sizes)
        ]
    return list(dict.fromkeys(asked)), problems


def _settings(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    manifest = folder / MANIFEST
    made = {'manifest_sha256': hashlib.sha256(manifest.read_bytes()).hexdigest()} if manifest.is_file() else {}
    return {'truth': str(folder), **made, 'region': args.region or 'unknown', 'scaling': args.scaling or 'bmv2'}


def _row_names(paths: Sequence[Path]) -> list[str]:
    """The last two parts of each path without .pth, or the whole where these cannot tell them apart: all differ."""
    named = [path if path.name not in ('', '..') else path.resolve() for path in paths]  # '.' has no parts
    short = ['/'.join((path.with_suffix('') if path.is_file() else path).parts[-2:]) for path in named]
    names = [str(path) if short.count(name) > 1 else name for path, name in zip(named, short)]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _earlier(args: argparse.Namespace, plan: Plan) -> tuple[list[Results], list[str], list[str]]:
    """The rows of earlier files, why they do not fit the new ones, and what to tell."""
    rows: list[Results] = []
    problems, notes = [], []
    taken = {*plan.networks, *plan.predictions}
    taken |= {base_only(name) for name, network in plan.networks.items() if args.base_only and network.refines}
    settings, names = plan.settings, {truth.name for truth in plan.truths}
    for path in args.results:
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
    if args.sort and not plan.truths and held and args.sort not in held:
        problems.append(f'--sort {args.sort}: is not in --results; choose one of {", ".join(sorted(held))}')
    if rows and args.report:
        notes.append('--report: leaves out the rows of --results, whose predictions are not there to be shown')
    return rows, list(dict.fromkeys(problems)), list(dict.fromkeys(notes))
