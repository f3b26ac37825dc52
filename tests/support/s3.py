"""A server that speaks S3 on this computer, and a proxy before it that fails on purpose."""

import contextlib
import http.client
import logging
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What stores answer in words.
ANSWERS = {'error': (500, 'InternalError'), 'throttled': (503, 'SlowDown'), 'expired': (403, 'ExpiredToken')}
FAULTS = ('reset', 'late', 'cut', *ANSWERS)
SECRET = 'very+secret/key'


class Proxy(ThreadingHTTPServer):
    """Hands requests on, counts them, and fails at the n-th, the first being number 1.

    Attributes:
        at: n; None never fails.
        fault: one of FAULTS: the connection is closed before the request is read, once it was done, or amid its body;
            or an answer. 'kill' kills the process `victim` before the request is done, 'kill late' after it.
        persistent: it fails at every later one, too.
        slow: seconds that every request takes longer.
        done: the requests: method and path.
    """

    daemon_threads = True

    def __init__(self, port):
        super().__init__(('127.0.0.1', 0), Handler)
        self.target = port
        self.arm()

    def arm(self, at=None, fault='reset', persistent=False, slow=0.0):
        """Counts anew."""
        self.at, self.fault, self.persistent, self.slow = at, fault, persistent, slow
        self.done, self.victim, self.lock = [], None, threading.Lock()

    def handle_error(self, *_):
        """A client that was killed is what this is for."""


class Handler(BaseHTTPRequestHandler):
    """Hands a request on to the server."""

    protocol_version = 'HTTP/1.1'

    def handle_one(self):
        proxy = self.server
        with proxy.lock:
            proxy.done.append(f'{self.command} {self.path}')
            number = len(proxy.done)
            at = proxy.at
        struck = at is not None and (number == at or (proxy.persistent and number > at))
        fault = proxy.fault if struck else ''
        time.sleep(proxy.slow)
        if fault == 'kill':
            os.kill(proxy.victim, signal.SIGKILL)
        if fault in ('reset', 'kill'):
            self.close_connection = True
            return
        size = int(self.headers.get('Content-Length', 0))
        body = self.rfile.read(size // 2 if fault == 'cut' else size)
        if fault == 'cut':
            self.close_connection = True
            return
        if fault in ANSWERS:
            code, word = ANSWERS[fault]
            self.answer(code, {}, f'<Error><Code>{word}</Code><Message>as asked for</Message></Error>'.encode())
            return
        upstream = http.client.HTTPConnection('127.0.0.1', proxy.target)
        upstream.request(self.command, self.path, body, dict(self.headers))
        found = upstream.getresponse()
        data = found.read()
        if fault == 'kill late':
            os.kill(proxy.victim, signal.SIGKILL)
        if fault in ('late', 'kill late'):
            self.close_connection = True
            return
        self.answer(found.status, dict(found.getheaders()), data)
        upstream.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one

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
