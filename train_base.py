# PYTHON_ARGCOMPLETE_OK
"""Train the coarse network, the first of two stages.

try it, no data needed:
  python train_base.py --dataset-name synthetic --model-backbone mobilenetv2 --model-name try --train-resolution 160 \\
      --max-steps 100 --epoch-end 1
your data (named in data_path.toml), on one GPU or on all that are visible:
  python train_base.py --dataset-name my-dataset --model-backbone resnet50 --model-name base --epoch-end 8 \\
      --model-pretrain-initialization imagenet
several machines:
  torchrun --nnodes 4 --nproc-per-node 8 --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGUSR1 ... train_base.py ...
what will it take, in time, memory and disk? nothing is kept:
  the same command with --dry-run
go on after a stop:
  the same command with --model-last-checkpoint auto

Writes checkpoint/<model_name>/epoch-<N>-iter-<step>.pth and epoch-<N>.pth, and log/<model_name>/ for TensorBoard.
train_refine.py takes one of these files as its --model-last-checkpoint.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli
from common.rendezvous import first_rank
from training import options
from training.settings import TrainingSettings

if TYPE_CHECKING:
    from common.signals import StopRequest
    from dataset.loaders import Batch
    from model.weights import LoadReport
    from training.distributed import Forward, Ranks
    from training.loop import Run
    from training.recipes import Recipe
    from training.validation import Prediction


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read and check the command line; raise ValueError with all that is wrong."""
    parser = cli.Parser(__doc__)
    options.add_arguments(
        parser, 'base', batch_size=8, resolution=512, crop_unit=1, epoch_end=8, images_interval=2000,
        valid_interval=5000,
    )  # fmt: skip
    parser.group('model').add_argument(
        '--model-pretrain-initialization', type=os.path.expanduser, metavar='imagenet|FILE',
        help="first weights of the encoder: 'imagenet' (torchvision's, downloaded once), a file of torchvision's "
        'ImageNet weights, or a published DeepLabV3 file',
    )  # fmt: skip
    args = parser.parse_args(argv)
    problems = options.problems(args)
    weights = args.model_pretrain_initialization
    if weights not in (None, 'imagenet') and first_rank() and not Path(weights).is_file():
        problems.append(f"--model-pretrain-initialization {weights}: no such file; give a file or 'imagenet'")
    cli.raise_problems(problems)
    return args


def make_run(args: argparse.Namespace, ranks: Ranks) -> Run:
    """Build the stage in full view: data, network, optimizer, step, and where the run begins."""
    from checkpointing.origin import read_original
    from model import MattingBase
    from model.pretrained import initialize
    from training.data import open_data
    from training.losses import base_loss
    from training.stage import begin, make_optimizer
    from training.validation import Prediction

    def pretrain() -> LoadReport:
        source = args.model_pretrain_initialization
        return initialize(network, source if source == 'imagenet' else read_original(Path(source)).file)

    def step(recipe: Recipe, network: Forward, batch: Batch) -> Prediction:
        true = batch.compose()
        pred_pha, pred_fgr, pred_err, _ = network(true.src, true.bgr)
        losses = base_loss(pred_pha, pred_fgr, pred_err, true.pha, true.fgr, recipe)
        return Prediction(losses, pred_pha, pred_fgr, {'train_pred_err': pred_err}, true)

    settings = TrainingSettings.from_options(vars(args))
    data = open_data(settings.data, ranks, matte_scale=(0.4, 1), crop_unit=1)
    network = ranks.build(lambda: MattingBase(args.model_backbone))
    optimizer = make_optimizer(network, {'backbone': 1e-4, 'aspp': 5e-4, 'decoder': 5e-4})
    first = pretrain if args.model_pretrain_initialization else None
    return begin('base', settings, ranks, data, network, optimizer, step, pretrain=first)


def train(args: argparse.Namespace, ranks: Ranks, signal: StopRequest) -> int:
    """Train to the end or to a signal, or try what that will take; return the exit code."""
    from training.dry_run import dry_run
    from training.loop import fit

    run = make_run(args, ranks)
    return dry_run(run, args.checkpoint_dir) if args.dry_run else fit(run, signal)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return options.main(__file__, parse, train, argv)


if __name__ == '__main__':
    sys.exit(cli.run(main))
