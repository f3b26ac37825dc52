"""Machines of one training on this computer: a torchrun each, with a folder of its own for a disk.

Run as a script it is a rank: train_base.py with the small network, which notes its samples and does what SABOTAGE says.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
ROOT = HERE.parent
# Agents that notice at once who has come and gone. Rank 0 is the machine that was started first.
CONFIG = 'is_host=false,last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=6'


class Machines:
    """The machines of a run, and where they meet, which is none of them.

    Args:
        folder: parent of their disks.
        words: the command line of train_base.py.
        nodes: how many machines, as torchrun takes it.
        sabotage: functions of sabotage.py with their arguments, called in the first rank of each machine.
        environment: variables that are added.
    """

    def __init__(self, folder, words, nodes, *sabotage, environment=None):
        import torch.distributed as dist

        self.folder, self.words, self.processes = folder, [str(word) for word in words], {}
        self.meeting = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
        self.command = [
            sys.executable, '-m', 'torch.distributed.run', '--nnodes', nodes, '--nproc-per-node', '1',
            '--max-restarts', '3', '--rdzv-backend', 'c10d', '--rdzv-endpoint', f'127.0.0.1:{self.meeting.port}',
            '--rdzv-conf', CONFIG, '--local-addr', '127.0.0.1', '--monitor-interval', '0.2',
        ]  # fmt: skip
        self.environment = {
            **os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{HERE}', 'OMP_NUM_THREADS': '1',
            'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1', 'SABOTAGE': json.dumps(sabotage),
            'NOTES': str(folder / 'notes'), **(environment or {}),
        }  # fmt: skip
        (folder / 'notes').mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in self.processes:
            self.kill(name)

    def start(self, name):
        """Starts a machine."""
        disk = self.folder / name
        disk.mkdir(exist_ok=True)
        with (disk / 'output').open('a') as output:
            self.processes[name] = subprocess.Popen(
                [*self.command, __file__, *self.words], cwd=disk, env=self.environment, stdout=output, stderr=output
            )

    def kill(self, name, wipe=False):
        """Lets a machine go, with all that runs there and, if asked, with its disk."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.processes[name].pid, signal.SIGKILL)
        pids = self.folder / name / 'pids'
        for pid in pids.read_text().split() if pids.exists() else ():
            # A rank leads a group of its own, so that no other process can be meant.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid), signal.SIGKILL)
        self.processes[name].wait(10)
        if wipe:
            shutil.rmtree(self.folder / name)

    def wait_for(self, condition, seconds=60):
        """Waits until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)

    def end(self, name, seconds=60):
        """The exit code of a machine that ends by itself."""
        self.wait_for(lambda: self.processes[name].poll() is not None, seconds)
        return self.processes[name].returncode

    def text(self, name='*'):
        """What machines printed."""
        return '\n'.join(path.read_text() for path in sorted(self.folder.glob(f'{name}/output')))

    def starts(self):
        """Of each start in turn: how many ranks, from which step on, and the names of each step's samples."""
        found = []
        for folder in sorted((self.folder / 'notes').iterdir(), key=lambda path: path.stat().st_ctime_ns):
            lines = [json.loads(line) for path in folder.iterdir() for line in path.read_text().splitlines()]
            steps = {}
            for step, samples in lines:
                steps.setdefault(step, []).extend(samples)
            world = len({path.name for path in folder.iterdir()})
            found.append((world, min(steps, default=None), {step: sorted(steps[step]) for step in sorted(steps)}))
        return found


def main():
    """Be a rank."""
    import torch

    import train_base
    from support import sabotage

    with open('pids', 'a+') as file:
        file.write(f'{os.getpid()}\n')
        file.flush()
        file.seek(0)
        first = len(file.readlines()) == 1
    notes = Path(os.environ['NOTES']) / os.environ['MASTER_PORT']
    notes.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    sabotage.tiny()
    sabotage.short_lease()
    sabotage.note_names(notes)
    for function, *arguments in json.loads(os.environ['SABOTAGE']) if first else ():
        getattr(sabotage, function)(*arguments)
    return train_base.main()


if __name__ == '__main__':
    sys.exit(main())
