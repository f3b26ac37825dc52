"""export_web.py: a folder with all that the page loads, the runtime from npm or a file, and the page in Chromium."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import export_case, small_encoder
from support.browser import Chrome, needs_chrome
from support.export_case import package
from support.inference_case import photo, room, save

from common.files import digest
from export import parity
from export.web import runtime
from inference.networks import find_network

onnx = pytest.importorskip('onnx')
from export import onnx_file  # noqa: E402

run = functools.partial(export_case.run, 'export_web')
pytestmark = pytest.mark.usefixtures('one_thread')


def results(checkpoint: Path, src: np.ndarray, bgr: np.ndarray) -> dict[str, torch.Tensor]:
    """What the network itself makes of two pictures."""
    network = find_network(checkpoint, backend='pytorch', refine_sample_pixels=800).build()[0].eval()
    return parity.outputs_of(
        network, *(torch.from_numpy(x / np.float32(255)).permute(2, 0, 1)[None] for x in (src, bgr))
    )


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an npm that does what its file says, which stands alone in the PATH."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    monkeypatch.setenv('PATH', str(folder))
    return folder / 'npm'


def program(path: Path, text: str) -> None:
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)


def passed_on(network: object, form: object, about: dict[str, str]) -> object:
    """In place of a conversion, which takes long: a file that returns what it is given."""
    names = {'src': 'pha', 'bgr': 'fgr'}
    values = [onnx.helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, None) for x in (*names, *names.values())]
    nodes = [onnx.helper.make_node('Identity', [name], [output]) for name, output in names.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, 'passed on', values[:2], values[2:]))
    onnx.helper.set_model_props(model, {**about, 'sides_multiple_of': '4'})
    return model


def test_the_folder_holds_what_the_page_loads(tmp_path: Path, checkpoints, capsys, monkeypatch) -> None:
    monkeypatch.setattr(onnx_file, 'convert', passed_on)
    web, packed = tmp_path / 'web', package(tmp_path / 'web.tgz')
    flags = ('--no-validate', '--runtime', packed)
    assert run(checkpoints['mattingrefine'], web, *flags) == 0
    assert 'web: 0.' in (out := capsys.readouterr().out)
    assert f'python -m http.server --directory {web}' in out
    settings = json.loads((web / 'matting.json').read_text())
    libraries = web / settings['runtime']
    assert {path.name: path.read_text() for path in libraries.iterdir()} == {name: name for name in runtime.FILES}
    assert libraries.name == 'onnxruntime-web-1.2.3'
    # Each address in the page, and no other file.
    scripts = ''.join(path.read_text() for path in web.glob('*.*') if path.suffix in ('.html', '.js'))
    names = set(re.findall(r"""['"`(](?:\./)?(\w+\.(?:js|json|onnx|bin))[?'"`]""", scripts))
    assert {path.name for path in web.iterdir()} == names | {'index.html', libraries.name}
    assert not re.findall(r'https?://(?!localhost)', scripts)
    assert settings['sha256'] == digest(web / 'matting.onnx')
    assert (settings['sides_multiple_of'], settings['model']['model_type']) == (4, 'mattingrefine')
    # Picture, plate, and the network's alpha of them.
    width, height = settings['check'].values()
    content, size = (web / 'check.bin').read_bytes(), 4 * width * height
    pictures = np.frombuffer(content[: 2 * size], np.uint8).reshape(2, height, width, 4)
    assert (pictures[..., 3] == 255).all()
    expected = results(checkpoints['mattingrefine'], *pictures[..., :3])['pha'][0, 0].numpy()
    assert expected.std() > 0.01
    found = np.frombuffer(content[2 * size :], '<f4').reshape(height, width)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    # Only what was made here is replaced.
    assert run(checkpoints['mattingrefine'], web, *flags) == 2
    assert f'--output {web}: exists; choose another name, or add -y' in capsys.readouterr().err
    (web / 'robots.txt').write_text('mine')
    assert run(checkpoints['mattingrefine'], web, '-y', *flags) == 2
    assert f'--output {web}: holds robots.txt, which would be lost' in capsys.readouterr().err
    (web / 'matting.json').unlink()
    assert run(checkpoints['mattingrefine'], web, '-y', *flags) == 2
    assert f'--output {web}: is a folder; choose another name' in capsys.readouterr().err


