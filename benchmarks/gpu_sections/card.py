"""The card and its host: what nothing can exceed, and JPEG decoders."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from helpers import drawings, machine
from helpers.bench import Bench


def ceilings(bench: Bench) -> None:
    """Rates of copies and products, the time of a launch, and convolutions of sizes that are new and that were seen."""
    device = bench.device
    bench.row('machine', text=machine.describe())
    if bench.cuda:
        about = torch.cuda.get_device_properties(device)
        bench.row('card', memory_gb=about.total_memory / 1e9, multiprocessors=about.multi_processor_count,
                  compute_capability=f'{about.major}.{about.minor}', cards=torch.cuda.device_count())  # fmt: skip
    side = bench.size(8192, 128)

    source = torch.empty(bench.size(2**29, 2**20), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    _, ms = bench.milliseconds(lambda: target.copy_(source), 20)
    bench.row('copy on the device, read and written, GB/s', rate=2 * source.numel() / ms / 1e6)

    for dtype in (torch.float32, torch.bfloat16, *([torch.float16] if bench.cuda else [])):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        _, ms = bench.milliseconds(lambda a=a, b=b: a @ b, 5)
        bench.row(f'matrix product in {dtype}, TFLOP/s'.replace('torch.', ''), rate=2 * side**3 / ms / 1e9)

    one = torch.zeros(1, device=device)
    _, ms = bench.milliseconds(lambda: one.add_(1), 1000)
    bench.row('a launch, microseconds', time=1000 * ms)

    picture = torch.empty(bench.size(100, 1) * 2**20, dtype=torch.uint8, pin_memory=bench.cuda)
    _, ms = bench.milliseconds(lambda: picture.to(device, non_blocking=True, copy=True), 10)
    bench.row('from pinned memory to the device, GB/s', rate=picture.numel() / ms / 1e6)
    there = picture.to(device, copy=True)
    _, ms = bench.milliseconds(lambda: picture.copy_(there, non_blocking=True), 10)
    bench.row('from the device to pinned memory, GB/s', rate=picture.numel() / ms / 1e6)

    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.randn(64, 64, 3, 3, device=device).to(memory_format=layout).requires_grad_()

        def convolve(side: int, weight: torch.Tensor = weight, layout: torch.memory_format = layout) -> float:
            x = torch.randn(2, 64, side, side, device=device).to(memory_format=layout).requires_grad_()
            machine.synchronize(device)
            start = time.perf_counter()
            F.conv2d(x, weight, padding=1).sum().backward()
            machine.synchronize(device)
            return 1000 * (time.perf_counter() - start)

        convolve(20)
        sides = range(24, bench.size(56, 28))
        new, seen = (statistics.median([convolve(side) for side in sides]) for _ in range(2))
        name = str(layout).removeprefix('torch.')
        bench.row(f'a convolution and its gradients, {name}, ms', new_size=new, seen_size=seen)


def decoders(bench: Bench) -> None:
    """Decoding JPEG files of HD pictures: ours on the CPU, and torchvision's on the device."""
    from torchvision.io import ImageReadMode, decode_jpeg

    from dataset.readers import read_rgb

    with TemporaryDirectory() as folder:
        size = bench.size((1920, 1080), (192, 128))
        files, _ = drawings.photographs(Path(folder), bench.size(16, 2), *size)
        ours, _ = bench.milliseconds(lambda: [read_rgb(file) for file in files], 5)
        bench.row('ours, one thread of the CPU, ms a picture', time=ours / len(files))
        contents = [torch.from_numpy(np.fromfile(file, np.uint8)) for file in files]

        def decoded() -> list[torch.Tensor]:
            if bench.cuda:
                return decode_jpeg(contents, ImageReadMode.RGB, bench.device)
            return [decode_jpeg(content, ImageReadMode.RGB) for content in contents]

        what = f"torchvision's on {bench.device.type}, a batch of {len(files)}, ms a picture"
        with bench.attempt(what):
            theirs, _ = bench.milliseconds(decoded, 5)
            pairs = zip(decoded(), files)
            far = [np.abs(x.permute(1, 2, 0).cpu().numpy().astype(int) - read_rgb(file)) for x, file in pairs]
            bench.row(what, time=theirs / len(files), mean_difference=float(np.mean(far)), largest=int(np.max(far)))
