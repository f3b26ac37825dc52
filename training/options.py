"""The flags that both stages share, and their checks. Nothing here imports torch, so `--help` answers at once."""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from checkpointing.links import template_problem
from checkpointing.mirror.store import Store
from checkpointing.record import Listing
from common import cli, path_checks
from common.devices import expand_segments
from common.files import not_a_folder
from common.network import BACKBONES, weights_path
from common.rendezvous import first_rank
from common.signals import StopRequest, listening
from common.stores import StoreError, named

from .recipes import DEFAULTS, FROZEN, RECIPES

if TYPE_CHECKING:
    from .distributed import Ranks

# Loader processes hand pictures over by a socket in a folder of the temporary one, and the path of a socket has at most
# 103 characters (107 on Linux). Where it is longer, they and the training would wait for each other for ever.
MOST_OF_TMPDIR = 70


def add_arguments(
    parser: cli.Parser,
    stage: str,
    *,
    batch_size: int,
    resolution: int,
    crop_unit: int,
    epoch_end: int,
    images_interval: int,
    valid_interval: int,
) -> None:
    """Add the flags that both stages share; `stage` is 'base' or 'refine', the others are its defaults."""
    add = parser.group('data').add_argument
    add(
        '--dataset-name',
        required=True,
        metavar='NAME',
        help='a name in the data config, or "synthetic", which needs no files',
    )
    add('--data-config', type=Path, default=Path('data_path.toml'), metavar='FILE', help='folders of each data set')
    add('--synthetic-size', type=int, default=1000, metavar='N', help='training samples of an epoch of "synthetic"')
    add('--train-resolution', type=int, default=resolution, metavar='PX',
        help='side of the square that samples are made for; crops have sides of half to all of it')  # fmt: skip
    add('--crop-multiple', type=int, metavar='PX',
        help="sides of a step's crop are multiples of it, so that a GPU meets few sizes: it plans its work for each, "
        f'which takes seconds; {crop_unit}: any size, as published (default: an eighth of --train-resolution, or what '
        'the run that goes on had)')  # fmt: skip
    add('--batch-size', type=int, default=batch_size, metavar='N',
        help='samples of a step, over all GPUs; --accumulate multiplies it')  # fmt: skip
    add('--num-workers', type=int, metavar='N',
        help='processes that read pictures for each GPU; 0 reads in the main one (default: the cores of the machine, '
        'shared out over its GPUs, at most 16)')  # fmt: skip
    add('--seed', type=int, default=0, metavar='N',
        help='of the order of samples, of every augmentation, and of new weights')  # fmt: skip
    add('--accept-changed-data', action='store_true',
        help='go on with a run although pictures were added, removed or replaced, or the data set has another name; '
        'its checkpoints hold from then on what is there now')  # fmt: skip

    add = parser.group('model').add_argument
    add('--model-backbone', required=True, choices=BACKBONES, help='encoder')
    add('--model-name', required=True, metavar='NAME', help='names checkpoint/<model_name>/ and log/<model_name>/')
    add('--model-last-checkpoint', type=_last_checkpoint, metavar='FILE|auto|must|starter',
        help='a checkpoint of this run continues it exactly; any other weight file starts a new run from its weights; '
        '"auto" continues from the newest whole checkpoint, or starts without one; "must" only continues; "starter" '
        'begins with the model of the toolkit; the URL of a file in a mirror is one of another run')  # fmt: skip
    add('--model-start-weights', type=weights_path, metavar='FILE|starter',
        help='weights that "auto" begins with where there is nothing to continue, such as a base checkpoint for the '
        'refine stage, or the URL of one in a mirror')  # fmt: skip

    add = parser.group('length').add_argument
    add('--epoch-start', type=int, default=None, metavar='N',
        help='epoch to begin with, from 0; needed only for weights from elsewhere')  # fmt: skip
    add('--epoch-end', type=int, default=epoch_end, metavar='N', help='epoch to stop before')
    add('--max-steps', type=int, metavar='N', help='end the run once N optimizer steps of the whole run are done')
    add('--dry-run', action='store_true',
        help='check everything, try a step, a validation and a checkpoint, and say what the whole run will take: time, '
        'memory, disk; nothing of it stays')  # fmt: skip

    add = parser.group('logs and validation').add_argument
    add('--log-train-loss-interval', type=int, default=10, metavar='STEPS', help='between logged losses')
    add('--log-train-images-interval', type=int, default=images_interval, metavar='STEPS', help='between pictures')
    add('--log-valid-interval', type=int, default=valid_interval, metavar='STEPS', help='between validations')
    add('--valid-samples', type=int, default=50, metavar='N', help='validation samples, the same every time')
    add('--log-dir', type=Path, default=Path('log'), metavar='DIR', help='parent of the TensorBoard folder')

    add = parser.group('checkpoints').add_argument
    add('--checkpoint-interval', type=int, default=valid_interval, metavar='STEPS', help='between checkpoints')
    add('--checkpoint-epoch-interval', type=int, default=1, metavar='EPOCHS',
        help='between epochs that are validated and saved; the last epoch always is')  # fmt: skip
    add('--checkpoint-minutes', type=float, metavar='MIN',
        help='save as well when the last checkpoint is so many minutes old')  # fmt: skip
    add('--monitor', type=monitor_name, metavar='METRIC',
        help='validation metric that decides which is best: loss, sad, mse, mad, grad, fg_mse or conn, over whole '
        'pictures; conn, which is slow, is measured only if asked for here; ema_sad and so on are those of the average '
        'by --ema-decay (default: loss, or ema_loss where the recipe has an average, '
        'unless --checkpoint-best-name has only figures of the weights themselves)')  # fmt: skip
    add('--monitor-mode', choices=('min', 'max'), default='min', help='whether lower or higher is better')
    add('--monitor-threshold', type=float, metavar='X', help='nothing worse than this is ever called best')
    add('--checkpoint-best', type=int, default=1, metavar='K', help='keep the K best, whatever else is removed')
    add('--checkpoint-best-name', metavar='TEMPLATE',
        help='name links to the K best after their figures, such as "best-{epoch:02d}-{valid_loss:.4f}"; '
        'also {step} and {name}; best.pth is there anyway')  # fmt: skip
    add('--checkpoint-keep', type=int, metavar='N',
        help='keep the weights of the newest N steps and remove older ones of this run, but for those that can be '
        'resumed from, the best and the pinned; all if left out')  # fmt: skip
    add('--checkpoint-keep-every', type=int, metavar='STEPS', help='keep one checkpoint in so many steps for good')
    add('--checkpoint-keep-states', type=int, default=2, metavar='N',
        help='keep the training state of the newest N steps, at least 2: a run can go on from these')  # fmt: skip
    add('--checkpoint-dir', type=Path, default=Path('checkpoint'), metavar='DIR', help='parent of the run folder')
    add('--checkpoint-mirror', metavar='URL',
        help='copy each checkpoint and the curves to URL/<model_name>, verified, while training goes on: s3://..., '
        'gs://..., az://..., sftp://... or another folder; "auto" goes on from there on an empty machine')  # fmt: skip
    add('--mirror-grace', type=float, default=90.0, metavar='SECONDS',
        help='that the end of a training waits for the mirror; after a signal in all, else while nothing moves'
    )  # fmt: skip
    add('--requeue', action='store_true',
        help='in a SLURM job: after SIGUSR1 (sbatch --signal=USR1@300) save and put the job back in the queue'
    )  # fmt: skip

    add = parser.group('optimization').add_argument
    add('--recipe', choices=tuple(RECIPES),
        help='what the loss weighs, and --ema-decay where it is left out; "published" is the '
        f"paper's way (default: {DEFAULTS[stage]}; a run that goes on keeps its own)")  # fmt: skip
    add('--learning-rate-scale', type=float, default=1.0, metavar='X', help='multiplies all learning rates')
    add('--lr-schedule', choices=('constant', 'cosine'), default='constant',
        help='cosine falls to 0 at the end of the run')  # fmt: skip
    add('--warmup-steps', type=int, default=0, metavar='N', help='steps in which learning rates rise from 0')
    add('--ema-decay', type=float, metavar='D',
        help='keep an exponential moving average of the weights, such as 0.999; 0 keeps none; a run that goes on keeps '
        'its own')  # fmt: skip
    add('--freeze-batch-norm', choices=tuple(FROZEN),
        help='whose BatchNorm keeps the running statistics that its weights brought and does not learn those of the '
        "batches, which are worse where batches are small: no one's, the coarse network's or the refiner's, too "
        '(default: coarse in a new run from base weights, all from weights of a whole network, none else and with '
        '--recipe published; a run that goes on keeps its own)')  # fmt: skip
    add('--clip-grad', type=float, metavar='NORM', help='largest norm of the gradient; not clipped if left out')
    add('--accumulate', type=int, default=1, metavar='N', help='batches of a step, one after the other')

    add = parser.group('machine').add_argument
    cli.add_device_argument(add)
    cli.add_precision_argument(add, '; a run that goes on keeps its own')
    add('--compile', action=argparse.BooleanOptionalAction, default=False,
        help='compile the network: minutes at the start, faster steps')  # fmt: skip
    add('--deterministic', action='store_true',
        help='compute the same twice on a GPU of the same kind, slower: a run that was stopped and goes on is then the '
        'uninterrupted one bit for bit there, too, as it is on a CPU without this')  # fmt: skip
    # What the training is a part of, such as 'make demo', and what goes on with it.
    add('--part-of', help=argparse.SUPPRESS)


