"""Draw a sheet of synthetic scenes with their class names, or measure a linear classifier on their raw pixels.

With --linear it trains softmax regression on raw pixels and prints its top-1: a baseline that sees no shape.
"""

import torch
from PIL import Image, ImageDraw
from torch.nn.functional import cross_entropy

from ..data.synthetic import CLASSES, VIEWS, Shapes
from .command import Parser, save_picture
from .panels import picture, sheet

LARGEST = 1024  # side of a scene in pixels


def linear_baseline(size: int = 64, train: int = 10_000, val: int = 2_000, epochs: int = 20) -> float:
    """The best top-1, in percent, that softmax regression on raw pixels reaches in any epoch on validation scenes."""
    torch.manual_seed(0)
    data = []  # training and validation: images as rows of numbers around 0, and labels
    for scenes in (Shapes(size, train, "train"), Shapes(size, val, "val")):
        images, labels = zip(*scenes)
        data += [torch.stack(images).flatten(1).float() / 127.5 - 1, torch.tensor(labels)]
    x, y, x_val, y_val = data
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
                ImageDraw.Draw(panel).rectangle((left, top, right - 1, bottom - 1), outline="red")
        panels.append(panel)
        captions.append("\n".join(names))
    return sheet(panels, captions, columns=10)


def main(argv: list[str] | None = None) -> None:
    """Run `python -m vig_minimal scenes`."""
    parser = Parser("scenes", __doc__, "--out sheet.png --view boxes --size 128")
    parser.add_out(None, "draw a contact sheet with class names into this picture")
    parser.add_argument("--view", choices=VIEWS, default="single", help="which view of the scenes the sheet shows")
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes (default 0)")
    parser.add_argument("--linear", action="store_true", help="train softmax regression on raw pixels, print its top-1")
    args = parser.parse_args(argv)
    if not args.out and not args.linear:
        parser.error("nothing to do: give --out FILE, --linear or both")
    if args.size > LARGEST:
        parser.error(f"--size {args.size}: a side of at most {LARGEST} pixels")
    with parser.errors_in_one_sentence():
        if args.out:
            save_picture(contact_sheet(args.view, args.size, args.seed), args.out)
        if args.linear:
            print(f"softmax regression on raw pixels: {linear_baseline(args.size):.1f} % top-1 (chance: 10 %)")
