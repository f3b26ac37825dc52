"""How many pictures are computed at once, and what happens where these do not fit into memory."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from inference import Matting
from inference.batching import BatchSize, Loaded, compute_batches
from model import MattingBase, MattingRefine

HD, FOUR_K, PHOTO = (1080, 1920, 3), (2160, 3840, 3), (4000, 6000, 3)


@dataclass(frozen=True, kw_only=True)
class Item(Loaded):
    name: int
    error: str = ''


class FullMatting:
    """A predictor on a GPU that has memory for a few pictures."""

    device, memory_factor = torch.device('cuda', 0), 1

    def __init__(self, room):
        self.room, self.sizes = room, []

    def submit(self, srcs, plates, err, ref):
        self.sizes.append(len(srcs))
        if len(srcs) > self.room:
            raise torch.OutOfMemoryError('CUDA out of memory.')
        return SimpleNamespace(names=[int(x[0, 0, 0]) for x in srcs])


def items(count):
    pictures = [torch.full((16, 16, 3), i, dtype=torch.uint8) for i in range(count)]
    return [Item(name=i, inputs=(picture, None)) for i, picture in enumerate(pictures)]


def computed(matting, count, size=None, **more):
    return list(compute_batches(items(count), matting, size, (), **more))


def test_a_batch_that_does_not_fit_is_halved_and_so_are_those_that_follow(capsys):
    matting = FullMatting(room=2)
    done = computed(matting, 13)
    assert [item.name for item, _, _ in done] == list(range(13))
    assert all(pending.names[index] == item.name for item, pending, index in done)
    assert all(item.inputs is None for item, _, _ in done)
    assert matting.sizes == [8, 4, 2, 2, 4, 2, 2, 2, 2, 1]
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [
        f'note: {n} pictures of 16x16 at once do not fit into memory; going on with {n // 2}' for n in (8, 4)
    ]


def test_a_picture_that_does_not_fit_alone_fails_alone(capsys):
    matting = FullMatting(room=0)
    done = computed(matting, 3, failed=lambda item, error: Item(name=item.name, error=str(error)))
    assert [(item.name, item.error) for item, _, _ in done] == [(i, 'CUDA out of memory.') for i in range(3)]
    with pytest.raises(torch.OutOfMemoryError):
        computed(FullMatting(room=0), 3)


def test_a_batch_size_that_was_given_is_kept(capsys):
    matting = FullMatting(room=2)
    done = computed(matting, 8, size=4, failed=lambda item, error: Item(name=item.name, error='full'))
    assert [item.error for item, _, _ in done] == ['full'] * 8
    assert matting.sizes == [4, 4]
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(('factor', 'sizes'), [(1, (8, 4, 1)), (4, (4, 1, 1)), (8, (2, 1, 1)), (0, (1, 1, 1))])
def test_a_gpu_gets_as_many_as_its_memory_takes_and_its_speed_asks_for(factor, sizes):
    on_gpu = SimpleNamespace(device=torch.device('cuda', 1), memory_factor=factor)
    assert tuple(map(BatchSize(None, on_gpu), (HD, FOUR_K, PHOTO))) == sizes
    on_cpu = SimpleNamespace(device=torch.device('cpu'), memory_factor=factor)
    assert tuple(map(BatchSize(None, on_cpu), (HD, FOUR_K, PHOTO))) == (1, 1, 1)
    assert BatchSize(3, on_gpu)(PHOTO) == 3


def test_the_memory_of_a_network_follows_what_it_computes():
    refine = MattingRefine('mobilenetv2')
    networks = [
        refine,
        MattingRefine('mobilenetv2', refine_mode='full'),
        MattingBase('mobilenetv2'),
        torch.nn.Identity(),
    ]
    assert [Matting(network, 'cpu').memory_factor for network in networks] == [1, 4, 8, 0]