def main(
    script: str,
    parse: Callable[[list[str] | None], argparse.Namespace],
    train: Callable[[argparse.Namespace, Ranks, StopRequest], int],
    argv: list[str] | None,
) -> int:
    """Run a stage script: read its command line, then import torch and train; return the exit code.

    Args:
        script: path of the script.
        parse: reads and checks the command line.
        train: trains the stage.
        argv: the words; those of the process if None.
    """
    with listening() as signal:
        try:
            args = parse(argv)
        except ValueError as error:
            return cli.report_error(error, 2)
        if args.part_of is not None:
            signal.hint = f'; {args.part_of} goes on'
        expand_segments()
        from .stage import run_script

        command = [str(Path(script).resolve()), *(sys.argv[1:] if argv is None else argv)]
        return run_script(args, train, signal, command)


def monitor_name(text: str) -> str:
    """Return a metric's name in logs and records: 'valid_sad' for 'sad', 'valid_ema_sad' for 'ema_sad'."""
    return 'valid_' + text.removeprefix('valid_')


def problems(args: argparse.Namespace, crop_unit: int = 1) -> list[str]:
    """Return what is wrong with the shared flags, each as the flag, its value and what is allowed.

    `crop_unit` is what the network needs a picture's sides to be multiples of.
    """
    least = {
        'batch_size': 2, 'num_workers': 0, 'seed': 0, 'train_resolution': 64, 'synthetic_size': 2, 'epoch_end': 1,
        'log_train_loss_interval': 1, 'log_train_images_interval': 1, 'log_valid_interval': 1,
        'checkpoint_interval': 1, 'valid_samples': 1, 'warmup_steps': 0, 'accumulate': 1, 'max_steps': 1,
        'epoch_start': 0, 'checkpoint_epoch_interval': 1, 'checkpoint_best': 1, 'checkpoint_keep': 1,
        'checkpoint_keep_every': 1, 'checkpoint_keep_states': 2, 'crop_multiple': crop_unit,
    }  # fmt: skip
    found = cli.at_least_problems(args, least)
    if args.batch_size == 1:
        found[0] += ', since BatchNorm cannot learn from one sample'
    most = args.train_resolution // 2
    if args.crop_multiple is not None and (args.crop_multiple > most or args.crop_multiple % crop_unit):
        needed = f'a multiple of {crop_unit} and ' * (crop_unit > 1)
        found.append(
            f'--crop-multiple {args.crop_multiple}: must be {needed}at most half of --train-resolution, {most}'
        )
    if not args.learning_rate_scale > 0:
        found.append(f'--learning-rate-scale {args.learning_rate_scale}: must be above 0')
    if args.clip_grad is not None and not args.clip_grad > 0:
        found.append(f'--clip-grad {args.clip_grad}: must be above 0; leave it out to not clip')
    if args.ema_decay is not None and not 0 <= args.ema_decay < 1:
        found.append(f'--ema-decay {args.ema_decay}: must be below 1, such as 0.999; 0 keeps no average')
    if args.epoch_start is not None and args.epoch_start >= args.epoch_end:
        found.append(f'--epoch-start {args.epoch_start}: must be below --epoch-end {args.epoch_end}')
    if args.model_name in ('', '.', '..') or Path(args.model_name).name != args.model_name:
        found.append(f'--model-name {args.model_name!r}: must be the name of a folder, without separators')
    elif first_rank():  # which alone writes
        for name in ('checkpoint_dir', 'log_dir'):
            found += path_checks.unwritable_problems(cli.flag(name), getattr(args, name), args.model_name)
    folder = tempfile.gettempdir()
    if args.num_workers != 0 and sys.platform != 'win32' and len(os.fsencode(folder)) > MOST_OF_TMPDIR:
        found.append(f'TMPDIR {folder}: too long a path for the sockets of loader processes; set TMPDIR=/tmp')
    found += cli.precision_problems(args.device, args.precision)
    found += _checkpoint_problems(args)
    if args.dataset_name != 'synthetic':
        found += data_problems(args.data_config, args.dataset_name)
    return found


