"""Print every step of a model on one image: equation, symbol, shape, range of values, and the class that computes it.

A step is explained where it comes first; every layer then has its own values. Of LRGC, τ and the share of saturated
edges are printed too. i is a target and j a source. With the name of a model its weights are random, as at the start of
training; with neither a name nor a checkpoint a trained model of the package is taken.
"""

import html
import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..constructors import KNN, LRGC, Adaptive, Detail, GroupKNN, SimilarityThreshold
from ..data.augment import normalise
from ..graphs.distance import mean_node, squared_distance, unit
from ..graphs.graph import GroupGraph
from ..graphs.plain import plain
from ..models.adaptvig import AdaptConv, Attend
from ..models.clustervig import DEGC
from ..models.cnn2graph import CNN2Graph
from ..models.convs import Attention, MRConv
from ..models.gkgnet import GKGNet
from ..models.layers import Block
from ..trained_files import DEFAULT
from .command import Parser
from .predict import in_words, named, open_image, open_model, scene_view
from .steps import (
    ABOVE, ADAPT, ALPHA, ATTEND, ATTENTION, BACKBONE, BIPARTITE, BY_DETAIL, CENTROIDS, CHOSEN,
    CLASSIFIER, CPE, DISTANCE, DOWN, FEED, GATE, GROUPS, HEAD, LABELS, LOCAL, NEAR, NEAREST,
    OTHER_UPDATE, PARTS, RELATIVE, RESIDUAL, SCALED_FEED, SCALED_RESIDUAL, SCORE, SCORES,
    SIMILARITY, STEM, UPDATE, UPDATE_GLOBAL, W_IN, Step,
)

PACKAGE = Path(__file__).resolve().parents[1]


class Value(NamedTuple):
    """What one step gave in one layer."""

    step: Step
    layer: str    # "layer 0", "cross level 1", or nothing
    symbol: str
    tensor: Tensor
    where: str    # the file and class that compute it
    note: str = ""  # what else there is to know, after the range

    @property
    def shape(self) -> str:
        return " × ".join(str(side) for side in self.tensor.shape)

    @property
    def range(self) -> tuple[float, float]:
        return float(self.tensor.float().min()), float(self.tensor.float().max())


OWN_EDGES = {Adaptive: (GATE, "w"), Detail: (BY_DETAIL, "N(i)"), Attend: (ATTEND, "a")}
OWN_UPDATES = {Attention: ATTENTION, AdaptConv: ADAPT}


def graph_values(module: nn.Module, inputs: tuple, output, pyramid: bool = False) -> list[tuple[Step, str, Tensor]]:
    """What a constructor compared, and the adjacency that it made."""
    h, edges = inputs[0], (output if isinstance(output, GroupGraph) else output.union()).adj()
    if isinstance(module, LRGC):
        return [(SCORE, "α′", module.scores(h)), (ALPHA, "α", edges)]
    if isinstance(module, SimilarityThreshold):
        return [(SIMILARITY, "z", module.scores(h)), (ABOVE, "N(i)", edges)]
    if isinstance(module, GroupKNN) or pyramid and isinstance(module, KNN):
        return [(GROUPS if isinstance(module, GroupKNN) else NEAR, "N(i)", edges)]
    if type(module) is KNN and h.shape[1] == edges.shape[-1]:
        nodes = unit(h) - mean_node(unit(h))
        return [(DISTANCE, "d", squared_distance(nodes, nodes)), (NEAREST, "N(i)", edges)]
    step, symbol = OWN_EDGES.get(type(module), (CHOSEN, "N(i)"))
    return [(step, symbol, edges)]


SATURATED = 0.999  # σ of a score above which a higher score changes α no more


def saturated(alpha: Tensor, tau: float) -> float | None:
    """Return the share of LRGC's edges with σ(α′) > 0.999, where α is a switch between 0 and tanh(1 − σ(τ)); None
    without edges. alpha: of any shape, tanh(ReLU(σ(α′) − σ(τ)))."""
    edges = alpha[alpha > 0].double()
    return float((edges.atanh() + 1 / (1 + math.exp(-tau)) > SATURATED).double().mean()) if len(edges) else None


