"""A training ends with what can be typed next: commands that the scripts take, with this run's names."""

import argparse
import importlib
import logging
import shlex
import sys
from pathlib import Path

import pytest
from support import sabotage
from support.runs import ROOT, flags

import train_base
import train_refine
from training.ending import tell_what_next


@pytest.fixture
def told(caplog):
    """Returns the commands that are told, split into words, for a script's command line and exit code."""
    caplog.set_level(logging.INFO)

    def tell(script, words, code=0, **more):
        parts = [f'["my data".{part}]\nfgr = "."\npha = "."' for part in ('train', 'valid')]
        Path('data_path.toml').write_text('\n'.join([*parts, '[backgrounds]', 'train = "."', 'valid = "."']))
        args = script.parse(words)
        vars(args).update(more)
        caplog.clear()
        tell_what_next(args, [script.__file__, *words], code)
        lines = caplog.text.splitlines()[1:]
        return [shlex.split(line) for line in lines]

    return tell


def weights(*names, folder='checkpoint/run'):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (Path(folder) / name).touch()


def parsed(line):
    """The script's namespace of a command line that was told."""
    script = importlib.import_module(Path(line[1]).stem)
    assert Path(line[1]) == Path(script.__file__)
    return script.parse(line[2:])


def test_a_base_run_is_followed_by_the_refine_stage(in_tmp, told):
    weights('best.pth', 'last.pth', folder='my runs/base')
    words = ['--dataset-name', 'synthetic', '--model-backbone=resnet50', '--model-name', 'base', '--num-workers', '1',
             '--checkpoint-dir', 'my runs', '--warmup-steps', '3']  # fmt: skip
    (line,) = told(train_base, words)
    args = parsed(line)
    assert (args.dataset_name, args.model_backbone, args.model_name) == ('synthetic', 'resnet50', 'refine')
    assert (args.model_last_checkpoint, args.model_start_weights) == ('auto', Path('my runs/base/best.pth'))
    assert (args.num_workers, args.checkpoint_dir, args.warmup_steps) == (1, Path('my runs'), 0)
    # The defaults of both stages belong together.
    assert (args.train_resolution, args.batch_size) == (2048, 4)


def test_the_refine_stage_of_a_small_base_run_is_small_too(in_tmp, told):
    weights('last.pth', folder='checkpoint/people')
    weights(folder='checkpoint/peoplerefine')
    words = flags('people', train_resolution=160, batch_size=6)
    args = parsed(told(train_base, words)[0])
    assert (args.train_resolution, args.batch_size) == (640, 3)
    assert args.model_name == 'people-refine'
    assert args.model_start_weights == Path('checkpoint/people/last.pth')
    weights(folder='checkpoint/people-refine')
    assert parsed(told(train_base, words)[0]).model_name == 'people-refine1'


def test_a_refine_run_is_followed_by_figures_and_pictures(in_tmp, told):
    weights('best.pth')
    words = ['--dataset-name', 'my data', '--model-backbone', 'resnet50', '--model-name', 'run',
             '--model-last-checkpoint', 'auto', '--model-start-weights', 'checkpoint/run/best.pth']  # fmt: skip
    testset, evaluate, pictures = told(train_refine, words)
    args = parsed(testset)
    assert (args.dataset_name, args.output_dir) == ('my data', Path('testset-my data'))
    args = parsed(evaluate)
    assert (args.checkpoint, args.testset) == ([Path('checkpoint/run/best.pth')], Path('testset-my data'))
    assert pictures[1:] == [
        str(ROOT / 'inference_images.py'), '--model-checkpoint', 'checkpoint/run/best.pth', '--images-src', 'pictures',
        '--images-bgr', 'plates', '--output-dir', 'out-run',
    ]  # fmt: skip
    Path('testset-my data').mkdir()
    assert told(train_refine, words) == [evaluate, pictures]


def test_drawn_data_has_no_test_set(in_tmp, told):
    weights('best.pth')
    words = flags('run', model_last_checkpoint='checkpoint/run/best.pth')
    assert [Path(line[1]).stem for line in told(train_refine, words)] == ['inference_images']


AUTO = ['--model-last-checkpoint', 'auto']


@pytest.mark.parametrize(
    ('given', 'kept'),
    [
        ([], AUTO),
        (AUTO, AUTO),
        (['--model-last-checkpoint=must'], ['--model-last-checkpoint=must']),
        (['--model-last-checkpoint', 'checkpoint/run/best.pth'], AUTO),
        (['--model-last-checkpoint=checkpoint/run/best.pth'], AUTO),
        ([*AUTO, '--model-start-weights', 'checkpoint/run/best.pth'],
         ['--model-start-weights', 'checkpoint/run/best.pth', *AUTO]),
    ],
)  # fmt: skip
def test_a_stopped_run_says_what_goes_on_with_it(in_tmp, told, given, kept):
    weights('best.pth')
    words = flags('run', learning_rate_scale=2)
    (line,) = told(train_base, [*words, *given], code=143)
    assert line[2:] == [*words, *kept]
    assert vars(parsed(line))['model_last_checkpoint'] in ('auto', 'must')


def test_commands_are_as_short_as_the_folder_and_the_path_allow(in_tmp, told, monkeypatch):
    words = flags('run')
    monkeypatch.setattr('shutil.which', lambda _: None)
    assert told(train_base, words, 130)[0][:2] == [sys.executable, str(ROOT / 'train_base.py')]
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'executable', '/my tools/python')
        assert told(train_base, words, 130)[0][:2] == ['/my tools/python', str(ROOT / 'train_base.py')]
    monkeypatch.setattr('shutil.which', lambda _: sys.executable)
    assert told(train_base, words, 130)[0][0] == 'python'
    monkeypatch.setattr(Path, 'cwd', lambda *_: ROOT)
    assert told(train_base, words, 130)[0][:2] == ['python', 'train_base.py']
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', '7')
    assert told(train_base, words, 130)[0][:3] == ['torchrun', '...', 'train_base.py']


@pytest.mark.parametrize('more', [{'part_of': 'make demo'}, {'dry_run': True}])
def test_a_part_of_something_and_a_dry_run_say_nothing(in_tmp, told, more):
    weights('best.pth')
    assert told(train_base, flags('run'), **more) == []


def test_a_run_that_ended_says_so_with_its_best_and_what_to_type(in_tmp, monkeypatch, capsys):
    sabotage.tiny(monkeypatch.setattr)
    words = flags('run', monitor='sad', epoch_end=1)
    assert train_base.main(words) == 0
    done, best, pictures, title, refine = capsys.readouterr().out.splitlines()[-5:]
    assert done.startswith('done: 3 steps in 00:')
    assert best.startswith('best: valid_sad ')
    assert best.endswith('e3 px at step 2, checkpoint/run/epoch-0.pth')
    assert pictures.startswith('pictures and curves in log/run: valid-2.jpg, ')
    assert title == 'next:'
    assert isinstance(parsed(shlex.split(refine)), argparse.Namespace)
    assert train_base.main([*words, '--model-last-checkpoint', 'auto']) == 0
    assert 'next:' in capsys.readouterr().out
    assert train_base.main([*words, '--model-last-checkpoint', 'auto', '--max-steps', '4', '--epoch-end', '2']) == 0
    assert 'done: 4 steps (1 of them now) in 00:' in capsys.readouterr().out
