"""Triplet, contrastive and classification losses of CNN2GNN, Eqs. 8 to 17, against loops over triplets and pairs."""

import pytest
import torch
import torch.nn.functional as F

from helpers import assert_same, nodes
from reference import cnn2graph as oracle
from vig_minimal.models.cnn2graph import Output
from vig_minimal.training.distributed import Processes
from vig_minimal.training.losses import bipartite_losses, classification_losses, contrastive_loss, triplet_loss
from vig_minimal.training.tasks import BipartiteTask

DIM, ONE = 4, Processes(torch.device("cpu"))
# three different counts, so that no two sets can be mistaken for each other
X, X_LABELS = 7, torch.tensor([0, 2, 1, 1, 2, 2, 0])
L, L_LABELS = 3, torch.tensor([0, 1, 2])
P, P_LABELS = 6, torch.tensor([0, 0, 1, 1, 2, 2])


def unit(count):
    x = nodes(count, DIM)
    return x, F.normalize(x, dim=-1)


@pytest.mark.equation("cnn2graph", 8)
@pytest.mark.parametrize("margin", [0.0, 0.2, 3.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_triplets_over_three_sets(margin, reduction):
    s, g, n = nodes(L, DIM), nodes(P, DIM), nodes(X, DIM)
    found = oracle.triplets(s, L_LABELS, g, P_LABELS, n, X_LABELS, margin)
    assert len(found) == sum(2 * (X_LABELS != label).sum().item() for label in L_LABELS)
    loss = triplet_loss(s, L_LABELS, g, P_LABELS, n, X_LABELS, margin, reduction)
    expected = {"mean": sum(found) / len(found), "sum": sum(found), "none": torch.stack(found)}[reduction]
    if reduction == "none":
        assert_same(loss.sort().values, expected.sort().values, [s, g, n])
    else:
        assert_same(loss, expected, [s, g, n])


@pytest.mark.equation("cnn2graph", 9)
@pytest.mark.equation("cnn2graph", 10)
@pytest.mark.parametrize("margin", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_pairs_of_one_class_are_pulled_and_of_two_are_pushed(margin, reduction):
    x = nodes(P, DIM)
    found = oracle.pairs(x, P_LABELS, margin)
    expected = {"mean": oracle.mean(found), "sum": sum(found), "none": torch.stack(found)}[reduction]
    assert_same(contrastive_loss(x, P_LABELS, margin, reduction), expected, [x])
    near, far = torch.zeros(2, DIM), torch.tensor([[0.0] * DIM, [9.0] * DIM])
    two, one = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert contrastive_loss(near, two, 1.0) == 0.5 and contrastive_loss(near, one) == 0
    assert contrastive_loss(far, two, 1.0) == 0 and contrastive_loss(far, one) > 100


def sets():
    (x, x_unit), (anchors, l_unit), (proxies, p_unit) = unit(X), unit(L), unit(P)
    return [x, anchors, proxies], (x_unit, X_LABELS), (l_unit, L_LABELS), (p_unit, P_LABELS)


@pytest.mark.parametrize("name, of, index", [
    pytest.param("anchor_triplet", "LXX", 0, marks=pytest.mark.equation("cnn2graph", 11)),
    pytest.param("proxy_triplet", "PXX", 1, marks=pytest.mark.equation("cnn2graph", 12)),
    pytest.param("anchor_proxy_triplet", "LPP", 2, marks=pytest.mark.equation("cnn2graph", 13)),
])
def test_each_triplet_loss_takes_its_sets(name, of, index):
    leaves, images, anchors, proxies = sets()
    by_name = {"X": images, "L": anchors, "P": proxies}
    found = oracle.triplets(*by_name[of[0]], *by_name[of[1]], *by_name[of[2]], 0.2)
    used = [leaf for leaf, letter in zip(leaves, "XLP") if letter in of]
    assert_same(bipartite_losses(*images, *anchors, *proxies)[name], oracle.mean(found), used)


@pytest.mark.equation("cnn2graph", 11)
@pytest.mark.equation("cnn2graph", 12)
@pytest.mark.equation("cnn2graph", 13)
@pytest.mark.equation("cnn2graph", 14)
@pytest.mark.equation("cnn2graph", 15)
def test_the_four_terms_and_their_sum():
    leaves, images, anchors, proxies = sets()
    terms = bipartite_losses(*images, *anchors, *proxies)
    assert list(terms) == ["anchor_triplet", "proxy_triplet", "anchor_proxy_triplet", "proxy_contrastive"]
    pulled = oracle.mean(oracle.pairs(*proxies, 1.0))
    assert_same(terms["proxy_contrastive"], pulled, leaves[2:])
    expected = [oracle.mean(oracle.triplets(*a, *b, *b, 0.2)) for a, b in
                ((anchors, images), (proxies, images), (anchors, proxies))]
    assert_same(sum(terms.values()), sum(expected) + pulled, leaves)


def output(weight=None):
    """The leaf tensors, and the model output in training that depends on them."""
    leaves, (x, _), (anchors, l_labels), (proxies, p_labels) = sets()
    weight = nodes(DIM, 3) if weight is None else weight
    logits = [part @ weight for part in leaves]
    return [*leaves, weight], Output(*logits, x, anchors, proxies, l_labels, p_labels)


@pytest.mark.equation("cnn2graph", 16)
def test_classification_of_images_anchors_and_proxies():
    leaves, out = output()
    losses = classification_losses(out.logits, X_LABELS, out.anchor_logits, L_LABELS, out.proxy_logits, P_LABELS)
    expected = [oracle.cross_entropy(*pair) for pair in
                ((out.logits, X_LABELS), (out.anchor_logits, L_LABELS), (out.proxy_logits, P_LABELS))]
    assert_same(torch.stack(list(losses.values())), torch.stack(expected), leaves)


@pytest.mark.parametrize("eps", [0.1, 0.4])
def test_classification_smooths_the_labels_of_all_three(eps):
    """(1 − ε) of the label's −log p, and ε of the mean over all classes."""
    leaves, out = output()
    losses = classification_losses(out.logits, X_LABELS, out.anchor_logits, L_LABELS, out.proxy_logits, P_LABELS, eps)
    expected = []
    for logits, labels in ((out.logits, X_LABELS), (out.anchor_logits, L_LABELS), (out.proxy_logits, P_LABELS)):
        log_p = logits.log_softmax(1)
        expected.append(sum(-(1 - eps) * log_p[i, y] - eps * log_p[i].mean() for i, y in enumerate(labels.tolist()))
                        / len(labels))
    assert_same(torch.stack(list(losses.values())), torch.stack(expected), leaves)


@pytest.mark.equation("cnn2graph", 17)
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_whole_loss_is_the_sum_of_its_named_terms(weight):
    leaves, out = output()
    losses = BipartiteTask(None, 0.0, weight, ONE).losses(out, X_LABELS, None)
    assert tuple(losses) == ("images", "anchors", "proxies", "anchor_triplet", "proxy_triplet", "anchor_proxy_triplet",
                             "proxy_contrastive")
    ce = sum(oracle.cross_entropy(*pair) for pair in
             ((out.logits, X_LABELS), (out.anchor_logits, L_LABELS), (out.proxy_logits, P_LABELS)))
    x, anchors, proxies = (out.x, X_LABELS), (out.anchors, L_LABELS), (out.proxies, P_LABELS)
    terms = [oracle.mean(oracle.triplets(*a, *b, *b, 0.2)) for a, b in ((anchors, x), (proxies, x), (anchors, proxies))]
    expected = ce + weight * (sum(terms) + oracle.mean(oracle.pairs(*proxies, 1.0)))
    assert_same(sum(losses.values()), expected, leaves)


# ---- edge cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source, positive, negative", [
    ([0, 1], [2, 2], [0, 1]),  # no positive of a source's class
    ([0, 0], [0, 0], [0, 0]),  # no negative
    ([0], [], [1]),
])
def test_without_a_valid_triplet_there_is_no_loss_and_no_gradient(source, positive, negative):
    s, g, n = (nodes(len(labels), DIM) for labels in (source, positive, negative))
    labels = [torch.tensor(values, dtype=torch.int64) for values in (source, positive, negative)]
    loss = triplet_loss(s, labels[0], g, labels[1], n, labels[2])
    gradients = torch.autograd.grad(loss, [s, g, n], allow_unused=True)
    assert loss == 0 and all(gradient is None or (gradient == 0).all() for gradient in gradients)


def test_a_source_without_positives_contributes_nothing():
    s, g, n = nodes(2, DIM), nodes(3, DIM), nodes(2, DIM)
    with_it = triplet_loss(s, torch.tensor([0, 5]), g, torch.tensor([0, 0, 1]), n, torch.tensor([1, 2]))
    without = triplet_loss(s[:1], torch.tensor([0]), g, torch.tensor([0, 0, 1]), n, torch.tensor([1, 2]))
    torch.testing.assert_close(with_it, without)


@pytest.mark.parametrize("labels", [[0, 1], [0, 0]])
def test_equal_proxies_have_a_finite_gradient(labels):
    x = torch.ones(2, DIM, dtype=torch.float64, requires_grad=True)
    contrastive_loss(x, torch.tensor(labels), 1.0).backward()
    assert x.grad.isfinite().all()
    alone = torch.ones(1, DIM, requires_grad=True)
    assert contrastive_loss(alone, torch.tensor([0])) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-5, 1e-6])