def note_of(module: nn.Module, step: Step, tensor: Tensor) -> str:
    """Return LRGC's τ and how much of the graph is saturated; nothing for other steps."""
    if step is not ALPHA:
        return ""
    tau = float(module.tau.detach())
    share = saturated(tensor, tau)
    edges = "no edge" if share is None else f"{100 * share:.1f} % of edges have σ(α′) > {SATURATED}"
    return f"τ = {tau:.3f}, σ(τ) = {1 / (1 + math.exp(-tau)):.3f}; {edges}"


def aggregate_values(module: nn.Module, inputs: tuple, output: Tensor) -> list[tuple[Step, str, Tensor]]:
    """m, which follows x in the interleaved input of the update, and the update."""
    if type(module) is not MRConv:
        return [(OWN_UPDATES.get(type(module), OTHER_UPDATE), "u", output)]
    read, every = vars(module).pop("read"), module.update[0].in_channels // inputs[0].shape[1]  # every: 2, or 3 with z′
    return [(RELATIVE, "m", read[:, 1::every]), (UPDATE_GLOBAL if every == 3 else UPDATE, "u", output)]


def partition_values(module: DEGC, inputs: tuple, output) -> list[tuple[Step, str, Tensor]]:
    graph = output[1]
    return [(PARTS, "V", graph.labels), (PARTS, "N(i)", graph.adj()), (CENTROIDS, "z", graph.centroids),
            (CENTROIDS, "α", graph.attention)]


def one(step: Step, symbol: str, scaled: Step | None = None) -> Callable:
    """What a module returns; of a tuple, the first. scaled: the step of a module with a layer scale."""
    return lambda module, inputs, output: [(scaled if scaled and hasattr(module, "scale") else step, symbol,
                                            output[0] if isinstance(output, tuple) else output)]


# a module's name -> what it gave; the first line that fits
RULES: tuple[tuple[str, Callable], ...] = (
    (r"stages\.[1-9]\.downsample", one(DOWN, "X")),
    (r"stages\.\d+\.local", one(LOCAL, "X")),
    (r".*\.cpe", one(CPE, "CPE")),
    (r".*grapher\.fc1|cross\.\d+\.fc1", one(W_IN, "x′")),
    (r"stages.*grapher\.constructor", partial(graph_values, pyramid=True)),
    (r".*grapher\.constructor|cross\.\d+\.constructor", graph_values),
    (r".*\.degc", partition_values),
    (r".*\.conv", aggregate_values),
    (r".*grapher", one(RESIDUAL, "y", SCALED_RESIDUAL)),
    (r"cross\.\d+", one(LABELS, "D")),
    (r"(blocks|stages)\..*\.ffn", one(FEED, "z", SCALED_FEED)),
    (r"backbone", one(BACKBONE, "X")),
    (r"aggregate|aggregation", one(BIPARTITE, "z")),
)


def trace(model: nn.Module, images: Tensor) -> tuple[Tensor, list, list[Value]]:
    """Run the model once: its logits, its graphs, and every step's value, in the order in which they are computed.

    images: (B, 3, H, W), normalised; the model must be in evaluation mode.
    """
    values, handles, layer = [], [], {}
    for name, module in model.named_modules():
        if isinstance(module, Block):
            layer[name] = f"layer {len(layer)}"

    def record(module: nn.Module, name: str, found: list[tuple[Step, str, Tensor]]) -> None:
        cross = re.match(r"cross\.(\d+)", name)
        inside = f"cross level {cross[1]}" if cross else next(
            (layer[block] for block in layer if name.startswith(block + ".")), "")
        made = [Value(step, inside, symbol, tensor, place(model, name), note_of(module, step, tensor))
                for step, symbol, tensor in found]
        # partitions are known when DEGC returns, and come before what is read along their edges
        at = next((n for n, value in enumerate(values) if isinstance(module, DEGC) and value.layer == inside
                   and value.step in (RELATIVE, UPDATE, UPDATE_GLOBAL)), len(values))
        values[at:at] = made

    for name, module in model.named_modules():
        rule = next((rule for pattern, rule in RULES if re.fullmatch(pattern, name)), None)
        if rule:
            handles.append(module.register_forward_hook(
                lambda m, i, o, name=name, rule=rule: record(m, name, rule(m, i, o))))
        if type(module) is MRConv:  # what its update reads
            handles.append(module.update.register_forward_pre_hook(
                lambda m, i, parent=module: setattr(parent, "read", i[0])))
        if re.fullmatch(r"(blocks|stages)\.0", name):
            handles.append(module.register_forward_pre_hook(
                lambda m, i: record(model.stem, "stem", [(STEM, "X", i[0])])))
    try:
        with torch.inference_mode():
            logits, graphs = model(images, return_graphs=True)
    finally:
        for handle in handles:
            handle.remove()
    head = SCORES if isinstance(model, GKGNet) else CLASSIFIER if isinstance(model, CNN2Graph) else HEAD
    record(model, "", [(head, "logits", logits)])
    return logits, graphs, values


