"""Draw every augmentation of one image."""

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor

from ..data import augment
from .command import Parser, save_picture
from .panels import picture, sheet
from .predict import Transform, open_image

MAGNITUDE = 9  # of RandAugment in the recipes ("m9")
MEAN = STD = (0.5, 0.5, 0.5)
COLUMNS, PANEL = 6, 192  # panels a row, and about their side in pixels
SIZES = 16, 512

# how the severity of an operation reads; where there is none, the operation is always the same
SEVERITIES = {
    "Rotate": "{:+.1f} degrees", "Posterize": "bits kept: {}", "Solarize": "inverted from {} on",
    "SolarizeAdd": "{:+} below 128", **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), "factor {:.2f}"),
    "ShearX": "{:+.2f} pixels a row", "ShearY": "{:+.2f} pixels a column",
    "TranslateX": "{:+.3f} of the width", "TranslateY": "{:+.3f} of the height",
}

Panels = list[tuple[str, Image.Image]]  # captions and pictures


def operations(image: Image.Image) -> Panels:
    """RandAugment's operations one by one at the recipe's magnitude, every other one with a negative sign."""
    chosen = [(name, severity(MAGNITUDE, 1 if i % 2 else -1), apply)
              for i, (name, (severity, apply)) in enumerate(augment.OPERATIONS.items())]
    return [(f"{name}\n{SEVERITIES.get(name, 'no severity').format(s)}", apply(image, s, augment.GREY))
            for name, s, apply in chosen]


def rand_augment_draws(image: Image.Image, count: int, source: torch.Generator) -> Panels:
    """Images from RandAugment, and in the captions the operations that it drew."""
    panels = []
    for i in range(count):
        state = source.get_state()
        drawn = augment.draw_operations(source)
        source.set_state(state)
        lines = [f"{name} {SEVERITIES.get(name, '').format(s)}" for name, s in drawn] or ["neither operation applied"]
        panels.append(("\n".join([f"RandAugment, draw {i + 1}", *lines]), augment.rand_augment(image, source)))
    return panels


def flip_and_shift(image: Image.Image, source: torch.Generator) -> Panels:
    """The image mirrored and moved by up to an eighth of its sides, as with `crop="pad"`."""
    down, right = (int(torch.randint(-(side // 8), side // 8 + 1, (1,), generator=source))
                   for side in (image.height, image.width))
    batch = TF.pil_to_tensor(image)[None]
    moved = augment.flip_and_shift(batch, torch.tensor([True]), torch.tensor([down]), torch.tensor([right]))
    return [(f"flip and shift by {right:+} pixels\nto the right, {down:+} down", picture(moved[0]))]


def crop(image: Image.Image, source: torch.Generator) -> tuple[str, Image.Image]:
    """A random part of the image, scaled to its size."""
    box = augment.random_resized_box(image.height, image.width, source)
    cropped = TF.resized_crop(image, *box, [image.height, image.width], augment.BICUBIC)
    return f"random resized crop of\n{_measures(box, image)}", cropped


def erase(image: Image.Image, source: torch.Generator) -> tuple[str, Image.Image]:
    """The image with a random rectangle erased. In training this happens to a quarter of the images."""
    pixels = augment.normalise(TF.pil_to_tensor(image)[None], MEAN, STD)[0]
    box = augment.erasing_box(image.height, image.width, source, probability=1)
    augment.erase(pixels, box, source)
    return f"random erasing of\n{_measures(box, image)}", shown(pixels)


def _measures(box: augment.Box, image: Image.Image) -> str:
    return f"{box[3]} by {box[2]} pixels, {box[2] * box[3] / (image.height * image.width):.0%}"


def mixes(image: Image.Image, partner: Image.Image, count: int, source: torch.Generator) -> Panels:
    """`count` images of mixup and as many of cutmix with the partner; captions give the weights of the two labels."""
    pair = torch.stack([TF.pil_to_tensor(image), TF.pil_to_tensor(partner)])  # (2, 3, H, W)
    pair, labels, panels = augment.normalise(pair, MEAN, STD), torch.eye(2), []
    for i in range(2 * count):
        if i < count:
            caption, (images, targets) = "mixup, alpha 0.8", augment.mixup(pair, labels, augment.beta(0.8, source))
        else:
            box = augment.cutmix_box(image.height, image.width, augment.beta(1.0, source), source)
            caption, (images, targets) = "cutmix, alpha 1", augment.cutmix(pair, labels, box)
        own, other = targets[0].tolist()
        panels.append((f"{caption}\nlabel: {own:.3f} original\n{other:.3f} partner", shown(images[0])))
    return panels


def shown(pixels: Tensor) -> Image.Image:
    """A normalised image (3, H, W) as a picture; values beyond black and white are clipped."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return picture(((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8))


def augment_sheet(image: Image.Image, partner: Image.Image, seed: int = 0, title: str = "") -> Image.Image:
    """Draw all augmentations of an RGB image. Mixup and cutmix mix it with `partner`, of the same size."""
    source = torch.Generator().manual_seed(seed)
    panels = [("original", image), ("partner for mixup and cutmix", partner), *operations(image)]
    panels += flip_and_shift(image, source) + rand_augment_draws(image, COLUMNS, source)
    panels += [crop(image, source) for _ in range(3)]
    panels += [(f"colour jitter of 0.4, draw {i + 1}", augment.color_jitter(image, source)) for i in range(3)]
    panels += mixes(image, partner, 2, source) + [erase(image, source) for _ in range(2)]
    captions, pictures = zip(*panels)
    return sheet([picture(TF.pil_to_tensor(panel), PANEL) for panel in pictures], captions, COLUMNS, title)


def main(argv: list[str] | None = None) -> None:
    """Run `python -m vig_minimal augment`."""
    parser = Parser("augment", __doc__, "shapes:7 --out sheet.png --size 64")
    parser.add_argument("image", help="a file, or shapes:INDEX for a synthetic validation scene")
    parser.add_out("sheet.png")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other draws (default 0)")
    parser.add_argument("--size", type=int, default=224, help="side in pixels when it is augmented (default 224)")
    args = parser.parse_args(argv)
    if not SIZES[0] <= args.size <= SIZES[1]:
        parser.error(f"--size {args.size}: a side of {SIZES[0]} to {SIZES[1]} pixels")
    if not 0 <= args.seed < 2**63:
        parser.error(f"--seed {args.seed}: a whole number, 0 or more and less than 2⁶³")
    title = (f"{args.image} at {args.size} by {args.size} pixels, seed {args.seed}\nRandAugment's operations one by one"
             f" have its magnitude, {MAGNITUDE}; in training normal noise of 0.5 is added to it")
    with parser.errors_in_one_sentence():
        index = args.image.removeprefix("shapes:")
        partner = f"shapes:{int(index) + 1}" if index != args.image and index.isdecimal() else "shapes:0"
        images = [picture(open_image(name, Transform((args.size, args.size)))) for name in (args.image, partner)]
        save_picture(augment_sheet(*images, args.seed, title), args.out)
