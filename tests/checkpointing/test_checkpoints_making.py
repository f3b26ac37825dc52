"""checkpoints.py average and convert: what they write, and that they write it whole or not at all."""

import json
import math
import os
import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.checkpoint_folders import call, contents, flip, foreign, load, make, names
from support.faults import FailingDisk

from checkpointing.convert import write_weights
from common.files import Disk, digest


def averaged(capsys, *words):
    code, out, err = call(capsys, 'average', *words, '-o', 'mean.pth')
    assert code == 0, err
    return load('mean.pth'), json.loads(Path('mean.provenance.json').read_text()), out


def test_average_of_files_takes_counters_from_the_newest_checkpoint(run, capsys):
    # Given in another order than they were written.
    mean, made, out = averaged(capsys, run / 'epoch-0-iter-7.pth', run / 'epoch-0-iter-1.pth', run / 'best.pth')
    assert torch.equal(mean['w'], ((3 * torch.arange(64.0).double() + 1 + 3 + 7) / 3).float())
    assert mean['n'] == 7
    assert [member['step'] for member in made['members']] == [1, 3, 7]
    assert made['members'][1]['sha256'] == digest(run / 'epoch-0-iter-3.pth')
    assert made['members'][1]['metrics'] == {'valid_loss': 0.25}
    assert (made['file'], made['sha256']) == ('mean.pth', digest(Path('mean.pth')))
    assert made['size'] == Path('mean.pth').stat().st_size
    assert made['torch'] == torch.__version__
    assert made['how'] == 'mean of 3 in float64, dtypes and counters of the last'
    assert 'wrote mean.pth' in out


def test_average_of_foreign_files_takes_the_last_as_the_newest(in_tmp, capsys):
    for name, value in (('a', 5), ('b', 3)):
        torch.save({'w': torch.tensor([float(value)]), 'n': torch.tensor(value)}, f'{name}.pth')
    mean, made, _ = averaged(capsys, 'a.pth', 'b.pth')
    assert (mean['w'].item(), mean['n'].item()) == (4, 3)
    assert 'run' not in made['members'][0]


@pytest.mark.parametrize(
    ('words', 'steps'),
    [
        (['--best', 2], [1, 3]),
        (['--best', 3], [1, 3, 7]),
        (['--last', 2], [5, 7]),
        (['--best', 2, '--ema'], [1, 7]),
        (['--last', 3, '--ema', '--run', 'checkpoint/run'], [3, 5, 7]),
    ],
)
def test_average_of_the_best_and_of_the_last(in_tmp, capsys, words, steps):
    make(Path('checkpoint/run'), ema=True)
    mean, made, _ = averaged(capsys, *words)
    assert [member['step'] for member in made['members']] == steps
    extra = 100 if '--ema' in words else 0
    assert mean['w'][0].item() == pytest.approx(sum(steps) / len(steps) + extra)
    metric = 'valid_ema_loss' if '--ema' in words else 'valid_loss'
    assert list(made['members'][0]['metrics']) == [metric]


def test_an_average_can_be_verified_and_shown(run, capsys):
    averaged(capsys, '--last', 2)
    assert call(capsys, 'verify', 'mean.pth')[1].startswith('mean.pth: whole, by the sha256 of its provenance')
    assert 'provenance: file mean.pth' in call(capsys, 'show', 'mean.pth')[1]
    flip(Path('mean.pth'))
    code, out, _ = call(capsys, 'verify', 'mean.pth')
    assert code == 1
    assert 'does not have the size and sha256 of its provenance' in out


