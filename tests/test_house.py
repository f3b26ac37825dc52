"""The rules of the house: who imports whom, what lies where, and that the commands of the documents are real."""

import ast
import importlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import inference_speed_test
from checkpointing import cli
from common.cli import Parser
from training import scoring

ROOT = Path(__file__).parents[1]
# A room imports rooms of lower floors only.
FLOORS = {
    'common': 0, 'model': 1, 'dataset': 1, 'metrics': 1, 'checkpointing': 2, 'inference': 3, 'training': 3,
    'evaluation': 4, 'export': 4,
}  # fmt: skip
SCRIPTS = {path.stem for path in ROOT.glob('*.py')}
# These run the stage scripts as a person would.
CALLS_SCRIPTS = {'demo', 'checkpoints'}


def modules():
    """Every module of the toolkit by its dotted name."""
    paths = [*ROOT.glob('*.py'), *(path for room in FLOORS for path in (ROOT / room).rglob('*.py'))]
    names = ('.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__') for path in paths)
    return dict(zip(names, paths))


def imports(name, path, known):
    """The modules of the toolkit that a module imports, anywhere in its code."""
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[: len(package.split('.')) - node.level + 1] if node.level else []
            base = '.'.join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f'{base}.{alias.name}'
                if full in known or base in known:
                    yield full if full in known else base


def graph():
    known = modules()
    return {name: set(imports(name, path, known)) - {name} for name, path in known.items()}


def test_imports_run_downward_only():
    found = graph()
    assert len(found) > 100
    for name, targets in found.items():
        room = name.split('.')[0]
        for target in targets:
            other = target.split('.')[0]
            if room in SCRIPTS:
                assert other in FLOORS or room in CALLS_SCRIPTS, f'{name} imports the script {target}'
            else:
                downward = other == room or FLOORS.get(other, len(FLOORS)) < FLOORS[room]
                assert downward, f'{name} imports {target}'


def test_no_module_imports_itself_by_way_of_others():
    found, done = graph(), set()

    def visit(name, way):
        assert name not in way, ' -> '.join([*way[way.index(name) :], name])
        if name not in done:
            for target in found[name]:
                visit(target, [*way, name])
            done.add(name)

    for name in found:
        visit(name, [])


def test_only_scripts_lie_at_the_top():
    assert {path.parent.name for path in ROOT.glob('*/__init__.py')} >= set(FLOORS)
    for name in SCRIPTS:
        tree = ast.parse((ROOT / f'{name}.py').read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == 'main' for node in tree.body), name
        assert isinstance(tree.body[-1], ast.If), f'{name} does something when it is imported'


@pytest.mark.parametrize(
    ('target', 'extras'),
    [
        ('demo', ["'.'"]),
        ('test', ["'.'", "'.[test]'"]),
        ('test-all', ["'.'", "'.[test]'", "'.[test-all]'"]),
        ('check', ["'.'", "'.[test]'", "'.[dev]'"]),
    ],
)
def test_each_target_installs_what_it_needs(target, extras):
    command = ['make', '-n', '-B', target, 'OPENCV=opencv-python-headless']
    words = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [word for before, word in itertools.pairwise(words) if before == '-e'] == extras
    assert words.count('uninstall') == words.count('opencv-python-headless;') == len(extras)  # after each of them


def test_an_image_of_docker_keeps_its_own_environment():
    # Copied over it, that of the machine would not run, and a run's folders can be larger than the image.
    left_out = (ROOT / '.dockerignore').read_text().splitlines()
    assert {'.git', '.venv', 'checkpoint', 'log', 'demo_output'} <= set(left_out)


WINDOWS = re.compile(r'(?:imshow|namedWindow|resizeWindow|destroyWindow|destroyAllWindows|waitKey(?:Ex)?|pollKey|'
                     r'(?:get|set)Window\w+|selectROI|createTrackbar|setMouseCallback)$')  # fmt: skip


def test_only_the_webcam_opens_windows():
    # OpenCV's build for machines without a display has none.
    found = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and WINDOWS.match(node.attr) and ast.unparse(node.value) == 'cv2'
    }
    assert found == {'inference.webcam.display'}


def test_an_installation_adds_the_command_alone():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    assert project['tool']['setuptools'] == {'packages': [], 'py-modules': ['bgmatting']}
    assert project['project']['scripts'] == {'bgmatting': 'bgmatting:main'}
    assert 'matplotlib' in project['project']['dependencies']  # every training draws its curves


