"""Training data: picture files or drawings, and how a sample of them becomes part of a batch.

A sample goes through these modules in this order, and each imports earlier ones only:

- `shards`, `cache`, `stores`: pictures that are no files of a local folder;
- `pairing`, `paths`, `tags`, `readers`, `images`, `checks`: find picture files, pair them, decode them into sRGB,
  look them over;
- `fringes`, then `sources`, or `textures`, `drawing`, `people`, `subjects`, `scenery` and `synthetic`: subjects and
  backgrounds, by index;
- `sampling`: which of them a step takes, and the seeds of all random draws;
- `geometry`: the affine that warps a picture to the crop;
- `augmentation`: composites, on the device;
- `loaders`: decodes and warps in worker processes, and hands out batches.
"""

from common.published import pointing

from .images import ImagesDataset, SampleDataset, ZipDataset
from .video import VideoDataset

__all__ = ['ImagesDataset', 'SampleDataset', 'VideoDataset', 'ZipDataset']
__getattr__ = pointing(__name__)
