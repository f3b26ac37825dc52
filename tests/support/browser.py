"""Headless Chromium, by which tests see what a browser makes of a page or a video.

$CHROME names the browser if it has an unusual name.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
CHROME = os.environ.get('CHROME') or next(filter(None, map(shutil.which, NAMES)), None)
QUIET = (
    *('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync'),
    *('--disable-background-networking', '--disable-component-update', '--hide-scrollbars'),
)
needs_chrome = pytest.mark.skipif(CHROME is None, reason=f'no browser: none of {", ".join(NAMES)}, and no $CHROME')


def seen_by_chrome(page: Path, *flags: str, silent: bool = True) -> Any:
    """Open a page and return what it leaves, as JSON, in its <pre>. The console must stay silent."""
    # Only the flag lets a page look into a file in its frame.
    command = [CHROME, *QUIET, f'--user-data-dir={page.parent / "chrome"}', '--allow-file-access-from-files', *flags]
    command += ['--enable-logging=stderr', '--virtual-time-budget=10000', '--dump-dom', page.as_uri()]
    # The folders of a user who has none: the browser leaves nothing behind.
    environment = {**os.environ, 'HOME': str(page.parent), 'XDG_CONFIG_HOME': str(page.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    messages = [line for line in done.stderr.splitlines() if ':CONSOLE' in line]
    assert not (silent and messages)
    left = re.search(r'<pre>(.*?)</pre>', done.stdout, re.DOTALL)
    assert left, done.stderr
    assert left[1], 'the steps did not come to their end'
    return json.loads(html.unescape(left[1]))
