"""One network from several: the mean of their weights, and BatchNorm statistics that fit it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .inventory import RecordedRun
from .mirror.tools import fetch
from .origin import Origin, find_origin
from .verify import Verifier


def average(states: Iterable[Mapping[str, Tensor]], names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the mean of several networks' weights, summed in float64.

    BatchNorm statistics are averaged like everything else. Only one state is held at a time beside the sum, so that
    many large ones can be given by a generator.

    Args:
        states: at least two state_dicts of one network, the newest at the end.
        names: of the states, for messages.

    Returns:
        The means in the newest state's dtypes; tensors that are not floating, such as counters, are the newest's.

    Raises:
        ValueError: fewer than two states, other names or shapes than the first has, or values that are not finite.
    """
    sums: dict[str, Tensor] = {}
    newest: Mapping[str, Tensor] = {}
    first: dict[str, tuple[torch.Size, bool]] = {}
    count = 0
    for newest in states:
        name = names[count] if count < len(names) else f'state {count}'
        first = first or {k: _kind(t) for k, t in newest.items()}
        _check(newest, first, name, names[0] if names else 'state 0')
        for key, tensor in newest.items():
            if tensor.is_floating_point():
                sums[key] = sums[key] + tensor.double() if count else tensor.double().clone()
        count += 1
    if count < 2:
        raise ValueError(f'an average needs at least two sets of weights, not {count}')
    return {k: (sums[k] / count if k in sums else t).to(t.dtype, copy=True).contiguous() for k, t in newest.items()}


@contextlib.contextmanager
def estimating_batch_norm(model: nn.Module) -> Iterator[None]:
    """Count every forward pass in the block equally into new BatchNorm statistics; change nothing else.

    The rest of the network is in evaluation mode: without dropout, whose noise would enter the statistics of the
    layers behind it, these are what the network meets when it is used.

    Raises:
        ValueError: at the end, a layer that no pass has reached. The statistics are then those from before, as they
            are after any error inside.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    before = {
        name: ({k: b.clone() for k, b in m.named_buffers(recurse=False)}, m.momentum) for name, m in layers.items()
    }
    modes = {m: m.training for m in model.modules()}
    model.eval()
    for layer in layers.values():
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        with torch.no_grad():
            yield
        unreached = [name for name, m in layers.items() if not int(m.num_batches_tracked or 0)]
        if unreached:
            raise ValueError(f'no pass has reached the BatchNorm layer {unreached[0]}')
    except BaseException:
        for name, layer in layers.items():
            layer.load_state_dict(before[name][0], strict=False)
        raise
    finally:
        for name, layer in layers.items():
            layer.momentum = before[name][1]
            # Counts the training's steps, to which these passes do not belong.
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(before[name][0]['num_batches_tracked'])
        for module, mode in modes.items():
            module.training = mode


def _kind(tensor: Tensor) -> tuple[torch.Size, bool]:
    return tensor.shape, tensor.is_floating_point()


def _in_words(kind: tuple[torch.Size, bool]) -> str:
    return f'{list(kind[0])}{"" if kind[1] else " of whole numbers"}'


def _check(
    state: Mapping[str, Tensor], first: Mapping[str, tuple[torch.Size, bool]], name: str, first_name: str
) -> None:
    odd = sorted(first.keys() ^ state.keys())
    if odd:
        where = name if odd[0] in state else first_name
        raise ValueError(
            f'{name} is of another network than {first_name}: {len(odd)} tensors are in only one of them, such as '
            f'{", ".join(odd[:3])} in {where}'
        )
    other = [key for key, tensor in state.items() if _kind(tensor) != first[key]]
    if other:
        kinds = f'{_in_words(first[other[0]])} and {_in_words(_kind(state[other[0]]))}'
        raise ValueError(f'{first_name} and {name} have tensors of other shapes: {", ".join(other[:3])} ({kinds})')
    broken = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ValueError(f'{name} has values that are not finite, in {", ".join(broken[:3])}; leave it out')


def choose_members(run: RecordedRun, monitor: str, best: int | None, last: int | None, ema: bool = False) -> list[Path]:
    """Choose the files of a run that are to be averaged, oldest first.

    Args:
        run: whose checkpoints are meant.
        monitor: the metric of the best.
        best: that many of the best.
        last: that many of the newest, where `best` is None.
        ema: take the averages that training kept.

    Raises:
        ValueError: the run has too few.
    """
    kind = 'ema' if ema else 'weights'
    if best is not None:
        records = run.best(best, kind, metric_name(monitor, ema))
    else:
        assert last is not None
        records = run.newest(last, kind)
    return [run.folder / record.files[kind].name for record in records]


def metric_name(monitor: str, ema: bool) -> str:
    """Return the metric of plain or of averaged weights, such as 'valid_ema_loss', for a name of either or 'loss'."""
    return ('valid_ema_' if ema else 'valid_') + bare_metric(monitor)


def bare_metric(monitor: str) -> str:
    """Return what validation calls a metric, such as 'loss' for 'valid_ema_loss'."""
    return monitor.removeprefix('valid_').removeprefix('ema_')


def find_members(paths: Sequence[Path], verifier: Verifier) -> list[Origin]:
    """Find where the files of an average come from, the newest last.

    Checkpoints of one run are ordered by step, other files stay as they are given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: fewer than two files, or one given twice.
    """
    found: list[Origin] = []
    for path in paths:
        fetch(path)
        if not path.is_file():
            raise FileNotFoundError(f'{path}: no such file')
        for other in found:
            if path.samefile(other.path):
                raise ValueError(f'{path} and {other.path} are one file; each counts once')
        found.append(find_origin(path, verifier))
    if len(found) < 2:
        raise ValueError(f'an average needs at least two files, not {len(found)}')
    if len({member.record.run if member.record else None for member in found}) == 1:
        found.sort(key=lambda member: member.record.step if member.record else 0)
    return found
