"""lrgc.py: ViG-LRGC's Eqs. 2 to 5 against loops over all pairs; the graph starts fully connected.

Eq. 1 (the FFN) is in test_layers.py, the maximum of Eq. 5 over graphs of every form in test_aggregate.py.
"""

import math

import pytest
import torch
from torch import nn

from helpers import as_nodes, assert_same, dense_of, image_by_image, nodes, randomise, script
from reference.vig import grapher, lrgc_attention, lrgc_max, lrgc_score, lrgc_soft_threshold
from vig_minimal import Graph, create_model
from vig_minimal.constructors import LRGC
from vig_minimal.data.synthetic import Shapes
from vig_minimal.graphs.aggregate import max_relative
from vig_minimal.models.vig import Grapher

BATCH, NODES, DIM = 2, 5, 3


def trained(dim: int = DIM) -> LRGC:
    """An LRGC constructor with random parameters; about half of its scores are below tau."""
    constructor = LRGC(dim).double()
    for parameter in constructor.parameters():
        nn.init.normal_(parameter, std=0.5)
    return constructor


def of(constructor: LRGC) -> list[torch.Tensor]:
    """The parameters of keys and queries, in the order in which the oracles take them."""
    return [constructor.key.weight, constructor.key.bias, constructor.query.weight, constructor.query.bias]


@pytest.mark.equation("lrgc", 2)
def test_score_is_the_key_of_the_source_times_the_query_of_the_target():
    # tau = -inf makes sigma(tau) = 0, so that alpha = tanh(sigma(score)) can be solved for the score
    constructor, h = trained(), nodes(BATCH, NODES, DIM)
    with torch.no_grad():
        constructor.tau.fill_(-torch.inf)
    score = torch.logit(torch.atanh(constructor(h).adj()))  # [target, source]
    expected = image_by_image(lambda one: lrgc_score(one, *of(constructor)).T, h)  # the paper's are [source, target]
    assert not torch.allclose(expected, expected.mT), "these scores cannot tell a source from a target"
    assert_same(score, expected, [h, *of(constructor)], rtol=1e-8, atol=1e-8)


@pytest.mark.equation("lrgc", 3)
@pytest.mark.parametrize("tau", [-1.0, 0.0, 1.5])
def test_soft_threshold_of_given_scores(tau):
    # One-hot nodes, identity queries: key . query is then an entry of W_key, so that any scores can be given.
    score = (2 * torch.randn(NODES, NODES, dtype=torch.float64)).requires_grad_()  # alpha', [source, target]
    threshold = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    constructor = LRGC(NODES).double()
    one_hot = torch.eye(NODES, dtype=torch.float64)
    numbers = {"key.weight": score.T, "key.bias": torch.zeros_like(score[0]), "query.weight": one_hot,
               "query.bias": torch.zeros_like(score[0]), "tau": threshold}
    alpha = torch.func.functional_call(constructor, numbers, one_hot[None]).adj()[0]
    expected = lrgc_soft_threshold(score, threshold)
    assert 0 < (expected == 0).sum() < NODES * NODES, "some edges must be cut, and some kept"
    assert_same(alpha, expected.T, [score, threshold])


@pytest.mark.equation("lrgc", 3)
def test_a_score_equal_to_tau_draws_no_edge():
    constructor = LRGC(DIM).double()  # its queries start at 0: every score is 0
    h = nodes(1, NODES, DIM)
    with torch.no_grad():
        for tau, degree in ((-1e-9, NODES), (0.0, 0), (1e-9, 0)):
            constructor.tau.fill_(tau)
            graph = constructor(h)
            assert torch.all(graph.degree() == degree) and torch.all(graph.adj() >= 0)


@pytest.mark.equation("lrgc", 4)
def test_attention_of_a_trained_constructor():
    constructor, h = trained(), nodes(BATCH, NODES, DIM)
    adj = constructor(h).adj()
    expected = image_by_image(lambda one: lrgc_attention(one, *of(constructor), constructor.tau).T, h)
    assert 0 < (expected == 0).sum() < expected.numel()
    assert not torch.equal(expected != 0, (expected != 0).mT), "the graph must be directed"
    assert_same(adj, expected, [h, *of(constructor), constructor.tau])