def test_an_average_in_the_runs_folder_is_known_there(run, capsys):
    assert call(capsys, 'average', '--last', 2, '-o', run / 'mean.pth')[0] == 0
    (folder,) = json.loads(call(capsys, 'list', '--json')[1])
    assert folder['others'][0]['what'] == 'made of other weights, with its provenance beside it'
    assert call(capsys, 'verify')[0] == 0


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'give files, or --best K, or --last K'),
        (['a.pth', '--last', 2], 'give files, or --best K, or --last K'),
        (['a.pth', 'a2.pth', '--ema'], '--run and --ema: only with --best or --last'),
        (['--best', 1], '--best 1: must be at least 2'),
        (['--best', 4], '4 checkpoints are asked for, and 3 have weights and a finite valid_loss'),
        (['--last', 5], '5 checkpoints are asked for, and 4 have weights'),
        (['--last', 2, '--ema'], '2 checkpoints are asked for, and 0 have ema'),
        (['--best', 2, '--monitor', 'valid_iou'], 'and 0 have weights and a finite valid_iou'),
        (['--last', 2, '--run', 'nowhere'], 'nowhere: no such folder'),
        (['--last', 2, '--batch-norm', 'reestimate'], '--batch-norm reestimate: needs --dataset-name'),
        (['--last', 2, '--dataset-name', 'synthetic'], 'weights of no matting network'),
        (['a.pth'], 'at least two files, not 1'),
        (['a.pth', 'nowhere.pth'], 'nowhere.pth: no such file'),
        (['a.pth', 'link.pth'], 'link.pth and a.pth are one file'),
        (['a.pth', 'other.pth'], 'other.pth is of another network than a.pth'),
        (['a.pth', 'nan.pth'], 'nan.pth has values that are not finite, in w'),
        (['a.pth', 'broken.pth'], 'broken.pth: damaged: '),
        (['a.pth', 'checkpoint/run/epoch-0-iter-7.state.pth'], 'it is the training state beside a checkpoint'),
        (
            ['checkpoint/run/best.pth', 'checkpoint/run/epoch-0-iter-1.pth'],
            'epoch-0-iter-1.pth: damaged: does not have',
        ),
    ],
)
def test_averages_that_are_refused_write_nothing(run, capsys, words, message):
    for name, state in {
        'a': {'w': torch.ones(3)}, 'a2': {'w': torch.zeros(3)}, 'other': {'v': torch.ones(3)},
        'nan': {'w': torch.full((3,), math.nan)},
    }.items():  # fmt: skip
        torch.save(state, f'{name}.pth')
    os.link('a.pth', 'link.pth')
    flip(foreign('broken.pth'))
    flip(run / 'epoch-0-iter-1.pth')
    before = names('.')
    code, _, err = call(capsys, 'average', *words, '-o', 'mean.pth')
    assert code == 2
    assert message in err
    assert names('.') == before


@pytest.mark.parametrize('command', [['average', 'a.pth', 'b.pth'], ['convert', 'a.pth']])
@pytest.mark.parametrize(
    ('out', 'message'),
    [
        ('there.pth', 'there.pth: exists; choose another name, or add -y to replace it'),
        ('a.pth', 'a.pth: is one of the files to read'),
        ('folder.pth', 'folder.pth: is a folder; choose another name'),
        ('nowhere/out.pth', 'there is no folder nowhere'),
        ('out.bin', "the suffix '.bin' is not one of .pth, .safetensors"),
        ('checkpoint/run/epoch-7.pth', 'training uses this name in the folder of a run'),
        ('checkpoint/run/best.pth', 'best.pth: exists'),
        ('checkpoint/run/last.pth', 'last.pth: exists'),
    ],
)
def test_outputs_that_are_refused(run, capsys, command, out, message):
    for name in ('a', 'b', 'there'):
        foreign(f'{name}.pth')
    Path('folder.pth').mkdir()
    before = (contents(run), names('.'), Path('there.pth').read_bytes())
    code, _, err = call(capsys, *command, '-o', out)
    assert code == 2
    assert message in err
    if out.startswith('checkpoint'):
        assert 'training uses this name' in call(capsys, *command, '-o', out, '-y')[2]
    if out in ('a.pth', 'folder.pth'):
        assert call(capsys, *command, '-o', out, '-y')[0] == 2
    assert (contents(run), names('.'), Path('there.pth').read_bytes()) == before


def test_writing_over_takes_the_old_provenance_along(in_tmp, capsys):
    for name, value in (('a', 1.0), ('b', 3.0)):
        torch.save({'w': torch.tensor([value])}, f'{name}.pth')
    averaged(capsys, 'a.pth', 'b.pth')
    assert call(capsys, 'convert', 'a.pth', '-o', 'mean.pth', '-y')[0] == 0
    assert load('mean.pth')['w'].item() == 1
    assert not Path('mean.provenance.json').exists()
    averaged(capsys, 'a.pth', 'b.pth', '-y')
    assert call(capsys, 'convert', 'mean.pth', '-o', 'mean.safetensors')[0] == 0
    assert Path('mean.provenance.json').exists()
    before = names('.')
    code, _, err = call(capsys, 'average', 'a.pth', 'b.pth', '-o', 'mean.safetensors', '-y')
    assert code == 2
    assert 'mean.provenance.json is there and speaks of another file' in err
    assert names('.') == before


