"""What `cells` does, in Triton kernels for CUDA: four launches a forward pass instead of more than a hundred.

Importing this imports triton, which torch brings along on Linux alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from common.devices import on_device

from .cells import CellOps, Cells

BLOCK = 512
OPTIONS = {'enable_fp_fusion': False}  # as the operations that these kernels stand for


# No number of a picture is compiled into a kernel, or each new size would take a second.
def _kernel(function: Any) -> Any:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return triton.jit(function, do_not_specialize=[x for x in names if x.islower()])


@_kernel
def _crop(
    first, second, out, image, row, column, height, width, offset, stride,
    first_b, first_c, first_h, first_w, second_b, second_c, second_h, second_w,
    SIZE: tl.constexpr, MARGIN: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copy a cell of two RGB pictures, with its margin, to six channels of out (n, side, side, stride)."""
    SIDE: tl.constexpr = SIZE + 2 * MARGIN
    cell = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = i < SIDE * SIDE * 6
    pixel, channel = i // 6, i % 6
    y = tl.load(row + cell) * SIZE - MARGIN + pixel // SIDE
    x = tl.load(column + cell) * SIZE - MARGIN + pixel % SIDE
    inside = there & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    b, c, of_first = tl.load(image + cell), channel % 3, channel < 3
    one = tl.load(first + b * first_b + c * first_c + y * first_h + x * first_w, inside & of_first, 0)
    two = tl.load(second + b * second_b + c * second_c + y * second_h + x * second_w, inside & (channel >= 3), 0)
    value = tl.where(of_first, one, two).to(tl.float32)
    if LEVELS:
        value = value / 255
    tl.store(out + (cell * SIDE * SIDE + pixel) * stride + offset + channel, value.to(out.dtype.element_ty), there)


@_kernel
def _enlarge(
    source, out, image, row, column, height, width, out_height, out_width, stride,
    source_b, source_c, source_h, source_w, scale_y, scale_x,
    CHANNELS: tl.constexpr, MARGIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Enlarge a cell of 2x2 pixels with its margin, bilinearly, to first channels of out (n, side, side, stride)."""
    SIDE: tl.constexpr = 2 + 2 * MARGIN
    cell = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = i < SIDE * SIDE * CHANNELS
    pixel, channel = i // CHANNELS, i % CHANNELS
    y = tl.load(row + cell) * 2 - MARGIN + pixel // SIDE
    x = tl.load(column + cell) * 2 - MARGIN + pixel % SIDE
    inside = there & (y >= 0) & (y < out_height) & (x >= 0) & (x < out_width)
    from_y = tl.minimum(tl.maximum((y.to(tl.float32) + 0.5) * scale_y - 0.5, 0.0), height - 1.0)
    from_x = tl.minimum(tl.maximum((x.to(tl.float32) + 0.5) * scale_x - 0.5, 0.0), width - 1.0)
    top, left = from_y.to(tl.int32), from_x.to(tl.int32)
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    down, along = from_y - top.to(tl.float32), from_x - left.to(tl.float32)
    start = source + tl.load(image + cell) * source_b + channel * source_c
    above, below = start + top * source_h, start + bottom * source_h
    a = tl.load(above + left * source_w, inside, 0).to(tl.float32)
    b = tl.load(above + right * source_w, inside, 0).to(tl.float32)
    c = tl.load(below + left * source_w, inside, 0).to(tl.float32)
    d = tl.load(below + right * source_w, inside, 0).to(tl.float32)
    value = (a * (1 - along) + b * along) * (1 - down) + (c * (1 - along) + d * along) * down
    tl.store(out + (cell * SIDE * SIDE + pixel) * stride + channel, value.to(out.dtype.element_ty), there)


@_kernel
def _put(
    alpha, colour, refined, image, row, column, keep,
    alpha_b, alpha_h, alpha_w, colour_b, colour_c, colour_h, colour_w, refined_n, refined_c, refined_h, refined_w,
):  # fmt: skip
    """Write the 4x4 pixels of a cell, four channels each, if it is kept."""
    cell = tl.program_id(0).to(tl.int64)
    if tl.load(keep + cell):
        i = tl.arange(0, 64)
        channel, y, x = i // 16, i // 4 % 4, i % 4
        value = tl.load(refined + cell * refined_n + channel * refined_c + y * refined_h + x * refined_w)
        b, y, x = tl.load(image + cell), tl.load(row + cell) * 4 + y, tl.load(column + cell) * 4 + x
        at_alpha = alpha + b * alpha_b + y * alpha_h + x * alpha_w
        at_colour = colour + b * colour_b + (channel - 1) * colour_c + y * colour_h + x * colour_w
        tl.store(at_alpha, value.to(alpha.dtype.element_ty), channel == 0)
        tl.store(at_colour, value.to(colour.dtype.element_ty), channel > 0)


def first_crops(coarse: Tensor, pictures: Sequence[Tensor], cells: Cells, margin: int) -> Tensor:
    """Do what `cells.first_crops` does."""
    side, channels, cells = 2 + 2 * margin, coarse.shape[1], _dense(cells)
    out = _made(cells, channels + 6, side, coarse)
    inner, outer = coarse.shape[2:], pictures[0].shape[2:]
    with on_device(out.device):  # Triton would take the current one
        _enlarge[len(cells.row), triton.cdiv(side * side * channels, BLOCK)](
            coarse, out, *cells, *inner, *outer, channels + 6, *coarse.stride(), *(a / b for a, b in zip(inner, outer)),
            CHANNELS=channels, MARGIN=margin, BLOCK=BLOCK, **OPTIONS,
        )  # fmt: skip
    return _cropped(pictures, cells, 2, margin, out, channels)


def second_crops(pictures: Sequence[Tensor], cells: Cells, margin: int, like: Tensor) -> Tensor:
    """Do what `cells.second_crops` does."""
    return _cropped(pictures, cells, 4, margin, _made(cells, 6, 4 + 2 * margin, like), 0)


def put_back(pha: Tensor, fgr: Tensor, refined: Tensor, cells: Cells, keep: Tensor) -> None:
    """Do what `cells.put_back` does."""
    cells, keep = _dense(cells), keep.contiguous()
    strides = pha.stride(0), *pha.stride()[2:], *fgr.stride(), *refined.stride()
    with on_device(pha.device):
        _put[len(keep),](pha, fgr, refined, *cells, keep, *strides, **OPTIONS)


OPS = CellOps(first_crops, second_crops, put_back)


def _dense(cells: Cells) -> Cells:
    """Return the numbers of cells as kernels step through them: that of a batch's only image may be one, expanded."""
    return Cells(*(numbers.contiguous() for numbers in cells))


def _made(cells: Cells, channels: int, side: int, like: Tensor) -> Tensor:
    """Make a tensor (n, channels, side, side), channels-last."""
    return like.new_empty((len(cells.row), side, side, channels)).permute(0, 3, 1, 2)


def _cropped(pictures: Sequence[Tensor], cells: Cells, size: int, margin: int, out: Tensor, offset: int) -> Tensor:
    (first, second), side, cells = pictures, size + 2 * margin, _dense(cells)
    with on_device(out.device):
        _crop[len(cells.row), triton.cdiv(side * side * 6, BLOCK)](
            first, second, out, *cells, *first.shape[2:], offset, out.shape[1], *first.stride(), *second.stride(),
            SIZE=size, MARGIN=margin, LEVELS=not first.is_floating_point(), BLOCK=BLOCK, **OPTIONS,
        )  # fmt: skip
    return out
