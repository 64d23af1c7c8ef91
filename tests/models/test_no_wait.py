"""No forward pass waits for a GPU: nothing is read back from it, and what a CPU draws goes there without a stop.

Fake tensors have a device and no numbers, so the first test sees this on any machine; the last one asks a GPU.
"""

import traceback

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers import PYRAMID, TINY
from vig_minimal import create_model

CNN2 = {"num_classes": 5, "img_size": 16}
# not those which look up places: they copy them once for each grid and keep them
GRAPHS = ["knn", "group_knn", "threshold", "lrgc", "hypergraph", "full", "none"]
MODELS = {"cvig_nano": TINY, "pvig_nano": PYRAMID, "gkgnet_nano": PYRAMID, "cnn2gnn_nano": CNN2,
          "cnn2transformer_nano": CNN2, **{f"vig_nano {graph}": {**TINY, "graph": graph} for graph in GRAPHS}}


class Waits(TorchDispatchMode):
    """Collect the operations that would wait: copies between devices, but for those that do not block."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        devices = {t.device.type for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor) and t.ndim}
        if len(devices) > 1 and not kwargs.get("non_blocking"):
            lines = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()]
            self.found.append((str(operation), [line for line in lines if "vig_minimal" in line][-1]))
        return result


def made(name: str, device: str) -> torch.nn.Module:
    with torch.device(device):
        model = create_model(name.split()[0], **MODELS[name])
        if "cnn2" in name:
            model.anchor_images, model.has_anchors = torch.randn(5, 3, 16, 16), True
    return model


def waits(model: torch.nn.Module, training: bool) -> list:
    """What would wait in a forward pass on a pretended GPU."""
    with Waits() as waits:
        model.train(training)(torch.randn(2, 3, 16, 16, device="cuda"))
    return waits.found


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_forward_pass_on_a_pretended_gpu_never_waits(name, training):
    with FakeTensorMode():
        assert waits(made(name, "cuda"), training) == []


def test_reading_from_a_pretended_gpu_is_seen():
    class Asks(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with FakeTensorMode():
        with pytest.raises(Exception, match="_local_scalar_dense"):
            waits(Asks(), False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_forward_pass_on_a_gpu_never_waits(name, training):
    model, images = made(name, "cuda").train(training), torch.randn(2, 3, 16, 16, device="cuda")
    model(images)  # what is made once and kept may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
