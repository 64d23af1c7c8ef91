"""`explore --run DIR`: how the graphs of a few images formed, from what `train.py --every N` kept."""

from pathlib import Path

import torch

from ...atomic_files import CheckpointError, load
from ...data.augment import normalise
from ...graphs.graph import Graph, GroupGraph
from ...models.clustervig import ClusterGraph
from ...models.registry import as_now, create_model
from ..explain import trace
from ..plot import read_run
from ..predict import Transform
from .build import fill, model_of, png, view_of

KEYS = ("name", "config", "classes", "multi_label", "epoch", "images", "mean", "std", "logits", "graphs", "taus")


def epochs_of(folder: str) -> str:
    """The page of a run: one view for each kept epoch and image. Raises ValueError for a folder that cannot be used."""
    files = sorted(Path(folder).glob("graphs-*.pt"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise ValueError(f"{folder}: no graphs were kept there; train with --every N, such as train.py --model"
                         " lrgc --every 1")
    data = {"models": [], "pictures": {}, "views": [], "epochs": []}
    for file in files:
        state = load(file)
        if missing := [key for key in KEYS if key not in state]:
            raise CheckpointError(f"{file}: not written by train.py --every, it has no {missing[0]!r}")
        if not data["epochs"]:  # the same model and images in all files
            model = create_model(state["name"], **as_now(state["name"], state["config"])).eval()
            model.name, model.classes, model.multi_label = state["name"], state["classes"], state["multi_label"]
            model.transform = Transform(model.config.img_size, mean=state["mean"], std=state["std"])
            names = [f"validation image {n}" for n in range(len(state["images"]))]
            data |= {"images": names, "title": f"{state['name']}: how its graph formed",
                     "pictures": {name: png(image) for name, image in zip(names, state["images"])}}
            # equations and shapes; the weights are random, so ranges are not shown
            _, _, values = trace(model, normalise(state["images"][:1], state["mean"], state["std"]))
        views = []
        for n, name in enumerate(names):
            graphs = [graph_of(kept, n) for kept in state["graphs"]]
            view = view_of(model.config, state["logits"][n], graphs, values, state["taus"]) | {"picture": name}
            for layer in view["layers"]:
                layer["diversity"] = None
            for step in view["steps"]:
                step["values"] = [value | {"low": None, "high": None} for value in step["values"]]
            views.append(view)
        data["views"].append(views)
        data["models"].append(model_of(model, f"epoch {state['epoch']}", graphs, state["taus"]))
        data["epochs"].append(state["epoch"])
    return fill(data | {"history": history(Path(folder))})


def graph_of(kept: dict, image: int) -> Graph:
    """One image's graph of a layer, from the batch that was kept."""
    only = {key: value[image:image + 1] for key, value in kept.items() if torch.is_tensor(value)}
    grouped = only.get("index", only.get("weights")).ndim == 4
    kind = GroupGraph if grouped else ClusterGraph if "labels" in only else Graph
    return kind(kept["num_sources"], **only)


def history(folder: Path) -> dict:
    """Mean neighbours by layer (LRGC Figure 5) and the score, over all epochs of metrics.csv."""
    rows = read_run(folder)
    score = next(name for name in ("val_top1", "val_mAP", "val_loss") if any(name in row for row in rows.values()))
    layers = sorted({int(name.rpartition("_")[2]) for row in rows.values() for name in row
                     if name.startswith("neighbours_")})
    return {"epochs": list(rows), "name": {"val_top1": "top-1 in %", "val_loss": "validation loss"}.get(score, "mAP"),
            "neighbours": [[row.get(f"neighbours_{layer}") for row in rows.values()] for layer in layers],
            "scores": [row.get(score) for row in rows.values()]}
