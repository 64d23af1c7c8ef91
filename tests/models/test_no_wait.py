"""No forward pass waits for a GPU: nothing is read back from it, and what a CPU draws goes there without a stop.

Tensors on the device `meta` have no numbers, so the first test sees this on any machine; the last one asks a GPU.
"""

import contextlib
import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers import PYRAMID, TINY, on_meta
from vig_minimal import create_model

CNN2 = {"num_classes": 5, "img_size": 16}
# not those which look up places, and copy them once for each grid; nor conv="edge", which waits, since it makes as many
# messages as there are edges
GRAPHS = ["knn", "group_knn", "threshold", "lrgc", "hypergraph", "full", "none"]
MODELS = {"cvig_nano": TINY, "pvig_nano": PYRAMID, "gkgnet_nano": PYRAMID, "cnn2gnn_nano": CNN2,
          "cnn2transformer_nano": CNN2, **{f"vig_nano {graph}": {**TINY, "graph": graph} for graph in GRAPHS},
          **{f"vig_nano {conv}": {**TINY, "conv": conv} for conv in ("sage", "gin")}}


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
            lines = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-1]]
            self.found.append((str(operation), [line for line in lines if "site-packages" not in line][-1]))
        return result


def made(name: str, device: str) -> torch.nn.Module:
    create = on_meta if device == "meta" else create_model
    with torch.device(device):
        model = create(name.split()[0], **MODELS[name])
        if "cnn2" in name:
            model.anchor_images, model.has_anchors = torch.randn(5, 3, 16, 16), True
    return model


@pytest.fixture
def waits(monkeypatch):
    """What would wait in a forward pass."""
    monkeypatch.setattr(torch, "autocast", lambda *about, **more: contextlib.nullcontext())  # it knows no `meta`

    def waits(model: torch.nn.Module, training: bool) -> list:
        with Waits() as waits:
            model.train(training)(torch.randn(2, 3, 16, 16, device="meta"))
        return waits.found

    return waits


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_forward_pass_without_numbers_never_waits(name, training, waits):
    assert waits(made(name, "meta"), training) == []


class Asks(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Sends(torch.nn.Module):
    def forward(self, x):
        return x[:, torch.tensor([0, 1])] + torch.ones(16).to(x.device)


def test_what_waits_is_seen(waits):
    with pytest.raises(RuntimeError, match="meta tensors"):
        waits(Asks(), False)
    assert len(waits(Sends(), False)) == 2


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
