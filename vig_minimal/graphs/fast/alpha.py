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
        sigma = torch.atanh(alpha) + cut  # σ(α') where there is an edge
        grad = torch.where(alpha > 0, grad * (1 - alpha * alpha), 0)  # of α''
        return grad * sigma * (1 - sigma), -grad.sum() * cut * (1 - cut)