@pytest.mark.parametrize(
    ('script', 'flag'),
    [
        ('train_base', '--model-pretrain-initialization'),
        ('train_refine', '--model-refine-mode'),
        ('inference_images', '--preprocess-alignment'),
        ('inference_video', '--video-bgr-mode'),
        ('inference_webcam', '--resolution W H'),
        ('inference_speed_test', '--repeats'),
        ('export_coreml', '--plate-state'),
        ('export_onnx', '--onnx-opset-version'),
        ('export_torchscript', '--refine-form'),
        ('export_web', '--runtime'),
        ('make_shards', '--shard-megabytes'),
        ('make_testset', '--backgrounds-per-foreground'),
        ('evaluate', '--base-only'),
        ('checkpoints', 'convert'),
        ('demo', '--steps'),
        ('bgmatting', 'train-base'),
    ],
)
def test_help_imports_nothing_slow(script, flag):
    code = f'import sys, {script}\ntry: {script}.main(["--help"])\nexcept SystemExit: pass\n'
    code += 'sys.exit(str(found) if (found := {"torch", "cv2", "numpy", "av"} & set(sys.modules)) else 0)'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert flag in done.stdout


@pytest.mark.parametrize('script', sorted(SCRIPTS))
def test_an_interrupt_during_the_imports_is_no_traceback(script, tmp_path):
    # A module that every script imports stands for all of them: it is found here before Python's own.
    (tmp_path / 'argparse.py').write_text('import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n')
    done = subprocess.run(
        [sys.executable, ROOT / f'{script}.py'], env={**os.environ, 'PYTHONPATH': str(tmp_path)}, capture_output=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b'')


@pytest.mark.parametrize('script', sorted(SCRIPTS))
def test_help_is_for_people(script, monkeypatch):
    parsers = parsers_of(script, monkeypatch)
    about = ast.get_docstring(ast.parse((ROOT / f'{script}.py').read_text()))
    assert parsers[0].format_help().startswith(about.partition('\n')[0])
    for parser in parsers:
        text = parser.format_help()
        assert not re.search(r'\(default: (?:True|False|None|\[|\()', text), parser.prog
        assert text.index('usage: ') > 0
        titled, untitled = parser._action_groups[2:], parser._action_groups[1]._group_actions
        assert not (titled and script != 'checkpoints') or [action.dest for action in untitled] == ['help']
        for action in parser._actions:
            assert action.help or not action.option_strings, action


def test_help_shows_defaults_of_nought():
    parser = Parser('What it does.')
    parser.add_argument('--seed', type=int, default=0, help='of all draws')
    parser.add_argument('--fast', action='store_true', help='look at sizes only')
    parser.add_argument('--name', help='of a run')
    assert 'of all draws (default: 0)' in parser.format_help()
    assert parser.format_help().count('(default') == 1


def parsers_of(script, monkeypatch):
    """The parser of a script as it is about to read the command line, and those of its sub-commands."""

    class Found(Exception):
        pass

    def find(parser, *_):
        raise Found(parser)

    monkeypatch.setattr(Parser, 'parse_args', find)
    with pytest.raises(Found) as found:
        importlib.import_module(script).main([])
    parsers = [found.value.args[0]]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action.choices, dict):
                parsers.extend(action.choices.values())
    return parsers


@pytest.mark.parametrize('script', sorted(SCRIPTS))
def test_a_home_folder_is_found_in_every_flag_that_takes_a_path(script, monkeypatch):
    monkeypatch.setenv('HOME', '/home/somebody')
    seen = 0
    for parser in parsers_of(script, monkeypatch):
        for action in parser._actions:
            words = {action.metavar} if isinstance(action.metavar, str) else {*(action.metavar or ())}
            words = {part for word in words for part in word.split('|')}
            if action.type is Path or words & {'FILE', 'DIR', 'PATH', 'FOLDER', 'CAMERA'}:
                assert str(parser._get_value(action, '~/x')) == '/home/somebody/x', action
                seen += 1
    assert seen or script in ('demo', 'bgmatting')


def test_what_an_encoding_lacks_ends_no_script(tmp_path):
    (tmp_path / 'Läufe').mkdir()
    words = [sys.executable, ROOT / 'checkpoints.py', 'list', '--checkpoint-dir', 'Läufe']
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b'no checkpoints in L\\xe4ufe\n', b'')


