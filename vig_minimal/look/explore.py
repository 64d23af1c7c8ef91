"""Where is the graph? Draws, for one patch of an image, the patches it reads from in every layer.

    python -m vig_minimal explore shapes:7 --checkpoint runs/lrgc_nano-shapes/best.pt --out graph.png
    python -m vig_minimal explore photo.jpg --model vig_ti --node 3,10 --layers 0,5,11
    python -m vig_minimal explore photo.jpg --checkpoint runs/cvig_nano-shapes/best.pt --partitions
    python -m vig_minimal explore shapes:9 --checkpoint runs/gkgnet_nano-shapes-multi/best.pt --label star

The chosen patch, a target of the graph, has a red frame. Its sources have an orange tint, which is the deeper the
heavier the edge is compared with the target's heaviest one; every other patch is dark. In a pyramid the patch that
covers the same place in each stage is drawn. Where every group of channels has neighbours of its own (GKGNet), each
group has a panel and a colour; with --label the target is a label, and the patches that it reads from in every stage
are drawn. With --partitions, each of ClusterViG's κ partitions has a colour of its own. Without a checkpoint the
weights are random, which shows what a model starts from.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from ..data.synthetic import CLASSES, Shapes
from ..files import CheckpointError, load
from ..graphs.graph import Graph, GroupGraph
from ..models.gkgnet import GKGNet
from ..models.registry import create_model
from ..models.released import load_released
from .explore_layers import Layer, area, choose_label, explore_groups, explore_label, frame, layers_of
from .panels import colours, picture, sheet, tint

PANEL = 256  # about the height and width of a panel, in pixels


@dataclass(frozen=True)
class Opened:
    """A model in evaluation mode and what is needed to use it: the names of its classes, whether an image may show
    several of them, and the mean and standard deviation with which images are normalised."""

    model: nn.Module
    name: str
    classes: list[str]
    multi_label: bool
    mean: Sequence[float]
    std: Sequence[float]


def open_image(source: str, size: tuple[int, int], view: str = "single") -> Tensor:
    """A uint8 image (3, *size): of the embedded data set's validation scenes for "shapes:INDEX", else of a file.

    A file is scaled until it just covers (height, width), and what hangs over is cut off evenly. view: of the scene.
    Raises ValueError for what is no image.
    """
    if source.startswith("shapes:"):
        return _scene(source, size, view)[0]
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


def _scene(source: str, size: tuple[int, int], view: str) -> tuple[Tensor, int | Tensor]:
    index = source.removeprefix("shapes:")
    if not index.isdecimal():
        raise ValueError(f"{source}: after shapes: comes the number of a scene, 0 or more")
    return Shapes(size, int(index) + 1, "val", view)[int(index)]


def shows(source: str, size: tuple[int, int], name: str) -> bool | None:
    """Whether a class is to be seen in a scene of the embedded data set; None where nobody has said so."""
    if not source.startswith("shapes:") or name not in CLASSES:
        return None
    return bool(_scene(source, size, "multi")[1][CLASSES.index(name)])


def open_model(name: str | None, checkpoint: str | None) -> Opened:
    """The model of a checkpoint, which knows which model it is of; a name alone gives a model with random weights, the
    same ones every time, whose classes are those of the embedded data set, or have numbers for names.

    Raises ValueError for an unknown name or a checkpoint that cannot be used.
    """
    torch.manual_seed(0)
    if checkpoint is None:
        name = name or "lrgc_nano"
        model = create_model(name).eval()
        count = model.config.num_classes
        classes = list(CLASSES) if count == len(CLASSES) else [str(number) for number in range(count)]
        return Opened(model, name, classes, isinstance(model, GKGNet), (0.5,) * 3, (0.5,) * 3)
    state = load(checkpoint)
    if missing := [key for key in ("name", "config", "classes", "model", "mean", "std") if key not in state]:
        raise CheckpointError(f"{checkpoint}: not a checkpoint of train.py, it has no {missing[0]!r}")
    if name not in (None, state["name"]):
        raise CheckpointError(f"{checkpoint}: a checkpoint of {state['name']}, not of {name}; leave --model out")
    model = create_model(state["name"], **state["config"]).eval()
    load_released(model, state["model"])
    if len(state["classes"]) != model.config.num_classes:
        raise CheckpointError(f"{checkpoint}: names {len(state['classes'])} classes, and its model has"
                              f" {model.config.num_classes}")
    multi_label = state.get("multi_label", isinstance(model, GKGNet))
    return Opened(model, state["name"], list(state["classes"]), multi_label, state["mean"], state["std"])


def apply(opened: Opened, image: Tensor) -> tuple[Tensor, list[Graph]]:
    """Logits (classes,) and the graph of every layer for one uint8 image (3, H, W), which is normalised first."""
    mean, std = torch.tensor(opened.mean).view(3, 1, 1), torch.tensor(opened.std).view(3, 1, 1)
    with torch.inference_mode():
        logits, graphs = opened.model((image / 255 - mean).div(std)[None], return_graphs=True)
    return logits[0], graphs


def draw_sources(panel: Image.Image, weights: Tensor) -> Image.Image:
    """A copy of the panel that shows where one target reads: `weights` (rows, columns) is its row of the adjacency, as
    the sources lie on the image."""
    weights = weights.float().abs().numpy()
    relative = weights / max(weights.max(), 1e-12)
    result = tint(panel, np.where(weights > 0, 0, 0.75), "black")
    return tint(result, np.where(weights > 0, 0.1 + 0.5 * relative, 0), "orange")


def explore(image: Tensor, layers: list[Layer], whole: tuple[int, int], node: tuple[int, int],
            title: str = "") -> Image.Image:
    """The image, and one panel a layer: what the patch `node` (row, column) of the first stage, whose grid is `whole`,
    or the patch that covers it later on, reads from in that layer's graph."""
    panels, captions = [picture(image, PANEL)], ["the image"]
    for layer in layers:
        weights = layer.row(node)  # (M,)
        panels.append(draw_sources(panels[0], layer.spread(weights, whole)))
        captions.append(f"{layer.name}: {int((weights != 0).sum())} neighbours\n"
                        f"mean of all nodes: {layer.graph.statistics()['mean_degree']:.1f}"
                        + ("" if layer.grid == layer.source_grid == whole else f"\n{layer.sizes}"))
    frame(panels[0], area(panels[0], whole, *node, 1))
    for panel, layer in zip(panels[1:], layers, strict=True):
        frame(panel, area(panel, whole, *layer.patch_at(node), layer.scale))
    return sheet(panels, captions, columns=4, title=title)