def test_nearly_equal_proxies_are_pushed_apart_with_the_whole_gradient(apart, dtype):
    middle = F.normalize(torch.randn(512, dtype=torch.float64), dim=0)
    aside = torch.randn(512, dtype=torch.float64)
    aside = F.normalize(aside - (aside @ middle) * middle, dim=0)
    x = torch.stack([middle, F.normalize(middle + apart * aside, dim=0)])
    far = torch.cat([x, -x[:1]])  # a third proxy, farther than the margin, changes nothing
    leaves = [part.to(dtype).requires_grad_() for part in (x, far)]
    for leaf in leaves:
        distance = (leaf[0] - leaf[1]).detach().double().norm().item()
        loss = contrastive_loss(leaf, torch.arange(len(leaf)), 1.0, "sum")
        loss.backward()
        # ½ (1 − D)² has the gradient ∓(1 − D) (x_1 − x_2) / D in both proxies
        assert loss.item() == pytest.approx((1 - distance) ** 2 / 2, rel=1e-5)
        assert leaf.grad.double().norm().item() == pytest.approx(2 ** 0.5 * (1 - distance), rel=1e-4)
        direction = F.normalize((leaf[1] - leaf[0]).detach(), dim=0)
        torch.testing.assert_close(leaf.grad[0], direction * (1 - distance), rtol=1e-3, atol=1e-6)


