"""A file of another kind, or a folder, where a script expects something else: the script that takes it is named."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from support.inference_case import room, save

IMAGES = 'inference_images --model-checkpoint m.pth --output-dir out --output-types pha'
VIDEO = 'inference_video --model-checkpoint m.pth --output-dir out --output-types pha'
WEBCAM = 'inference_webcam --model-checkpoint m.pth --headless 1 --output-dir out'
EXPORT = 'export_torchscript --output x.pt --model-checkpoint'
VIDEOS = 'inference_video.py takes videos'
NOT_A_PICTURE = f'a video, not a picture; {VIDEOS}'
NOT_A_VIDEO = 'a picture, not a video; inference_images.py takes pictures'
NO_FOLDER = 'a video, not a folder of pictures; make one of it: mkdir talk; ffmpeg -i talk.mp4 talk/%06d.png'


@pytest.fixture(autouse=True)
def place(in_tmp: Path) -> None:
    save(Path('pictures/a.png'), room(0))
    save(Path('photo.png'), room(0))
    for name in ('talk.mp4', 'clips/a.MOV', 'm.pth', 'run/best.pth', 'm.onnx'):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b'what is in it is not looked at')


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        (f'{IMAGES} --images-src talk.mp4 --images-bgr photo.png',
         f'--images-src talk.mp4: must be jpg, {{}}; {VIDEOS}'),
        (f'{IMAGES} --images-src photo.png --images-bgr talk.mp4',
         f'--images-bgr talk.mp4: must be jpg, {{}}; {VIDEOS}'),
        (f'{IMAGES} --images-src clips --images-bgr photo.png',
         f'--images-src clips: no pictures {{}}; {VIDEOS}, one at'),
        (f'{VIDEO} --video-src photo.png --video-bgr photo.png', f'--video-src photo.png: {NOT_A_VIDEO}'),
        (f'{VIDEO} --video-src clips --video-bgr photo.png', '--video-src clips: no such pictures ('),
        (f'{VIDEO} --video-src talk.mp4 --video-bgr clips', '--video-bgr clips: no such pictures ('),
        (f'{WEBCAM} --video-src photo.png', f'--video-src photo.png: {NOT_A_VIDEO}'),
        (f'{WEBCAM} --video-src talk.mp4 --video-bgr talk.mp4', f'--video-bgr talk.mp4: {NOT_A_PICTURE}'),
        ('inference_speed_test --model-checkpoint m.pth --images-src talk.mp4 --images-bgr photo.png',
         f'--images-src talk.mp4: {NOT_A_PICTURE}'),
        (f'{EXPORT} run', '--model-checkpoint run: a folder, not a file; give a file in it, such as run/best.pth'),
        (f'{EXPORT} photo.png', '--model-checkpoint photo.png: a picture, not weights'),
        (f'{EXPORT} m.onnx', '--model-checkpoint m.onnx: exported already; give the weights it was made of'),
        (f'{EXPORT} m.pth --validate-pair talk.mp4 pictures', f'--validate-pair talk.mp4: {NOT_A_PICTURE}'),
        ('evaluate --checkpoint run --testset pictures', '--checkpoint run: a folder, not a file; give a file in it'),
        ('evaluate --predictions talk.mp4 --truth pictures', f'--predictions talk.mp4: {NO_FOLDER}'),
        ('evaluate --predictions pictures --truth photo.png', '--truth photo.png: a picture, not a folder'),
        ('evaluate --checkpoint m.pth --testset talk.mp4',
         f'--testset talk.mp4: {NO_FOLDER}'),
        ('make_testset --fgr talk.mp4 --pha pictures --bgr pictures --output-dir out',
         f'talk.mp4: {NO_FOLDER}'),
    ],
)  # fmt: skip
def test_a_wrong_kind_names_the_script_that_takes_it(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *words = command.split()
    assert importlib.import_module(script).main(words) == 2
    err = capsys.readouterr().err
    begin, _, end = message.partition('{}')
    assert begin in err
    assert end in err.partition(begin)[2]
    assert not Path('out').exists()
