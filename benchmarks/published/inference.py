"""Folders of pictures the published way: one after the other, each with its plate, each output written by a thread.

python -m benchmarks.published.inference --images-src photos/ --images-bgr plate.jpg --checkpoint model.pth \\
    --output-dir out/ --backbone mobilenetv2

Run it in the repository's root. Writes com/*.png, pha/*.jpg and fgr/*.jpg below the output folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from common.cli import Parser

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = {'com': 'png', 'pha': 'jpg', 'fgr': 'jpg'}


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument('--images-src', type=Path, required=True, help='a folder of pictures')
    parser.add_argument('--images-bgr', type=Path, required=True, help='the plate of all of them')
    parser.add_argument('--checkpoint', type=Path, required=True, help='a state_dict')
    parser.add_argument('--output-dir', type=Path, required=True)
    parser.add_argument('--backbone', required=True)
    parser.add_argument('--backbone-scale', type=float, default=0.25)
    parser.add_argument('--refine-sample-pixels', type=int, default=80_000)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args(argv)

    import torch
    from torch.utils.data import DataLoader

    from .network import Published

    model = Published(args.backbone, args.backbone_scale, refine_sample_pixels=args.refine_sample_pixels)
    model.load_state_dict(torch.load(args.checkpoint, weights_only=True))
    model = model.to(args.device).eval()
    names = sorted(path.name for path in args.images_src.iterdir())
    for kind in SUFFIXES:
        (args.output_dir / kind).mkdir(parents=True)

    pairs = Pairs(args.images_src, names, args.images_bgr)
    loader = DataLoader(pairs, pin_memory=args.device != 'cpu')  # type: ignore[arg-type]
    threads = []
    with torch.no_grad():
        for i, (src, bgr) in enumerate(loader):
            src, bgr = (x.to(args.device, non_blocking=True) for x in (src, bgr))
            pha, fgr = model(src, bgr)[:2]
            com = torch.cat([fgr * pha.ne(0), pha], 1)
            for kind, picture in (('com', com), ('pha', pha), ('fgr', fgr)):
                path = args.output_dir / kind / f'{Path(names[i]).stem}.{SUFFIXES[kind]}'
                threads.append(Thread(target=write, args=(picture, path)))
                threads[-1].start()
    for thread in threads:
        thread.join()


class Pairs:
    """Pictures and their one plate, which is decoded for each of them; float32 (3, H, W), 0..1."""

    def __init__(self, folder: Path, names: Sequence[str], plate: Path):
        self.folder, self.names, self.plate = folder, names, plate

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        from PIL import Image
        from torchvision.transforms.functional import to_tensor

        paths = (self.folder / self.names[index], self.plate)
        return tuple(to_tensor(Image.open(path).convert('RGB')) for path in paths)


def write(picture: Tensor, path: Path) -> None:
    """Write the only picture of a batch with Pillow's defaults."""
    from torchvision.transforms.functional import to_pil_image

    to_pil_image(picture[0].cpu()).save(path)


if __name__ == '__main__':
    main()
