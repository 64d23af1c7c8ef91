"""Where is the graph? Draws, for one patch of an image, the patches it reads from in every layer.

    python -m vig_minimal.explore shapes:7 --checkpoint runs/lrgc_nano-shapes/best.pt --out graph.png
    python -m vig_minimal.explore photo.jpg --model vig_ti --node 3,10 --layers 0,5,11
    python -m vig_minimal.explore photo.jpg --checkpoint runs/cvig_nano-shapes/best.pt --partitions

The chosen patch, a target of the graph, has a red frame. Its sources have an orange tint, which is the deeper the
heavier the edge is compared with the target's heaviest one; every other patch is dark. With --partitions, each of
ClusterViG's κ partitions has a colour of its own. Without a checkpoint the weights are random, which shows what a model
starts from.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from . import create_model
from .checkpoint import CheckpointError, load, load_released
from .drawing import colours, outline, patch_box, picture, sheet, tint
from .graph import Graph
from .shapes import Shapes

PANEL = 256  # about the height and width of a panel, in pixels


def open_image(source: str, size: tuple[int, int]) -> Tensor:
    """A uint8 image (3, *size): of the embedded data set's validation scenes for "shapes:INDEX", else of a file.

    A file is scaled until it just covers (height, width), and what hangs over is cut off evenly.
    Raises ValueError for what is no image.
    """
    if source.startswith("shapes:"):
        index = source.removeprefix("shapes:")
        if not index.isdecimal():
            raise ValueError(f"{source}: after shapes: comes the number of a scene, 0 or more")
        return Shapes(size, int(index) + 1, "val")[int(index)][0]
    try:
        with Image.open(source) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{source}: no such image (a scene of the embedded data set is shapes:INDEX)") from None
    except UnidentifiedImageError:
        raise ValueError(f"{source}: not an image that Pillow can read") from None
    except (OSError, SyntaxError) as error:  # what Pillow raises for a folder, a file cut short, a damaged header
        raise ValueError(f"{source}: the image cannot be read ({error})") from None
    fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def open_model(name: str | None, checkpoint: str | None) -> tuple[nn.Module, str, Sequence[float], Sequence[float]]:
    """A model in evaluation mode, its name, and the mean and standard deviation with which images are normalised.

    A checkpoint knows which model it is of; a name alone gives a model with random weights, the same ones every time.
    Raises ValueError for an unknown name or a checkpoint that cannot be used.
    """
    torch.manual_seed(0)
    if checkpoint is None:
        return create_model(name or "lrgc_nano").eval(), name or "lrgc_nano", (0.5,) * 3, (0.5,) * 3
    state = load(checkpoint)
    if missing := [key for key in ("name", "config", "model", "mean", "std") if key not in state]:
        raise CheckpointError(f"{checkpoint}: not a checkpoint of train.py, it has no {missing[0]!r}")
    if name not in (None, state["name"]):
        raise CheckpointError(f"{checkpoint}: a checkpoint of {state['name']}, not of {name}; leave --model out")
    model = create_model(state["name"], **state["config"]).eval()
    load_released(model, state["model"])
    return model, state["name"], state["mean"], state["std"]


def graphs_of(model: nn.Module, image: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[Graph]:
    """The graph of every layer for one uint8 image (3, H, W), which is normalised first."""
    mean, std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        return model((image / 255 - mean).div(std)[None], return_graphs=True)[1]


def draw_sources(panel: Image.Image, weights: Tensor, grid: tuple[int, int]) -> Image.Image:
    """A copy of the panel that shows where one target reads: `weights` (M,) is its row of the adjacency.

    grid: rows and columns in which the M sources lie on the image.
    """
    weights = weights.float().abs().numpy().reshape(grid)  # (rows, columns)
    relative = weights / max(weights.max(), 1e-12)
    result = tint(panel, np.where(weights > 0, 0, 0.75), "black")
    return tint(result, np.where(weights > 0, 0.1 + 0.5 * relative, 0), "orange")


def explore(image: Tensor, graphs: list[Graph], layers: list[int], grid: tuple[int, int], node: tuple[int, int],
            title: str = "") -> Image.Image:
    """The image, and one panel a layer: what the patch `node` (row, column) of the `grid` reads from in that graph."""
    panels, captions = [picture(image, PANEL)], ["the image"]
    for layer in layers:
        graph = graphs[layer]
        weights = graph.adj()[0, node[0] * grid[1] + node[1]]  # (N,), N sources on the same grid
        panels.append(draw_sources(panels[0], weights, grid))
        captions.append(f"layer {layer}: {int((weights != 0).sum())} neighbours\n"
                        f"mean of all nodes: {graph.statistics()['mean_degree']:.1f}")
    for panel in panels:
        outline(panel, patch_box(panel, grid, *node), "white", 5)
        outline(panel, patch_box(panel, grid, *node), "red", 3)
    return sheet(panels, captions, columns=4, title=title)


def explore_partitions(image: Tensor, graphs: list[Graph], layers: list[int], grid: tuple[int, int],
                       title: str = "") -> Image.Image:
    """The image, and one panel a layer: ClusterViG's partitions of its patches, a colour each, the same in all layers
    as far as they hold the same patches. Raises ValueError for graphs without partitions."""
    if not hasattr(graphs[0], "labels"):
        raise ValueError("--partitions: this model's nodes have none; choose one of ClusterViG's, as cvig_nano")
    panels, captions, before = [picture(image, PANEL)], ["the image"], None
    for layer in layers:
        count = graphs[layer].centroids.shape[1]
        labels = follow(graphs[layer].labels[0], before, count).reshape(grid)
        panel = panels[0]
        for label, colour in enumerate(colours(count)):
            panel = tint(panel, 0.6 * (labels == label).numpy(), colour)
        panels.append(panel)
        sizes = labels.flatten().bincount(minlength=count)
        captions.append(f"layer {layer}: {count} partitions\nof {' '.join(str(int(size)) for size in sizes)} patches")
        before = labels.flatten()
    return sheet(panels, captions, columns=4, title=title)


def follow(labels: Tensor, before: Tensor | None, count: int) -> Tensor:
    """The labels (N,) renamed so that partitions keep the names of those `before` that they share most patches with:
    the pair that shares most first. K-means numbers them at random."""
    if before is None:
        return labels
    shared = torch.zeros(count, count, dtype=torch.int64).index_put_((labels, before), torch.ones_like(labels), True)
    names = torch.empty(count, dtype=torch.int64)
    for _ in range(count):
        now, then = divmod(int(shared.argmax()), count)
        names[now] = then
        shared[now], shared[:, then] = -1, -1
    return names[labels]


def parse_numbers(text: str, flag: str) -> list[int]:
    """Whole numbers with commas between them. Raises ValueError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{flag} {text}: takes whole numbers with commas between them, as 0,2,5")
    return [int(part) for part in parts]


