"""gpu.py: sections are processes with limits, rows stay whatever happens, and all of it runs on a CPU."""

import importlib
import json
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
WRITE = 'open(sys.argv[1], "a").write(json.dumps({"section": sys.argv[2], "what": "a figure", **%s}) + "\\n")'
ENDS = {
    'ceilings': WRITE % {'ms': 1.5},
    'exact': WRITE % {'ok': True} + '; ' + WRITE % {'ok': False, 'largest': 3},
    'steps': WRITE % {'ms': 2.5} + '; print("why"); sys.exit(3)',
    'forward': WRITE % {'fps': 99} + '; subprocess.run(["sleep", "60"])',
    'graphs': WRITE % {'fps': 98},
}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    return importlib.import_module('gpu')


@pytest.fixture
def short_sections(gpu, monkeypatch):
    """Sections that do what `ENDS` says, in processes that start at once."""

    def command(name, args):
        code = f'import json, subprocess, sys; {ENDS[name]}'
        return [sys.executable, '-S', '-c', code, str(args.out / gpu.ROWS), name]

    monkeypatch.setattr(gpu, 'command', command)
    monkeypatch.setattr(gpu, 'LEAST', 0.1)
    monkeypatch.setattr(gpu, 'ENDING', 0)
    return gpu


def test_rows_table_and_exit_code(short_sections, tmp_path, capsys):
    sections = ['ceilings', 'exact', 'steps']
    assert short_sections.main(['--out', str(tmp_path / 'out'), '--device', 'cpu', '--only', *sections]) == 1
    told = capsys.readouterr().out
    table, numbers = (tmp_path / 'out/gpu.txt').read_text(), json.loads((tmp_path / 'out/gpu.json').read_text())
    assert [row['section'] for row in numbers['rows']] == ['ceilings', 'exact', 'exact', 'steps']
    assert numbers['failed'] == ['exact: a figure', 'steps']
    for text in (told, table):
        assert '== steps: FAILED with code 3 after ' in text
        assert ' s: why\n' in text
        assert '2 checks, 1 passed\nFAILED: exact: a figure\nFAILED: steps\n' in text
        assert [line.split() for line in text.splitlines() if line.startswith(' !')] == [
            ['!', 'a', 'figure', 'largest', '3']
        ]
    assert len(list((tmp_path / 'out').iterdir())) <= 8


def test_what_is_cut_off_keeps_its_rows_and_is_named(short_sections, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(short_sections.SECTIONS, 'forward', ('networks', 0.5))
    start = time.monotonic()
    arguments = ['--out', str(tmp_path), '--device', 'cpu', '--only', 'graphs', 'forward', 'ceilings']
    assert short_sections.main(arguments) == 0
    assert time.monotonic() - start < 30  # and not as long as what the section had started
    told = capsys.readouterr().out
    assert '== forward: CUT OFF after 0 s\n   a figure' in told
    assert told.endswith('0 checks, 0 passed\nnot run to the end: forward\n')
    assert {row['section'] for row in json.loads((tmp_path / 'gpu.json').read_text())['rows']} == {
        'ceilings', 'forward', 'graphs',
    }  # fmt: skip


def test_what_the_deadline_leaves_no_time_for_is_named(short_sections, tmp_path, capsys, monkeypatch):
    arguments = ['--out', str(tmp_path), '--device', 'cpu', '--minutes', '0.02', '--only', 'forward', 'graphs']
    assert short_sections.main(arguments) == 0
    told = capsys.readouterr().out
    assert '== forward: CUT OFF after 1 s\n   a figure' in told
    assert '== graphs: not begun\n' in told
    assert told.endswith('not run to the end: forward, graphs\n')


def test_a_signal_ends_it_with_its_table(short_sections, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(short_sections, 'run_process', interrupted)
    arguments = ['--out', str(tmp_path), '--device', 'cpu', '--only', 'exact', 'steps']
    assert short_sections.main(arguments) == 130
    assert '== exact: stopped by a signal\n== steps: not begun' in (tmp_path / 'gpu.txt').read_text()
    assert capsys.readouterr().out.endswith('not run to the end: exact, steps\n')


def test_results_of_another_run_are_left_alone(gpu, tmp_path, capsys):
    (tmp_path / 'rows.jsonl').write_text('mine')
    with pytest.raises(SystemExit, match='2'):
        gpu.main(['--out', str(tmp_path), '--device', 'cpu'])
    assert f'--out {tmp_path}: is there already; give a new folder' in capsys.readouterr().err
    assert (tmp_path / 'rows.jsonl').read_text() == 'mine'


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so(gpu, tmp_path, capsys):
    assert gpu.main(['--out', str(tmp_path / 'out')]) == 2
    assert capsys.readouterr().err == (
        'error: --device cuda: there is none on this machine; use --device auto or cpu\n'
    )
    assert not (tmp_path / 'out').exists()


def test_a_section_goes_on_after_a_fault_and_a_lack_of_memory(gpu, tmp_path):
    bench = importlib.import_module('helpers.bench').Bench('steps', torch.device('cpu'), True, tmp_path / 'rows')
    with bench.attempt('one'):
        raise RuntimeError('broken\nin two')
    with bench.attempt('two'):
        raise torch.OutOfMemoryError
    bench.row('three', share=1 / 3)
    rows = [json.loads(line) for line in (tmp_path / 'rows').read_text().splitlines()]
    assert [list(row.values())[1:] for row in rows] == [
        ['one', False, 'RuntimeError: broken'], ['two', 'too little memory'], ['three', 0.3333],
    ]  # fmt: skip


def test_the_clock_waits_for_nothing_before_it_is_read(gpu):
    steps = importlib.import_module('helpers.training_steps')
    simulated = pytest.importorskip('support.simulated_cuda')
    with simulated.simulated_cuda() as ledger:
        device = torch.device('cuda', 0)
        with ledger.forbid_waits():
            clock = steps.Clock(device)
            torch.ones(3, device=device).add_(1)
            clock.end('work')
        assert list(clock.seconds()) == ['work']


def test_both_ways_scale_the_loss_in_float16(gpu):
    steps = importlib.import_module('helpers.training_steps')
    device = torch.device('cpu')
    for way in (steps.our_way, steps.published_way):
        half, whole = (way('base', 'mobilenetv2', device, dtype) for dtype in (torch.float16, torch.float32))
        assert half.scaler.scale(torch.ones(())).item() > 1
        assert whole.scaler.scale(torch.ones(())).item() == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_section_runs_to_its_end(gpu, tmp_path):
    assert gpu.main(['--out', str(tmp_path), '--device', 'cpu', '--tiny', '--minutes', '12']) == 0
    numbers = json.loads((tmp_path / 'gpu.json').read_text())
    assert set(numbers['sections']) == set(gpu.SECTIONS)
    assert set(numbers['sections'].values()) == {'whole'}
    rows = {name: [row for row in numbers['rows'] if row['section'] == name] for name in gpu.SECTIONS}
    assert all(rows.values())
    assert not any('error' in row or 'left_out' in row for row in numbers['rows'])
