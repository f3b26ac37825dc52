"""Whether a GPU gives the right results: golden numbers, the CPU's mattes, and the tests that need a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from helpers import drawings, machine
from helpers.bench import Bench
from torch import Tensor, nn

from inference import Matting
from model import MattingBase, MattingRefine

REFINE_NAMES = ('pha', 'fgr', 'pha_sm', 'fgr_sm', 'err_sm', 'ref_sm')
BASE_NAMES = ('pha', 'fgr', 'err', 'hid')
TOLERANCE = 1e-3
# Cells whose predicted errors differ by rounding alone may change places: at most so large a share of them.
CELLS = 0.005
LEVELS = {'float32': 0.01, 'bfloat16': 0.5, 'float16': 0.1}  # of 255, on average over alpha


def exact(bench: Bench) -> None:
    """Golden numbers, networks on the device beside the CPU, and mattes in each precision; float32 without TF32."""
    sys.path.insert(0, str(machine.ROOT / 'tests'))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with np.load(machine.ROOT / 'tests/data/golden.npz') as file:
        numbers = {name: file[name] for name in file}
    for case in dict.fromkeys(name.partition('/')[0] for name in numbers):
        expected = {name.partition('/')[2]: x for name, x in numbers.items() if name.startswith(f'{case}/')}
        with bench.attempt(f'golden numbers, {case}'):
            golden(bench, case, expected)
    for backbone in bench.size(('mobilenetv2', 'resnet50', 'resnet101'), ('mobilenetv2',)):
        with bench.attempt(f'{backbone} beside the CPU'):
            beside_the_cpu(bench, backbone)
    with bench.attempt('mattes'):
        mattes(bench)


def golden(bench: Bench, case: str, expected: dict[str, np.ndarray]) -> None:
    """Compare a network's outputs with stored ones, of which every fourth or eighth pixel is kept."""
    kind, backbone, *_ = case.split('-')
    shape = expected.pop('shape').tolist()
    if kind == 'base':
        found = outputs(MattingBase(backbone), shape, bench.device)
        kept = {name: x[..., ::4, ::4] for name, x in zip(BASE_NAMES, found)}
        kept['hid'] = found[3][:, ::4, ::16, ::16]
        far, moved = largest_difference(kept, expected, None), 0.0
    else:
        settings = {name: expected.pop(name).item() for name in list(expected) if name.startswith('refine_')}
        network = MattingRefine(backbone, expected.pop('scale').item(), **settings)
        named = dict(zip(REFINE_NAMES, outputs(network, shape, bench.device)))
        cells = named.pop('ref_sm').astype(bool)
        changed = np.unpackbits(expected.pop('ref_sm'), count=cells.size).reshape(cells.shape) != cells
        kept = {name: x[..., ::8, ::8] if name in ('pha', 'fgr') else x[..., ::4, ::4] for name, x in named.items()}
        far, moved = largest_difference(kept, expected, changed[..., ::2, ::2]), float(changed.mean())
    bench.row(f'golden numbers, {case}', ok=far < TOLERANCE and moved <= CELLS, largest=far, cells_changed=moved)


def beside_the_cpu(bench: Bench, backbone: str) -> None:
    """Compare all of a network's outputs with those that the CPU gives."""
    shape = bench.size((2, 3, 540, 960), (2, 3, 132, 164))
    network = MattingRefine(backbone, refine_sample_pixels=shape[2] * shape[3] // 10)
    expected, found = (
        dict(zip(REFINE_NAMES, outputs(network, shape, device))) for device in (torch.device('cpu'), bench.device)
    )
    changed = expected.pop('ref_sm') != found.pop('ref_sm')
    whole = changed.repeat(4, 2).repeat(4, 3)[..., : shape[2], : shape[3]]
    far, moved = largest_difference(found, expected, whole), float(changed.mean())
    what = f'{backbone} beside the CPU, float32 without TF32'
    bench.row(what, ok=far < TOLERANCE and moved <= CELLS, largest=far, cells_changed=moved)


def outputs(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> list[np.ndarray]:
    """Return a network's outputs for the weights and pictures of the golden numbers."""
    from support import golden

    inputs: list[Tensor] = [golden.image(name, *shape).to(device) for name in ('src', 'bgr')]
    with torch.no_grad():
        return [x.cpu().numpy() for x in golden.fill(network).to(device)(*inputs)]


def largest_difference(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], changed: np.ndarray | None
) -> float:
    """Return the largest difference of any output, without alpha and colours of pixels whose cell has changed."""
    differences = {name: np.abs(found[name] - values) for name, values in expected.items()}
    if changed is not None:
        for name in ('pha', 'fgr'):
            differences[name] = differences[name] * ~changed
    return float(max(x.max() for x in differences.values()))


def mattes(bench: Bench) -> None:
    """Compare mattes of drawn photographs in each precision with the CPU's in float32, in levels of 255.

    With all cells refined, they are held against limits. With the cells of largest error, half precision chooses others
    now and then, whose alpha is another thing with these weights, which no training has made meet the coarse result.
    """
    from support.inference_case import spread_out

    size = bench.size((960, 540), (192, 128))
    torch.manual_seed(drawings.SEED)
    network = MattingRefine('mobilenetv2', refine_sample_pixels=size[0] * size[1] // 25).eval()
    spread_out(network)
    with TemporaryDirectory() as folder:
        files, plate = drawings.photographs(Path(folder), 2, *size)
        for network.refiner.mode in ('full', 'sampling'):
            expected = [Matting(network, 'cpu', 'float32')(file, plate) for file in files]
            for precision in ('float32', 'bfloat16', *(['float16'] if bench.cuda else [])):
                matting = Matting(network, bench.device, precision)
                for count in (1, 2):
                    found = matting.batch(files[:count], [plate])
                    far = np.stack([np.abs(a.pha.astype(int) - b.pha) for a, b in zip(found, expected)])
                    ok = bool(far.mean() < LEVELS[precision]) if network.refiner.mode == 'full' else None
                    what = f'alpha in {precision} beside the CPU in float32, {network.refiner.mode}, levels of 255'
                    bench.row(
                        f'{what}, batch of {count}', ok, mean=float(far.mean()), largest=int(far.max()),
                        above_2=float((far > 2).mean()),
                    )  # fmt: skip


def tests(bench: Bench) -> None:
    """The tests that need a GPU, a row each."""
    import pytest

    class Reporter:
        """Writes a row for each test as it ends."""

        def pytest_runtest_logreport(self, report: Any) -> None:
            name = report.nodeid.partition('::')[2].replace('_', ' ')
            if report.skipped:
                bench.row(name, skipped=report.longrepr[2].removeprefix('Skipped: '))
            elif report.failed:
                lines = [line for line in str(report.longrepr).splitlines() if line.startswith('E ')]
                bench.row(name, ok=False, error=lines[0][1:].strip()[:200] if lines else report.when)
            elif report.when == 'call':
                bench.row(name, ok=True, seconds=report.duration)

    file = machine.ROOT / 'tests/cuda/test_gpu.py'
    code = pytest.main(['-p', 'no:cacheprovider', '--rootdir', str(machine.ROOT), str(file)], [Reporter()])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f'pytest ended with {code!r}')