def choose_node(text: str | None, grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the target patch, by default the one in the middle. Raises ValueError."""
    node = parse_numbers(text, "--node") if text else [grid[0] // 2, grid[1] // 2]
    if len(node) != 2 or node[0] >= grid[0] or node[1] >= grid[1]:
        raise ValueError(f"--node {text}: takes ROW,COLUMN of a patch, from 0,0 to {grid[0] - 1},{grid[1] - 1} in this"
                         " model's grid")
    return node[0], node[1]


def choose_layers(text: str | None, depth: int) -> list[int]:
    """The layers to draw, by default all. Raises ValueError."""
    layers = parse_numbers(text, "--layers") if text else list(range(depth))
    if max(layers) >= depth:
        raise ValueError(f"--layers {text}: this model's layers are 0 to {depth - 1}")
    return layers


def main(argv: list[str] | None = None) -> None:
    """The command; see `python -m vig_minimal.explore --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m vig_minimal.explore", description="Draw the patches that one patch reads from, layer by layer.",
        epilog="example: python -m vig_minimal.explore shapes:7 --model lrgc_nano --node 3,4 --out graph.png")
    parser.error = fail
    add = parser.add_argument
    add("image", help="a file, or shapes:INDEX for a validation scene of the embedded data set")
    add("--model", metavar="NAME", help="a name of list_models() (default: the checkpoint's, else lrgc_nano)")
    add("--checkpoint", metavar="PATH", help="best.pt or last.pt of train.py (default: random weights)")
    add("--node", metavar="ROW,COLUMN", help="the target patch, counted from 0 (default: the one in the middle)")
    add("--partitions", action="store_true", help="draw ClusterViG's partitions instead of a patch's sources")
    add("--layers", metavar="L,L,…", help="the layers to draw, counted from 0 (default: all)")
    add("--out", metavar="FILE", default="graph.png", help="the picture to write (default graph.png)")
    args = parser.parse_args(argv)
    try:
        model, name, mean, std = open_model(args.model, args.checkpoint)
        grid = model.config.grid
        node, layers = choose_node(args.node, grid), choose_layers(args.layers, model.config.depth)
        image = open_image(args.image, model.config.img_size)
        graphs = graphs_of(model, image, mean, std)
        weights = args.checkpoint or "random weights"
        if args.partitions:
            title = f"{name}, {weights}, {args.image}"
            drawn = explore_partitions(image, graphs, layers, grid, title)
        else:
            title = (f"{name}, {weights}, {args.image}\nred frame: patch {node[0]},{node[1]} of"
                     f" {grid[0]} by {grid[1]}; orange: its sources, the deeper the heavier the edge; dark: not read")
            drawn = explore(image, graphs, layers, grid, node, title)
        drawn.save(args.out)
    except (ValueError, OSError) as error:
        fail(str(error))
    print(f"{name}, {args.checkpoint or 'random weights'}: neighbours of the {grid[0] * grid[1]} nodes, by layer\n"
          "layer   mean   min   max")
    for layer, graph in enumerate(graphs):
        degree = graph.degree().float()
        print(f"{layer:5}  {degree.mean():5.1f} {degree.min():5.0f} {degree.max():5.0f}")
    print(f"wrote {args.out}")


def fail(message: str) -> None:
    """Say in one sentence what is wrong, and end with code 2."""
    print(f"explore: error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
