"""Augmentations: each against its formula in a slow loop, its draws against their distribution."""

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image

from vig_minimal.data import augment
from vig_minimal.data.augment import (
    OPERATIONS,
    beta,
    color_jitter,
    cutmix,
    cutmix_box,
    draw_flip_and_shift,
    draw_mix,
    draw_operations,
    erase,
    erasing_box,
    flip_and_shift,
    mean_colour,
    mixup,
    normalise,
    rand_augment,
    random_resized_box,
)
from vig_minimal.data.loading import PreparedImages
from vig_minimal.data.synthetic import Shapes
from vig_minimal.training.recipes import get_recipe

WITHOUT_SEVERITY = ["AutoContrast", "Equalize", "Invert"]
FILL = (124, 116, 104)  # 255 times ImageNet's mean
SIGNED = ["Rotate", "Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(size: tuple[int, int] = (48, 64), index: int = 3) -> Image.Image:
    """An image of 48 rows and 64 columns, neither grey nor square."""
    return Image.fromarray(Shapes(size, index + 1)[index][0].permute(1, 2, 0).numpy())


def noise(height: int = 9, width: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def values(image: Image.Image) -> np.ndarray:
    """Pixels (H, W, 3) as signed integers, which can be subtracted."""
    return np.asarray(image).astype(int)


def apply(name: str, image: Image.Image, severity) -> Image.Image:
    return OPERATIONS[name][1](image, severity, FILL)


def difference(image: Image.Image, other: Image.Image) -> np.ndarray:
    return np.abs(values(image) - values(other))


# ---- crop, flip, shift, normalise -----------------------------------------------------------------------------------


def test_flip_and_shift_move_every_pixel_where_they_say():
    images = torch.randint(0, 256, (3, 3, 4, 5), dtype=torch.uint8)
    mirror, down, right = torch.tensor([False, True, True]), torch.tensor([0, 1, -3]), torch.tensor([0, -2, 2])
    out = flip_and_shift(images, mirror, down, right)
    for b in range(3):
        for row in range(4):
            for column in range(5):
                r = min(max(row - int(down[b]), 0), 3)
                c = min(max(column - int(right[b]), 0), 4)
                c = 4 - c if mirror[b] else c
                assert torch.equal(out[b, :, row, column], images[b, :, r, c])


def test_flips_are_half_and_shifts_reach_an_eighth_of_each_side():
    mirror, down, right = draw_flip_and_shift(4000, (32, 48), True, True, seeded())
    assert mirror.dtype == torch.bool and abs(mirror.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)
    assert set(down.tolist()) == set(range(-4, 5)) and set(right.tolist()) == set(range(-6, 7))
    assert not torch.stack(draw_flip_and_shift(4000, (32, 48), False, False, seeded())).any()


def test_random_boxes_lie_inside_and_vary():
    source = seeded()
    boxes = [random_resized_box(40, 60, source) for _ in range(300)]
    for top, left, height, width in boxes:
        assert top >= 0 and left >= 0 and top + height <= 40 and left + width <= 60
        assert 0.06 < height * width / 2400 <= 1 and 0.7 < width / height < 1.43
    assert min(h * w for _, _, h, w in boxes) < 400 and max(h * w for _, _, h, w in boxes) > 1500
    assert random_resized_box(10, 1000, source)[2] == 10  # no trial can fit: the largest allowed box in the middle


def test_a_box_is_as_wide_and_as_far_right_as_its_numbers_say():
    """Four uniform numbers: area, logarithm of width / height, row and column, each of which the box may reach."""
    for seed in range(50):
        u = torch.rand(4, generator=seeded(seed)).tolist()
        area, ratio = 100 * 400 * (0.08 + 0.92 * u[0]), (3 / 4) ** (1 - u[1]) * (4 / 3) ** u[1]
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if height <= 100 and width <= 400:
            expected = (int(u[2] * (101 - height)), int(u[3] * (401 - width)), height, width)
            assert random_resized_box(100, 400, seeded(seed)) == expected
    boxes = [random_resized_box(4, 4, source) for source in [seeded(1)] for _ in range(400)]
    small = [box for box in boxes if box[2:] == (2, 2)]
    assert {box[0] for box in small} == {box[1] for box in small} == {0, 1, 2}  # up to the last row and column


@pytest.mark.parametrize("size, box", [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10))])
def test_where_no_box_fits_the_largest_lies_in_the_middle(size, box):
    assert {random_resized_box(*size, seeded(seed)) for seed in range(5)} == {box}


