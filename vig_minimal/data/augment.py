"""Augmentations, each a plain function. What is random about them comes from the caller or from the generator given.

    on one PIL image          `rand_augment`, `color_jitter`, and `random_resized_box` says which part to cut out
    on uint8 batches          `flip_and_shift`, `normalise`
    on normalised batches     `mixup`, `cutmix`, which mix targets too; `draw_mix` draws which one and how
    on one normalised image   `erase`, where `erasing_box` says

    python -m vig_minimal augment shapes:7 --out sheet.png     draws them all, see augment_sheet.py

Generators are on the CPU, so that what is drawn does not depend on the device. A box is (top, left, height, width).
"""

import math

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

Box = tuple[int, int, int, int]


def _uniform(count: int, generator: torch.Generator) -> list[float]:
    """Numbers in [0, 1), of double precision."""
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


# ---- where things are: crop, flip, shift ---------------------------------------------------------------------------


def flip_and_shift(images: Tensor, mirror: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image mirrored where `mirror` (B,) is true, then moved by `down` and `right` (B,) pixels; the edges repeat.

    (B, 3, H, W) to (B, 3, H, W), channels_last.
    """
    batch, _, height, width = images.shape
    device = images.device
    rows = (torch.arange(height, device=device) - down[:, None]).clamp(0, height - 1)  # (B, H): where a row comes from
    columns = (torch.arange(width, device=device) - right[:, None]).clamp(0, width - 1)  # (B, W)
    columns = torch.where(mirror[:, None], width - 1 - columns, columns)
    image = torch.arange(batch, device=device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    return moved.permute(0, 3, 1, 2)


def random_resized_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part: 8 to 100 % of the area, width/height 3/4 to 4/3 (Szegedy, 2015).

    Ten trials; then the largest part in the middle whose proportions are allowed.
    """
    log_ratio = math.log(4 / 3)
    for _ in range(10):
        u = torch.rand(4, generator=generator).tolist()
        area = height * width * (0.08 + 0.92 * u[0])
        ratio = math.exp(log_ratio * (2 * u[1] - 1))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x/255 − mean) / std for each channel: uint8 to float32, (B, 3, H, W)."""
    mean, std = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (mean, std))
    return (images.float() / 255 - mean) / std


# ---- RandAugment and colour jitter ---------------------------------------------------------------------------------

GREY = [128, 128, 128]  # fills what a moved image leaves free: the recipe's mean 0.5
BICUBIC = InterpolationMode.BICUBIC


def _shear(image: Image.Image, x: float, y: float) -> Image.Image:
    """The pixel at (i, j), column and row, comes from (i + x j, j + y i)."""
    angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return TF.affine(image, 0.0, [0, 0], 1.0, angles, BICUBIC, GREY, center=[0, 0])


def _translate(image: Image.Image, x: float, y: float) -> Image.Image:
    """Moved to the right by x of the width and down by y of the height."""
    return TF.affine(image, 0.0, [x * image.width, y * image.height], 1.0, [0.0, 0.0], BICUBIC, GREY)


def _solarize_add(image: Image.Image, amount: int) -> Image.Image:
    return image.point([min(value + amount, 255) if value < 128 else value for value in range(256)] * 3)


def _factor(m: float, sign: int) -> float:
    return 1 + sign * 0.9 * m / 10


# name: (severity s of magnitude m in [0, 10] and a random sign, image and s to image). All grow with m: "inc1"
OPERATIONS = {
    "AutoContrast": (lambda m, sign: None, lambda image, s: TF.autocontrast(image)),
    "Equalize": (lambda m, sign: None, lambda image, s: TF.equalize(image)),
    "Invert": (lambda m, sign: None, lambda image, s: TF.invert(image)),
    "Rotate": (lambda m, sign: sign * 30 * m / 10, lambda image, s: TF.rotate(image, s, BICUBIC, fill=GREY)),
    "Posterize": (lambda m, sign: max(1, 4 - int(4 * m / 10)), lambda image, s: TF.posterize(image, s)),
    "Solarize": (lambda m, sign: 256 - int(256 * m / 10), lambda image, s: TF.solarize(image, s)),
    "SolarizeAdd": (lambda m, sign: int(110 * m / 10), _solarize_add),
    "Color": (_factor, TF.adjust_saturation),
    "Contrast": (_factor, TF.adjust_contrast),
    "Brightness": (_factor, TF.adjust_brightness),
    "Sharpness": (_factor, TF.adjust_sharpness),
    "ShearX": (lambda m, sign: sign * 0.3 * m / 10, lambda image, s: _shear(image, s, 0)),
    "ShearY": (lambda m, sign: sign * 0.3 * m / 10, lambda image, s: _shear(image, 0, s)),
    "TranslateX": (lambda m, sign: sign * 0.45 * m / 10, lambda image, s: _translate(image, s, 0)),
    "TranslateY": (lambda m, sign: sign * 0.45 * m / 10, lambda image, s: _translate(image, 0, s)),
}
NAMES = list(OPERATIONS)


def draw_operations(generator: torch.Generator, magnitude: float = 9, noise: float = 0.5,
                    operations: int = 2) -> list[tuple[str, float | None]]:
    """What `rand_augment` does to one image: name and severity of the operations that are applied, in order."""
    uniform = torch.rand(operations, 3, generator=generator).tolist()
    normal = torch.randn(operations, generator=generator).tolist()
    drawn = []
    for (which, apply, side), z in zip(uniform, normal):
        name, m = NAMES[int(which * len(NAMES))], min(max(magnitude + noise * z, 0), 10)
        if apply < 0.5:
            drawn.append((name, OPERATIONS[name][0](m, 1 if side < 0.5 else -1)))
    return drawn


def rand_augment(image: Image.Image, generator: torch.Generator, magnitude: float = 9, noise: float = 0.5,
                 operations: int = 2) -> Image.Image:
    """RandAugment (Cubuk et al., 2020) as DeiT's and ViG's released commands have it, "rand-m9-mstd0.5-inc1".

    Two of the 15 `OPERATIONS`, drawn uniformly with replacement; each is applied with probability 1/2 and a magnitude
    of its own, m ~ N(9, 0.5²) clipped to [0, 10]. In the paper every operation drawn is applied, at one magnitude.

    Differs from the commands: what is moved is resampled bicubically, as with DeiT's, where ViG's draws bilinear or
    bicubic; Posterize keeps at least 1 bit, where theirs keep none at m = 10, which is a black image.

    image: mode RGB, of any size, which stays. Raises ValueError for another mode.
    """
    if image.mode != "RGB":
        raise ValueError(f"an image of mode {image.mode}: rand_augment takes RGB; convert it first")
    for name, severity in draw_operations(generator, magnitude, noise, operations):
        image = OPERATIONS[name][1](image, severity)
    return image


def color_jitter(image: Image.Image, generator: torch.Generator, strength: float = 0.4) -> Image.Image:
    """Brightness, contrast and saturation, in random order, each times a factor that is uniform in [1 − s, 1 + s].

    image: mode RGB. Factors below 0 are 0. (Krizhevsky et al., 2012, jitter colours first; this form is torchvision's.)
    """
    adjust = TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation
    uniform = _uniform(3, generator)
    for i in torch.randperm(3, generator=generator).tolist():
        image = adjust[i](image, max(0.0, 1 + strength * (2 * uniform[i] - 1)))
    return image


# ---- mixing pairs of images and their labels -----------------------------------------------------------------------


def _partner(images: Tensor) -> Tensor:
    """Whom image i is mixed with, its neighbour i XOR 1: 0 ↔ 1, 2 ↔ 3, ... (B,). Raises ValueError for an odd B."""
    if len(images) % 2:
        raise ValueError(f"a batch of {len(images)} images: mixup and cutmix take pairs, so an even number of them")
    return torch.arange(len(images), device=images.device) ^ 1


def mixup(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """mixup (Zhang et al., 2018): x̃_i = λ x_i + (1 − λ) x_j, ỹ_i = λ y_i + (1 − λ) y_j, with λ = `share`.

    The partner j of image i is its neighbour, 0 ↔ 1, 2 ↔ 3, ...: any split of a batch into shares of even size mixes
    the same pairs, so that a run does not depend on the number of processes.

    images (B, 3, H, W), targets (B, classes), both float. Raises ValueError for an odd batch.
    """
    j = _partner(images)
    return share * images + (1 - share) * images[j], share * targets + (1 - share) * targets[j]


def cutmix(images: Tensor, targets: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., 2019): the pixels in the box come from the partner, ỹ_i = λ y_i + (1 − λ) y_j.

    1 − λ is the exact share of pixels that come from the partner: what of the box lies outside the image counts for
    nothing. Pairs, shapes and errors as for `mixup`.
    """
    height, width = images.shape[2:]
    top, left, h, w = _clipped(box, height, width)
    j, rows, columns = _partner(images), slice(top, top + h), slice(left, left + w)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[:, :, rows, columns][j]
    share = 1 - h * w / (height * width)
    return mixed, share * targets + (1 - share) * targets[j]


def _clipped(box: Box, height: int, width: int) -> Box:
    """The part of the box that lies in an image of that size; it may be empty."""
    top, bottom = (min(max(row, 0), height) for row in (box[0], box[0] + box[2]))
    left, right = (min(max(column, 0), width) for column in (box[1], box[1] + box[3]))
    return top, left, bottom - top, right - left


def cutmix_box(height: int, width: int, share: float, generator: torch.Generator) -> Box:
    """CutMix's box: r_h = H √(1 − λ), r_w = W √(1 − λ) with λ = `share`, its centre uniform in the image; then clipped.

    So 1 − λ is its area before clipping, and afterwards λ is larger (`cutmix` counts pixels).
    """
    side = math.sqrt(1 - share)
    h, w = round(height * side), round(width * side)
    y, x = _uniform(2, generator)
    return _clipped((round(y * height - h / 2), round(x * width - w / 2), h, w), height, width)


def beta(alpha: float, generator: torch.Generator) -> float:
    """A draw from Beta(α, α), density ∝ (x (1 − x))^(α − 1), by rejection. Raises ValueError unless α > 0.

    α ≤ 1: Jöhnk (1964): with X = U^(1/α), Y = V^(1/α) and X + Y ≤ 1, X / (X + Y) is such a draw.
    α > 1: a uniform x, kept with probability (4 x (1 − x))^(α − 1), the density over its maximum.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"Beta(α, α) with α = {alpha:g}: α must be more than 0")
    while True:
        u, v = (1 - value for value in _uniform(2, generator))  # in (0, 1], so that logarithms exist
        if alpha > 1:
            if v <= (4 * u * (1 - u)) ** (alpha - 1):
                return u
        elif u ** (1 / alpha) + v ** (1 / alpha) <= 1:
            # X / (X + Y) = σ(log X − log Y), which is right also where X and Y are too small for a number
            return (1 + math.tanh((math.log(u) - math.log(v)) / (2 * alpha))) / 2


def draw_mix(height: int, width: int, mixup_alpha: float, cutmix_alpha: float, switch: float,
             generator: torch.Generator) -> tuple[str, float | Box] | None:
    """How a whole batch is mixed: ("mixup", λ) or ("cutmix", box), with λ ~ Beta(α, α); None where both α are 0.

    With both α above 0 it is cutmix with probability `switch`, else the one that is above 0.
    """
    if mixup_alpha <= 0 and cutmix_alpha <= 0:
        return None
    if mixup_alpha <= 0 or (cutmix_alpha > 0 and _uniform(1, generator)[0] < switch):
        return "cutmix", cutmix_box(height, width, beta(cutmix_alpha, generator), generator)
    return "mixup", beta(mixup_alpha, generator)


# ---- random erasing ------------------------------------------------------------------------------------------------


def erasing_box(height: int, width: int, generator: torch.Generator, probability: float = 0.25) -> Box | None:
    """With that probability a box for Random Erasing (Zhong et al., 2017), anywhere in the image; else None.

    2 % to 1/3 of the area, uniform; height/width 0.3 to 1/0.3, with uniform logarithm as in ViG's command, so that tall
    is as likely as wide (the paper: uniform). Ten trials to find one smaller than the image both ways; then None.
    """
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
    """Random Erasing, per pixel: the box of a normalised image (3, H, W) becomes N(0, 1) noise, in place."""
    top, left, h, w = box
    noise = torch.randn(image.shape[0], h, w, generator=generator)  # on the CPU: the same on every device
    image[:, top:top + h, left:left + w] = noise.to(image.device, image.dtype)
