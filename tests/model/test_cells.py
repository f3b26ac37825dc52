"""The Triton kernels for cells, computed by Triton's interpreter, beside what they stand for."""

import importlib
import sys

import pytest
import torch

from model.cells import EAGER, Cells
from model.refiner import fastest_ops


@pytest.fixture(scope='module')
def kernels():
    pytest.importorskip('triton')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRITON_INTERPRET', '1')
        patch.delitem(sys.modules, 'model.cell_kernels', raising=False)
        yield importlib.import_module('model.cell_kernels')
    del sys.modules['model.cell_kernels']


def case(height, width, scale, picture, dtype, batch=2, one_plate=False, kernel=3, channels=5):
    """Everything that the refiner hands on, for pictures (height, width) with cells at all borders."""
    torch.manual_seed(0)
    rows, columns = height // 4, width // 4
    image, row, column = torch.meshgrid(torch.arange(batch), torch.arange(rows), torch.arange(columns), indexing='ij')
    corners = [0, columns - 1, (rows - 1) * columns, batch * rows * columns - 1]
    order = torch.tensor(corners + [i for i in torch.randperm(image.numel()).tolist() if i not in corners][:3])
    cells = Cells(*(x.flatten()[order] for x in (image, row, column)))

    def pictures(divisor, kind, count):
        x = torch.rand(count, 3, height // divisor, width // divisor)
        x = (x * 255).to(kind) if kind == torch.uint8 else x.to(kind)
        return x.contiguous(memory_format=torch.channels_last).expand(batch, -1, -1, -1)

    half_dtype = torch.float32 if picture == torch.uint8 else picture
    plates = 1 if one_plate else batch
    half, full = ([pictures(d, kind, n) for n in (batch, plates)] for d, kind in ((2, half_dtype), (1, picture)))
    coarse = torch.randn(batch, channels, max(1, int(height * scale)), max(1, int(width * scale))).to(dtype)
    keep = torch.rand(len(order)) > 0.3
    margins = (3, 2) if kernel == 3 else (0, 0)
    return coarse, half, full, cells, keep, margins


def assert_equal(found, expected):
    # The interpreter cuts the digits off that bfloat16 has no room for; GPUs round.
    tolerance = 2**-7 if found.dtype == torch.bfloat16 else 0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


CASES = [
    {'height': 32, 'width': 48, 'scale': 1 / 4, 'picture': torch.uint8, 'dtype': torch.float32, 'channels': 36},
    {'height': 40, 'width': 28, 'scale': 1 / 2, 'picture': torch.uint8, 'dtype': torch.float16, 'one_plate': True},
    {'height': 64, 'width': 36, 'scale': 1 / 8, 'picture': torch.float32, 'dtype': torch.bfloat16, 'batch': 1},
    {'height': 28, 'width': 60, 'scale': 0.3, 'picture': torch.float16, 'dtype': torch.float16, 'batch': 3},
    {'height': 16, 'width': 16, 'scale': 1 / 16, 'picture': torch.uint8, 'dtype': torch.float32, 'kernel': 1},
]


@pytest.mark.parametrize('given', CASES)
def test_kernels_compute_what_they_stand_for(kernels, given):
    coarse, half, full, cells, keep, (first, second) = case(**given)
    found, expected = (ops.first_crops(coarse, half, cells, first) for ops in (kernels.OPS, EAGER))
    assert found.dtype == expected.dtype == given['dtype']
    assert found.is_contiguous(memory_format=torch.channels_last)
    # The enlargement is rounded once, where matrix products of its two axes round a 16-bit type twice.
    channels = coarse.shape[1]
    exact = EAGER.first_crops(coarse.float(), half, cells, first)[:, :channels]
    rounding = max(torch.finfo(given['dtype']).eps, 1e-5)
    torch.testing.assert_close(found[:, :channels].float(), exact, rtol=rounding, atol=1e-5)
    assert_equal(found[:, channels:], expected[:, channels:])
    found, expected = (ops.second_crops(full, cells, second, coarse) for ops in (kernels.OPS, EAGER))
    assert found.dtype == given['dtype']
    assert_equal(found, expected)
    refined = torch.randn(len(keep), 4, 4, 4).to(given['dtype'])
    results = []
    for ops in (kernels.OPS, EAGER):
        wholes = [torch.zeros(coarse.shape[0], c, *full[0].shape[2:], dtype=half[0].dtype) for c in (1, 3)]
        ops.put_back(*wholes, refined, cells, keep)
        results.append(wholes)
    for a, b in zip(*results):
        assert torch.equal(a, b)
        assert a.count_nonzero()


def test_kernels_take_numbers_of_cells_that_are_views(kernels):
    """A batch of one has the number of its image once, expanded; what lies behind it in memory are other numbers."""
    coarse, half, full, cells, keep, (first, second) = case(32, 48, 1 / 4, torch.uint8, torch.float32)
    spread = torch.stack([1 - cells.row % 2, cells.row, cells.column], 1)
    views = Cells(torch.tensor([0, 1, 1, 1, 1, 1, 1])[:1].expand(len(keep)), spread[:, 1], spread[:, 2])
    dense = Cells(*(x.clone(memory_format=torch.contiguous_format) for x in views))
    refined = torch.randn(len(keep), 4, 4, 4)

    def everything(cells, keep):
        pha, fgr = (torch.zeros(2, c, 32, 48) for c in (1, 3))
        kernels.OPS.put_back(pha, fgr, refined, cells, keep)
        crops = (
            kernels.OPS.first_crops(coarse, half, cells, first),
            kernels.OPS.second_crops(full, cells, second, coarse),
        )
        return *crops, pha, fgr

    spread_keep = torch.stack([keep, ~keep], 1)[:, 0]
    for found, expected in zip(everything(views, spread_keep), everything(dense, keep)):
        assert torch.equal(found, expected)


@pytest.fixture
def fastest(kernels, monkeypatch):
    """`fastest_ops` of a GPU that is the CPU, with kernels that the test may change."""
    monkeypatch.setitem(sys.modules, 'model.cell_kernels', kernels)

    def choose(**changed):
        monkeypatch.setattr(kernels, 'OPS', kernels.OPS._replace(**changed))
        return fastest_ops.__wrapped__(torch.device('cpu'), torch.float16, torch.float16)

    return choose


def test_kernels_that_do_what_they_should_are_taken(kernels, fastest, capsys):
    assert fastest() is kernels.OPS
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('name', ['first_crops', 'second_crops', 'put_back'])
def test_kernels_that_err_or_fail_are_not_taken_and_that_is_said(fastest, capsys, name):
    def errs(*given):
        changed = getattr(EAGER, name)(*given)
        (given[1] if changed is None else changed)[-1, -1, -1, -1] += 0.01

        return changed

    def fails(*_):
        raise RuntimeError('no driver\nand why')

    for wrong, reason in ((errs, 'Tensor-likes are not close!'), (fails, 'no driver')):
        assert fastest(**{name: wrong}) is EAGER
        said = capsys.readouterr().err
        assert said == f'note: Triton cannot be used here, so some of the refining takes longer: {reason}\n'


def test_where_there_is_no_triton_nothing_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'model.cell_kernels', None)
    assert fastest_ops.__wrapped__(torch.device('cpu'), torch.float16, torch.float16) is EAGER
    assert capsys.readouterr().err == ''
