"""Weight files of every kind, and what is said of those that do not fit."""

import os
import pickle
import random
import re
import warnings
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model import MattingBase, MattingRefine
from model.backbone import widen_stem
from model.pretrained import initialize
from model.weights import _mappings, load_weights, read_weights


class Malicious:
    def __reduce__(self):
        return (open, ('owned', 'w'))


class Command:
    """Of a module that torch never lets through."""

    def __reduce__(self):
        return (os.system, ('touch owned',))


@pytest.fixture(scope='module')
def base():
    torch.manual_seed(0)
    return MattingBase('mobilenetv2')


def other():
    torch.manual_seed(1)
    return MattingBase('mobilenetv2')


def same(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ('wrap', 'kind'),
    [
        (lambda s: s, 'state_dict'),
        (lambda s: {'state_dict': s, 'epoch': 3}, "state_dict under 'state_dict'"),
        (lambda s: {'model': s}, "state_dict under 'model'"),
        (lambda s: {'model_state': s}, "state_dict under 'model_state'"),
        (lambda s: {'module.' + k: v for k, v in s.items()}, "with prefix 'module.'"),
        (lambda s: {'module._orig_mod.' + k: v for k, v in s.items()}, "with prefix 'module._orig_mod.'"),
        (lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()}, 'state_dict'),
    ],
)
def test_kinds_of_pickles(tmp_path, base, wrap, kind):
    torch.save(wrap(base.state_dict()), tmp_path / 'w.pth')
    model = other()
    report = load_weights(model, tmp_path / 'w.pth')
    assert (report.matched, report.total, report.percent) == (362, 362, 100)
    assert kind in str(report)
    loaded = model.state_dict()
    for name, tensor in base.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, atol=1e-3, rtol=1e-3)


SMALL = {name: torch.full((2,), float(i)) for i, name in enumerate(
    ('backbone.features.0.0.weight', 'aspp.project.0.weight', 'decoder.conv4.weight', 'refiner.conv1.weight')
)}  # fmt: skip
AVERAGED = {name: tensor + 10 for name, tensor in SMALL.items()}


def named(prefix, state=SMALL):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ('content', 'kind'),
    [
        (named('net.'), "state_dict with prefix 'net.'"),
        (named('ema.module.'), "state_dict with prefix 'ema.module.'"),
        (named('_orig_mod.module.model.'), "state_dict with prefix '_orig_mod.module.model.'"),
        ({'n_averaged': torch.tensor(3), **named('module.')}, "state_dict with prefix 'module.'"),
        ({**named('model.'), **named('ema_model.', AVERAGED), 'loss.weight': torch.ones(1)},
         "state_dict with prefix 'model.'"),
        ({'model': SMALL, 'model_ema': AVERAGED, 'optimizer': {'state': {0: {'exp_avg': torch.ones(2)}}}},
         "state_dict under 'model'"),
        ({'state_dict': named('net.'), 'current_model_state': AVERAGED},
         "state_dict under 'state_dict' with prefix 'net."),
        ({'ema': {'state_dict': named('module.')}}, "state_dict under 'ema.state_dict' with prefix 'module.'"),
        ({'net': SMALL, 'best': SMALL}, "state_dict under 'net'"),
        ({'model': SMALL, 'optimizer': {'exp_avg': AVERAGED}}, "state_dict under 'model'"),
        ({'optimizer': {'exp_avg': AVERAGED}, 'best_momentum': AVERAGED, 'optimal': SMALL},
         "state_dict under 'optimal'"),
        ({**named('exp_avg_sq.', AVERAGED), **named('net.')}, "state_dict with prefix 'net.'"),
        ({**named('semantic_schema.'), **named('net_ema.', AVERAGED)}, "state_dict with prefix 'semantic_schema.'"),
        ({**named('schema.'), 'modelEMA': AVERAGED, 'emaModel': AVERAGED}, "state_dict with prefix 'schema.'"),
        ({'epoch': 3, 'networks': {'matting': SMALL}}, "state_dict under 'networks.matting'"),
        ({name.replace('conv4', '_orig_mod.conv4').replace('features', 'module.features'): tensor
          for name, tensor in named('model.').items()}, "state_dict with prefix 'model.'"),
    ],
)  # fmt: skip
def test_a_matting_network_is_found_whatever_it_is_wrapped_in(tmp_path, content, kind):
    torch.save(content, tmp_path / 'w.pth')
    found = read_weights(tmp_path / 'w.pth')
    assert found.kind.startswith(kind)
    assert found.state_dict.keys() == SMALL.keys()
    assert all(torch.equal(tensor, SMALL[name]) for name, tensor in found.state_dict.items())


