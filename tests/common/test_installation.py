"""A script that lacks a package, or a library of the system, says what to do in one line."""

import ast
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from common import cli, installation
from common.installation import import_problem, install_command, missing_problems

ROOT = Path(__file__).parents[2]
MODEL = '--model-type mattingrefine --model-backbone resnet50 --model-checkpoint w.pth'
# Flags that bring a script, or a benchmark, to what it needs.
FLAGS = {
    'train_base': '--dataset-name synthetic --model-backbone resnet50 --model-name x',
    'train_refine': '--from-scratch --dataset-name synthetic --model-backbone resnet50 --model-name x',
    'inference_images': f'{MODEL} --images-src pictures --images-bgr plate.png --output-dir out --output-types pha',
    'inference_video': f'{MODEL} --video-src v.mp4 --video-bgr plate.png --output-dir out --output-types pha',
    'inference_webcam': MODEL,
    'inference_speed_test': MODEL,
    'export_onnx': f'{MODEL} --output w.onnx',
    'export_torchscript': f'{MODEL} --output w.pt --no-validate',
    'export_web': f'{MODEL} --output web --no-validate --runtime plate.png',
    'export_coreml': f'{MODEL} --output w.mlpackage --resolution 512 512 --no-validate',
    'evaluate': '--checkpoint w.pth --testset pictures',
    'make_testset': '--fgr pictures --pha pictures --bgr pictures --output-dir out',
    'make_shards': '--bgr pictures --output-dir out',
    'checkpoints': 'show w.pth',
    'bgmatting': 'checkpoints show w.pth',
    'demo': '',
    'recipe': '--tiny',
    'trivial_predictors': '--dataset-name synthetic',
    'gpu': '--out out',
}
COMMANDS = sorted([*ROOT.glob('*.py'), *ROOT.glob('benchmarks/*.py')])


@pytest.fixture
def files(in_tmp):
    (in_tmp / 'pictures').mkdir()
    for name in ('w.pth', 'plate.png', 'v.mp4', 'pictures/0.png'):
        (in_tmp / name).touch()


@pytest.fixture(scope='module')
def bare_python(tmp_path_factory):
    """The path of a Python without packages."""
    folder = tmp_path_factory.mktemp('bare')
    venv.create(folder, symlinks=True)
    return folder / 'bin/python'


def start(python, path, **environment):
    command = [python, path, *FLAGS.get(path.stem, '').split()]
    kept = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures('files')
@pytest.mark.parametrize('path', COMMANDS, ids=lambda path: path.stem)
def test_without_packages_each_command_says_what_to_do(path, bare_python):
    done = start(bare_python, path)
    problems = re.findall(r'\w+ (?:is|are) not installed for (\S+) \(Python 3\.\d+\); (.*)', done.stderr)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    assert {python for python, _ in problems} == {str(bare_python)}
    assert all('bin/activate' in remedy or 'pip install -c' in remedy for _, remedy in problems)
    assert len(done.stderr.splitlines()) == len(problems) + (len(problems) > 1)


@pytest.mark.parametrize('path', COMMANDS, ids=lambda path: path.stem)
def test_help_needs_no_package(path, bare_python):
    done = subprocess.run([bare_python, path, '--help'], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(ast.get_docstring(ast.parse(path.read_text())).partition('\n')[0])


@pytest.mark.usefixtures('files')
@pytest.mark.parametrize('script', [
    'inference_images', 'inference_webcam', 'evaluate', 'make_testset',
    pytest.param('train_base', marks=pytest.mark.slow),  # torch comes first
])  # fmt: skip
def test_a_library_that_opencv_lacks_is_one_line(tmp_path, script):
    stub = tmp_path / 'stub'
    stub.mkdir()
    (stub / 'cv2.py').write_text("raise ImportError('libGL.so.1: cannot open shared object file: No such file or d')")
    done = start(sys.executable, ROOT / f'{script}.py', PYTHONPATH=str(stub))
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('error: libGL.so.1, a library of the system, is missing for ')
    assert 'apt install libgl1, or' in done.stderr
    assert done.stderr.endswith('pip install -c constraints.txt opencv-python-headless\n')
    assert done.stderr.count('\n') == 1


@pytest.mark.parametrize(
    ('message', 'part'),
    [
        ('libgthread-2.0.so.0: cannot open shared object file: No such file', 'apt install libglib2.0-0, or'),
        ('libgomp.so.1: cannot open shared object file: No such file', 'install the package of your system that'),
        ('DLL load failed while importing cv2: The specified module could not be found.', 'cv2: a library of Windows'),
        ("No module named 'av'", "pip install -c constraints.txt -e '.[video]'"),
        ("No module named 'torch.nn'", 'torch is not installed for'),
        ('Caught ImportError in DataLoader worker process 0.\nTraceback (most recent call last):\n  cv2\n'
         'ImportError: libGL.so.1: cannot open shared object file', 'libGL.so.1, a library'),
    ],
)  # fmt: skip
def test_what_an_import_lacks(message, part):
    assert part in import_problem(ImportError(message))


@pytest.mark.parametrize(
    'message', ["No module named 'training.fit'", "No module named 'demo'", 'cannot import name x']
)
def test_a_fault_of_the_toolkit_is_none_of_the_users(message):
    assert import_problem(ImportError(message)) is None


def test_an_old_python_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'version_info', (3, 10, 1))
    assert cli.run(lambda: 0) == 2
    assert capsys.readouterr().err.endswith('Python 3.10) is too old: the toolkit needs Python 3.11 or newer\n')


def test_the_environment_that_is_there_is_to_be_activated(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, 'prefix', sys.base_prefix)
    monkeypatch.setattr(installation, 'ROOT', tmp_path)
    missing = 'a_module_that_nobody_has'
    monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
    assert missing_problems(missing)[0].endswith(
        f'first type: make -C {tmp_path} install && . {tmp_path}/.venv/bin/activate'
    )
    (tmp_path / '.venv').mkdir()
    (tmp_path / '.venv/installed').touch()
    assert missing_problems(missing)[0].endswith(f'; first type: . {tmp_path}/.venv/bin/activate')
    monkeypatch.chdir(tmp_path)
    assert missing_problems(missing)[0].endswith('; first type: . .venv/bin/activate')


def test_the_install_command_works_from_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert install_command('video') == f"cd {ROOT}; pip install -c constraints.txt -e '.[video]'"
    monkeypatch.chdir(ROOT)
    assert install_command() == 'pip install -c constraints.txt -e .'