def test_normalise():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    normalised = normalise(images, mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 2.0))
    torch.testing.assert_close(normalised.flatten(), torch.tensor([-1.0, 0.0, 0.5]))


# ---- RandAugment: severities ---------------------------------------------------------------------------------------

# m: rotate, posterize, solarize, solarize-add, factor, shear, translate; worked out by hand from "inc1", signs +
BY_HAND = {
    0: (0, 4, 256, 0, 1, 0, 0),
    2.5: (7.5, 3, 192, 27, 1.225, 0.075, 0.1125),
    5: (15, 2, 128, 55, 1.45, 0.15, 0.225),
    9: (27, 1, 26, 99, 1.81, 0.27, 0.405),
    10: (30, 1, 0, 110, 1.9, 0.3, 0.45),
}


@pytest.mark.parametrize("m", BY_HAND)
def test_severities_are_those_of_the_recipe(m):
    rotate, posterize, solarize, add, factor, shear, translate = BY_HAND[m]
    expected = {"Rotate": rotate, "Posterize": posterize, "Solarize": solarize, "SolarizeAdd": add, "Color": factor,
                "Contrast": factor, "Brightness": factor, "Sharpness": factor, "ShearX": shear, "ShearY": shear,
                "TranslateX": translate, "TranslateY": translate}
    assert len(OPERATIONS) == 15 and set(OPERATIONS) == {*expected, *WITHOUT_SEVERITY}
    for name, (severity, _) in OPERATIONS.items():
        neutral = 1 if name in ("Color", "Contrast", "Brightness", "Sharpness") else 0
        if name in WITHOUT_SEVERITY:
            assert severity(m, 1) is None
        elif name in SIGNED:
            assert severity(m, 1) == pytest.approx(expected[name])
            assert severity(m, -1) - neutral == pytest.approx(neutral - expected[name])
        else:
            assert severity(m, 1) == severity(m, -1) == expected[name]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - set(WITHOUT_SEVERITY)))
def test_every_operation_grows_with_the_magnitude(name, sign):
    severity, _ = OPERATIONS[name]
    neutral = {"Posterize": 4, "Solarize": 256, "Color": 1, "Contrast": 1, "Brightness": 1, "Sharpness": 1}.get(name, 0)
    distances = [abs(severity(m / 4, sign) - neutral) for m in range(41)]
    assert distances[0] == 0 and distances == sorted(distances) and len(set(distances)) > 3


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast", "Brightness",
                                  "Sharpness"])
def test_images_change_more_with_the_magnitude(name, sign):
    image, (severity, operation) = scene(), OPERATIONS[name]
    change = [difference(operation(image, severity(m, sign), FILL), image).mean() for m in range(11)]
    assert change == sorted(change) and change[10] > change[1] + 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitude_0_leaves_the_image_alone(name):
    severity, operation = OPERATIONS[name]
    image = scene()
    for sign in (1, -1):
        changed = difference(operation(image, severity(0, sign), FILL), image)
        if name == "Posterize":  # keeps 4 bits at most
            assert 0 < changed.max() <= 15
        elif name in WITHOUT_SEVERITY:  # they have no severity that could be 0
            assert changed.max() > 0
        else:
            assert changed.max() == 0


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(17, 33), (1, 1), (224, 224)])
def test_operations_leave_size_and_mode(name, size):
    severity, operation = OPERATIONS[name]
    image = noise(*size)
    before = values(image)
    for m in (0, 9, 10):
        for sign in (1, -1):
            result = operation(image, severity(m, sign), FILL)
            assert result.size == image.size and result.mode == "RGB"
    assert np.array_equal(values(image), before)


# ---- RandAugment: what the operations do ---------------------------------------------------------------------------


def pointwise(image: Image.Image, formula) -> np.ndarray:
    """The formula on every value of every pixel, one by one."""
    result = values(image)
    for row in range(image.height):
        for column in range(image.width):
            for channel in range(3):
                result[row, column, channel] = formula(int(result[row, column, channel]))
    return result


def clip(value: float) -> int:
    return min(max(int(value), 0), 255)


