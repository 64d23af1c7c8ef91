"""Losses of multi-label training (GKGNet), and of embeddings of images, anchors and proxies (CNN2GNN).

Multi-label: L = L_smooth + w L_asy (GKGNet section 3.4; w is 1 in the paper and 10 in the released code).

    symbol     variable                    shape
    x          logits                      (B, classes)
    p          σ(x)                        (B, classes): probability that the image shows the class
    y          targets                     (B, classes): 1 yes, 0 no, −1 unknown; in between: a mixture of yes and no
    γ⁺ γ⁻ m ε  gamma_pos/_neg, clip, eps

`reduction`: "none" gives the loss of each entry, (B, classes), 0 where the label is unknown; "sum" adds them up; "mean"
adds over classes and averages over images, as in GKGNet: other libraries' mean times the number of classes.

Embeddings, all L2-normalised, so that no squared distance exceeds 4:

    symbol     variable                    shape
    S, G, N    sources, …                  (·, F): sources, positives (G) and negatives, each set with its labels (·,)
    X, L       x, anchors                  (B, F) images of a batch, (A, F) training images that stand for their class
    P          proxies                     (P, F): learned vectors that stand for their class
    α          margin

`reduction`: "none" gives one value per valid triplet or pair; "mean" averages them. Both kinds of losses compute in
float32 or float64, also under autocast.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graphs.distance import full_precision, squared_distance

REDUCTIONS = ("mean", "sum", "none")


def asymmetric_loss(logits: Tensor, targets: Tensor, gamma_pos: float = 0.0, gamma_neg: float = 2.0,
                    clip: float = 0.05, reduction: str = "mean") -> Tensor:
    """Return −y (1 − p)^γ⁺ log p − (1 − y) p_m^γ⁻ log(1 − p_m), p_m = max(p − m, 0): easy negatives weigh less.

    logits, targets: (B, classes). Negatives with p ≤ m weigh nothing. The factors (1 − p)^γ⁺ and p_m^γ⁻ carry gradient,
    as in the released code; that code also cuts logarithms off at log 1e-8, this one does not.
    Raises ValueError for targets of another shape, a negative gamma, a clip outside [0, 1), an unknown reduction.
    Source: Ridnik et al., Asymmetric loss for multi-label classification, 2021, the equations for L₊, L₋ and p_m.
    """
    if min(gamma_pos, gamma_neg) < 0 or not 0 <= clip < 1:
        raise ValueError(f"asymmetric loss with gamma_pos={gamma_pos}, gamma_neg={gamma_neg}, clip={clip}: gammas must"
                         " not be negative, clip must be at least 0 and below 1")
    x, y = _checked(logits, targets)
    # log p and log(1 − p) come from the logits, since p itself rounds to 0 or 1
    # Asymmetric loss, L₊ = (1 − p)^γ⁺ log p
    positive = -_power(torch.sigmoid(-x), gamma_pos) * F.logsigmoid(x)
    # Asymmetric loss, p_m = max(p − m, 0)
    shifted = (torch.sigmoid(x) - clip).clamp(min=0)  # (B, classes)
    log_rest = F.logsigmoid(-x) if clip == 0 else torch.log1p(-shifted)  # log(1 − p_m); p_m ≤ 1 − m keeps it finite
    # Asymmetric loss, L₋ = p_m^γ⁻ log(1 − p_m)
    negative = -_power(shifted, gamma_neg) * log_rest
    return _reduced(y * positive + (1 - y) * negative, y >= 0, reduction, images=len(x))


def smooth_bce(logits: Tensor, targets: Tensor, eps: float = 0.1, reduction: str = "mean") -> Tensor:
    """Return −y′ log p − (1 − y′) log(1 − p), y′ = (1 − ε) y + ε (1 − y): positives become 1 − ε, negatives ε.

    logits, targets: (B, classes). The smallest value, at p = y′, is above 0.
    Raises ValueError for targets of another shape, an eps outside [0, 0.5], an unknown reduction.
    Source: GKGNet section 3.4 («label smooth loss», ε of the released code); label smoothing: Szegedy et al., 2016.
    """
    if not 0 <= eps <= 0.5:
        raise ValueError(f"label smoothing eps={eps}: must be between 0 and 0.5")
    x, y = _checked(logits, targets)
    # GKGNet section 3.4, label smoothing: 1 → 1 − ε, 0 → ε
    smooth = (1 - eps) * y + eps * (1 - y)  # (B, classes)
    loss = F.binary_cross_entropy_with_logits(x, smooth, reduction="none")
    return _reduced(loss, y >= 0, reduction, images=len(x))


def _checked(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if logits.ndim != 2 or targets.shape != logits.shape:
        raise ValueError(f"logits {tuple(logits.shape)} with targets {tuple(targets.shape)}: multi-label losses take"
                         " (B, classes) of both")
    logits = full_precision(logits)
    return logits, targets.to(logits.dtype)


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base ≥ 0; its gradient at 0 is finite even for exponents below 1."""
    return base.clamp(min=torch.finfo(base.dtype).tiny) ** exponent


