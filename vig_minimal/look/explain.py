"""Walk through a model on one image, step by step: equation, symbol, shape, range, and the class that computes it.

The values are those of one forward pass. Below, i is a target and j a source. With the name of a model its weights are
random, as at the start of training; with neither a name nor a checkpoint a trained model of the package is taken.
"""

import html
import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..constructors import KNN, LRGC, GroupKNN, SimilarityThreshold
from ..data.augment import normalise
from ..graphs.distance import mean_node, squared_distance, unit
from ..graphs.graph import GroupGraph
from ..graphs.plain import plain
from ..models.clustervig import DEGC
from ..models.cnn2graph import CNN2Graph
from ..models.convs import MRConv
from ..models.gkgnet import GKGNet
from ..models.layers import Block
from ..trained_files import DEFAULT
from .command import Parser
from .predict import in_words, named, open_image, open_model

PACKAGE = Path(__file__).resolve().parents[1]


class Step(NamedTuple):
    """One step of a model: what is computed, as an equation, and why, in a sentence or two."""

    key: str       # the step's place in `image → stem → … → head`
    short: str     # its name there
    title: str
    equation: str  # x_i is x with the index i; α′_{ij} has two
    says: str


class Value(NamedTuple):
    """What one step gave in one layer."""

    step: Step
    layer: str    # "layer 0", "cross level 1", or nothing
    symbol: str
    tensor: Tensor
    where: str    # the file and class that compute it

    @property
    def shape(self) -> str:
        return " × ".join(str(side) for side in self.tensor.shape)

    @property
    def range(self) -> tuple[float, float]:
        return float(self.tensor.float().min()), float(self.tensor.float().max())


STEM = Step("stem", "stem", "Stem", "X = stem(image) + P",
            "Convolutions turn every patch of the image into C numbers. P, the learnt position embedding, tells "
            "patches apart by their place. From here on a patch is a node.")
DOWN = Step("stem", "next stage", "Next stage", "X = conv(X)",
            "A convolution of stride 2 halves the grid: a patch now covers twice the height and width.")
CPE = Step("in", "CPE", "Place from the surroundings", "X = CPE(X) + X",
           "A 7 × 7 convolution of every channel by itself tells a node where it is.")
W_IN = Step("in", "W_in", "Linear layer in", "x′_i = x_i W_{in}",
            "The same linear layer on every node. The graph is made from x′, so that a block can choose by other "
            "features than those it passes on.")
SCORE = Step("scores", "scores", "Scores",
             "α′_{ij} = key(x′_j) · query(x′_i)   (LRGC Eq. 2)",
             "How much node i asks for node j, for all pairs of nodes. Keys and queries are learnt; before training "
             "the queries are 0, and every score with them. (The paper prints i for the source.)")
ALPHA = Step("edges", "α", "Edges: α",
             "α_{ij} = tanh(ReLU(σ(α′_{ij}) − σ(τ)))   (LRGC Eqs. 3, 4)",
             "An edge where the score is above τ, which is learnt too: one number a layer, −1 before training, when "
             "every node reads from all. α, the edge's weight, grows with the score, so the loss teaches the graph.")
DISTANCE = Step("scores", "distances", "Distances",
                "d_{ij} = ‖x̂_i − x̂_j‖²,   x̂ = x′ / ‖x′‖",
                "How different the directions of two nodes' features are, for all pairs of nodes.")
NEAREST = Step("edges", "k nearest", "Edges: k nearest",
               "N(i) = every d-th of the k·d sources with the least d_{ij}",
               "Every node reads from its k nearest, whether they matter or not. Its own distance is 0, so it is one "
               "of the k. The choice carries no gradient: nothing teaches the graph.")
NEAR = Step("edges", "k nearest", "Edges: k nearest sources",
            "N(i) = every d-th of the k·d sources with the least ‖x̂_i − ŷ_j‖² + P_{ij}",
            "In the first stages of a pyramid a source y is the mean of r × r nodes. P depends on the places of both.")
