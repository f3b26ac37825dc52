"""What scripts print: progress, tables, sizes, JSON."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar('T')

# Of a URL.
USER = re.compile(r'://([^/\s@:]*:\S*|[^/\s@]*)@')
QUERY = re.compile(r'(://[^\s?]*)\?([\w.~%-]+=[^\s\'")]*)')
PLAIN_LINE_SECONDS = 10.0
# By a checksum of its key: whether `say_once` has said a line. Processes can share bytes, not a set.
_said: Any = bytearray(2**16)
_saying: Any = threading.Lock()


def progress(
    items: Iterable[T], total: int | Callable[[], int | None], unit: str, show: bool = True, leave: bool = True
) -> Iterator[T]:
    """Pass items through and show how many of `total` are done, the rate and the time left.

    A bar where stderr is a terminal, else a plain line every ten seconds. Print with `say` meanwhile.

    Args:
        items: consumed one by one.
        total: how many there are; a function where that is only estimated, and the estimate improves. It may return
            None.
        unit: of an item, beginning with a space.
        show: False passes the items through alone.
        leave: keep the full bar on the terminal.
    """
    from tqdm import tqdm

    estimate = total if callable(total) else lambda: total
    if not show or sys.stderr.isatty():
        with tqdm(total=estimate(), unit=unit, disable=not show, dynamic_ncols=True, leave=leave) as bar:
            for item in items:
                yield item
                bar.total = estimate()
                bar.update()
            bar.total = bar.n
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now, expected = time.monotonic(), estimate()
        if now - last >= PLAIN_LINE_SECONDS and done != expected:
            last, rate = now, done / (now - start)
            of = f'/{expected}' if expected else ''
            left = f', {tqdm.format_interval(max(0, expected - done) / rate)} left' if expected else ''
            print(f'{done}{of}{unit}, {rate:.2f} per second{left}', file=sys.stderr, flush=True)


def say(text: str, to_stdout: bool = False) -> None:
    """Print a line, to stderr if not said otherwise, without tearing a progress bar."""
    from tqdm import tqdm

    stream = sys.stdout if to_stdout else sys.stderr
    tqdm.write(printable(text, stream), file=stream)


def say_once(key: object, text: str) -> None:
    """Print a line like `say`, but once for each key, whatever thread or worker comes first; see `share_said`."""
    index = zlib.crc32(repr(key).encode()) % len(_said)
    with _saying:
        said, _said[index] = _said[index], 1
    if not said:
        say(text)


def shared_said() -> tuple[Any, Any]:
    """Return what has been said once, from now on in memory that a process can share which `multiprocessing` starts."""
    import multiprocessing

    global _said, _saying
    if isinstance(_said, bytearray):
        _said, _saying = multiprocessing.RawArray('B', _said), multiprocessing.Lock()
    return _said, _saying


def share_said(said: tuple[Any, Any]) -> None:
    """Say once in common with the process whose `shared_said` this is."""
    global _said, _saying
    _said, _saying = said


def printable(text: str, stream: Any) -> str:
    """Return a text with escapes for what a stream's encoding lacks; names of files need not be valid text."""
    encoding = getattr(stream, 'encoding', None) or 'utf-8'
    return text.encode(encoding, 'backslashreplace').decode(encoding)


def table(rows: Sequence[Sequence[str]], indent: str = '  ') -> str:
    """Lay rows out in aligned columns, numbers to the right; the first row holds the columns' names."""
    columns = list(zip(*rows))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1] in '-0123456789in' and len(cell) < 12 for cell in column[1:]) for column in columns]
    lines = ('  '.join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)) for row in rows)
    return '\n'.join(indent + line.rstrip() for line in lines)


def shown(text: str) -> str:
    """Return a text with the user, password and query of its URLs left out; a password may hold '/', '@' and '?'."""
    return QUERY.sub(r'\1', USER.sub('://***@', text))


def without_secrets(text: str, url: str) -> str:
    """Return a text as `shown` does, and without the single words of what that leaves out of a URL, either."""
    hidden = ' '.join(match[kind.groups] for kind in (USER, QUERY) for match in kind.finditer(url))
    for word in filter(None, re.split(r'\W+', hidden)):
        text = re.sub(rf'(?<!\w){word}(?!\w)', '***', text)
    return shown(text)


def reader_left(last: str = '') -> bool:
    """Print the last of standard output; return whether its reader has left, such as `head`: then it takes all."""
    try:
        print(end=last, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again at its end
        return True
    return False


def some(findings: Sequence[object], separator: str = ', ', most: int = 3) -> str:
    """Return the first of a message's findings, and how many more there are."""
    more = len(findings) - most
    return separator.join(map(str, findings[:most])) + (f' and {more} more' if more > 0 else '')


def plain(number: float, digits: int) -> str:
    """Format a number of so many digits that count, without an exponent where it is large."""
    return f'{float(f"{number:.{digits}g}"):.15g}'


def megabytes(size: int) -> str:
    """Format a number of bytes in decimal units."""
    return f'{size / 1e6:.1f} MB' if size >= 1e5 else f'{size / 1e3:.1f} kB' if size >= 1000 else f'{size} B'


def to_json(content: Any) -> str:
    """Format JSON that every reader takes: what is not finite becomes null."""
    return json.dumps(_finite(content), indent=1, default=str)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
