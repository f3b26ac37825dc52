"""Sources of small test sets, what lies in one that is made of them, and make_testset.py called on them."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import make_testset
from evaluation.testset.compose import compose_testset
from evaluation.testset.recipes import Sources, plan
from evaluation.testset.recipes import TestsetSettings as Settings  # pytest collects what is called Test...
from support.pictures import noise, save, smooth

DEFAULTS = Settings()


def subject(width, height, seed):
    """A foreground, and a soft disc as its alpha."""
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot(x - width / 2, y - height / 2) / min(width, height)
    return noise(height, width, 3, seed=seed), ((0.4 - distance) * 1000).clip(0, 255).astype(np.uint8)


def make_sources(folder):
    """Three subjects, one of them in a sub-folder, and three backgrounds, one of them smaller than two subjects."""
    found = Sources(folder / 'fgr', folder / 'pha', folder / 'bgr')
    for seed, (name, width, height) in enumerate([('ann', 60, 40), ('shots/b.1', 40, 60), ('zoe', 33, 31)]):
        fgr, pha = subject(width, height, seed)
        save(found.fgr / f'{name}.png', fgr)
        save(found.pha / f'{name}.png', pha)
    for seed, (width, height) in enumerate([(90, 50), (50, 90), (40, 35)]):
        save(found.bgr / f'{seed}.jpg', smooth(height, width)[:, :: 1 if seed else -1])
    return found


def make(folder, sources, settings=DEFAULTS, threads=2):
    with ThreadPoolExecutor(threads) as pool:
        compose_testset(folder, plan(sources, settings), sources, settings, pool.map)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def manifest(folder):
    return json.loads((folder / 'manifest.json').read_text())


def script(sources, out, *flags):
    folders = ('--fgr', sources.fgr, '--pha', sources.pha, '--bgr', sources.bgr, '--output-dir', out)
    return make_testset.main([*map(str, folders), *map(str, flags)])


def refusal(capsys, sources, out, *flags):
    assert script(sources, out, *flags) == 2
    return capsys.readouterr().err
