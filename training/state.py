"""What a run remembers: one object, and that object is what is saved.

Learning rates and random draws are functions of the step, so neither a scheduler nor a generator appears here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

FORMAT = 1
NEVER = 2**31 - 1
Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass
class Progress:
    """The counters.

    Attributes:
        step: optimizer steps done over the whole run, which is the number of the next one.
        skipped: steps left out because their loss or gradient was not finite.
        skipped_in_a_row: of these, the ones just now.
        owed: whether a signal came before the validation and the checkpoint that were due after the last step.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    owed: bool = False


@dataclass
class TrainingState:
    """Weights, optimizer, loss scaler, average of weights, counters.

    Attributes:
        module: the network itself, not its wrapper.
        optimizer: its groups carry a 'name'.
        scaler: scales the loss in float16; elsewhere it only leaves out steps with non-finite gradients.
        ema: the exponential moving average of module, or None.
        progress: the counters.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: AveragedModel | None = None
    progress: Progress = field(default_factory=Progress)

    def weights(self) -> dict[str, Tensor]:
        """The network's state_dict, in the memory layout that other tools expect."""
        return _contiguous(self.module)

    def ema_weights(self) -> dict[str, Tensor] | None:
        """The averaged network's state_dict, with the network's own names."""
        return _contiguous(self.ema.module) if self.ema is not None else None

    def state_dict(self) -> dict[str, Any]:
        """All but the weights, in plain types and tensors; the optimizer's moments by parameter name."""
        names = self._names()
        return {
            'format': FORMAT,
            'progress': asdict(self.progress),
            'optimizer': {names[p]: dict(moments) for p, moments in self.optimizer.state.items()},
            'scaler': self.scaler.state_dict() if is_dynamic(self.scaler) else {},
            'ema_updates': int(self.ema.n_averaged) if self.ema is not None else None,
        }

    def load_state_dict(
        self, state: dict[str, Any], weights: dict[str, Tensor], ema: dict[str, Tensor] | None = None
    ) -> None:
        """Puts everything back.

        Args:
            state: from `state_dict`.
            weights: from `weights`.
            ema: from `ema_weights`, where the run keeps an average.

        Raises:
            ValueError: another format, or moments of other parameters than the network has.
        """
        if state.get('format') != FORMAT:
            raise ValueError(f'training state of format {state.get("format")}, this version reads {FORMAT}')
        self.module.load_state_dict(weights)
        self._load_optimizer(state['optimizer'])
        if state['scaler'] and is_dynamic(self.scaler):
            self.scaler.load_state_dict(state['scaler'])
        self.progress = Progress(**state['progress'])
        if self.ema is not None:
            if ema is None:
                raise ValueError('--ema-decay: the checkpoint holds no average; leave the flag out, or start a new run')
            self.ema.module.load_state_dict(ema)
            self.ema.n_averaged.fill_(state['ema_updates'])

    def _names(self) -> dict[Tensor, str]:
        return {parameter: name for name, parameter in self.module.named_parameters()}

    def _load_optimizer(self, moments: dict[str, dict[str, Any]]) -> None:
        """Loads through the optimizer's own method, which is positional, copies first (it keeps what it is given)."""
        names = self._names()
        ordered = [names[p] for group in self.optimizer.param_groups for p in group['params']]
        if moments and set(moments) != set(ordered):
            odd = sorted(set(moments) ^ set(ordered))
            raise ValueError(f'the optimizer state is of other parameters: {", ".join(odd[:3])}')
        layout = self.optimizer.state_dict()
        layout['state'] = {
            i: {k: v.clone() if isinstance(v, Tensor) else v for k, v in moments[name].items()}
            for i, name in enumerate(ordered)
            if name in moments
        }
        self.optimizer.load_state_dict(layout)


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


def averaged_model(module: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and BatchNorm statistics.

    The decay starts low and rises as (1 + n) / (10 + n), so that a short run is not dominated by its random start.
    """

    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        if not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
            return
        n = torch.as_tensor(count, dtype=torch.float32)
        weight = 1 - torch.clamp((1 + n) / (10 + n), max=decay).to(averaged[0].device)
        change = torch._foreach_sub(current, averaged)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(averaged, change)

    return AveragedModel(module, multi_avg_fn=update, use_buffers=True)


def make_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """A loss scaler: dynamic in float16; elsewhere of scale 1, kept for leaving out non-finite steps without a wait."""
    if dtype is torch.float16:
        return torch.amp.GradScaler(device.type)
    return torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=NEVER)


def is_dynamic(scaler: torch.amp.GradScaler) -> bool:
    """Whether the scaler changes its scale (float16) or stays at 1."""
    return scaler.get_growth_interval() != NEVER
