"""Semantic FPN and its metric by loops, one pixel and one channel at a time, in float64."""

import math


def upsampled(image, factor):
    """Bilinear, `factor` times as high and wide, pixel centres at ½ (align_corners=False): lists [C][H][W]."""
    channels, height, width = len(image), len(image[0]), len(image[0][0])

    def place(at, side):
        exact = max((at + 0.5) / factor - 0.5, 0)
        low = min(int(exact), side - 1)
        return low, min(low + 1, side - 1), exact - low

    result = [[[0.0] * (factor * width) for _ in range(factor * height)] for _ in range(channels)]
    for c in range(channels):
        for y in range(factor * height):
            y0, y1, dy = place(y, height)
            for x in range(factor * width):
                x0, x1, dx = place(x, width)
                above = (1 - dx) * image[c][y0][x0] + dx * image[c][y0][x1]
                below = (1 - dx) * image[c][y1][x0] + dx * image[c][y1][x1]
                result[c][y][x] = (1 - dy) * above + dy * below
    return result


def conv3x3(image, weight):
    """3×3 convolution with zero padding: weight [out][in][3][3]."""
    channels, height, width = len(image), len(image[0]), len(image[0][0])
    result = [[[0.0] * width for _ in range(height)] for _ in weight]
    for o, kernel in enumerate(weight):
        for y in range(height):
            for x in range(width):
                result[o][y][x] = sum(
                    kernel[c][dy + 1][dx + 1] * image[c][y + dy][x + dx]
                    for c in range(channels) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
                    if 0 <= y + dy < height and 0 <= x + dx < width)
    return result


def group_norm_relu(image, groups, scale, shift, eps=1e-5):
    """Group norm over (C/groups, H, W), scale and shift of each channel, ReLU."""
    size = len(image) // groups
    result = []
    for g in range(groups):
        part = image[g * size:(g + 1) * size]
        values = [value for channel in part for row in channel for value in row]
        mean = sum(values) / len(values)
        std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + eps)
        for c, channel in enumerate(part, g * size):
            result.append([[max(0.0, (value - mean) / std * scale[c] + shift[c]) for value in row] for row in channel])
    return result


def semantic_fpn(levels, branches, weight, bias):
    """levels: four images [C][H][W] of strides s·2^l. branches: of each level its steps (kernel, groups, scale, shift).
    weight [classes][width], bias [classes] of the 1×1 convolution. Logits [classes][H][W] at the first level's stride.
    """
    height, width = len(levels[0][0]), len(levels[0][0][0])
    summed = None
    for level, (image, steps) in enumerate(zip(levels, branches)):
        assert len(steps) == max(1, level)
        for kernel, groups, scale, shift in steps:
            image = group_norm_relu(conv3x3(image, kernel), groups, scale, shift)
            if level > 0:
                image = upsampled(image, 2)
        image = [[row[:width] for row in channel[:height]] for channel in image]
        summed = image if summed is None else [
            [[a + b for a, b in zip(*rows)] for rows in zip(*channels)] for channels in zip(summed, image)]
    return [[[bias[k] + sum(weight[k][c] * summed[c][y][x] for c in range(len(summed))) for x in range(width)]
             for y in range(height)] for k in range(len(weight))]


def counts(truth, predicted, classes, unknown=255):
    """confusion[t][p]: pixels of class t for which p was predicted; unknown ones count nowhere."""
    table = [[0] * classes for _ in range(classes)]
    for t, p in zip(truth, predicted):
        if t != unknown:
            table[t][p] += 1
    return table


def intersection_over_union(truth, predicted, k, unknown=255):
    """IoU of class k by sets of pixels; None where it is in neither."""
    known = [i for i, t in enumerate(truth) if t != unknown]
    own, found = {i for i in known if truth[i] == k}, {i for i in known if predicted[i] == k}
    return len(own & found) / len(own | found) if own | found else None