def test_a_failing_disk_leaves_the_old_file_or_the_new_one(in_tmp):
    old, new = {'w': torch.zeros(9)}, {'w': torch.ones(9)}
    counting = FailingDisk()
    write_weights(Path('out.pth'), old, {'how': 'x'}, counting)
    assert len(counting.done) >= 8
    for at in range(1, len(counting.done) + 2):
        write_weights(Path('out.pth'), old)
        with pytest.raises(OSError, match='No space left') if at <= len(counting.done) else nullcontext():
            write_weights(Path('out.pth'), new, {'how': 'y'}, FailingDisk(at))
        assert load('out.pth')['w'].tolist() in ([0] * 9, [1] * 9)
        assert set(names('.')) <= {'out.pth', 'out.provenance.json'}


def test_the_content_is_on_the_disk_before_the_name(in_tmp):
    done = []

    class Telling(Disk):
        def fsync(self, file):
            done.append(f'fsync {Path(file.name).suffix}')
            super().fsync(file)

        def replace(self, source, target):
            done.append(f'replace {target.name}')
            super().replace(source, target)

        def fsync_folder(self, folder):
            done.append('folder')
            super().fsync_folder(folder)

    write_weights(Path('out.pth'), {'w': torch.zeros(9)}, {'how': 'x'}, Telling())
    assert done == ['fsync .tmp', 'replace out.pth', 'folder', 'fsync .tmp', 'replace out.provenance.json', 'folder']


def test_a_disk_that_gives_back_something_else_changes_nothing(in_tmp):
    class Lying(Disk):
        def fsync(self, file):
            super().fsync(file)
            (temporary,) = Path().glob('.*.tmp')
            data = temporary.read_bytes()
            at = data.index(torch.full((9,), 3.0).numpy().tobytes())
            temporary.write_bytes(data[:at] + b'\1' + data[at + 1 :])

    write_weights(Path('out.pth'), {'w': torch.zeros(9)})
    with pytest.raises(OSError, match='gives back something else than was written'):
        write_weights(Path('out.pth'), {'w': torch.full((9,), 3.0)}, None, Lying())
    assert load('out.pth')['w'].sum() == 0
    assert names('.') == ['out.pth']


def test_convert_to_half_precision_safetensors_and_back(run, capsys):
    wrapped = {
        'state_dict': {'module.w': torch.tensor([1.0, 2.0**-30, 0.1]), 'module.n': torch.tensor(70000)},
        'epoch': 3,
    }
    torch.save(wrapped, 'in.pth')
    code, out, _ = call(capsys, 'convert', 'in.pth', '-o', 'out.safetensors', '--precision', 'float16')
    assert code == 0
    assert "in.pth: state_dict under 'state_dict' with prefix 'module.', an unknown network" in out
    assert 'wrote out.safetensors: 2 tensors, 1 cast to float16; read back and compared' in out
    assert 'too small for float16, now 0: 1 values, in 1 tensors such as w' in out
    with safe_open('out.safetensors', 'pt') as file:
        assert file.metadata() == {'format': 'pt'}
        assert sorted(file.keys()) == ['n', 'w']
        assert file.get_tensor('w').dtype == torch.float16
    assert call(capsys, 'convert', 'out.safetensors', '-o', 'back.pth', '--precision', 'float32')[0] == 0
    back = load('back.pth')
    assert back['w'].tolist() == [1, 0, torch.tensor(0.1).half().item()]
    assert (back['w'].dtype, back['n'].item()) == (torch.float32, 70000)
    assert zipfile.is_zipfile('back.pth')


@pytest.mark.parametrize(
    ('file', 'words', 'message'),
    [
        (
            'large.pth',
            ['--precision', 'float16'],
            '--precision float16: w: 1 values are too large for float16, up to 70000',
        ),
        ('nowhere.pth', [], 'nowhere.pth: no such file'),
        ('text.pth', [], 'text.pth: not a weight file'),
        ('broken.pth', [], 'broken.pth: damaged: '),
        ('checkpoint/run/epoch-0-iter-1.pth', [], 'damaged: does not have the sha256 of its record'),
        ('checkpoint/run/epoch-0-iter-7.state.pth', [], 'it is the training state'),
    ],
)
def test_what_cannot_be_converted_writes_nothing(run, capsys, file, words, message):
    torch.save({'w': torch.tensor([7e4, 1])}, 'large.pth')
    Path('text.pth').write_text('text')
    flip(foreign('broken.pth'))
    flip(run / 'epoch-0-iter-1.pth')
    before = names('.')
    code, _, err = call(capsys, 'convert', file, '-o', 'out.pth', *words)
    assert code == 2
    assert message in err
    assert names('.') == before
