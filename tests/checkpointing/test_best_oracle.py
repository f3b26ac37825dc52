"""What is kept, what is best and what is named after it: random runs against a second reading of the contract.

`Oracle` says what a folder must hold, from the rules as a user reads them, and shares no code with the toolkit.
"""

import dataclasses
import math
import random

import pytest
import torch
from support.faults import checkpoints, stop_clock

import checkpointing.links
import checkpointing.manager
import checkpointing.retention
from checkpointing.content import Content
from checkpointing.manager import Point
from checkpointing.retention import Policy


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch):
    stop_clock(monkeypatch)


@dataclasses.dataclass
class Entry:
    """A checkpoint as the oracle sees it."""

    name: str
    step: int
    epoch: int
    metric: float | None
    state: bool = True


class Oracle:
    """The contract, in the plainest words.

    Kept are the weights of the newest `keep` steps, of the K best, of the first checkpoint at or after every multiple
    of `every` steps done, of all that are pinned, and of all whose training state is kept: the newest `states` steps
    (never fewer than two) and the pinned ones that had one. Everything else goes. Best is the lowest or the highest
    finite metric that is not worse than the threshold; of equal ones the earlier.
    """

    def __init__(self, policy):
        self.policy, self.entries, self.pins, self.last = policy, [], set(), None

    def best(self, more=()):
        by_step, limit = {}, self.policy.threshold
        for entry in sorted([*self.entries, *more], key=lambda e: (e.step, e.name)):
            if entry.metric is None or not math.isfinite(entry.metric):
                continue
            if limit is not None and (entry.metric > limit if self.policy.mode == 'min' else entry.metric < limit):
                continue
            if entry.step not in by_step:
                by_step[entry.step] = entry
        ordered = sorted(by_step.values(), key=lambda e: (e.metric if self.policy.mode == 'min' else -e.metric, e.step))
        return ordered[: self.policy.best]

    def save(self, names, step, epoch, metric):
        present = [e for e in self.entries if e.step == step]
        for entry in present:
            if (entry.name in names or entry is present[0]) and metric is not None:
                entry.metric = metric
        known = {e.name for e in present}
        metric = present[0].metric if present and metric is None else metric
        self.entries += [Entry(name, step, epoch, metric) for name in names if name not in known]
        self.last = list(names)[-1]
        self._prune()

    def _prune(self):
        policy = self.policy
        steps = sorted({e.step for e in self.entries})
        resumable = sorted({e.step for e in self.entries if e.state})[-max(2, policy.states) :]
        kept = set(steps if policy.keep is None else steps[-policy.keep :]) | set(resumable)
        for multiple in range(1, (steps[-1] + 1) // policy.every + 1) if policy.every else ():
            later = [step for step in steps if multiple * policy.every <= step + 1 < (multiple + 1) * policy.every]
            kept |= set(later[:1])
        best = {e.name for e in self.best()}
        self.entries = [e for e in self.entries if e.step in kept or e.name in best or e.name in self.pins]
        for entry in self.entries:
            entry.state &= entry.step in resumable or entry.name in self.pins

    def files(self, ema):
        """The names that must be in the folder, and for each link the file that it must be."""
        names = {f'{name}.pin' for name in self.pins}
        for entry in self.entries:
            names |= {f'{entry.name}.pth', f'{entry.name}.json'}
            names |= {f'{entry.name}.state.pth'} if entry.state else set()
            names |= {f'{entry.name}.ema.pth'} if ema else set()
        watched = '.ema.pth' if ema and '_ema_' in self.policy.monitor else '.pth'
        links = {'last.pth': f'{self.last}.pth'}
        for rank, entry in enumerate(self.best()):
            if rank == 0:
                links['best.pth'] = entry.name + watched
            if self.policy.best_name is not None:
                values = {'epoch': entry.epoch, 'step': entry.step, self.policy.monitor: entry.metric}
                name = self.policy.best_name.format(**values)
                links[f'{name}-{entry.step}.pth' if f'{name}.pth' in links else f'{name}.pth'] = entry.name + watched
        return names | set(links), links


METRICS = (math.nan, math.inf, -math.inf, None, 0.1, 0.1, 0.104, 0.2, 0.25, 0.3, -1.0, 7.0)


def content(step, ema):
    return Content({'w': torch.tensor(step)}, {'step': step}, {'w': torch.tensor(-1 - step)} if ema else None)


def check_sequence(folder, seed):
    """One random run, compared with the oracle after each save."""
    rng = random.Random(seed)
    ema = rng.random() < 0.3
    monitor = rng.choice(('valid_loss', 'valid_ema_loss')) if ema else 'valid_loss'
    policy = Policy(
        keep=rng.choice((None, 1, 2, 3)), states=rng.choice((1, 2, 3)), every=rng.choice((None, None, 5, 8)),
        best=rng.randint(1, 4), monitor=monitor, mode=rng.choice(('min', 'max')),
        best_name=rng.choice((None, f'top-{{{monitor}:.2f}}', f'{{epoch}}-{{step:03d}}-{{{monitor}:.1f}}')),
        threshold=rng.choice((None, None, 0.2, 0.25)),
    )  # fmt: skip
    oracle, made = Oracle(policy), checkpoints(folder, policy=policy)
    step = -1
    for _ in range(rng.randint(4, 12)):
        if rng.random() < 0.2:
            made.close()
            made = checkpoints(folder, policy=policy)
            made.open()
        again = step >= 0 and rng.random() < 0.15
        step += 0 if again else rng.randint(1, 4)
        metric = rng.choice(METRICS)
        known = [e for e in oracle.entries if e.step == step and e.metric is not None]
        if known:
            # A step is not validated twice with two results.
            metric = rng.choice((None, known[0].metric))
        metrics = {} if metric is None else {monitor: metric, 'valid_sad': 1.0}
        if not again:
            best = oracle.best([Entry('', step, 0, metric)])
            assert made.would_be_kept(metrics) == any(e.name == '' for e in best)
        epoch = step // 7
        names = rng.choice(
            ([f'epoch-{epoch}-iter-{step}'], [f'epoch-{epoch}-iter-{step}', f'epoch-{epoch}-end-{step}'])
        )
        made.save(dict.fromkeys(names, 'interval'), Point(step, epoch, metrics), content(step, ema))
        assert made.settle()
        oracle.save(names, step, epoch, metric)
        expected, links = oracle.files(ema)
        assert {path.name for path in folder.iterdir()} == expected
        for link, file in links.items():
            assert (folder / link).samefile(folder / file), (link, file)
        if 'best.pth' in links:
            best = oracle.best()[0].step
            value = -1 - best if links['best.pth'].endswith('.ema.pth') else best
            assert torch.load(folder / 'best.pth')['w'] == value
        if rng.random() < 0.15:
            name = rng.choice(oracle.entries).name
            (folder / f'{name}.pin').touch()
            oracle.pins.add(name)
        elif oracle.pins and rng.random() < 0.15:
            name = rng.choice(sorted(oracle.pins))
            oracle.pins.remove(name)
            (folder / f'{name}.pin').unlink()
    made.close()


def check_sequences(root, seeds):
    for seed in seeds:
        try:
            check_sequence(root / str(seed), seed)
        except AssertionError as error:
            raise AssertionError(f'sequence {seed}') from error


def test_random_runs_agree_with_the_oracle(tmp_path):
    check_sequences(tmp_path, range(30))


@pytest.mark.slow
@pytest.mark.parametrize('begin', [0, 250, 500, 750])
def test_a_thousand_random_runs_agree_with_the_oracle(tmp_path, begin):
    check_sequences(tmp_path, range(begin, begin + 250))


def everywhere(monkeypatch, name, function):
    for module in (checkpointing.manager, checkpointing.links, checkpointing.retention):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, function)


