"""A resumed run is the uninterrupted one: at any step, with any number of workers, in every part of its state."""

import copy
import shutil
import signal
from collections import OrderedDict

import pytest
import torch
from support.runs import FULL, FULL_STEPS, assert_same, assert_same_curves, assert_same_run, flags, server, whole
from support.small_run import CUT, END, finish, make_run
from torch import nn

from training.state import TrainingState, make_scaler

TINY = ('tiny',)
EXTRA = {f'epoch-{step // 3}-iter-{step}' for step in range(FULL_STEPS)}


def cut_and_go_on(folder, cuts, workers, *sabotage, **changed):
    """Cuts a run of FULL after each of these steps, with so many workers in each part, and lets it end."""
    for i, count in enumerate(workers):
        words = flags('cut', **{**FULL, **changed, 'num_workers': count, 'model_last_checkpoint': 'auto'})
        stop, expected = [], 0
        if i < len(cuts) and i % 2 == 0:
            stop, expected = [['signal_at', cuts[i], signal.SIGTERM]], 143
        elif i < len(cuts):
            # A step later, with a checkpoint of this one that was due for its age.
            words += ['--checkpoint-minutes', '1e-9']
            stop, expected = [['signal_at', cuts[i] + 1, signal.SIGKILL]], -signal.SIGKILL
        code, text = server().run(folder, words, *sabotage, *stop)
        assert code == expected, text
        if i:
            assert f': step {cuts[i - 1]}, epoch {cuts[i - 1] // 3}' in text


def assert_equals_whole(folder, *sabotage):
    expected = whole(*sabotage)
    # Steps at which it was cut are among the newest two as well.
    assert_same_run(expected / 'checkpoint/whole', folder / 'checkpoint/cut', EXTRA, {'epoch-1-iter-3'})
    assert_same_curves(expected / 'log/whole', folder / 'log/cut', FULL_STEPS)


def test_cut_three_times_twice_in_an_epoch_it_ends_as_the_uninterrupted_one(tmp_path):
    cut_and_go_on(tmp_path, [1, 2, 4], [0, 1, 4, 0], TINY)
    assert_equals_whole(tmp_path, TINY)


@pytest.mark.slow
@pytest.mark.parametrize('step', range(1, FULL_STEPS))
@pytest.mark.parametrize('workers', [(0, 4), (1, 0), (4, 1)])
def test_cut_at_any_step_it_ends_as_the_uninterrupted_one(tmp_path, step, workers):
    cut_and_go_on(tmp_path, [step], workers)
    assert_equals_whole(tmp_path)


@pytest.mark.parametrize('cuts', [(2, 4, 7), pytest.param(range(1, 8), marks=pytest.mark.slow)], ids=['some', 'all'])
def test_cut_in_epochs_of_uneven_steps_it_ends_as_the_uninterrupted_one(tmp_path, cuts):
    # 13 samples in steps of at most 5 are 4, 4 and 5; three epochs.
    ragged = {'synthetic_size': 13, 'batch_size': 5, 'accumulate': 1, 'epoch_end': 3, 'num_workers': 0}
    cut_and_go_on(tmp_path, cuts, [0] * (len(cuts) + 1), TINY, **ragged)
    expected = whole(TINY, **ragged)
    extra = {f'epoch-{step // 3}-iter-{step}' for step in range(9)}
    assert_same_run(expected / 'checkpoint/whole', tmp_path / 'checkpoint/cut', extra, {'epoch-2-iter-7'})
    assert_same_curves(expected / 'log/whole', tmp_path / 'log/cut', 9)