GROUPS = Step("edges", "k nearest", "Edges: k nearest in each group",
              "N_g(i) = every d-th of the k·d sources with the least ‖x̂_{ig} − ŷ_{jg}‖²",
              "Every group g of channels has neighbours of its own. Between patches of a pyramid, P_{ij} is added.")
SIMILARITY = Step("scores", "similarities", "Similarities",
                  "z_{ij} = (s_{ij} − mean(s)) / std(s),   s_{ij} = −‖x̂_i − x̂_j‖²",
                  "How similar two nodes are, compared with all pairs of this image.")
ABOVE = Step("edges", "edges", "Edges: the similar ones", "N(i) = {j : z_{ij} > Φ⁻¹(q)}",
             "An edge wherever the similarity is above a threshold, so the number of neighbours follows the image. q "
             "is fixed and falls over the layers.")
CHOSEN = Step("edges", "edges", "Edges", "N(i) = constructor(x′)",
              "The constructor says which nodes every node reads from; in a hypergraph, through which hyperedges.")
PARTS = Step("edges", "partitions", "Partitions and edges",
             "V¹, …, V^κ = k-means(x′);   N(i) = K nearest in i's own partition",
             "Nodes are partitioned by their features; a node reads from its nearest in its own partition alone.")
CENTROIDS = Step("global", "centroids", "Attention between centroids",
                 "z′_i = Σ_j α_{ji} LIN_L(z_j)   (ClusterViG Eqs. 2, 3)",
                 "z, the mean of a partition, reads from the means of all partitions; every node then reads from its "
                 "partition's z′.")
RELATIVE = Step("aggregate", "max-relative", "Max-relative",
                "m_i = max_j α_{ij} (x′_j − x′_i)",
                "For each channel, m_i is the largest weighted difference between a source and node i; the source that "
                "gives it wins. In LRGC the maximum runs over all j, and an edge that is not selected counts as 0. In "
                "other graphs α is 1 and the maximum runs over the edges alone; m_i is 0 for a node without edges.")
UPDATE = Step("update", "update", "Update", "u_i = GELU([x′_i, m_i] W_{update})",
              "A linear layer of 4 heads mixes what a node is with what it has read. A head sees the same slice of "
              "both.")
UPDATE_GLOBAL = Step("update", "update", "Update",
                     "u_i = GELU([x′_i, m_i, z′_i] W_{update})",
                     "A linear layer mixes what a node is, what it has read, and the z′ of its partition.")
RESIDUAL = Step("update", "W_out", "Linear layer out, residual", "y_i = u_i W_{out} + x_i",
                "Back to C numbers, added to what the block began with.")
FEED = Step("ffn", "FFN", "FFN",
            "z_i = GELU(y_i W_1) W_2 + y_i   (LRGC Eq. 1)",
            "Two linear layers on every node by itself; no node reads from another here. The next layer makes a new "
            "graph from z.")
HEAD = Step("head", "head", "Head", "logits = GELU(mean_i(z_i) W_3) W_4",
            "The mean of all nodes, then two linear layers: one number a class.")
OTHER_UPDATE = Step("update", "update", "Aggregation and update",
                    "u_i = conv(x′_i, {x′_j : j ∈ N(i)})",
                    "Another graph convolution than ViG's: EdgeConv, GraphSAGE or GIN.")
SCORES = Step("head", "head", "Head",
              "logit_l = w_l · D_l + b_l + (mean_i(z_i) W + b)_l   (GKGNet Eq. 3, before σ)",
              "Every label is scored by its own node, and by the mean of all patches.")
CLASSIFIER = Step("head", "head", "Head", "logits = z W + b",
                  "A linear layer: one number a class.")
LABELS = Step("head", "labels", "Cross level: labels read from patches",
              "D_l ← FFN(D_l + Grapher(D_l, patches))",
              "Every label is a node, and reads from the patches nearest to it.")
