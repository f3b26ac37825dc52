"""Train the coarse network, the first of two stages.

try it, no data needed:
  python train_base.py --dataset-name synthetic --model-backbone mobilenetv2 --model-name try --train-resolution 160 \\
      --max-steps 100 --epoch-end 1
your data (named in data_path.toml), on one GPU or on all that are visible:
  python train_base.py --dataset-name my-dataset --model-backbone resnet50 --model-name base --epoch-end 8 \\
      --model-pretrain-initialization imagenet
several machines:
  torchrun --nnodes 4 --nproc-per-node 8 ... train_base.py ...
go on after a stop:
  the same command with --model-last-checkpoint auto

Writes checkpoint/<model_name>/epoch-<N>-iter-<step>.pth and epoch-<N>.pth, and log/<model_name>/ for TensorBoard.
train_refine.py takes one of these files as its --model-last-checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from training import options

if TYPE_CHECKING:
    from training.distributed import Forward
    from training.stage import Prediction, Stage


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the command line; raises ValueError with all that is wrong."""
    parser = cli.Parser(__doc__)
    options.add_arguments(parser, batch_size=8, resolution=512, epoch_end=8, images_interval=2000, valid_interval=5000)
    parser.add_argument(
        '--model-pretrain-initialization', metavar='imagenet|FILE',
        help="first weights of the encoder: 'imagenet' (torchvision's, downloaded once), a file of torchvision's "
        'ImageNet weights, or a published DeepLabV3 file',
    )  # fmt: skip
    args = parser.parse_args(argv)
    found = options.problems(args)
    source = args.model_pretrain_initialization
    if source not in (None, 'imagenet') and not Path(source).is_file():
        found.append(f"--model-pretrain-initialization {source}: no such file; give a file or 'imagenet'")
    cli.raise_problems(found)
    return args


def make_stage(args: argparse.Namespace) -> Stage:
    """The coarse network, its learning rates and its loss."""
    from dataset.geometry import AffineRange
    from model import MattingBase
    from model.pretrained import initialize
    from training.losses import base_loss
    from training.stage import Prediction, Stage, log

    model = MattingBase(args.model_backbone)
    if args.model_pretrain_initialization:
        log.info('first weights from %s', initialize(model, args.model_pretrain_initialization))

    def predict(model: Forward, batch: Any) -> Prediction:
        true = batch.compose(args.train_resolution)
        pred_pha, pred_fgr, pred_err, _ = model(true.src, true.bgr)
        losses = base_loss(pred_pha, pred_fgr, pred_err, true.pha, true.fgr)
        return Prediction(losses, pred_pha, pred_fgr, {'train_pred_err': pred_err}, true)

    return Stage(
        name='base',
        model=model,
        learning_rates={'backbone': 1e-4, 'aspp': 5e-4, 'decoder': 5e-4},
        matte_range=AffineRange(scale=(0.4, 1)),
        multiple=1,
        predict=predict,
        identity={},
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