def later_wins(records, monitor, mode, count=1):
    sign = 1 if mode == 'min' else -1
    finite = [r for r in records if math.isfinite(r.metrics.get(monitor, math.nan))]
    return sorted(finite, key=lambda r: (sign * r.metrics[monitor], -r.step))[:count]


def infinity_wins(records, monitor, mode, count=1):
    sign = 1 if mode == 'min' else -1
    known = [r for r in records if r.metrics.get(monitor, math.nan) == r.metrics.get(monitor)]
    return sorted(known, key=lambda r: sign * r.metrics[monitor])[:count]


def nan_wins(records, monitor, mode, count=1):
    known = [r for r in records if monitor in r.metrics]
    return sorted(known, key=lambda r: (not math.isnan(r.metrics[monitor]), r.metrics[monitor], r.step))[:count]


@pytest.mark.parametrize('mutant', [later_wins, infinity_wins, nan_wins, lambda *arguments: []])
def test_mutant_that_chooses_another_best_is_caught(tmp_path, monkeypatch, mutant):
    def best_records(policy, records, count=None):
        return mutant(records, policy.monitor, policy.mode, count or policy.best)

    monkeypatch.setattr(Policy, 'best_records', best_records)
    with pytest.raises(AssertionError):
        check_sequences(tmp_path, range(1_000))


def test_mutant_whose_links_point_at_another_file_is_caught(tmp_path, monkeypatch):
    real = checkpointing.links.link_file

    def wrong(disk, source, target, temporary):
        others = sorted(path for path in source.parent.glob('epoch-*.pth') if '.state' not in path.name)
        real(disk, others[0] if target.name.startswith(('best', 'top')) else source, target, temporary)

    monkeypatch.setattr(checkpointing.links, 'link_file', wrong)
    with pytest.raises(AssertionError):
        check_sequences(tmp_path, range(1_000))


@pytest.mark.parametrize('part', ['_drop_former', 'removable', 'pinned', 'refresh'])
def test_mutant_without_a_part_of_it_is_caught(tmp_path, monkeypatch, part):
    mutants = {
        '_drop_former': (checkpointing.links, lambda *arguments: None),
        'refresh': (checkpointing.links, lambda *arguments: {}),
        'removable': (checkpointing.manager, lambda *arguments: []),
        'pinned': (checkpointing.retention, lambda files: set()),
    }
    module, mutant = mutants[part]
    monkeypatch.setattr(module, part, mutant)
    with pytest.raises(AssertionError):
        check_sequences(tmp_path, range(1_000))


def test_no_template_costs_a_checkpoint(tmp_path):
    made = checkpoints(tmp_path, policy=Policy(best_name='{name}'))
    for step, metric in enumerate((3.0, 2.0, 1.0)):
        made.save({f'epoch-0-iter-{step}': 'interval'}, Point(step, 0, {'valid_loss': metric}), content(step, False))
        assert made.settle()
    assert [(tmp_path / f'epoch-0-iter-{step}.pth').exists() for step in range(3)] == [True, True, True]