@pytest.mark.slow
def test_on_an_empty_machine_it_goes_on_from_its_mirror_and_ends_as_the_uninterrupted_one(tmp_path):
    url = 'file://user:S3cr3t@/store'  # to fsspec a folder of that name
    (tmp_path / 'user:S3cr3t@/store').mkdir(parents=True)
    words = flags('cut', **FULL, model_last_checkpoint='auto', checkpoint_mirror=url)
    code, text = server().run(tmp_path, words, TINY, ['signal_at', 4, signal.SIGTERM])
    assert code == 143, text
    assert '\nsafe: the mirror file://***@/store/cut holds step 3\n' in text
    # Nobody reads the password, not even in the line that goes on.
    written = [path.read_bytes() for path in (tmp_path / 'checkpoint/cut').glob('*.json')]
    assert not any(b'S3cr3t' in data for data in (*written, text.encode()))
    assert '--checkpoint-mirror ' in text
    shutil.rmtree(tmp_path / 'checkpoint')
    shutil.rmtree(tmp_path / 'log')
    code, text = server().run(tmp_path, words, TINY)
    assert code == 0, text
    assert ': step 4, epoch 1' in text
    assert_equals_whole(tmp_path, TINY)


def killed_between_checkpoints(folder, *sabotage):
    """Kills a run after it has logged a step that no checkpoint holds, and lets it end."""
    words = flags('cut', **FULL, model_last_checkpoint='auto')
    assert server().run(folder, words, TINY, ['signal_at', 6, signal.SIGKILL])[0] == -signal.SIGKILL
    code, text = server().run(folder, words, TINY, *sabotage)
    assert code == 0, text
    assert ': step 4, epoch 1' in text


def test_steps_that_were_logged_and_not_saved_are_shown_once(tmp_path):
    killed_between_checkpoints(tmp_path)
    assert_equals_whole(tmp_path, TINY)


@pytest.mark.slow
@pytest.mark.parametrize(('mutant', 'seen_in'), [('forget_moments', 'epoch-1'), ('forget_purge', 'loss')])
def test_these_proofs_see_a_run_that_forgets(tmp_path, mutant, seen_in):
    killed_between_checkpoints(tmp_path, [mutant])
    with pytest.raises(AssertionError, match=seen_in):
        assert_equals_whole(tmp_path, TINY)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    return finish(make_run(tmp_path_factory.mktemp('uninterrupted'), seed=0))


def check_resumed_equals_uninterrupted(folder, uninterrupted, cut=CUT, forget=lambda content: None):
    """Goes on once so many steps are done, and compares all that is saved from then on.

    Args:
        folder: for the checkpoints.
        uninterrupted: content by step.
        cut: steps that are done.
        forget: changes the content that is resumed from.
    """
    content = copy.deepcopy(uninterrupted[cut - 1])
    forget(content)
    given = copy.deepcopy(content)
    run = make_run(folder, seed=1)
    run.state.load_state_dict(content.state, content.weights, content.ema)
    resumed = finish(run)
    assert_same(vars(content), vars(given), 'what was given')
    for step in range(cut, END):
        assert_same(vars(resumed[step]), vars(uninterrupted[step]), f'step {step}')


def test_the_steps_of_this_proof_do_what_they_are_for(uninterrupted):
    scales = [uninterrupted[step].state['scaler']['scale'] / 2.0**120 for step in range(END)]
    assert scales == [1, 2, 1, 0.5, 0.25, 0.25, 0.5, 0.5, 1]
    progress = [uninterrupted[step].state['progress']['skipped_in_a_row'] for step in range(END)]
    assert progress == [0, 0, 0, 1, 2, 0, 0, 0, 0]


def test_resumed_at_any_step_equals_uninterrupted_with_a_dynamic_loss_scale(tmp_path, uninterrupted):
    for cut in range(1, END):
        check_resumed_equals_uninterrupted(tmp_path / f'{cut}', uninterrupted, cut)


def fill(moment, value=0.0, names=None):
    """Forgets a moment of some parameters, or of all."""

    def forget(content):
        for name in names or content.state['optimizer']:
            content.state['optimizer'][name][moment].fill_(value)

    return forget


def forget_buffers(name, value):
    def forget(content):
        content.weights[name].fill_(value)

    return forget


