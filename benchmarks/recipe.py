"""Recipes of the base stage, trained in turn on the same data and scored on the same disturbed composites.

python benchmarks/recipe.py --dataset-name my-dataset --model-pretrain-initialization mobilenet_v2.pth \\
    --output-dir recipes --variants matte-edges edges edges,ema_decay=0.98 edges,fgr=1 published,laplacian
python benchmarks/recipe.py --tiny    only to see that everything works

The reference is the published script, written anew in `published/training.py`; with --random-stem it is trained once
more as it begins by itself: it loads tensors of equal shape, which leaves the stem of six channels at random. A variant
is a recipe of the toolkit and what is changed of it: flags of the training (max_steps for another number of steps),
parts of `training.recipes.Recipe`, or what the toolkit does whatever the recipe:
  plain-clamp, plain-clamp-fgr   no gradient where alpha or colour leave 0..1, as published; the same of colour alone
  fringes                        the colours that a matting tool left around a subject, as published
  laplacian                      a further term of the loss: the L1 norm of alpha's Laplacian pyramid
All start from the same weights and see the same pictures in the same order, in float32 on one thread. Alpha's figures
are over the unknown region, FG-MSE over the subject and, as BMV2, over the unknown region; where a recipe has an
average of the weights, they are the average's. --output-dir keeps each run: what is there is not trained again, so an
interrupted benchmark goes on; give another folder once the code has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from helpers import machine
from helpers.ablations import ABLATIONS

from common import cli
from common.files import digest, write_atomic

if TYPE_CHECKING:
    from dataset.loaders import WarpedPairs
    from evaluation.results import Results
    from model import MattingBase
    from training.recipes import Recipe

    Variant = tuple[Recipe, list[str], list[str]]

SCRIPT, AS_IT_BEGINS = 'published script', 'published script, stem at random'
METRICS = ('sad', 'mse', 'grad', 'conn', 'fg_mse', 'fg_mse_bmv2', 'sad_whole')
# What makes two runs comparable; --dataset-name too, whose pictures nobody compares.
ALIKE = ('dataset_name', 'steps', 'batch_size', 'train_resolution', 'model_backbone', 'backgrounds_per_subject')
# Parts of a recipe that are flags of the training.
FLAGS = ('lr_schedule', 'warmup_steps', 'learning_rate_scale', 'ema_decay', 'max_steps')


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--dataset-name')
    parser.add_argument('--data-config', type=Path, default=Path('data_path.toml'))
    parser.add_argument('--variants', nargs='*', default=['matte-edges'], metavar='RECIPE[,PART...]')
    parser.add_argument('--random-stem', action='store_true', help='train the published script as it begins, too')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--steps', type=int, default=300)
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--train-resolution', type=int, default=160)
    parser.add_argument('--model-backbone', default='mobilenetv2')
    parser.add_argument('--model-pretrain-initialization', type=Path, metavar='FILE')
    parser.add_argument('--backgrounds-per-subject', type=int, default=3, metavar='N', help='of the composites scored')
    parser.add_argument('--output-dir', type=Path, metavar='DIR', help='keeps the runs, and goes on with them')
    parser.add_argument('--tiny', action='store_true', help='two steps on drawn pictures, in seconds')
    args = parser.parse_args(argv)
    if not args.tiny and None in (args.dataset_name, args.output_dir):
        parser.error('--dataset-name and --output-dir: both are needed, or --tiny')
    try:
        recipes = {name: parse_variant(name) for name in args.variants}
    except ValueError as error:
        parser.error(str(error))

    with tempfile.TemporaryDirectory() as folder:
        if args.tiny:
            make_tiny(args, Path(folder))
        compare(args, recipes)


def compare(args: argparse.Namespace, recipes: Mapping[str, Variant]) -> None:
    """Train and score whatever is not yet there, and print the tables."""
    import torch

    from common.devices import keep_memory

    keep_memory()
    torch.set_num_threads(1)
    print(machine.describe())
    names = (SCRIPT, *((AS_IT_BEGINS,) if args.random_stem else ()), *recipes)
    runs = {name: [kept_run(args, name, seed, recipes.get(name)) for seed in args.seeds] for name in names}
    report(args, runs)


def parse_variant(text: str) -> Variant:
    """Return the recipe of a variant, its flags and which of ABLATIONS it has; raise ValueError for what is unknown."""
    import train_base
    from training.recipes import RECIPES, Recipe

    name, *parts = text.split(',')
    changed = {key: value for key, equals, value in (part.partition('=') for part in parts) if equals}
    ablations = [part for part in parts if '=' not in part]
    known = {'recipe': [name], 'part': list(changed), 'ablation': ablations}
    weights = [field.name for field in fields(Recipe) if field.name not in FLAGS]
    for kind, allowed in (('recipe', RECIPES), ('part', [*FLAGS, *weights]), ('ablation', ABLATIONS)):
        if odd := [word for word in known[kind] if word not in allowed]:
            raise ValueError(f'--variants {text}: {odd[0]} is no {kind}; there are {", ".join(allowed)}')
    flags = [f'{cli.flag(key)}={changed[key]}' for key in FLAGS if key in changed]
    given = ['--dataset-name=synthetic', '--model-name=benchmark', '--model-backbone=mobilenetv2']
    train_base.parse([*given, *flags])  # ends at a value that is none
    try:
        recipe = replace(RECIPES[name], **{key: float(changed[key]) for key in weights if key in changed})
    except ValueError as error:
        raise ValueError(f'--variants {text}: {error}') from None
    return recipe, flags, ablations


def kept_run(args: argparse.Namespace, name: str, seed: int, variant: Variant | None) -> dict[str, Any]:
    """Return the losses, CPU seconds and figures of a run, which is made unless --output-dir has it."""
    weights = args.model_pretrain_initialization
    settings = {**{key: getattr(args, key) for key in ALIKE}, 'seed': seed}
    settings['model_pretrain_initialization'] = weights and digest(weights)
    file = args.output_dir / f'{name.replace(", ", "-").replace(" ", "-")}-{seed}.json'
    if file.exists():
        run = json.loads(file.read_text())
        if differing := [key for key in settings if run['settings'].get(key) != settings[key]]:
            key = differing[0]
            raise ValueError(f'{file} has {cli.flag(key)} {run["settings"].get(key)}, not {settings[key]}; '
                             'give another --output-dir')  # fmt: skip
        return run
    args.output_dir.mkdir(parents=True, exist_ok=True)
    print(f'{name}, seed {seed} ...', flush=True)
    words = stage_words(args, seed, first_weights(args, seed, random_stem=name == AS_IT_BEGINS))
    network, pairs, losses, seconds = train_published(args, words) if variant is None else train_ours(words, *variant)
    figures = score(network, pairs, args)
    run = {'settings': settings, 'seconds': seconds, 'losses': losses, 'figures': figures}
    write_atomic(file, json.dumps(run).encode())
    return run


def first_weights(args: argparse.Namespace, seed: int, random_stem: bool = False) -> Path:
    """Return the file of the weights that a run begins with, made anew each time; runs of a seed begin alike."""
    import torch

    from model import MattingBase
    from model.pretrained import STEMS, initialize

    file = args.output_dir / f'start-{seed}.pth'
    torch.manual_seed(seed)
    network = MattingBase(args.model_backbone)
    if args.model_pretrain_initialization:
        initialize(network, args.model_pretrain_initialization)
    if random_stem:
        torch.nn.init.kaiming_uniform_(
            network.get_parameter(STEMS[args.model_backbone]), math.sqrt(5)
        )  # as Conv2d does
    torch.save(network.state_dict(), content := io.BytesIO())
    write_atomic(file, content.getvalue())
    return file


def stage_words(args: argparse.Namespace, seed: int, start: Path) -> list[str]:
    """Return the command line of `train_base.py` for a run."""
    given = {key: getattr(args, key) for key in ('dataset_name', 'data_config', 'model_backbone', 'train_resolution',
                                                 'batch_size')}  # fmt: skip
    given |= {'max_steps': args.steps, 'epoch_end': args.steps, 'seed': seed, 'model_last_checkpoint': start}
    given |= {'precision': 'float32', 'num_workers': 0, 'device': 'cpu'}
    given['freeze_batch_norm'] = 'none'  # most of the first weights are random
    return [word for key, value in given.items() for word in (cli.flag(key), str(value))]


def train_ours(
    words: list[str], recipe: Recipe, flags: Sequence[str], ablations: Sequence[str]
) -> tuple[MattingBase, WarpedPairs, list[float], float]:
    """Train as `train_base.py` does; return the network, the validation pairs, the losses and the CPU seconds."""
    import torch
    from helpers.training_steps import Trainer

    from training.recipes import RECIPES

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(RECIPES, {'variant': recipe}))
        for name in ablations:
            stack.enter_context(ABLATIONS[name]())
        trainer = Trainer('base', torch.device('cpu'), *words, *flags, '--recipe', 'variant')
        begin = time.process_time()
        losses = [trainer.step(batch).item() for batch in trainer.run.batches]
        seconds = time.process_time() - begin
    state = trainer.run.state
    network: Any = state.module if state.ema is None else state.ema.module
    return network, trainer.run.valid_batches.loader.dataset, losses, seconds  # type: ignore[union-attr]


def train_published(args: argparse.Namespace, words: list[str]) -> tuple[MattingBase, WarpedPairs, list[float], float]:
    """Train as the published script does; return what `train_ours` does."""
    import torch

    import train_base
    from benchmarks.published.training import PublishedBase, train
    from training.data import open_data
    from training.distributed import Ranks
    from training.settings import TrainingSettings

    options = vars(train_base.parse([*words, '--model-name', 'benchmark', '--dry-run', '--crop-multiple', '1']))
    settings = TrainingSettings.from_options(options)
    data = open_data(settings.data, Ranks(torch.device('cpu')), matte_scale=(0.4, 1), crop_unit=1)
    network = PublishedBase(args.model_backbone)
    network.load_state_dict(torch.load(options['model_last_checkpoint'], weights_only=True))
    mattes, backgrounds = data.training.mattes.pairs, data.training.backgrounds.paths  # type: ignore[attr-defined]
    begin = time.process_time()
    losses = list(train(network, mattes, backgrounds, data.plan, args.steps))
    return network, data.validation, losses, time.process_time() - begin


def score(network: MattingBase, pairs: WarpedPairs, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the figures of composites of each subject over several backgrounds, by 'subject/number'."""
    import torch

    from dataset.loaders import collate
    from dataset.sampling import VALIDATION, Sample
    from metrics import matting
    from metrics.trimap import trimap, unknown

    count, backgrounds, side = args.backgrounds_per_subject, len(pairs.backgrounds), args.train_resolution
    figures = {}
    network.eval()
    for subject in range(len(pairs.mattes)):
        numbers = range(subject * count, (subject + 1) * count)
        samples = [Sample(0, VALIDATION, i, subject, i % backgrounds, side, side, count) for i in numbers]
        true = collate([pairs[sample] for sample in samples]).compose()
        with torch.no_grad():
            pha, fgr, _, _ = network(true.src, true.bgr)
        region = torch.stack([torch.from_numpy(unknown(trimap(x[0].numpy())))[None] for x in true.pha])
        found = {name: getattr(matting, name)(pha, true.pha, region) for name in METRICS[:4]}
        found['sad_whole'] = matting.sad(pha, true.pha)
        found['fg_mse'] = matting.fg_mse(fgr, true.fgr, true.pha)
        found['fg_mse_bmv2'] = matting.fg_mse_bmv2(fgr, true.fgr, true.pha, region)
        for i in range(count):
            figures[f'{subject}/{i}'] = {
                name: values[i].item() * matting.SCALINGS['bmv2'][name.removesuffix('_whole')]
                for name, values in found.items()
            }
    return figures