BACKBONE = Step("stem", "backbone", "Backbone", "X = φ(images)",
                "A ResNet turns every image into one node.")
BIPARTITE = Step("aggregate", "bipartite", "Anchors and proxies", "z_i = ω(x_i, Σ_j α_{ij} v_j)",
                 "An image reads from anchors, images of known classes, and from proxies, which are learnt.")


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
    return [(CHOSEN, "N(i)", edges)]


def aggregate_values(module: nn.Module, inputs: tuple, output: Tensor) -> list[tuple[Step, str, Tensor]]:
    """m, which follows x in the interleaved input of the update, and the update."""
    if type(module) is not MRConv:
        return [(OTHER_UPDATE, "u", output)]
    read, every = vars(module).pop("read"), module.update[0].in_channels // inputs[0].shape[1]  # every: 2, or 3 with z′
    return [(RELATIVE, "m", read[:, 1::every]), (UPDATE_GLOBAL if every == 3 else UPDATE, "u", output)]


def partition_values(module: DEGC, inputs: tuple, output) -> list[tuple[Step, str, Tensor]]:
    graph = output[1]
    return [(PARTS, "V", graph.labels), (PARTS, "N(i)", graph.adj()), (CENTROIDS, "z", graph.centroids),
            (CENTROIDS, "α", graph.attention)]


def one(step: Step, symbol: str) -> Callable:
    """What a module returns; of a tuple, the first."""
    return lambda module, inputs, output: [(step, symbol, output[0] if isinstance(output, tuple) else output)]


# a module's name -> what it gave; the first line that fits
RULES: tuple[tuple[str, Callable], ...] = (
    (r"stages\.[1-9]\.downsample", one(DOWN, "X")),
    (r".*\.cpe", one(CPE, "CPE")),
    (r".*grapher\.fc1|cross\.\d+\.fc1", one(W_IN, "x′")),
    (r"stages.*grapher\.constructor", partial(graph_values, pyramid=True)),
    (r".*grapher\.constructor|cross\.\d+\.constructor", graph_values),
    (r".*\.degc", partition_values),
    (r".*\.conv", aggregate_values),
    (r".*grapher", one(RESIDUAL, "y")),
    (r"cross\.\d+", one(LABELS, "D")),
    (r"(blocks|stages)\..*\.ffn", one(FEED, "z")),
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
        made = [Value(step, inside, symbol, tensor, place(model, name)) for step, symbol, tensor in found]
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
    """All steps as text: those of the first layer in full, those of the others as one line each."""
    lines, explained = [], set()
    for value in values:
        low, high = value.range
        if value.step not in explained:
            explained.add(value.step)
            lines += ["", f"{value.step.title}: " + re.sub(r"_\{([^}]*)\}", r"_\1", value.step.equation),
                      *wrap(value.step.says), f"    computed by {value.where}"]
        if value.tensor.dtype == torch.bool:
            figures = f"{int(value.tensor.sum())} edges of {value.tensor.numel()}"
        else:
            figures = f"from {low:.4g} to {high:.4g}"
        lines.append(f"    {value.layer:13} {value.symbol:7} {value.shape:18} {figures}")
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
        image = open_image(args.image, model.transform, "multi" if model.multi_label else "single")
        with plain():  # as the equations are written
            logits, _, values = trace(model, normalise(image[None], model.transform.mean, model.transform.std))
        way = ("image → stem → [ in → scores → edges → aggregation → update → FFN ] for each layer → head"
               if hasattr(model.config, "grid") else "image → backbone → classifier")
        print(f"{model.name}, {args.checkpoint or 'random weights'}, {args.image}: {way}\n\n{table(values)}")
        scores = logits[0].sigmoid() if model.multi_label else logits[0].softmax(0)
        print("\nhighest: " + in_words(named(model, scores, top=3, threshold=scores.sort().values[-3:][0])))


if __name__ == "__main__":
    main()
