"""A model of what a disk may hold after a power cut, drawn from a log of what was asked of it."""

import itertools
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from support.faults import WatchedDisk


@dataclass
class Inode:
    """A file's content: what the disk is sure to hold, and what programs see."""

    durable: bytes = b''
    current: bytes = b''

    def after_a_cut(self, rng):
        """One of the contents that a power cut may leave."""
        if self.durable == self.current:
            return self.current
        appended = self.current.startswith(self.durable)
        begin = rng.randint(len(self.durable) if appended else 0, len(self.current))
        rest = len(self.current) - begin
        return rng.choice((
            self.durable,
            self.current,
            self.current[:begin],
            self.current[:begin] + bytes(rest),
            self.current[:begin] + rng.randbytes(rest),
        ))  # fmt: skip


@dataclass
class PowerCut:
    """What a disk may hold if the power fails now.

    Of a file's content what was written since its last fsync may be there, missing, cut short, zeros or garbage. Of
    the folder's changes since its last fsync each may be lost by itself; those of one name come in their order, and a
    rename changes both names or none. The folder itself may be lost if it was made since the last fsync of its parent.
    """

    folder: Path

    names: dict = field(default_factory=dict)
    pending: list = field(default_factory=list)
    inodes: dict = field(default_factory=lambda: defaultdict(Inode))
    made: list = field(default_factory=list)

    def apply(self, event):
        kind, *values = event
        if kind == 'names':
            self.pending.append(values[0])
        elif kind == 'write':
            self.inodes[values[0]].current += values[1]
        elif kind == 'truncate':
            self.inodes[values[0]].current = b''
        elif kind == 'fsync':
            self.inodes[values[0]].durable = self.inodes[values[0]].current
        elif kind == 'there':
            self.names.update(values[0])
        elif kind == 'make_folder':
            self.made.append(values[0])
        elif kind == 'fsync_folder':
            self.made = [path for path in self.made if path.parent != values[0]]
            if values[0] == self.folder:
                for change in self.pending:
                    self.names.update(change)
                self.pending.clear()

    def draw(self, rng, folder):
        """Makes a folder of one of the disks that are possible."""
        names, lost, chance = dict(self.names), set(), rng.choice((0, 0.5, 0.9, 1))
        for change in self.pending:
            if lost.isdisjoint(change) and rng.random() < chance:
                names.update(change)
            else:
                lost.update(change)
        if any(rng.random() >= chance for _ in self.made):
            return
        folder.mkdir()
        first = {}
        for name, inode in names.items():
            if inode in first:
                os.link(first[inode], folder / name)
            elif inode is not None:
                first[inode] = folder / name
                first[inode].write_bytes(self.inodes[inode].after_a_cut(rng))


class LoggingDisk(WatchedDisk):
    """Writes down what changes a folder, for `PowerCut`, beginning with what is in it.

    Attributes:
        idle: operations that do nothing here, for mutants: the disk is not told to wait.
    """

    idle: tuple = ()

    def __init__(self, folder):
        self.events, self.names, self.numbers = [], {}, itertools.count()
        shared = {}
        for path in folder.iterdir() if folder.is_dir() else ():
            self._is_there(path, shared.setdefault(path.stat().st_ino, next(self.numbers)))

    def put(self, path, data):
        """Puts somebody's file into the folder, long before the power fails."""
        path.write_bytes(data)
        self._is_there(path, next(self.numbers))

    def _is_there(self, path, number):
        self.names[path.name] = number
        self.events += [('truncate', number), ('write', number, path.read_bytes()), ('fsync', number)]
        self.events.append(('there', {path.name: number}))

    def around(self, name, operation, *arguments):
        result = operation(*arguments)
        if name not in self.idle:
            self._note(name, *arguments)
        return result

    def _note(self, name, *arguments):
        first, second = [*(Path(a.name).name if hasattr(a, 'name') else a for a in arguments), None][:2]
        if name == 'create' and first not in self.names:
            self._change({first: next(self.numbers)})
        elif name == 'create':
            self.events.append(('truncate', self.names[first]))
        elif name == 'write':
            self.events.append(('write', self.names[first], bytes(second)))
        elif name == 'fsync':
            self.events.append(('fsync', self.names[first]))
        elif name == 'replace' and self.names.get(second) != self.names[first]:
            self._change({second: self.names[first], first: None})
        elif name == 'link':
            self._change({second: self.names[first]})
        elif name == 'unlink':
            self._change({first: None})
        elif name == 'fsync_folder':
            self.events.append(('fsync_folder', arguments[0]))
        elif name == 'make_folder':
            self.events.append(('make_folder', arguments[0]))

    def _change(self, names):
        self.names = {name: number for name, number in {**self.names, **names}.items() if number is not None}
        self.events.append(('names', names))
