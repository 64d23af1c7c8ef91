"""A self-contained page of graphs: page.html with its scripts and style, and the models' outputs for the images.

A view is one model on one image: its logits, the adjacency of every layer, and the range of every step's values.
Adjacencies are kept in the form that is smallest: neighbour indices, bits, or one byte for each weight.
"""

import base64
import html
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...constructors import LRGC
from ...data.augment import normalise
from ...data.loading import centre_crop
from ...data.synthetic import CLASSES, Shapes
from ...graphs.graph import Graph, GroupGraph
from ..explain import Value, saturated, trace, typeset
from ..explore_layers import Layer, attentions, layers_of
from ..panels import colours, picture
from ..predict import Transform, open_image, open_scene, scene_view
from .live import live

FILES = Path(__file__).parent
SCRIPTS = ("network.js", "graph.js", "picture.js", "tour.js", "write.js", "page.js")
LARGEST = 64 * 2**20  # characters of data, beyond which browsers are slow


def text(array: np.ndarray) -> str:
    """The array's bytes as base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def packed(layer: Layer) -> dict:
    """The adjacency of one image: neighbour indices (G, N, k), bits, or bytes (N, M) whose 255 is the heaviest edge."""
    graph = layer.graph if isinstance(layer.graph, GroupGraph) else layer.graph.union()
    if graph.index is not None and graph.weights is None:
        kind = np.uint16 if graph.num_sources <= 2**16 else np.uint32
        index = graph.index[0].reshape(-1, *graph.index.shape[-2:])  # (G, N, k)
        return {"form": "index", "groups": len(index), "k": index.shape[2], "bytes": kind().itemsize,
                "data": text(index.numpy().astype(kind))}
    weights = graph.adj()[0].float().numpy()  # (N, M)
    if graph.weights.dtype == torch.bool:
        return {"form": "bits", "groups": 1, "data": text(np.packbits(weights > 0))}
    heaviest = max(float(np.abs(weights).max()), 1e-12)
    return {"form": "bytes", "groups": 1, "heaviest": heaviest,
            "data": text(np.ceil(255 * np.abs(weights) / heaviest).astype(np.uint8))}  # an edge is at least 1


def diversity(features: Tensor) -> float:
    """‖X − mean‖ / ‖X‖ of the nodes (1, C, H, W): 0 where all nodes are the same, as in a network that smooths over."""
    nodes = features[0].flatten(1).double()  # (C, N)
    return float((nodes - nodes.mean(1, keepdim=True)).norm() / nodes.norm().clamp(min=1e-12))


def masks_of(source: str, transform: Transform, grid: tuple[int, int], view: str) -> list[int] | None:
    """For each patch of a synthetic scene the shape that covers at least half of it, counted from 1, 0 for the ground;
    None for images whose masks are not known."""
    if not source.startswith("shapes:"):
        return None
    masks = open_scene(source, transform.size, "boxes")[1]["masks"].float()  # (shapes, H, W)
    masks = centre_crop(masks, transform.size, transform.eval_crop)
    masks = masks[:1] if view == "single" else masks  # as in that view, the main shape alone is drawn
    share = F.adaptive_avg_pool2d(masks, grid).flatten(1)  # (shapes, N)
    return torch.where(share.amax(0) >= 0.5, share.argmax(0) + 1, 0).tolist()


def finite(number: float) -> float | None:
    """Four digits of a number; None for one that JSON does not have."""
    return float(f"{number:.4g}") if math.isfinite(number) else None


def steps_of(values: Sequence[Value]) -> list[dict]:
    """Every different step once, with the shape and range of its values by layer."""
    steps = {}
    for value in values:
        step = steps.setdefault((value.step.key, value.step.title), {
            "key": value.step.key, "short": value.step.short, "title": value.step.title, "says": value.step.says,
            "equation": typeset(value.step.equation), "where": value.where, "values": []})
        low, high = value.range  # without an end where z is −∞, in an image of one colour
        step["values"].append({"layer": value.layer, "symbol": value.symbol, "shape": value.shape,
                               "low": finite(low), "high": finite(high)})
    return list(steps.values())


def view_of(config: object, logits: Tensor, graphs: Sequence[Graph], values: Sequence[Value], taus: Sequence[float],
            masks: list[int] | None = None) -> dict:
    """Return all that the page shows of one model on one image: its logits (classes,), graphs and steps. taus: of
    `taus_of`."""
    ends = {value.layer: value.tensor for value in values if value.step.key == "ffn"}  # the last of a layer
    made = []
    for i, layer in enumerate(layers_of(config, graphs)):
        data = packed(layer) | {"diversity": diversity(ends[layer.name]) if layer.name in ends else None}
        data["saturated"] = saturated(layer.graph.adj(), taus[i]) if i < len(taus) else None
        if getattr(layer.graph, "labels", None) is not None:
            data["labels"] = layer.graph.labels[0].tolist()
        made.append(data)
    return {"logits": [float(f"{value:.6g}") for value in logits], "layers": made, "steps": steps_of(values),
            "masks": masks}


def model_of(model: nn.Module, about: str, graphs: Sequence[Graph], taus: Sequence[float], run: bool = False) -> dict:
    """Return what the page needs of a model, whatever the image. about: its weights. taus: LRGC's, one per layer."""
    config = model.config
    layers = [{"name": layer.name, "grid": layer.grid, "pool": layer.pool, "scale": layer.scale,
               "ofLabels": layer.of_labels, "targets": layer.graph.num_targets, "sources": math.prod(layer.source_grid),
               "tau": taus[i] if i < len(taus) else None} for i, layer in enumerate(layers_of(config, graphs))]
    return {"name": model.name, "about": about, "classes": model.classes, "multi": model.multi_label,
            "size": config.img_size, "crop": model.transform.eval_crop, "grid": config.grid, "layers": layers,
            "live": live(model) if run else None}


