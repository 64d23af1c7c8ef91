"""The command `python -m vig_minimal augment`: every augmentation on one image, to look at before trusting it."""

import argparse
import sys

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor

from ..data.augment import (
    BICUBIC,
    OPERATIONS,
    beta,
    color_jitter,
    cutmix,
    cutmix_box,
    draw_operations,
    erase,
    erasing_box,
    flip_and_shift,
    mixup,
    normalise,
    rand_augment,
    random_resized_box,
)
from .explore import open_image
from .panels import picture, sheet

MAGNITUDE = 9  # the recipe's, "m9"
MEAN = STD = (0.5, 0.5, 0.5)
COLUMNS, PANEL = 6, 192  # panels a row, and about their side in pixels
SIZES = 16, 512

# how the severity of an operation reads; where there is none, the operation is always the same
SEVERITIES = {
    "Rotate": "{:+.1f} degrees", "Posterize": "bits kept: {}", "Solarize": "inverted from {} on",
    "SolarizeAdd": "{:+} below 128", "Color": "factor {:.2f}", "Contrast": "factor {:.2f}",
    "Brightness": "factor {:.2f}", "Sharpness": "factor {:.2f}",
    "ShearX": "{:+.2f} pixels a row", "ShearY": "{:+.2f} pixels a column",
    "TranslateX": "{:+.3f} of the width", "TranslateY": "{:+.3f} of the height",
}

Panels = list[tuple[str, Image.Image]]  # captions and pictures


def operations(image: Image.Image) -> Panels:
    """RandAugment's operations one by one at the recipe's magnitude, their signs alternating where they have one."""
    panels = []
    for i, (name, (severity, apply)) in enumerate(OPERATIONS.items()):
        s = severity(MAGNITUDE, 1 if i % 2 else -1)
        panels.append((f"{name}\n{SEVERITIES.get(name, 'no severity').format(s)}", apply(image, s)))
    return panels


def rand_augment_draws(image: Image.Image, count: int, source: torch.Generator) -> Panels:
    """What RandAugment does, and what was drawn for it."""
    panels = []
    for i in range(count):
        state = source.get_state()
        drawn = draw_operations(source)
        source.set_state(state)
        lines = [f"{name} {SEVERITIES.get(name, '').format(s)}" for name, s in drawn] or ["neither operation applied"]
        panels.append(("\n".join([f"RandAugment, draw {i + 1}", *lines]), rand_augment(image, source)))
    return panels


