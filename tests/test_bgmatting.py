"""The installed command: it runs the scripts, lists them, completes their flags, and refuses without its folder."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bgmatting

ROOT = Path(__file__).parents[1]


def started(*words, cwd, **environment):
    command = [sys.executable, ROOT / 'bgmatting.py', *words]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_every_script_is_a_command():
    names = {path.stem for path in ROOT.glob('*.py')} - {'bgmatting'}
    assert {path.stem for path in bgmatting.scripts().values()} == names
    assert {'train-base', 'images', 'video', 'speed-test', 'export-onnx', 'checkpoints'} < set(bgmatting.scripts())


def test_a_file_that_a_user_keeps_beside_the_scripts_is_no_command(tmp_path, monkeypatch):
    shutil.copy(ROOT / 'train_base.py', tmp_path)
    (tmp_path / 'data_path.py').write_text('DATA_PATH = {')
    monkeypatch.setattr(bgmatting, 'ROOT', tmp_path)
    assert list(bgmatting.scripts()) == ['train-base']


@pytest.mark.parametrize('words', [['--help'], []])
def test_help_lists_the_commands_with_what_they_do(words, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    with pytest.raises(SystemExit) as end:
        bgmatting.main(words)
    assert end.value.code == 0
    listed = ' '.join(capsys.readouterr().out.split())
    for name, path in bgmatting.scripts().items():
        assert f'{name} {ast.get_docstring(ast.parse(path.read_text())).partition(chr(10))[0]}' in listed


def test_a_command_is_its_script_in_any_folder(tmp_path):
    (tmp_path / 'runs').mkdir()
    done = started('checkpoints', 'list', '--checkpoint-dir', 'runs', cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'no checkpoints in runs\n', '')
    done = started('export-onnx', '--help', cwd=tmp_path)
    assert '\nusage: bgmatting export-onnx --' in done.stdout
    assert '\n  bgmatting images ' in done.stdout
    assert '\n  python ' not in done.stdout
    done = started('images', '--imges-src', 'x', cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, 'error: --imges-src: no such flag; did you mean --images-src?\n')


def test_a_mistyped_command_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        bgmatting.main(['trian-base'])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith('; did you mean train-base?\n')


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('bgmatting exp', 'export-coreml export-onnx export-torchscript export-web'),
        ('bgmatting images --prec', '--precision'),
        ('bgmatting images --precision b', 'bfloat16'),
        ('bgmatting webcam --sour', ''),  # an older spelling
        ('bgmatting checkpoints av', 'average'),
        ('bgmatting checkpoints average --reestimate', '--reestimate-batches'),
    ],
)
def test_a_shell_completes_what_is_typed(line, expected, tmp_path):
    script = 'exec "$@" 8>&1 9>/dev/null >/dev/null'
    asked = {'_ARGCOMPLETE': '1', 'COMP_LINE': line, 'COMP_POINT': str(len(line)), '_ARGCOMPLETE_SUPPRESS_SPACE': '1'}
    command = ['sh', '-c', script, 'sh', sys.executable, ROOT / 'bgmatting.py']
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.stdout.replace('\v', ' ').split() == expected.split()


def test_shells_find_the_mark_of_completion_in_every_script():
    for path in ROOT.glob('*.py'):
        assert 'PYTHON_ARGCOMPLETE_OK' in path.read_text()[:1024], path


def test_without_its_folder_it_says_how_to_install_it(tmp_path):
    shutil.copy(ROOT / 'bgmatting.py', tmp_path)
    done = subprocess.run(
        [sys.executable, tmp_path / 'bgmatting.py', '--help'], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1)
    assert 'pip install -c constraints.txt -e .' in done.stderr
