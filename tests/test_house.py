"""Rules of the house that a test can hold: who imports whom, and that the README's commands are real."""

import ast
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest

import checkpoint_console
import inference_speed_test

ROOT = Path(__file__).parents[1]
PACKAGES = {'model', 'dataset', 'training', 'inference', 'evaluation', 'export'}
MAY_IMPORT = {'inference': {'model', 'dataset'}, 'export': {'model', 'dataset'}, 'evaluation': {'dataset'}}
LEAVES = {'memory', 'whole_files'}  # imports nothing of ours, so all may import it


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split('.')[0]


@pytest.mark.parametrize('package', sorted(PACKAGES))
def test_imports_run_downward_only(package):
    scripts = {path.stem for path in ROOT.glob('*.py')} - LEAVES
    modules = list((ROOT / package).rglob('*.py'))
    assert modules
    for module in modules:
        foreign = set(imports(module)) & (PACKAGES | scripts) - {package} - MAY_IMPORT.get(package, set())
        assert not foreign, f'{module} imports {foreign}'


def commands():
    text = (ROOT / 'README.md').read_text() + ''.join(p.read_text() for p in (ROOT / 'docs').glob('*.md'))
    text = text.replace('\\\n', ' ')
    scripts = r'train_base|train_refine|inference_\w+|checkpoints|export_\w+|make_testset|evaluate'
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
    Path('data_path.toml').touch()
    if script == 'inference_images.py':
        for flag in ('--images-src', '--images-bgr'):
            path = Path(words[words.index(flag) + 1])
            if not path.exists():
                path.mkdir(parents=True)
    if script == 'checkpoints.py':
        checkpoint_console.parse(None, words)
        return
    if script == 'inference_speed_test.py':
        inference_speed_test.prepare(inference_speed_test.parse(words))
        return
    importlib.import_module(script.removesuffix('.py')).parse(words)


def test_sizes_that_read_well():
    for path in [*ROOT.glob('*.py'), *(p for package in PACKAGES for p in (ROOT / package).glob('*.py'))]:
        assert len(path.read_text().splitlines()) <= 300, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 100, f'{path}: {node.name}'
