"""Rows of figures: predictions of networks or from files, scored while the next are read and computed."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.console import progress
from common.devices import choose_device, torch_threads
from dataset.readers import read_alpha, read_rgb
from dataset.tags import converted
from inference import options
from inference.coarse import coarse_only
from inference.images.report import PictureResult
from inference.images.stages import compute, load_pair
from inference.images.writer import PictureWriter
from inference.matte import NotFiniteError, Pending
from inference.pipeline import Pipeline
from inference.predictor import Matting

from .folders import PredictionFiles
from .networks import EvaluatedNetwork
from .plan import ScoringPlan, base_only
from .results import Results
from .scores import OF_PAIRS, Frame, Pixels, PixelSource, figures, read_frame, unsteadiness, with_previous
from .testset.layout import Truth

# Scoring takes about 150 bytes for a pixel: this many are scored at the same time, or one picture.
PIXELS_AT_ONCE = 2**24


@dataclass(frozen=True)
class ComputeSettings:
    """Device as `common.cli` names it, pictures at once, threads that read; 0: one per core."""

    device: str = 'auto'
    batch_size: int = 1
    num_workers: int | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table: one model's predictions."""

    name: str
    report: str  # a line for the console, before it is scored
    settings: dict[str, Any]  # to be kept with the results
    threads: options.Threads
    predict: Callable[[Pipeline], Iterator[PixelSource]]  # starts the work; yields one for each of the plan's truths
    file: Callable[[str], Path]  # where a picture's alpha lies once it is scored, if it is kept


def rows(plan: ScoringPlan, compute: ComputeSettings, folder: Path | None) -> Iterator[Row]:
    """Make the new rows, one after the other, since each network is built when it is its turn.

    The alphas of networks are kept in `folder`, if there is one.

    Raises:
        ValueError: a network cannot be built.
    """
    for name, found in plan.predictions.items():
        settings = {**plan.settings, 'predictions': str(found.folder)}
        predict = partial(_from_files, found, plan.truths, plan.with_fgr)
        threads = options.share_cores('files', len(plan.truths), 1, num_workers=compute.num_workers)
        yield Row(name, f'{len(found.pha)} files', settings, threads, predict, found.pha.__getitem__)
    for name, network in plan.networks.items():
        yield from _network_rows(name, network, plan, compute, folder)


def _network_rows(
    name: str, network: EvaluatedNetwork, plan: ScoringPlan, compute: ComputeSettings, folder: Path | None
) -> Iterator[Row]:
    """Make the row of a network and, if asked for, the one without its refiner."""
    chosen = network.settings
    refiner = {} if chosen.refiner is None else vars(chosen.refiner)
    device = choose_device(compute.device)
    matting = Matting.from_checkpoint(
        network.path, chosen.model_type, chosen.backbone, device=device, precision=network.precision, **refiner
    )
    precision = str(matting.dtype).removeprefix('torch.')
    settings = {**plan.settings, **network.about, 'device': str(matting.device), 'precision': precision}
    batches = math.ceil(len(plan.jobs) / compute.batch_size)
    pixels = math.prod(plan.largest) * compute.batch_size
    threads = options.share_cores(device.type, batches, pixels, chosen, compute.num_workers)

    def row(name: str, report: str, matting: Matting, settings: dict[str, Any]) -> Row:
        # A folder with a name of its own, since names of rows need not be names of folders.
        writer = None if folder is None else PictureWriter(Path(tempfile.mkdtemp(dir=folder)), {'pha': 'png'})
        predict = partial(_from_network, matting, plan, compute.batch_size, threads, writer)
        return Row(name, report, settings, threads, predict, partial(_kept, writer))

    yield row(name, f'{network.report}; on {matting.device} in {precision}', matting, settings)
    if plan.base_only and network.refines:
        yield row(base_only(name), 'its coarse alpha, enlarged', coarse_only(matting), {**settings, 'refined': False})


def _kept(writer: PictureWriter | None, name: str) -> Path:
    assert writer is not None
    return writer.path('pha', name)


def scored(row: Row, plan: ScoringPlan) -> Results:
    """Score the predictions of a row.

    Raises:
        ValueError: a picture cannot be read, computed or compared.
        OSError: an alpha cannot be kept.
    """
    threads = max(1, min(row.threads.files, PIXELS_AT_ONCE // math.prod(plan.largest)))
    whole, scaling = plan.settings['region'] == 'whole', plan.settings['scaling']
    read = partial(read_frame, whole=whole)
    score = partial(_score, metrics=plan.metrics, scaling=scaling)
    found: dict[str, dict[str, float]] = {}
    changes: dict[str, list[float]] = defaultdict(list)
    with Pipeline() as pipeline, torch_threads(row.threads.each or 1):
        frames = pipeline.ahead(read, zip(plan.truths, row.predict(pipeline), strict=True), threads)
        done = pipeline.ahead(score, with_previous(frames), threads)
        for truth, values, change in progress(done, len(plan.truths), ' pictures'):
            found[truth.name] = values
            if truth.clip is not None and OF_PAIRS in plan.metrics:
                changes[truth.clip] += [] if change is None or math.isnan(change) else [change]
    clips: dict[str, list[str]] = defaultdict(list)
    for truth in plan.truths:
        if truth.clip is not None:
            clips[truth.clip].append(truth.name)
    of_clips = {
        clip: {OF_PAIRS: math.fsum(values) / len(values) if values else math.nan} for clip, values in changes.items()
    }
    subjects = {truth.name: truth.subject for truth in plan.truths if truth.subject is not None}
    return Results(row.name, found, dict(clips), of_clips, row.settings, subjects)


def _score(
    frames: tuple[Frame, Frame | None], metrics: Sequence[str], scaling: str
) -> tuple[Truth, dict[str, float], float | None]:
    frame, before = frames
    change = unsteadiness(before, frame, scaling) if before is not None and OF_PAIRS in metrics else None
    return frame.truth, figures(frame, metrics, scaling), change


def _from_files(found: PredictionFiles, truths: Sequence[Truth], with_fgr: bool, _: Pipeline) -> Iterator[PixelSource]:
    def read(name: str) -> Pixels:
        coloured = with_fgr and name in found.fgr
        return read_alpha(found.pha[name]), read_rgb(found.fgr[name]) if coloured else None

    return (partial(read, truth.name) for truth in truths)


def _from_network(
    matting: Matting,
    plan: ScoringPlan,
    batch_size: int,
    threads: options.Threads,
    writer: PictureWriter | None,
    pipeline: Pipeline,
) -> Iterator[PixelSource]:
    loaded = pipeline.ahead(partial(load_pair, matting=matting, resize=False, align=False), plan.jobs, threads.files)
    spread = partial(pipeline.ahead, threads=threads.batches) if threads.batches > 1 else map
    for item, pending, index in compute(loaded, matting, batch_size, set(), spread):
        yield partial(_finish, item, pending, index, writer, plan.with_fgr)


def _finish(
    item: PictureResult, pending: Pending | None, index: int, writer: PictureWriter | None, with_fgr: bool
) -> Pixels:
    if pending is None:
        raise ValueError(item.error)
    try:
        matte = pending.matte(index)
    except NotFiniteError as error:
        raise ValueError(f'{item.job.src}: {error}') from error
    if writer is not None:
        writer.write(item.job.name, matte)
    return matte.pha, converted(matte.fgr, item.tags.profile, None) if with_fgr else None
