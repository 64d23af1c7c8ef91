"""`python -m vig_minimal explain`: what it shows is what the model computes, and each step names its real place."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from helpers import ADAPTVIG, FAMILIES, TINY
from reference import vig as oracle
from vig_minimal import create_model
from vig_minimal.constructors import KNN, LRGC, SimilarityThreshold
from vig_minimal.constructors.schedules import at
from vig_minimal.data.synthetic import Shapes
from vig_minimal.look import explain
from vig_minimal.look.page.build import steps_of
from vig_minimal.look.predict import open_model
from vig_minimal.models.layers import to_nodes

ROOT = Path(__file__).resolve().parents[2]
PYRAMID = {"img_size": 16, "dim": (8, 16), "depth": (1, 2), "pool": (2, 1), "num_classes": 5}
SMALL = {"img_size": 16, "num_classes": 5}
MODELS = {**dict.fromkeys((*FAMILIES, "cvig_nano"), TINY), "pvig_nano": PYRAMID, "gkgnet_nano": PYRAMID,
          "adaptvig_nano": ADAPTVIG | {"depth": (1, 2)},
          "resnet_nano": SMALL, "cnn2mean_nano": SMALL, "cnn2gnn_nano": SMALL, "cnn2transformer_nano": SMALL}


def model_of(name: str, **fields):
    model = create_model(name, **MODELS[name] | fields).double().eval()
    if hasattr(model, "store_anchors") and model.aggregate is not None:
        model.store_anchors(torch.randn(5, 3, 16, 16, dtype=torch.float64))
    for block in model.blocks:
        if hasattr(query := getattr(getattr(getattr(block, "grapher", None), "constructor", None), "query", None),
                   "weight"):
            torch.nn.init.normal_(query.weight, std=0.5)  # at first all scores are 0
    return model


def traced(model) -> dict[tuple[str, str, str], explain.Value]:
    """Every value of one image, by step, layer and symbol; later stages of the same name replace earlier ones."""
    values = explain.trace(model, torch.randn(1, 3, 16, 16, dtype=torch.float64))[2]
    return {(value.step.key, value.layer, value.symbol): value for value in values}


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_graphs_are_the_models_and_nothing_stays_behind(name):
    model, images = model_of(name), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    logits, graphs, values = explain.trace(model, images)
    expected, made = model(images, return_graphs=True)
    assert torch.equal(logits, expected) and torch.equal(values[-1].tensor, expected)
    assert all(torch.equal(ours.adj(), theirs.adj()) for ours, theirs in zip(graphs, made, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks or "read" in vars(module)
                   for module in model.modules())
    layers = {value.layer for value in values} - {""}
    assert len(layers) == (len(graphs) if hasattr(model.config, "grid") else 0)


@pytest.mark.parametrize("name", MODELS)
def test_every_step_names_a_class_that_is_there(name):
    for value in explain.trace(model_of(name), torch.randn(1, 3, 16, 16, dtype=torch.float64))[2]:
        path, cls = value.where.split()
        defined = {node.name for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
                   if isinstance(node, ast.ClassDef)}
        assert cls in defined, value.where


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_the_values_obey_the_equations_beside_them(name):
    model = model_of(name)
    value, before = {key: found.tensor for key, found in traced(model).items()}, None
    for l, block in enumerate(model.blocks):
        layer, grapher = f"layer {l}", block.grapher
        h, m, u, y, z = (value[key, layer, symbol] for key, symbol in (
            ("in", "x′"), ("aggregate", "m"), ("update", "u"), ("update", "y"), ("ffn", "z")))
        adj = value["edges", layer, "α" if name == "lrgc_nano" else "N(i)"]
        x = value["stem", "", "X"] if before is None else before
        torch.testing.assert_close(h, grapher.fc1(x))
        torch.testing.assert_close(to_nodes(m)[0], oracle.max_relative(to_nodes(h)[0], to_nodes(h)[0], adj[0]))
        torch.testing.assert_close(y, grapher.fc2(u) + x)
        torch.testing.assert_close(z, block.ffn(y))
        before = z
        if name == "lrgc_nano":
            score, tau = value["scores", layer, "α′"], grapher.constructor.tau
            torch.testing.assert_close(adj, torch.tanh(F.relu(torch.sigmoid(score) - torch.sigmoid(tau))))
            assert score.std() > 0.1
        if name == "svig_nano":
            assert torch.equal(adj, value["scores", layer, "z"] > grapher.constructor.z)
        if name == "vig_nano":
            order = value["scores", layer, "d"][0].argsort(1)[:, :at(grapher.constructor.k, 16)]
            assert torch.equal(adj[0].nonzero()[:, 1].view(order.shape), order.sort(1).values)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5])
@torch.no_grad()
def test_what_is_compared_is_what_the_constructor_compares_also_among_nearly_equal_nodes(spread):
    h = torch.randn(1, 1, 8) + spread * torch.randn(1, 12, 8)  # in float32; what is expected, in float64
    x = F.normalize(h.double(), dim=-1)
    d = (x[:, :, None] - x[:, None]).square().sum(-1)
    threshold, lrgc, knn = SimilarityThreshold(0.7), LRGC(8), KNN(3)
    torch.nn.init.normal_(lrgc.query.weight)
    score = F.linear(h.double(), lrgc.query.weight.double()) @ F.linear(h.double(), lrgc.key.weight.double()).mT
    for module, expected, edge in (
            (threshold, (d.mean() - d) / d.std(), lambda z: z > threshold.z),
            (lrgc, score, lambda score: torch.tanh(F.relu(torch.sigmoid(score) - torch.sigmoid(lrgc.tau)))),
            (knn, d, lambda d: torch.zeros_like(d).scatter(2, d.argsort(-1)[..., :3], 1).bool())):
        (_, _, compared), (_, _, edges) = explain.graph_values(module, (h,), module(h))
        torch.testing.assert_close(compared.double(), expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
        torch.testing.assert_close(edges, edge(compared))
        assert module is knn or torch.equal(compared, module.scores(h))


def test_an_image_of_one_colour_has_no_scores_and_its_page_is_json_all_the_same():
    h, module = torch.ones(1, 9, 4), SimilarityThreshold(0.7)
    values = [explain.Value(step, "layer 0", symbol, tensor, "file class")
              for step, symbol, tensor in explain.graph_values(module, (h,), module(h))]
    assert values[0].range == (-torch.inf, -torch.inf) and not values[1].tensor.any()
    steps = json.loads(json.dumps(steps_of(values), allow_nan=False))
    assert [steps[0]["values"][0][end] for end in ("low", "high")] == [None, None]
    assert "from -inf to -inf" in explain.table(values)


def test_clustervig_shows_its_partitions_before_what_is_read_along_their_edges():
    values = explain.trace(model_of("cvig_nano"), torch.randn(1, 3, 16, 16, dtype=torch.float64))[2]
    symbols = [value.symbol for value in values if value.layer == "layer 0"]
    assert symbols == ["CPE", "x′", "V", "N(i)", "z", "α", "m", "u", "y", "z"]
    h, adj, m = (next(value.tensor for value in values if value.symbol == symbol) for symbol in ("x′", "N(i)", "m"))
    torch.testing.assert_close(to_nodes(m)[0], oracle.max_relative(to_nodes(h)[0], to_nodes(h)[0], adj[0]))
    assert "z′_i" in next(value.step.equation for value in values if value.symbol == "u")


def test_adaptvig_shows_local_blocks_gates_and_attention():
    values = explain.trace(model_of("adaptvig_nano"), torch.randn(1, 3, 16, 16, dtype=torch.float64))[2]
    steps = [value.step for value in values if value.step.key != "in"]
    assert steps == [explain.STEM, explain.LOCAL, explain.GATE, explain.ADAPT, explain.SCALED_RESIDUAL,
                     explain.SCALED_FEED, explain.DOWN, explain.LOCAL,
                     *[explain.ATTEND, explain.ADAPT, explain.SCALED_RESIDUAL, explain.SCALED_FEED] * 2, explain.HEAD]


def test_attention_is_told_and_a_block_that_builds_no_graph_has_no_edges_of_its_own():
    values = traced(model_of("vig_nano", conv="attention", graph_every=2))
    assert values["update", "layer 0", "u"].step is explain.ATTENTION
    assert ("edges", "layer 0", "N(i)") in values and ("edges", "layer 1", "N(i)") not in values


def test_another_convolution_and_another_head_are_not_called_vigs():
    assert ("aggregate", "layer 0", "m") not in (edge := traced(model_of("vig_nano", conv="edge")))
    assert edge["update", "layer 0", "u"].step is explain.OTHER_UPDATE
    heads = {name: traced(model_of(name))["head", "", "logits"].step for name in MODELS}
    assert {name for name, step in heads.items() if step is explain.HEAD} == {
        *FAMILIES, "cvig_nano", "pvig_nano", "adaptvig_nano"}
    assert {name for name, step in heads.items() if step is explain.SCORES} == {"gkgnet_nano"}


@pytest.mark.parametrize("name, graph, step", [
    ("vig_nano", "knn", "NEAREST"), ("vig_nano", "group_knn", "GROUPS"), ("vig_nano", "window_knn", "CHOSEN"),
    ("vig_nano", "adaptive", "GATE"), ("vig_nano", "detail", "BY_DETAIL"),
    ("pvig_nano", "knn", "NEAR"), ("gkgnet_nano", "group_knn", "GROUPS")])
def test_edges_are_explained_as_they_are_chosen(name, graph, step):
    """A pyramid adds relative places to the distances, so it is not said to choose by distances alone."""
    values = explain.trace(model_of(name, graph=graph), torch.randn(1, 3, 16, 16, dtype=torch.float64))[2]
    assert {value.step for value in values if value.step.key == "edges"} == {getattr(explain, step)}
    assert any(value.step is explain.DISTANCE for value in values) == (step == "NEAREST")


@pytest.mark.parametrize("equation, expected", [
    ("α′_{ij} = x_i", "<i>α</i>′<sub><i>ij</i></sub> = <i>x</i><sub><i>i</i></sub>"),
    ("max_j W_{in}", "max<sub><i>j</i></sub> <i>W</i><sub>in</sub>"),
    ("{j : z_{ij} > 1}", "{<i>j</i> : <i>z</i><sub><i>ij</i></sub> &gt; 1}"),
    ("i's own", "<i>i</i>'s own")])
def test_equations_as_html(equation, expected):
    assert explain.typeset(equation) == expected


def test_what_it_prints(capsys):
    explain.main(["svig_nano", "shapes:3"])
    out = capsys.readouterr().out
    assert out.startswith("svig_nano, random weights, shapes:3: image → stem → [ in → scores → edges")
    assert "Edges: similarity above a threshold: N(i) = {j : z_ij > Φ⁻¹(q)}" in out
    assert "computed by vig_minimal/constructors/similarity_threshold.py SimilarityThreshold" in out
    assert " edges of 4096\n" in out
    assert out.splitlines()[-1].startswith("highest: ") and max(map(len, out.splitlines())) < 140


def sections(out: str) -> dict[str, list[str]]:
    """The first word or words of every row of values, by the heading of its layer."""
    found, heading = {}, ""
    for line in out.splitlines():
        if re.fullmatch(r"layer \d+|Next stage|cross level \d+", line):
            heading = line
        elif re.match(r"    .{13} .{7} \d+ ×", line):
            found.setdefault(heading, []).append(line[4:17].strip())
    return found


def test_every_part_of_every_layer_has_its_own_name(capsys):
    explain.main(["lrgc_nano", "shapes:3"])
    found = sections(capsys.readouterr().out)
    parts = ["W_in", "scores", "α", "max-relative", "update", "W_out", "FFN"]
    assert found == {"": ["stem"], **{f"layer {l}": parts for l in range(5)}, "layer 5": [*parts, "head"]}


def test_a_stage_begins_under_its_own_heading(capsys):
    explain.main(["gkgnet_nano", "shapes:3"])
    found = sections(capsys.readouterr().out)
    assert {"layer 4", "cross level 3", "Next stage"} <= set(found) and found["Next stage"] == ["next stage"] * 2
    assert found["layer 1"] == ["W_in", "k nearest", "max-relative", "update", "W_out", "FFN"]


@torch.no_grad()
def test_lrgc_prints_tau_and_how_many_edges_are_saturated(capsys):
    explain.main(["shapes:3"])  # of the package's lrgc_nano, trained
    out = capsys.readouterr().out
    found = re.findall(r"τ = (-?[\d.]+), σ\(τ\) = ([\d.]+); ([\d.]+) % of edges have σ\(α′\) > 0.999", out)
    model = open_model(None, "lrgc_nano-cifar10")
    values = explain.trace(model, model.transform(Shapes(32, 4, "val")[3][0])[None])[2]
    for (tau, sigma, share), block, score in zip(found, model.blocks, [v.tensor for v in values if v.symbol == "α′"],
                                                 strict=True):
        assert float(tau) == pytest.approx(block.grapher.constructor.tau.item(), abs=6e-4)
        assert float(sigma) == pytest.approx(torch.sigmoid(torch.tensor(float(tau))).item(), abs=1e-3)
        edges = score[score > block.grapher.constructor.tau].double()
        assert float(share) == pytest.approx(100 * (edges.sigmoid() > 0.999).double().mean().item(), abs=0.3)
    assert min(float(share) for _, _, share in found) > 80  # LRGC in practice: most edges are saturated


def test_saturated_edges_are_counted_by_alpha_alone():
    score, tau = torch.tensor([-3.0, 0.5, 2.0, 6.8, 7.0, 300.0]).double(), 0.0
    alpha = torch.tanh(F.relu(torch.sigmoid(score) - 0.5))
    assert explain.saturated(alpha, tau) == pytest.approx(2 / 5)  # σ(6.8) = 0.9989, σ(7) = 0.9991
    assert explain.saturated(torch.zeros(3), tau) is None
    assert explain.note_of(LRGC(4), explain.ALPHA, torch.zeros(1, 2, 2)).endswith("; no edge")


def test_an_image_alone_is_shown_to_a_trained_model(capsys):
    explain.main(["shapes:3"])
    assert capsys.readouterr().out.startswith("lrgc_nano, lrgc_nano-cifar10, shapes:3: ")


@pytest.mark.slow
def test_who_reads_the_first_lines_alone_ends_it_quietly():
    command = [sys.executable, "-m", "vig_minimal", "explain", "vig_nano"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 141


@pytest.mark.parametrize("argv, says", [
    (["vit"], "unknown model 'vit'"), (["photo.jpg"], "photo.jpg: no such image"),
    (["vig_nano", "shapes:10000000000000"], "the number of a scene, 0 to 999999"),
    (["vig_nano", "nothing.jpg"], "nothing.jpg: no such image"),
    (["vig_nano", "shapes:x"], "the number of a scene"), (["--checkpoint", "none.pt"], "none.pt"),
    (["cnn2gnn_nano"], "has no anchors yet")])
def test_bad_input_is_one_sentence(argv, says, capsys):
    with pytest.raises(SystemExit) as end:
        explain.main(argv)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1 and says in err
