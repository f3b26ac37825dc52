"""A table of whole, partial and foreign weight files with what is said of each; and files that would run code."""

import importlib
import os
import pickle
import re
import subprocess
import zipfile

import pytest
import torch
from torch import nn

from model.weights import load_weights, read_weights


def network(seed=0):
    torch.manual_seed(seed)
    return nn.ModuleDict({'encoder': nn.Linear(3, 4), 'norm': nn.BatchNorm1d(4), 'refiner': nn.Linear(4, 2)})


STATE = network().state_dict()
STATISTICS = ('norm.running_mean', 'norm.running_var', 'norm.num_batches_tracked')
EXTRA = {**STATE, 'head.weight': torch.zeros(2)}


def without(*prefixes):
    return {name: tensor for name, tensor in STATE.items() if not name.startswith(prefixes)}


def renamed(prefix, every=1):
    return {(prefix if i % every == 0 else '') + name: tensor for i, (name, tensor) in enumerate(STATE.items())}


def cast(dtype):
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}


# Of 34 parameters in 9 tensors the refiner has 10 in 2. A row: what is saved, which prefixes may be missing and which
# may be left over, and what is said: of a file that loads the words after its path, of others those after the colon.
LOADED = [
    (STATE, '', '', '(state_dict): 9 of 9 tensors, 100.0 % of the parameters'),
    (cast(torch.half), '', '', '(state_dict): 9 of 9 tensors, 100.0 % of the parameters'),
    (cast(torch.double), '', '', '(state_dict): 9 of 9 tensors, 100.0 % of the parameters'),
    (
        {'epoch': 3, 'state_dict': renamed('module.'), 'optimizer': {'state': {}}}, '', '',
        "(state_dict under 'state_dict' with prefix 'module.'): 9 of 9 tensors, 100.0 % of the parameters",
    ),
    (
        without('refiner'), 'refiner.', '',
        '(state_dict): 7 of 9 tensors, 70.6 % of the parameters; missing: refiner.weight, refiner.bias',
    ),
    (EXTRA, '', 'head.', '(state_dict): 9 of 9 tensors, 100.0 % of the parameters; not used: head.weight'),
]  # fmt: skip
PARTIAL = [
    (without('refiner'), '', '', '2 missing: refiner.weight, refiner.bias'),
    (without(*STATISTICS), 'refiner.', '', f'3 missing: {", ".join(STATISTICS)}'),
    (
        {'encoder.bias': STATE['encoder.bias']}, '', '',
        '8 missing: encoder.weight, norm.weight, norm.bias and 5 more',
    ),
    (EXTRA, '', 'refiner.', '1 not in the model: head.weight'),
    ({**STATE, 'refiner.weight': torch.zeros(3, 4)}, 'refiner.', 'refiner.', '1 of another shape: refiner.weight'),
    ({**STATE, 'encoder.weight': STATE['encoder.weight'].T}, '', '', '1 of another shape: encoder.weight'),
    (
        renamed('module.', every=2), '', '',
        '5 missing: encoder.weight, norm.weight, norm.running_mean and 2 more; 5 not in the model: '
        'module.encoder.weight, module.norm.weight, module.norm.running_mean and 2 more',
    ),
    (
        {'state_dict': renamed('net.')}, '', '',
        'no tensor matches; 9 missing: encoder.weight, encoder.bias, norm.weight and 6 more; 9 not in the model: '
        'net.encoder.weight, net.encoder.bias, net.norm.weight and 6 more',
    ),
    (
        {'conv.weight': torch.zeros(3)}, 'encoder.', 'conv.',
        'no tensor matches; 9 missing: encoder.weight, encoder.bias, norm.weight and 6 more; '
        '1 not in the model: conv.weight',
    ),
]  # fmt: skip
FOREIGN = [
    ({}, 'not a state_dict (its keys: none)'),
    (None, 'holds a NoneType, not named tensors'),
    (list(STATE.values()), 'holds a list, not named tensors'),
    (torch.zeros(3), 'holds a Tensor, not named tensors'),
    (torch.optim.Adam(network().parameters()).state_dict(), 'not a state_dict (its keys: state, param_groups)'),
    ({'weights': STATE}, 'not a state_dict (its keys: weights)'),
    ({**STATE, 'version': '1'}, 'not a state_dict (its keys: encoder.weight, encoder.bias, norm.weight and 7 more)'),
    (
        {'format': 1, 'progress': {}, 'optimizer': {}, 'scaler': {}},
        'not a state_dict (its keys: format, progress, optimizer and 1 more); it is the training state beside a '
        'checkpoint: give the .pth file of the same name without .state',
    ),
]