def test_of_two_networks_none_is_guessed(tmp_path):
    torch.save({**named('student.'), **named('teacher.', AVERAGED)}, tmp_path / 'w.pth')
    with pytest.raises(
        ValueError, match=r"several networks \(with prefix 'student\.', with prefix 'teacher\.'\); save one"
    ):
        read_weights(tmp_path / 'w.pth')


class Settings(dict):
    """As Lightning keeps hyperparameters: a dictionary of a class of its own."""


def lightning(**more):
    """A checkpoint with the parts that Lightning writes."""
    held = Settings(args=Namespace(root=Path('x')), loss=torch.nn.L1Loss(), when=datetime(2026, 1, 1), f=len)
    loops = {'fit_loop': {'state_dict': {}, 'epoch_progress': {'total': {'ready': 1}}}}
    states = {'state_dict': named('model.') | {'loss.weight': torch.ones(1)}, 'optimizer_states': [], 'loops': loops}
    return {'epoch': 1, 'global_step': 2, 'pytorch-lightning_version': '2.6.0', 'hparams_name': 'kwargs', **states,
            'hyper_parameters': held, **more}  # fmt: skip


def test_a_checkpoint_of_lightning_is_read_whatever_its_settings_are(in_tmp):
    torch.save(lightning(callbacks={'x': Malicious()}), 'w.ckpt')
    found = read_weights('w.ckpt')
    assert found.kind == "state_dict under 'state_dict' with prefix 'model.'"
    assert found.state_dict.keys() == SMALL.keys()
    assert not (in_tmp / 'owned').exists()


def test_dictionaries_that_share_parts_are_looked_through_once():
    shared = SMALL
    for _ in range(4):
        shared = dict.fromkeys(map(str, range(30)), shared)
    assert len(list(_mappings(shared))) == 5
    # Where it lies shallowest, though it was met deeper before.
    deep = {'a': {'b': {'c': {'d': {'e': SMALL}}}}}
    assert ('z.e', SMALL) in _mappings({**deep, 'z': deep['a']['b']['c']['d']})


@pytest.mark.parametrize('content', [{}, {'model': {}}])
def test_a_file_that_holds_nothing_is_not_said_to_run_code(tmp_path, content):
    torch.save(content, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'w\.pth: not a state_dict \(its keys: none\)$'):
        read_weights(tmp_path / 'w.pth')


@pytest.mark.parametrize('content', [
    lambda: {'model': torch.nn.Linear(2, 2)},
    lambda: {'net': torch.nn.Linear(2, 2), 'epoch': 3},
    lambda: [torch.nn.Linear(2, 2)],
    lambda: {'model': torch.nn.Linear(2, 2), 'ema': SMALL},
    lambda: lightning(callbacks=Command()),
])  # fmt: skip
def test_what_needs_unsafe_objects_is_refused_with_advice(in_tmp, content):
    torch.save(content(), 'w.ckpt')
    with pytest.raises(ValueError, match=r'^w\.ckpt: holds more .* Save model\.state_dict\(\) where it came from'):
        read_weights('w.ckpt')
    assert not (in_tmp / 'owned').exists()


@pytest.mark.parametrize('name', ['w.onnx', 'w.pt2'])
def test_files_that_hold_no_weights_of_their_own_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b'PK\x03\x04')
    with pytest.raises(ValueError, match=r'from which no weights are read; give those that it was made of'):
        read_weights(tmp_path / name)


