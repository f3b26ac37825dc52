"""Starts the training scripts in forked children: each begins in milliseconds, since torch is imported already.

Reads requests from standard input, one JSON object a line, and answers each with one:

    {"start": ["train_base", "--batch-size", "2", ...], "folder": ..., "output": ..., "environment": {...},
     "sabotage": [["tiny"], ["signal_at", 3, 15], ...]}             ->  {"pid": 4711}
    {"wait": 4711, "seconds": 30}                                   ->  {"code": 0}, or null while it runs

Imported are all modules that a child needs. No torch operation runs before a fork: threads would not survive it.
A child ends as an interpreter would, its exit handlers included.
"""

import atexit
import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback

import kornia  # noqa: F401
import matplotlib.figure  # noqa: F401
import torch

import train_base  # noqa: F401
import train_refine  # noqa: F401
import training.stage  # noqa: F401
from support import sabotage

with contextlib.suppress(ImportError):  # of the slow tests alone
    import s3fs  # noqa: F401


def start(request):
    """Forks a child and returns its process id, which is also that of its group."""
    pid = os.fork()
    if pid == 0:
        try:
            code = _child(request)
        except BaseException:
            traceback.print_exc()
            code = 70
        os._exit(code)
    return pid


def _child(request):
    os.setsid()
    os.chdir(request['folder'])
    os.environ.update(request.get('environment', {}))
    output = os.open(request['output'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    torch.set_num_threads(1)
    for name, *arguments in request.get('sabotage', ()):
        getattr(sabotage, name)(*arguments)
    script, *words = request['start']
    code = 0
    try:
        code = importlib.import_module(script).main(words)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
        traceback.print_exc()
    except BaseException as error:
        # Kept as the interpreter keeps it, with all that its frames hold.
        sys.last_value = error
        code = 1
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def wait(pid, seconds):
    """The exit code of a child, negative for a signal that killed it; None if it runs longer."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def main():
    children = []
    print(json.dumps({'ready': os.getpid()}), flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        if 'start' in request:
            children.append(start(request))
            answer = {'pid': children[-1]}
        else:
            answer = {'code': wait(request['wait'], request['seconds'])}
        print(json.dumps(answer), flush=True)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == '__main__':
    main()