def test_the_table_has_its_rows():
    assert len(LOADED + PARTIAL) + len(FOREIGN) >= 20


@pytest.mark.parametrize(('content', 'missing', 'unexpected', 'said'), LOADED)
def test_files_that_load(tmp_path, content, missing, unexpected, said):
    torch.save(content, tmp_path / 'w.pth')
    model, other = network(1), network(1)
    report = load_weights(model, tmp_path / 'w.pth', missing.split(), unexpected.split())
    assert str(report) == f'{tmp_path / "w.pth"} {said}'
    for name, tensor in model.state_dict().items():
        wanted = other.state_dict()[name] if name in report.missing else STATE[name]
        torch.testing.assert_close(tensor, wanted, atol=1e-3, rtol=0)
        assert tensor.dtype == STATE[name].dtype


@pytest.mark.parametrize(('content', 'missing', 'unexpected', 'said'), PARTIAL)
def test_files_that_do_not_fit_change_nothing(tmp_path, content, missing, unexpected, said):
    torch.save(content, tmp_path / 'w.pth')
    model, other = network(1), network(1)
    begin, end = re.escape(f'{tmp_path / "w.pth"} (state_dict'), re.escape(f'holds no matting network; {said}')
    with pytest.raises(ValueError, match=f'^{begin}.* does not fit the model .*{end}$'):
        load_weights(model, tmp_path / 'w.pth', missing.split(), unexpected.split())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(('content', 'said'), FOREIGN)
def test_files_that_hold_no_weights(tmp_path, content, said):
    torch.save(content, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=f'^{re.escape(str(tmp_path / "w.pth"))}: {re.escape(said)}$'):
        read_weights(tmp_path / 'w.pth')


class Runs:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


EVIL = {
    'os.system': Runs(os.system, 'touch owned'),
    'subprocess': Runs(subprocess.check_call, ('touch', 'owned')),
    'eval': Runs(eval, "open('owned', 'w')"),
    'exec': Runs(exec, "open('owned', 'w')"),
    'open': Runs(open, 'owned', 'w'),
    'getattr': Runs(getattr, Runs(open, 'owned', 'w'), 'close'),
    'torch.load': Runs(torch.load, Runs(open, 'owned', 'w')),
    'setattr of a module': Runs(setattr, Runs(importlib.import_module, 'torch'), 'owned', 1),
}
PLACES = {
    'alone': lambda evil: evil,
    'beside tensors': lambda evil: {**STATE, 'w': evil},
    'under a wrapper': lambda evil: {'state_dict': {**STATE, 'w': evil}},
    'in an argument': lambda evil: {'w': Runs(torch._utils._rebuild_tensor_v2, evil, 0, (1,), (1,), False, {})},
}


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize(
    ('evil', 'place'), [*((evil, 'beside tensors') for evil in EVIL), *(('open', place) for place in PLACES)]
)
def test_files_that_would_run_code_are_refused(in_tmp, evil, place):
    content = PLACES[place](EVIL[evil])
    torch.save(content, 'new.pth')
    torch.save(content, 'old.pth', _use_new_zipfile_serialization=False)
    (in_tmp / 'bare.pth').write_bytes(pickle.dumps(content))
    (in_tmp / 'bare.safetensors').write_bytes(pickle.dumps(content))
    with zipfile.ZipFile('script.pth', 'w') as archive:
        archive.writestr('archive/constants.pkl', b'')
        archive.writestr('archive/data.pkl', pickle.dumps(content))
    for name in ('new.pth', 'old.pth', 'bare.pth', 'bare.safetensors', 'script.pth'):
        with pytest.raises(ValueError, match=name):
            read_weights(name)
        with pytest.raises(ValueError, match=name):
            load_weights(network(), name, [''], [''])
    assert not (in_tmp / 'owned').exists()


def test_what_stands_beside_a_network_is_read_as_nothing(in_tmp):
    torch.save({'state_dict': STATE, 'hyper_parameters': EVIL['open']}, 'weights.pth')
    assert read_weights('weights.pth').state_dict.keys() == STATE.keys()
    assert not (in_tmp / 'owned').exists()
    assert not hasattr(torch, 'owned')


@pytest.mark.parametrize('evil', ['eval', 'open'])
def test_what_would_run_code_does_so_elsewhere(in_tmp, evil):
    """The files above are not refused for being broken."""
    torch.save({'w': EVIL[evil]}, 'w.pth')
    torch.load('w.pth', weights_only=False)
    assert (in_tmp / 'owned').exists()