@pytest.mark.parametrize(
    'forget',
    {
        'all moments': lambda c: c.state['optimizer'].clear(),
        'a single moment': fill('exp_avg', names=['norm.bias']),
        'first moments': fill('exp_avg'),
        'second moments': fill('exp_avg_sq'),
        'step counters': fill('step'),
        'scaler': lambda c: c.state['scaler'].clear(),
        'average': lambda c: c.ema.update(copy.deepcopy(c.weights)),
        'updates of the average': lambda c: c.state.update(ema_updates=0),
        'bad steps': lambda c: c.state['progress'].update(skipped=0),
        'bad steps in a row': lambda c: c.state['progress'].update(skipped_in_a_row=0),
        'step': lambda c: c.state['progress'].update(step=CUT - 1),
        'running mean': forget_buffers('norm.running_mean', 0.0),
        'running variance': forget_buffers('norm.running_var', 1.0),
        'batches tracked': forget_buffers('norm.num_batches_tracked', 0),
        'a weight': forget_buffers('last.bias', 0.0),
    }.items(),
    ids=lambda item: item[0],
)
def test_leaving_out_a_part_of_the_state_is_seen(tmp_path, uninterrupted, forget):
    with pytest.raises(AssertionError, match=r'step [4-8]'):
        check_resumed_equals_uninterrupted(tmp_path, uninterrupted, forget=forget[1])


def test_leaving_out_the_scaler_changes_weights_once_a_step_overflows(tmp_path, uninterrupted):
    content = copy.deepcopy(uninterrupted[CUT - 1])
    run = make_run(tmp_path, seed=1)
    run.state.load_state_dict({**content.state, 'scaler': {}}, content.weights, content.ema)
    resumed = finish(run)
    assert_same(resumed[6].weights, uninterrupted[6].weights)
    assert not torch.equal(resumed[7].weights['first.weight'], uninterrupted[7].weights['first.weight'])


def test_leaving_out_the_growth_of_the_scale_is_seen(tmp_path, uninterrupted):
    def forget(content):
        content.state['scaler']['_growth_tracker'] = 0

    with pytest.raises(AssertionError, match='step 1'):
        check_resumed_equals_uninterrupted(tmp_path, uninterrupted, cut=1, forget=forget)


def layers(*names):
    torch.manual_seed(0)
    module = nn.Sequential(OrderedDict((name, nn.Linear(3, 3)) for name in names))
    optimizer = torch.optim.Adam([{'params': list(module.parameters()), 'lr': 0.1, 'name': 'all'}])
    return TrainingState(module, optimizer, make_scaler(torch.device('cpu'), torch.float32))


def test_momentum_follows_a_layers_name_and_not_its_position():
    before, after = layers('a', 'b'), layers('b', 'a')
    for _ in range(2):
        before.module(torch.ones(2, 3)).square().sum().backward()
        before.optimizer.step()
    after.load_state_dict(before.state_dict(), before.weights())
    for name, parameter in after.module.named_parameters():
        original = before.module.get_parameter(name)
        for moment in ('exp_avg', 'exp_avg_sq', 'step'):
            assert torch.equal(after.optimizer.state[parameter][moment], before.optimizer.state[original][moment])
    moments = [after.optimizer.state[p]['exp_avg'] for p in (after.module.a.weight, after.module.b.weight)]
    assert not torch.equal(*moments)


def test_loading_does_not_keep_the_callers_tensors():
    source = layers('a')
    source.module(torch.ones(2, 3)).square().sum().backward()
    source.optimizer.step()
    state, weights = copy.deepcopy(source.state_dict()), copy.deepcopy(source.weights())
    given = copy.deepcopy((state, weights))
    loaded = layers('a')
    loaded.load_state_dict(state, weights)
    for _ in range(3):
        loaded.module(torch.ones(2, 3)).square().sum().backward()
        loaded.optimizer.step()
    for now, then in zip((state, weights), given):
        assert_same(now, then)
    assert not torch.equal(loaded.module.a.weight, weights['a.weight'])
