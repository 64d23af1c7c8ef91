"""What docs/export.md says: every model through torch.export, ONNX, torch.jit.trace, torch.compile and quantisation."""

import importlib.util
import warnings

import pytest
import torch
from torch import nn

from helpers import ADAPTVIG, PYRAMID, TINY
from vig_minimal import create_model, list_constructors

ISOTROPIC = ("vig_nano", "svig_nano", "lrgc_nano", "cvig_nano")
CNN2 = ("resnet_nano", "cnn2mean_nano", "cnn2max_nano", "cnn2gnn_nano", "cnn2transformer_nano")
MODELS = ({name: TINY for name in ISOTROPIC} | {name: PYRAMID for name in ("pvig_nano", "gkgnet_nano")}
          | {"adaptvig_nano": ADAPTVIG}
          | {name: {"num_classes": 5, "img_size": 16, "stem": "imagenet"} for name in CNN2})
OLD_ONNX = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning",
                                      "ignore::torch.jit.TracerWarning")


def made(name: str, **fields) -> nn.Module:
    """A model in evaluation with random parameters, so that no two scores tie; CNN2GNN and the like with anchors."""
    model = create_model(name, **MODELS[name] | fields)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    if name in CNN2[1:]:
        model.store_anchors(torch.randn(5, 3, 16, 16))
    return model.eval()


def assert_same_on_other_batches(program, model: nn.Module, tolerance: float = 1e-5, batches=(1, 2, 7)) -> None:
    for batch in batches:
        images = torch.randn(batch, 3, 16, 16)
        expected = model(images)
        torch.testing.assert_close(program(images), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def exported(model: nn.Module) -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model, (torch.randn(3, 3, 16, 16),), dynamic_shapes=({0: batch},))
    assert "vig_minimal" not in " ".join(str(node.target) for node in program.graph.nodes)  # it runs without us
    return program.module()


def traced(model: nn.Module) -> nn.Module:
    return torch.jit.trace(model, torch.randn(3, 3, 16, 16), check_trace=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vig_nano", "lrgc_nano"])
@torch.no_grad()
def test_export_with_a_dynamic_batch_of_one_block(name):
    model = made(name, depth=1)
    assert_same_on_other_batches(exported(model), model)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_export_with_a_dynamic_batch(name):
    model = made(name)
    assert_same_on_other_batches(exported(model), model)


@OLD_ONNX
@pytest.mark.slow
@pytest.mark.parametrize("make", [exported, traced], ids=["exported", "traced"])
@pytest.mark.parametrize("fields", [*({"graph": graph} for graph in list_constructors()
                                      if graph not in ("knn", "threshold", "lrgc")),  # of the models above
                                    {"conv": "sage"}, {"conv": "gin"}, {"conv": "attention"}], ids=str)
@torch.no_grad()
def test_other_graphs_and_convolutions_take_other_batches(fields, make):
    model = made("vig_nano", **fields)
    assert_same_on_other_batches(make(model), model)


@OLD_ONNX
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_trace_takes_other_batches(name):
    model = made(name)
    assert_same_on_other_batches(traced(model), model)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("vig_nano", "svig_nano", "lrgc_nano")])
@torch.no_grad()
def test_compile_without_a_graph_break(name):  # the others, and training: test_compile.py
    model = made(name)
    assert_same_on_other_batches(torch.compile(model, backend="aot_eager", fullgraph=True), model, batches=(3,))


@pytest.mark.parametrize("name", ["lrgc_nano", "cvig_nano", *CNN2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@torch.no_grad()
def test_dynamic_quantisation_of_linear_layers(name):
    model, images = made(name), torch.randn(3, 3, 16, 16)
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert any(isinstance(layer, torch.ao.nn.quantized.dynamic.Linear) for layer in small.modules())
    expected = model(images)
    assert (small(images) - expected).abs().mean() < 0.2 * expected.abs().mean()


def in_onnxruntime(model: nn.Module, file, **options):
    """The exported model as a function, by an independent runtime."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime, which runs ONNX files, is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.randn(3, 3, 16, 16),), str(file), input_names=["images"], **options)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_onnx_by_the_older_exporter(name, tmp_path):
    model, file = made(name), tmp_path / "model.onnx"
    program = in_onnxruntime(model, file, dynamo=False, dynamic_axes={"images": {0: "batch"}}, opset_version=18)
    # the groups of GKGNet keep the batch that was exported
    assert_same_on_other_batches(program, model, batches=(3,) if name == "gkgnet_nano" else (1, 2, 7))


@OLD_ONNX
@torch.no_grad()
def test_the_older_exporter_writes_a_file(tmp_path):
    pytest.importorskip("onnx", reason="both of torch's exporters to ONNX need the package onnx, which is not ours")
    file = tmp_path / "model.onnx"
    torch.onnx.export(made("vig_nano"), (torch.randn(3, 3, 16, 16),), str(file), dynamo=False, opset_version=18)
    assert file.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_onnx_by_the_newer_exporter(name, tmp_path):
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("the newer exporter needs the package onnxscript, which is not one of ours")
    model, batch = made(name), torch.export.Dim("batch", min=1, max=1024)
    program = in_onnxruntime(model, tmp_path / "model.onnx", dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    assert_same_on_other_batches(program, model)


# ------------------------------------------------------------------------------------- other precisions, other batches


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_an_image_alone_is_answered_as_in_a_batch_of_32(name):
    model, images = made(name), torch.randn(32, 3, 16, 16)
    together = model(images)
    alone = torch.cat([model(image) for image in images.split(1)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5 * float(together.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_half_precision_on_a_cpu_is_finite(name, dtype):
    model = create_model(name, **MODELS[name])
    if name in CNN2[1:]:
        model.store_anchors(torch.randn(5, 3, 16, 16))
    images = torch.randn(2, 3, 16, 16)
    assert model.eval().to(dtype)(images.to(dtype)).isfinite().all()
    with torch.autocast("cpu", dtype):
        assert model.float()(images).isfinite().all()
