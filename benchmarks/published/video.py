"""Films the published way: frame after frame through OpenCV, composited on the device, each output an MPEG-4 film.

python -m benchmarks.published.video --video-src film.mp4 --video-bgr plate.jpg --checkpoint model.pth \\
    --output-dir out/ --backbone mobilenetv2

Run it in the repository's root. Writes com.mp4, over green, pha.mp4 and, if asked for, fgr.mp4 in the output folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import Parser

if TYPE_CHECKING:
    from torch import Tensor

GREEN = (120 / 255, 1, 155 / 255)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument('--video-src', type=Path, required=True)
    parser.add_argument('--video-bgr', type=Path, required=True, help='the plate, a picture')
    parser.add_argument('--checkpoint', type=Path, required=True, help='a state_dict')
    parser.add_argument('--output-dir', type=Path, required=True)
    parser.add_argument('--backbone', required=True)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--output-types', nargs='+', default=['com', 'pha'])
    args = parser.parse_args(argv)

    import cv2
    import torch
    from torch.utils.data import DataLoader

    from .network import Published

    model = Published(args.backbone)
    model.load_state_dict(torch.load(args.checkpoint, weights_only=True))
    model = model.to(args.device).eval()
    frames = Frames(args.video_src, args.video_bgr)
    args.output_dir.mkdir(parents=True)
    code = cv2.VideoWriter.fourcc(*'mp4v')
    films = {
        kind: cv2.VideoWriter(str(args.output_dir / f'{kind}.mp4'), code, frames.rate, frames.size)
        for kind in args.output_types
    }
    green = torch.tensor(GREEN, device=args.device).view(1, 3, 1, 1)
    with torch.no_grad():
        for src, bgr in DataLoader(frames, pin_memory=args.device != 'cpu'):  # type: ignore[arg-type]
            src, bgr = (x.to(args.device, non_blocking=True) for x in (src, bgr))
            pha, fgr = model(src, bgr)[:2]
            results = {'com': fgr * pha + green * (1 - pha), 'pha': pha.expand(-1, 3, -1, -1), 'fgr': fgr}
            for kind, film in films.items():
                write(film, results[kind])
    for film in films.values():
        film.release()


class Frames:
    """Frames of a film, and its one plate for each of them; float32 (3, H, W), 0..1."""

    def __init__(self, film: Path, plate: Path):
        import cv2
        from PIL import Image
        from torchvision.transforms.functional import to_tensor

        self.film, self.to_tensor = cv2.VideoCapture(str(film)), to_tensor
        self.rate = self.film.get(cv2.CAP_PROP_FPS)
        self.size = tuple(int(self.film.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        self.plate = Image.open(plate).convert('RGB')

    def __len__(self) -> int:
        import cv2

        return int(self.film.get(cv2.CAP_PROP_FRAME_COUNT))

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        import cv2

        there, frame = self.film.read()
        assert there, f'frame {index} cannot be read'
        return self.to_tensor(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)), self.to_tensor(self.plate)


def write(film, batch: Tensor) -> None:
    """Write the only frame of a batch (1, 3, H, W), 0..1."""
    import cv2

    frame = batch.mul(255).byte()[0].permute(1, 2, 0).cpu().numpy()
    film.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


if __name__ == '__main__':
    main()