@pytest.mark.parametrize("name, severity, formula", [
    ("Invert", None, lambda v: 255 - v),
    ("Posterize", 3, lambda v: v // 32 * 32),
    ("Posterize", 1, lambda v: v // 128 * 128),
    ("Solarize", 26, lambda v: v if v < 26 else 255 - v),
    ("Solarize", 256, lambda v: v),
    ("SolarizeAdd", 99, lambda v: v + 99 if v < 128 else v),
    ("SolarizeAdd", 130, lambda v: min(v + 130, 255) if v < 128 else v),
    ("Brightness", 0.19, lambda v: clip(0.19 * v)),
    ("Brightness", 1.81, lambda v: clip(1.81 * v)),
])
def test_pointwise_operations(name, severity, formula):
    image = noise()
    assert np.abs(values(apply(name, image, severity)) - pointwise(image, formula)).max() <= (name == "Brightness")


def grey(pixel) -> int:
    return round(0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2])


@pytest.mark.parametrize("factor", [0.19, 1.81])
def test_contrast_colour_and_sharpness_blend_with_their_opposites(factor):
    image = noise()
    x = values(image)
    greys = np.array([[grey(pixel) for pixel in row] for row in x])
    contrast, colour, sharpness = (values(apply(name, image, factor)) for name in ("Contrast", "Color", "Sharpness"))
    for row in range(image.height):
        for column in range(image.width):
            inside = 0 < row < image.height - 1 and 0 < column < image.width - 1
            for channel in range(3):
                v = int(x[row, column, channel])
                block = x[row - 1:row + 2, column - 1:column + 2, channel]
                smooth = (block.sum() + 4 * v) / 13 if inside else v  # Pillow's: weights 1 around 5; borders stay
                for found, opposite in ((contrast, greys.mean()), (colour, greys[row, column]), (sharpness, smooth)):
                    expected = clip(factor * v + (1 - factor) * opposite)
                    assert abs(found[row, column, channel] - expected) <= 2  # both images are rounded


def test_autocontrast_spans_the_whole_range_in_each_channel():
    x = values(noise()) // 3 + np.array([10, 60, 110])
    found = values(apply("AutoContrast", Image.fromarray(x.astype(np.uint8)), None))
    for channel in range(3):
        low, high = x[..., channel].min(), x[..., channel].max()
        for row in range(x.shape[0]):
            for column in range(x.shape[1]):
                expected = (x[row, column, channel] - low) * 255 / (high - low)
                assert abs(found[row, column, channel] - expected) <= 1


def test_equalize_gives_every_value_its_rank():
    x = values(noise(40, 40)) ** 2 // 500  # dark
    found = values(apply("Equalize", Image.fromarray(x.astype(np.uint8)), None))
    for channel in range(3):
        flat, flat_found = x[..., channel].ravel(), found[..., channel].ravel()
        for v in np.unique(flat):
            below, last = (flat < v).sum(), (flat == flat.max()).sum()
            expected = below / (len(flat) - last) * 255
            assert abs(flat_found[flat == v][0] - expected) <= 255 / (len(flat) - last) * 255  # a step is whole pixels


@pytest.mark.parametrize("name, severity, down, right", [
    ("TranslateX", 0.25, 0, 3), ("TranslateX", -0.25, 0, -3), ("TranslateY", 0.5, 4, 0), ("TranslateY", -0.25, -2, 0)])
def test_translation_moves_whole_pixels_and_fills_the_gap(name, severity, down, right):
    image = noise(8, 12)
    x, found = values(image), values(apply(name, image, severity))
    for row in range(8):
        for column in range(12):
            inside = 0 <= row - down < 8 and 0 <= column - right < 12
            expected = x[row - down, column - right] if inside else FILL
            assert found[row, column].tolist() == list(expected)


def ramp(height: int, width: int, along: int) -> Image.Image:
    """Grey levels that grow by 2 a pixel along rows (0) or columns (1): a place can be read off a value."""
    place = np.indices((height, width))[along]
    return Image.fromarray(np.repeat(20 + 2 * place[..., None], 3, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("severity", [0.27, -0.27])
def test_shear_moves_rows_or_columns_in_proportion(severity):
    found_x = values(apply("ShearX", ramp(30, 80, along=1), severity))[..., 0]
    found_y = values(apply("ShearY", ramp(80, 30, along=0), severity))[..., 0]
    checked = 0
    for j in range(30):
        for i in range(80):
            source = i + severity * (j + 0.5)  # pixels have their centres in the middle
            if 2 <= source <= 77:
                checked += 1
                assert abs(found_x[j, i] - (20 + 2 * source)) <= 1
                assert abs(found_y[i, j] - (20 + 2 * source)) <= 1
            if not -1 <= source <= 80:
                assert found_x[j, i] == found_y[i, j] == FILL[0]
    assert checked > 2000


def test_rotation_is_about_the_middle_and_counter_clockwise():
    image = ramp(61, 61, along=0)  # grows downwards
    found = values(apply("Rotate", image, 27.0))[..., 0]
    c, s = math.cos(math.radians(27)), math.sin(math.radians(27))
    for row in range(15, 46):
        for column in range(15, 46):
            source = 30 + c * (row - 30) + s * (column - 30)  # counter-clockwise: what was below is now on the right
            assert abs(found[row, column] - (20 + 2 * source)) <= 1
    assert found[0, 0] == found[0, -1] == found[-1, 0] == found[-1, -1] == FILL[0]


def test_the_gap_has_the_colour_of_the_recipes_mean():
    """255 times the mean, in whole numbers, as the commands of ViG (mean 0.5) and ClusterViG (ImageNet's) fill it."""
    assert mean_colour(get_recipe("vig").mean) == mean_colour(get_recipe("lrgc").mean) == (128, 128, 128)
    assert mean_colour(get_recipe("cvig").mean) == (124, 116, 104) and mean_colour((1.0, 0.0, 0.999)) == (255, 0, 255)
    white = Image.new("RGB", (32, 32), "white")
    for name, fill in (("vig", (128, 128, 128)), ("cvig", (124, 116, 104))):
        recipe = replace(get_recipe(name), crop="pad", flip=False)
        images = PreparedImages([(white, 0)], (32, 32), 1.0, recipe, 0)[[(0, 0, n) for n in range(60)]][0]
        corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].transpose(1, 2).flatten(0, 1)  # (240, 3)
        assert fill in {tuple(pixel) for pixel in corners.tolist()}


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "TranslateX", "TranslateY", "ShearY", "Contrast", "Equalize"])
def test_a_flip_after_rand_augment_is_one_before_it_with_the_other_sign(name):
    """Why it may come last, on the device: signs are drawn evenly. ShearY keeps the left column, mirrored the right."""
    image, s = noise(40, 60), {"Contrast": 1.5, "Equalize": None, "Rotate": 27.0}.get(name, 0.25)
    other = s if name in ("Contrast", "Equalize", "TranslateY") else -s
    after = values(TF.hflip(apply(name, image, s)))
    before = values(apply(name, TF.hflip(image), other))
    if name == "ShearY":  # the same but for its place: 60 columns of 0.25 rows
        after, before = after[:25], before[15:]
    same = np.abs(after - before).max(-1) <= 2
    assert same.mean() > 0.9 if name.startswith(("Rotate", "Shear")) else same.all()


