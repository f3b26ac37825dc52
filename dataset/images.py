"""The published toolkit's data sets, for code written against them. Training itself uses `dataset.loaders`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .paths import find_images
from .readers import open_picture, read_alpha, read_rgb, upright


class ImagesDataset:
    """All pictures below a folder, or one picture, as upright PIL images.

    Args:
        root: a folder, listed with its sub-folders, or a file.
        mode: a Pillow mode: 'RGB' for colour, 'L' for mattes (read as `read_alpha` does).
        transforms: called with the image; its result is the item.
    """

    def __init__(self, root: str | Path, mode: str = 'RGB', transforms: Callable[[Any], Any] | None = None) -> None:
        root = Path(root)
        paths = [root] if root.is_file() else [root / name for name in find_images(root)]
        self.root, self.mode, self.transforms = root, mode, transforms
        self.filenames = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.filenames)

    def __getitem__(self, index: int) -> Any:
        path = Path(self.filenames[index])
        if self.mode in ('RGB', 'L'):
            image = Image.fromarray(read_rgb(path) if self.mode == 'RGB' else read_alpha(path))
        else:
            with open_picture(path) as opened:
                image = upright(opened).convert(self.mode)
        return self.transforms(image) if self.transforms else image


class ZipDataset:
    """Several data sets side by side: item i is the tuple of their items i.

    It is as long as the longest; the shorter ones repeat.

    Args:
        datasets: anything with `len()` and indexing.
        transforms: called with the items as separate arguments; its result is the item.
        assert_equal_length: refuse data sets of different lengths.
    """

    def __init__(
        self, datasets: Sequence[Any], transforms: Callable[..., Any] | None = None, assert_equal_length: bool = False
    ) -> None:
        lengths = [len(dataset) for dataset in datasets]
        if not lengths or min(lengths) == 0:
            raise ValueError(f'ZipDataset: every data set must have an item; the lengths are {lengths}')
        if assert_equal_length and len(set(lengths)) > 1:
            raise ValueError(f'ZipDataset: the data sets must be equally long; the lengths are {lengths}')
        self.datasets, self.transforms = list(datasets), transforms

    def __len__(self) -> int:
        return max(len(dataset) for dataset in self.datasets)

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        items = tuple(dataset[index % len(dataset)] for dataset in self.datasets)
        return self.transforms(*items) if self.transforms else items


class SampleDataset:
    """At most `samples` items of a data set, spread evenly from its first to its last, none twice."""

    def __init__(self, dataset: Any, samples: int) -> None:
        if samples < 1:
            raise ValueError(f'SampleDataset: samples is {samples}; it must be at least 1')
        self.dataset, self.samples = dataset, min(samples, len(dataset))

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Any:
        index = range(self.samples)[index]
        return self.dataset[index * (len(self.dataset) - 1) // max(self.samples - 1, 1)]
