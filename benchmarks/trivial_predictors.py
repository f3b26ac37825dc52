"""Trained checkpoints beside predictors that need no training, on the fixed validation composites.

python benchmarks/trivial_predictors.py --dataset-name my-dataset --base checkpoint/base/best.pth \
    --refine checkpoint/refine/best.pth --model-backbone mobilenetv2 --train-resolution 512

The predictors are alpha = 0, and the mean or largest difference of source and plate over the colour channels, cut at
the threshold that is best for these very pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import machine  # noqa: F401, puts the toolkit on the path

from common import cli
from common.devices import choose_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dataset.augmentation import Composite
    from inference import Matting

ZERO = 'alpha = 0'
THRESHOLDS = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)  # of 255


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--dataset-name', required=True)
    parser.add_argument('--data-config', type=Path, default=Path('data_path.toml'))
    parser.add_argument('--model-backbone', default='mobilenetv2')
    parser.add_argument('--model-backbone-scale', type=float, default=0.25)
    parser.add_argument('--model-refine-sample-pixels', type=int, default=80_000)
    parser.add_argument('--base', type=Path, help='a checkpoint of train_base.py')
    parser.add_argument('--refine', type=Path, help='a checkpoint of train_refine.py')
    parser.add_argument('--train-resolution', type=int, default=512)
    parser.add_argument('--precision', nargs='+', default=['float32'], help='of the networks')
    cli.add_device_argument(parser.add_argument)
    parser.add_argument('--valid-samples', type=int, default=50)
    parser.add_argument('--synthetic-size', type=int, default=1000)
    args = parser.parse_args(argv)

    import torch

    from dataset.loaders import ValidationBatches
    from metrics.matting import SCALINGS, mse, sad
    from training.data import open_data
    from training.distributed import Ranks
    from training.settings import DataSettings

    settings = DataSettings(
        args.dataset_name, args.data_config, args.synthetic_size, args.train_resolution, args.valid_samples,
        batch_size=2, accumulate=1, num_workers=0, seed=0,
    )  # fmt: skip
    data = open_data(settings, Ranks(torch.device('cpu')), matte_scale=(0.4, 1), crop_unit=1)
    batches = ValidationBatches(data.validation, args.valid_samples, args.train_resolution, 1, 0, pin=False)
    device = choose_device(args.device)
    networks = load_networks(args, device)
    scaling = SCALINGS['bmv2']
    errors: dict[str, list[tuple[float, float]]] = {}
    with torch.inference_mode():
        for batch in batches:
            true = batch.to(device).compose()
            predictions = cut_differences(true)
            for name, network in networks.items():
                predictions[name] = network.predict(true.src, true.bgr)['pha'].float()
            for name, pha in predictions.items():
                found = sad(pha, true.pha).item() * scaling['sad'], mse(pha, true.pha).item() * scaling['mse']
                errors.setdefault(name, []).append(found)

    means = {name: torch.tensor(values).mean(0).tolist() for name, values in errors.items()}
    best = [
        min((name for name in means if name.startswith(f'{kind} difference')), key=lambda name: means[name][0])
        for kind in ('mean', 'largest')
    ]
    print(f'{len(errors[ZERO])} composites of {args.train_resolution} x {args.train_resolution}')
    print(f'{"predictor":32} {"SAD":>8} {"MSE x1e3":>9}')
    for name in (ZERO, *best, *networks):
        print(f'{name:32} {means[name][0]:8.3f} {means[name][1]:9.2f}')


def load_networks(args: argparse.Namespace, device: torch.device) -> dict[str, Matting]:
    """Return the trained networks in every precision, by name."""
    from inference import Matting
    from model import MattingBase, MattingRefine
    from model.weights import load_weights

    models: dict[str, MattingBase] = {}
    if args.base:
        models['MattingBase'] = MattingBase(args.model_backbone)
        load_weights(models['MattingBase'], args.base)
    if args.refine:
        models['MattingRefine'] = MattingRefine(
            args.model_backbone, args.model_backbone_scale, refine_sample_pixels=args.model_refine_sample_pixels
        )
        load_weights(models['MattingRefine'], args.refine)
    return {
        f'{name} in {precision}': Matting(model, device, precision)
        for name, model in models.items()
        for precision in args.precision
    }


def cut_differences(true: Composite) -> dict[str, Tensor]:
    """Return alpha 0, and alpha 1 where source and plate differ by more than each threshold, by name."""
    difference = (true.src - true.bgr).abs()
    found = {ZERO: true.pha * 0}
    for level in THRESHOLDS:
        for name, value in (('mean', difference.mean(1, True)), ('largest', difference.amax(1, True))):
            found[f'{name} difference > {level} / 255'] = (value > level / 255).float()
    return found


if __name__ == '__main__':
    sys.exit(cli.run(main))