def taus_of(model: nn.Module) -> list[float]:
    """LRGC's τ of every layer; nothing for other models."""
    return [float(module.tau.detach()) for module in model.modules() if isinstance(module, LRGC)]


def png(image: Tensor, side: int = 0) -> str:
    """A uint8 image (3, H, W) as the address of a PNG inside the page."""
    file = io.BytesIO()
    picture(image, side).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def scenes(size: tuple[int, int], count: int, view: str) -> str:
    """The first `count` validation scenes, one below the other, as one PNG."""
    data = Shapes(size, count, "val", view)
    return png(torch.cat([data[i][0] for i in range(count)], 1))


def build(models: Sequence[tuple[nn.Module, str]], sources: Sequence[str], title: str, run: bool = False,
          num_scenes: int = 0, progress: Callable[[], None] = lambda: None) -> str:
    """The page as HTML. models: from `open_model`, with a note on their weights. sources: images, as
    `open_image` takes them. run: the models are in the page and run there, on `num_scenes` synthetic scenes too.
    progress: called after every view. Raises ValueError for an image or model that cannot be shown, and for a page that
    would be too large."""
    data = {"title": title, "models": [], "images": list(sources), "pictures": {}, "views": [], "epochs": None,
            "history": None}
    for model, about in models:
        config, taus = model.config, taus_of(model)
        if not hasattr(config, "grid"):
            raise ValueError(f"{model.name} has no graph over patches: its nodes are images, anchors and proxies,"
                             " which python -m vig_minimal attention draws")
        view, views, transform = scene_view(model), [], model.transform
        for source in sources:
            image = open_image(source, transform, view)
            with attentions(model) as attention:
                logits, graphs, values = trace(model, normalise(image[None], transform.mean, transform.std))
            graphs = [layer.graph for layer in layers_of(config, graphs, attention)]
            key = f"{source} {config.img_size} {transform.eval_crop} {view}"
            data["pictures"].setdefault(key, png(image))
            masks = masks_of(source, transform, config.grid, view)
            views.append(view_of(config, logits[0], graphs, values, taus, masks) | {"picture": key})
            progress()
        data["models"].append(model_of(model, about, graphs, taus, run))
        data["views"].append(views)
        if num_scenes and model.classes == list(CLASSES):
            key = f"scenes {config.img_size} {view}"
            data["pictures"].setdefault(key, scenes(config.img_size, num_scenes, view))
            masks = [masks_of(f"shapes:{i}", transform, config.grid, view) for i in range(num_scenes)]
            labels = [open_scene(f"shapes:{i}", config.img_size, "single")[1] for i in range(num_scenes)]
            data["models"][-1]["scenes"] = {"picture": key, "labels": labels, "masks": masks}
    return fill(data)


def fill(data: dict) -> str:
    """page.html with the data, the scripts and the style inside; nothing of the data can end its <script> early. Raises
    ValueError for more than browsers take well."""
    inside = json.dumps(data | {"colours": colours(8)}, separators=(",", ":")).replace("<", "\\u003c")
    if len(inside) > LARGEST:
        raise ValueError(f"--html: the page would have {len(inside) / 2**20:.0f} MB, and browsers take"
                         f" {LARGEST >> 20} well; take fewer or smaller images, or fewer models")
    page, style, network, *scripts = [(FILES / name).read_text(encoding="utf-8")
                                      for name in ("page.html", "page.css", *SCRIPTS)]
    parts = {"TITLE": html.escape(data["title"]), "STYLE": style, "DATA": inside, "NETWORK": network,
             "SCRIPTS": "\n".join(scripts)}
    for name, value in parts.items():
        page = page.replace(f"<!--{name}-->", value)
    return page
