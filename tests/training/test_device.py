"""Apple's GPU has no float64: a stand-in that refuses it, and which device «auto» takes."""

import pytest
import torch
from torch import nn

from vig_minimal.train import train_one_epoch
from vig_minimal import create_model
from vig_minimal.models.cnn2graph import CNN2Graph
from vig_minimal.training import distributed
from vig_minimal.training.config import RunConfig
from vig_minimal.training.distributed import Processes
from vig_minimal.training.engine import create_run, evaluate
from vig_minimal.training.recipes import get_recipe
from vig_minimal.training.tasks import BipartiteTask, MultiLabelTask, SingleLabel

ONE = Processes(torch.device("cpu"))
TINY = {"dim": 16, "depth": 2, "img_size": 16, "patch": 4, "num_classes": 4}
PYRAMID = {"dim": (8, 16), "depth": (1, 1), "pool": (2, 1), "img_size": 16, "num_classes": 4}
MODELS = {"vig_nano": TINY, "lrgc_nano": TINY, "svig_nano": TINY, "cvig_nano": TINY | {"clusters": 2},
          "pvig_nano": PYRAMID, "gkgnet_nano": PYRAMID, "cnn2transformer_nano": {"num_classes": 4, "img_size": 16}}


class NoFloat64(torch.Tensor):
    """A tensor on a device without float64, and all that is computed from it there; .cpu() leaves the device."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function in (torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.item):
            return result.as_subclass(torch.Tensor) if isinstance(result, torch.Tensor) else result
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(part, NoFloat64) and part.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it")
        return result


class Batches(list):
    def epoch(self, epoch, first_step=0):
        return iter(self)


class NoBar:
    def update(self, images, loss):
        pass


def on_device(tensor):
    return tensor.as_subclass(NoFloat64)


def test_the_stand_in_refuses_float64():
    x = on_device(torch.ones(2))
    assert isinstance(x + 1, NoFloat64) and not isinstance(x.cpu(), NoFloat64) and x.cpu().double().sum() == 2
    doubles = torch.ones(2, dtype=torch.float64)
    for wrong in (lambda: x.double(), lambda: (x * 2).to(torch.float64), lambda: x.add(doubles)):
        with pytest.raises(TypeError, match="float64"):
            wrong()


@pytest.mark.parametrize("name", MODELS)
def test_training_and_evaluation_need_no_float64(name):
    model = create_model(name, **MODELS[name]).to(memory_format=torch.channels_last)
    for parameter in (*model.parameters(), *model.buffers()):
        assert parameter.dtype != torch.float64
    if name == "gkgnet_nano":
        task, targets = MultiLabelTask(list("abcd"), 0.1, 10.0), torch.randint(-1, 2, (4, 4))
    elif isinstance(model, CNN2Graph):
        task, targets = BipartiteTask(None, 0.0, 1.0, ONE), torch.arange(4)
        model.store_anchors(torch.randn(4, 3, 16, 16))
    else:
        task, targets = SingleLabel(0.1), torch.arange(4)
    run = create_run(model, task, RunConfig(recipe=get_recipe("demo")), ONE)
    if isinstance(model, CNN2Graph):
        run.evaluated.proxies = nn.Parameter(on_device(run.evaluated.proxies.data))
    batch = on_device(torch.randn(4, 3, 16, 16)), on_device(targets)
    trained = train_one_epoch(run, Batches([batch] * 2), 0, NoBar())
    assert 0 < trained["train_loss"] < 1000
    assert evaluate(run, [batch])["loss"] > 0


@pytest.mark.parametrize("cuda, mps, device", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_a_gpu_if_there_is_one(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "ones", lambda *_, device: torch.zeros(1))  # there is none on this machine
    assert distributed.usable_device("auto").type == device
