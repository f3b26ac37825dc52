"""Scores weights as training validates them: the fixed samples, the stage's own step, one set after the other.

Also re-estimates BatchNorm statistics over training batches. Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli

if TYPE_CHECKING:
    from torch import Tensor

    from checkpointing.record import Record

    from .loop import Run

    State = Mapping[str, Tensor]

# What scoring takes from the record of a checkpoint where no flag says otherwise.
OF_THE_RUN = ('data_config', 'synthetic_size', 'valid_samples', 'train_resolution', 'batch_size', 'seed', 'recipe')
OF_THE_REFINER = (
    'model_backbone_scale', 'model_refine_mode', 'model_refine_sample_pixels', 'model_refine_threshold',
)  # fmt: skip
OF_THE_MACHINE = ('num_workers', 'device', 'precision')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; those left out are as the run was trained, else the stage script's defaults."""
    add = parser.add_argument_group('scoring (left out: as the run was trained, else as the stage script does)')
    flag = add.add_argument
    flag('--dataset-name', help='score on this data set\'s validation samples; "synthetic" needs no files')
    flag('--data-config', type=Path, metavar='FILE', help='folders of each data set')
    flag('--synthetic-size', type=int, metavar='N', help='training samples of "synthetic"')
    flag('--valid-samples', type=int, metavar='N', help='validation samples')
    flag('--train-resolution', type=int, metavar='PX', help='side of the square samples')
    flag('--batch-size', type=int, metavar='N', help='samples of a batch')
    cli.add_refiner_arguments(flag, None, kernel=False)
    flag('--num-workers', type=int, metavar='N', help='processes that read pictures')
    cli.add_device_argument(flag)
    cli.add_precision_argument(flag)


@dataclass(frozen=True)
class Bench:
    """A run of a stage that never trains: it scores one set of weights after the other.

    Attributes:
        run: with the network, the data and the step of the stage.
        args: the stage script's command line.
    """

    run: Run
    args: argparse.Namespace

    def score(self, state: State, metric: str = 'loss') -> dict[str, float]:
        """Return the validation metrics of weights, as training logs them, without 'valid_'; lower is better.

        Args:
            state: the weights.
            metric: that decides: 'conn' is slow and measured only then.

        Raises:
            ValueError: they do not fit the network.
        """
        from model.weights import load_weights

        from .validation import validate

        run = self.run
        load_weights(run.state.module, state)
        scores = validate(run.state.module, run.valid_batches, run.step, run.ranks, run.dtype, metric)
        assert scores is not None
        return scores

    def reestimate(self, state: State, batches: int) -> dict[str, Tensor]:
        """Return the weights with BatchNorm statistics as plain means over training batches, without dropout.

        Args:
            state: the weights; all but the statistics come back as they are.
            batches: of training, augmented as in training.

        Raises:
            ValueError: the weights do not fit the network.
        """
        from checkpointing.average import estimating_batch_norm
        from model.weights import load_weights

        from .distributed import autocast_forward

        run, module = self.run, self.run.state.module
        load_weights(module, state)
        model = autocast_forward(module, run.ranks.device, run.dtype)
        with estimating_batch_norm(module):
            for batch in itertools.islice(run.batches, batches):
                run.step(model, batch.to(run.ranks.device))
        estimated = module.state_dict()
        return {
            name: estimated[name].to('cpu', tensor.dtype, copy=True)
            if name.endswith(('running_mean', 'running_var'))
            else tensor
            for name, tensor in state.items()
        }


def prepare(scripts: Mapping[str, Any], given: argparse.Namespace, state: State, record: Record | None) -> Bench:
    """Build the stage that weights belong to, and its data.

    Args:
        scripts: the stage script of each model type.
        given: the flags of `add_arguments`; None leaves a choice to the run.
        state: weights, which say stage, backbone and the refiner's kernel size.
        record: of the checkpoint that they come from, which says how they were trained, if there is one.

    Raises:
        ValueError: weights of no matting network, or what is wrong with flags or data.
    """
    from common.devices import choose_device, keep_memory

    from . import data, stage
    from .distributed import Ranks

    # A run has a folder, of which nothing is needed here.
    with tempfile.TemporaryDirectory() as folder:
        script, args = _command_line(scripts, given, state, record, folder)
        ranks = Ranks(choose_device(args.device))
        keep_memory()
        # What a beginning run says of its data, and of its first weights, which are never used here.
        for module in (data, stage):
            module.log.disabled = True
        try:
            run = script.make_run(args, ranks)
        finally:
            for module in (data, stage):
                module.log.disabled = False
        run.checkpoints.close()
    return Bench(run, args)


