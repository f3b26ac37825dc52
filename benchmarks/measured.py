"""Runs a command and writes what it took: when it started and ended, its peak of resident memory, its exit code.

python benchmarks/measured.py numbers.json COMMAND ...

A process of its own, and a small one: a process that is started by a large one inherits that one's peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

# Linux counts in KiB, macOS in bytes.
PEAK_UNIT = 1 if sys.platform == 'darwin' else 1024


def main() -> None:
    file, *command = sys.argv[1:]
    start = time.time()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    numbers = {
        'start': start,
        'end': time.time(),
        'peak_bytes': usage.ru_maxrss * PEAK_UNIT,
        'exit_code': process.returncode,
    }
    Path(file).write_text(json.dumps(numbers))


if __name__ == '__main__':
    main()
