"""Trained checkpoints beside predictors that need no training, on the fixed validation composites.

python benchmarks/trivial_predictors.py --dataset-name my-dataset --base checkpoint/base/best.pth \
    --refine checkpoint/refine/best.pth --model-backbone mobilenetv2 --train-resolution 512

Besides alpha = 0 and the matting networks: the thresholded difference between source and plate, with the threshold
that is best on these very pictures, for the mean and for the largest difference over the colour channels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import machine  # noqa: F401, puts the toolkit on the path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dataset-name', required=True)
    parser.add_argument('--data-config', type=Path, default=Path('data_path.toml'))
    parser.add_argument('--model-backbone', default='mobilenetv2')
    parser.add_argument('--model-backbone-scale', type=float, default=0.25)
    parser.add_argument('--model-refine-sample-pixels', type=int, default=80_000)
    parser.add_argument('--base', type=Path, help='a checkpoint of train_base.py')
    parser.add_argument('--refine', type=Path, help='a checkpoint of train_refine.py')
    parser.add_argument('--train-resolution', type=int, default=512)
    parser.add_argument('--precision', nargs='+', default=['float32'], help='of the networks')
    parser.add_argument('--valid-samples', type=int, default=50)
    parser.add_argument('--synthetic-size', type=int, default=1000)
    args = parser.parse_args()

    import torch

    from dataset.loaders import ValidationBatches, WarpedPairs
    from inference import Matting
    from metrics.matting import SCALINGS, mse, sad
    from model import MattingBase, MattingRefine
    from model.weights import load_weights
    from training.stage import VALID_BACKGROUND_RANGE, VALID_MATTE_RANGE, sources

    data = WarpedPairs(*sources(args)[1], VALID_MATTE_RANGE, VALID_BACKGROUND_RANGE)
    loader = ValidationBatches(data, args.valid_samples, args.train_resolution, 1, 0, pin=False)
    models: dict[str, torch.nn.Module] = {}
    if args.base:
        models['MattingBase'] = MattingBase(args.model_backbone)
        load_weights(models['MattingBase'], args.base)
    if args.refine:
        models['MattingRefine'] = MattingRefine(
            args.model_backbone, args.model_backbone_scale, refine_sample_pixels=args.model_refine_sample_pixels
        )
        load_weights(models['MattingRefine'], args.refine)
    networks = {
        f'{name} in {precision}': Matting(model, 'cpu', precision)
        for name, model in models.items()
        for precision in args.precision
    }

    scaling = SCALINGS['bmv2']
    thresholds = [t / 255 for t in (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)]
    errors: dict[str, list[tuple[float, float]]] = {}
    with torch.inference_mode():
        for batch in loader:
            true = batch.compose(args.train_resolution)
            difference = (true.src - true.bgr).abs()
            predictions = {'alpha = 0': torch.zeros_like(true.pha)}
            for threshold in thresholds:
                for name, value in (('mean', difference.mean(1, True)), ('largest', difference.amax(1, True))):
                    predictions[f'{name} difference > {threshold * 255:.0f} / 255'] = (value > threshold).float()
            for name, network in networks.items():
                predictions[name] = network.predict(true.src, true.bgr)['pha'].float()
            for name, pha in predictions.items():
                found = sad(pha, true.pha).item() * scaling['sad'], mse(pha, true.pha).item() * scaling['mse']
                errors.setdefault(name, []).append(found)

    means = {name: torch.tensor(values).mean(0).tolist() for name, values in errors.items()}
    trivial = [name for name in means if 'difference' in name]
    shown = ['alpha = 0', *(min((n for n in trivial if n.startswith(k)), key=lambda n: means[n][0]) for k in
                            ('mean', 'largest')), *networks]  # fmt: skip
    print(f'{len(errors["alpha = 0"])} composites of {args.train_resolution} x {args.train_resolution}')
    print(f'{"predictor":32} {"SAD":>8} {"MSE x1e3":>9}')
    for name in shown:
        print(f'{name:32} {means[name][0]:8.3f} {means[name][1]:9.2f}')


if __name__ == '__main__':
    main()
