"""A self-contained page of graphs: what the models say of the images, put into page.html with its script and style.

A view is one model on one image: its logits, the adjacency of every layer, and the range of every step's values.
Adjacencies are kept in the form that is smallest: neighbour indices, bits, or one byte for each weight.
"""

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...data.augment import normalise
from ...data.synthetic import CLASSES, Shapes
from ..command import Opened, open_image
from ..explain import Value, trace, typeset
from ..explore_layers import Layer, layers_of
from ..panels import colours, picture
from .live import live

FILES = Path(__file__).parent
SCRIPTS = ("network.js", "graph.js", "picture.js", "tour.js", "page.js")
LARGEST = 64 * 2**20  # characters; browsers become slow long before they refuse a page


def text(array: np.ndarray) -> str:
    """The array's bytes as base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def packed(layer: Layer) -> dict:
    """The adjacency of one image: neighbour indices (G, N, k), bits, or bytes (N, M) whose 255 is the heaviest edge."""
    graph = layer.graph
    if graph.index is not None:
        kind = np.uint16 if graph.num_sources <= 2**16 else np.uint32
        index = graph.index[0].reshape(-1, *graph.index.shape[-2:])  # (G, N, k)
        return {"form": "index", "groups": len(index), "k": index.shape[2], "bytes": kind().itemsize,
                "data": text(index.numpy().astype(kind))}
    weights = graph.weights[0].float().numpy()  # (N, M)
    if graph.weights.dtype == torch.bool:
        return {"form": "bits", "groups": 1, "data": text(np.packbits(weights > 0))}
    heaviest = max(float(np.abs(weights).max()), 1e-12)
    return {"form": "bytes", "groups": 1, "heaviest": heaviest,
            "data": text(np.ceil(255 * np.abs(weights) / heaviest).astype(np.uint8))}  # an edge is at least 1


def diversity(features: Tensor) -> float:
    """‖X − mean‖ / ‖X‖ of the nodes (1, C, H, W): 0 where all nodes are the same, as in a network that smooths over."""
    nodes = features[0].flatten(1).double()  # (C, N)
    return float((nodes - nodes.mean(1, keepdim=True)).norm() / nodes.norm().clamp(min=1e-12))


def masks_of(source: str, size: tuple[int, int], grid: tuple[int, int], view: str) -> list[int] | None:
    """For each patch of a synthetic scene the shape that covers most of it, counted from 1, 0 for the ground; None for
    images whose masks are not known."""
    if not source.startswith("shapes:"):
        return None
    index = int(source.removeprefix("shapes:"))
    masks = Shapes(size, index + 1, "val", "boxes")[index][1]["masks"].float()  # (shapes, H, W)
    masks = masks[:1] if view == "single" else masks  # as in that view, the main shape alone is drawn
    share = F.adaptive_avg_pool2d(masks, grid).flatten(1)  # (shapes, N)
    return torch.where(share.amax(0) > 0.5, share.argmax(0) + 1, 0).tolist()


def steps_of(values: Sequence[Value]) -> list[dict]:
    """Every different step once, with the shape and range of its values by layer."""
    steps = {}
    for value in values:
        step = steps.setdefault((value.step.key, value.step.title), {
            "key": value.step.key, "short": value.step.short, "title": value.step.title, "equation": typeset(value.step.equation),
            "says": value.step.says, "where": value.where, "values": []})
        low, high = value.range
        step["values"].append({"layer": value.layer, "symbol": value.symbol, "shape": value.shape,
                               "low": float(f"{low:.4g}"), "high": float(f"{high:.4g}")})
    return list(steps.values())


def view_of(opened: Opened, image: Tensor, source: str) -> dict:
    """Everything that the page shows of one model on one uint8 image (3, H, W)."""
    config = opened.model.config
    logits, graphs, values = trace(opened.model, normalise(image[None], opened.mean, opened.std))
    layers = layers_of(config, graphs)
    ends = {value.layer: value.tensor for value in values if value.step.key == "ffn"}  # the last of a layer
    made = []
    for layer in layers:
        data = packed(layer) | {"diversity": diversity(ends[layer.name]) if layer.name in ends else None}
        if getattr(layer.graph, "labels", None) is not None:
            data |= {"labels": layer.graph.labels[0].tolist(),
                     "attention": layer.graph.attention[0].mean(-1).tolist()}  # (κ, κ), rows read from columns
        made.append(data)
    masks = masks_of(source, config.img_size, config.grid, "multi" if opened.multi_label else "single")
    return {"logits": [float(f"{value:.6g}") for value in logits[0]], "layers": made, "steps": steps_of(values),
            "masks": masks}


def model_of(opened: Opened, about: str, layers: Sequence[Layer], run: bool) -> dict:
    """What the page needs to know of a model, whatever the image."""
    config = opened.model.config
    taus = [float(module.tau.detach()) for module in opened.model.modules() if hasattr(module, "tau")]
    described = [{"name": layer.name, "grid": layer.grid, "pool": layer.pool, "scale": layer.scale,
                  "ofLabels": layer.of_labels, "targets": layer.graph.num_targets,
                  "sources": layer.graph.num_sources, "tau": taus[i] if i < len(taus) else None}
                 for i, layer in enumerate(layers)]
    return {"name": opened.name, "about": about, "classes": opened.classes, "multi": opened.multi_label,
            "size": config.img_size, "grid": config.grid, "layers": described, "live": live(opened) if run else None}


def png(image: Tensor, side: int = 0) -> str:
    """A uint8 image (3, H, W) as the address of a PNG inside the page."""
    file = io.BytesIO()
    picture(image, side).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def scenes(size: tuple[int, int], count: int, view: str) -> str:
    """The first `count` validation scenes, one below the other, as one PNG."""
    data = Shapes(size, count, "val", view)
    return png(torch.cat([data[i][0] for i in range(count)], 1))


def build(models: Sequence[tuple[Opened, str]], sources: Sequence[str], title: str, run: bool = False,
          num_scenes: int = 0, epochs: list | None = None, history: list | None = None, progress=lambda: None) -> str:
    """The page as HTML. models: each opened, with what to say about its weights. sources: images, as `open_image` takes
    them. run: the models are in the page and run there. epochs, history: of --run, the models' epochs and metrics.
    Raises ValueError for an image or model that cannot be shown, and for a page that would be too large."""
    data = {"title": title, "models": [], "images": list(sources), "pictures": {}, "views": [], "epochs": epochs,
            "history": history, "colours": colours(8)}
    for opened, about in models:
        config = opened.model.config
        if not hasattr(config, "grid"):
            raise ValueError(f"{opened.name} has no graph over patches: its nodes are images, anchors and proxies,"
                             " which python -m vig_minimal attention draws")
        view = "multi" if opened.multi_label else "single"
        views = []
        for source in sources:
            image = open_image(source, config.img_size, view)
            key = f"{source} {config.img_size} {view}"
            data["pictures"].setdefault(key, png(image))
            views.append(view_of(opened, image, source) | {"picture": key})
            progress()
        with torch.inference_mode():
            _, graphs = opened.model(torch.zeros(1, 3, *config.img_size), return_graphs=True)
        data["models"].append(model_of(opened, about, layers_of(config, graphs), run))
        data["views"].append(views)
        if run and opened.classes == list(CLASSES) and num_scenes:
            key = f"scenes {config.img_size} {view}"
            data["pictures"].setdefault(key, scenes(config.img_size, num_scenes, view))
            data["models"][-1]["scenes"] = {"picture": key, "count": num_scenes}
    page = fill(title, data)
    if len(page) > LARGEST:
        raise ValueError(f"--html: the page would have {len(page) / 2**20:.0f} MB, and browsers take {LARGEST >> 20}"
                         " well; take fewer or smaller images, or fewer models")
    return page


def fill(title: str, data: dict) -> str:
    """page.html with the data, the scripts and the style inside; nothing of them can end a <script> early."""
    inside = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"TITLE": html.escape(title), "STYLE": (FILES / "page.css").read_text(encoding="utf-8"), "DATA": inside}
    parts["NETWORK"], *rest = [(FILES / name).read_text(encoding="utf-8") for name in SCRIPTS]
    parts["SCRIPTS"] = "\n".join(rest)
    page = (FILES / "page.html").read_text(encoding="utf-8")
    for name, value in parts.items():
        page = page.replace(f"<!--{name}-->", value)
    return page