def judge(
    scripts: Mapping[str, Any],
    given: argparse.Namespace,
    average: dict[str, Tensor],
    members: Mapping[str, Callable[[], State]],
    record: Record | None,
    metric: str,
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]], list[str]]:
    """Score an average and its members.

    Args:
        scripts: as for `prepare`.
        given: the flags of `add_arguments`, `batch_norm` and `reestimate_batches`.
        average: its weights, BatchNorm statistics averaged too.
        members: how to read the weights of each, by name.
        record: as for `prepare`.
        metric: that decides.

    Returns:
        The average with the statistics that were asked for, all scores by name, and in words who wins.

    Raises:
        ValueError: no such metric, or as `prepare`.
    """
    bench = prepare(scripts, given, average, record)
    averages = {'the average': average}
    if given.batch_norm == 'reestimate':
        averages = {
            'the average, BatchNorm re-estimated': bench.reestimate(average, given.reestimate_batches),
            'the average, BatchNorm averaged': average,
        }
    scores = {}
    for name, state in averages.items():
        scores[name] = bench.score(state, metric)
        if metric not in scores[name]:
            known = ', '.join(f'valid_{known}' for known in scores[name])
            raise ValueError(f'--monitor {given.monitor or metric}: not one of {known}')
    scores.update({name: bench.score(read(), metric) for name, read in members.items()})
    words = [winner(scores, name, members, metric) for name in averages]
    if given.batch_norm == 'reestimate':
        # New statistics can help by themselves: what they do for the best member is no merit of the average.
        best = min(members, key=lambda name: _finite(scores[name][metric]))
        control = f'{best}, BatchNorm re-estimated'
        scores[control] = bench.score(bench.reestimate(members[best](), given.reestimate_batches), metric)
        words.append(winner(scores, next(iter(averages)), [control], metric).partition(';')[0])
    return next(iter(averages.values())), scores, words


def batch_norm(given: argparse.Namespace) -> str:
    """Say in words how BatchNorm statistics were made."""
    if given.batch_norm == 'average':
        return 'BatchNorm statistics averaged'
    batches = f'{given.reestimate_batches} training batches of {given.dataset_name}'
    return f'BatchNorm statistics re-estimated over {batches}, without dropout'


def winner(scores: Mapping[str, Mapping[str, float]], average: str, members: Collection[str], metric: str) -> str:
    """Say whether an average beats the best of its members, and by how much; lower is better.

    Args:
        scores: by what is scored; one that is not finite is the worst.
        average: which of them is the average.
        members: which are the members.
        metric: that decides.
    """
    member = min(members, key=lambda name: _finite(scores[name][metric]))
    own, other = _finite(scores[average][metric]), _finite(scores[member][metric])
    figures = f'{metric} {own:.6g} against {other:.6g} of {member}'
    if own < other:
        return f'{average} wins over its best member: {figures}, {_percent(other - own, other)} lower'
    if own > other:
        return f'{average} LOSES to its best member: {figures}, {_percent(own - other, other)} higher; use {member}'
    return f'{average} is no better than its best member: {figures}'


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _percent(difference: float, of: float) -> str:
    return f'{100 * difference / of:.2g} %' if 0 < of < math.inf else 'infinitely'


def _command_line(
    scripts: Mapping[str, Any], given: argparse.Namespace, state: State, record: Record | None, folder: str
) -> tuple[Any, argparse.Namespace]:
    """Return the stage script for weights, and its checked command line of a run in a folder."""
    from checkpointing.origin import network_of

    network = network_of(state)
    if network is None:
        raise ValueError('--dataset-name: these are weights of no matting network, which cannot be scored')
    refines, values = network[0] == 'mattingrefine', {}
    if record is not None:
        recorded = {**record.options, 'recipe': record.recipe}
        values = {name: recorded[name] for name in OF_THE_RUN if recorded.get(name) is not None}
        if refines and record.refiner is not None:
            values |= {f'model_{name}': value for name, value in vars(record.refiner).items()}
    for name in OF_THE_RUN + OF_THE_REFINER + OF_THE_MACHINE:
        if getattr(given, name, None) is None:
            continue
        if name in OF_THE_REFINER and not refines:
            raise ValueError(f'{cli.flag(name)}: these are weights of the base stage, which has no refiner')
        values[name] = getattr(given, name)
    values |= {'dataset_name': given.dataset_name, 'model_backbone': network[1]}
    values |= {'model_name': 'scored', 'checkpoint_dir': folder, 'log_dir': folder, 'ema_decay': 0}
    if refines:
        values['model_refine_kernel_size'] = state['refiner.conv1.weight'].shape[2]
    if getattr(given, 'batch_norm', None) == 'reestimate':
        values['epoch_end'] = given.reestimate_batches  # which have at least one batch each
    script = scripts[network[0]]
    words = [word for name, value in values.items() for word in (cli.flag(name), str(value))]
    return script, script.parse([*words, *(['--from-scratch'] if refines else [])])
