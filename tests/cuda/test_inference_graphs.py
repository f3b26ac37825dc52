"""Inference on CUDA: recorded graphs give what eager operations do, on the right GPU, without a wait."""

import copy
import threading

import numpy as np
import pytest
import torch
from support import small_encoder
from support.inference_case import photo, room, spread_out
from support.simulated_cuda import simulated_cuda
from torch import nn

from inference import Matting, graphs
from inference.graphs import Graphs
from model import MattingBase, MattingRefine

KINDS = ('pha', 'fgr', 'err', 'ref')


@pytest.fixture(scope='module')
def networks():
    torch.manual_seed(0)
    with small_encoder.used():
        made = {'base': MattingBase('mobilenetv2'), 'refine': MattingRefine('mobilenetv2', refine_sample_pixels=800)}
    for network in made.values():
        with torch.no_grad():
            spread_out(network.eval())
    return made


@pytest.fixture
def ledger(monkeypatch):
    with simulated_cuda(2) as found:
        yield found


def scene(seed, width=96, height=64):
    """A plate and pictures that were taken of it."""
    plate = room(seed, width, height)
    return plate, [photo(plate, 10 * seed + i) for i in range(4)]


def assert_alike(found, expected, kinds=KINDS):
    for kind in kinds:
        difference = np.abs(getattr(found, kind).astype(int) - getattr(expected, kind))
        assert difference.max() <= 1, kind


def replays(ledger):
    return ledger.launches['graph']


def test_one_graph_takes_other_pictures_and_plates_while_results_are_held(ledger, networks):
    scenes, matting = [scene(0), scene(1)], Matting(networks['refine'], 'cuda:1', 'float32')
    plates = [matting.plate(plate) for plate, _ in scenes]
    order = [(0, 0), (0, 1), (1, 1), (0, 2)]
    ledger.clear()
    held = [matting.submit([matting.staged(scenes[i][1][j])], [plates[i]], err=True, ref=True) for i, j in order]
    assert replays(ledger) == len(order) - 1
    eager = Matting(networks['refine'], 'cpu', 'float32')
    for (i, j), pending in zip(order, held):
        assert_alike(pending.matte(0), eager(scenes[i][1][j], scenes[i][0], err=True, ref=True))
    assert {where for _, where in ledger.events} == {1}
    assert ledger.contexts == {1}


def test_the_device_is_not_waited_for_until_a_result_is_taken(ledger, networks):
    (plate, pictures), matting = scene(0), Matting(networks['refine'], 'cuda', 'float32')
    plate = matting.plate(plate)
    staged = [matting.staged(picture) for picture in pictures]
    for _ in range(2):
        matting.submit(staged, [plate] * 4)
    ledger.clear()
    with ledger.forbid_waits():
        pending = matting.submit(staged, [plate] * 4)
    assert len(pending.result()) == 4
    assert {(pinned, non_blocking) for _, pinned, non_blocking in ledger.copies} == {(True, True)}


def test_batches_with_a_plate_each_and_sizes_in_turn(ledger, networks):
    matting, eager = (Matting(networks['refine'], device, 'float32') for device in ('cuda', 'cpu'))
    small, large = [scene(i) for i in range(2)], [scene(i, 112, 50) for i in range(2)]
    for j in range(2):
        for scenes in (small, large):
            srcs, bgrs = [pictures[j] for _, pictures in scenes], [plate for plate, _ in scenes]
            for found, src, bgr in zip(matting.batch(srcs, bgrs, err=True, ref=True), srcs, bgrs):
                assert_alike(found, eager(src, bgr, err=True, ref=True))
    assert replays(ledger) == 2  # each size from its second time on


def test_the_coarse_network_is_recorded_too(ledger, networks):
    matting, eager = (Matting(networks['base'], device, 'float32') for device in ('cuda', 'cpu'))
    plate, pictures = scene(2)
    for picture in pictures[:2]:
        assert_alike(matting(picture, plate, err=True), eager(picture, plate, err=True), ('pha', 'fgr', 'err'))
    assert replays(ledger) == 1


class Brightness(nn.Module):
    """A network that is not known here: alpha is what the host reads of the picture."""

    def forward(self, src, bgr):
        return torch.full_like(src[:, :1], float(src.mean())), src


def test_what_may_read_the_pictures_values_is_not_recorded(ledger, networks, capsys):
    plate, pictures = scene(0)
    thresholding = copy.deepcopy(networks['refine'])
    thresholding.refiner.mode, thresholding.refiner.threshold = 'thresholding', 0.3
    for network in (thresholding, Brightness()):
        matting, eager = (Matting(network, device, 'float32') for device in ('cuda', 'cpu'))
        for picture in pictures[:2]:
            assert_alike(matting(picture, plate), eager(picture, plate), ('pha', 'fgr'))
    assert replays(ledger) == 0
    assert 'could be recorded' not in capsys.readouterr().err  # nor tried


def test_graphs_can_be_left_out(ledger, networks):
    matting = Matting(networks['refine'], 'cuda', 'float32', graphs=False)
    plate, pictures = scene(0)
    for picture in pictures[:2]:
        matting(picture, plate)
    assert replays(ledger) == 0