def from_scratch_problems(args: argparse.Namespace) -> list[str]:
    """Return why the refine stage does not begin: without weights, unless that was asked for by `--from-scratch`."""
    last, start = args.model_last_checkpoint, args.model_start_weights
    if args.from_scratch:
        given = next((f'{flag} {named(value)}' for flag, value in (
            ('--model-start-weights', start), ('--model-last-checkpoint', last),
        ) if value not in (None, 'auto', 'must')), None)  # fmt: skip
        return [] if given is None else [f'--from-scratch: not together with {given}, which are weights']
    if start is not None or last not in (None, 'auto') or (last and not first_rank()):
        return []
    # Records that cannot be read are an error of `auto`, and no first start.
    files = Listing(args.checkpoint_dir / args.model_name)
    if last == 'auto' and args.checkpoint_mirror is not None:
        try:
            mirrored = Store(args.checkpoint_mirror).folder(args.model_name).sizes()
        except StoreError:  # said with the other flags, or when the store is tried
            return []
        if any(name.endswith('.json') for name in mirrored):
            return []
    if last == 'auto' and (files.broken_records() or any(record.stage == 'refine' for record in files.records())):
        return []
    flag, why = '--model-last-checkpoint', ''
    if last == 'auto':
        flag, why = '--model-start-weights', f'{files.folder} holds nothing to go on from, and '
    return [
        f'{flag}: missing; {why}the refine stage begins with the weights of a base checkpoint, such as '
        'checkpoint/base/best.pth, or with "starter"; --from-scratch begins without, and learns far worse'
    ]


