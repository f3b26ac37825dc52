"""A server of S3 on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bucket() -> Iterator[Any]:
    """Start a server of S3 and yield fsspec's file system of it, which has a bucket."""
    import fsspec

    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    os.environ |= {
        'AWS_ENDPOINT_URL': f'http://127.0.0.1:{port}', 'AWS_ACCESS_KEY_ID': 'key', 'AWS_SECRET_ACCESS_KEY': 'secret',
        'AWS_DEFAULT_REGION': 'us-east-1',
    }  # fmt: skip
    words = [sys.executable, '-m', 'moto.server', '-H', '127.0.0.1', '-p', str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as trial:
                if trial.connect_ex(('127.0.0.1', port)) == 0:
                    break
            time.sleep(0.2)
        store = fsspec.filesystem('s3')
        store.mkdir('bucket')
        yield store
    finally:
        server.kill()
        server.wait()
