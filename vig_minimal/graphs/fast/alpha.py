"""LRGC's α of one tensor: autograd would keep the result of each of its three steps, and α alone is enough."""

import torch
from torch import Tensor


def alpha_of(score: Tensor, tau: Tensor) -> Tensor:
    """Do `constructors.lrgc.alpha_of`."""
    return _Alpha.apply(score, tau) if torch.is_grad_enabled() else _in_place(score, tau)


def _in_place(score: Tensor, tau: Tensor) -> Tensor:
    return torch.sigmoid(score).sub_(torch.sigmoid(tau)).relu_().tanh_()


class _Alpha(torch.autograd.Function):
    """α with its gradient."""

    @staticmethod
    def forward(ctx, score, tau):
        alpha = _in_place(score, tau)
        ctx.save_for_backward(alpha, tau)
        return alpha

    @staticmethod
    def backward(ctx, grad):
        alpha, tau = ctx.saved_tensors
        cut = torch.sigmoid(tau)
        # σ(α') where there is an edge: atanh(α) + σ(τ), the first as ½ ln((1 + α)/(1 − α)), five times as fast
        sigma = (2 * alpha / (1 - alpha)).log1p() / 2 + cut
        grad = torch.where(alpha > 0, grad * (1 - alpha * alpha), 0)  # of α''
        return grad * sigma * (1 - sigma), -grad.sum() * cut * (1 - cut)
