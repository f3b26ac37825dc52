"""What a stage predicts for a batch, its scores, and their mean over the fixed validation samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dataset.augmentation import Composite
from metrics.matting import SCALINGS, conn, fg_mse, grad, mad, mse, sad

from .distributed import Forward, Ranks, autocast_forward


@dataclass(frozen=True)
class Prediction:
    """What a stage makes of a batch.

    Attributes:
        losses: named terms and 'total', scalars.
        pha, fgr: (B, 1, H, W) and (B, 3, H, W), 0..1.
        more: further pictures for TensorBoard, by tag.
        true: what was predicted from, and what should have been.
    """

    losses: dict[str, Tensor]
    pha: Tensor
    fgr: Tensor
    more: dict[str, Tensor]
    true: Composite

    def scores(self, connectivity: bool = False) -> dict[str, Tensor]:
        """Return 'loss' and the metrics over whole pictures, means over the batch; 'conn', which is slow, if asked."""
        metrics = (sad, mse, mad, grad, conn) if connectivity else (sad, mse, mad, grad)
        errors = {metric.__name__: metric(self.pha, self.true.pha) for metric in metrics}
        # A crop without a subject must not make the mean over all NaN: nothing is wrong with its foreground.
        subject = self.true.pha.amax((1, 2, 3)) > 0
        errors['fg_mse'] = torch.where(subject, fg_mse(self.fgr, self.true.fgr, self.true.pha), 0)
        means = {name: error.mean() * SCALINGS['bmv2'][name] for name, error in errors.items()}
        return {'loss': self.losses['total'], **means}

    def pictures(self) -> dict[str, Tensor]:
        """Return the pictures for TensorBoard, under the published tags."""
        return {
            'train_pred_pha': self.pha,
            'train_pred_fgr': self.fgr,
            'train_pred_com': self.fgr * self.pha,
            'train_true_src': self.true.src,
            'train_true_bgr': self.true.bgr,
            **self.more,
        }


# From the network as a function of src and bgr, and a batch on its device.
Step = Callable[[Forward, Any], Prediction]
# Gets the names of a batch's samples and what was made of it.
Look = Callable[[Sequence[str], Prediction], None]


@torch.no_grad()
def validate(
    module: nn.Module,
    batches: Iterable[Any],
    step: Step,
    ranks: Ranks,
    dtype: torch.dtype,
    metric: str = 'loss',
    stop: Callable[[], bool] = lambda: False,
    look: Look | None = None,
) -> dict[str, float] | None:
    """Score a module in evaluation mode and put it back into the mode it was in.

    Args:
        module: the network itself, not its wrapper: ranks may hold different numbers of batches.
        batches: of this rank; `len(batch)` samples each.
        step: the stage's.
        ranks: over which the mean is taken.
        dtype: precision of the network.
        metric: that decides which checkpoint is best; 'conn' is measured only where it does.
        stop: asked before each batch. Several ranks finish what they began, since each would hear of it elsewhere.
        look: gets the names of each batch and what was made of it.

    Returns:
        The mean of each score over the samples of all ranks, or None if it was stopped.

    Raises:
        ValueError: there are no samples for some rank.
    """
    training = module.training
    module.eval()
    model = autocast_forward(module, ranks.device, dtype)
    names: list[str] = []
    sums: Tensor | None = None
    count = 0
    for batch in batches:
        if ranks.world == 1 and stop():
            module.train(training)
            return None
        prediction = step(model, batch.to(ranks.device))
        if look is not None:
            look(batch.names, prediction)
        scores = prediction.scores(metric.endswith('conn'))
        names = sorted(scores)
        values = torch.stack([scores[name] for name in names]).cpu().double() * len(batch)
        sums = values if sums is None else sums + values
        count += len(batch)
    module.train(training)
    if sums is None:
        raise ValueError('there are fewer validation samples than ranks')
    *totals, count = ranks.total(torch.cat([sums, torch.tensor([float(count)], dtype=torch.float64)])).tolist()
    return {name: total / count for name, total in zip(names, totals)}