def data_problems(config: Path, dataset_name: str) -> list[str]:
    """Return what is wrong with a data set in the configuration: it is not there, or its folders are not."""
    from dataset.paths import read_data_config

    try:
        folders = vars(read_data_config(config, dataset_name)).values()
    except (ValueError, OSError) as error:
        return [str(error)]
    missing = dict.fromkeys(path for path in folders if isinstance(path, Path) and not path.is_dir())
    return [f'--dataset-name {dataset_name}: {path}: {not_a_folder(path)}; {config} names it' for path in missing]


def _last_checkpoint(text: str) -> str | Path:
    return text if text in ('auto', 'must') else weights_path(text)


def _checkpoint_problems(args: argparse.Namespace) -> list[str]:
    found = []
    last, start = args.model_last_checkpoint, args.model_start_weights
    if first_rank() and isinstance(last, Path) and (why := path_checks.file_problem(last)):
        why = 'a folder; give a .pth file in it, "auto" or "must"' if why.startswith('a folder') else why
        found.append(f'--model-last-checkpoint {named(last)}: {why}')
    if start is not None and (last != 'auto' or (first_rank() and (why := path_checks.file_problem(start)))):
        if last == 'must':
            why = '"must" never starts a run; give --model-last-checkpoint auto'
        elif last != 'auto':
            why = 'only with --model-last-checkpoint auto; without it, give the file as --model-last-checkpoint'
        found.append(f'--model-start-weights {named(start)}: {why}')
    if args.monitor_threshold is not None and not math.isfinite(args.monitor_threshold):
        found.append(f'--monitor-threshold {args.monitor_threshold}: must be a finite number')
    if args.checkpoint_minutes is not None and not args.checkpoint_minutes > 0:
        found.append(f'--checkpoint-minutes {args.checkpoint_minutes}: must be above 0')
    if args.checkpoint_best_name is not None and (problem := template_problem(args.checkpoint_best_name)):
        found.append(f'--checkpoint-best-name {args.checkpoint_best_name}: {problem}')
    if not args.mirror_grace >= 0:
        found.append(f'--mirror-grace {args.mirror_grace}: must be at least 0')
    try:
        store = None if args.checkpoint_mirror is None else Store(args.checkpoint_mirror)
        if store is not None and store.is_folder(args.checkpoint_dir):
            found.append(f'--checkpoint-mirror {store.url}: is --checkpoint-dir itself; give another folder')
    except StoreError as error:
        found.append(f'--checkpoint-mirror {error}')
    if args.requeue and 'SLURM_JOB_ID' not in os.environ:
        found.append('--requeue: this is not a SLURM job (SLURM_JOB_ID is not set); leave the flag out')
    handled = os.environ.get('TORCHELASTIC_SIGNALS_TO_HANDLE', '').split(',')
    if args.requeue and 'TORCHELASTIC_RUN_ID' in os.environ and 'SIGUSR1' not in handled:
        found.append('--requeue: SIGUSR1 would end torchrun and leave its ranks alone; start it with '
                     '--signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGUSR1')  # fmt: skip
    if args.requeue and last not in ('auto', 'must'):
        found.append('--requeue: needs --model-last-checkpoint auto or must, or the job would begin anew')
    return found
