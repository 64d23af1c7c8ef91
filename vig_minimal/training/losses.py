"""Losses: of multi-label training (GKGNet), and of embeddings and what stands for their classes (CNN2GNN).

Multi-label: every class is a question of its own, answered by yes (1), no (0) or unknown (−1).

    L = L_smooth + w L_asy        (GKGNet section 3.4; the paper's w is 1, the released code's is 10)

    symbol   variable          shape
    x        logits            (B, classes)
    p        σ(x)              (B, classes): the probability that the image shows the class
    y        targets           (B, classes): 1, 0, −1 is unknown; anything between 0 and 1 is a share of both
    γ⁺ γ⁻    gamma_pos/_neg
    m        clip
    ε        eps

`reduction` says how a loss (B, classes) becomes a number. "none": it does not, and is 0 where the target is unknown.
"sum": over all. "mean": summed over classes and averaged over images, as GKGNet trains; that is the number of classes
times the mean over all entries, which other libraries call "mean". Float32 or better throughout, also under autocast.

Embeddings, all L2-normalised, so that squared distances are at most 4. "mean" is over all valid triplets or pairs:

    symbol   variable          shape
    S, G, N                    (·, F): sources, and what positives and negatives are taken from; sets with labels
    X        x                 (B, F): images of a batch
    L        anchors           (A, F): images that stand for their class
    P        proxies           (P, F): parameters that stand for their class
    α        margin
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graphs.distance import full_precision, squared_distance

REDUCTIONS = ("mean", "sum", "none")


def asymmetric_loss(logits: Tensor, targets: Tensor, gamma_pos: float = 0.0, gamma_neg: float = 2.0,
                    clip: float = 0.05, reduction: str = "mean") -> Tensor:
    """−y (1 − p)^γ⁺ log p − (1 − y) p_m^γ⁻ log(1 − p_m), p_m = max(p − m, 0): easy negatives weigh less.

    logits, targets: (B, classes), see the top of this file. Negatives with p ≤ m weigh nothing. The weights carry
    gradient, as in the released code, whose logarithms end at log 1e-8; these here do not end.
    Raises ValueError for targets of another shape, a negative gamma, a clip outside [0, 1), an unknown reduction.
    Source: Ridnik et al., Asymmetric loss for multi-label classification, 2021, the equations for L₊, L₋ and p_m.
    """
    if min(gamma_pos, gamma_neg) < 0 or not 0 <= clip < 1:
        raise ValueError(f"asymmetric loss with gamma_pos={gamma_pos}, gamma_neg={gamma_neg}, clip={clip}: gammas must"
                         " not be negative, clip must be at least 0 and below 1")
    x, y, known = _checked(logits, targets, reduction)
    # log p and log(1 − p) from the logits: p itself rounds to 0 or 1
    # Asymmetric loss, L₊ = (1 − p)^γ⁺ log p
    positive = -_power(torch.sigmoid(-x), gamma_pos) * F.logsigmoid(x)
    # Asymmetric loss, p_m = max(p − m, 0)
    shifted = (torch.sigmoid(x) - clip).clamp(min=0)  # (B, classes)
    log_rest = F.logsigmoid(-x) if clip == 0 else torch.log1p(-shifted)  # log(1 − p_m); p_m ≤ 1 − m keeps it finite
    # Asymmetric loss, L₋ = p_m^γ⁻ log(1 − p_m)
    negative = -_power(shifted, gamma_neg) * log_rest
    return _reduced(y * positive + (1 - y) * negative, known, reduction)


def smooth_bce(logits: Tensor, targets: Tensor, eps: float = 0.1, reduction: str = "mean") -> Tensor:
    """−y′ log p − (1 − y′) log(1 − p), y′ = (1 − ε) y + ε (1 − y): a yes is worth 1 − ε, a no is worth ε.

    logits, targets: (B, classes), see the top of this file. Its least value is not 0 but that at p = y′.
    Raises ValueError for targets of another shape, an eps outside [0, 0.5], an unknown reduction.
    Source: GKGNet section 3.4 («label smooth loss», ε of the released code); label smoothing: Szegedy et al., 2016.
    """
    if not 0 <= eps <= 0.5:
        raise ValueError(f"label smoothing eps={eps}: must be between 0 and 0.5")
    x, y, known = _checked(logits, targets, reduction)
    # GKGNet section 3.4, label smoothing: 1 → 1 − ε, 0 → ε
    smooth = (1 - eps) * y + eps * (1 - y)  # (B, classes)
    return _reduced(F.binary_cross_entropy_with_logits(x, smooth, reduction="none"), known, reduction)


def _checked(logits: Tensor, targets: Tensor, reduction: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in full precision, targets of their type, and where targets are known: (B, classes) each."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}: choose {', '.join(REDUCTIONS)}")
    if logits.ndim != 2 or targets.shape != logits.shape:
        raise ValueError(f"logits {tuple(logits.shape)} with targets {tuple(targets.shape)}: a multi-label loss takes"
                         " (images, classes) of both, a target being 1, 0, or -1 where it is unknown")
    logits = full_precision(logits)
    targets = targets.to(logits.dtype)
    return logits, targets, targets >= 0


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent of what is not negative, with a finite gradient at 0 also for exponents below 1."""
    return base.clamp(min=torch.finfo(base.dtype).tiny) ** exponent


