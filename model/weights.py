"""Weight files: reading every common kind, naming the network they belong to, loading them into a model strictly.

No file can run code: pickles are read with `torch.load(weights_only=True)`, TorchScript archives by an unpickler that
builds tensors and plain values only.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.console import some
from common.installation import missing_problems
from common.network import weights_name

ARCHIVE = 'TorchScript archive'
# Where weights of unknown networks are looked for; those of matting networks are found wherever they are.
WRAPPERS = ('state_dict', 'model_state_dict', 'model_state', 'model')
PREFIXES = ('module.', '_orig_mod.', 'model.')
# Parts of names that DataParallel, torch.compile, FSDP and activation checkpoints put in, at any depth.
PUT_IN = r'(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)'
# By the name of this tensor a matting network is known; what stands before it is the prefix of the others.
MARK = re.compile(rf'(.*?\.|)decoder\.{PUT_IN}*conv4\.weight')
# In the names of moving averages, and of what an optimizer holds for each parameter.
AVERAGE = re.compile(r'(?:(?<![a-z])(?:ema|swa)|Ema|Swa)(?![a-z])|EMA|SWA|(?i:average|shadow)')
OPTIMIZER = re.compile(r'(?<![a-z])(?:optim|optimi[sz]ers?|exp_avg|momentum|grads?|gradients?)(?![a-z])', re.IGNORECASE)
STORAGES = {
    'FloatStorage': torch.float32, 'HalfStorage': torch.float16, 'BFloat16Storage': torch.bfloat16,
    'DoubleStorage': torch.float64, 'LongStorage': torch.int64, 'IntStorage': torch.int32, 'ShortStorage': torch.int16,
    'CharStorage': torch.int8, 'ByteStorage': torch.uint8, 'BoolStorage': torch.bool,
}  # fmt: skip
OTHER_FILES = {
    b'\x89PNG': 'a PNG picture',
    b'\xff\xd8\xff': 'a JPEG picture',
    b'version https://': 'a Git LFS pointer: fetch the file itself with git lfs pull',
    b'<': 'a web page',
}
# By the suffix, since these begin with nothing that tells them.
PROGRAMS = {'.onnx': 'an ONNX file', '.pt2': 'a program of torch.export'}


class _Refused(ValueError):
    """The refusal of a file, with a reason written for the user."""


@dataclass(frozen=True)
class WeightFile:
    """Tensors by name, on the CPU, and in words what kind of file they came from."""

    path: Path
    kind: str
    state_dict: dict[str, Tensor]

    @property
    def is_archive(self) -> bool:
        """Whether the file is a TorchScript archive, which can be run as it is."""
        return self.kind.startswith(ARCHIVE)


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a model were loaded."""

    source: str  # such as a file with its kind
    matched: int
    total: int
    percent: float  # of the model's parameters, 0..100
    missing: tuple[str, ...]  # names that the source lacks
    unexpected: tuple[str, ...]  # names that the model lacks
    mismatched: tuple[str, ...]  # names whose shapes differ

    def __str__(self) -> str:
        line = f'{self.source}: {self.matched} of {self.total} tensors, {self.percent:.1f} % of the parameters'
        named = {'missing': self.missing, 'not used': self.unexpected, 'other shape': self.mismatched}
        return '; '.join([line, *(f'{word}: {some(names)}' for word, names in named.items() if names)])


