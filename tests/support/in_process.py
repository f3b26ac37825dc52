"""Scripts in the tests' own process: signals are restored, and networks loaded once, which takes as long as matting."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inference import backends

_loaded: dict[str, Any] = {}


def load_once(load: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What was loaded with these arguments before, or now."""
    key = repr((load, args, sorted(named.items())))
    if key not in _loaded:
        _loaded[key] = load(*args, **named)
    return _loaded[key]


@pytest.fixture
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts that load the same network again get the first one."""
    load = backends.load_matting
    monkeypatch.setattr(backends, 'load_matting', lambda *args, **named: load_once(load, *args, **named))


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signals are answered again afterwards: a script that was stopped leaves them ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