# ---- RandAugment: draws --------------------------------------------------------------------------------------------

DRAWS = 6000


def test_two_operations_are_drawn_uniformly_and_each_applied_by_half():
    source = seeded()
    draws = [draw_operations(source) for _ in range(DRAWS)]
    names = Counter(name for drawn in draws for name, _ in drawn)
    assert set(names) == set(OPERATIONS)
    p = 1 / 30  # of the 2 · DRAWS chances, each operation takes this share
    for count in names.values():
        assert abs(count - 2 * DRAWS * p) < 4 * math.sqrt(2 * DRAWS * p * (1 - p))
    applied = Counter(len(drawn) for drawn in draws)
    for number, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert abs(applied[number] / DRAWS - share) < 4 * math.sqrt(share * (1 - share) / DRAWS)
    pairs = [(drawn[0][0], drawn[1][0]) for drawn in draws if len(drawn) == 2]
    repeats = sum(first == second for first, second in pairs) / len(pairs)  # drawn with replacement
    assert abs(repeats - 1 / 15) < 4 * math.sqrt(1 / 15 * 14 / 15 / len(pairs))


def magnitudes(magnitude: float, noise: float) -> np.ndarray:
    """Signed magnitudes, read off the severities of Rotate: 3 degrees a unit."""
    source = seeded()
    drawn = [draw_operations(source, magnitude, noise, operations=12) for _ in range(DRAWS)]
    return np.array([s / 3 for one in drawn for name, s in one if name == "Rotate"])