def test_a_package_that_is_none_is_refused(tmp_path: Path, checkpoints, capsys) -> None:
    (tmp_path / 'text.tgz').write_text('text')
    other = package(tmp_path / 'other.tgz', 'left-pad')
    old = package(tmp_path / 'old.tgz', files=runtime.FILES[:1])
    (tmp_path / 'folder').mkdir()
    damaged = bytearray(package(tmp_path / 'damaged.tgz').read_bytes())
    damaged[40:] = bytes(255 - byte for byte in damaged[40:])
    (tmp_path / 'damaged.tgz').write_bytes(damaged)
    for name, about in (('list', '[]'), ('nameless', '{}'), ('odd', '{"name": "onnxruntime-web", "version": "1/2"}')):
        (tmp_path / name / 'dist').mkdir(parents=True)
        for file in runtime.FILES:
            (tmp_path / name / 'dist' / file).touch()
        (tmp_path / name / 'package.json').write_text(about)
    for given, message in (
        ('damaged.tgz', 'not the package onnxruntime-web of npm'),
        ('list', 'not the package onnxruntime-web of npm'),
        ('nameless', 'not the package onnxruntime-web of npm'),
        ('odd', "version '1/2'"),
        ('none.tgz', 'no such file or folder'),
        ('text.tgz', 'not the package onnxruntime-web of npm'),
        ('folder', 'not the package onnxruntime-web of npm'),
        (other.name, 'is the package left-pad, not onnxruntime-web'),
        (old.name, runtime.FILES[1]),
    ):
        assert run(checkpoints['mattingrefine'], tmp_path / 'web', '--runtime', tmp_path / given) == 2
        err = capsys.readouterr().err
        assert err.startswith(f'error: --runtime {tmp_path / given}: ')
        assert message in err
        assert err.count('\n') == 1
    assert not (tmp_path / 'web').exists()


def test_npm_brings_the_version_that_was_tested(tmp_path: Path, npm: Path, checkpoints, capsys) -> None:
    words = (checkpoints['mattingrefine'], tmp_path / 'web')
    assert run(*words) == 2
    assert 'npm is not installed: install Node.js, or give --runtime the file that' in capsys.readouterr().err
    program(npm, 'echo "npm error code ENOTFOUND" >&2; echo "npm error more" >&2; exit 1')
    assert run(*words) == 2
    assert capsys.readouterr().err.startswith(f'error: {runtime.PACK}: npm error code ENOTFOUND; or give --runtime')
    packed = package(tmp_path / 'packed.tgz')
    program(npm, f'test "$1 $2 $3" = "{runtime.PACK[4:]} --pack-destination" && /bin/cp {packed} "$4"')
    assert runtime.obtain(None) == runtime.obtain(packed)


