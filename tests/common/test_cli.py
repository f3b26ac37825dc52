"""What a command line says to a person who mistypes, or asks for help."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import Parser, run
from common.console import shown
from common.path_checks import output_file_problems

ROOT = Path(__file__).parents[2]


@pytest.fixture
def parser():
    made = Parser('Do a thing.\n\nHow it does it.', prog='thing.py')
    add = made.group('data').add_argument
    add('--images-src', '--image-src', required=True, metavar='DIR', help='pictures')
    add('--epoch-end', type=int, default=8, metavar='N', help='of a run')
    add('--scale', type=float, help='of all')
    add('--sizes', nargs='+', type=int, default=[1280, 720], help='of pictures')
    add('--formats', nargs='+', default=[], help='of files')
    add('--kind', choices=('resnet50', 'mobilenetv2'), nargs='+', help='of network')
    add('--audio', action=argparse.BooleanOptionalAction, default=True, help='copy the sound')
    add('-y', dest='overwrite', action='store_true', help='replace files')
    return made


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('--epohc-end 3', '--epohc-end: no such flag; did you mean --epoch-end?'),
        ('--epoch_end=3', '--epoch_end: no such flag; did you mean --epoch-end?'),
        ('-epoch-end 3', '-epoch-end: no such flag; did you mean --epoch-end?'),
        ('--epoch 3', '--epoch: no such flag; did you mean --epoch-end?'),
        ('--no-adio', '--no-adio: no such flag; did you mean --no-audio?'),
        ('--imge-src x', '--imge-src: no such flag; did you mean --images-src?'),  # not the older spelling
        ('--zzz', '--zzz: no such flag; thing.py --help lists them'),
        ('--images-src x -q', '-q: no such flag; thing.py --help lists them'),
        ('', '--images-src: must be given; --help explains'),
        ('--images-src x y', 'y: belongs to no flag'),
        ('--images-src x --epoch-end ten', '--epoch-end ten: must be a whole number'),
        ('--image-src x --scale half', '--scale half: must be a number'),
        ('--images-src', '--images-src: expected one argument'),
        ('--kind resnt50', '--kind resnt50: must be one of resnet50, mobilenetv2; did you mean resnet50?'),
        ('--kind vgg', '--kind vgg: must be one of resnet50, mobilenetv2'),
    ],
)
def test_a_mistake_is_one_line(parser, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(words.split())
    assert (end.value.code, capsys.readouterr().err) == (2, f'error: {message}\n')


def test_all_unknown_flags_are_told_of_at_once(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(['--epoch-ned', '3', '--audi'])
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == 'error: 2 problems:'
    assert [line.split('did you mean ')[1] for line in lines] == ['--epoch-end?', '--audio?']


def test_what_looks_like_a_flag_and_is_none_is_left_alone(parser):
    args = parser.parse_args(['--image-src=-x', '--scale', '-0.5', '--formats', '-.5', '-', 'a -b'])
    assert (args.images_src, args.scale, args.formats) == ('-x', -0.5, ['-.5', '-', 'a -b'])
    assert parser.parse_args(['--images-src', 'x', '-y']).overwrite


def test_flags_of_a_sub_command_are_its_own(capsys):
    parser = Parser('Do things.', prog='things.py')
    made = parser.add_subparsers(required=True, metavar='COMMAND', dest='command').add_parser('make', description='It.')
    made.add_argument('--best', type=int)
    assert parser.parse_args(['make', '--best', '3']).best == 3
    for words, message in (
        (['make', '--bst', '3'], '--bst: no such flag; did you mean --best?'),
        (['maek'], 'COMMAND maek: must be one of make; did you mean make?'),
        (['--bset'], '--bset: no such flag; things.py --help lists them'),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        assert capsys.readouterr().err == f'error: {message}\n'


def test_help_begins_with_what_it_does_and_shows_each_flag_once(parser):
    first, usage, about, *_ = (text := parser.format_help()).split('\n\n')
    assert (first, usage, about) == ('Do a thing.', 'usage: thing.py --images-src DIR [flags]', 'How it does it.')
    assert '--image-src' not in text
    assert 'of a run (default: 8)' in text
    assert 'of pictures (default: 1280 720)' in text
    assert 'copy the sound (default: on)' in text
    assert '  --kind {resnet50,mobilenetv2} ...\n' in text
    assert text.count('(default') == 3


def test_a_group_is_made_once(parser):
    assert parser.group('data') is parser.group('data') is not parser.group('model')


@pytest.mark.parametrize(
    ('script', 'old', 'name'),
    [
        ('inference_images', '--output-format pha=png', 'picture_formats'),
        ('inference_images', '--output-type pha', 'output_types'),
        ('inference_images', '--model-refine-thresholding 0.5', 'model_refine_threshold'),
        ('inference_video', '--sequence-format pha=png', 'picture_formats'),
        ('inference_webcam', '--source 2', 'video_src'),
        ('inference_webcam', '--plate a.png', 'video_bgr'),
        ('inference_webcam', '--target-bgr a.png', 'video_target_bgr'),
        ('inference_speed_test', '--image-src a.png', 'images_src'),
        ('inference_speed_test', '--image-bgr a.png', 'images_bgr'),
        ('make_testset', '--size 50 40', 'resolution'),
        ('evaluate', '--model-checkpoint a.pth', 'checkpoint'),
    ],
)
def test_older_spellings_are_taken(monkeypatch, script, old, name):
    given = {}

    def take(parser, words, *_):
        for action in parser._actions:
            action.required = False
        given.update(vars(Parser.parse_known_args(parser, old.split())[0]))
        assert old.split()[0] not in parser.format_help().split()
        raise SystemExit

    monkeypatch.setattr(Parser, 'parse_args', take)
    with pytest.raises(SystemExit):
        importlib.import_module(script).parse([])
    value = given[name] if isinstance(given[name], list) else [given[name]]
    assert [str(x) for x in value] == old.split()[1:]


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (
            'train_base.py --dataset-name drwan --data-config sets.toml',
            '--dataset-name drwan: sets.toml has no such data',
        ),
        (
            'train_refine.py --from-scratch --dataset-name mine --data-config sets.toml',
            '/fgr: no such folder; sets.toml names',
        ),
        ('train_base.py --dataset-name mine --data-config set.toml', '--data-config set.toml: no such file'),
        ('checkpoints.py show no.pth', 'no.pth: no such file'),
        ('checkpoints.py diff no.pth sets.toml', 'no.pth: no such file'),
        ('checkpoints.py average no.pth sets.toml -o mean.pth', 'no.pth: no such file'),
        ('checkpoints.py convert no.pth -o other.pth', 'no.pth: no such file'),
        ('make_testset.py --fgr no --pha pha --bgr pha --output-dir out', '--fgr no: no such folder'),
        ('inference_speed_test.py --model-checkpoint no.pth', '--model-checkpoint no.pth: no such file'),
    ],
)
def test_names_are_checked_before_torch_is_imported(in_tmp, words, message):
    Path('pha').mkdir()
    folders = 'fgr = "fgr"\npha = "."'
    Path('sets.toml').write_text(
        f'[mine.train]\n{folders}\n[mine.valid]\n{folders}\n[backgrounds]\ntrain="."\nvalid="."'
    )
    script, *flags = words.split()
    needed = {
        'train': '--model-backbone resnet50 --model-name x',
        'infer': '--model-type mattingbase --model-backbone resnet50',
    }
    program = (
        f'import sys, {script[:-3]} as script\nassert script.main(sys.argv[1:]) == 2\nassert "torch" not in sys.modules'
    )
    command = [sys.executable, '-c', program, *flags, *needed.get(script[:5], '').split()]
    done = subprocess.run(command, env={'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('\n') == 1
    assert message in done.stderr


def test_an_import_that_fails_within_the_toolkit_is_not_hidden():
    def main():
        raise ImportError("cannot import name 'fit' from 'training.loop'")

    with pytest.raises(ImportError, match='fit'):
        run(main)


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='needs a folder that takes no file from root either')
def test_an_output_that_cannot_be_written_is_refused_whatever_its_rights_say():
    (problem,) = output_file_problems('--output', Path('/proc/a.onnx'), overwrite=False)
    assert problem.startswith('--output /proc: nothing can be written to /proc (')


def test_a_script_sets_how_long_threads_wait_unless_it_is_set(monkeypatch):
    monkeypatch.setenv('GOMP_SPINCOUNT', '5')
    assert run(lambda: int(os.environ['GOMP_SPINCOUNT'])) == 5
    monkeypatch.delenv('GOMP_SPINCOUNT')
    assert run(lambda: int(os.environ['GOMP_SPINCOUNT'])) == 10000


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('no s3://KEY:a/b@bucket/x here', 'no s3://***@bucket/x here'),
        ('sftp://u:p@w@h/x', 'sftp://***@h/x'),
        ('gs://token@bucket/x', 'gs://***@bucket/x'),
        ('s3://bucket/photo@2x.jpg', 's3://bucket/photo@2x.jpg'),
        ('sftp://u:p?w=1@h/x', 'sftp://***@h/x'),
        ('az://c/x?sas_token=S3cr3t&b=/1', 'az://c/x'),
        ('(https://host/x?sig=S3cr3t) and more', '(https://host/x) and more'),
        ('s3://bucket/train-?.tar: not there', 's3://bucket/train-?.tar: not there'),
        ('http://127.0.0.1:9/bucket: no answer', 'http://127.0.0.1:9/bucket: no answer'),
    ],
)
def test_no_secret_of_a_url_is_shown(text, expected):
    assert shown(text) == expected


@pytest.mark.parametrize('size', [1, 100_000], ids=['at the end', 'before it'])
def test_a_reader_that_leaves_is_no_error(size):
    program = f"""
from common import cli
def main():
    try:
        for _ in range(9):
            print('a' * {size})
    except Exception as error:
        return cli.report_error(error, 2)
raise SystemExit(cli.run(main))
"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, '-c', program],
        stdout=write,
        stderr=subprocess.PIPE,
        env={'PYTHONPATH': str(ROOT)},
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b'')
