# PYTHON_ARGCOMPLETE_OK
"""Train the whole network, the second of two stages, from the weights of the first.

from a base checkpoint, on one GPU or on all that are visible:
  python train_refine.py --dataset-name my-dataset --model-backbone resnet50 --model-name refine --epoch-end 1 \\
      --model-last-checkpoint checkpoint/base/best.pth
on a laptop, no data and no first stage needed, from the model that comes with the toolkit:
  python train_refine.py --dataset-name synthetic --model-backbone mobilenetv2 --model-name try2 --epoch-end 1 \\
      --model-last-checkpoint starter --train-resolution 256 --model-backbone-scale 0.5 \\
      --model-refine-sample-pixels 16000 --max-steps 50
several machines:
  torchrun --nnodes 4 --nproc-per-node 8 ... train_refine.py ...
what will it take, in time, memory and disk? nothing is kept:
  the same command with --dry-run
go on after a stop:
  the same command with --model-last-checkpoint auto

Writes checkpoint/<model_name>/epoch-<N>-iter-<step>.pth and epoch-<N>.pth, and log/<model_name>/ for TensorBoard.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import sys
from typing import TYPE_CHECKING

from common import cli
from common.network import RefinerSettings
from training import options
from training.settings import TrainingSettings

if TYPE_CHECKING:
    from common.signals import StopRequest
    from dataset.loaders import Batch
    from training.distributed import Forward, Ranks
    from training.loop import Run
    from training.recipes import Recipe
    from training.validation import Prediction


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read and check the command line; raise ValueError with all that is wrong."""
    parser = cli.Parser(__doc__)
    options.add_arguments(
        parser, 'refine', batch_size=4, resolution=2048, crop_unit=4, epoch_end=1, images_interval=1000,
        valid_interval=2000,
    )  # fmt: skip
    add = parser.group('model').add_argument
    cli.add_refiner_arguments(add, RefinerSettings())
    add('--from-scratch', action='store_true',
        help='begin without the weights of a base checkpoint, which learns far worse')  # fmt: skip
    args = parser.parse_args(argv)
    problems = options.problems(args, crop_unit=4) + options.from_scratch_problems(args) + cli.refiner_problems(args)
    cli.raise_problems(problems)
    return args


def make_run(args: argparse.Namespace, ranks: Ranks) -> Run:
    """Build the stage in full view: data, network, optimizer, step, and where the run begins."""
    from model import MattingRefine
    from training.data import open_data
    from training.losses import refine_loss
    from training.stage import begin, make_optimizer
    from training.validation import Prediction

    def step(recipe: Recipe, network: Forward, batch: Batch) -> Prediction:
        true = batch.compose()
        pred_pha, pred_fgr, pred_pha_sm, pred_fgr_sm, pred_err_sm, ref_sm = network(true.src, true.bgr)
        losses = refine_loss(pred_pha, pred_fgr, pred_pha_sm, pred_fgr_sm, pred_err_sm, true.pha, true.fgr, recipe)
        return Prediction(losses, pred_pha, pred_fgr, {'train_pred_err': pred_err_sm, 'train_pred_ref': ref_sm}, true)

    settings, refiner = TrainingSettings.from_options(vars(args)), RefinerSettings.from_options(vars(args))
    data = open_data(settings.data, ranks, matte_scale=(0.3, 1), crop_unit=4)
    network = ranks.build(lambda: MattingRefine(args.model_backbone, **vars(refiner)))
    rates = {'backbone': 5e-5, 'aspp': 5e-5, 'decoder': 1e-4, 'refiner': 3e-4}
    optimizer = make_optimizer(network, rates)
    return begin('refine', settings, ranks, data, network, optimizer, step, refiner)


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