def read_weights(path: str | Path, plain: bool = True) -> WeightFile:
    """Read a weight file of any common kind.

    That is a pickle of torch, a TorchScript archive or a .safetensors file. A matting network is found at any depth,
    whatever its names begin with, as in a checkpoint of Lightning or behind a wrapper; of one and its moving average
    the network itself is taken. Weights of other networks may be wrapped under `state_dict`, `model_state_dict`,
    `model_state` or `model`, and their names prefixed by `module.`, `_orig_mod.` or `model.`.

    Args:
        path: of the file.
        plain: take no tensors that are `unusual`, which most operations cannot compute with.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no weight file, or damaged, and what it seems to be; or a tensor is unusual.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such weight file')
    try:
        kind, content, foreign = _read(path)
        state, wrapped, prefix = _matting_network(content, path, foreign) or _plain_weights(content, path, foreign)
    except (_Refused, MemoryError):
        raise
    except Exception as error:  # zipfile, pickle and torch raise a dozen types on damaged files
        # For a pickle that it cannot read, torch advises loading it without the guard, which users must not be told.
        reason = str(error).partition('\n')[0] if not isinstance(error, pickle.UnpicklingError) else 'its pickle'
        raise _Refused(f'{path}: not a weight file, or a damaged one ({reason or type(error).__name__})') from None
    kind += _place(wrapped, prefix)
    if plain and (odd := [f'{name} ({what})' for name, tensor in state.items() if (what := unusual(tensor))]):
        raise _Refused(f'{path}: holds tensors that are not dense, or without values: {some(odd)}; save them as such, '
                       'by to_dense() or dequantize(), where the file came from')  # fmt: skip
    return WeightFile(path, kind, state)


def unusual(tensor: Tensor) -> str:
    """Return what sets a tensor apart from a dense one with values: 'meta', 'quantized', 'sparse_coo', ...; else ''."""
    if tensor.is_meta:
        return 'meta'
    if tensor.is_quantized:
        return 'quantized'
    return '' if tensor.layout == torch.strided else str(tensor.layout).removeprefix('torch.')


def load_weights(
    model: nn.Module,
    weights: str | Path | WeightFile | Mapping[str, Tensor],
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Copy weights into a model of any kind; all names and shapes must match, apart from the prefixes given.

    Args:
        model: is left as it is if that fails.
        weights: a path, what `read_weights` returned, or a state_dict.
        allow_missing: prefixes of names that the weights may lack, such as 'refiner.'; these tensors stay as they are.
        allow_unexpected: prefixes of names that the model may lack; these tensors are not used.

    Raises:
        ValueError: nothing matches, or something does not.
    """
    if isinstance(weights, (str, Path)):
        weights = read_weights(weights)
    source, state = (
        (f'{weights_name(weights.path)} ({weights.kind})', weights.state_dict)
        if isinstance(weights, WeightFile)
        else ('state_dict', dict(weights))
    )
    own = model.state_dict()
    mismatched = tuple(k for k in own if k in state and own[k].shape != state[k].shape)
    matched = [k for k in own if k in state and k not in mismatched]
    missing = tuple(k for k in own if k not in state)
    unexpected = tuple(k for k in state if k not in own)
    parameters = {name: p.numel() for name, p in model.named_parameters()}
    percent = 100 * sum(parameters.get(k, 0) for k in matched) / max(1, sum(parameters.values()))
    report = LoadReport(source, len(matched), len(own), percent, missing, unexpected, mismatched)
    bad_missing = [k for k in missing if not k.startswith(tuple(allow_missing))]
    bad_unexpected = [k for k in unexpected if not k.startswith(tuple(allow_unexpected))]
    if not matched or mismatched or bad_missing or bad_unexpected:
        raise ValueError(f'{source} does not fit the model ({describe(own)}): {_misfit(report, state)}')
    model.load_state_dict({k: state[k] for k in matched}, strict=False)
    return report