def test_renaming_classes_changes_nothing():
    _, images, anchors, proxies = sets()
    order = torch.tensor([2, 0, 1])
    renamed = [(x, order[labels]) for x, labels in (images, anchors, proxies)]
    before = bipartite_losses(*images, *anchors, *proxies)
    after = bipartite_losses(*renamed[0], *renamed[1], *renamed[2])
    assert all(torch.allclose(before[name], after[name]) for name in before)


def test_memory_at_a_thousand_classes_is_not_cubic():
    anchors, proxies = (F.normalize(torch.randn(1000, 8), dim=-1).requires_grad_() for _ in range(2))
    x, labels, classes = F.normalize(torch.randn(100, 8), dim=-1), torch.randint(1000, (100,)), torch.arange(1000)
    kept = []
    pack = lambda t: kept.append(t.untyped_storage().nbytes()) or t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        sum(bipartite_losses(x, labels, anchors, classes, proxies, classes).values()).backward()
    assert sum(kept) < 200e6 and anchors.grad.isfinite().all()


@pytest.mark.parametrize("loss", [lambda **o: triplet_loss(*3 * [torch.zeros(2, 3), torch.arange(2)], **o),
                                  lambda **o: contrastive_loss(torch.zeros(2, 3), torch.arange(2), **o)])
def test_wrong_options_are_refused(loss):
    with pytest.raises(ValueError, match="margin=-1: must be at least 0"):
        loss(margin=-1)
    with pytest.raises(ValueError, match="reduction='all': choose mean, sum, none"):
        loss(reduction="all")
