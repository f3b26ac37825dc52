"""The data of a run: checked, and laid out in the samples of every step."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from dataset.checks import check_files
from dataset.geometry import AffineRange
from dataset.loaders import Source, TrainingBatches, ValidationBatches, WarpedPairs, default_workers
from dataset.paths import read_data_config
from dataset.sampling import SamplingPlan, StepSampler, default_multiple
from dataset.sources import BackgroundFiles, MatteFiles
from dataset.stores import Folder, Picture
from dataset.synthetic import DRAWINGS, SyntheticBackgrounds, SyntheticMattes

from .distributed import Ranks
from .settings import DataSettings

log = logging.getLogger(__name__)

Files = dict[str, tuple[Folder, list[Picture]]]
BACKGROUND_RANGE = AffineRange(scale=(1, 2))
VALID_MATTE_RANGE = AffineRange(scale=(0.3, 1), flip=0)
VALID_BACKGROUND_RANGE = AffineRange(scale=(1, 1.2), flip=0)


@dataclass(frozen=True)
class Data:
    """The samples of a run: warped pairs of pictures, and which of them each step sees.

    Attributes:
        settings: the flags.
        training, validation: the pairs.
        plan: the samples of every step.
        files: of each kind, their folder and their paths in the order of the samples; none of drawn data.
    """

    settings: DataSettings
    training: WarpedPairs
    validation: WarpedPairs
    plan: SamplingPlan
    files: Files

    @property
    def identity(self) -> dict[str, Any]:
        """What a run must not change when it goes on."""
        valid = (self.settings.valid_samples, len(self.validation.mattes), len(self.validation.backgrounds))
        return {
            'data': self.settings.dataset_name,
            'pictures': [self.plan.mattes, self.plan.backgrounds],
            'samples of a step': self.plan.batch_size,
            'resolution': self.settings.train_resolution,
            'seed': self.settings.seed,
            'validation': [*valid],
            **({} if self.files else {'drawings': DRAWINGS}),
        }

    def training_batches(self, ranks: Ranks, start: int, end: int) -> TrainingBatches:
        """Return the batches of this rank for the steps from `start` to before `end`."""
        sampler = StepSampler(self.plan, start, end, self.settings.accumulate, ranks.rank, ranks.world)
        return TrainingBatches(self.training, sampler, *self._loading(ranks))

    def validation_batches(self, ranks: Ranks) -> ValidationBatches:
        """Return the fixed validation batches of this rank."""
        settings, unit = self.settings, self.plan.unit
        side = settings.train_resolution // unit * unit
        per_rank = max(1, settings.batch_size // ranks.world)
        samples, place = settings.valid_samples, (ranks.rank, ranks.world)
        return ValidationBatches(self.validation, samples, side, per_rank, *self._loading(ranks), *place)

    def _loading(self, ranks: Ranks) -> tuple[int, bool]:
        """Return the worker processes of this rank, and whether pictures lie in page-locked memory."""
        asked = self.settings.num_workers
        return default_workers() if asked is None else asked, ranks.device.type == 'cuda'


def open_data(settings: DataSettings, ranks: Ranks, matte_scale: tuple[float, float], crop_unit: int) -> Data:
    """Check the data and lay out the samples of every step.

    Args:
        settings: the flags.
        ranks: that share the samples.
        matte_scale: least and largest scale of the training affine of foreground and alpha.
        crop_unit: what the network needs a picture's sides to be multiples of.

    Raises:
        ValueError: all that is wrong with the data, in one message; too few samples for the ranks.
    """
    training, validation, files = _sources(settings)
    plan = _plan(settings, crop_unit, training, ranks)
    if min(settings.valid_samples, max(map(len, validation))) < ranks.world:
        raise ValueError(f'--valid-samples: {ranks.world} ranks need at least {ranks.world} validation samples')
    return Data(
        settings,
        WarpedPairs(*training, AffineRange(scale=matte_scale), BACKGROUND_RANGE),
        WarpedPairs(*validation, VALID_MATTE_RANGE, VALID_BACKGROUND_RANGE),
        plan,
        files,
    )


def _sources(settings: DataSettings) -> tuple[tuple[Source, Source], tuple[Source, Source], Files]:
    """Return the (mattes, backgrounds) of training and of validation, checked, and `Data.files`."""
    if settings.dataset_name == 'synthetic':
        count, valid = settings.synthetic_size, settings.valid_samples
        return (
            (SyntheticMattes(count, seed=0), SyntheticBackgrounds(count, seed=0)),
            (SyntheticMattes(valid, seed=1), SyntheticBackgrounds(valid, seed=1)),
            {},
        )
    paths = read_data_config(settings.data_config, settings.dataset_name)
    report = check_files(paths)
    for note in report.notes:
        log.info(note)
    report.raise_for_findings()
    return (
        (MatteFiles(report.train_pairs), BackgroundFiles(report.train_bgr)),
        (MatteFiles(report.valid_pairs), BackgroundFiles(report.valid_bgr)),
        {
            'training foregrounds': (paths.train_fgr, [fgr for fgr, _ in report.train_pairs]),
            'training alphas': (paths.train_pha, [pha for _, pha in report.train_pairs]),
            'training backgrounds': (paths.train_bgr, report.train_bgr),
            'validation foregrounds': (paths.valid_fgr, [fgr for fgr, _ in report.valid_pairs]),
            'validation alphas': (paths.valid_pha, [pha for _, pha in report.valid_pairs]),
            'validation backgrounds': (paths.valid_bgr, report.valid_bgr),
        },
    )


def _plan(settings: DataSettings, unit: int, sources: tuple[Source, Source], ranks: Ranks) -> SamplingPlan:
    """Lay out the samples of every step; raise ValueError where some batches are too small for BatchNorm.

    It needs two samples, over all ranks; several ranks have at least one each.
    """
    samples = settings.batch_size * settings.accumulate
    resolution = settings.train_resolution
    multiple = settings.crop_multiple or default_multiple(resolution, unit)
    plan = SamplingPlan(len(sources[0]), len(sources[1]), samples, resolution, multiple, settings.seed, unit)
    least = 2 * settings.accumulate
    if ranks.world == 1 and plan.smallest_batch < least:
        raise ValueError(
            f'--batch-size {settings.batch_size}: with {plan.samples_per_epoch} samples of an epoch and --accumulate '
            f'{settings.accumulate}, some batches have {plan.smallest_batch} samples, and at least {least} are needed; '
            'change the batch size'
        )
    return plan