def test_magnitudes_are_normal_with_random_sign():
    m = magnitudes(5, 0.5)
    n = len(m)
    assert n > 2000
    assert abs(np.abs(m).mean() - 5) < 4 * 0.5 / math.sqrt(n)
    assert abs(np.abs(m).std() / 0.5 - 1) < 4 / math.sqrt(2 * n)
    assert abs((np.abs(m) > 5.5).mean() - 0.1587) < 4 * math.sqrt(0.1587 * 0.8413 / n)
    assert abs((m > 0).mean() - 0.5) < 4 * 0.5 / math.sqrt(n)


def test_magnitudes_stay_between_0_and_10():
    high, low = np.abs(magnitudes(9, 3)), np.abs(magnitudes(1, 3))
    assert high.max() == 10 and (high == 10).mean() > 0.2
    assert low.min() == 0 and (low == 0).mean() > 0.2
    assert set(np.abs(magnitudes(9, 0)).round(6)) == {9}


def test_rand_augment_applies_what_is_drawn_in_that_order():
    image, changed = scene(), 0
    for seed in range(40):
        expected, drawn = image, draw_operations(seeded(seed))
        for name, severity in drawn:
            expected = apply(name, expected, severity)
        found = rand_augment(image, seeded(seed), fill=FILL)
        assert np.array_equal(values(found), values(expected)) and found.size == image.size and found.mode == "RGB"
        changed += difference(found, image).max() > 0
    assert 20 < changed <= 40


def test_more_operations_change_more():
    assert np.array_equal(values(rand_augment(scene(), seeded(), operations=0)), values(scene()))
    assert max(len(draw_operations(seeded(seed), operations=5)) for seed in range(50)) == 5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_rand_augment_takes_rgb_alone(mode):
    with pytest.raises(ValueError, match=f"mode {mode}"):
        rand_augment(scene().convert(mode), seeded())


# ---- colour jitter -------------------------------------------------------------------------------------------------


def test_colour_jitter_draws_its_factors_and_their_order(monkeypatch):
    calls = []
    for name in ("brightness", "contrast", "saturation"):
        monkeypatch.setattr(augment.TF, f"adjust_{name}", lambda image, f, name=name: calls.append((name, f)) or image)
    source, orders = seeded(), Counter()
    for _ in range(1200):
        calls.clear()
        color_jitter(scene((16, 16)), source, 0.4)
        orders[tuple(name for name, _ in calls)] += 1
        factors = np.array([factor for _, factor in sorted(calls)])
        assert len(calls) == 3 and (factors >= 0.6).all() and (factors <= 1.4).all()
    assert len(orders) == 6 and all(150 < count < 250 for count in orders.values())
    drawn = []
    for _ in range(500):
        calls.clear()
        color_jitter(scene((16, 16)), source, 0.4)
        drawn.append([factor for _, factor in sorted(calls)])
    drawn = np.array(drawn)  # (500, 3)
    assert np.abs(drawn.mean(0) - 1).max() < 4 * 0.8 / math.sqrt(12 * 500)
    assert np.abs(drawn.std(0) - 0.8 / math.sqrt(12)).max() < 0.03
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.2
    calls.clear()
    for seed in range(50):
        color_jitter(scene((16, 16)), seeded(seed), 3.0)
    assert min(factor for _, factor in calls) == 0


def test_colour_jitter_on_an_image():
    image = scene()
    assert difference(color_jitter(image, seeded(), 0.0), image).max() == 0
    jittered = color_jitter(image, seeded(), 0.4)
    assert jittered.size == image.size and jittered.mode == "RGB" and difference(jittered, image).mean() > 1


# ---- soft targets, mixup, cutmix -----------------------------------------------------------------------------------


def batch(count: int = 6, height: int = 5, width: int = 7, classes: int = 4):
    """Float64 images (B, 3, H, W) and targets (B, classes) whose rows sum to 1."""
    return torch.randn(count, 3, height, width).double(), torch.rand(count, classes).double().softmax(1)