@pytest.mark.equation("lrgc", 5)
def test_message_is_the_maximum_over_the_neighbourhood():
    # The paper's alpha is [source, target]; the package stores it at [target, source]
    constructor, x = trained(), nodes(BATCH, NODES, DIM)
    graph = constructor(x)
    expected = image_by_image(lambda one: lrgc_max(one, lrgc_attention(one, *of(constructor), constructor.tau)), x)
    assert_same(max_relative(x, graph), expected, [x, *of(constructor), constructor.tau])


@pytest.mark.equation("lrgc", 5)
def test_updated_grapher():
    dim = 8
    module = randomise(Grapher(dim, LRGC(dim)))
    constructor = module.constructor
    for parameter in constructor.parameters():
        nn.init.normal_(parameter, std=0.2)
    image = nodes(BATCH, dim, 2, 3)
    w_in, w_update, w_out = dense_of(module.fc1), dense_of(module.conv.update), dense_of(module.fc2)
    assert w_update.groups == 4, "W_update has 4 heads"

    def attention(inner):  # inner: x', the output of W_in (Figure 4)
        return lrgc_attention(inner, *of(constructor), constructor.tau).T

    out, graph = module(image)
    expected = image_by_image(lambda one: grapher(one, w_in, w_update, w_out, attention), as_nodes(image))
    assert 0 < (graph.adj() == 0).sum() < graph.adj().numel()
    assert_same(as_nodes(out), expected, [image, *module.parameters()])


@pytest.mark.equation("lrgc", 5)
def test_a_node_without_edges_is_updated_from_itself():
    module = randomise(Grapher(8, LRGC(8)))
    with torch.no_grad():
        module.constructor.tau.fill_(100.0)  # sigma(100) = 1 in float64: above every score
    image = nodes(1, 8, 2, 2)
    out, graph = module(image)
    assert torch.all(graph.degree() == 0) and torch.isfinite(out).all()
    gradient, = torch.autograd.grad(out[0, :, 0, 0].sum(), image)
    assert torch.any(gradient[0, :, 0, 0] != 0)
    assert torch.count_nonzero(gradient) == torch.count_nonzero(gradient[0, :, 0, 0])


# ------------------------------------------------------------------------------------------------------------ the start


def test_tau_starts_at_minus_1_in_every_block():
    for name in ("lrgc_nano", "lrgc_ti"):
        model = create_model(name)
        taus = [block.grapher.constructor.tau for block in model.blocks]
        assert len(taus) == model.config.depth and len(set(map(id, taus))) == model.config.depth
        assert all(tau.item() == -1 and tau.ndim == 0 and tau.requires_grad for tau in taus)


def scenes() -> torch.Tensor:
    return torch.stack([Shapes(size=64, count=4)[i][0] for i in range(4)]).float() / 127.5 - 1


IMAGES = {"scenes": scenes, "noise": lambda: torch.randn(4, 3, 64, 64),
          "bright noise": lambda: 50 + 100 * torch.randn(4, 3, 64, 64), "black": lambda: torch.zeros(4, 3, 64, 64)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", IMAGES)
def test_the_graph_starts_fully_connected_in_every_layer(kind, training):
    # Figure 5: the mean number of neighbours is N before training, whatever batch norm has seen so far
    model = create_model("lrgc_nano").train(training)
    with torch.no_grad():
        _, graphs = model(IMAGES[kind](), return_graphs=True)
    assert len(graphs) == 6
    assert [graph.degree().double().mean().item() for graph in graphs] == [64.0] * 6


@pytest.mark.parametrize("dim, size", [(16, 64), (96, 32), (192, 32), (640, 16)])
def test_every_score_starts_between_minus_1_and_1_at_every_width_and_size(dim, size):
    # tau starts at -1; with W_key of N(0, 1/D) and W_query of N(0, 0.004^2) scores lie beyond 1 in all of these
    model = create_model("lrgc_nano", dim=dim, depth=2, img_size=size, patch=4).train()
    images = nn.functional.interpolate(scenes(), (size, size))
    with torch.no_grad():
        _, graphs = model(images, return_graphs=True)
    for graph in graphs:
        score = torch.logit(torch.atanh(graph.adj()) + 1 / (1 + math.e))  # alpha = tanh(sigma(score) - sigma(-1))
        assert graph.adj().min() > 0 and score.abs().max() < 1


def test_keys_start_with_a_spread_of_1_over_d():
    for dim in (64, 192):
        weight = LRGC(dim).key.weight
        assert weight.std().item() == pytest.approx(1 / dim, rel=0.05) and abs(weight.mean().item()) < 0.1 / dim


def test_the_first_steps_teach_keys_queries_and_tau():
    model = create_model("lrgc_nano", dim=16, depth=2, img_size=32).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if "constructor" in name}
    for _ in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    for name, parameter in model.named_parameters():
        if name in before and not name.endswith("key.bias"):  # a key's bias learns only once queries have grown
            assert not torch.equal(parameter, before[name]), name