def explore_partitions(image: Tensor, layers: list[Layer], title: str = "") -> Image.Image:
    """The image, and one panel a layer: ClusterViG's partitions of its patches, a colour each, the same in all layers
    as far as they hold the same patches. Raises ValueError for graphs without partitions."""
    if not hasattr(layers[0].graph, "labels"):
        raise ValueError("--partitions: this model's nodes have none; choose one of ClusterViG's, as cvig_nano")
    panels, captions, before = [picture(image, PANEL)], ["the image"], None
    for layer in layers:
        count = layer.graph.centroids.shape[1]
        labels = follow(layer.graph.labels[0], before, count).reshape(layer.grid)
        panel = panels[0]
        for label, colour in enumerate(colours(count)):
            panel = tint(panel, 0.6 * (labels == label).numpy(), colour)
        panels.append(panel)
        sizes = labels.flatten().bincount(minlength=count)
        captions.append(f"{layer.name}: {count} partitions\nof {' '.join(str(int(size)) for size in sizes)} patches")
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


def choose_layers(text: str | None, layers: list[Layer], what: str = "layers") -> list[Layer]:
    """The layers to draw, by default all. Raises ValueError."""
    numbers = parse_numbers(text, "--layers") if text else range(len(layers))
    if max(numbers) >= len(layers):
        raise ValueError(f"--layers {text}: this model's {what} are 0 to {len(layers) - 1}")
    return [layers[number] for number in numbers]


