"""How often the warnings about plates are false, and how often they are missing.

python benchmarks/plate_warnings.py
python benchmarks/plate_warnings.py --fgr cutouts/fgr --pha cutouts/pha --bgr rooms/ --backgrounds-per-foreground 5
python benchmarks/plate_warnings.py --captured photographs/ --video walk.mp4 plate.png

Each picture is compared with its own plate after one thing was done to that: harmless ones, which real plates differ
by as well and the network is trained for, and faults. The pictures are drawings, composites of your cut-outs, folders
with src/ and bgr/ of equal names, or frames of a video. A row of the table is one thing done; its columns say in how
many of a hundred pictures each warning came (* marks the right one), in how many the plate was aligned, and in how many
of them it then fits the background without the subject worse than before. 40 drawings take three minutes on two cores.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import machine  # noqa: F401, puts the toolkit on the path

from common import cli
from common.devices import cores

if TYPE_CHECKING:
    from helpers.plates import Case, Change

ALIGNED = ('', 'position')  # rows of these kinds try an alignment, which takes four fifths of the time
KINDS = {'scene': 'plate of this camera and scene', 'exposure': 'is exposed', 'position': 'background lies'}
OTHER = 'of another scene'
MARGIN = 0.06  # of each side, cut off after a plate was moved, so that no invented border is seen


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    for name in ('fgr', 'pha', 'bgr', 'captured'):
        parser.add_argument(f'--{name}', type=Path, metavar='DIR')
    parser.add_argument('--backgrounds-per-foreground', type=int, default=1)
    parser.add_argument('--limit', type=int, help='foregrounds')
    parser.add_argument('--video', nargs=2, type=Path, metavar=('VIDEO', 'PLATE'))
    parser.add_argument('--frames', type=int, default=20, help='of the video')
    parser.add_argument('--drawings', type=int, default=40, help='taken where nothing else is named')
    parser.add_argument('--show', nargs='*', default=[], metavar='ROW', help='print the sentences of these rows')
    args = parser.parse_args(argv)

    from helpers.plates import FAULTS, HARMLESS, captured, composed, drawn, filmed

    if args.fgr:
        cases = list(composed(args))
    elif args.captured:
        cases = list(captured(args.captured))
    elif args.video:
        cases = list(filmed(*args.video, args.frames))
    else:
        cases = list(drawn(args.drawings))
    print(f'{len(cases)} pictures; warnings in percent of them\n')
    print(f'{"plate":28} {"scene":>6} {"exposure":>9} {"position":>9} {"any":>6} {"aligned":>8} {"worse":>6}')
    rows = [(name, '', change) for name, change in HARMLESS.items()]
    rows += [(name, kind, change) for name, (kind, change) in FAULTS.items()]
    with ThreadPoolExecutor(cores()) as pool:
        for row in (*rows, (OTHER, 'scene', None)):
            report(*row, cases, args.show, pool)


def report(
    name: str, expected: str, change: Change | None, cases: Sequence[Case], show: Sequence[str], pool: Executor
) -> None:
    """Measure one row and print it; without a change, each picture gets the plate of another scene."""
    aligns = expected in ALIGNED
    found: Counter[str] = Counter()
    count = 0
    for case, told in zip(cases, pool.map(partial(measured, change, cases, aligns), range(len(cases)))):
        if told is None:
            continue
        findings, sentences = told
        found.update(findings)
        if name in show and sentences:
            print(f'  {count} {case.scene}: {"; ".join(sentences)}')
        count += 1
    if count:
        widths = {'scene': 6, 'exposure': 9, 'position': 9, 'any': 6, 'aligned': 8, 'worse': 6}
        rates = {kind: f'{100 * found[kind] / count:.1f}{"*" if kind == expected else ""}' for kind in widths}
        rates |= {} if aligns else {'aligned': '-', 'worse': '-'}
        print(f'{name:28}', *(f'{rate:>{widths[kind]}}' for kind, rate in rates.items()), flush=True)


def measured(
    change: Change | None, cases: Sequence[Case], aligns: bool, index: int
) -> tuple[list[str], list[str]] | None:
    """Return what was found of a picture with its plate changed, and the warnings; None if there is no other scene."""
    import cv2
    import numpy as np

    from inference.plates.agreement import mismatches, plate_agreement
    from inference.plates.alignment import align_plate, grey_copy

    case, rng = cases[index], np.random.default_rng(index)
    if change is None:
        others = [other.bgr for other in cases if other.scene != case.scene]
        if not others:
            return None
        plate = cv2.resize(others[rng.integers(len(others))], case.bgr.shape[1::-1], interpolation=cv2.INTER_AREA)
    else:
        plate = change(case.bgr, rng)
    top, left = (round(MARGIN * side) for side in case.src.shape[:2])
    inner = (slice(top, -top), slice(left, -left))
    src, plate, truth = (np.ascontiguousarray(x[inner]) for x in (case.src, plate, case.bgr))
    sentences = plate_agreement(src, plate).warnings()
    found = [kind for kind, words in KINDS.items() if any(words in sentence for sentence in sentences)]
    found += ['any'] if sentences else []
    if aligns and (aligned := align_plate(src, plate)).homography is not None:
        before, after = mismatches(*(grey_copy(x)[0] for x in (truth, plate, aligned.bgr)))
        found += ['aligned', 'worse'] if after > before + 0.01 else ['aligned']
    return found, sentences


if __name__ == '__main__':
    sys.exit(cli.run(main))
