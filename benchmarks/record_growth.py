"""What thousands of checkpoints in a run's folder cost: when it goes on, at each save, and in `checkpoints.py list`.

python benchmarks/record_growth.py [--counts 10 100 1000 5000]

The weights are tiny, so that only what grows with the number of checkpoints is seen. A save of a real network costs
many times what is printed here: see checkpoint_save.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers import machine

from common import cli

OPTIONS = {f'a_flag_of_the_command_line_{number}': number for number in range(60)}
IDENTITY = {'data': 'synthetic', 'pictures': [1000, 1000], 'samples of a step': 8}


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        '--counts', type=int, nargs='+', default=[10, 100, 1000, 5000], help='checkpoints in the folder'
    )
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args(argv)

    print(machine.describe())
    print(f'CPU seconds, median of {args.repeats}')
    print(f'{"checkpoints":>11}  {"to go on":>8}  {"a save":>8}  {"list --fast":>11}')
    for count in args.counts:
        with tempfile.TemporaryDirectory(dir='.') as parent:
            going_on, saving, listing = measure(Path(parent) / 'run', count, args.repeats)
        print(f'{count:11}  {going_on:8.3f}  {saving:8.4f}  {listing:11.3f}')


def measure(folder: Path, count: int, repeats: int) -> tuple[float, float, float]:
    """Return the CPU seconds of going on with a run of so many checkpoints, of one more, and of listing them."""
    import torch

    import checkpoints as script
    from checkpointing import record
    from checkpointing.content import Content
    from checkpointing.manager import Checkpoints, Point
    from checkpointing.resume import decide

    content = Content({'w': torch.zeros(8)}, {'progress': {'step': 0}})
    steps = iter(range(count, 10**6))

    def run() -> Checkpoints:
        return Checkpoints(folder, 'base', 'run', IDENTITY, options=OPTIONS)

    def save(made: Checkpoints, step: int) -> None:
        made.save({f'epoch-0-iter-{step}': 'interval'}, Point(step, 0, {'valid_loss': 1.0, 'valid_sad': 1.0}), content)
        assert made.settle()

    def go_on() -> Checkpoints:
        record._read_once.cache_clear()
        assert decide('auto', folder, 'base', IDENTITY).record is not None
        made = run()
        made.open()
        return made

    def look() -> None:
        record._read_once.cache_clear()
        with contextlib.redirect_stdout(io.StringIO()):
            assert script.main(['list', '--fast', str(folder)]) == 0

    save(run(), 0)
    multiply(folder, count)
    # Records that have just been written are read again, as they may change within a tick of the clock.
    time.sleep(record.UNSURE_NS / 1e9)
    made = go_on()
    works = (go_on, lambda: save(made, next(steps)), look)
    return tuple(measured(work, repeats) for work in works)  # type: ignore[return-value]


def multiply(folder: Path, count: int) -> None:
    """Make of the checkpoint of step 0 what a run has that kept so many: all weights, and two training states."""
    from checkpointing.record import Record

    first = Record.read(folder / 'epoch-0-iter-0.json')
    for step in range(1, count):
        name = f'epoch-0-iter-{step}'
        files = {kind: dataclasses.replace(f, name=f.name.replace(first.name, name)) for kind, f in first.files.items()}
        for kind in ('weights', 'state') if step >= count - 2 else ('weights',):
            os.link(folder / first.files[kind].name, folder / files[kind].name)
        metrics = {'valid_loss': 1 + step % 7 / 10, 'valid_sad': 1.0}
        made = dataclasses.replace(first, name=name, step=step, metrics=metrics, files=files)
        (folder / f'{name}.json').write_bytes(made.to_bytes())


def measured(work: Callable[[], Any], repeats: int) -> float:
    """Return the median CPU seconds of some work, over all threads."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


if __name__ == '__main__':
    sys.exit(cli.run(main))
