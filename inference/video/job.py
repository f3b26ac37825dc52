"""A video on its way through all stages: read, load, compute, render, write."""

from __future__ import annotations

import time
from functools import partial

from common.console import progress, say
from common.devices import torch_threads
from inference.batching import compute_batches
from inference.images.inputs import NAMED
from inference.options import Threads
from inference.pipeline import Pipeline
from inference.predictor import Matting

from .inputs import VideoInputs
from .outputs import PictureSequences, VideoFiles, losses
from .stages import FrameItem, Loader, render


def matte_video(
    inputs: VideoInputs, outputs: PictureSequences | VideoFiles, matting: Matting, threads: Threads
) -> None:
    """Matte a video, and print progress and findings. Whatever stops it, the files are finished.

    Raises:
        FrameError: a frame cannot be matted.
        OSError: a file cannot be written.
    """
    load = Loader(inputs, matting, outputs.done)
    for note in filter(None, (inputs.reader.note, *losses(inputs), outputs.note)):
        say(note)
    findings, complete, begin = Findings(), False, time.monotonic()
    with Pipeline():  # around all: a signal is answered when the files are finished
        try:
            with Pipeline() as pipeline, torch_threads(threads.each):
                read = pipeline.reading(inputs.read(), depth=2)
                loaded = pipeline.ahead(load, read, 1 if inputs.settings.preprocess_alignment else threads.files)
                spread = partial(pipeline.ahead, threads=threads.batches) if threads.batches > 1 else map
                computed = compute_batches(loaded, matting, inputs.settings.batch_size, set(outputs.kinds), spread)
                written = pipeline.ahead(partial(render, draw=outputs.draw), computed, threads.files)
                for write in outputs.writers():
                    written = pipeline.ahead(write, written, 1)
                for item, _ in progress(written, lambda: inputs.reader.expected, ' frames'):
                    for line in findings.add(item):
                        say(line)
            complete = True
        finally:
            notes = outputs.finish(complete)
            rate = findings.done / max(time.monotonic() - begin, 1e-9)
            for line in (*findings.summary(), *inputs.warnings(), *notes):
                say(line)
            print(f'{max(findings.done, outputs.frames)} frames done, {rate:.2f} per second, in {outputs.folder}')


class Findings:
    """Counts of frames where the plate seems not to fit; returns what to print for each (`add`) and at the end."""

    def __init__(self) -> None:
        self.done = self._misfits = self._unaligned = 0

    def add(self, item: FrameItem) -> list[str]:
        self.done += 1
        lines: list[str] = []
        if item.misfit:
            self._misfits += 1
            lines += item.misfit if self._misfits <= NAMED else ()
        if item.unaligned:
            self._unaligned += 1
            lines += [item.unaligned] if self._unaligned == 1 else []
        return [f'warning: frame {item.index}: {"; ".join(lines)}'] if lines else []

    def summary(self) -> list[str]:
        lines = []
        if self._misfits > NAMED:
            lines.append(f'warning: in {self._misfits} of the frames that were compared, the plate does not fit')
        if self._unaligned > 1:
            lines.append(f'warning: the plate could not be aligned anew to {self._unaligned} of {self.done} frames')
        return lines
