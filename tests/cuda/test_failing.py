"""A GPU without enough memory: the last whole step is saved, a line says what helps, and the run goes on from there."""

import os
import subprocess
import sys

import pytest
import torch
from support import small_run
from support.runs import ROOT, assert_same, flags
from support.simulated_cuda import simulated_cuda
from support.small_run import finish, make_run

from checkpointing.record import read_records
from checkpointing.resume import decide
from common import devices
from training.loop import TrainingStopped
from training.meters import BadSteps

GPU = torch.device('cuda', 0)
FULL = 'CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB of which a page is said'
PLACES = {
    'forward': (small_run.Net, 'forward'), 'backward': (torch.Tensor, 'backward'), 'note': (BadSteps, 'note'),
    'optimizer': (torch.optim.Adam, 'step'),
}  # fmt: skip


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    return finish(make_run(tmp_path_factory.mktemp('uninterrupted'), seed=0))


@pytest.mark.parametrize('place', PLACES)
def test_a_full_gpu_costs_the_step_and_the_run_goes_on(tmp_path, monkeypatch, uninterrupted, place):
    with simulated_cuda():
        run = make_run(tmp_path, seed=0, interval=100, device=GPU)
        owner, name = PLACES[place]
        real = getattr(owner, name)

        def full(*arguments, **more):
            if run.state.progress.step < 5:
                return real(*arguments, **more)
            if place == 'note':  # as late as it can come
                real(*arguments, **more)
            # The rest of the step's memory is what the error leaves; a save must not ask for more.
            patch.setattr(torch, 'cat', no_room)
            raise torch.OutOfMemoryError(FULL)

        def no_room(*_, **__):
            raise torch.OutOfMemoryError(FULL)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(TrainingStopped) as stopped:
                finish(run)
        (line,) = str(stopped.value).splitlines()
        assert line.startswith(
            'too little memory: lower --batch-size (--accumulate makes up for it) or --train-resolution '
            '(CUDA out of memory. Tried to allocate 2.00 GiB; at most '
        )
        assert 'step 4 is saved: go on with --model-last-checkpoint auto' in line
        assert [record.step for record in read_records(tmp_path)] == [4]
        resume = decide('auto', tmp_path, 'base', {})
        again = make_run(tmp_path, seed=1, interval=100, device=GPU)
        again.state.load_state_dict(resume.content.state, resume.content.weights, resume.content.ema)
        again.resumed = resume.record
        for step, content in finish(again).items():
            assert_same(vars(content), vars(uninterrupted[step]), f'step {step}')


@pytest.mark.parametrize('names', [(), ('PYTORCH_ALLOC_CONF',), ('PYTORCH_CUDA_ALLOC_CONF',)])
def test_the_allocator_keeps_what_a_user_has_set(monkeypatch, names):
    for name in ('PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF'):
        monkeypatch.delenv(name, raising=False)
    for name in names:
        monkeypatch.setenv(name, 'max_split_size_mb:64')
    monkeypatch.setattr(sys, 'platform', 'linux')
    devices.expand_segments()
    found = {name: os.environ[name] for name in os.environ if name.endswith('_ALLOC_CONF')}
    expected = dict.fromkeys(names, 'max_split_size_mb:64')
    assert found == (expected or {'PYTORCH_CUDA_ALLOC_CONF': 'expandable_segments:True'})


def test_a_training_sets_the_allocator_up_before_torch_is_imported():
    program = (
        'import sys, os, training.options as o\n'
        'def seen():\n'
        '    assert "torch.cuda" not in sys.modules, "too late"\n'
        '    print("set up")\n'
        'o.expand_segments = seen\n'
        'sys.modules["training.stage"] = None\n'
        'import train_base\n'
        'train_base.main(sys.argv[1:])\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', program, *flags('a')], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == 'set up\n', done.stderr
