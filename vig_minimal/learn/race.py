"""Train the same small network with several graphs and print one table: the end of lesson 12."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.synthetic import Shapes
from ..graphs.graph import Graph
from ..models.registry import create_model

RIVALS = ("none", "random", "knn")
FIELDS = {"img_size": 32, "patch": 4, "dim": 48, "depth": 4}
BATCH, RATE = 50, 2e-3


class Own(nn.Module):
    """A constructor that calls a function of nodes and grid, such as `my_graph`."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def forward(self, nodes: Tensor, grid: tuple[int, int]) -> Graph:
        return Graph(nodes.shape[1], weights=self.function(nodes, tuple(grid)))


def network(graph: str | Callable) -> nn.Module:
    """Build a small ViG with that graph, a name or a function; the initial weights are always the same."""
    torch.manual_seed(0)
    model = create_model("vig_nano", **FIELDS, graph="none" if callable(graph) else graph)
    if callable(graph):
        for block in model.blocks:
            block.grapher.constructor = Own(graph)
    return model


def scenes(count: int, split: str) -> tuple[Tensor, Tensor]:
    """Return images (count, 3, 32, 32) from −1 to 1, and labels."""
    pairs = [scene for scene in map(Shapes(FIELDS["img_size"], count, split).__getitem__, range(count))]
    return torch.stack([image for image, _ in pairs]).float() / 127.5 - 1, torch.tensor([label for _, label in pairs])


def race(own: Callable, images: int = 2000, epochs: int = 3, tests: int = 1000) -> dict[str, float]:
    """Train with `own` and its rivals, print the table, and return the accuracies."""
    train, test = scenes(images, "train"), scenes(tests, "val")
    print(f"{images} scenes, {epochs} epochs, {tests} other scenes to test; chance is 10 %\n")
    print("graph    top-1   sources of a node   seconds")
    results = {}
    for name, graph in [*((name, name) for name in RIVALS), ("yours", own)]:
        begun, model = time.perf_counter(), network(graph)
        fit(model, *train, epochs)
        results[name], degree = score(model, *test)
        seconds = time.perf_counter() - begun
        print(f"{name:8} {100 * results[name]:5.1f} % {degree:13.1f} {seconds:16.0f}", flush=True)
    return results


def fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with AdamW and one cycle of the learning rate, with the same order of images for every network."""
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(2, steps))
    order = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=order).split(BATCH):
            if len(batch) < BATCH:
                continue
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def score(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the accuracy, and the mean number of sources of a node over all blocks."""
    model.eval()
    right, degrees = 0, []
    for part, truth in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        logits, graphs = model(part, return_graphs=True)
        right += int((logits.argmax(1) == truth).sum())
        degrees += [graph.degree().double().mean().item() for graph in graphs]
    return right / len(images), sum(degrees) / len(degrees)