def test_tensors_are_read_anew_and_results_stay(ledger, networks):
    matting, eager = (Matting(networks['refine'], device, 'float32') for device in ('cuda:1', 'cpu'))
    pairs = [[torch.rand(1, 3, 64, 96) for _ in range(2)] for _ in range(3)]
    src, bgr = (x.to('cuda:1') for x in pairs[0])
    found = []
    for pair in pairs:
        src.copy_(pair[0])
        bgr.copy_(pair[1])
        found.append(matting.predict(src, bgr, err=True, ref=True))
    assert replays(ledger) == 2
    for pair, results in zip(pairs, found):
        for kind, expected in eager.predict(*pair, err=True, ref=True).items():
            torch.testing.assert_close(results[kind].cpu(), expected, atol=1e-5, rtol=0)


def test_another_stream_of_the_caller_is_waited_for_and_waits(ledger, networks):
    matting, eager = (Matting(networks['refine'], device, 'float32') for device in ('cuda', 'cpu'))
    pairs = [[torch.rand(1, 3, 64, 96) for _ in range(2)] for _ in range(2)]
    for pair in pairs:
        with torch.cuda.stream(torch.cuda.Stream()):
            doubled = matting.predict(*(x.to('cuda') for x in pair))['pha'] * 2
            torch.testing.assert_close(doubled.cpu(), eager.predict(*pair)['pha'] * 2, atol=1e-5, rtol=0)
    assert replays(ledger) == 1


def test_other_settings_are_not_replayed(ledger, networks):
    plate, pictures = scene(0)
    matting, eager = (Matting(networks['refine'], device, 'float32') for device in ('cuda', 'cpu'))
    for _ in range(2):
        matting(pictures[0], plate, ref=True)
    for change in ({'sample_pixels': 160}, {'mode': 'full'}):
        for network in (matting.model, eager.model):
            vars(network.refiner).update(change)
        assert_alike(matting(pictures[0], plate, ref=True), eager(pictures[0], plate, ref=True), ('pha', 'fgr', 'ref'))
    assert replays(ledger) == 1


def doubled(pictures, *kept):
    return (pictures.float() * 2 + sum(kept)).sum((1, 2, 3))


def host(number, height=4):
    return torch.full((height, 5, 3), number, dtype=torch.uint8).pin_memory()


def ask(table, number, height=4, kept=()):
    """Run a computation that is known, and take its result before the next one."""
    found = table.run(len(kept), doubled, [host(number, height)], kept).cpu()
    assert found.item() == height * 15 * (2 * number + sum(float(x) for x in kept))


def test_kept_tensors_are_copied_when_they_are_others(ledger):
    table, one, two = Graphs(torch.device('cuda', 0)), *(torch.tensor(x).to('cuda') for x in (1.0, 2.0))
    for kept in ([one], [one], [two], [two], [one]):
        ask(table, 3, kept=kept)
    assert replays(ledger) == 4


def test_a_full_table_makes_room_for_a_size_that_stays(ledger):
    table = Graphs(torch.device('cuda', 0))
    for height in range(4, 13):
        for number in range(3):
            ask(table, number, height)
            assert len(table._graphs) <= graphs.MOST_GRAPHS
    assert replays(ledger) == 2 * 9


def test_sizes_in_any_order_are_not_recorded_over_and_over(ledger, monkeypatch):
    table, recorded, plain = Graphs(torch.device('cuda', 0)), [], graphs._Graph
    monkeypatch.setattr(graphs, '_Graph', lambda *given: recorded.append(1) or plain(*given))
    for _ in range(5):
        for height in range(4, 12):
            ask(table, height, height)
    assert len(recorded) == graphs.MOST_GRAPHS
    for height in range(10, 200):
        ask(table, 1, height)
    assert len(table._seen) <= graphs.MOST_SEEN


def test_where_nothing_can_be_recorded_all_goes_on_and_that_is_said_once(ledger, capsys):
    table = Graphs(torch.device('cuda', 0))

    def waits(pictures):
        return pictures + (1 if pictures.sum().item() else 2)

    for _ in range(4):
        assert (table.run('', waits, [host(3)]).cpu() == 4).all()
        ask(table, 3)
    assert replays(ledger) == 0
    said = capsys.readouterr().err
    assert said.count('note: no CUDA graph could be recorded, so all goes on without: ') == said.count('\n') == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_graphs_give_their_memory_back_before_memory_is_too_little(ledger):
    table, full = Graphs(torch.device('cuda', 0)), [True]

    def large(pictures):
        if full[0] and table._graphs:
            raise torch.OutOfMemoryError('CUDA out of memory.')
        return doubled(pictures)

    for _ in range(3):
        ask(table, 1)
    assert table.run('large', large, [host(2)]).cpu().item() == 240
    assert not table._graphs
    table.run('', lambda _: None, [host(2)])
    with pytest.raises(torch.OutOfMemoryError):
        Graphs(torch.device('cuda', 0)).run('', lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError('x')), [host(2)])


def test_threads_share_a_graph(ledger, networks):
    (plate, pictures), matting = scene(0), Matting(networks['refine'], 'cuda:1', 'float32')
    eager, found = Matting(networks['refine'], 'cpu', 'float32'), {}
    for picture in pictures[:2]:
        matting(picture, plate)
    ledger.clear()

    def take(index):
        found[index] = matting(pictures[index], plate)

    threads = [threading.Thread(target=take, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, picture in enumerate(pictures):
        assert_alike(found[index], eager(picture, plate), ('pha', 'fgr'))
    assert replays(ledger) == 4
    assert ledger.contexts == {1}
