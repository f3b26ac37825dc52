"""What validation measures, and --monitor, which says by what of it a run's best checkpoint is chosen."""

from pathlib import Path

import pytest
import torch
from support import sabotage
from support.runs import flags, record

import train_base
import train_refine
from checkpointing.record import read_records
from checkpointing.retention import Policy
from dataset.augmentation import Composite
from metrics import matting as metrics
from training.validation import Prediction

RUN = Path('checkpoint/run')
CHEAP = {'valid_loss', 'valid_sad', 'valid_mse', 'valid_mad', 'valid_grad', 'valid_fg_mse'}


@pytest.fixture
def tiny(in_tmp, monkeypatch):
    """The script trains a small network."""
    sabotage.tiny(monkeypatch.setattr)


def test_a_batch_has_the_mean_of_its_pictures_as_papers_print_it():
    torch.manual_seed(0)
    pha, true_pha, fgr, true_fgr = (torch.rand(2, channels, 12, 16) for channels in (1, 1, 3, 3))
    true_pha[1] = 0
    true = Composite(src=fgr, bgr=fgr, pha=true_pha, fgr=true_fgr)
    scores = Prediction({'total': torch.tensor(0.25)}, pha, fgr, {}, true).scores(connectivity=True)
    factors = {'sad': 1e-3, 'mse': 1e3, 'mad': 1e3, 'grad': 1, 'conn': 1}
    for name, factor in factors.items():
        assert scores[name].item() == pytest.approx(getattr(metrics, name)(pha, true_pha).mean().item() * factor)
    # The second picture has no subject, and so no foreground that could be wrong.
    first = ((fgr[0] - true_fgr[0])[:, true_pha[0, 0] > 0] ** 2).mean().item()
    assert scores['fg_mse'].item() == pytest.approx(1e3 * first / 2)
    assert scores.keys() == {'loss', 'fg_mse', *factors}
    assert scores['loss'] == 0.25


def test_a_foreground_that_is_not_a_number_is_never_the_best():
    ones = torch.ones(2, 3, 4, 4)
    true = Composite(src=ones, bgr=ones, pha=ones[:, :1], fgr=ones)
    scores = Prediction({'total': ones.mean()}, ones[:, :1], ones * float('nan'), {}, true).scores()
    assert scores['fg_mse'].isnan()


@pytest.mark.parametrize('script', [train_base, train_refine])
@pytest.mark.parametrize(
    ('typed', 'name'),
    [('sad', 'valid_sad'), ('valid_sad', 'valid_sad'), ('ema_fg_mse', 'valid_ema_fg_mse'),
     ('valid_ema_loss', 'valid_ema_loss'), (None, None)],
)  # fmt: skip
def test_a_metric_is_named_with_or_without_its_prefix(script, typed, name):
    begin = {'from_scratch': True} if script is train_refine else {}
    assert script.parse(flags('run', monitor=typed, **begin)).monitor == name


def test_connectivity_is_measured_where_it_decides_and_only_there(tiny):
    words = {'ema_decay': 0.9, 'checkpoint_interval': 1, 'log_valid_interval': 1, 'max_steps': 2, 'epoch_end': 1}
    assert train_base.main(flags('run', monitor='ema_conn', **words)) == 0
    both = CHEAP | {'valid_conn'}
    assert record(RUN, 'epoch-0-iter-1')['metrics'].keys() == both | {f'valid_ema_{name[6:]}' for name in both}
    best = min(read_records(RUN), key=lambda r: (r.metrics['valid_ema_conn'], r.step))
    assert (RUN / 'best.pth').samefile(RUN / f'{best.name}.ema.pth')
    assert Policy.from_options(best.options).monitor == 'valid_ema_conn'
    assert train_base.main(flags('other', **words)) == 0
    assert not any('conn' in name for name in record('checkpoint/other', 'epoch-0-iter-1')['metrics'])


def test_a_run_whose_records_know_fewer_metrics_goes_on(tiny, monkeypatch, capsys):
    words = {'checkpoint_interval': 1, 'log_valid_interval': 1, 'epoch_end': 1, 'model_last_checkpoint': 'auto'}
    full = Prediction.scores
    with monkeypatch.context() as patched:
        patched.setattr(Prediction, 'scores', lambda *given: {k: full(*given)[k] for k in ('loss', 'sad', 'mse')})
        assert train_base.main(flags('run', max_steps=2, **words)) == 0
    assert record(RUN, 'epoch-0-iter-1')['metrics'].keys() == {'valid_loss', 'valid_sad', 'valid_mse'}
    # What the old ones do not know cannot make them the best, and does not make them superfluous.
    assert train_base.main(flags('run', monitor='grad', **words)) == 0
    assert 'continuing this run from epoch-0-iter-1.pth' in capsys.readouterr().out
    assert {r.step for r in read_records(RUN)} == {0, 1, 2}
    assert (RUN / 'best.pth').samefile(RUN / 'epoch-0.pth')
    assert record(RUN, 'epoch-0')['metrics'].keys() == CHEAP


def test_names_of_the_best_pass_over_records_that_lack_what_is_named(tiny, monkeypatch, caplog):
    words = {'checkpoint_interval': 1, 'log_valid_interval': 1, 'epoch_end': 1, 'model_last_checkpoint': 'auto'}
    full = Prediction.scores
    with monkeypatch.context() as patched:
        patched.setattr(Prediction, 'scores', lambda *given: {'loss': full(*given)['loss']})
        assert train_base.main(flags('run', max_steps=2, **words)) == 0
    named = flags('run', checkpoint_best=3, checkpoint_keep=1, checkpoint_best_name='grad-{valid_grad:.1f}', **words)
    assert train_base.main(named) == 0
    assert 'could not tidy up' not in caplog.text
    known = next(r for r in read_records(RUN) if 'valid_grad' in r.metrics)
    links = list(RUN.glob('grad-*.pth'))
    assert [link.name for link in links] == [f'grad-{known.metrics["valid_grad"]:.1f}.pth']
    assert links[0].samefile(RUN / known.files['weights'].name)
