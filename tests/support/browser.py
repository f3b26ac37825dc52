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
import time
from pathlib import Path
from typing import Any, Self

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


class Chrome:
    """A page in a browser that tests drive: Chromium's own protocol, by two pipes, in a profile of its own."""

    def __init__(self, home: Path, *flags: str):
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        command = [str(CHROME), *QUIET, f'--user-data-dir={home / "chrome"}', '--remote-debugging-pipe', *flags]
        # It reads from 3 and writes to 4.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        environment = {**os.environ, 'HOME': str(home), 'XDG_CONFIG_HOME': str(home)}
        self._process = subprocess.Popen(
            ['bash', '-c', shell, 'bash', *command], pass_fds=(to_browser, from_browser), env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._read, self._count, self._session = os.fdopen(self._from, 'rb'), 0, {}
        self.events: list[str] = []  # their names, in order
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = {'sessionId': attached['sessionId']}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._read.close()
        os.close(self._to)

    def call(self, method: str, **params: object) -> Any:
        """Call a method of the protocol; return its result."""
        self._count += 1
        message = {'id': self._count, 'method': method, 'params': params, **self._session}
        os.write(self._to, json.dumps(message).encode() + b'\0')
        while True:
            answer = bytearray()
            while (byte := self._read.read(1)) != b'\0':
                assert byte, 'the browser has ended'
                answer += byte
            found = json.loads(answer)
            self.events += [found['method']] if 'method' in found else []
            if found.get('id') == self._count:
                assert 'error' not in found, found
                return found['result']

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or what it promises."""
        found = self.call('Runtime.evaluate', expression=expression, awaitPromise=True, returnByValue=True)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def until(self, expression: str, seconds: float = 200) -> Any:
        """Wait until an expression is true; return its value."""
        end = time.monotonic() + seconds
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < end, self.evaluate('document.body.innerText')
            time.sleep(0.1)
        return found

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file as a person does."""
        node = self.call('Runtime.evaluate', expression=f'document.querySelector({json.dumps(selector)})')['result']
        self.call('DOM.setFileInputFiles', objectId=node['objectId'], files=[str(path)])

    def click(self, element: str) -> None:
        """Click the middle of an element, which an expression names, as a mouse does."""
        box = f'(({element}).scrollIntoView(), ({element}).getBoundingClientRect())'
        x, y = self.evaluate(f'(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box})')
        for type in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=type, x=x, y=y, button='left', clickCount=1)
