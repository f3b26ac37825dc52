"""Whole runs of the training scripts on a GPU: validation, saving, resume, loaders, a dry run, the second GPU."""

from pathlib import Path

import pytest
import torch
from support import sabotage
from support.gpu_runs import SCRIPTS, begun, gpu, gpus, trained, words
from support.runs import assert_same_run, load, names

from training import loop
from training.validation import validate

__all__ = ['gpu', 'gpus']
WHOLE = Path('checkpoint/whole')
# Two epochs of two steps.
FULL = {
    'synthetic_size': 8, 'accumulate': 2, 'max_steps': 4, 'log_valid_interval': 2, 'num_workers': 1,
    'precision': 'float16', 'checkpoint_keep': 5, 'checkpoint_keep_states': 5,
}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """The scripts train a network of a few layers on pictures that are quickly drawn."""
    sabotage.tiny(monkeypatch.setattr)


@pytest.fixture
def impatient(gpu, tiny, monkeypatch):
    """A step that waits is an error; what steps copied is collected."""
    step, copies = loop._train_step, {}

    def strict(*arguments):
        gpu.copies.clear()
        with gpu.forbid_waits():
            result = step(*arguments)
        copies.update(gpu.copies)
        return result

    monkeypatch.setattr(loop, '_train_step', strict)
    return copies


def train(**changed):
    assert SCRIPTS['base'].main(words('base', **{**FULL, **changed})) == 0


def test_a_resumed_run_is_the_uninterrupted_one(impatient):
    train(name='whole')
    train(name='cut', max_steps=1)
    train(name='cut', model_last_checkpoint='auto')
    assert {'epoch-1.pth', 'epoch-1.ema.pth', 'epoch-1.state.pth'} <= set(names(WHOLE))
    assert load(WHOLE / 'epoch-1.state.pth')['scaler']['scale'] > 0
    assert_same_run(WHOLE, Path('checkpoint/cut'), extra={'epoch-0-iter-0'})
    assert set(impatient) == {('H2D', True, True)}


def test_what_a_run_saves_is_not_of_a_gpu(gpu, tiny):
    train(name='whole', max_steps=2)
    assert 'epoch-0.state.pth' in names(WHOLE)
    assert not [kind for kind, *_ in gpu.copies if kind == 'D2H save']


def test_a_validation_waits_once_a_batch(gpu):
    run = begun('refine', valid_samples=4)
    gpu.clear()
    scores = validate(run.state.module, run.valid_batches, run.step, run.ranks, run.dtype)
    assert scores.keys() >= {'loss', 'sad', 'grad', 'fg_mse'}
    assert sum(gpu.waits.values()) == len(run.valid_batches) == 2
    assert ('H2D', True, True) in gpu.copies


def test_a_dry_run_leaves_nothing(gpu, tiny, capsys):
    train(dry_run=True)
    assert ' GB of 8.59 GB, at that crop' in capsys.readouterr().out
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize('current', [0, 1])
def test_a_rank_on_the_second_gpu_leaves_the_first_alone(gpus, current):
    torch.cuda.set_device(current)  # 1 as `join_ranks` does it for the second rank
    gpus.clear()
    results = trained(begun('base', device='cuda:1', max_steps=1, num_workers=1))
    assert results[0].losses['total'].device == torch.device('cuda:1')
    assert (gpus.contexts == {1}) == (current == 1)
