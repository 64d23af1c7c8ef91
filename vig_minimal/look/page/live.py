"""The weights that a page runs: batch norms folded into the linear layers before them, rounded to float16."""

import base64
import copy

import torch
from torch import nn

from ...constructors import KNN, LRGC, SimilarityThreshold
from ...constructors.schedules import at, first_k
from ...models.vig import ViG, ViGConfig
from ..explain import ABOVE, ALPHA, DISTANCE, NEAREST, SCORE, SIMILARITY, Step, typeset

BLIND = Step("scores", "scores", "No scores", "–", "This graph compares no nodes: it is the same for every image.")


def control(equation: str, says: str) -> tuple[Step, Step]:
    """Return the steps of an image-independent graph."""
    return BLIND, Step("edges", "edges", "Image-independent edges", equation, says)


RANDOM = control("N(i) = i and k − 1 others, at random",
                 "A baseline: as many edges as k-NN, drawn independently of the image. A graph is worth what it gains "
                 "over this one.")
GRID = control("N(i) = {j : |row_j − row_i| ≤ 1, |column_j − column_i| ≤ 1}",
               "A baseline: the 3 × 3 patches around, as in a convolution.")
FULL = control("N(i) = all nodes", "A baseline: every node reads from all.")
NONE = control("N(i) = {i}", "A baseline: a node reads from itself only, so m is 0 and no information passes.")

# texts of the steps where the user has changed the graph: constructor -> key of the step -> the step
CHOICES = {name: {step.key: {"title": step.title, "equation": typeset(step.equation), "says": step.says,
                             "symbol": symbol, "where": f"vig_minimal/constructors/{file}"}
                  for step, symbol in zip(steps, symbols)}
           for name, file, steps, symbols in (
               ("lrgc", "lrgc.py LRGC", (SCORE, ALPHA), ("α′", "α")),
               ("knn", "knn.py KNN", (DISTANCE, NEAREST), ("d", "N(i)")),
               ("threshold", "similarity_threshold.py SimilarityThreshold", (SIMILARITY, ABOVE), ("z", "N(i)")),
               ("random", "controls.py Random", RANDOM, ("", "N(i)")),
               ("grid", "controls.py Surroundings", GRID, ("", "N(i)")),
               ("full", "controls.py Full", FULL, ("", "N(i)")), ("none", "controls.py Alone", NONE, ("", "N(i)")))}
LARGEST = 4_000_000  # parameters: 8 MB in the page, about a second for one image


def fold(model: ViG) -> ViG:
    """Return the network with W' = γ/√(σ² + ε) W, b' = γ/√(σ² + ε) (b − μ) + β in place of each batch norm, and with
    every number rounded to float16: exactly what the page computes with, in float32."""
    model = copy.deepcopy(model).double().eval()
    for parent in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for before, (name, norm) in zip(list(parent), list(parent.named_children())[1:]):
            if isinstance(norm, nn.BatchNorm2d):
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                before.weight.data *= scale[:, None, None, None]
                before.bias.data = (before.bias - norm.running_mean) * scale + norm.bias
                setattr(parent, name, nn.Identity())
    return model.half().float()


def live(model: ViG) -> dict:
    """What network.js needs to run the model: sizes, the settings of every block, and the weights in its order.

    Raises ValueError for a model that the page cannot run."""
    config = model.config
    if type(model) is not ViG or config.conv != "mr" or not isinstance(
            model.blocks[0].grapher.constructor, (KNN, LRGC, SimilarityThreshold)):
        raise ValueError(f"--live: the page runs ViG, SViG and LRGC with max-relative convolutions, not {model.name}"
                         " as it is here; leave --live out for a page of pictures")
    if (count := sum(p.numel() for p in model.parameters())) > LARGEST:
        raise ValueError(f"--live: {model.name} has {count:,} parameters, and a page can hold {LARGEST:,}; take a nano"
                         " model, or leave --live out for a page of pictures")
    folded = fold(model)
    convolutions = [m for m in folded.stem.modules() if isinstance(m, nn.Conv2d)]
    layers = [(c.weight.permute(0, 2, 3, 1), c.bias, 1) for c in convolutions]  # (out, 3, 3, in): as pixels lie
    layers.append((folded.position[0].permute(1, 2, 0), torch.zeros(0), 1))  # (H, W, C)
    for block in folded.blocks:
        grapher, constructor = block.grapher, block.grapher.constructor
        parts = {"fc1": grapher.fc1[0]}
        if isinstance(constructor, LRGC):
            parts |= {"key": constructor.key, "query": constructor.query}
        parts |= {"update": grapher.conv.update[0], "fc2": grapher.fc2[0], "ffn1": block.ffn.fc1[0],
                  "ffn2": block.ffn.fc2[0]}
        layers += [(m.weight, m.bias, getattr(m, "groups", 1)) for m in parts.values()]
    layers += [(m.weight, m.bias, 1) for m in folded.head if isinstance(m, nn.Conv2d)]
    numbers = torch.cat([part.detach().flatten() for weight, bias, _ in layers for part in (weight, bias)])
    return {
        "size": config.img_size, "grid": config.grid, "dim": config.dim, "depth": config.depth,
        "mean": model.transform.mean, "std": model.transform.std, "strides": [c.stride[0] for c in convolutions],
        "names": list(parts), "steps": CHOICES,
        "constructorName": {KNN: "knn", LRGC: "lrgc", SimilarityThreshold: "threshold"}[type(constructor)],
        "parts": [{"weight": w.numel(), "bias": b.numel(), "groups": groups} for w, b, groups in layers],
        "settings": [settings(block.grapher.constructor, config, l) for l, block in enumerate(folded.blocks)],
        "weights": base64.b64encode(numbers.half().numpy().astype("<f2").tobytes()).decode(),
    }


def settings(constructor: nn.Module, config: ViGConfig, seed: int) -> dict:
    """The settings of one block that the user may change. The other constructors start with these too."""
    name = {KNN: "knn", LRGC: "lrgc", SimilarityThreshold: "threshold"}[type(constructor)]
    return {"constructor": name, "tau": float(constructor.tau.detach()) if name == "lrgc" else -1.0,
            "k": at(getattr(constructor, "k", config.k or first_k), config.num_nodes),
            "dilation": at(getattr(constructor, "dilation", 1), config.num_nodes),
            "z": getattr(constructor, "z", 1.0), "seed": seed, "edges": {}}
