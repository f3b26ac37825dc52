"""BatchNorm in training: frozen, or over the samples of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm(nn.BatchNorm2d):
    """BatchNorm that normalises by its running statistics in training, too, and leaves them as they are.

    Its weight and bias learn, unlike those of torchvision's `FrozenBatchNorm2d`.
    """

    def train(self, mode: bool = True) -> FrozenBatchNorm:  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)


def freeze_batch_norm(network: nn.Module, part: str) -> None:
    """Freeze BatchNorm statistics of a matting network in place: of 'all', 'coarse' (not the refiner's) or 'none'.

    No parameter and no buffer changes.
    """
    learning = {'none': ('',), 'coarse': ('refiner.',), 'all': ()}[part]
    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and not name.startswith(learning):
            layer.__class__ = FrozenBatchNorm
            layer.eval()


class _NormOverRanks(torch.autograd.Function):
    """BatchNorm of the samples of all ranks, of which each has at least one.

    torch's own needs a GPU, on which the host waits for three masks a layer: they leave out ranks without samples.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running: Sequence[Tensor], momentum: float, eps: float
    ) -> Tensor:
        # Beside others in float32 these are, too, where x has 16 bits.
        others = running[0].new_zeros(2, x.shape[1])
        mean, variance = torch.batch_norm_update_stats(x, others[0], others[1], 0.0)
        table = mean.new_zeros(dist.get_world_size(), 2 * len(mean) + 1)
        count = mean.new_full((1,), x.numel() // len(mean))
        table[dist.get_rank()] = torch.cat([mean, variance, count])
        dist.all_reduce(table)
        means, variances, counts = table.split([len(mean), len(mean), 1], dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean) ** 2) * counts).sum(0) / total
        for old, new in zip(running, (mean, variance * total / (total - 1))):
            old.lerp_(new, momentum)
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, total = ctx.saved_tensors
        scale = (variance + ctx.eps).rsqrt()
        # As if mean and variance were constants; then what x changes in them.
        grad_x, *own = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, mean, scale, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack(own)
        dist.all_reduce(sums)
        slope, shift = -sums * weight * scale / total
        grad_x += F.batch_norm(x, mean, variance, slope, shift, eps=ctx.eps)
        return grad_x, *own, None, None, None


class NormOverRanks(nn.BatchNorm2d):
    """BatchNorm over the samples of all ranks: values, gradients and statistics are those of one process."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch (B, C, H, W), B >= 1."""
        if not self.training:
            return super().forward(x)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        running = (self.running_mean, self.running_var)
        return _NormOverRanks.apply(x, self.weight, self.bias, running, self.momentum, self.eps)
