"""Runs of inference_images.py and of the published script on one folder of pictures, each in a process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .machine import ROOT

KINDS = ('com', 'pha', 'fgr')


@dataclass(frozen=True)
class Inputs:
    """Inputs of both scripts: folders of many and of few pictures, their plate, and the weights."""

    many: Path
    few: Path
    plate: Path
    weights: Path


@dataclass(frozen=True)
class Network:
    """The network that both scripts run."""

    backbone: str
    scale: float
    pixels: int
    device: str


@dataclass(frozen=True)
class Run:
    """Seconds from a script's start to its first finished file, from there to the last, and from start to end."""

    startup: float
    writing: float
    whole: float
    peak_bytes: int


def prepare(folder: Path, files: Sequence[Path], plate: Path, many: int, few: int, weights: Mapping) -> Inputs:
    """Copy pictures, repeating them where there are too few, and write the weights."""
    import torch

    inputs = Inputs(folder / 'many', folder / 'few', plate.absolute(), folder / 'weights.pth')
    for pictures, count in ((inputs.many, many), (inputs.few, few)):
        pictures.mkdir()
        for i in range(count):
            file = files[i % len(files)]
            shutil.copyfile(file, pictures / f'{i:05}{file.suffix}')
    torch.save(dict(weights), inputs.weights)
    return inputs


def published_command(network: Network, inputs: Inputs) -> list[str]:
    """Return Python's arguments for the published script, but for the pictures and the output folder."""
    flags = {
        '--images-bgr': inputs.plate,
        '--checkpoint': inputs.weights,
        '--backbone': network.backbone,
        '--backbone-scale': network.scale,
        '--refine-sample-pixels': network.pixels,
        '--device': network.device,
    }
    return ['-m', 'benchmarks.published.inference', *_words(flags)]


def our_command(network: Network, inputs: Inputs, precision: str, compiled: bool) -> list[str]:
    """Return Python's arguments for inference_images.py, but for the pictures and the output folder."""
    flags = {
        '--images-bgr': inputs.plate,
        '--model-type': 'mattingrefine',
        '--model-checkpoint': inputs.weights,
        '--model-backbone': network.backbone,
        '--model-backbone-scale': network.scale,
        '--model-refine-sample-pixels': network.pixels,
        '--device': network.device,
        '--precision': precision,
    }
    more = ['--compile'] if compiled else []
    return [str(ROOT / 'inference_images.py'), *_words(flags), *more, '--output-types', *KINDS]


def run(command: Sequence[str], pictures: Path, folder: Path, environment: Mapping[str, str]) -> Run:
    """Run a script; count, time and remove its outputs.

    Raises:
        SystemExit: it failed, or wrote fewer files than it had to.
    """
    out, file = folder / 'out', folder / 'measured.json'
    done = subprocess.run(
        [sys.executable, str(ROOT / 'benchmarks/helpers/measured.py'), str(file), sys.executable, *command]
        + ['--images-src', str(pictures), '--output-dir', str(out)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
    )  # fmt: skip
    measured = json.loads(file.read_text())
    finished = [path.stat().st_mtime for path in out.rglob('*') if path.is_file()]
    expected = len(KINDS) * len(list(pictures.iterdir()))
    if measured['exit_code'] or len(finished) != expected:
        code = measured['exit_code']
        raise SystemExit(f'{command}: exit code {code}, {len(finished)} of {expected} files\n{done.stdout}')
    shutil.rmtree(out)
    first, last = min(finished), max(finished)
    return Run(first - measured['start'], last - first, measured['end'] - measured['start'], measured['peak_bytes'])


def _words(flags: Mapping[str, object]) -> list[str]:
    return [str(word) for pair in flags.items() for word in pair]