def _reduced(loss: Tensor, valid: Tensor, reduction: str, images: int | None = None) -> Tensor:
    """Reduce the valid entries. "mean" divides their sum by `images` or, without it, by how many they are."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}: choose {', '.join(REDUCTIONS)}")
    masked = torch.where(valid, loss, 0)
    if reduction == "none":
        return loss[valid] if images is None else masked
    if reduction == "sum":
        return masked.sum()
    return masked.sum() / (valid.sum().clamp(min=1) if images is None else images)


def triplet_loss(sources: Tensor, source_labels: Tensor, positives: Tensor, positive_labels: Tensor, negatives: Tensor,
                 negative_labels: Tensor, margin: float = 0.2, reduction: str = "mean") -> Tensor:
    """Return max(‖s − g‖² − ‖s − n‖² + α, 0) over sources s, positives g of the same class, negatives n of others.

    Without a valid triplet the loss is 0 with zero gradient. Memory: pairs (s, g) times the number of negatives.
    Raises ValueError for a negative margin and an unknown reduction. Source: CNN2GNN Eq. 8.
    """
    _check_margin(margin)
    source, positive = (source_labels[:, None] == positive_labels).nonzero().T  # (V,) pairs of one class
    with torch.autocast(sources.device.type, enabled=False):
        sources, positives, negatives = full_precision(sources), full_precision(positives), full_precision(negatives)
        to_positive = (sources[source] - positives[positive]).square().sum(-1)  # (V,)
        to_negative = squared_distance(sources[None], negatives[None])[0]  # (S, N)
    # CNN2GNN Eq. 8
    loss = F.relu(to_positive[:, None] - to_negative[source] + margin)  # (V, N)
    valid = source_labels[source, None] != negative_labels  # (V, N)
    return _reduced(loss, valid, reduction)


def contrastive_loss(x: Tensor, labels: Tensor, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """Return ½ D² for each pair of one class and ½ max(0, α − D)² for each pair of two classes, at distance D.

    The paper multiplies the first term by 1 − Y, with Y = 1 for one class: that would pull different classes together.
    x: (n, F) with labels (n,). Without a pair the loss is 0 with zero gradient.
    Raises ValueError for a negative margin and an unknown reduction.
    Source: CNN2GNN Eqs. 9 and 10, after Hadsell et al., 2006.
    """
    _check_margin(margin)
    with torch.autocast(x.device.type, enabled=False):
        # CNN2GNN Eq. 9, from differences: an expanded square would lose the gradient of nearly equal proxies
        distance = F.pdist(full_precision(x))  # (pairs,), i < j; equal embeddings get no gradient
    first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)  # in the order of pdist
    same = labels[first] == labels[second]
    # CNN2GNN Eq. 10
    loss = torch.where(same, distance.square() / 2, F.relu(margin - distance).square() / 2)
    return _reduced(loss, torch.ones_like(same), reduction)


def bipartite_losses(x: Tensor, labels: Tensor, anchors: Tensor, anchor_labels: Tensor, proxies: Tensor,
                     proxy_labels: Tensor, margin: float = 0.2, proxy_margin: float = 1.0) -> dict[str, Tensor]:
    """Return the four terms that keep proxies from collapsing, by name; their sum is L_total_contrastive (Eq. 15)."""
    images, stable, learned = (x, labels), (anchors, anchor_labels), (proxies, proxy_labels)
    return {
        # CNN2GNN Eq. 11
        "anchor_triplet": triplet_loss(*stable, *images, *images, margin),
        # CNN2GNN Eq. 12
        "proxy_triplet": triplet_loss(*learned, *images, *images, margin),
        # CNN2GNN Eq. 13
        "anchor_proxy_triplet": triplet_loss(*stable, *learned, *learned, margin),
        # CNN2GNN Eq. 14
        "proxy_contrastive": contrastive_loss(*learned, proxy_margin),
    }


def classification_losses(logits: Tensor, labels: Tensor, anchor_logits: Tensor, anchor_labels: Tensor,
                          proxy_logits: Tensor, proxy_labels: Tensor, label_smoothing: float = 0) -> dict[str, Tensor]:
    """Return the cross-entropy of images, anchors and proxies by name; their sum is L_classification."""
    pairs = (logits, labels), (anchor_logits, anchor_labels), (proxy_logits, proxy_labels)
    # CNN2GNN Eq. 16
    return {name: F.cross_entropy(full_precision(scores), truth, label_smoothing=label_smoothing)
            for name, (scores, truth) in zip(("images", "anchors", "proxies"), pairs, strict=True)}


def _check_margin(margin: float) -> None:
    if not margin >= 0:
        raise ValueError(f"margin={margin}: must be at least 0")
