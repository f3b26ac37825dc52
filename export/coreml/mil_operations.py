"""The operations of MIL in torch, on float32, int64 and bool tensors.

Arguments have MIL's names (coremltools' reference, converters.mil.mil.ops.defs), so that an operation is called with
those in the program. Arguments that the networks here leave at their defaults are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def conv(
    x: Tensor, weight: Tensor, strides: Tensor, pad_type: str, pad: Tensor, dilations: Tensor, groups: int,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Convolve in two dimensions; with `pad_type` 'custom', zero-pad by `pad` (top, bottom, left, right)."""
    if pad_type == 'custom':
        top, bottom, left, right = pad.tolist()
        x = F.pad(x, (left, right, top, bottom))
    elif pad_type != 'valid':
        raise NotImplementedError(f'MIL conv with pad_type {pad_type}')
    return F.conv2d(x, weight, bias, strides.tolist(), 0, dilations.tolist(), groups)


def max_pool(
    x: Tensor, kernel_sizes: Tensor, strides: Tensor, pad_type: str, pad: Tensor, ceil_mode: bool = False
) -> Tensor:
    """Return the largest value in each window, never one from the padding."""
    top, bottom, left, right = pad.tolist()
    if pad_type not in ('custom', 'valid') or ceil_mode:
        raise NotImplementedError(f'MIL max_pool with pad_type {pad_type}, ceil_mode {ceil_mode}')
    if pad_type == 'custom':
        x = F.pad(x, (left, right, top, bottom), value=-torch.inf)
    return F.max_pool2d(x, kernel_sizes.tolist(), strides.tolist())


def pad(x: Tensor, pad: Tensor, mode: str, constant_val: float = 0.0) -> Tensor:
    """Pad each of the last dimensions by (before, after)."""
    amounts = pad.tolist()
    reverse = [n for i in range(len(amounts) - 2, -1, -2) for n in amounts[i : i + 2]]
    while len(reverse) > 4 and not any(reverse[-2:]):
        reverse = reverse[:-2]
    return F.pad(x, reverse, mode, constant_val) if mode == 'constant' else F.pad(x, reverse, mode)


def upsample_bilinear(
    x: Tensor, scale_factor_height: float, scale_factor_width: float, align_corners: bool,
    half_pixel_centers: bool = True,
) -> Tensor:  # fmt: skip
    """Resize by the declared factors, which differ slightly from the ratio of the sizes."""
    if align_corners or not half_pixel_centers:
        raise NotImplementedError('MIL upsample_bilinear other than with half-pixel centres')
    factors = (scale_factor_height, scale_factor_width)
    return F.interpolate(x, scale_factor=factors, mode='bilinear', recompute_scale_factor=False)


def concat(values: Sequence[Tensor], axis: int, interleave: bool) -> Tensor:
    """Join tensors along an axis."""
    if interleave:
        raise NotImplementedError('MIL concat with interleave')
    return torch.cat(list(values), axis)


def gather(x: Tensor, indices: Tensor, axis: int, batch_dims: int = 0, **_: Any) -> Tensor:
    """Select along an axis; negative indices count from the end, and those out of range raise IndexError."""
    if batch_dims:
        raise NotImplementedError('MIL gather with batch_dims')
    size = x.shape[axis]
    if not bool(((indices >= -size) & (indices < size)).all()):
        raise IndexError(f'gather: an index is not in {-size}..{size - 1}')
    picked = x.index_select(axis, indices.flatten() % size)
    return picked.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, mode: str, **_: Any) -> Tensor:
    """Replace the rows of `data` at `indices` (n, 1)."""
    if mode != 'update' or indices.shape[-1] != 1:
        raise NotImplementedError(f'MIL scatter_nd with mode {mode} and indices {tuple(indices.shape)}')
    return data.index_put((indices[..., 0],), updates)


def slice_by_index(
    x: Tensor, begin: Tensor, end: Tensor, stride: Tensor | None = None,
    begin_mask: Tensor | None = None, end_mask: Tensor | None = None, squeeze_mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Slice each dimension; a mask lets the slice begin or end where the dimension does."""
    count = len(begin)
    from_start, to_end, squeezed = (
        [False] * count if mask is None else mask.tolist() for mask in (begin_mask, end_mask, squeeze_mask)
    )
    steps = [1] * count if stride is None else stride.tolist()
    if any(step < 1 for step in steps):
        raise NotImplementedError('MIL slice_by_index with a negative stride')
    begins = (None if free else int(i) for free, i in zip(from_start, begin))
    ends = (None if free else int(i) for free, i in zip(to_end, end))
    x = x[tuple(map(slice, begins, ends, steps))]
    return x[tuple(0 if squeeze else slice(None) for squeeze in squeezed)]


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """Insert dimensions of size 1; `axes` are those of the result."""
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert to bool, or truncate to integers, or convert to floats; the exact type is left to the caller."""
    if dtype == 'bool':
        return x != 0
    return x.to(torch.float32) if dtype.startswith('fp') else x.to(torch.int64)


OPERATIONS: dict[str, Callable[..., Any]] = {
    'add': lambda x, y: torch.as_tensor(x) + y,
    'sub': lambda x, y: torch.as_tensor(x) - y,
    'mul': lambda x, y: torch.as_tensor(x) * y,
    'real_div': lambda x, y: torch.as_tensor(x) / y,
    'equal': lambda x, y: torch.as_tensor(x) == y,
    'greater': lambda x, y: torch.as_tensor(x) > y,
    'greater_equal': lambda x, y: torch.as_tensor(x) >= y,
    'less': lambda x, y: torch.as_tensor(x) < y,
    'less_equal': lambda x, y: torch.as_tensor(x) <= y,
    'clip': lambda x, alpha, beta: x.clamp(alpha, beta),
    'relu': lambda x: x.relu(),
    'relu6': lambda x: x.clamp(0, 6),
    'identity': lambda x: x,
    'cast': cast,
    'select': lambda cond, a, b: torch.where(torch.as_tensor(cond), a, b),
    'fill_like': lambda ref_tensor, value: torch.full(ref_tensor.shape, value),
    'conv': conv,
    'max_pool': max_pool,
    'pad': pad,
    'upsample_bilinear': upsample_bilinear,
    'upsample_nearest_neighbor': lambda x, scale_factor_height, scale_factor_width: F.interpolate(
        x, scale_factor=(scale_factor_height, scale_factor_width), mode='nearest'
    ),
    'pixel_shuffle': lambda x, upscale_factor: F.pixel_shuffle(x, upscale_factor),
    'pixel_unshuffle': lambda x, downscale_factor: F.pixel_unshuffle(x, int(downscale_factor)),
    'concat': concat,
    'split': lambda x, axis, split_sizes: x.split(split_sizes.tolist(), axis),
    'reshape': lambda x, shape: x.reshape(shape.tolist()),
    'transpose': lambda x, perm: x.permute(perm.tolist()),
    'expand_dims': expand_dims,
    'squeeze': lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist())),
    'tile': lambda x, reps: x.repeat(reps.tolist()),
    'slice_by_index': slice_by_index,
    'reduce_mean': lambda x, axes, keep_dims: x.mean(axes.tolist(), keepdim=keep_dims),
    'reduce_sum': lambda x, axes, keep_dims: x.sum(axes.tolist(), keepdim=keep_dims),
    # Sorted, whether that is asked for or not.
    'topk': lambda x, k, axis, ascending, **_: tuple(x.topk(k, axis, largest=not ascending)),
    'gather': gather,
    'scatter_nd': scatter_nd,
    'read_state': lambda input: input,
    'coreml_update_state': lambda value, **_: value,
}
