"""Measures of a finished run: its score, its cost, and what its graphs are like on validation images.

    measure      of all blocks, on up to 64 validation images
    degree       sources of a node, itself among them
    length       distance between the centres of target and source, in patches (in a pyramid, of the first stage)
    homophily    share of the edges into patches of an object that come from the same object; a patch is an object's
                 where half of its pixels are. Known for the synthetic scenes alone
    overlap      edges in both a block and the first block, as a share of the edges in either; later blocks, and only
                 those with as many nodes
    diversity    ‖X − mean of all patches‖ / ‖X‖ of the last features: 0 if all patches are alike

Edges from a node to itself count in the degree alone.
"""

import copy
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Subset

from ...data.augment import normalise
from ...data.datasets import Data
from ...data.loading import PreparedImages, loader, validation_order
from ...data.synthetic import compose, paint
from ...models.layers import to_nodes
from ...training.config import RunConfig
from ..benchmark.floor import costs
from ..explore_layers import Layer, layers_of
from ..plot import read_run
from ..predict import load

PROBE, AT_ONCE = 64, 8  # images whose graphs are measured, and how many of them at a time
BATCH, ROUNDS = 8, 5    # of timing
COSTS = ("parameters", "gmacs", "mb_kept", "eval_ms", "eval_ratio", "train_ms", "train_ratio")
SCORES = {"val_top1": "top-1 %", "val_mAP": "mAP %"}


def measure(run: Path, config: RunConfig, data: Data) -> dict[str, float | str]:
    """Return all that is known of a finished run of train.py. Raises ValueError for a run that is not whole."""
    rows = read_run(run)
    column = next(name for name in SCORES if name in rows[max(rows)])
    model = load(run / "last.pt")
    before, begun = waiting(), time.perf_counter()
    found = costs(copy.deepcopy(model), BATCH, ROUNDS, "cpu")  # of a copy: steps change batch norm's statistics
    waited = (waiting() - before) / (time.perf_counter() - begun) / torch.get_num_threads()
    return {"score_name": SCORES[column], "score": rows[max(rows)][column],
            "best": max(row[column] for epoch, row in rows.items() if epoch > 0 and column in row),
            "epochs": max(rows), **{name: found[name] for name in COSTS}, "waited": waited,
            **graphs(model, *probe(model, config, data))}


def waiting() -> float:
    """Return the seconds for which threads of this process waited for a core, as Linux counts them; 0 elsewhere."""
    return sum(int(path.read_text().split()[1]) for path in Path("/proc/self/task").glob("*/schedstat")) / 1e9


def probe(model: nn.Module, config: RunConfig, data: Data) -> tuple[Tensor, list[Tensor] | None]:
    """Return validation images (P, 3, H, W), evenly spread over all, and of synthetic scenes the masks of the objects
    in each, (n, H, W) bool."""
    numbers = range(0, len(data.val), -(-len(data.val) // PROBE))
    use = model.transform
    images = PreparedImages(Subset(data.val, numbers), use.size, use.eval_crop)
    batch, = loader(images, validation_order(len(numbers), PROBE), workers=0)
    images = normalise(batch.images, use.mean, use.std)
    if not config.data.startswith("shapes") or use.eval_crop < 1:
        return images, None
    masks, (height, width), unit = [], use.size, min(use.size)
    for number in numbers:
        scene = compose(number, "val", 0, (width / unit, height / unit))
        shown = scene if data.multi_label else scene._replace(items=scene.items[:1])
        masks.append(torch.from_numpy(paint(shown, height, width)[1]))
    return images, masks


@torch.no_grad()
def graphs(model: nn.Module, images: Tensor, masks: list[Tensor] | None) -> dict[str, float]:
    """Return the measures of graphs and features (top of this file); NaN where there is nothing to measure."""
    model.eval()
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in ("degree", "length", "homophily", "overlap")}
    diversity = []
    for start in range(0, len(images), AT_ONCE):
        some = images[start:start + AT_ONCE]
        made = model(some, return_graphs=True)[1]
        layers = [layer for layer in layers_of(model.config, made) if not layer.of_labels]
        first = _edges(layers[0])
        for layer in layers:
            edge, degree = _edges(layer), layer.graph.degree()
            sums["degree"] += torch.tensor([degree.sum(), degree.numel()])
            sums["length"] += torch.tensor([(edge * _distance(layer)).sum(), edge.sum()])
            if layer is not layers[0] and edge.shape == first.shape:
                sums["overlap"] += torch.tensor([(edge & first).sum(), (edge | first).sum()])
            if masks is not None:
                there, here = (torch.stack([_objects(mask, grid) for mask in masks[start:start + AT_ONCE]])
                               for grid in (layer.grid, layer.source_grid))  # (b, N), (b, M)
                of_object = edge & (there >= 0)[:, :, None]
                same = there[:, :, None] == here[:, None]
                sums["homophily"] += torch.tensor([(of_object & same).sum(), of_object.sum()])
        x = to_nodes(model.forward_features(some))  # (b, N, C)
        diversity.append((x - x.mean(1, keepdim=True)).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1))
    result = {name: float(part / whole) for name, (part, whole) in sums.items()}
    return result | {"diversity": float(torch.cat(diversity).mean())}


def _edges(layer: Layer) -> Tensor:
    """Return which edges there are, without those from a node to itself: (B, N, M) bool."""
    edge = layer.graph.union().adj() != 0
    if edge.shape[1] == edge.shape[2]:
        edge = edge & ~torch.eye(edge.shape[1], dtype=torch.bool)
    return edge


def _distance(layer: Layer) -> Tensor:
    """Return the distances between the centres of targets and sources, in patches of the first stage: (N, M)."""
    centres = [torch.cartesian_prod(*((torch.arange(side) + 0.5) * width for side in grid))
               for grid, width in ((layer.grid, layer.scale), (layer.source_grid, layer.scale * layer.pool))]
    return torch.cdist(*centres)


def _objects(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the object that covers at least half of each patch, or −1: masks (n, H, W) to (N,) int64."""
    share = F.adaptive_avg_pool2d(masks.float(), grid).flatten(1)  # (n, N)
    most, which = share.max(0)
    return torch.where(most >= 0.5, which, -1)