def flipped_and_shifted(image: Image.Image, source: torch.Generator) -> Panels:
    """Mirrored and moved by up to an eighth, as with `crop="pad"`."""
    down, right = (int(torch.randint(-(side // 8), side // 8 + 1, (1,), generator=source))
                   for side in (image.height, image.width))
    batch = TF.pil_to_tensor(image)[None]
    moved = flip_and_shift(batch, torch.tensor([True]), torch.tensor([down]), torch.tensor([right]))
    return [(f"flip and shift by {right:+} pixels\nto the right, {down:+} down", picture(moved[0]))]


def crops(image: Image.Image, count: int, source: torch.Generator) -> Panels:
    """Random parts, brought to the image's size."""
    panels = []
    for _ in range(count):
        box = random_resized_box(image.height, image.width, source)
        area = box[2] * box[3] / (image.height * image.width)
        crop = TF.resized_crop(image, *box, [image.height, image.width], BICUBIC)
        panels.append((f"random resized crop of\n{box[3]} by {box[2]} pixels, {area:.0%}", crop))
    return panels


def jitters(image: Image.Image, count: int, source: torch.Generator) -> Panels:
    """Colour jitter."""
    return [(f"colour jitter of 0.4, draw {i + 1}", color_jitter(image, source)) for i in range(count)]


def mixes(image: Image.Image, partner: Image.Image, count: int, source: torch.Generator) -> Panels:
    """`count` images each of mixup and cutmix with their partner, under the weights of the two labels."""
    pair = torch.stack([TF.pil_to_tensor(image), TF.pil_to_tensor(partner)])  # (2, 3, H, W)
    pair, labels, panels = normalise(pair, MEAN, STD), torch.eye(2), []
    for i in range(2 * count):
        if i < count:
            caption, (images, targets) = "mixup, alpha 0.8", mixup(pair, labels, beta(0.8, source))
        else:
            box = cutmix_box(image.height, image.width, beta(1.0, source), source)
            caption, (images, targets) = "cutmix, alpha 1", cutmix(pair, labels, box)
        own, other = targets[0].tolist()
        panels.append((f"{caption}\nlabel: {own:.3f} original\n{other:.3f} partner", shown(images[0])))
    return panels


def erased(image: Image.Image, count: int, source: torch.Generator) -> Panels:
    """Random erasing; in training it happens to a quarter of the images, here to all."""
    panels = []
    for _ in range(count):
        pixels = normalise(TF.pil_to_tensor(image)[None], MEAN, STD)[0]
        box = erasing_box(image.height, image.width, source, probability=1)
        erase(pixels, box, source)
        area = box[2] * box[3] / (image.height * image.width)
        panels.append((f"random erasing of\n{box[3]} by {box[2]} pixels, {area:.0%}", shown(pixels)))
    return panels


def shown(pixels: Tensor) -> Image.Image:
    """A normalised image (3, H, W) as a picture; what is darker than black or brighter than white is cut off."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return picture(((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8))


def augment_sheet(image: Image.Image, partner: Image.Image, seed: int = 0, title: str = "") -> Image.Image:
    """All augmentations of an RGB image; `partner`, of the same size, is what mixup and cutmix mix it with."""
    source = torch.Generator().manual_seed(seed)
    panels = [("original", image), ("partner for mixup and cutmix", partner), *operations(image)]
    panels += flipped_and_shifted(image, source) + rand_augment_draws(image, COLUMNS, source)
    panels += crops(image, COLUMNS // 2, source) + jitters(image, COLUMNS // 2, source)
    panels += mixes(image, partner, COLUMNS // 3, source) + erased(image, COLUMNS // 3, source)
    captions, pictures = zip(*panels)
    return sheet([picture(TF.pil_to_tensor(panel), PANEL) for panel in pictures], captions, COLUMNS, title)


def main(argv: list[str] | None = None) -> None:
    """The command; see `python -m vig_minimal augment --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m vig_minimal augment", description="Draw what every augmentation makes of one image.",
        epilog="example: python -m vig_minimal augment shapes:7 --out sheet.png --size 64")
    parser.error = fail
    add = parser.add_argument
    add("image", help="a file, or shapes:INDEX for a validation scene of the embedded data set")
    add("--out", metavar="FILE", default="sheet.png", help="the picture to write (default sheet.png)")
    add("--seed", type=int, default=0, help="another seed, other draws (default 0)")
    add("--size", type=int, default=224, help="side in pixels at which the image is augmented (default 224)")
    args = parser.parse_args(argv)
    if not SIZES[0] <= args.size <= SIZES[1]:
        fail(f"--size {args.size}: a side of {SIZES[0]} to {SIZES[1]} pixels")
    if not 0 <= args.seed < 2**63:
        fail(f"--seed {args.seed}: a whole number, 0 or more and less than 2⁶³")
    try:
        image, partner = (open_image(name, (args.size, args.size)) for name in (args.image, partner_of(args.image)))
    except (ValueError, Image.DecompressionBombError) as error:
        fail(str(error))
    title = (f"{args.image} at {args.size} by {args.size} pixels, seed {args.seed}\nRandAugment's operations one by one"
             f" have its magnitude, {MAGNITUDE}; in training normal noise of 0.5 is added to it")
    page = augment_sheet(picture(image), picture(partner), args.seed, title)
    try:
        page.save(args.out)
    except (OSError, ValueError, KeyError) as error:  # KeyError: a format that Pillow reads but does not write
        fail(f"{args.out}: the picture cannot be written ({error})")
    print(f"wrote {args.out}")


def partner_of(name: str) -> str:
    """The scene that an image is mixed with: the next one, or the first for a file."""
    index = name.removeprefix("shapes:")
    return f"shapes:{int(index) + 1}" if index != name and index.isdecimal() else "shapes:0"


def fail(message: str) -> None:
    """Say in one sentence what is wrong, and end with code 2."""
    print(f"augment: error: {message}", file=sys.stderr)
    sys.exit(2)
