"""What was written for Background Matting V2 runs here, or is told what to use instead."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import export_onnx
from common.published import ELSEWHERE
from dataset import ImagesDataset, SampleDataset, VideoDataset, ZipDataset
from dataset.paths import read_data_config
from model import MattingRefine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'from-bmv2.md').read_text()
BACKBONE = '--model-backbone mobilenetv2 --model-backbone-scale 0.25 --model-checkpoint model.pth'
REFINER = '--model-refine-mode sampling --model-refine-sample-pixels 80000'
NETWORK = f'--model-type mattingrefine {BACKBONE} {REFINER} --model-refine-threshold 0.7'
TRAINING = """--dataset-name videomatte240k --model-backbone resnet50 --model-name run --model-last-checkpoint base.pth
    --batch-size 8 --num-workers 16 --epoch-start 0 --epoch-end 8 --log-train-loss-interval 10
    --log-train-images-interval 2000 --log-valid-interval 5000 --checkpoint-interval 5000"""
# Every flag of every published script.
COMMANDS = {
    'train_base': f'{TRAINING} --model-pretrain-initialization best_deeplabv3_resnet50_voc_os16.pth',
    'train_refine': f"""{TRAINING} --model-backbone-scale 0.25 {REFINER} --model-refine-thresholding 0.7
        --model-refine-kernel-size 3""",
    'inference_images': f"""{NETWORK} --model-refine-kernel-size 3 --images-src src --images-bgr bgr --device cuda
        --num-workers 8 --preprocess-alignment --output-dir out --output-types com pha fgr err ref -y""",
    'inference_video': f"""{NETWORK} --model-refine-kernel-size 3 --video-src walk.mp4 --video-bgr plate.png
        --video-target-bgr beach.mp4 --video-resize 1920 1080 --device cuda --preprocess-alignment --output-dir out
        --output-types com pha fgr err ref --output-format image_sequences""",
    'inference_webcam': f"""{NETWORK} --hide-fps --resolution 1280 720 --precision float16 --backend torchscript
        --video_device_id 0""",
    'inference_speed_test': f"""{NETWORK} --model-refine-kernel-size 3 --batch-size 1 --resolution 1920 1080
        --precision float16 --backend torchscript --device cuda --image-src src.png --image-bgr bgr.png""",
    'export_onnx': f"""{NETWORK} --model-refine-kernel-size 3 --model-refine-patch-crop-method roi_align
        --model-refine-patch-replace-method scatter_element --onnx-verbose True --onnx-opset-version 12
        --onnx-constant-folding --device cpu --precision float16 --validate --output model.onnx""",
    'export_torchscript': """--model-backbone resnet50 --model-checkpoint model.pth --precision float16
        --output model.pth""",
}


@pytest.mark.parametrize('script', COMMANDS)
def test_every_published_flag_is_accepted(script: str, in_tmp: Path) -> None:
    words = shlex.split(COMMANDS[script])
    for word in [*words, 'data_path.toml']:
        if word.endswith(('.pth', '.toml')):
            Path(word).touch()
    parts = [f'[videomatte240k.{part}]\nfgr = "."\npha = "."' for part in ('train', 'valid')]
    Path('data_path.toml').write_text('\n'.join([*parts, '[backgrounds]', 'train = "."', 'valid = "."']))
    args = importlib.import_module(script).parse(words)
    value = words[words.index('--model-backbone') + 1]
    assert args.model_backbone in (value, [value])
    assert set(re.findall(r'(?<!\S)(--?[a-z][\w-]*)', COMMANDS[script])) <= set(re.findall(r'`(--?[\w-]+)`', PAGE))


def test_the_exporter_says_what_it_does_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'model.pth').touch()
    flags = shlex.split(COMMANDS['export_onnx'].replace('model.', f'{tmp_path}/model.'))
    assert export_onnx.main(flags) == 2  # the weights are empty
    *notes, error = capsys.readouterr().err.splitlines()
    assert [note.split(':')[1].split()[0] for note in notes] == [
        '--model-refine-patch-crop-method', '--model-refine-patch-replace-method', '--onnx-constant-folding',
        '--onnx-verbose', '--device', '--onnx-opset-version',
    ]  # fmt: skip
    assert notes[-1] == 'note: --onnx-opset-version 12: 18 is the oldest that torch writes, and taken'
    assert 'model.pth' in error


def test_the_refining_network_takes_all_published_arguments_in_their_order() -> None:
    torch.manual_seed(0)
    given = MattingRefine('mobilenetv2', 0.5, 'sampling', 640, 0.1, 3, True, 'roi_align', 'scatter_element').eval()
    network = MattingRefine('mobilenetv2', 0.5, 'sampling', 640, 0.1, 3, True).eval()
    network.load_state_dict(given.state_dict())
    src, bgr = torch.rand(2, 1, 3, 64, 48)
    with torch.no_grad():
        for one, other in zip(given(src, bgr), network(src, bgr), strict=True):
            assert torch.equal(one, other)


def test_published_data_sets_go_together(tmp_path: Path) -> None:
    for folder, level in (('src', 50), ('bgr', 200)):
        (tmp_path / folder / 'deep').mkdir(parents=True)
        picture = np.full((8, 10, 3), level, np.uint8)
        picture[:, :5] = 0
        cv2.imwrite(str(tmp_path / folder / 'deep' / '1.png'), picture)
    transforms = v2.Compose([v2.RandomHorizontalFlip(1), v2.PILToTensor()])
    folders = [ImagesDataset(tmp_path / 'src', mode='RGB'), ImagesDataset(str(tmp_path / 'bgr'), 'RGB')]
    pairs = ZipDataset(folders, transforms=transforms, assert_equal_length=True)
    src, bgr = SampleDataset(pairs, 50)[0]
    assert (src[0, 0].tolist(), bgr[0, 0].tolist()) == ([50] * 5 + [0] * 5, [200] * 5 + [0] * 5)
    assert Path(pairs.datasets[0].filenames[0]) == tmp_path / 'src' / 'deep' / '1.png'
    writer = cv2.VideoWriter(str(tmp_path / 'walk.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 25, (64, 48))
    writer.write(np.full((48, 64, 3), 99, np.uint8))
    writer.release()
    with VideoDataset(str(tmp_path / 'walk.avi'), transforms=v2.PILToTensor()) as video:
        assert (video.width, video.height, video.frame_rate, video.frame_count) == (64, 48, 25, 1)
        assert video[0].shape == (3, 48, 64)


@pytest.mark.parametrize('name', ELSEWHERE)
def test_published_names_that_are_not_here_say_where_to_look(name: str) -> None:
    module, _, attribute = name.rpartition('.')
    code = f'from {module} import {attribute}' if module else f'import dataset\nimport {name}'
    with pytest.raises(ImportError, match=re.escape(ELSEWHERE[name])):
        exec(code)
    assert f'`{name.removeprefix("dataset.augmentation.")}' in PAGE


def test_other_names_are_missed_as_always() -> None:
    with pytest.raises(ImportError, match='cannot import name'):
        exec('from model import Bass')
    with pytest.raises(ModuleNotFoundError, match="No module named 'inference_util'"):
        exec('import inference_util')


def test_a_module_of_yours_with_a_published_name_is_imported(tmp_path: Path) -> None:
    (tmp_path / 'data_path.py').write_text('DATA_PATH = 5')
    code = f'import sys, dataset; sys.path.append({str(tmp_path)!r}); import data_path; print(data_path.DATA_PATH)'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == '5\n'


def test_a_published_data_path_becomes_toml_by_the_lines_of_the_page(tmp_path: Path) -> None:
    (tmp_path / 'data_path.py').write_text("""DATA_PATH = {
        'mine': {part: {kind: f'D:\\\\it\\'s {part}/{kind}' for kind in ('fgr', 'pha')} for part in ('train', 'valid')},
        'backgrounds': {'train': 'there', 'valid': 'elsewhere'}}""")
    with pytest.raises(ValueError, match=r'data_path.py is Python; docs/from-bmv2.md has the lines'):
        read_data_config(tmp_path / 'data_path.py', 'mine')
    (lines,) = re.findall(r'```python\n(from data_path import DATA_PATH.*?)```', PAGE, re.DOTALL)
    made = subprocess.run(
        [sys.executable, '-c', lines], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert tomllib.loads(made)['mine']['valid']['pha'] == "D:\\it's valid/pha"
    (tmp_path / 'data_path.toml').write_text(made)
    assert read_data_config(tmp_path / 'data_path.toml', 'mine').valid_bgr == tmp_path / 'elsewhere'
