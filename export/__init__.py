"""Trained networks as files for other runtimes, each compared with the network that it was made from."""

import contextlib
import logging
from collections.abc import Iterator


class ParityError(Exception):
    """An exported network gives other results than the original, or none that can be compared."""


@contextlib.contextmanager
def without_messages(logger: str, *texts: str) -> Iterator[None]:
    """Suppress what is logged with one of these texts in it, and nothing else."""

    def wanted(record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in texts)

    logging.getLogger(logger).addFilter(wanted)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(wanted)
