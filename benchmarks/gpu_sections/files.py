"""From files to files, with what starts and ends a script: pictures and films, ours beside the published scripts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from helpers import drawings, folder_runs, machine
from helpers.bench import Bench

from common.network import PUBLISHED, SIZES

DRAWN = 8  # different pictures, which repeat


def images(bench: Bench) -> None:
    """Folders of HD pictures to com, pha and fgr; a picture's time is that of many less that of few."""
    many, few = bench.size((160, 16), (3, 1))
    network = folder_runs.Network('mobilenetv2', *PUBLISHED['hd'], bench.device.type)
    with TemporaryDirectory() as name:
        folder = Path(name)
        files, plate = drawings.photographs(folder, min(many, DRAWN), *bench.size(SIZES['hd'], (192, 128)))
        weights = drawings.random_weights(network.backbone)
        inputs = folder_runs.prepare(folder, files, plate, many, few, weights)
        commands = {'published float32': folder_runs.published_command(network, inputs)}
        for precision in ('float32', *(['float16'] if bench.cuda else [])):
            commands[f'ours {precision}'] = folder_runs.our_command(network, inputs, precision, compiled=False)
        published = None
        for way, command in commands.items():
            with bench.attempt(way):
                runs = [folder_runs.run(command, each, folder, os.environ) for each in (inputs.few, inputs.many)]
                each = (runs[1].writing - runs[0].writing) / (many - few)
                published = published or each
                bench.row(f'{way}, ms a picture', each=1000 * each, published_over_this=published / each,
                          first_file_s=runs[1].startup, whole_s=runs[1].whole)  # fmt: skip


def video(bench: Bench) -> None:
    """An HD film to a composite and its alpha, from the script's start to its end; published, then ours."""
    frames = bench.size(240, 4)
    with TemporaryDirectory() as name:
        folder = Path(name)
        film, plate = draw_film(folder, frames, bench.size(SIZES['hd'], (192, 128)))
        torch.save(drawings.random_weights('mobilenetv2'), folder / 'weights.pth')
        shared: dict[str, Any] = {'--video-src': film, '--video-bgr': plate, '--device': bench.device.type}
        published = {**shared, '--checkpoint': folder / 'weights.pth', '--backbone': 'mobilenetv2'}
        ours = {**shared, '--model-checkpoint': folder / 'weights.pth', '--output-format': 'video'}
        commands = {'published float32': ['-m', 'benchmarks.published.video', *words(published)]}
        for precision in ('float32', *(['float16'] if bench.cuda else [])):
            flags = [*words({**ours, '--precision': precision}), '--output-types', 'com', 'pha']
            commands[f'ours {precision}'] = [str(machine.ROOT / 'inference_video.py'), *flags]
        seconds: dict[str, float] = {}
        for way, command in commands.items():
            output = ['--output-dir', str(folder / way.replace(' ', '-'))]
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *command, *output], cwd=machine.ROOT, check=False)
            seconds[way] = time.perf_counter() - start
            ratio = seconds['published float32'] / seconds[way]
            bench.row(f'{way}, {frames} frames', ok=done.returncode == 0, seconds=seconds[way],
                      fps=frames / seconds[way], published_over_this=ratio)  # fmt: skip


def draw_film(folder: Path, frames: int, size: tuple[int, int]) -> tuple[Path, Path]:
    """Write a film of drawn photographs that move sideways, and its plate."""
    files, plate = drawings.photographs(folder, min(frames, 4), *size)
    pictures = [cv2.imread(str(file)) for file in files]
    film = cv2.VideoWriter(str(folder / 'film.mp4'), cv2.VideoWriter.fourcc(*'mp4v'), 30, size)
    for i in range(frames):
        film.write(np.roll(pictures[i % len(pictures)], 4 * i, axis=1))
    film.release()
    return folder / 'film.mp4', plate


def words(flags: dict[str, Any]) -> list[str]:
    """Return flags and values as a command line."""
    return [str(word) for pair in flags.items() for word in pair]
