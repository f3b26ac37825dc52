"""What a run remembers: one object, and that object is what is saved.

Learning rates and random draws are functions of the step, so neither a scheduler nor a generator appears here.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from common.devices import choose_precision, fast_in_bfloat16

FORMAT = 1
NEVER = 2**31 - 1


class EMA:
    """An exponential moving average of a network's weights.

    The decay starts low and rises as (1 + n) / (10 + n), so that a short run is not dominated by its random start.
    BatchNorm statistics are copied: they are moving averages already.

    Args:
        module: the network; its values are the first.
        decay: the highest, such as 0.999.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the network's values after a step."""
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_([*self.module.parameters()], [*module.parameters()], weight)
        # One launch for each type; tensors of several types at once would be copied one by one.
        pairs = sorted(zip(self.module.buffers(), module.buffers()), key=_type)
        for _, group in itertools.groupby(pairs, _type):
            own, new = map(list, zip(*group))
            torch._foreach_copy_(own, new)


def _type(pair: tuple[Tensor, Tensor]) -> str:
    return str(pair[0].dtype)


@dataclass
class Progress:
    """The counters of a run.

    Attributes:
        step: optimizer steps done over the whole run, which is the number of the next one.
        skipped: steps left out because their loss or gradient was not finite.
        skipped_in_a_row: of these, the ones just now.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0


@dataclass
class TrainingState:
    """Everything that a run remembers: weights, optimizer, loss scaler, average of weights, counters.

    Attributes:
        module: the network itself, not its wrapper.
        optimizer: its groups carry a 'name'.
        scaler: scales the loss in float16; elsewhere it only leaves out steps with non-finite gradients.
        ema: the exponential moving average of module, or None.
        progress: the counters.
        whole: False from the first change of a step to its last, also where an error came between them.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: EMA | None = None
    progress: Progress = field(default_factory=Progress)
    whole: bool = True

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Change everything by one step in the block, which an error must not leave in the middle."""
        self.whole, before = False, self._changes()
        try:
            yield
        except BaseException:
            self.whole = self._changes() == before
            raise
        self.progress.step += 1
        self.whole = True

    def _changes(self) -> int:
        """Return a number that grows as a step, but the first, changes weights, moments, loss scale or average."""
        # Adam counts a group's steps before it changes anything else of it; its fused kernel counts nothing by itself.
        firsts = (group['params'][0] for group in self.optimizer.param_groups)
        counters = [self.optimizer.state.get(p, {}).get('step') for p in firsts]
        tensors = [*counters, *vars(self.scaler).values()]
        averaged = self.ema.updates if self.ema is not None else 0
        return averaged + sum(x._version for x in tensors if isinstance(x, Tensor))

    def weights(self) -> dict[str, Tensor]:
        """Return the network's state_dict: its tensors themselves, which training changes."""
        return self.module.state_dict()

    def ema_weights(self) -> dict[str, Tensor] | None:
        """Return the averaged network's state_dict, with the network's own names."""
        return self.ema.module.state_dict() if self.ema is not None else None

    def state_dict(self) -> dict[str, Any]:
        """Return all but the weights, in plain types and tensors; moments of the optimizer by parameter name."""
        names = self._names()
        return {
            'format': FORMAT,
            'progress': asdict(self.progress),
            'optimizer': {names[p]: dict(moments) for p, moments in self.optimizer.state.items()},
            'scaler': self.scaler.state_dict() if is_dynamic(self.scaler) else {},
            'ema_updates': self.ema.updates if self.ema is not None else None,
        }

    def load_state_dict(
        self, state: dict[str, Any], weights: dict[str, Tensor], ema: dict[str, Tensor] | None = None
    ) -> None:
        """Restore a saved state.

        Args:
            state: from `state_dict`.
            weights: from `weights`.
            ema: from `ema_weights`, where the run keeps an average.

        Raises:
            ValueError: another format, moments of other parameters than the network has, or an average on one side
                only.
        """
        if state.get('format') != FORMAT:
            raise ValueError(f'training state of format {state.get("format")}, this version reads {FORMAT}')
        self.module.load_state_dict(weights)
        self._load_optimizer(state['optimizer'])
        if state['scaler'] and is_dynamic(self.scaler):
            self.scaler.load_state_dict(state['scaler'])
        # The first versions counted more.
        known = {f.name for f in fields(Progress)}
        self.progress = Progress(**{name: n for name, n in state['progress'].items() if name in known})
        if self.ema is not None and ema is not None:
            self.ema.module.load_state_dict(ema)
            self.ema.updates = state['ema_updates']
        elif self.ema is not None or ema is not None:
            without = (
                'holds no average; leave the flag out'
                if ema is None
                else 'holds an average; give its decay, or 0 to end it'
            )
            raise ValueError(f'--ema-decay: the checkpoint {without}, or start a new run')

    def _names(self) -> dict[Tensor, str]:
        return {parameter: name for name, parameter in self.module.named_parameters()}

    def _load_optimizer(self, moments: dict[str, dict[str, Any]]) -> None:
        """Load by the optimizer's own method, which is positional; copies first, since it keeps what it gets."""
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


def precision_of(name: str, before: Mapping[str, Any], device: torch.device) -> torch.dtype:
    """Return the dtype of the network; 'auto' keeps that of the run that goes on, of which `before` are the options."""
    if name == 'auto' and before:
        name = before.get('precision', 'auto')
        if name == 'auto' and fast_in_bfloat16(device):
            # Records name the dtype; those of earlier versions say 'auto', which was bfloat16 here.
            name = 'bfloat16'
        if name == 'float16' and device.type == 'cpu':
            name = 'auto'  # the run began on a GPU
    return choose_precision(name, device)


def make_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Make a loss scaler: dynamic in float16; elsewhere of scale 1, only to leave out non-finite steps."""
    if dtype is torch.float16:
        return torch.amp.GradScaler(device.type)
    return torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=NEVER)


def is_dynamic(scaler: torch.amp.GradScaler) -> bool:
    """Return whether the scaler changes its scale (float16) or stays at 1."""
    return scaler.get_growth_interval() != NEVER
