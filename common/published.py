"""Names of Background Matting V2 that lie elsewhere here: importing one says where. docs/from-bmv2.md has all of them.

Other people's modules may have such names too, so these are looked up last of all, when nobody else has them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from typing import Any, NoReturn

_TRANSFORMS = 'use torchvision.transforms.v2, whose transforms take several pictures and treat them alike'
_PAIRS = ('Compose', 'Apply', 'ApplyOnlyAtIndices', 'RandomAffine', 'RandomHorizontalFlip', 'RandomBoxBlur',
          'RandomSharpen', 'RandomAffineAndResize')  # fmt: skip
ELSEWHERE = {
    'data_path': 'data_path.toml names the folders, and dataset.paths.read_data_config reads it',
    'inference_utils': 'use inference.plates.alignment.align_plate in place of HomographicAlignment',
    'dataset.sample': 'use from dataset import SampleDataset',
    'dataset.zip': 'use from dataset import ZipDataset',
    'model.Base': 'use MattingBase, or its parts, model.backbone.make_backbone and model.decoder.Decoder',
    'model.mobilenet': 'use model.backbone.make_backbone',
    'model.model': 'use from model import MattingBase, MattingRefine',
    'model.resnet': 'use model.backbone.make_backbone',
    'model.utils': 'use model.weights.load_weights in place of load_matched_state_dict; it is told what may be missing',
    **{f'dataset.augmentation.Pair{name}': _TRANSFORMS for name in _PAIRS},
    **{f'dataset.augmentation.{name}': _TRANSFORMS for name in _PAIRS if 'Random' in name},
}


def pointing(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that says where the names are that it lacks."""

    def missing(name: str) -> NoReturn:
        if where := ELSEWHERE.get(f'{module}.{name}'):
            # Of an AttributeError, `from module import name` would not show the text.
            raise ImportError(f'{module} has no {name}: {where} (docs/from-bmv2.md)', name=module)
        raise AttributeError(f'module {module!r} has no attribute {name!r}')

    return missing


class _Pointing(MetaPathFinder):
    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if where := ELSEWHERE.get(name):
            raise ModuleNotFoundError(f'there is no {name}: {where} (docs/from-bmv2.md)', name=name)


sys.meta_path.append(_Pointing())