def report(args: argparse.Namespace, runs: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Print means, and paired differences from the published script for each seed and for all."""
    from evaluation.results import Results, differences, means
    from evaluation.tables import TITLES

    titles = {**TITLES, 'sad_whole': 'SAD, all pixels'}

    def pooled(name: str, chosen: Sequence[int]) -> Results:
        figures = {f'{i}/{key}': values for i in chosen for key, values in runs[name][i]['figures'].items()}
        return Results(name, figures, {}, {}, {}, {key: key.split('/')[1] for key in figures})

    seeds = range(len(args.seeds))
    each = {f'seed {seed}': [i] for i, seed in enumerate(args.seeds)}
    print(f'\n{args.steps} steps of {args.batch_size} samples at {args.train_resolution} pixels, {len(seeds)} seeds; '
          f'{len(runs[SCRIPT][0]["figures"])} composites; means over seeds, and differences from the {SCRIPT} in %, '
          'with the 95 % interval over subjects')  # fmt: skip
    print(f'{"":9}', *(f'{titles[name]:>16}' for name in METRICS), f'{"CPU s":>8}')
    for name in runs:
        found = means(pooled(name, seeds))
        seconds = statistics.mean(run['seconds'] for run in runs[name])
        print(f'{name}\n  {"mean":7}', *(f'{found[metric].value:16.3f}' for metric in METRICS), f'{seconds:8.0f}')
        if name == SCRIPT:
            continue
        for label, chosen in {**each, 'all': seeds}.items():
            reference = pooled(SCRIPT, chosen)
            apart, base = differences(pooled(name, chosen), reference), means(reference)
            cells = []
            for metric in METRICS:
                mean, percent = apart[metric], 100 / base[metric].value
                value, low, high = (percent * x for x in (mean.value, mean.low, mean.high))
                cells.append(f'{value:+.0f} ({low:+.0f}..{high:+.0f})')
            print(f'  {label:7}', *(f'{cell:>16}' for cell in cells))


def make_tiny(args: argparse.Namespace, folder: Path) -> None:
    """Draw a data set into a folder, and set what makes a benchmark of seconds of it."""
    from PIL import Image

    from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes

    config = '[backgrounds]\n'
    for split, seed in (('train', 0), ('valid', 1)):
        mattes, backgrounds = SyntheticMattes(4, seed=seed), SyntheticBackgrounds(2, seed=seed)
        for kind in ('fgr', 'pha', 'bgr'):
            (folder / split / kind).mkdir(parents=True)
        for i in range(len(mattes)):
            matte = mattes.read(i, (64, 64))
            Image.fromarray(matte[..., :3]).save(folder / split / 'fgr' / f'{i}.png')
            Image.fromarray(matte[..., 3]).save(folder / split / 'pha' / f'{i}.png')
        for i in range(len(backgrounds)):
            Image.fromarray(backgrounds.read(i, (64, 64))).save(folder / split / 'bgr' / f'{i}.jpg')
        config += f'{split} = "{folder / split / "bgr"}"\n'
    for split in ('train', 'valid'):
        config += f'[tiny.{split}]\n' + ''.join(f'{kind} = "{folder / split / kind}"\n' for kind in ('fgr', 'pha'))
    args.data_config = folder / 'data.toml'
    args.data_config.write_text(config)
    args.dataset_name, args.seeds, args.steps, args.batch_size, args.train_resolution = 'tiny', [0], 2, 2, 64
    args.output_dir = args.output_dir or folder / 'runs'


if __name__ == '__main__':
    sys.exit(cli.run(main))
