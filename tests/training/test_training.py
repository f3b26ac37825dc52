"""The real scripts on small drawn data: train, stop, go on, refine, and every refusal."""

from pathlib import Path

import pytest
import torch
from support import sabotage
from support.runs import assert_same, curve, flags, load, names, train_in
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_base
import train_refine
from training.schedule import learning_rate_factor
from training.settings import changes_since


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a whole base run of 6 steps, all features on, in checkpoint/whole."""
    everything = {'ema_decay': 0.9, 'clip_grad': 1, 'warmup_steps': 2, 'lr_schedule': 'cosine', 'accumulate': 2}
    words = flags('whole', log_train_images_interval=2, **everything)
    return train_in(tmp_path_factory.mktemp('trained'), words)


@pytest.fixture
def in_trained(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def test_published_file_names_and_contents(in_trained):
    # 12 samples in steps of 2 x 4 are 2 steps an epoch, and the interval of 2 falls on the epochs' ends.
    weights = [n for n in names('checkpoint/whole') if n.startswith('epoch') and n.count('.') == 1 and 'pth' in n]
    assert weights == ['epoch-0-iter-1.pth', 'epoch-0.pth', 'epoch-1-iter-3.pth', 'epoch-1.pth']
    state = load('checkpoint/whole/epoch-1.pth')
    assert len(state) == 362
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    averaged = load('checkpoint/whole/epoch-1.ema.pth')
    assert averaged.keys() == state.keys()
    assert not torch.equal(averaged['decoder.conv4.weight'], state['decoder.conv4.weight'])


def test_tensorboard_has_what_is_promised(in_trained):
    tags = EventAccumulator('log/whole').Reload().Tags()
    assert {
        'loss', 'loss_terms/pha', 'loss_terms/pha_sobel', 'loss_terms/fgr', 'loss_terms/err', 'learning_rate/backbone',
        'samples_per_second', 'waiting_for_data', 'valid_loss', 'valid_sad', 'valid_mse', 'valid_mad',
        'valid_grad', 'valid_fg_mse', 'valid_ema_loss', 'valid_ema_sad',
    } <= set(tags['scalars'])  # fmt: skip
    assert set(tags['images']) == {
        'train_pred_pha', 'train_pred_fgr', 'train_pred_com', 'train_pred_err', 'train_true_src', 'train_true_bgr',
        'valid_samples',
    }  # fmt: skip
    rates = [value for _, value in curve('whole', 'learning_rate/decoder')]
    assert rates[0] == pytest.approx(5e-4 / 2)
    assert rates[1] == pytest.approx(5e-4)
    assert rates[3] < rates[2]


def test_max_steps_ends_with_a_checkpoint_at_that_step(in_tmp, capsys):
    assert train_base.main(flags('run', max_steps=4)) == 0
    assert {'epoch-0-iter-1.pth', 'epoch-0.pth', 'epoch-1-iter-3.pth', 'best.pth', 'last.pth'} <= set(
        names('checkpoint/run')
    )
    assert load('checkpoint/run/epoch-1-iter-3.state.pth')['progress']['step'] == 4
    assert train_base.main(flags('run', max_steps=4, model_last_checkpoint='must')) == 0
    assert 'nothing to do: 4 steps are done' in capsys.readouterr().out


def test_refine_starts_from_base_and_says_so(in_trained, capsys):
    refiner = {'model_refine_sample_pixels': 320, 'model_refine_kernel_size': 3, 'model_refine_thresholding': 0.5}
    arguments = flags('refined', model_last_checkpoint='checkpoint/whole/epoch-1.pth', max_steps=2, **refiner)
    assert train_refine.main(arguments) == 0
    out = capsys.readouterr().out
    assert 'new run with weights from checkpoint/whole/epoch-1.pth' in out
    assert '362 of 382 tensors, 99.7 % of the parameters; missing: refiner.conv1.weight' in out
    assert len(load('checkpoint/refined/epoch-0-iter-1.pth')) == 382
    arguments[arguments.index('checkpoint/whole/epoch-1.pth')] = 'checkpoint/refined/epoch-0-iter-1.pth'
    arguments[arguments.index('--max-steps') + 1] = '3'
    assert train_refine.main(arguments) == 0
    assert 'continuing this run from epoch-0-iter-1.pth: step 2, epoch 0' in capsys.readouterr().out


def test_epoch_start_for_weights_from_elsewhere(in_trained, capsys):
    arguments = flags('later', model_last_checkpoint='checkpoint/whole/epoch-0.pth', epoch_start=4, epoch_end=5)
    assert train_base.main(arguments) == 0
    assert 'epoch-4.pth' in names('checkpoint/later')
    assert 'steps 12 to 15' in capsys.readouterr().out


def test_epoch_start_that_contradicts_is_refused_with_both_numbers(in_tmp, capsys):
    assert train_base.main(flags('run', max_steps=4)) == 0
    last = 'checkpoint/run/epoch-1-iter-3.pth'
    assert train_base.main(flags('run', model_last_checkpoint=last, epoch_start=0)) == 2
    assert '--epoch-start 0: epoch-1-iter-3.pth goes on in epoch 1' in capsys.readouterr().err
    assert train_base.main(flags('run', model_last_checkpoint='auto', epoch_start=0, max_steps=5)) == 0


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'batch_size': 6}, 'samples of a step: 4 in the checkpoint, 6 now'),
        ({'synthetic_size': 20}, 'pictures: [12, 12] in the checkpoint, [20, 20] now'),
        ({'model_backbone': 'resnet50'}, "backbone: 'mobilenetv2' in the checkpoint, 'resnet50' now"),
        ({'valid_samples': 3}, 'validation: [2, 2, 2] in the checkpoint, [3, 3, 3] now'),
        ({'seed': 1}, 'seed: 0 in the checkpoint, 1 now'),
    ],
)
def test_changing_what_identifies_a_run_is_refused(in_tmp, capsys, changed, message):
    assert train_base.main(flags('run', max_steps=1)) == 0
    assert train_base.main(flags('run', model_last_checkpoint='auto', **changed)) == 2
    assert message in capsys.readouterr().err


def test_what_changed_since_the_checkpoint_is_said_with_what_it_means(in_tmp, capsys, monkeypatch):
    sabotage.tiny(monkeypatch.setattr)
    cosine = {'lr_schedule': 'cosine', 'precision': 'float32', 'model_last_checkpoint': 'auto'}
    assert train_base.main(flags('run', **cosine, max_steps=3)) == 0
    assert train_base.main(flags('run', **cosine, max_steps=4, num_workers=1, checkpoint_keep=2)) == 0
    changed = {'learning_rate_scale': 10, 'clip_grad': 1, 'precision': 'bfloat16', 'monitor': 'sad', 'warmup_steps': 2}
    changed['crop_multiple'] = 16
    assert train_base.main(flags('run', **{**cosine, **changed}, max_steps=5)) == 0
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if line.startswith('changed since')]
    assert said == [
        # The factor of cosine is (1 + cos(pi * step / end)) / 2; at 3 of 3 steps it is 0, at 3 of 4 0.146.
        'changed since epoch-0, from step 3 on: --max-steps 3 -> 4, factor of the learning rates 0 -> 0.146',
        'changed since epoch-1-iter-3, from step 4 on: '
        '--learning-rate-scale 1.0 -> 10.0 (multiplies all learning rates), --warmup-steps 0 -> 2, '
        '--max-steps 4 -> 5, --clip-grad none -> 1.0 (the largest steps have another length), '
        '--crop-multiple 8 -> 16 (crops have other sizes), '
        '--precision float32 -> bfloat16 (losses may shift by rounding), '
        '--monitor valid_loss -> valid_sad (best.pth is chosen by it, among the checkpoints that have it), '
        'factor of the learning rates 0 -> 0.25',
    ]
    first_step = next(i for i, line in enumerate(lines) if line.startswith('step 4 of 4'))
    assert lines.index(said[0]) < first_step < lines.index(said[1])


@pytest.mark.parametrize(
    ('before', 'changed', 'said'),
    [
        ({}, {'num_workers': 9, 'device': 'cuda', 'checkpoint_keep': 2, 'compile': True, 'model_name': 'b'}, ''),
        ({}, {'epoch_end': 9, 'max_steps': 3}, ''),
        ({'precision': 'auto'}, {'precision': 'float32'}, ''),
        ({'lr_schedule': 'cosine'}, {'lr_schedule': 'constant'}, '--lr-schedule cosine -> constant, factor of the'),
        ({'batch_size': 2, 'accumulate': 4}, {'batch_size': 8, 'accumulate': 1}, '--batch-size 2 -> 8 (BatchNorm sees'),
    ],
)
def test_only_what_bends_a_curve_is_said(before, changed, said):
    options = vars(train_base.parse(flags('run')))
    found = changes_since({**options, **before}, {**options, **changed}, lambda options: 1.0)
    assert found.startswith(said)
    assert bool(found) == bool(said)
    assert changes_since({}, {**options, **changed}, lambda options: 1.0) == ''


def test_a_run_is_never_written_over(in_tmp, capsys):
    assert train_base.main(flags('run', max_steps=1)) == 0
    before = Path('checkpoint/run/epoch-0-iter-0.pth').read_bytes()
    assert train_base.main(flags('run', max_steps=1)) == 2
    assert 'already holds epoch-0-iter-0.pth of another run' in capsys.readouterr().err
    assert Path('checkpoint/run/epoch-0-iter-0.pth').read_bytes() == before


@pytest.mark.parametrize(
    ('script', 'changed', 'messages'),
    [
        (train_base, {'batch_size': 1}, ['--batch-size 1: must be at least 2']),
        (train_base, {'learning_rate_scale': 0, 'clip_grad': -1, 'ema_decay': 1},
         ['3 problems', '--learning-rate-scale 0', '--clip-grad -1', '--ema-decay 1']),
        (train_base, {'epoch_start': 2}, ['--epoch-start 2: must be below --epoch-end 2']),
        (train_base, {'model_name': 'a/b'}, ["--model-name 'a/b'"]),
        (train_base, {'model_last_checkpoint': 'no.pth'}, ['--model-last-checkpoint no.pth: no such file']),
        (train_base, {'model_last_checkpoint': 'must'}, ['--model-last-checkpoint must: checkpoint/run holds nothing']),
        (train_base, {'model_last_checkpoint': 'must', 'model_start_weights': 'no.pth'},
         ['--model-start-weights no.pth: "must" never starts a run']),
        (train_base, {'model_pretrain_initialization': 'no.pth'}, ['--model-pretrain-initialization no.pth']),
        (train_base, {'dataset_name': 'mine'}, ['--data-config data_path.toml: no such file']),
        (train_base, {'precision': 'float16'}, ['--precision float16: needs a GPU']),
        (train_base, {'monitor': 'iou'},
         ['--monitor valid_iou: not one of valid_fg_mse, valid_grad, valid_loss, valid_mad, valid_mse, valid_sad\n']),
        (train_base, {'batch_size': 3, 'accumulate': 4, 'synthetic_size': 13},
         ['some batches have 6 samples, and at least 8 are needed']),
        (train_base, {'monitor_threshold': 'nan'}, ['--monitor-threshold nan: must be a finite number']),
        (train_base, {'crop_multiple': 0}, ['--crop-multiple 0: must be at least 1\n']),
        (train_base, {'crop_multiple': 33},
         ['--crop-multiple 33: must be at most half of --train-resolution, 32\n']),
        (train_refine, {'crop_multiple': 6},
         ['--crop-multiple 6: must be a multiple of 4 and at most half of --train-resolution, 32\n']),
        (train_refine, {'model_backbone_scale': 0.8}, ['--model-backbone-scale 0.8']),
        (train_refine, {'model_refine_sample_pixels': 3}, ['--model-refine-sample-pixels 3']),
        (train_refine, {'model_refine_threshold': 7}, ['--model-refine-threshold 7.0']),
    ],
)  # fmt: skip
def test_bad_flags_are_named_before_anything_is_written(in_tmp, capsys, script, changed, messages):
    assert script.main(flags('run', **changed)) == 2
    err = capsys.readouterr().err
    assert 'Traceback' not in err
    for message in messages:
        assert message in err
    assert not Path('checkpoint').exists()


def test_ten_steps_without_a_finite_loss_stop_the_run_and_change_nothing(in_tmp, capsys, monkeypatch):
    import training.losses

    sabotage.tiny(monkeypatch.setattr)

    real = training.losses.base_loss

    def infinite(*tensors):
        terms = real(*tensors)
        return {**terms, 'total': terms['total'] + float('inf')}

    assert train_base.main(flags('run', max_steps=2)) == 0
    monkeypatch.setattr(training.losses, 'base_loss', infinite)
    assert train_base.main(flags('run', model_last_checkpoint='auto', epoch_end=9, checkpoint_interval=5)) == 1
    err = capsys.readouterr().err
    assert '10 steps in a row without a finite loss or gradient, the last on' in err
    assert 'step 11 is saved' in err
    before, after = load('checkpoint/run/epoch-0-iter-1.pth'), load('checkpoint/run/epoch-3-iter-11.pth')
    assert_same(before, after)
    progress = load('checkpoint/run/epoch-3-iter-11.state.pth')['progress']
    assert (progress['skipped'], progress['skipped_in_a_row']) == (10, 10)


def test_a_step_without_a_finite_loss_leaves_no_trace_in_the_averages_statistics():
    from training.meters import BadSteps
    from training.state import EMA, TrainingState, make_scaler

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    state = TrainingState(
        module, torch.optim.Adam(module.parameters()), make_scaler(torch.device('cpu'), torch.float32),
        EMA(module, 0.9),
    )  # fmt: skip
    bad_steps = BadSteps(state)
    module[1].running_mean.fill_(float('nan'))
    bad_steps.note(torch.tensor(1.0), torch.tensor(float('nan')))
    state.ema.update(module)
    for part in (module, state.ema.module):
        assert all(tensor.isfinite().all() for tensor in part.state_dict().values())


def test_damaged_weights_start_no_run(in_trained, capsys):
    damaged = bytearray(Path('checkpoint/whole/epoch-0.pth').read_bytes())
    damaged[len(damaged) // 2] ^= 1
    Path('damaged.pth').write_bytes(damaged)
    assert train_base.main(flags('from_damaged', model_last_checkpoint='damaged.pth')) == 2
    assert 'damaged.pth: damaged: ' in capsys.readouterr().err
    assert not Path('checkpoint/from_damaged').exists()


def test_learning_rate_schedules():
    assert [learning_rate_factor(s, 100, 'constant', 4) for s in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]
    cosine = [learning_rate_factor(s, 100, 'cosine', 0) for s in range(100)]
    assert cosine[0] == 1
    assert cosine[50] == pytest.approx(0.5)
    assert cosine == sorted(cosine, reverse=True)
    assert 0 < cosine[-1] < 1e-3


def test_three_saves_that_fail_stop_the_run(in_tmp, capsys, monkeypatch):
    from common.files import Disk

    def full(self, path):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Disk, 'create', full)
    assert train_base.main(flags('run', checkpoint_interval=1)) == 1
    captured = capsys.readouterr()
    assert captured.out.count('could not save') == 3
    assert '3 checkpoints in a row could not be saved' in captured.err


def test_the_average_survives_a_step_without_a_finite_loss():
    from training.state import EMA

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    average = EMA(module, 0.9)
    clean = {k: v.clone() for k, v in module.state_dict().items()}
    module[1].running_mean.fill_(float('nan'))
    average.update(module)
    module.load_state_dict(clean)
    with torch.no_grad():
        module[0].weight += 1
    for _ in range(200):
        average.update(module)
    state = average.module.state_dict()
    assert all(tensor.isfinite().all() for tensor in state.values())
    torch.testing.assert_close(state['0.weight'], module[0].weight.detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ('batch', 'count', 'device', 'world', 'fits'),
    [(4, 1001, 'cuda', 4, True), (4, 1000, 'cuda', 8, True), (8, 1001, 'cuda', 4, True), (4, 1001, 'cuda', 2, True),
     (4, 1001, 'cpu', 2, True), (4, 1000, 'cpu', 2, True), (2, 3, 'cpu', 1, False)],
)  # fmt: skip
def test_batches_that_batchnorm_can_learn_from(batch, count, device, world, fits):
    from training.data import open_data
    from training.distributed import Ranks
    from training.settings import TrainingSettings

    words = flags('run', batch_size=batch, synthetic_size=count, valid_samples=world)
    settings = TrainingSettings.from_options(vars(train_base.parse(words)))
    ranks = Ranks(torch.device(device), 0, world)
    if fits:
        assert open_data(settings.data, ranks, (0.4, 1), 1).plan.batch_size == batch
    else:
        with pytest.raises(ValueError, match='at least'):
            open_data(settings.data, ranks, (0.4, 1), 1)