def network_of(state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the model type and backbone of weights, such as ('mattingrefine', 'resnet50'); None for other networks."""
    if 'decoder.conv4.weight' not in state:
        return None
    model_type = 'mattingrefine' if any(k.startswith('refiner.') for k in state) else 'mattingbase'
    if 'backbone.features.0.0.weight' in state:
        return model_type, 'mobilenetv2'
    return model_type, 'resnet101' if 'backbone.layer3.22.conv1.weight' in state else 'resnet50'


def describe(state: Mapping[str, Tensor]) -> str:
    """Name the network of weights for a message, such as 'MattingRefine resnet50', or 'an unknown network'."""
    if (found := network_of(state)) is None:
        return 'an unknown network'
    return f'{"MattingRefine" if found[0] == "mattingrefine" else "MattingBase"} {found[1]}'


def _misfit(report: LoadReport, state: Mapping[str, Tensor]) -> str:
    named = {'missing': report.missing, 'not in the model': report.unexpected, 'of another shape': report.mismatched}
    parts = [f'it holds {describe(state) if network_of(state) else "no matting network"}']
    parts += [] if report.matched else ['no tensor matches']
    return '; '.join(parts + [f'{len(names)} {word}: {some(names)}' for word, names in named.items() if names])


def _read(path: Path) -> tuple[str, Any, bool]:
    """Return the kind of a file, its content, and whether parts of that are of classes that torch does not know."""
    if path.suffix == '.safetensors':
        return 'safetensors', _read_safetensors(path), False
    if what := PROGRAMS.get(path.suffix):
        raise _Refused(f'{path}: {what}, from which no weights are read; give those that it was made of')
    with path.open('rb') as file:
        begin = file.read(16)
    if not begin.startswith((b'PK', b'\x80')):  # zip archives, and pickles of the protocols that torch writes
        what = next((f' but {what}' for magic, what in OTHER_FILES.items() if begin.startswith(magic)), '')
        raise _Refused(f'{path}: not a weight file{what}')
    if _is_torchscript(path):
        return ARCHIVE, _read_torchscript(path), False
    return 'state_dict', *_read_pickle(path)


def _read_pickle(path: Path) -> tuple[Any, bool]:
    """Read a pickle of torch: what is of a class that torch does not know as `_Inert`; return whether anything is."""
    foreign: list[str] = []
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        inert: list[Any] = [
            type(name, (_Inert,), {'__module__': home}) for home, _, name in (x.rpartition('.') for x in foreign)
        ]
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location='cpu', weights_only=True), bool(foreign)
    except Exception as error:
        if not foreign and not re.search('Unsupported global|was not an allowed global', str(error)):
            raise
        raise _Refused(_more_than_tensors(path)) from None


class _Inert:
    """A stand-in for any class or function that a pickle names: it makes a dictionary, and nothing runs."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


def _more_than_tensors(path: Path) -> str:
    return (
        f'{path}: holds more than tensors (a whole pickled model?); loading it would run code from the file. '
        'Save model.state_dict() where it came from and give that file'
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if problems := missing_problems('safetensors', needed_by=f'{path}: '):
        raise _Refused(problems[0])
    from safetensors.torch import load_file

    return load_file(path)


def archive_about(path: Path) -> dict[str, str]:
    """Return what a TorchScript archive of export_torchscript.py says of itself; nothing of any other file.

    Raises:
        ValueError: it is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            return {}
        with zipfile.ZipFile(path) as archive:
            named = [name for name in archive.namelist() if name.endswith('/extra/about.json')]
            return json.loads(archive.read(named[0])) if named else {}
    except Exception as error:  # zipfile raises a dozen types on damaged files
        raise _Refused(f'{path}: damaged: {error}') from None


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split('/', 1)[-1] == 'constants.pkl' for name in archive.namelist())


class _ScriptObject:
    """A stand-in for any TorchScript class that keeps its attributes and runs nothing."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _ScriptUnpickler(pickle.Unpickler):
    """The unpickler for data.pkl of a TorchScript archive, which lets tensors and plain values through only."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ('collections', 'OrderedDict'): OrderedDict,
        ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
        ('torch', 'device'): torch.device,
        ('torch.jit._pickle', 'restore_type_tag'): lambda value, _: value,
    }
    LISTS = ('build_intlist', 'build_doublelist', 'build_boollist', 'build_tensorlist')

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f'{root}/data.pkl'))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith('__torch__'):
            return _ScriptObject
        if module == 'torch' and name.endswith('Storage'):
            return name
        if module == 'torch.jit._pickle' and name in self.LISTS:
            return list
        if (module, name) in self.ALLOWED:
            return self.ALLOWED[module, name]
        raise pickle.UnpicklingError(f'{module}.{name} is not allowed')

    def persistent_load(self, pid: Any) -> Any:
        _, storage_type, key, _, count = pid
        if storage_type not in STORAGES:
            raise pickle.UnpicklingError(f'storage {storage_type} is not known')
        dtype = STORAGES[storage_type]
        data = bytearray(self.archive.read(f'{self.root}/data/{key}'))
        flat = torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
        return torch.storage.TypedStorage(wrap_storage=flat.untyped_storage(), dtype=dtype, _internal=True)


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split('/', 1)[0]
        module = _ScriptUnpickler(archive, root).load()
    state: dict[str, Tensor] = {}

    def collect(node: Any, prefix: str) -> None:
        for name, value in getattr(node, 'attributes', {}).items():
            if isinstance(value, Tensor):
                state[prefix + name] = value.detach()
            elif isinstance(value, _ScriptObject):
                collect(value, f'{prefix}{name}.')

    collect(module, '')
    return state


def _place(wrapped: str, prefix: str) -> str:
    """Say where in a file weights are: under which key, and what their names begin with."""
    return (f' under {wrapped!r}' if wrapped else '') + (f' with prefix {prefix!r}' if prefix else '')


def _mappings(content: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each dictionary with names in a file's content once, after the fewest keys that lead to it, with dots."""
    level, seen = [('', content)], set()
    for _ in range(5):
        deeper: list[tuple[str, Any]] = []
        for key, held in level:
            if isinstance(held, Mapping) and id(held) not in seen and all(isinstance(name, str) for name in held):
                seen.add(id(held))
                yield key, held
                deeper += [(f'{key}.{name}' if key else name, value) for name, value in held.items()]
        level = deeper


def _matting_network(content: Any, path: Path, foreign: bool) -> tuple[dict[str, Tensor], str, str] | None:
    """Return the tensors of the one matting network by its own names, under which key, with which prefix; else None."""
    found = [
        (wrapped, mark[1], held)
        for wrapped, held in _mappings(content)
        for name, value in held.items()
        if (mark := MARK.fullmatch(name)) and isinstance(value, Tensor) and not OPTIMIZER.search(wrapped + mark[1])
    ]

    def rank(place: tuple[str, str, Any]) -> tuple[bool, int]:
        wrapped, prefix, _ = place
        return bool(AVERAGE.search(wrapped + prefix)), ('', *WRAPPERS, wrapped).index(wrapped)

    first = min(map(rank, found), default=None)
    best = [place for place in found if rank(place) == first]
    if foreign and first is not None and first[0]:
        raise _Refused(_more_than_tensors(path))  # the network itself may be what cannot be read
    if len(best) > 1:
        places = some([_place(*place[:2]).strip() or 'without prefix' for place in best])
        raise _Refused(f'{path}: holds several networks ({places}); save one of them alone and give that file')
    if not best:
        return None
    wrapped, prefix, held = best[0]
    tensors = {k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix) and isinstance(v, Tensor)}
    return {re.sub(rf'(?<![^.]){PUT_IN}', '', name): tensor for name, tensor in tensors.items()}, wrapped, prefix


def _plain_weights(content: Any, path: Path, foreign: bool) -> tuple[dict[str, Tensor], str, str]:
    """Return named tensors of any network, the key that they were under, and the prefix of their names."""
    held = content if isinstance(content, Mapping) else {}
    wrapped = next((key for key in WRAPPERS if isinstance(held.get(key), Mapping)), '')
    content = held[wrapped] if wrapped else content
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if foreign and (not tensors or len(tensors) < len(content)):
        raise _Refused(_more_than_tensors(path))
    if not isinstance(content, Mapping):
        raise _Refused(f'{path}: holds a {type(content).__name__}, not named tensors')
    if not tensors or len(tensors) < len(content):
        hint = ''
        if 'optimizer' in content:
            hint = '; it is the training state beside a checkpoint: give the .pth file of the same name without .state'
        raise _Refused(f'{path}: not a state_dict (its keys: {some([*content]) or "none"}){hint}')
    stripped = ''
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in tensors)), ''):
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
        stripped += prefix
    return tensors, wrapped, stripped
