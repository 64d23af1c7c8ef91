"""The embedded data set: pictures of ten shapes, drawn on the fly, nothing to download.

A scene is decided by (seed, split, index) and by nothing else: no process, worker or order of access changes it, and at
another resolution it is the same picture. One main shape of random colour, size, rotation and place lies over a texture
of two colours with distracting strokes. There are three views of the same scenes:

    single    the main shape alone                       image, label
    multi     up to three smaller companions beside it   image, multi-hot labels
    boxes     the pictures of `multi`                    image, boxes + labels + instance masks

It asks for shape, not for colour or place: softmax regression on the raw pixels (10,000 training images, 2,000 for
validation) gets at best 23.5 % top-1, where chance is 10 %. The command prints it:

    python -m vig_minimal.shapes --linear

How a scene comes about is in `scenes.py`.
"""

import argparse
import operator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from .drawing import outline, picture, sheet
from .scenes import SHAPES, SPLITS, compose, paint

CLASSES = tuple(shape.__name__ for shape in SHAPES)
VIEWS = ("single", "multi", "boxes")


class Shapes(Dataset):
    """`count` scenes of a split in one of three views; the image is a uint8 tensor (3, H, W).

    view="single": image, label (int)
    view="multi":  image, (10,) float, 1 for every class in the picture
    view="boxes":  image, dict of `boxes` (n, 4) float: left, top, right, bottom in pixels, the last two one past the
                   end; `labels` (n,) int64; `masks` (n, H, W) bool. The main shape is the first.

    size: one number for a square, or (height, width), 16 pixels at least. seed: another seed, other scenes.
    Raises ValueError for what cannot be drawn, IndexError for an index outside 0 … count − 1.
    """

    classes = CLASSES

    def __init__(self, size: int | tuple[int, int] = 64, count: int = 10_000, split: str = "train",
                 view: str = "single", seed: int = 0):
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 16:
            raise ValueError(f"size={height}×{width}: shapes need sides of at least 16 pixels")
        if count < 1:
            raise ValueError(f"count={count}: a data set has at least one scene")
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
        if view not in VIEWS:
            raise ValueError(f"view={view!r}: choose one of {', '.join(VIEWS)}")
        if seed < 0:
            raise ValueError(f"seed={seed}: a seed is 0 or more")
        self.height, self.width, self.count, self.split, self.view, self.seed = height, width, count, split, view, seed

    def __len__(self) -> int:
        return self.count

    @property
    def targets(self) -> Tensor | None:
        """The labels (count,) of the single view, in which classes take turns; None in the others."""
        return torch.arange(self.count) % len(CLASSES) if self.view == "single" else None

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor | dict[str, Tensor]]:
        index = operator.index(index)
        if not 0 <= index < self.count:
            raise IndexError(f"index {index}: this data set has scenes 0 to {self.count - 1}")
        unit = min(self.height, self.width)
        scene = compose(index, self.split, self.seed, (self.width / unit, self.height / unit))
        if self.view == "single":
            image, _ = paint(replace(scene, items=scene.items[:1]), self.height, self.width)
            return torch.from_numpy(image), scene.items[0].label
        image, masks = paint(scene, self.height, self.width)
        labels = torch.tensor([item.label for item in scene.items])  # (n,)
        if self.view == "multi":
            return torch.from_numpy(image), torch.zeros(len(CLASSES)).index_fill_(0, labels, 1)
        boxes = torch.tensor([_box(mask) for mask in masks], dtype=torch.float32)  # (n, 4)
        return torch.from_numpy(image), {"boxes": boxes, "labels": labels, "masks": torch.from_numpy(masks)}


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1



def linear_baseline(size: int = 64, train: int = 10_000, val: int = 2_000, epochs: int = 20) -> float:
    """The best top-1, in percent, that softmax regression on raw pixels reaches in any epoch on validation scenes."""
    torch.manual_seed(0)
    sets = [Shapes(size, train, "train"), Shapes(size, val, "val")]
    (x, y), (x_val, y_val) = [_pixels(scenes) for scenes in sets]
    model = torch.nn.Linear(x.shape[1], len(CLASSES))
    torch.nn.init.zeros_(model.weight)
    optimiser, best = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1), 0.0
    for _ in range(epochs):
        for batch in torch.randperm(train).split(256):
            optimiser.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            best = max(best, 100 * float((model(x_val).argmax(1) == y_val).float().mean()))
    return best


def _pixels(scenes: Shapes) -> tuple[Tensor, Tensor]:
    """All images as rows of numbers around 0, and their labels."""
    images, labels = zip(*scenes)
    return torch.stack(images).flatten(1).float() / 127.5 - 1, torch.tensor(labels)


def contact_sheet(view: str, size: int, seed: int) -> Image.Image:
    """Forty training scenes, ten a row: in the single view every column is a class."""
    panels, captions = [], []
    for image, target in Shapes(size, 40, "train", view, seed):
        panel = picture(image, 96)
        if view == "single":
            names = [CLASSES[target]]
        elif view == "multi":
            names = [CLASSES[label] for label in target.nonzero()[:, 0]]
        else:
            names = [CLASSES[label] for label in target["labels"]]
            for left, top, right, bottom in (target["boxes"] * (panel.width / image.shape[2])).tolist():
                outline(panel, (left, top, right - 1, bottom - 1), "red", 1)
        panels.append(panel)
        captions.append("\n".join(names))
    return sheet(panels, captions, columns=10)


def main(argv: list[str] | None = None) -> None:
    """The command; see `python -m vig_minimal.shapes --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m vig_minimal.shapes",
        description="Look at the embedded data set, or measure how little a linear classifier makes of it.",
        epilog="example: python -m vig_minimal.shapes --out sheet.png --view boxes --size 128")
    parser.add_argument("--out", metavar="FILE", help="draw a contact sheet with class names into this picture")
    parser.add_argument("--view", choices=VIEWS, default="single", help="which view of the scenes the sheet shows")
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes (default 0)")
    parser.add_argument("--linear", action="store_true", help="train softmax regression on raw pixels, print its top-1")
    args = parser.parse_args(argv)
    if not args.out and not args.linear:
        parser.error("nothing to do: give --out FILE, --linear or both")
    try:
        if args.out:
            contact_sheet(args.view, args.size, args.seed).save(args.out)
            print(f"wrote {args.out}")
        if args.linear:
            print(f"softmax regression on raw pixels: {linear_baseline(args.size):.1f} % top-1 (chance: 10 %)")
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