@pytest.fixture(scope='module')
def website(small_checkpoints, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('site') / 'web'
    if shutil.which('npm') is None:
        pytest.skip('npm, which brings the runtime, is not installed')
    with small_encoder.used():
        assert run(small_checkpoints['mattingrefine'], folder, '--no-validate') == 0
    return folder


@pytest.fixture
def server(website: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(website)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


BACKEND = """document.querySelector('#backend')?.textContent"""
MESSAGE = """document.querySelector('#message').textContent"""
ERROR = """document.querySelector('#message.error')?.textContent"""
SAVED = """new Promise((resolve) => {
  HTMLAnchorElement.prototype.click = async function () {
    const bytes = new Uint8Array(await (await fetch(this.href)).arrayBuffer());
    resolve([this.download, btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ''))]);
  };
  document.querySelector('#save').click();
})"""

TWICE = """(() => {
  let asked = 0;
  const media = navigator.mediaDevices, get = media.getUserMedia.bind(media);
  const camera = document.querySelector('#camera');
  media.getUserMedia = (given) => { asked++; return get(given); };
  camera.click();
  camera.click();
  return asked;
})()"""
FAILS = """(() => {
  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function () {
    Worker.prototype.postMessage = post;
    setTimeout(() => this.onmessage({ data: { error: 'no memory' } }));
  };
})()"""


def saved(chrome: Chrome, view: str) -> np.ndarray:
    chrome.evaluate(f"document.querySelector('[value={view}]').click()")
    name, content = chrome.evaluate(SAVED)
    assert name == f'{view}.png'
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_chrome
def test_the_page_gives_the_toolkits_results(tmp_path: Path, server, small_checkpoints) -> None:
    plate = room(0, 130, 94)  # no multiples of 4
    picture = photo(plate, 1)
    src, bgr = save(tmp_path / 'src.png', picture), save(tmp_path / 'bgr.png', plate)
    with small_encoder.used():
        expected = results(small_checkpoints['mattingrefine'], picture, plate)
    camera = ('--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream')
    with Chrome(tmp_path, *camera) as chrome:
        chrome.call('Page.navigate', url=f'http://127.0.0.1:{server.server_port}/')
        assert chrome.until(BACKEND).startswith('WebAssembly, ')
        assert chrome.evaluate('crossOriginIsolated')
        assert float(chrome.evaluate('document.body.dataset.worst')) < 1e-4
        chrome.choose('#src', src)
        chrome.choose('#bgr', bgr)
        assert chrome.until(f'/ in |!/.test({MESSAGE}) && {MESSAGE}').startswith('130 × 94 in ')
        cut_out = saved(chrome, 'com')
        for part, name in ((cut_out[..., :3], 'fgr'), (cut_out[..., 3:], 'pha')):
            exact = 255 * expected[name][0].permute(1, 2, 0).numpy()
            assert np.abs(part - exact).max() < 0.51  # rounded to the nearest of 8 bits
        alpha = saved(chrome, 'pha')
        assert (alpha[..., 0] == cut_out[..., 3]).all()
        # Turned by its EXIF, the picture has the plate's size.
        turned = Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        turned.save(tmp_path / 'turned.jpg', exif=exif, quality=100, subsampling=0)
        chrome.evaluate("document.querySelector('#message').textContent = ''")
        chrome.choose('#src', tmp_path / 'turned.jpg')
        assert chrome.until(f'/ in /.test({MESSAGE}) && {MESSAGE}').startswith('130 × 94 in ')
        assert np.abs(saved(chrome, 'pha')[..., 0].astype(int) - alpha[..., 0]).mean() < 2
        # One line for what is wrong.
        chrome.choose('#bgr', save(tmp_path / 'other.png', room(0, 64, 48)))
        assert chrome.until(ERROR) == 'The picture is 130 × 94, the plate 64 × 48: both must be of one size'
        chrome.choose('#bgr', Path(__file__))
        assert f'{Path(__file__).name}: not a picture' in chrome.until(f'/not a picture/.test({ERROR}) && {ERROR}')
        # A photo behind the subject, once a mouse has asked for it.
        chrome.evaluate("document.querySelector('#backdrop').dispatchEvent(new Event('change'))")  # none was chosen
        assert 'not a picture' in chrome.evaluate(ERROR)
        chrome.call('Page.enable')
        chrome.call('Page.setInterceptFileChooserDialog', enabled=True)
        chrome.click("document.querySelector('[value=picture]').parentElement")
        chrome.evaluate('new Promise((resolve) => setTimeout(resolve, 500))')
        assert 'Page.fileChooserOpened' in chrome.events
        chrome.choose('#backdrop', src)
        chrome.until("document.querySelector('[value=picture]').checked")
        # The camera, asked for twice at once: one, which goes on after an error.
        assert chrome.evaluate(TWICE) == 1
        chrome.until("!document.querySelector('#plate').hidden")
        for wrong in ('', FAILS):
            chrome.evaluate(wrong)
            if wrong:
                assert chrome.until(ERROR) == 'no memory'
            assert chrome.evaluate(
                "document.querySelector('#plate').click(), document.querySelector('#plate').disabled"
            )
            assert chrome.until(f'/pictures a second/.test({MESSAGE}) && {MESSAGE}').startswith('640 × ')
        # No network.
        server.shutdown()
        server.server_close()
        chrome.call('Page.navigate', url=f'http://127.0.0.1:{server.server_port}/')
        assert chrome.until(f'{BACKEND} || {ERROR}').startswith('WebAssembly, ')


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_chrome
@pytest.mark.parametrize('name', ['matting.onnx', 'matting.js'])
def test_the_page_says_that_a_file_is_missing(tmp_path: Path, website: Path, server, name: str) -> None:
    (website / name).rename(tmp_path / 'aside')
    picture = save(tmp_path / 'picture.png', room(0, 64, 48))
    try:
        with Chrome(tmp_path) as chrome:
            chrome.call('Page.navigate', url=f'http://127.0.0.1:{server.server_port}/')
            message = f'{name} is missing: copy the whole folder that export_web.py wrote'
            assert chrome.until(ERROR) == message
            chrome.choose('#src', picture)
            chrome.until(f'/plate/.test({MESSAGE})')
            chrome.choose('#bgr', picture)
            assert chrome.until(ERROR) == message
            chrome.evaluate("document.querySelector('#camera').click()")
            assert 'No camera can be used' in chrome.until(f'/camera/.test({ERROR}) && {ERROR}')
    finally:
        (tmp_path / 'aside').rename(website / name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_chrome
def test_the_page_leaves_other_sites_alone(tmp_path: Path, website: Path, server) -> None:
    aside = tmp_path / 'aside'
    kept = """caches.keys().then(([name]) => caches.open(name)).then((cache) => cache.keys())
      .then((all) => all.map((request) => request.url))"""
    url = f'http://127.0.0.1:{server.server_port}/'
    with Chrome(tmp_path) as chrome:
        chrome.call('Page.navigate', url=url)
        chrome.until(f'navigator.serviceWorker.controller && ({BACKEND} || {ERROR})')
        (website / 'robots.txt').write_text('first')
        try:
            asked = """Promise.all(['robots.txt', 'robots.txt?1', 'page.js?1'].map((name) =>
              fetch(name, { cache: 'no-store' }).then((answer) => answer.text())))"""
            assert chrome.evaluate(asked)[:2] == ['first', 'first']
            (website / 'robots.txt').write_text('second')
            assert chrome.evaluate(asked)[:2] == ['second', 'second']
            names = {address.removeprefix(url) for address in chrome.evaluate(kept)}
            assert {'', 'page.js', 'matting.json'} <= names
            assert not [name for name in names if 'robots' in name or name == 'page.js?1']
        finally:
            (website / 'robots.txt').unlink()
        (website / 'index.html').rename(aside)
        try:
            (website / 'index.html').write_text('<p id=message>Another')
            chrome.call('Page.navigate', url=url)
            chrome.until("document.querySelector('#message')?.textContent === 'Another'")
            assert chrome.evaluate('navigator.serviceWorker.getRegistrations().then((all) => all.length)') == 0
            assert chrome.evaluate('caches.keys()') == []
        finally:
            aside.rename(website / 'index.html')
