"""Lesson 1: patches to nodes and back, and their places."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models import layers
from ..task import Task, draw


def to_nodes(image: Tensor, patch: int) -> Tensor:
    return layers.to_nodes(F.pixel_unshuffle(image, patch))


def to_image(nodes: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    return F.pixel_shuffle(layers.to_image(nodes, grid), patch)


def places(grid: tuple[int, int]) -> Tensor:
    return torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).reshape(-1, 2)


def cut(image: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) to (B, C, rows, patch, columns, patch)."""
    return image.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))


def glue(nodes: Tensor, grid: tuple[int, int], patch: int, order: tuple[int, ...], dims: str = "RCcpq") -> Tensor:
    """Nodes read as if numbers were in the order `dims`: rows R, columns C, channels c, places p, q in a patch."""
    sizes = {"R": grid[0], "C": grid[1], "c": nodes.shape[2] // patch**2, "p": patch, "q": patch}
    parts = nodes.reshape(len(nodes), *(sizes[dim] for dim in dims)).permute(0, *order)
    return parts.flatten(4, 5).flatten(2, 3)


image = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4)
CASES = [(image, 2), (draw(1, 2, 3, 4, 6), 2), (draw(2, 1, 2, 6, 3), 3), (draw(3, 3, 2, 2, 4), 1)]

TASKS = [
    Task("to_nodes", to_nodes, "(B, N, C*patch*patch)", CASES, [
        ("These are not patches: memory was cut into pieces. A reshape alone never brings numbers together that were"
         " apart. Which pixels should stand in the first node?",
         lambda image, patch: image.reshape(len(image), image[0, 0].numel() // patch**2, -1)),
        ("The patches are right, their order is not: node 1 should be to the right of node 0.",
         lambda image, patch: cut(image, patch).permute(0, 4, 2, 1, 3, 5).flatten(3).flatten(1, 2)),
        ("Every node has the right pixels, but it lists them pixel by pixel; the lesson lists channel after channel.",
         lambda image, patch: cut(image, patch).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)),
        ("Inside a patch, rows and columns of pixels are exchanged.",
         lambda image, patch: cut(image, patch).permute(0, 2, 4, 1, 5, 3).flatten(3).flatten(1, 2)),
        ("The nodes are right, but stand in the last dimension; nodes are (B, N, C).",
         lambda image, patch: to_nodes(image, patch).mT),
    ], ["models.layers.to_nodes", "models.layers.Stem"]),
    Task("to_image", to_image, "(B, C, H, W)", [(to_nodes(image, patch), (image.shape[2] // patch,
                                                 image.shape[3] // patch), patch) for image, patch in CASES], [
        ("The numbers are all there, but were only reshaped. Which dimensions must stand side by side before two of"
         " them"
         " become the height?",
         lambda nodes, grid, patch: nodes.reshape(len(nodes), -1, grid[0] * patch, grid[1] * patch)),
        ("The patches went in column by column. Nodes come row by row: which of the two grid sizes varies slowest?",
         lambda nodes, grid, patch: glue(nodes, grid, patch, (3, 2, 4, 1, 5), "CRcpq")),
        ("Each patch is in its place, but is read as if it listed pixel by pixel.",
         lambda nodes, grid, patch: glue(nodes, grid, patch, (5, 1, 3, 2, 4), "RCpqc")),
        ("Each patch is in its place, but lies on its side: its rows are its columns.",
         lambda nodes, grid, patch: glue(nodes, grid, patch, (3, 1, 5, 2, 4), "RCcqp")),
    ], ["models.layers.to_image"]),
    Task("places", places, "(N, 2) integers", [((2, 2),), ((2, 3),), ((4, 1),)], [
        ("Column first, row second: a place is (row, column), as in a matrix.",
         lambda grid: places(grid).flip(1)),
        ("The places are right, their order is not: nodes go along the first row, then along the second.",
         lambda grid: places(grid[::-1]).flip(1)),
        ("Counting starts at 0: the first node is at (0, 0).", lambda grid: places(grid) + 1),
        *[("They count rows and columns: whole numbers.", wrong)
          for wrong in (lambda grid: places(grid).float(), lambda grid: places(grid).double())],
        ("Two rows of N numbers: each node should be a row, (N, 2).", lambda grid: places(grid).mT),
    ], ["constructors.axial.SVGA"]),
]

HINTS = {
    "to_nodes": (
        "An image (B, C, H, W) is also (B, C, rows, patch, columns, patch): cut H and W in two with reshape or"
        " unflatten.",
        "permute brings `rows` and `columns` to the front, behind B. Then merge dimensions that stand side by side:"
        " flatten.",
    ),
    "to_image": (
        "to_image undoes each step in the reverse order. torch.nn.functional.pixel_unshuffle and pixel_shuffle, or"
        " unfold and fold, are other ways.",
    ),
    "places": (
        "Node n of a grid with `columns` columns is in row n // columns and column n % columns.",
    ),
}
