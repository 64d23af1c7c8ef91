"""Draw, for one patch of an image, the patches that it reads from in the graph of every layer, beside the image itself.

The target patch has a red frame, its sources an outline. Where edges have weights, the colour of a source shows its
weight on the scale of the legend: in LRGC α, with conv="attention" the mean attention of the heads; so it is a heat map
of attention. In a pyramid, the patch that covers the same place is drawn in each stage. Where every group of channels
has its own neighbours (GKGNet), each group has a panel and a colour. With --label the target is a label. --partitions
draws ClusterViG's partitions, --hyperedge the patches of one hyperedge, by membership. Of a detector, there is a row
for each object that it finds: what the patch under its centre reads from, and how much of that lies inside the object.
A network for segmentation is explored by its backbone. With --model or --graph alone the weights are random, as at the
start of training; without these and without a checkpoint a trained model of the package is taken.
"""

import argparse
from dataclasses import replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..data.augment import normalise
from ..data.synthetic import CLASSES
from ..graphs.graph import GroupGraph
from ..models.detection import Detector, padded
from ..models.segmentation import Segmenter
from ..trained_files import DEFAULT
from .command import Parser, save_picture
from .explore_layers import Layer, attentions, choose_label, counted, layers_of, memberships_of
from .objects.found import detect
from .objects.reading import detector_layers, explore_objects, seen
from .page import command as pages
from .panels import colours, draw_sources, picture, ramp, sheet, square, tint
from .patch_sources import PANEL, explore, explore_groups
from .predict import in_words, named, open_image, open_model, open_scene, probabilities, scene_view

PICTURE = "graph.png"


def shows(source: str, size: tuple[int, int], name: str) -> bool | None:
    """Whether a synthetic scene shows a class; None for photos and for other classes, where it is not known."""
    if not source.startswith("shapes:") or name not in CLASSES:
        return None
    return bool(open_scene(source, size, "multi")[1][CLASSES.index(name)])


def explore_partitions(image: Tensor, layers: list[Layer], title: str = "") -> Image.Image:
    """Draw the image, and for each layer a panel of ClusterViG's partitions, one colour for each, which a partition
    keeps from layer to layer as far as it keeps its patches. Raises ValueError for graphs without partitions."""
    if not hasattr(layers[0].graph, "labels"):
        raise ValueError("--partitions: this model's nodes have none; choose one of ClusterViG's, such as cvig_nano")
    panels, captions, before = [picture(image, PANEL)], ["the image"], None
    for layer in layers:
        count = layer.graph.centroids.shape[1]
        before = follow(layer.graph.labels[0], before, count)
        panel, labels = panels[0], before.reshape(layer.grid)
        for label, colour in enumerate(colours(count)):
            panel = tint(panel, 0.6 * (labels == label).numpy(), colour)
        panels.append(panel)
        sizes = " ".join(str(int(size)) for size in before.bincount(minlength=count))
        captions.append(f"{layer.name}: {count} partitions\nof {sizes} patches")
    entries = [(square(colour), f"partition {label}") for label, colour in enumerate(colours(count))]
    return sheet(panels, captions, 4, title, entries)


def explore_hyperedge(image: Tensor, layers: list[Layer], memberships: list[Tensor], number: int,
                      title: str = "") -> Image.Image:
    """Draw the image, and for each layer a panel of the patches in one hyperedge, by membership: a heat map.
    memberships: (1, N, E) of each layer."""
    panels, captions = [picture(image, PANEL)], ["the image"]
    values = [u[0, :, number] * layer.graph.member[0, :, number] for u, layer in zip(memberships, layers, strict=True)]
    heaviest = float(torch.stack(values).max())
    for layer, value in zip(layers, values):
        panels.append(draw_sources(panels[0], value.view(layer.grid), heaviest))
        captions.append(f"{layer.name}: {counted((value > 0).sum(), 'patch')}")
    what = f"patches in hyperedge {number}, by membership from 0 to {heaviest:.3g}"
    return sheet(panels, captions, 4, title, [(ramp(), what)])


