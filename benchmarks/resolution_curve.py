"""Milliseconds and memory of a forward pass against the pictures' size, as a table and as two plots.

python benchmarks/resolution_curve.py [--model-backbone mobilenetv2 resnet50 --precision float32 bfloat16 --plot curve]

Measured by `inference_speed_test.py`, whose settings follow the size: 1/4 and 80,000 pixels up to twice HD, 1/8 and
320,000 above.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from helpers import machine

from common import cli

SIZES = ((640, 360), (1280, 720), (1920, 1080), (2560, 1440), (3840, 2160))


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument('--model-backbone', nargs='+', default=['mobilenetv2'])
    parser.add_argument('--precision', nargs='+', default=['float32', 'bfloat16'])
    parser.add_argument('--resolution', nargs='+', default=[str(side) for size in SIZES for side in size])
    cli.add_device_argument(parser.add_argument)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument(
        '--plot', type=Path, metavar='STEM', help='draw STEM-time.png and -memory.png; needs matplotlib'
    )
    args = parser.parse_args(argv)
    machine.check_plot(parser, args.plot)

    with tempfile.TemporaryDirectory() as name:
        file = Path(name, 'rows.json')
        script = machine.ROOT / 'inference_speed_test.py'
        command = [sys.executable, str(script), '--model-type', 'mattingrefine', '--device', args.device]
        command += ['--model-backbone', *args.model_backbone, '--precision', *args.precision]
        command += ['--resolution', *args.resolution, '--repeats', str(args.repeats), '--json', str(file)]
        if code := subprocess.run(command, check=False).returncode:
            return code  # it has said why
        rows = json.loads(file.read_text())['rows']
    if args.plot:
        from inference.speed.measure import processor

        for what, unit, column in (('time', 'ms', 'median_ms'), ('memory', 'MiB, peak', 'peak_mib')):
            curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for row in rows:
                megapixels = row['width'] * row['height'] / 1e6
                curves[f'{row["backbone"]} {row["precision"]}'].append((megapixels, row[column]))
            file = args.plot.with_name(f'{args.plot.name}-{what}.png')
            machine.log_plot(file, f'forward pass, {unit}; {processor()}', 'megapixels', curves)
    return 0


if __name__ == '__main__':
    sys.exit(cli.run(main))