def test_safetensors(tmp_path, base):
    save_file(base.state_dict(), tmp_path / 'w.safetensors')
    model = other()
    assert 'safetensors' in str(load_weights(model, tmp_path / 'w.safetensors'))
    assert same(model, base.state_dict())


def test_torchscript_archive_is_read_without_running_it(tmp_path, base):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pictures = (torch.rand(1, 3, 32, 32),) * 2
        torch.jit.save(torch.jit.trace(base.eval(), pictures, check_trace=False), tmp_path / 'w.pt')
    model = other()
    assert 'TorchScript' in str(load_weights(model, tmp_path / 'w.pt'))
    assert same(model, base.state_dict())


class Attributes(torch.nn.Module):
    """Attributes of every kind that a scripted wrapper has, beside its tensors."""

    names: list[str]
    counts: dict[str, int]
    tensors: list[torch.Tensor]

    def __init__(self):
        super().__init__()
        self.names, self.counts, self.tensors = ['a'], {'b': 1}, [torch.ones(2)]
        self.sizes, self.nothing, self.device = [(1, 2)], None, torch.device('cpu')
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.filterwarnings('ignore:.torch.jit')
def test_attributes_of_an_archive_do_no_harm(tmp_path):
    torch.jit.script(Attributes()).save(str(tmp_path / 'w.pt'))
    assert read_weights(tmp_path / 'w.pt').state_dict.keys() == {'layer.weight', 'layer.bias'}


def test_code_in_a_file_does_not_run(in_tmp):
    torch.save({'w': Malicious()}, 'w.pth')
    (in_tmp / 'old.pth').write_bytes(pickle.dumps(Malicious()))
    for name in ('w.pth', 'old.pth'):
        with pytest.raises(ValueError, match=name):
            read_weights(name)
    assert not (in_tmp / 'owned').exists()


def test_whole_models_are_refused_with_advice(tmp_path, base):
    torch.save(base, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'state_dict\(\)'):
        read_weights(tmp_path / 'w.pth')


@pytest.mark.parametrize('content', [b'', b'not a weight file', b'PK\x03\x04 half a zip'])
def test_junk_is_named(tmp_path, content):
    (tmp_path / 'w.pth').write_bytes(content)
    with pytest.raises(ValueError, match=r'w\.pth'):
        read_weights(tmp_path / 'w.pth')


def test_pictures_and_pointers_are_called_so(tmp_path):
    for begin, what in (
        (b'\x89PNG\r\n\x1a\n', 'a PNG picture'),
        (b'\xff\xd8\xff\xe0', 'a JPEG picture'),
        (b'version https://git-lfs.github.com/spec/v1', 'a Git LFS pointer'),
    ):
        (tmp_path / 'w.pth').write_bytes(begin + bytes(100))
        with pytest.raises(ValueError, match=rf'w\.pth: not a weight file but {what}'):
            read_weights(tmp_path / 'w.pth')


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['zip', 'old', 'script', 'safetensors'])
def test_damaged_files_are_named_whatever_the_damage(tmp_path, kind):
    small = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).eval()
    path = tmp_path / ('w.safetensors' if kind == 'safetensors' else 'w.pth')
    if kind == 'safetensors':
        save_file(small.state_dict(), path)
    elif kind == 'script':
        torch.jit.save(torch.jit.trace(small, torch.rand(2, 3)), path)
    else:
        torch.save(small.state_dict(), path, _use_new_zipfile_serialization=kind == 'zip')
    assert len(read_weights(path).state_dict) == 7
    whole, rng, messages = path.read_bytes(), random.Random(0), []
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))])
        try:
            read_weights(path)
        except ValueError as error:
            messages.append(str(error))
        except MemoryError:
            pass
    assert len(messages) > 30
    assert [message for message in messages if not message.startswith(f'{path}: ')] == []


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'w\.pth'):
        read_weights(tmp_path / 'w.pth')