def test_mixup():
    images, targets = batch()
    mixed, labels = mixup(images, targets, 0.3)
    for i, j in enumerate([1, 0, 3, 2, 5, 4]):
        for c in range(4):
            assert float(labels[i, c]) == pytest.approx(float(0.3 * targets[i, c] + 0.7 * targets[j, c]))
        for place in np.ndindex(3, 5, 7):
            assert float(mixed[i][place]) == pytest.approx(float(0.3 * images[i][place] + 0.7 * images[j][place]))
    assert torch.equal(mixup(images, targets, 1.0)[0], images)


@pytest.mark.parametrize("box", [
    (1, 2, 3, 4), (0, 0, 5, 7), (2, 3, 1, 1), (2, 3, 0, 4),  # inside, all, one pixel, none
    (-2, -1, 4, 3), (3, 5, 9, 9), (-3, 2, 20, 2), (-4, 0, 3, 7), (5, 7, 2, 2)])  # over the edges, beyond them
def test_cutmix_weighs_labels_by_the_pixels_it_takes(box):
    images, targets = batch()
    before = images.clone()
    mixed, labels = cutmix(images, targets, box)
    for i, j in enumerate([1, 0, 3, 2, 5, 4]):
        taken = 0
        for row in range(5):
            for column in range(7):
                inside = box[0] <= row < box[0] + box[2] and box[1] <= column < box[1] + box[3]
                taken += inside
                assert torch.equal(mixed[i, :, row, column], images[j if inside else i, :, row, column])
        share = 1 - taken / 35
        torch.testing.assert_close(labels[i], share * targets[i] + (1 - share) * targets[j], rtol=1e-12, atol=1e-12)
    assert torch.equal(images, before)
    torch.testing.assert_close(labels.sum(1), torch.ones(6).double())


@pytest.mark.parametrize("mix", [lambda x, y: mixup(x, y, 0.4), lambda x, y: cutmix(x, y, (1, 1, 3, 3))])
def test_any_even_split_of_a_batch_mixes_alike(mix):
    images, targets = batch(8)
    whole = mix(images, targets)
    for sizes in ((4, 4), (2, 6), (2, 2, 2, 2)):
        parts = [mix(x, y) for x, y in zip(images.split(sizes), targets.split(sizes))]
        for k in range(2):
            assert torch.equal(torch.cat([part[k] for part in parts]), whole[k])


@pytest.mark.parametrize("mix", [lambda x, y: mixup(x, y, 0.4), lambda x, y: cutmix(x, y, (1, 1, 3, 3))])
def test_mixing_keeps_dtype_and_memory_format_and_refuses_odd_batches(mix):
    images, targets = (tensor.float() for tensor in batch(4))
    images = images.contiguous(memory_format=torch.channels_last)
    mixed, labels = mix(images, targets)
    assert mixed.dtype == labels.dtype == torch.float32
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="batch of 3 images"):
        mix(*batch(3))


# ---- what mixing draws ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.8, 1.0, 1.5, 4.0, 20.0])
def test_beta_has_its_mean_and_variance(alpha):
    source, n = seeded(), 8000
    x = np.array([beta(alpha, source) for _ in range(n)])
    variance = 1 / (4 * (2 * alpha + 1))
    fourth = 3 * variance**2 * (2 * alpha + 1) / (2 * alpha + 3)  # central: kurtosis 3 (2α + 1) / (2α + 3)
    assert x.min() >= 0 and x.max() <= 1
    assert abs(x.mean() - 0.5) < 4 * math.sqrt(variance / n)
    assert abs(x.var() - variance) < 4 * math.sqrt((fourth - variance**2) / n) + 1e-9


@pytest.mark.parametrize("alpha, cdf", [
    (0.5, lambda x: 2 / np.pi * np.arcsin(np.sqrt(x))), (1.0, lambda x: x), (2.0, lambda x: 3 * x**2 - 2 * x**3)])
def test_beta_has_its_distribution(alpha, cdf):
    source, n = seeded(1), 8000
    x = np.sort([beta(alpha, source) for _ in range(n)])
    ranks = np.arange(n + 1) / n
    distance = max((ranks[1:] - cdf(x)).max(), (cdf(x) - ranks[:-1]).max())
    assert distance < 1.63 / math.sqrt(n)  # Kolmogorov and Smirnov: 1 % of all seeds would fail


