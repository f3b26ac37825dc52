"""Train the whole network, the second of two stages, from the weights of the first.

from a base checkpoint, on one GPU or on all that are visible:
  python train_refine.py --dataset-name my-dataset --model-backbone resnet50 --model-name refine --epoch-end 1 \\
      --model-last-checkpoint checkpoint/base/best.pth
on a laptop, no data needed:
  python train_refine.py --dataset-name synthetic --model-backbone mobilenetv2 --model-name try2 --epoch-end 1 \\
      --model-last-checkpoint checkpoint/try/last.pth --train-resolution 256 --model-refine-sample-pixels 4000 \\
      --max-steps 50
several machines:
  torchrun --nnodes 4 --nproc-per-node 8 ... train_refine.py ...
go on after a stop:
  the same command with --model-last-checkpoint auto

Writes checkpoint/<model_name>/epoch-<N>-iter-<step>.pth and epoch-<N>.pth, and log/<model_name>/ for TensorBoard.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.network import RefinerSettings
from training import options

if TYPE_CHECKING:
    from training.distributed import Forward
    from training.stage import Prediction, Stage


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the command line; raises ValueError with all that is wrong."""
    parser = cli.Parser(__doc__)
    options.add_arguments(parser, batch_size=4, resolution=2048, epoch_end=1, images_interval=1000, valid_interval=2000)
    add = parser.add_argument_group('refiner').add_argument
    cli.add_refiner_arguments(add, RefinerSettings())
    args = parser.parse_args(argv)
    cli.raise_problems(options.problems(args) + cli.refiner_problems(args))
    return args


def make_stage(args: argparse.Namespace) -> Stage:
    """The whole network, its learning rates and its loss."""
    from dataset.geometry import AffineRange
    from model import MattingRefine
    from training.losses import refine_loss
    from training.stage import Prediction, Stage

    model = MattingRefine(args.model_backbone, **vars(RefinerSettings.from_options(vars(args))))

    def predict(model: Forward, batch: Any) -> Prediction:
        true = batch.compose(args.train_resolution)
        pred_pha, pred_fgr, pred_pha_sm, pred_fgr_sm, pred_err_sm, ref_sm = model(true.src, true.bgr)
        losses = refine_loss(pred_pha, pred_fgr, pred_pha_sm, pred_fgr_sm, pred_err_sm, true.pha, true.fgr)
        return Prediction(losses, pred_pha, pred_fgr, {'train_pred_err': pred_err_sm, 'train_pred_ref': ref_sm}, true)

    return Stage(
        name='refine',
        model=model,
        learning_rates={'backbone': 5e-5, 'aspp': 5e-5, 'decoder': 1e-4, 'refiner': 3e-4},
        matte_range=AffineRange(scale=(0.3, 1)),
        multiple=4,
        predict=predict,
        identity={
            'backbone scale': args.model_backbone_scale,
            'refine mode': args.model_refine_mode,
            'refine sample pixels': args.model_refine_sample_pixels,
            'refine threshold': args.model_refine_threshold,
            'refine kernel size': args.model_refine_kernel_size,
        },
        allow_missing=('refiner.',),
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the script; returns its exit code."""
    try:
        args = parse(argv)
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    from training.stage import train

    return train(args, make_stage, [str(Path(__file__).resolve()), *(sys.argv[1:] if argv is None else argv)])


if __name__ == '__main__':
    sys.exit(main())