def test_raising_tau_prunes_edges_and_lowering_it_draws_them_all():
    constructor, h = trained(), nodes(BATCH, NODES, DIM)
    degrees = []
    with torch.no_grad():
        for tau in (-20.0, -0.5, 0.5, 20.0):
            constructor.tau.fill_(tau)
            degrees.append(constructor(h).degree().double().mean().item())
    assert degrees == sorted(degrees, reverse=True)
    assert degrees[0] == NODES and degrees[-1] == 0 and degrees[0] > degrees[1] > degrees[2] > degrees[3]


def test_training_prunes_a_graph_that_starts_complete():
    # LRGC Figure 5 in small: on the synthetic scenes, a few steps cut edges in every layer
    images, labels = (torch.stack(parts) for parts in zip(*((image / 255, torch.tensor(label))
                                                            for image, label in Shapes(32, 40))))
    model = create_model("lrgc_nano", dim=16, depth=2, img_size=32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def mean_neighbours() -> list[float]:
        with torch.no_grad():
            return [graph.degree().double().mean().item() for graph in model(images, return_graphs=True)[1]]

    assert mean_neighbours() == [16.0, 16.0]
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    assert all(neighbours < 16 for neighbours in mean_neighbours())


# ---- the variants of docs/compare/lrgc_variants.py -----------------------------------------------------------------


@pytest.fixture
def variants(monkeypatch):
    """The script's module, with the places that its `main` changes put back afterwards, and without training."""
    module = script("docs/compare/lrgc_variants.py")
    monkeypatch.setitem(module.CONSTRUCTORS, "lrgc", module.CONSTRUCTORS["lrgc"])
    monkeypatch.setattr(module.convs, "max_relative", module.convs.max_relative)
    monkeypatch.setattr(module.engine, "rate_scales", module.engine.rate_scales)
    monkeypatch.setattr(module.train, "main", lambda argv: None)
    return module


def test_starts_of_variants_change_nothing_else(variants):
    def weights(variant):
        if variant:
            variants.main([variant])
        torch.manual_seed(0)
        return create_model("vig_nano", graph="lrgc", dim=16, depth=2).state_dict()

    plain = weights(None)
    for variant, own in (("small", {"query.weight"}), ("both", {"query.weight", "key.weight"}), ("scaled", set())):
        new = weights(variant)
        changed = {name for name in plain if not torch.equal(plain[name], new[name])}
        assert changed == {f"blocks.{l}.grapher.constructor.{name}" for l in range(2) for name in own}
    assert new.keys() == plain.keys()


def test_scaled_messages_have_full_size_at_the_start(variants):
    torch.testing.assert_close(variants.constructor("scaled", 8)(torch.randn(2, 5, 8)).weights, torch.ones(2, 5, 5))


def test_tau_alone_has_another_rate(variants):
    model = create_model("vig_nano", graph="lrgc", dim=16, depth=2)
    variants.main(["fast_tau"])
    scales = variants.engine.rate_scales(model, 1.0)
    assert {name for name, scale in scales.items() if scale != 1} == {
        f"blocks.{l}.grapher.constructor.tau" for l in range(2)}
    assert set(scales.values()) == {1, 10}


def test_the_maximum_over_selected_edges_is_that_of_a_loop(variants):
    x, alpha = torch.randn(2, 5, 3), torch.rand(2, 5, 5) * (torch.rand(2, 5, 5) < 0.5)
    alpha[0, 1] = 0
    found = variants.over_selected(x, Graph(5, weights=alpha))
    for b in range(2):
        for i in range(5):
            messages = [alpha[b, i, j] * (x[b, j] - x[b, i]) for j in range(5) if alpha[b, i, j] > 0]
            expected = torch.stack(messages).amax(0) if messages else torch.zeros(3)
            torch.testing.assert_close(found[b, i], expected)
