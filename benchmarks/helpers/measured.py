"""A command's start and end, peak of resident memory and exit code, written to a file.

python benchmarks/helpers/measured.py numbers.json COMMAND ...

It runs as a process of its own, since a command inherits the peak of the process that starts it: this one is small.
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