def place(model: nn.Module, name: str) -> str:
    """The file and class of the module of that name or, where torch has written it, of the module around it."""
    module = model.get_submodule(name)
    if PACKAGE not in (file := Path(inspect.getfile(type(module)))).parents:
        return place(model, name.rpartition(".")[0])
    return f"{file.relative_to(PACKAGE.parent)} {type(module).__name__}"


def typeset(equation: str) -> str:
    """The equation as HTML: _x and _{…} below, ^x above, single letters in italics."""
    text = re.sub(r"(?<![A-Za-z'])([A-Za-zα-ωκ]̂?)(?![A-Za-z])", r"<i>\1</i>", html.escape(equation, quote=False))
    text = re.sub(r"_\{([^}]*)\}|_(<i>.</i>|[A-Za-z0-9])",
                  lambda m: f"<sub>{'<i>ij</i>' if m[1] == 'ij' else m[1] or m[2]}</sub>", text)
    return re.sub(r"\^(<i>.</i>|[A-Za-z0-9])", r"<sup>\1</sup>", text)


def table(values: list[Value]) -> str:
    """Return all values as text, layer by layer; a step is explained where it comes first."""
    lines, explained, layer = [], set(), ""
    for value in values:
        if value.layer != layer:
            layer = value.layer
            lines += ["", layer or value.step.title] if layer or value.step in explained else []
        if value.step not in explained:
            explained.add(value.step)
            lines += ["", f"{value.step.title}: " + re.sub(r"_\{([^}]*)\}", r"_\1", value.step.equation),
                      *wrap(value.step.says), f"    computed by {value.where}"]
        low, high = value.range
        figures = (f"{int(value.tensor.sum())} edges of {value.tensor.numel()}" if value.tensor.dtype == torch.bool else
                   f"from {low:.4g} to {high:.4g}")
        lines.append(f"    {value.step.short:13} {value.symbol:7} {value.shape:18} {figures}")
        lines += [f"{'':41}{value.note}"] if value.note else []
    return "\n".join(lines[1:])


def wrap(text: str, width: int = 100) -> list[str]:
    """The text in lines of at most that width, after four spaces."""
    return re.sub(rf"(.{{1,{width}}})(\s|$)", r"    \1\n", text).rstrip("\n").split("\n")


def main(argv: list[str] | None = None) -> None:
    """Run `python -m vig_minimal explain`."""
    parser = Parser("explain", __doc__, "lrgc_nano shapes:7")
    parser.add_argument("model", metavar="NAME", nargs="?", help="a name of list_models() (default: the checkpoint's)")
    parser.add_argument("image", nargs="?", help="a file, or shapes:INDEX for a synthetic scene (default shapes:7)")
    parser.add_argument("--checkpoint", metavar="PATH",
                        help=f"best.pt or last.pt of train.py, or a trained model's name (default: {DEFAULT})")
    args = parser.parse_args(argv)
    if args.image is None and args.model and (args.model.startswith("shapes:") or Path(args.model).suffix):
        args.model, args.image = None, args.model  # an image alone, of the checkpoint's model
    args.image, args.checkpoint = args.image or "shapes:7", args.checkpoint or (None if args.model else DEFAULT)
    with parser.errors_in_one_sentence():
        model = open_model(args.model, args.checkpoint)
        image = open_image(args.image, model.transform, scene_view(model))
        with plain():  # as the equations are written
            logits, _, values = trace(model, normalise(image[None], model.transform.mean, model.transform.std))
        way = ("image → stem → [ in → scores → edges → aggregation → update → FFN ] for each layer → head"
               if hasattr(model.config, "grid") else "image → backbone → classifier")
        print(f"{model.name}, {args.checkpoint or 'random weights'}, {args.image}: {way}\n\n{table(values)}")
        scores = logits[0].sigmoid() if model.multi_label else logits[0].softmax(0)
        print("\nhighest: " + in_words(named(model, scores, top=3, threshold=scores.sort().values[-3:][0])))


if __name__ == "__main__":
    main()
