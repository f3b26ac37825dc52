"""Stores behind URLs, by fsspec: how one is opened, and whatever it refuses in one line without secrets."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .console import shown, without_secrets
from .files import is_url, scratch_folder
from .installation import EXTRAS, import_problem

# The URLs of files by the paths where they lie once they were fetched.
_urls: dict[Path, str] = {}
# What does not change while a store is waited for.
LASTING = (ValueError, TypeError, ImportError, NotADirectoryError)
# What messages call the temporary folders that stand for those of stores.
_places: dict[str, str] = {}


class StoreError(OSError):
    """A store that refuses or does not answer; named without its password."""


class UnavailableStore(StoreError):
    """A store that does not answer or says no, or that is another's for now: the same may succeed later."""


class MissingObject(StoreError):
    """What was asked for is not in the store."""


class DamagedObject(StoreError):
    """What is in the store, or came from there, is not what a record or a checksum says."""


def open_store(place: str, **settings: Any) -> tuple[Any, str]:
    """Return fsspec's file system of a URL or path, and the path in it; to be called in a block of `telling`.

    Args:
        place: the URL or path.
        settings: of the client; without `skip_instance_cache` a process has one for each kind of store.
    """
    import fsspec

    if not is_url(place):
        store = fsspec.filesystem('file', **settings)
        return store, store._strip_protocol(place)
    if '::' in place:
        raise ValueError('a chain of URLs (::) is not read')
    if place.startswith(('http://', 'https://')):
        raise ValueError('web servers do not list folders: use a folder here, or a store such as s3://')
    return fsspec.core.url_to_fs(place, **settings)


@contextmanager
def telling(place: str, url: str = '') -> Iterator[None]:
    """Turn whatever a store's client raises in the block into a StoreError of one line that begins with the place.

    Args:
        place: what the store, or the object in it, is called.
        url: of the store, whose secrets do not show in that line; the place if left out.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # each client has dozens of types
        kind = StoreError if isinstance(error, LASTING) or 'Validation' in type(error).__name__ else UnavailableStore
        kind = DamagedObject if type(error).__name__.endswith('ChecksumError') else kind
        kind = MissingObject if isinstance(error, FileNotFoundError) else kind
        raise kind(f'{shown(place)}: {_words(error, url or place)}') from None


def path_of(url: str) -> Path:
    """Return where a file of a store lies, once it was fetched, beside others of its folder there."""
    parent, _, name = url.rpartition('/')
    folder = Path(_folder().name, hashlib.sha256(parent.encode()).hexdigest()[:16])
    name_folder(folder, parent)
    _urls[folder / name] = url
    return folder / name


def drop_fetched() -> None:
    """Remove all that was fetched; what is read after that is fetched anew."""
    if _urls:
        shutil.rmtree(_folder().name, ignore_errors=True)


def name_folder(folder: Path, url: str) -> None:
    """Let messages call a temporary folder by a URL; see `with_urls`."""
    _places[str(folder)] = shown(url)


def with_urls(text: str) -> str:
    """Return a message with the URLs of what lies in temporary folders in place of their paths."""
    for folder in sorted(_places, key=len, reverse=True):
        text = text.replace(folder, _places[folder])
    return text


def url_of(path: Path) -> str | None:
    """Return the URL that a path stands for, password and all; None for a file of this computer."""
    return _urls.get(path)


def named(path: Path) -> str:
    """Return what messages call a path: the URL that it stands for, without its password, or itself."""
    return shown(_urls.get(path) or str(path))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return scratch_folder('fetched-')


def _words(error: Exception, url: str) -> str:
    lacking = error.__cause__
    if isinstance(lacking, ImportError) and lacking.name in EXTRAS and (problem := import_problem(lacking)):
        return problem
    words = ' '.join(without_secrets(str(error), url).split()) or type(error).__name__
    before = {'not there: ': FileNotFoundError, 'denied: ': PermissionError, 'needs a package: ': ImportError}
    return next((word for word, kind in before.items() if isinstance(error, kind)), '') + words
