"""Pictures of the lessons: a synthetic scene of 8 × 8 patches, with graphs and numbers over it.

Each is written to a file, and printed as a grid of ASCII characters.
"""

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..constructors.controls import Surroundings
from ..data.synthetic import Shapes
from ..look.panels import GAP, colours, draw_sources, patch_box, picture, tint
from ..models.layers import to_nodes

SIDE, PATCH = 32, 4  # pixels
GRID = SIDE // PATCH, SIDE // PATCH
TARGET = 27  # a patch in the middle
PANEL = 256  # pixels


def scene(index: int = 9) -> Tensor:
    """Return an image (1, 3, 32, 32) float64 from 0 to 1; by default it shows a heart."""
    return Shapes(SIDE, index + 1, "val")[index][0][None].double() / 255


def patches(index: int = 9) -> Tensor:
    """Return its patches (1, 64, 48), centred, so that bright and dark ones have opposite directions."""
    image = torch.nn.functional.pixel_unshuffle(scene(index), PATCH)
    return to_nodes(image - image.mean((2, 3), keepdim=True))


def surroundings() -> Tensor:
    """Return a graph (1, 64, 64) bool in which every patch reads from the 3 × 3 patches around it."""
    return Surroundings()(patches(), GRID).adj()


def random(*shape: int, seed: int = 0) -> Tensor:
    """Draw weights, the same in every call, scaled so that products with nodes keep their size."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / shape[0] ** 0.5


def pieces(nodes: Tensor, file: str) -> None:
    """Draw nodes (1, 64, 48) as separate patches."""
    low, high = nodes.min(), nodes.max()
    pixels = ((nodes[0] - low) / (high - low) * 255).round().to(torch.uint8).unflatten(1, (3, PATCH, PATCH))
    side = PATCH * 8
    page = Image.new("RGB", (GRID[1] * (side + GAP) + GAP, GRID[0] * (side + GAP) + GAP), "white")
    for node, piece in enumerate(pixels):
        row, column = divmod(node, GRID[1])
        page.paste(picture(piece, side), (GAP + column * (side + GAP), GAP + row * (side + GAP)))
    _save(page, file)


def sources(graph: Tensor, file: str, target: int | None = TARGET) -> None:
    """Draw the sources of a patch; graph: an adjacency (1, 64, 64), or source indices (1, 64, k). For target=None the
    graph has one target, which is no patch."""
    row = graph[0, 0 if target is None else target]
    if graph.dtype == torch.int64:
        row = torch.zeros(GRID[0] * GRID[1]).scatter(0, row, 1)
    row = row.double().detach()
    print(f"{int((row != 0).sum())} sources (o)" + ("" if target is None else f" of patch {target} (#)"))
    _grid(["#" if node == target else "o" if value else "." for node, value in enumerate(row.tolist())])
    panel = draw_sources(_image(), row.reshape(GRID))
    if target is not None:
        panel = _framed(panel, *divmod(target, GRID[1]))
    _save(panel, file)


def heat(values: Tensor, file: str) -> None:
    """Draw a heat map of one number for each patch, (1, 64); it is printed from 0, the lowest, to 9."""
    values = values[0].double().detach()
    low, high = values.min().item(), values.max().item()
    share = ((values - low) / max(high - low, 1e-12)).reshape(GRID)
    print(f"from 0 ({low:.3g}) to 9 ({high:.3g})")
    _grid([str(min(9, int(10 * value))) for value in share.flatten().tolist()])
    _save(tint(_image(), 0.8 * share.numpy(), "red"), file)


def partitions(labels: Tensor, file: str) -> None:
    """Draw the partition of every patch, (1, 64), in colours."""
    panel, grid = _image(), labels[0].reshape(GRID)
    for label, colour in enumerate(colours(int(labels.max()) + 1)):
        panel = tint(panel, 0.6 * (grid == label).numpy(), colour)
    print(f"partitions of {', '.join(map(str, labels[0].bincount().tolist()))} patches")
    _grid([str(label) for label in labels[0].tolist()])
    _save(panel, file)


def numbers(matrix: Tensor) -> None:
    """Print a matrix (1, rows, columns)."""
    for row in matrix[0].detach().tolist():
        print(" ".join(f"{value:7.3f}" for value in row))


def _image() -> Image.Image:
    return picture((scene()[0] * 255).round().to(torch.uint8), PANEL)


def _framed(panel: Image.Image, row: int, column: int) -> Image.Image:
    ImageDraw.Draw(panel).rectangle(patch_box(panel, GRID, row, column), outline="red", width=3)
    return panel


def _grid(characters: list[str]) -> None:
    for row in range(GRID[0]):
        print("  " + " ".join(characters[row * GRID[1]:(row + 1) * GRID[1]]))


def _save(page: Image.Image, file: str) -> None:
    page.save(file)
    print(f"wrote {file}")
