"""All that only a GPU can prove, in nine minutes: what must be right, then figures beside the published way.

python benchmarks/gpu.py --out gpu_out --minutes 9
python benchmarks/gpu.py --out try --device cpu --tiny    that the script itself works, without a GPU, in two minutes
python benchmarks/gpu.py --out steps --only exact steps

Each section is a process of its own with a limit of its own; they run in order of value, and what the deadline cuts off
is named. Rows are written to DIR/rows.jsonl at once. In the end DIR/gpu.txt is a table of them, DIR/gpu.json has them
with the machine, DIR/log.txt what the sections printed. The exit code is 1 if a check or a section failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import machine

from common import cli
from common.devices import choose_device

# In order of value: the module of gpu_sections that has the section, and seconds at most.
SECTIONS = {
    'ceilings': ('card', 40),
    'exact': ('correctness', 70),
    'steps': ('training', 100),
    'tests': ('correctness', 150),
    'forward': ('networks', 100),
    'graphs': ('networks', 70),
    'crops': ('training', 60),
    'loader': ('training', 75),
    'images': ('files', 90),
    'video': ('files', 60),
    'profile': ('profiles', 40),
    'decoders': ('card', 30),
}
ROWS, LOG, TABLE, NUMBERS = 'rows.jsonl', 'log.txt', 'gpu.txt', 'gpu.json'
LEAST = 8  # seconds in which a section can do anything
ENDING = 12  # seconds that are kept for the table

Row = dict[str, Any]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add('--out', type=Path, required=True, metavar='DIR', help='new or empty folder')
    add('--minutes', type=float, default=9, metavar='X', help='begin nothing and end everything after so long')
    add('--device', choices=('cuda', 'cpu'), default='cuda')
    add('--tiny', action='store_true', help='everything once and at its smallest')
    add('--only', nargs='+', choices=SECTIONS, default=list(SECTIONS), metavar='SECTION', help=', '.join(SECTIONS))
    add('--section', choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.section is None and args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        parser.error(f'--out {args.out}: is there already; give a new folder')
    if args.minutes <= 0:
        parser.error(f'--minutes {args.minutes:g}: must be above 0')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        device = choose_device(args.device)
    except ValueError as error:
        return cli.report_error(error, 2)
    if args.section:
        run_section(args.section, device, args.tiny, args.out / ROWS)
        return 0
    deadline = time.monotonic() + 60 * args.minutes - ENDING
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ends = [Ending(name, 'not begun') for name in SECTIONS if name in args.only]
    end = ends[0]
    try:
        for end in ends:
            limit = float('inf') if args.tiny else SECTIONS[end.name][1]  # a busy CPU may take its time
            seconds = min(limit, deadline - time.monotonic())
            if seconds >= min(LEAST, 60 * args.minutes):
                end.how = run_process(command(end.name, args), seconds, args.out / LOG)
            print(section_table(end, read_rows(args.out)), flush=True)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # what stops a process often does it twice
        end.how = 'stopped by a signal'
        report(ends, args.out)
        return 130
    return report(ends, args.out)


def run_section(name: str, device: Any, tiny: bool, file: Path) -> None:
    """Run a section in this process."""
    from helpers.bench import Bench

    section = getattr(importlib.import_module(f'gpu_sections.{SECTIONS[name][0]}'), name)
    section(Bench(name, device, tiny, file.absolute()))


def command(name: str, args: argparse.Namespace) -> list[str]:
    """Return the command of a section's process."""
    shared = ['--out', str(args.out), '--device', args.device, *['--tiny'] * args.tiny]
    return [sys.executable, str(Path(__file__).absolute()), '--section', name, *shared]


def run_process(words: Sequence[str], seconds: float, log: Path) -> str:
    """Run a command, with all that it starts in its turn, for a time; return how it ended: '' if well."""
    began = time.monotonic()
    with log.open('a') as file:
        print(f'##### {" ".join(words)}', file=file, flush=True)
        process = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f'CUT OFF after {seconds:.0f} s'
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    last = next((line for line in reversed(log.read_text().splitlines()) if line.strip()), '')
    return f'FAILED with code {code} after {time.monotonic() - began:.0f} s: {last[:300]}' if code else ''


@dataclass
class Ending:
    """A section and how it ended: '' if it ran to its end."""

    name: str
    how: str


def read_rows(out: Path) -> list[Row]:
    """Return the rows that are there; the last one may be cut, by a section that was killed."""
    rows = []
    for line in (out / ROWS).read_text().splitlines() if (out / ROWS).exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def section_table(end: Ending, rows: Sequence[Row]) -> str:
    """Return a section's rows as lines of text."""
    lines = [f'== {end.name}' + f': {end.how}' * bool(end.how)]
    for row in rows:
        if row['section'] == end.name:
            mark = {None: ' ', True: '+', False: '!'}[row.get('ok')]
            figures = ', '.join(f'{name} {x}' for name, x in row.items() if name not in ('section', 'what', 'ok'))
            lines.append(f' {mark} {row["what"]:70} {figures}'.rstrip())
    return '\n'.join(lines)


def report(ends: Sequence[Ending], out: Path) -> int:
    """Write table and numbers, say in the end what failed and what was cut off, and return the exit code."""
    rows = read_rows(out)
    checks = [row for row in rows if row.get('ok') is not None]
    failed = [f'{row["section"]}: {row["what"]}' for row in checks if not row['ok']]
    failed += [end.name for end in ends if end.how.startswith('FAILED')]
    cut = [end.name for end in ends if end.how and not end.how.startswith('FAILED')]
    summary = [f'{len(checks)} checks, {len(checks) - sum(not row["ok"] for row in checks)} passed']
    summary += [f'FAILED: {what}' for what in failed]
    summary += [f'not run to the end: {", ".join(cut)}'] if cut else []
    sections = {end.name: end.how or 'whole' for end in ends}
    machine.write_json(out / NUMBERS, {'sections': sections, 'failed': failed, 'rows': rows})
    tables = [section_table(end, rows) for end in ends]
    (out / TABLE).write_text('\n'.join([machine.describe(), *tables, *summary]) + '\n')
    print('\n'.join(summary))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(cli.run(main))
