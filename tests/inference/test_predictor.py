"""`Matting`: pictures, files and tensors in, mattes out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import golden
from torch import Tensor, nn

import inference.predictor
from inference import Matting
from inference.matte import NotFiniteError, Pending
from model import MattingRefine


class Difference(nn.Module):
    """Alpha = how much picture and plate differ; foreground = the picture. A network that can be checked by hand."""

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pha = (src - bgr).abs().amax(1, keepdim=True)
        return pha, src, 0.4 * pha, pha


@pytest.fixture
def matting() -> Iterator[Matting]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Matting(Difference(), device='cpu')
    torch.set_num_threads(threads)


def pictures(count: int, width: int = 9, height: int = 7) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8) for i in range(count)]


def difference(src: np.ndarray, bgr: np.ndarray) -> np.ndarray:
    return np.abs(src.astype(int) - bgr).max(2)


def test_arrays_in_and_arrays_out_keep_every_level(matting: Matting) -> None:
    src, bgr = pictures(2)
    matte = matting(src, bgr, err=True)
    assert matte.pha.dtype == matte.fgr.dtype == np.uint8
    assert np.array_equal(matte.pha, difference(src, bgr))
    assert np.array_equal(matte.fgr, src)
    assert np.array_equal(matte.err, np.rint(0.4 * difference(src, bgr)))
    assert matte.ref is None


def test_batches_take_one_plate_or_one_each(matting: Matting) -> None:
    *srcs, bgr = pictures(4)
    for plates in ([bgr], [bgr, srcs[0], bgr]):
        mattes = matting.batch(srcs, plates)
        each = plates * 3 if len(plates) == 1 else plates
        for matte, src, plate in zip(mattes, srcs, each):
            assert np.array_equal(matte.pha, difference(src, plate))
    with pytest.raises(ValueError, match='3 pictures and 2 plates'):
        matting.batch(srcs, [bgr, bgr])


def test_files_are_read_and_a_plate_only_once(
    matting: Matting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, bgr, other = pictures(3)
    for name, picture in (('src', src), ('bgr', bgr)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), picture[..., ::-1])
    read: list[str] = []
    plain = inference.predictor.read_rgb

    def counted(path: Path, profile: bytes | None) -> np.ndarray:
        read.append(path.name)
        return plain(path, profile=profile)

    monkeypatch.setattr(inference.predictor, 'read_rgb', counted)
    for _ in range(3):
        matte = matting(tmp_path / 'src.png', str(tmp_path / 'bgr.png'))
        assert np.array_equal(matte.pha, difference(src, bgr))
    assert read.count('bgr.png') == 1
    cv2.imwrite(str(tmp_path / 'bgr.png'), other[..., ::-1])  # a new plate under the old name is noticed
    os.utime(tmp_path / 'bgr.png', ns=(1, 1))
    assert np.array_equal(matting(src, tmp_path / 'bgr.png').pha, difference(src, other))


@pytest.mark.parametrize(
    'bad', [np.zeros((7, 9, 3), np.float32), np.zeros((7, 9), np.uint8), np.zeros((7, 9, 4), np.uint8)]
)
def test_other_arrays_are_refused(matting: Matting, bad: np.ndarray) -> None:
    good = pictures(1)[0]
    for arguments in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match=r'must be uint8 RGB \(H, W, 3\), not'):
            matting(*arguments)


def test_sizes_that_differ_are_refused_with_both(matting: Matting) -> None:
    with pytest.raises(ValueError, match='not 10x7, 9x7'):
        matting(pictures(1)[0], pictures(1, 10)[0])


def test_tensors_go_through_predict(matting: Matting) -> None:
    src, bgr = torch.rand(2, 3, 5, 6), torch.rand(2, 3, 5, 6)
    results = matting.predict(src, bgr, err=True)
    assert set(results) == {'pha', 'fgr', 'err'}
    assert torch.equal(results['pha'], (src - bgr).abs().amax(1, keepdim=True))
    with pytest.raises(ValueError, match='no ref'):
        matting.predict(src, bgr, ref=True)


def test_err_and_ref_lie_on_the_pictures_pixels() -> None:
    class Refined(nn.Module):
        def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, ...]:
            err_sm = torch.linspace(0, 1, 5).view(1, 1, 1, 5).expand(1, 1, 4, 5)
            ref_sm = torch.tensor([[[[0.0, 1, 0], [1, 0, 1]]]])
            return src[:, :1], src, src, src, err_sm, ref_sm

    src = pictures(1, width=10, height=7)[0]
    matte = Matting(Refined(), 'cpu')(src, src, err=True, ref=True)
    cells = np.kron([[0, 255, 0], [255, 0, 255]], np.ones((4, 4)))[:7, :10]
    assert np.array_equal(matte.ref, cells)
    assert matte.err is not None
    assert matte.err.shape == (7, 10)
    # Enlarged to the 12 columns that were computed, then cut: not squeezed into 10.
    expected = np.interp((np.arange(10) + 0.5) * 5 / 12 - 0.5, np.arange(5), np.linspace(0, 255, 5))
    assert np.abs(matte.err[3] - expected).max() <= 1


def test_the_network_is_read_off_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MattingRefine('mobilenetv2', backbone_scale=0.5, refine_sample_pixels=160).eval()
    torch.save(model.state_dict(), tmp_path / 'm.pth')
    matting = Matting.from_checkpoint(tmp_path / 'm.pth', device='cpu', backbone_scale=0.5, refine_sample_pixels=160)
    assert str(matting.loaded).startswith(str(tmp_path / 'm.pth'))
    src, bgr = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        expected = model(src, bgr)
    found = matting.predict(src, bgr)
    # BatchNorm is folded in the predictor.
    torch.testing.assert_close(found['pha'], expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found['fgr'], expected[1], atol=1e-5, rtol=0)


def test_a_picture_that_is_not_finite_fails_alone(matting: Matting) -> None:
    class Damaged(nn.Module):
        def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor]:
            pha = src[:, :1].clone()
            pha[1, 0, 2, 3] = float('nan')
            return pha, src

    srcs = pictures(3)
    damaged = Matting(Damaged(), 'cpu')
    pending = damaged.submit([damaged.staged(src) for src in srcs], [damaged.plate(srcs[0])] * 3)
    for i in (0, 2):
        assert np.array_equal(pending.matte(i).pha, srcs[i][..., 0])
    with pytest.raises(ValueError, match='not finite in float32; the weights are damaged'):
        pending.matte(1)
    half = Pending({'pha': torch.zeros(1, 2, 2)}, torch.tensor([False]), torch.float16)
    with pytest.raises(NotFiniteError, match='not finite in float16; use --precision float32 or bfloat16'):
        half.result()


def test_plates_in_turn_and_in_batches_give_what_single_pictures_give() -> None:
    matting = Matting(golden.fill(MattingRefine('mobilenetv2', refine_sample_pixels=320)), 'cpu')
    first, second, one, other = pictures(4, 64, 50)
    expected = {(i, j): matting.predict(*tensors(x, y))['pha'][0, 0] for i, x in enumerate((first, second))
                for j, y in enumerate((one, other))}  # fmt: skip
    plates = [matting.plate(one), matting.plate(other)]
    for i, j in [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]:
        src = matting.staged((first, second)[i])
        assert_near(matting.submit([src], [plates[j]]).matte(0).pha, expected[i, j])
    both = [matting.staged(x) for x in (first, second)]
    for chosen in ([0, 0], [0, 1], [1, 1]):
        pending = matting.submit(both, [plates[j] for j in chosen])
        for i, j in enumerate(chosen):
            assert_near(pending.matte(i).pha, expected[i, j])


def test_another_network_may_return_what_it_keeps() -> None:
    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer('kept', torch.full((1, 1, 1, 1), 0.5))

        def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            pha = self.kept.expand(1, 1, *src.shape[2:])
            return pha, src, pha, pha

    matting = Matting(Keeper(), 'cpu')
    for _ in range(3):
        assert (matting(*pictures(2)).pha == 128).all()


def tensors(*given: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in given]


def assert_near(pha: np.ndarray, expected: Tensor) -> None:
    assert np.abs(pha - 255 * expected.numpy()).max() < 0.51


def test_half_precision_is_of_the_weights_and_close() -> None:
    model = golden.fill(MattingRefine('mobilenetv2', refine_sample_pixels=160))
    src, bgr = pictures(2, 64, 48)
    exact, half = (Matting(model, 'cpu', precision)(src, bgr, err=True) for precision in ('float32', 'bfloat16'))
    assert {p.dtype for p in Matting(model, 'cpu', 'bfloat16').model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for got, want in ((half.pha, exact.pha), (half.fgr, exact.fgr), (half.err, exact.err)):
        difference = np.abs(got.astype(int) - want)
        assert 0 < difference.mean() < 4


def test_a_precision_or_device_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match='--precision half: must be one of auto, float32, bfloat16, float16'):
        Matting(Difference(), 'cpu', 'half')
    with pytest.raises(ValueError, match='--device gpu: must be'):
        Matting(Difference(), 'gpu')


@pytest.mark.filterwarnings('error')
def test_read_only_arrays_do_not_warn(matting: Matting) -> None:
    src, bgr = pictures(2)
    for picture in (src, bgr):
        picture.setflags(write=False)
    assert np.array_equal(matting(src, bgr).pha, difference(src, bgr))
