"""A server that speaks S3 on this computer, and a proxy before it that fails on purpose."""

import base64
import contextlib
import hashlib
import http.client
import logging
import math
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What stores answer in words.
ANSWERS = {
    'error': (500, 'InternalError', 'We encountered an internal error. Please try again.'),
    'throttled': (503, 'SlowDown', 'Please reduce your request rate.'),
    'expired': (403, 'ExpiredToken', 'The provided token has expired.'),
    'skewed': (
        403,
        'RequestTimeTooSkewed',
        'The difference between the request time and the current time is too large.',
    ),
}
FAULTS = ('reset', 'late', 'cut', 'wrong checksum', *ANSWERS)
SECRET = 'very+secret/key'
CHECKSUM = 'x-amz-checksum-sha256'


class Proxy(ThreadingHTTPServer):
    """Hands requests on, counts them, and fails at the n-th, the first being number 1.

    Attributes:
        at: n; None never fails.
        fault: one of FAULTS: the connection is closed before the request is read, once it was done, or amid its body;
            the checksum of an answer is another's; or an answer. 'held' takes nothing and says nothing until `go_on` is
            set. 'kill' kills the process `victim` before the request is done.
        times: it fails at so many in a row.
        rate: bytes a second that are taken of what is sent; None for all at once.
        done: the requests: method and path. Of a lease the first alone: the slower the machine, the more renewals come.
        held: how many wait for `go_on`.
        revoked: access keys that are refused.
        checksums: of the objects, base64 by path, which the server behind does not tell.
    """

    daemon_threads = True

    def __init__(self, port):
        super().__init__(('127.0.0.1', 0), Handler, bind_and_activate=False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # who sends notices how much is taken
        self.server_bind()
        self.server_activate()
        self.target, self.checksums = port, {}
        self.arm()

    def arm(self, at=None, fault='reset', times=1, rate=None):
        """Counts anew."""
        self.at, self.fault, self.times, self.rate = at, fault, times, rate
        self.done, self.held, self.revoked, self.victim = [], 0, set(), None
        self.lock, self.go_on = threading.Lock(), threading.Event()

    def handle_error(self, *_):
        """A client that was killed is what this is for."""


class Handler(BaseHTTPRequestHandler):
    """Hands a request on to the server."""

    protocol_version = 'HTTP/1.1'

    def handle_one(self):
        proxy = self.server
        with proxy.lock:
            request, at = f'{self.command} {self.path}', proxy.at
            renewal = request in proxy.done and request.endswith('.lease')
            if not renewal:
                proxy.done.append(request)
            number = len(proxy.done)
        # A renewal fails where the requests before and after it do.
        struck = at is not None and at <= number and number + renewal < at + proxy.times
        fault = proxy.fault if struck else ''
        if fault == 'held':
            proxy.held += 1
            proxy.go_on.wait()
        if fault == 'kill':
            os.kill(proxy.victim, signal.SIGKILL)
        if fault in ('reset', 'kill', 'held'):
            self.close_connection = True
            return
        size = int(self.headers.get('Content-Length', 0))
        body = self.take(size // 2 if fault == 'cut' else size, proxy.rate)
        if fault == 'cut':
            self.close_connection = True
            return
        if any(f'Credential={key}/' in self.headers.get('Authorization', '') for key in proxy.revoked):
            fault = 'expired'
        if fault in ANSWERS:
            code, word, text = ANSWERS[fault]
            self.answer(code, {}, f'<Error><Code>{word}</Code><Message>{text}</Message></Error>'.encode())
            return
        upstream = http.client.HTTPConnection('127.0.0.1', proxy.target)
        upstream.request(self.command, self.path, body, dict(self.headers))
        found = upstream.getresponse()
        data, told = found.read(), dict(found.getheaders())
        upstream.close()
        if fault == 'late':
            self.close_connection = True
            return
        if found.status == 200 and self.command == 'PUT':
            proxy.checksums[self.path] = checksum(body) if CHECKSUM in self.headers else None
        if found.status == 200 and 'x-amz-checksum-mode' in self.headers and proxy.checksums.get(self.path):
            told[CHECKSUM] = checksum(b'other') if fault == 'wrong checksum' else proxy.checksums[self.path]
        self.answer(found.status, told, data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one

    def take(self, size, rate):
        """Reads what was sent, at most so many bytes a second."""
        if rate is None:
            return self.rfile.read(size)
        parts, left = [], size
        while left and (part := self.rfile.read(min(left, math.ceil(rate / 20)))):
            parts.append(part)
            left -= len(part)
            time.sleep(0.05)
        return b''.join(parts)

    def answer(self, code, headers, data):
        self.send_response(code)
        headers = {
            name: value for name, value in headers.items() if name.lower() not in ('connection', 'date', 'server')
        }
        for name, value in {'Content-Length': str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def log_message(self, *_):
        """The tests say enough."""


def checksum(data):
    """The sha256 of an object as S3 tells it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@contextlib.contextmanager
def s3_server():
    """Yields a proxy before a server with the bucket 'bucket', and the environment of those who use it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    proxy = Proxy(port)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    create = http.client.HTTPConnection('127.0.0.1', port)
    create.request('PUT', '/bucket', headers={'Authorization': 'AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/x'})
    assert create.getresponse().status == 200
    environment = {
        'AWS_ENDPOINT_URL': f'http://127.0.0.1:{proxy.server_port}', 'AWS_ACCESS_KEY_ID': 'k',
        'AWS_SECRET_ACCESS_KEY': SECRET, 'AWS_DEFAULT_REGION': 'us-east-1', 'AWS_MAX_ATTEMPTS': '1',
        'AWS_EC2_METADATA_DISABLED': 'true',
    }  # fmt: skip
    try:
        yield proxy, environment
    finally:
        proxy.shutdown()
        server.stop()