def test_beta_at_the_ends():
    source = seeded()
    x = [beta(1e-4, source) for _ in range(200)]  # nearly a coin
    assert all(value < 1e-6 or value > 1 - 1e-6 for value in x) and 60 < sum(value > 0.5 for value in x) < 140
    for alpha in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="α must be"):
            beta(alpha, source)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 0.99, 1.0])
def test_cutmix_boxes_have_their_area_before_they_are_clipped(share):
    source, height, width, n = seeded(), 120, 200, 3000
    boxes = np.array([cutmix_box(height, width, share, source) for _ in range(n)])
    top, left, h, w = boxes.T
    assert (boxes >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    side = math.sqrt(1 - share)
    whole = (top > 0) & (left > 0) & (top + h < height) & (left + w < width)
    # a middle pixel, and on either side of it half of ⌊side √(1 − λ)⌋, in whole pixels
    assert (h[whole] == 2 * (int(height * side) // 2)).all() and (w[whole] == 2 * (int(width * side) // 2)).all()
    # an interval of length a about a uniform centre in [0, 1] has a − a²/4 inside, on average
    inside = side - side**2 / 4
    assert abs((h * w).mean() / (height * width) - inside**2) < 0.02
    if share < 1:
        assert abs((top + h / 2).mean() - height / 2) < 3 and abs((left + w / 2).mean() - width / 2) < 5
    if share == 0.99:  # small boxes: their centres are uniform up to the edges
        assert abs((top + h / 2).std() - height / math.sqrt(12)) < 2 and whole.mean() > 0.75


def test_draw_mix_switches():
    source = seeded()
    draws = [draw_mix(32, 48, 0.8, 1.0, 0.3, source) for _ in range(3000)]
    kinds = Counter(kind for kind, _ in draws)
    assert set(kinds) == {"mixup", "cutmix"} and abs(kinds["cutmix"] / 3000 - 0.3) < 4 * math.sqrt(0.21 / 3000)
    shares = np.array([how for kind, how in draws if kind == "mixup"])
    assert abs(shares.var() - 1 / (4 * 2.6)) < 0.01
    boxes = [how for kind, how in draws if kind == "cutmix"]
    assert all(0 <= top <= top + h <= 32 and 0 <= left <= left + w <= 48 for top, left, h, w in boxes)
    areas = np.array([h * w / (32 * 48) for _, _, h, w in boxes])
    a = np.sqrt(np.linspace(0, 1, 10001))  # λ uniform: α = 1
    assert abs(areas.mean() - ((a - a**2 / 4) ** 2).mean()) < 0.03


def test_the_sides_of_cutmix_are_cut_to_whole_pixels():
    """As in its authors' code: 224 √0.5 = 158.4 gives 2 · 79 pixels, 157.6 gives 2 · 78; 10 √0.325 = 5.7 gives 4."""
    for side, share, length in ((224, 0.5, 158), (224, 0.505, 156), (10, 0.64, 6), (10, 0.675, 4), (32, 0.99, 2)):
        boxes = [cutmix_box(side, side, share, source) for source in [seeded()] for _ in range(300)]
        assert max(h for _, _, h, _ in boxes) == max(w for *_, w in boxes) == length
    boxes = np.array([cutmix_box(6, 6, 0.85, source) for source in [seeded()] for _ in range(500)])
    assert set(boxes[:, 0] + boxes[:, 2]) == {1, 2, 3, 4, 5, 6} and set(boxes[:, 0]) == {0, 1, 2, 3, 4}


def test_mixup_and_cutmix_have_an_alpha_each():
    source = seeded()
    for mixup_alpha, cutmix_alpha in ((50.0, 0.02), (0.02, 50.0)):  # near ½, and near 0 or 1
        draws = [draw_mix(64, 64, mixup_alpha, cutmix_alpha, 0.5, source) for _ in range(400)]
        middling = np.mean([abs(how - 0.5) < 0.25 for kind, how in draws if kind == "mixup"])
        empty = np.mean([how[2] == 0 for kind, how in draws if kind == "cutmix"])  # λ near 1, as half of those at 0.02
        assert middling == 1 and empty > 0.35 if mixup_alpha > 1 else middling < 0.1 and empty == 0


def test_draw_mix_with_one_or_none():
    source = seeded()
    for switch in (0.0, 0.5, 1.0):
        assert {draw_mix(32, 32, 0.8, 0.0, switch, source)[0] for _ in range(50)} == {"mixup"}
        assert {draw_mix(32, 32, 0.0, 1.0, switch, source)[0] for _ in range(50)} == {"cutmix"}
        assert draw_mix(32, 32, 0.0, 0.0, switch, source) is None
    assert {draw_mix(32, 32, 0.8, 1.0, 1.0, source)[0] for _ in range(50)} == {"cutmix"}
    assert {draw_mix(32, 32, 0.8, 1.0, 0.0, source)[0] for _ in range(50)} == {"mixup"}


# ---- random erasing ------------------------------------------------------------------------------------------------


def test_erasing_boxes():
    source, height, width, n = seeded(), 200, 300, 4000
    drawn = [erasing_box(height, width, source) for _ in range(n)]
    boxes = np.array([box for box in drawn if box is not None])
    assert abs(len(boxes) / n - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)
    boxes = np.array([erasing_box(height, width, source, probability=1) for _ in range(n)])
    top, left, h, w = boxes.T
    assert (boxes >= 0).all() and (h < height).all() and (w < width).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    area, log_ratio = h * w / (height * width), np.log(h / w)
    assert 0.019 < area.min() < 0.025 and 0.30 < area.max() < 0.336
    assert abs(log_ratio).max() < math.log(1 / 0.3) + 0.05
    # nearly every box fits a square image: area, logarithm of the proportions and place are uniform
    top, left, h, w = np.array([erasing_box(400, 400, source, probability=1) for _ in range(n)]).T
    small = h * w < 0.09 * 400 * 400  # the longer side is then at most √(0.09 / 0.3) = 0.55: never refused
    log_ratio, place = np.log(h / w)[small], (top / (400 - h))[small]
    assert abs((h * w)[small].mean() / 400**2 - 0.055) < 0.002
    assert abs(log_ratio.mean()) < 0.1 and abs(log_ratio.std() - math.log(1 / 0.3) / math.sqrt(3)) < 0.05
    assert abs(place.mean() - 0.5) < 0.04 and abs(place.std() - 1 / math.sqrt(12)) < 0.02
    assert (top == 0).any() and (top + h == 400).any() and (left == 0).any() and (left + w == 400).any()


def test_erasing_gives_up_where_no_box_fits():
    assert erasing_box(1, 1, seeded(), probability=1) is None
    assert all(erasing_box(32, 32, seeded(seed), probability=0) is None for seed in range(50))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_erase_fills_the_box_with_normal_noise(dtype):
    image = torch.full((3, 60, 80), 7.0, dtype=dtype)
    assert erase(image, (10, 20, 40, 50), seeded()) is None
    inside = torch.zeros(60, 80, dtype=torch.bool)
    inside[10:50, 20:70] = True
    assert image.dtype == dtype and (image[:, ~inside] == 7).all() and (image[:, inside] != 7).all()
    drawn = image[:, inside].float()  # (3, 2000): another value in every pixel and channel
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05 and (drawn.abs() < 1).float().mean() < 0.72
    assert torch.corrcoef(drawn).sub(torch.eye(3)).abs().max() < 0.1


# ---- all draws are the generator's ---------------------------------------------------------------------------------


def every_draw(seed: int) -> list:
    """One draw of every random function, as plain numbers."""
    source, pixels = seeded(seed), torch.zeros(3, 8, 8)
    erase(pixels, (1, 2, 5, 5), source)
    images = [rand_augment(scene((32, 32)), source) for _ in range(8)] + [color_jitter(scene((32, 32)), source)]
    return [pixels.tolist(), [values(image).tolist() for image in images], beta(0.8, source), beta(3.0, source),
            cutmix_box(32, 32, 0.4, source), draw_mix(32, 32, 0.8, 1.0, 0.5, source),
            erasing_box(32, 32, source, probability=1), draw_operations(source)]


def test_draws_are_a_function_of_the_generator_alone():
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = every_draw(5)
    assert torch.equal(torch.random.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    torch.manual_seed(2), random.seed(2), np.random.seed(2)
    assert every_draw(5) == first
    assert all(one != other for one, other in zip(every_draw(6), first))
