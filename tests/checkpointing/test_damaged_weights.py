"""Whatever takes weights refuses a file that its record or its archive shows to be damaged: one line, exit code 2."""

import contextlib
import importlib
import random
import warnings
import zipfile

import pytest
import torch
from support import checkpoint_folders
from support.evaluate_case import make_set
from support.inference_case import room, save
from support.videos import moving, write_video

import checkpoints
from inference import Matting
from model.weights import archive_about

MODEL = '--model-type mattingbase --model-backbone mobilenetv2 --device cpu --model-checkpoint FILE'
EXPORT = '--model-type mattingbase --model-backbone mobilenetv2 --model-checkpoint FILE'
PICTURES = '--images-src photo.png --images-bgr plate.png --output-dir out --output-types pha'
VIDEO = '--video-src v.mp4 --video-bgr plate.png --output-dir out --output-types pha'
WEBCAM = '--source v.mp4 --headless 1 --output-dir out --plate plate.png'
STAGE = '--dataset-name synthetic --model-backbone mobilenetv2 --model-name new --device cpu --synthetic-size 4 '
STAGE += '--train-resolution 64 --batch-size 2 --num-workers 0 --valid-samples 2'
DOORS = {
    'images': f'inference_images {MODEL} {PICTURES}',
    'video': f'inference_video {MODEL} {VIDEO}',
    'webcam': f'inference_webcam {MODEL} {WEBCAM}',
    'speed': f'inference_speed_test {MODEL} --resolution 64 64',
    'evaluate': 'evaluate --checkpoint FILE --testset set --device cpu',
    'coreml': f'export_coreml {EXPORT} --output x.mlpackage --resolution 64 64',
    'onnx': f'export_onnx {EXPORT} --output x.onnx',
    'torchscript': f'export_torchscript {EXPORT} --output x.pt',
    'base': f'train_base {STAGE} --model-last-checkpoint FILE',
    'pretrained': f'train_base {STAGE} --model-pretrain-initialization FILE',
    'refine': f'train_refine {STAGE} --model-last-checkpoint auto --model-start-weights FILE',
    'average': 'checkpoints average FILE other.pth -o x.pth',
    'convert': 'checkpoints convert FILE -o x.pth',
}
ARCHIVE_DOORS = {door: f'{DOORS[door]} --backend torchscript' for door in ('images', 'video', 'webcam', 'speed')}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A weight file of a run that still has its name, and a copy elsewhere."""
    folder = tmp_path_factory.mktemp('weights')
    recorded = checkpoint_folders.make(folder / 'run', {1: 0.5}) / 'epoch-0-iter-1.pth'
    foreign = folder / 'foreign.pth'
    foreign.write_bytes(recorded.read_bytes())
    return {'recorded': recorded, 'foreign': foreign}


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    """A TorchScript archive that says something of itself."""
    path = tmp_path_factory.mktemp('archive') / 'a.pt'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(torch.nn.Conv2d(3, 3, 1), torch.rand(1, 3, 8, 8))
        torch.jit.save(traced, path, _extra_files={'about.json': '{"backbone_scale": "0.25"}'})
    return path.read_bytes()


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with what the scripts need beside weights."""
    folder = tmp_path_factory.mktemp('place')
    for name in ('photo', 'plate'):
        save(folder / f'{name}.png', room(0))
    checkpoint_folders.foreign(folder / 'other.pth')
    write_video(folder / 'v.mp4', moving(3))
    make_set(folder / 'set')
    return folder


@pytest.fixture(autouse=True)
def _in_place(place, monkeypatch, one_thread):
    monkeypatch.chdir(place)


@contextlib.contextmanager
def flipped(path, entry):
    """A bit in the middle of an archive's entry is another one."""
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(entry))
    data = bytearray(whole)
    lengths = data[info.header_offset + 26 : info.header_offset + 30]
    begin = info.header_offset + 30 + sum(int.from_bytes(lengths[i : i + 2], 'little') for i in (0, 2))
    data[begin + info.file_size // 2] ^= 4
    path.write_bytes(data)
    yield
    path.write_bytes(whole)


def refused(capsys, command, path):
    """What a script says of a file that it does not take."""
    script, *words = command.replace('FILE', str(path)).split()
    assert importlib.import_module(script).main(words) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    return err


@pytest.mark.parametrize(('kind', 'how'), [('recorded', 'sha256 of its record'), ('foreign', 'have its checksum')])
@pytest.mark.parametrize('door', DOORS)
def test_every_door_refuses_a_flipped_bit(weights, capsys, door, kind, how):
    path = weights[kind]
    with flipped(path, 'data/0'):
        message = refused(capsys, DOORS[door], path)
    assert f'{path}: damaged: ' in message
    assert how in message


@pytest.mark.parametrize('kind', ['recorded', 'foreign'])
def test_python_callers_get_a_value_error(weights, kind):
    path = weights[kind]
    # Whole weights of another network are refused for that, so damage is looked for and not guessed at.
    with pytest.raises(ValueError, match='not the weights of a matting network'):
        Matting.from_checkpoint(path)
    with flipped(path, 'data/0'), pytest.raises(ValueError, match=f'{path}: damaged: '):
        Matting.from_checkpoint(path)


@pytest.mark.parametrize('entry', ['data/0', 'constants.pkl', '.py', 'about.json', '/version'])
@pytest.mark.parametrize('door', ARCHIVE_DOORS)
def test_every_door_refuses_a_flipped_bit_of_an_archive(archive, tmp_path, capsys, door, entry):
    path = tmp_path / 'a.pt'
    path.write_bytes(archive)
    with flipped(path, entry):
        assert f'{path}: damaged: ' in refused(capsys, ARCHIVE_DOORS[door], path)


def test_what_an_archive_says_of_itself_is_read_or_refused_whatever_the_damage(archive, tmp_path):
    rng, path = random.Random(0), tmp_path / 'a.pt'
    refusals: list[str] = []
    for _ in range(500):
        data = bytearray(archive)
        data[rng.randrange(len(data) - 1000, len(data))] ^= 1 << rng.randrange(8)  # where the directory lies
        path.write_bytes(data)
        try:
            archive_about(path)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(message.startswith(f'{path}: damaged: ') for message in refusals)


def test_a_comparison_says_that_a_file_is_damaged(weights, tmp_path, capsys):
    path = tmp_path / 'damaged.pth'
    path.write_bytes(weights['foreign'].read_bytes())
    with flipped(path, 'data/0'):
        assert checkpoints.main(['diff', str(weights['foreign']), str(path)]) == 1
    assert capsys.readouterr().err.startswith(f'{path}: DAMAGED: ')