@pytest.mark.parametrize(
    ('place', 'name'),
    [
        ('training.loop', 'fit'),
        ('training.losses', 'base_loss'),
        ('train_refine', 'main'),
        ('checkpointing.manager', 'Checkpoints'),
        ('checkpointing.retention', 'remove'),
        ('dataset.images', 'ImagesDataset'),
        ('dataset.augmentation', 'compose_training'),
        ('metrics.matting', 'sad'),
        ('evaluation.plan', 'prepare'),
        ('export.coreml.conversion', 'convert'),
    ],
)
def test_things_lie_where_their_names_say(place, name):
    assert callable(getattr(importlib.import_module(place), name))


def commands(*paths):
    text = ''.join(path.read_text() for path in paths or (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')))
    text = text.replace('\\\n', ' ')
    scripts = r'train_base|train_refine|inference_\w+|checkpoints|export_\w+|make_\w+|evaluate'
    return re.findall(rf'^ *python ((?:{scripts})\.py [^#\n]*)', text, re.MULTILINE)


def test_readme_has_commands():
    assert len(commands()) >= 4


@pytest.mark.parametrize('line', commands())
def test_the_documents_commands_parse(line, in_tmp):
    script, *words = shlex.split(line)
    if words == ['--help']:
        return
    for flag, file in itertools.pairwise(words):
        if file.endswith(('.pth', '.toml', '.png', '.jpg')) and not flag.startswith('-y'):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).touch()
    sets = [
        f'[{name}.{part}]\nfgr = "."\npha = "."'
        for name in ('my-data', 'real', 'videomatte240k')
        for part in ('train', 'valid')
    ]
    Path('data_path.toml').write_text('\n'.join([*sets, '[backgrounds]', 'train = "."', 'valid = "."']))
    if script == 'inference_images.py':
        for flag in ('--images-src', '--images-bgr'):
            path = Path(words[words.index(flag) + 1])
            if not path.exists():
                path.mkdir(parents=True)
    if script == 'checkpoints.py':
        cli.parse(None, words, scoring.add_arguments)
        return
    if script == 'inference_speed_test.py':
        inference_speed_test.prepare(inference_speed_test.parse(words))
        return
    # The package of a store need not be here.
    words = [word.replace('s3://', 'memory://') for word in words]
    importlib.import_module(script.removesuffix('.py')).parse(words)


# What a command reads or writes: the flags before it.
FILES = ('--output', '-o', '--json', '--csv', '--report', '--video-src', '--video-bgr', '--images-bgr', '--data-config')
FOLDERS = ('--output-dir', '--testset', '--images-src', '--images-bgr', '--model-name', '--predictions', '--truth')


def test_git_leaves_out_what_the_readmes_commands_read_and_write_and_takes_the_starter_model(in_tmp):
    names = ['data_path.toml', 'demo_output/result.png', 'my-data/train/fgr/0001.jpg', 'backgrounds/train/street.jpg']
    for line in commands(ROOT / 'README.md'):
        for flag, word in itertools.pairwise(shlex.split(line)):
            if flag in FILES:
                names.append(word)
            if flag in FOLDERS:
                parents = ('checkpoint/', 'log/') if flag == '--model-name' else ('',)
                names += [f'{parent}{word}/pha/0001.png' for parent in parents]
    shipped = ['weights/starter.pth', 'weights/starter.provenance.json', 'weights/README.md']
    names = sorted({name for name in names if not name.startswith(('-', '/', '..'))})
    assert len(names) > 20
    shutil.copy(ROOT / '.gitignore', '.gitignore')
    subprocess.run(['git', 'init', '-q'], check=True)
    words = ['git', 'check-ignore', '--stdin']
    ignored = subprocess.run(
        words, input='\n'.join(names + shipped), capture_output=True, text=True, check=False
    ).stdout.split()
    assert sorted({*names, *shipped} - {*ignored}) == sorted(shipped)
    assert not (ROOT / '.gitattributes').exists()  # Git keeps them itself, without LFS


def test_closed_streams_end_no_script(tmp_path):
    program = 'import sys; from common.cli import Parser; Parser("").parse_args([]); print("x"); sys.stderr.write("x")'
    shell = 'exec "$@" >&- 2>&-'
    done = subprocess.run(['sh', '-c', shell, 'sh', sys.executable, '-c', program], cwd=ROOT, check=False)
    assert done.returncode == 0