def main(argv: list[str] | None = None) -> None:
    """The command; see `python -m vig_minimal explore --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m vig_minimal explore", description="Draw the patches that a patch, or a label, reads from.",
        epilog="example: python -m vig_minimal explore shapes:7 --model lrgc_nano --node 3,4 --out graph.png")
    parser.error = fail
    add = parser.add_argument
    add("image", help="a file, or shapes:INDEX for a validation scene of the embedded data set")
    add("--model", metavar="NAME", help="a name of list_models() (default: the checkpoint's, else lrgc_nano)")
    add("--checkpoint", metavar="PATH", help="best.pt or last.pt of train.py (default: random weights)")
    add("--node", metavar="ROW,COLUMN", help="the target patch, counted from 0 (default: the one in the middle); in a"
                                           " pyramid, one of the first stage")
    add("--partitions", action="store_true", help="draw ClusterViG's partitions instead of a patch's sources")
    add("--label", metavar="NAME", help="draw the patches that this label reads from, by name or number (GKGNet)")
    add("--layers", metavar="L,L,…", help="the layers, or with --label the cross levels, counted from 0 (default: all)")
    add("--out", metavar="FILE", default="graph.png", help="the picture to write (default graph.png)")
    args = parser.parse_args(argv)
    try:
        opened = open_model(args.model, args.checkpoint)
        if not hasattr(opened.model.config, "grid"):
            raise ValueError(f"{opened.name} has no graph over patches: its nodes are images, anchors and proxies,"
                             " which python -m vig_minimal attention draws")
        image = open_image(args.image, opened.model.config.img_size, "multi" if opened.multi_label else "single")
        logits, graphs = apply(opened, image)
        layers = layers_of(opened.model.config, graphs)
        about = f"{opened.name}, {args.checkpoint or 'random weights'}"
        draw(args, opened, image, layers, logits, f"{about}, {args.image}").save(args.out)
    except (ValueError, OSError) as error:
        fail(str(error))
    print(f"{about}: {table(layers)}")
    if opened.multi_label:
        scores, order = logits.sigmoid().topk(min(5, len(logits)))
        best = [f"{opened.classes[i]} {score:.3f}" for i, score in zip(order.tolist(), scores.tolist())]
        print("highest scores: " + ", ".join(best))
    print(f"wrote {args.out}")


def draw(args: argparse.Namespace, opened: Opened, image: Tensor, layers: list[Layer], logits: Tensor,
         title: str) -> Image.Image:
    """The picture that the command was asked for. Raises ValueError for what it cannot draw."""
    whole = opened.model.config.grid
    if args.label is not None:
        if args.partitions or args.node:
            raise ValueError("--label: the label is the target, so leave --node and --partitions out")
        cross = [layer for layer in layers if layer.of_labels]
        if not cross:
            raise ValueError(f"--label: in {opened.name}'s graphs no label is a node; choose one of GKGNet's, as"
                             " gkgnet_nano")
        label = choose_label(args.label, opened.classes)
        name = opened.classes[label]
        truth = shows(args.image, opened.model.config.img_size, name)
        said = "" if truth is None else f", and the scene {'shows' if truth else 'does not show'} it"
        title += (f"\nlabel {name}: score {logits[label].sigmoid():.3f}{said}\na colour a group: the patches that it"
                  " connects to the label; striped: in several groups")
        return explore_label(image, choose_layers(args.layers, cross, "cross levels"), whole, label, title)
    chosen = choose_layers(args.layers, [layer for layer in layers if not layer.of_labels])
    if args.partitions:
        return explore_partitions(image, chosen, title)
    node = choose_node(args.node, whole)
    title += f"\nred frame: patch {node[0]},{node[1]} of {whole[0]} by {whole[1]}"
    if any(layer.scale > 1 for layer in layers):
        title += ", and where there are fewer, the one that covers it"
    if isinstance(chosen[0].graph, GroupGraph):
        title += "\na colour a group: its sources, red lines lead to them; striped: in several groups"
        return explore_groups(image, chosen, whole, node, title)
    title += "; orange: its sources, the deeper the heavier the edge; dark: not read"
    return explore(image, chosen, whole, node, title)


def table(layers: list[Layer]) -> str:
    """Neighbours per target in every layer, under a line that says of what."""
    alike = all(layer.grid == layer.source_grid == layers[0].grid for layer in layers)
    nodes = f"the {layers[0].graph.num_targets} nodes" if alike else "a node"
    names = [layer.name.removeprefix("layer ") for layer in layers]
    width = max(5, *map(len, names))
    lines = [f"neighbours of {nodes}, by layer", f"{'layer':>{width}}   mean   min   max"]
    for name, layer in zip(names, layers, strict=True):
        degree = layer.graph.degree().float()
        lines.append(f"{name:>{width}}  {degree.mean():5.1f} {degree.min():5.0f} {degree.max():5.0f}"
                     + ("" if alike else f"   {layer.sizes}"))
    return "\n".join(lines)


def fail(message: str) -> None:
    """Say in one sentence what is wrong, and end with code 2."""
    print(f"explore: error: {message}", file=sys.stderr)
    sys.exit(2)