def test_training_state_is_recognised(tmp_path):
    torch.save({'optimizer': {}, 'progress': {}}, tmp_path / 'epoch-0.state.pth')
    with pytest.raises(ValueError, match='training state'):
        read_weights(tmp_path / 'epoch-0.state.pth')


def test_base_inside_refine_needs_leave(base):
    model = MattingRefine('mobilenetv2')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r'holds MattingBase mobilenetv2; 20 missing: refiner\.conv1'):
        load_weights(model, base.state_dict())
    assert same(model, before)
    report = load_weights(model, base.state_dict(), allow_missing=['refiner.'])
    assert (report.matched, report.total) == (362, 382)
    assert 99 < report.percent < 100
    assert report.missing[0] == 'refiner.conv1.weight'
    assert same(model, {**before, **base.state_dict()})


def test_another_backbone_is_named(base):
    with torch.device('meta'):
        model = MattingBase('resnet50')
    with pytest.raises(ValueError, match=r'does not fit .*MattingBase resnet50.*holds MattingBase mobilenetv2'):
        load_weights(model, base.state_dict())


def test_nothing_matched_is_an_error(base):
    with pytest.raises(ValueError, match='no tensor matches'):
        load_weights(base, {'a': torch.zeros(1)}, allow_missing=[''], allow_unexpected=[''])


def imagenet(model):
    """What torchvision's file of ImageNet weights would hold for the encoder of a model."""
    g = torch.Generator().manual_seed(5)
    state = {}
    for name, tensor in model.backbone.state_dict().items():
        shape = (tensor.shape[0], 3, *tensor.shape[2:]) if name == 'features.0.0.weight' else tensor.shape
        state[name] = torch.rand(shape, generator=g).to(tensor.dtype)
    state['features.18.0.weight'] = state['classifier.1.weight'] = state['classifier.1.bias'] = torch.zeros(3)
    return state


def test_imagenet_weights_see_the_difference(tmp_path):
    model = other()
    state = imagenet(model)
    torch.save(state, tmp_path / 'w.pth')
    report = initialize(model, tmp_path / 'w.pth')
    assert report.matched == len(model.backbone.state_dict())
    assert str(report).startswith(f'{tmp_path / "w.pth"}: {report.matched} of 362 tensors, ')
    stem = model.backbone.features[0][0].weight
    torch.testing.assert_close(stem[:, :3], state['features.0.0.weight'])
    torch.testing.assert_close(stem[:, 3:], -state['features.0.0.weight'])
    torch.testing.assert_close(model.backbone.features[17].conv[0][0].weight, state['features.17.conv.0.0.weight'])


def test_deeplab_file_fills_the_aspp_too(tmp_path):
    model, source = other(), imagenet(MattingBase('mobilenetv2'))
    state = {}
    for name, tensor in source.items():
        if name.startswith('features.'):
            number = int(name.split('.')[1])
            part = 'low_level_features' if number < 4 else 'high_level_features'
            if number < 18:
                state[f'backbone.{part}.{name.removeprefix("features.")}'] = tensor
    for name, tensor in model.aspp.state_dict().items():
        state[f'classifier.classifier.0.{name}'] = torch.full_like(tensor, 7)
    torch.save({'model_state': state}, tmp_path / 'deeplab.pth')
    report = initialize(model, tmp_path / 'deeplab.pth')
    assert report.matched == len(model.backbone.state_dict()) + len(model.aspp.state_dict())
    assert (model.aspp.project[0].weight == 7).all()
    torch.testing.assert_close(model.backbone.features[4].conv[0][0].weight, source['features.4.conv.0.0.weight'])


def test_pretrained_file_of_another_backbone(tmp_path):
    torch.save(imagenet(other()), tmp_path / 'w.pth')
    message = f'^{re.escape(str(tmp_path / "w.pth"))} does not hold pretrained weights for resnet50: '
    with pytest.raises(ValueError, match=message):
        initialize(MattingBase('resnet50'), tmp_path / 'w.pth')


def test_a_six_channel_stem_stays_as_it_is():
    stem = torch.rand(4, 6, 3, 3)
    assert widen_stem(stem) is stem
