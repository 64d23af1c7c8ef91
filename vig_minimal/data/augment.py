"""Augmentations as plain functions, in this order: on uint8 batches (flip, shift, normalise), on one PIL image (crop,
RandAugment, colour jitter), on normalised batches and their targets (mixup, CutMix), on one normalised image (erasing).

`python -m vig_minimal augment shapes:7` draws a sheet of all of them. Randomness comes from the generator given, on the
CPU so that draws do not depend on the device. A box is (top, left, height, width).
"""

import math

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

Box = tuple[int, int, int, int]
BICUBIC = InterpolationMode.BICUBIC
Colour = tuple[int, int, int]
GREY = (128, 128, 128)  # the mean 0.5, see `mean_colour`


def _uniform(count: int, generator: torch.Generator) -> list[float]:
    """Draw numbers in [0, 1), in double precision."""
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def draw_flip_and_shift(count: int, size: tuple[int, int], flip: bool, shift: bool,
                        generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw `mirror` (half of them), `down` and `right` (up to an eighth of the side) for `count` images, (count,) each.
    size: height and width. Without `flip` none is mirrored, without `shift` none is moved."""
    mirror = torch.rand(count, generator=generator) < (0.5 if flip else 0)
    reach = [side // 8 if shift else 0 for side in size]
    down, right = (torch.randint(-r, r + 1, (count,), generator=generator) for r in reach)
    return mirror, down, right


def flip_and_shift(images: Tensor, mirror: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Mirror images (B, 3, H, W) where `mirror` (B,) is true, then move them `down` and `right` (B,) pixels; edges
    repeat. The result is in channels_last memory: the channels of a pixel lie side by side."""
    batch, _, height, width = images.shape
    device = images.device
    rows = (torch.arange(height, device=device) - down[:, None]).clamp(0, height - 1)  # (B, H): source of each row
    columns = (torch.arange(width, device=device) - right[:, None]).clamp(0, width - 1)  # (B, W)
    columns = torch.where(mirror[:, None], width - 1 - columns, columns)
    image = torch.arange(batch, device=device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    return moved.permute(0, 3, 1, 2)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (x/255 − mean) / std for each channel: uint8 to float32, (B, 3, H, W) or (3, H, W)."""
    mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (mean, std))
    return (images.float() / 255 - mean) / std


def random_resized_box(height: int, width: int, generator: torch.Generator) -> Box:
    """Draw a box with 8 to 100 % of the area and width/height from 3/4 to 4/3 (Szegedy et al., 2015); if ten trials do
    not fit, take the largest allowed one in the middle."""
    for _ in range(10):
        u = torch.rand(4, generator=generator).tolist()
        area = height * width * (0.08 + 0.92 * u[0])
        ratio = math.exp(math.log(4 / 3) * (2 * u[1] - 1))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def mean_colour(mean: tuple[float, ...]) -> Colour:
    """Return 255 · mean in integers: the fill colour of a moved image's gap, as in ViG's and DeiT's commands."""
    return tuple(min(255, round(255 * value)) for value in mean)


def _shear(image: Image.Image, x: float, y: float, fill: Colour) -> Image.Image:
    """Take the pixel at column c and row r from (c + x r, r + y c)."""
    angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return TF.affine(image, 0.0, [0, 0], 1.0, angles, BICUBIC, list(fill), center=[0, 0])


def _translate(image: Image.Image, x: float, y: float, fill: Colour) -> Image.Image:
    """Move right by x of the width and down by y of the height."""
    return TF.affine(image, 0.0, [x * image.width, y * image.height], 1.0, [0.0, 0.0], BICUBIC, list(fill))


def _solarize_add(image: Image.Image, amount: int) -> Image.Image:
    return image.point([min(value + amount, 255) if value < 128 else value for value in range(256)] * 3)


def _factor(m: float, sign: int) -> float:
    return 1 + sign * 0.9 * m / 10


# name: ((magnitude m in [0, 10], random sign) -> severity s, (image, s, fill) -> image). Effects grow with m: "inc1"
OPERATIONS = {
    "AutoContrast": (lambda m, sign: None, lambda image, s, fill: TF.autocontrast(image)),
    "Equalize": (lambda m, sign: None, lambda image, s, fill: TF.equalize(image)),
    "Invert": (lambda m, sign: None, lambda image, s, fill: TF.invert(image)),
    "Rotate": (lambda m, sign: sign * 30 * m / 10,
               lambda image, s, fill: TF.rotate(image, s, BICUBIC, fill=list(fill))),
    "Posterize": (lambda m, sign: max(1, 4 - int(4 * m / 10)), lambda image, s, fill: TF.posterize(image, s)),
    "Solarize": (lambda m, sign: 256 - int(256 * m / 10), lambda image, s, fill: TF.solarize(image, s)),
    "SolarizeAdd": (lambda m, sign: int(110 * m / 10), lambda image, s, fill: _solarize_add(image, s)),
    "Color": (_factor, lambda image, s, fill: TF.adjust_saturation(image, s)),
    "Contrast": (_factor, lambda image, s, fill: TF.adjust_contrast(image, s)),
    "Brightness": (_factor, lambda image, s, fill: TF.adjust_brightness(image, s)),
    "Sharpness": (_factor, lambda image, s, fill: TF.adjust_sharpness(image, s)),
    "ShearX": (lambda m, sign: sign * 0.3 * m / 10, lambda image, s, fill: _shear(image, s, 0, fill)),
    "ShearY": (lambda m, sign: sign * 0.3 * m / 10, lambda image, s, fill: _shear(image, 0, s, fill)),
    "TranslateX": (lambda m, sign: sign * 0.45 * m / 10, lambda image, s, fill: _translate(image, s, 0, fill)),
    "TranslateY": (lambda m, sign: sign * 0.45 * m / 10, lambda image, s, fill: _translate(image, 0, s, fill)),
}


def draw_operations(generator: torch.Generator, magnitude: float = 9, noise: float = 0.5,
                    operations: int = 2) -> list[tuple[str, float | None]]:
    """Draw the operations of `rand_augment` for one image: names and severities, in order."""
    uniform = torch.rand(operations, 3, generator=generator).tolist()
    normal = torch.randn(operations, generator=generator).tolist()
    drawn = []
    for (which, apply, side), z in zip(uniform, normal):
        name, m = list(OPERATIONS)[int(which * len(OPERATIONS))], min(max(magnitude + noise * z, 0), 10)
        if apply < 0.5:
            drawn.append((name, OPERATIONS[name][0](m, 1 if side < 0.5 else -1)))
    return drawn


def rand_augment(image: Image.Image, generator: torch.Generator, magnitude: float = 9, noise: float = 0.5,
                 operations: int = 2, fill: Colour = GREY) -> Image.Image:
    """Apply RandAugment (Cubuk et al., 2020) as in DeiT's and ViG's released commands, "rand-m9-mstd0.5-inc1".

    Draws two of the 15 `OPERATIONS` uniformly with replacement, and applies each with probability 1/2 at its own
    magnitude m ~ N(9, 0.5²), clipped to [0, 10]. (The paper applies both, at one magnitude.) fill: the colour of the
    gap that a moved image leaves, `mean_colour` of the recipe's mean.

    Differs from the commands: moved images are resampled bicubically as in DeiT's, where ViG's draws bilinear or
    bicubic; Posterize keeps at least 1 bit, where theirs keeps none at m = 10, which makes a black image.
    The size stays. Raises ValueError for an image that is not RGB.
    """
    if image.mode != "RGB":
        raise ValueError(f"an image of mode {image.mode}: rand_augment takes RGB; convert it first")
    for name, severity in draw_operations(generator, magnitude, noise, operations):
        image = OPERATIONS[name][1](image, severity, fill)
    return image


def color_jitter(image: Image.Image, generator: torch.Generator, strength: float = 0.4) -> Image.Image:
    """Scale brightness, contrast and saturation of an RGB image in random order, each by a factor uniform in
    [1 − s, 1 + s], at least 0. (Krizhevsky et al., 2012, jitter colours first; this form is torchvision's.)"""
    adjust = TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation
    uniform = _uniform(3, generator)
    for i in torch.randperm(3, generator=generator).tolist():
        image = adjust[i](image, max(0.0, 1 + strength * (2 * uniform[i] - 1)))
    return image


def _partner(images: Tensor) -> Tensor:
    """Return the partner of each image (B,), its neighbour i XOR 1: the same for any even split over processes."""
    if len(images) % 2:
        raise ValueError(f"a batch of {len(images)} images: mixup and cutmix take pairs, so an even number of them")
    return torch.arange(len(images), device=images.device) ^ 1


def mixup(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """mixup (Zhang et al., 2018) of pairs 0 ↔ 1, 2 ↔ 3, …: x̃_i = λ x_i + (1 − λ) x_j, ỹ_i = λ y_i + (1 − λ) y_j, with
    λ = `share`. images (B, 3, H, W) and targets (B, classes) are float. Raises ValueError for an odd B."""
    j = _partner(images)
    return share * images + (1 - share) * images[j], share * targets + (1 - share) * targets[j]


def cutmix(images: Tensor, targets: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., 2019): the pixels in the box come from the partner, ỹ_i = λ y_i + (1 − λ) y_j, where 1 − λ is
    the share of the image's pixels in the box. Partners, shapes and errors as in `mixup`."""
    height, width = images.shape[2:]
    top, left, h, w = _clipped(box, height, width)
    rows, columns, j = slice(top, top + h), slice(left, left + w), _partner(images)
    mixed = images.clone()
    mixed[..., rows, columns] = images[j, :, rows, columns]
    share = 1 - h * w / (height * width)
    return mixed, share * targets + (1 - share) * targets[j]


def _clipped(box: Box, height: int, width: int) -> Box:
    """Return the part of the box inside an image of that size; it may be empty."""
    top, bottom = (min(max(row, 0), height) for row in (box[0], box[0] + box[2]))
    left, right = (min(max(column, 0), width) for column in (box[1], box[1] + box[3]))
    return top, left, bottom - top, right - left


def cutmix_box(height: int, width: int, share: float, generator: torch.Generator) -> Box:
    """Draw CutMix's box, about H √(1 − λ) × W √(1 − λ) with λ = `share`, around a pixel drawn uniformly, then clip it:
    1 − λ is its share of the area before clipping; `cutmix` counts the pixels that are left.

    As in its authors' code, ⌊⌊side √(1 − λ)⌋ / 2⌋ pixels lie on either side of the middle: lengths are even."""
    reach = [int(side * math.sqrt(1 - share)) // 2 for side in (height, width)]
    y, x = (int(u * side) for u, side in zip(_uniform(2, generator), (height, width)))
    return _clipped((y - reach[0], x - reach[1], 2 * reach[0], 2 * reach[1]), height, width)


def beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(α, α), density ∝ (x (1 − x))^(α − 1), by rejection. Raises ValueError unless 0 < α < ∞.

    α ≤ 1: Jöhnk (1964): draw X = U^(1/α) and Y = V^(1/α) until X + Y ≤ 1; the result is X / (X + Y).
    α > 1: draw a uniform x; keep it with probability (4 x (1 − x))^(α − 1), its density over the maximum.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"Beta(α, α) with α = {alpha:g}: α must be more than 0")
    while True:
        u, v = (1 - value for value in _uniform(2, generator))  # in (0, 1], so that logarithms exist
        if alpha > 1:
            if v <= (4 * u * (1 - u)) ** (alpha - 1):
                return u
        elif u ** (1 / alpha) + v ** (1 / alpha) <= 1:
            # X / (X + Y) = σ(log X − log Y), which also holds where X and Y underflow
            return (1 + math.tanh((math.log(u) - math.log(v)) / (2 * alpha))) / 2


def draw_mix(height: int, width: int, mixup_alpha: float, cutmix_alpha: float, switch: float,
             generator: torch.Generator) -> tuple[str, float | Box] | None:
    """Draw how to mix a whole batch: ("mixup", λ) or ("cutmix", box), with λ ~ Beta(α, α); an α of 0 switches one off,
    and None is neither. With both, it is cutmix with probability `switch`."""
    if cutmix_alpha > 0 and (mixup_alpha <= 0 or _uniform(1, generator)[0] < switch):
        return "cutmix", cutmix_box(height, width, beta(cutmix_alpha, generator), generator)
    return ("mixup", beta(mixup_alpha, generator)) if mixup_alpha > 0 else None


def erasing_box(height: int, width: int, generator: torch.Generator, probability: float = 0.25) -> Box | None:
    """Draw, with that probability, a box for Random Erasing (Zhong et al., 2017), anywhere in the image; else None.
    The area is uniform from 2 % to 1/3; height/width is log-uniform from 0.3 to 1/0.3 as in ViG's command, so tall is
    as likely as wide (the paper: uniform). None also if ten trials find no box smaller than the image both ways."""
    if _uniform(1, generator)[0] >= probability:
        return None
    for _ in range(10):
        u = _uniform(4, generator)
        area = height * width * (0.02 + (1 / 3 - 0.02) * u[0])
        ratio = 0.3 ** (2 * u[1] - 1)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w
    return None


def erase(image: Tensor, box: Box, generator: torch.Generator) -> None:
    """Random Erasing, per pixel: fill the box of a normalised image (3, H, W) with N(0, 1) noise, in place."""
    top, left, h, w = box
    noise = torch.randn(image.shape[0], h, w, generator=generator)  # on the CPU: the same on every device
    image[:, top:top + h, left:left + w] = noise.to(image.device, image.dtype)