def follow(labels: Tensor, before: Tensor | None, count: int) -> Tensor:
    """Rename labels (N,), which k-means numbers at random, after those `before` that share most patches with them."""
    if before is None:
        return labels
    shared = torch.zeros(count, count, dtype=torch.int64).index_put_((labels, before), torch.ones_like(labels), True)
    names = torch.empty(count, dtype=torch.int64)
    for _ in range(count):  # the pair that shares most of all, then the next one, …
        now, then = divmod(int(shared.argmax()), count)
        names[now] = then
        shared[now], shared[:, then] = -1, -1
    return names[labels]


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them; none if the text is anything else."""
    parts = text.split(",")
    return [int(part) for part in parts] if all(part.strip().isdecimal() for part in parts) else []


def choose_node(text: str | None, grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the target patch, by default the one in the middle. Raises ValueError."""
    match numbers(text) if text else [grid[0] // 2, grid[1] // 2]:
        case [row, column] if row < grid[0] and column < grid[1]:
            return row, column
    raise ValueError(f"--node {text}: takes ROW,COLUMN of a patch, from 0,0 to {grid[0] - 1},{grid[1] - 1} in this"
                     " model's grid")


def choose_layers(text: str | None, layers: list[Layer], what: str = "layers") -> list[Layer]:
    """The layers to draw, by default all. Raises ValueError."""
    chosen = numbers(text) if text else range(len(layers))
    if not chosen or max(chosen) >= len(layers):
        raise ValueError(f"--layers {text}: takes numbers of this model's {what}, 0 to {len(layers) - 1}, with commas"
                         " between them")
    return [layers[number] for number in chosen]


def main(argv: list[str] | None = None) -> None:
    """Run `python -m vig_minimal explore`."""
    parser = Parser("explore", __doc__, "photo.jpg --checkpoint lrgc_nano-cifar10 --node 3,4 --out graph.png")
    add = parser.add_argument
    add("image", nargs="*", help="a file, or shapes:INDEX for a synthetic validation scene")
    add("--model", metavar="NAME", action="append", default=[],
        help="a name of list_models() (default: the checkpoint's; with --graph lrgc_nano)")
    add("--checkpoint", metavar="PATH", action="append", default=[],
        help=f"best.pt or last.pt of train.py, or the name of a trained model (default {DEFAULT}, without --model and"
             " --graph)")
    add("--graph", metavar="NAME", action="append", default=[],
        help="another constructor in that model: one of list_constructors() (several: --html)")
    add("--node", metavar="ROW,COLUMN", help="the target patch, counted from 0 (default: the one in the middle); in a"
                                           " pyramid, one of the first stage")
    add("--partitions", action="store_true", help="draw ClusterViG's partitions instead of a patch's sources")
    add("--hyperedge", type=int, metavar="E", help="draw the patches of this hyperedge, counted from 0 (hypergraph)")
    add("--label", metavar="NAME", help="draw the patches that this label reads from, by name or number (GKGNet)")
    add("--layers", metavar="L,L,…", help="the layers, or with --label the cross levels, counted from 0 (default: all)")
    add("--threshold", type=float, metavar="P", help="lowest score of a detector's objects (default 0.5)")
    parser.add_out(None, f"the picture to write (default {PICTURE})")
    pages.add_flags(add)
    args = parser.parse_args(argv)
    with parser.errors_in_one_sentence():
        pages.check(args)
        if not (args.checkpoint or args.model or args.graph or args.run):
            args.checkpoint = [DEFAULT]
        if args.html:
            return pages.write(args)
        args.image, args.model, args.checkpoint, args.graph = (
            next(iter(given), None) for given in (args.image, args.model, args.checkpoint, args.graph))
        model = open_model(args.model, args.checkpoint, args.graph, detectors=True)
        if isinstance(model, Detector):
            return explore_detector(args, model)
        if isinstance(model, Segmenter):
            return explore_segmenter(args, model)
        if args.threshold is not None:
            raise ValueError(f"--threshold: chooses among a detector's objects, and {model.name} is no detector; leave"
                             " it out")
        if not hasattr(model.config, "grid"):
            raise ValueError(f"{model.name} has no graph over patches: its nodes are images, anchors and proxies,"
                             " which python -m vig_minimal attention draws")
        image = open_image(args.image, model.transform, scene_view(model))
        with attentions(model) as attention, memberships_of(model) as memberships:
            scores, graphs = probabilities(model, image[None], return_graphs=True)
        layers = layers_of(model.config, graphs, attention)
        about = f"{model.name}, {f'{args.graph} graph, ' * bool(args.graph)}{args.checkpoint or 'random weights'}"
        best = in_words(named(model, scores[0], top=5, threshold=scores[0].topk(min(5, scores.shape[1])).values[-1]))
        title = f"{about}, {args.image}" + (f": {best}" if args.checkpoint else "")
        page = page_of(args, model, image, layers, scores[0], title, memberships)
        print(f"{about}: {table(layers)}")
        if args.checkpoint or model.multi_label:
            print(f"highest {'scores' if model.multi_label else 'probabilities'}: {best}")
        save_picture(page, args.out or PICTURE)


def explore_detector(args: argparse.Namespace, model: Detector) -> None:
    """Write the page of the objects that a detector finds or, with --node or --partitions, of its graphs."""
    image = open_image(args.image, model.transform, "boxes")
    threshold = 0.5 if args.threshold is None else args.threshold
    [found], graphs = detect(model, [image], threshold, return_graphs=True)
    pixels, scale = seen(model, image)
    layers = detector_layers(model, pixels, graphs)
    title = f"{model.name}, {args.checkpoint}, {args.image}"
    print(table(layers))
    if args.node or args.partitions or args.label is not None or args.hyperedge is not None:
        page = page_of(args, model, pixels, layers, torch.zeros(0), title)
    elif not found:
        raise ValueError(f"{args.image}: no object has a score of {threshold:g}; give a lower --threshold, or a"
                         " patch with --node")
    else:
        chosen = choose_layers(args.layers, layers)
        page, said = explore_objects(image, found, chosen, pixels, scale, model.classes, title)
        print(said)
    save_picture(page, args.out or PICTURE)


def explore_segmenter(args: argparse.Namespace, model: Segmenter) -> None:
    """Write the page of the graphs of a segmentation network's backbone, for the whole image."""
    image = open_image(args.image, model.transform, "boxes")
    height, width = padded(image.shape[1:], model.body.config.patch)
    pixels = F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))  # as the backbone sees it
    inputs = normalise(pixels[None], model.transform.mean, model.transform.std)
    with torch.no_grad():
        graphs = model.body(inputs, return_graphs=True)[1]
    layers = layers_of(replace(model.body.config, img_size=(height, width)), graphs)
    title = f"{model.name}, {args.checkpoint}, {args.image}"
    print(table(layers))
    save_picture(page_of(args, model, pixels, layers, torch.zeros(0), title), args.out or PICTURE)