def _reduced(loss: Tensor, known: Tensor, reduction: str) -> Tensor:
    loss = torch.where(known, loss, 0)  # (B, classes)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / len(loss)


# ---- embeddings ----------------------------------------------------------------------------------------------------


def triplet_loss(sources: Tensor, source_labels: Tensor, positives: Tensor, positive_labels: Tensor, negatives: Tensor,
                 negative_labels: Tensor, margin: float = 0.2, reduction: str = "mean") -> Tensor:
    """max(‖s − g‖² − ‖s − n‖² + α, 0) for every source s, positive g of its class and negative n of another one.

    Three sets of embeddings (·, F) with their labels (·,). Without a valid triplet it is 0, with zero gradient. Memory
    grows with the pairs (source, positive) times the negatives. "none": one value a triplet.
    Raises ValueError for a negative margin and an unknown reduction.
    Source: CNN2GNN Eq. 8.
    """
    _check_margin(margin, reduction)
    source, positive = (source_labels[:, None] == positive_labels).nonzero().T  # (V,) pairs of one class
    with torch.autocast(sources.device.type, enabled=False):
        sources, positives, negatives = full_precision(sources), full_precision(positives), full_precision(negatives)
        to_positive = (sources[source] - positives[positive]).square().sum(-1)  # (V,)
        to_negative = squared_distance(sources[None], negatives[None])[0]  # (S, N)
    # CNN2GNN Eq. 8
    loss = F.relu(to_positive[:, None] - to_negative[source] + margin)  # (V, N)
    valid = source_labels[source, None] != negative_labels  # (V, N)
    return _over_valid(loss, valid, reduction)


def contrastive_loss(x: Tensor, labels: Tensor, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """½ D² for every pair of one class, ½ max(0, α − D)² for every pair of two classes; D the distance.

    The print has 1 − Y and Y the other way round, Y being «of the same class»: then classes would be pulled together.
    x: (n, F) with labels (n,). "none": one value a pair. Without a pair it is 0, with zero gradient.
    Raises ValueError for a negative margin and an unknown reduction.
    Source: CNN2GNN Eqs. 9 and 10, after Hadsell et al., 2006.
    """
    _check_margin(margin, reduction)
    with torch.autocast(x.device.type, enabled=False):
        square = squared_distance(full_precision(x)[None], full_precision(x)[None])[0].clamp(min=0)  # D²: (n, n)
    # CNN2GNN Eq. 9; the root of 0 has no gradient, and two equal proxies get none
    distance = torch.where(square > 1e-12, square, 1.0).sqrt() * (square > 1e-12)  # (n, n)
    same = labels[:, None] == labels
    # CNN2GNN Eq. 10
    loss = torch.where(same, square / 2, F.relu(margin - distance).square() / 2)
    return _over_valid(loss, torch.ones_like(same).triu(1), reduction)


def bipartite_losses(x: Tensor, labels: Tensor, anchors: Tensor, anchor_labels: Tensor, proxies: Tensor,
                     proxy_labels: Tensor, margin: float = 0.2, proxy_margin: float = 1.0) -> dict[str, Tensor]:
    """The four terms that keep proxies from collapsing, whose sum is L_total_contrastive (CNN2GNN Eq. 15).

    Embeddings (·, F), L2-normalised, of images, anchors and proxies, with their labels.
    """
    images, stable, learnt = (x, labels), (anchors, anchor_labels), (proxies, proxy_labels)
    return {
        # CNN2GNN Eq. 11
        "anchor_triplet": triplet_loss(*stable, *images, *images, margin),
        # CNN2GNN Eq. 12
        "proxy_triplet": triplet_loss(*learnt, *images, *images, margin),
        # CNN2GNN Eq. 13
        "anchor_proxy_triplet": triplet_loss(*stable, *learnt, *learnt, margin),
        # CNN2GNN Eq. 14
        "proxy_contrastive": contrastive_loss(*learnt, proxy_margin),
    }


def classification_losses(logits: Tensor, labels: Tensor, anchor_logits: Tensor, anchor_labels: Tensor,
                          proxy_logits: Tensor, proxy_labels: Tensor,
                          label_smoothing: float = 0.0) -> dict[str, Tensor]:
    """Cross-entropy of images, anchors and proxies, whose sum is L_classification. Logits (·, classes), labels (·,)."""
    def cross_entropy(scores: Tensor, truth: Tensor) -> Tensor:
        return F.cross_entropy(full_precision(scores), truth, label_smoothing=label_smoothing)

    # CNN2GNN Eq. 16
    return {"images": cross_entropy(logits, labels), "anchors": cross_entropy(anchor_logits, anchor_labels),
            "proxies": cross_entropy(proxy_logits, proxy_labels)}


def _check_margin(margin: float, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}: choose {', '.join(REDUCTIONS)}")
    if not margin >= 0:
        raise ValueError(f"margin={margin}: must be at least 0")


def _over_valid(loss: Tensor, valid: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss[valid]
    total = torch.where(valid, loss, 0).sum()
    return total if reduction == "sum" else total / valid.sum().clamp(min=1)
