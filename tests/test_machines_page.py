"""What docs/machines.md gives to copy: shell, YAML and units parse, and every command has flags that exist."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

import inference_images
import train_base

BLOCK = re.compile(r'^( *)```(\w+)\n(.*?)^\1```', re.MULTILINE | re.DOTALL)
PAGE = (Path(__file__).parents[1] / 'docs/machines.md').read_text()
SCRIPTS = {'train_base.py': train_base, 'inference_images.py': inference_images}


def blocks(language: str) -> list[str]:
    return [text for _, kind, text in BLOCK.findall(PAGE) if kind == language]


def strings(value: object) -> list[str]:
    """What is run, as shell."""
    if isinstance(value, dict):
        command = [shlex.join(value['command'])] if 'command' in value else []
        return command + [text for key, part in value.items() if key != 'command' for text in strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def test_shell_parses() -> None:
    assert len(blocks('sh')) == 7
    for text in blocks('sh'):
        subprocess.run(['bash', '-n'], input=text, text=True, check=True)


def test_the_unit_is_one() -> None:
    (text,) = blocks('ini')
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(text)
    assert unit.sections() == ['Unit', 'Service', 'Install']


def test_every_command_has_flags_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_base.options, 'problems', lambda _: [])
    documents = [yaml.safe_load(text) for text in blocks('yaml')]
    assert [document.get('kind', 'task') for document in documents] == ['PyTorchJob', 'task']
    found = 0
    for text in (*blocks('sh'), *blocks('ini'), *strings(documents)):
        for line in text.replace('\\\n', ' ').splitlines():
            words = shlex.split(re.sub(r'\$\w+', '1', line.partition(' && ')[0]), comments=True)
            scripts = [word for word in words if word in SCRIPTS]
            if not scripts:
                continue
            place = words.index(scripts[0])
            SCRIPTS[scripts[0]].parse(words[place + 1 :])
            if 'torchrun' in words:
                get_args_parser().parse_args(words[words.index('torchrun') + 1 :])
            found += 1
    assert found == 8