def page_of(args: argparse.Namespace, model: nn.Module, image: Tensor, layers: list[Layer], scores: Tensor,
            title: str, memberships: list[Tensor] = ()) -> Image.Image:
    """Draw what the flags ask for. Raises ValueError for what this model or image does not have."""
    whole = layers[0].grid
    asked = [name for name in ("label", "partitions", "hyperedge", "node")
             if not (getattr(args, name) is None or getattr(args, name) is False)]
    if len(asked) > 1:
        raise ValueError(f"--{asked[0]} and --{asked[1]}: one picture shows one of them; leave the other out")
    if args.label is not None:
        if not (cross := [layer for layer in layers if layer.of_labels]):
            raise ValueError(f"--label: in {model.name}'s graphs no label is a node; choose one of GKGNet's, such"
                             " as gkgnet_nano")
        label = choose_label(args.label, model.classes)
        name = model.classes[label]
        truth = shows(args.image, model.config.img_size, name)
        said = {None: "", True: ", and the scene shows it", False: ", and the scene does not show it"}[truth]
        chosen = choose_layers(args.layers, cross, "cross levels")
        title += f"\nlabel {name}: score {scores[label]:.3f}{said}"
        return explore_groups(image, [(layer, label) for layer in chosen], whole, title)
    layers = [layer for layer in layers if not layer.of_labels]
    chosen = choose_layers(args.layers, layers)
    if args.partitions:
        return explore_partitions(image, chosen, title)
    if args.hyperedge is not None:
        count = memberships[0].shape[2] if memberships else 0
        if not 0 <= args.hyperedge < count:
            raise ValueError(f"--hyperedge {args.hyperedge}: " + (f"this model has 0 to {count - 1}" if count else
                             "this model has none; choose --graph hypergraph, or a model trained with it"))
        every = len(layers) // len(memberships)  # blocks that share a graph
        memberships = [memberships[layers.index(layer) // every] for layer in chosen]
        return explore_hyperedge(image, chosen, memberships, args.hyperedge, title)
    node = choose_node(args.node, whole)
    title += f"\ntarget: patch {node[0]},{node[1]} of {whole[0]} by {whole[1]}"
    if any(layer.scale > 1 for layer in layers):
        title += ", and where there are fewer, the one that covers it"
    drawing = explore_groups if isinstance(chosen[0].graph, GroupGraph) else explore
    return drawing(image, [(layer, node) for layer in chosen], whole, title)


def table(layers: list[Layer]) -> str:
    """Neighbours per target in every layer, as lines of text."""
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
