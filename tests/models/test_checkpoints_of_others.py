"""Checkpoints as other programs write them, in one table; files that are none are named, with what to do."""

import argparse
import collections
import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from test_released import as_released, same_weights, small
from vig_minimal import create_model
from vig_minimal.atomic_files import CheckpointError, load, save
from vig_minimal.models.registry import recognise
from vig_minimal.models.released import init_from, load_released, unwrapped
from vig_minimal.models.resnet import load_backbone

AVERAGE = "taken from {}, an average, and not from {}"


def with_prefix(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def counted(state):
    """With the counters that thop leaves in every layer and at the top."""
    layers = {key.rpartition(".")[0] for key in state}
    return state | {f"{layer}.{name}": torch.ones(1) for layer in layers for name in ("total_ops", "total_params")} | {
        "total_ops": torch.ones(1), "total_params": torch.ones(1)}


def compiled_inside(state):
    return {key.replace("backbone.0.0.", "backbone.0.0._orig_mod."): value for key, value in state.items()}


def mmcv(state):
    return {"meta": {"epoch": 3, "best_score": np.float64(0.5), "best": np.float32(0.25), "count": np.int64(7),
                     "good": np.bool_(True), "classes": ["cat"]}, "state_dict": state, "message_hub": {"lr": [1e-3]}}


def averaged(state, raw):
    return {"model": raw, "ema": {"module": with_prefix("module.", state) | {"n_averaged": torch.tensor(5)}}}


def optimised(state):
    moments = {i: {"exp_avg": value, "exp_avg_sq": value, "step": torch.tensor(1.0)} for i, value in enumerate(
        state.values())}
    return {"optimizer": {"state": moments, "param_groups": [{"lr": 1e-3}]}, "net": state, "epoch": 4}


# name: from the released names of the right weights and of others to what a file holds; what is said of the choice
FILES = {
    **{f"prefix {prefix!r}": (lambda state, _, prefix=prefix: with_prefix(prefix, state), "") for prefix in (
        "module.", "model.", "backbone.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "module.model.",
        "model.backbone.", "net.encoder.module.backbone.", "student.")},
    "a compiled part": (lambda state, _: compiled_inside(state), ""),
    **{f"under {name!r}": (lambda state, _, name=name: {name: state, "epoch": 3}, "") for name in (
        "net", "model_state_dict", "params", "weights", "state_dict", "model_state", "generator")},
    "deeper": (lambda state, _: {"run": {"last": {"network": with_prefix("module.", state)}}, "epoch": 3}, ""),
    "thop": (lambda state, _: {"state_dict": counted(with_prefix("module.", state))}, ""),
    "mmcv": (lambda state, _: mmcv(with_prefix("backbone.", state)), ""),
    "an optimiser": (lambda state, _: optimised(state), ""),
    "ordered": (lambda state, _: collections.OrderedDict(state_dict=collections.OrderedDict(state)), ""),
    "state_dict_ema": (lambda state, raw: {"state_dict": raw, "state_dict_ema": state},
                       AVERAGE.format("state_dict_ema", "state_dict")),
    "model_ema": (lambda state, raw: {"model_ema": state, "model": raw}, AVERAGE.format("model_ema", "model")),
    "ema_state_dict": (lambda state, raw: {"state_dict": raw, "ema_state_dict": with_prefix("module.", state)},
                       AVERAGE.format("ema_state_dict", "state_dict")),
    "AveragedModel": (averaged, AVERAGE.format("ema.module", "model")),
    "an average alone": (lambda state, _: {"ema": state}, ""),
    "an average of another model": (lambda state, _: {"ema": {"fc.weight": torch.zeros(3, 3)}, "model": state}, ""),
    "a teacher beside it": (lambda state, _: {"teacher": {f"layer.{i}": torch.zeros(1) for i in range(500)},
                                              "student": state}, ""),
}


@pytest.mark.parametrize("name", FILES)
def test_weights_are_found_where_others_put_them(tmp_path, name):
    source, other, target, begun = small(), small(), small(), small()
    make, says = FILES[name]
    torch.save(make(as_released(source), as_released(other)), tmp_path / "weights.pth")
    assert load_released(target, tmp_path / "weights.pth") == says
    assert same_weights(source, target)
    init_from(begun, tmp_path / "weights.pth")
    assert same_weights(source, begun)


def test_what_is_beside_weights_is_left_out_and_no_code_runs(tmp_path):
    torch.save(mmcv({}), tmp_path / "a.pth")
    meta = load(tmp_path / "a.pth")["meta"]
    assert meta == {"epoch": 3, "best_score": 0.5, "best": 0.25, "count": 7, "good": True, "classes": ["cat"]}
    assert {type(value) for value in meta.values()} == {int, float, bool, list}
    old = pickle.dumps({"best": np.float64(0.5)}, protocol=2).replace(b"numpy._core", b"numpy.core")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive, zipfile.ZipFile(tmp_path / "old.pth", "w") as other:
        for entry in archive.namelist():  # as numpy 1 named it
            other.writestr(entry, old if entry.endswith("data.pkl") else archive.read(entry))
    assert load(tmp_path / "old.pth") == {"best": 0.5}
    for value in (np.zeros(3), argparse.Namespace(lr=1), np.array(["text"])[0], print):
        torch.save({"model": {}, "args": value}, tmp_path / "b.pth")
        with pytest.raises(CheckpointError, match="refused, since loading it would run code|damaged"):
            load(tmp_path / "b.pth")


@pytest.mark.parametrize(("state", "keys"), [({}, "none"), ({"epoch": 3, "args": {"lr": 1}}, "epoch, args"),
                                             (dict.fromkeys("abcdefghi", 1), "a, b, c, d, e, f, g, h and more")])
def test_where_there_are_no_weights_the_keys_are_listed(tmp_path, state, keys):
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as error:
        load_released(small(), tmp_path / "a.pth")
    assert str(error.value) == f"{tmp_path / 'a.pth'}: holds no weights; its keys are {keys}"
    assert recognise(tmp_path / "a.pth") == {}


def test_of_our_own_checkpoints_the_weights_to_use_are_taken():
    used, raw, target = small(), small(), small()
    state = {"name": "vig_nano", "config": {}, "classes": ["a"], "model": used.state_dict(),
             "training": {"model": raw.state_dict(), "average": raw.state_dict()}}
    assert load_released(target, state) == "" and same_weights(used, target)


def test_a_backbone_is_found_too(tmp_path):
    source, target = (create_model("resnet_nano").backbone for _ in range(2))
    torch.save({"net": with_prefix("module.encoder.", source.state_dict()) | {"module.fc.weight": torch.zeros(2)}},
               tmp_path / "a.pth")
    load_backbone(target, "nano", tmp_path / "a.pth")
    assert same_weights(source, target)
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a.pth: holds no weights; its keys are epoch"):
        load_backbone(target, "nano", tmp_path / "a.pth")


def test_the_model_is_recognised_and_what_is_not_known_is_said(tmp_path):
    model = create_model("vig_nano")
    for prefix, wrapper in (("", "state_dict"), ("module._orig_mod.", "net"), ("backbone.model.", "params")):
        torch.save({wrapper: with_prefix(prefix, as_released(model))}, tmp_path / "a.pth")
        found = recognise(tmp_path / "a.pth")
        assert found["name"] == "vig_nano" and found["config"] == {"patch": 8, "img_size": (64, 64)}
        assert "it names no classes: a last layer for as many as the data have is kept" in found["said"]
    torch.save({"model": model.state_dict(), "model_ema": model.state_dict()}, tmp_path / "a.pth")
    assert AVERAGE.format("model_ema", "model") in recognise(tmp_path / "a.pth")["said"]


# ---- safetensors ----------------------------------------------------------------------------------------------------

KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
         torch.uint8: "U8", torch.bool: "BOOL"}


def safetensors(state, **header):
    numbers = b""
    for name, value in state.items():
        data = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.ndim else (
            value.view(1).view(torch.uint8).numpy().tobytes())
        header[name] = {"dtype": KINDS[value.dtype], "shape": list(value.shape),
                        "data_offsets": [len(numbers), len(numbers) + len(data)]}
        numbers += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + numbers


def test_safetensors_are_read(tmp_path):
    source, target = small(), small()
    (tmp_path / "a.safetensors").write_bytes(safetensors(as_released(source), __metadata__={"format": "pt"}))
    load_released(target, tmp_path / "a.safetensors")
    assert same_weights(source, target)
    every = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in KINDS} | {
        "none": torch.zeros(0, 4), "one": torch.tensor(5.5)}
    (tmp_path / "b").write_bytes(content := safetensors(every))
    found = load(tmp_path / "b")
    assert found.keys() == every.keys()
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in every.items())
    for broken in (content[:-1], content[:30] + b"?" + content[31:], content.replace(b'"F64"', b'"F99"')):
        (tmp_path / "b").write_bytes(broken)
        with pytest.raises(CheckpointError, match="a safetensors file that is cut short, damaged or of other numbers"):
            load(tmp_path / "b")


# ---- files that are no checkpoints ----------------------------------------------------------------------------------


def archive(kind):
    """A tar, zip, npz or TorchScript file, as bytes."""
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
    elif kind == "npz":
        np.savez(buffer, a=np.zeros(3))
    elif kind == "script":
        with zipfile.ZipFile(buffer, "w") as zipped:
            for name in ("constants.pkl", "data.pkl", "code/__torch__.py"):
                zipped.writestr(f"program/{name}", b"")
    else:
        with zipfile.ZipFile(buffer, "w") as zipped:
            zipped.writestr("weights/vig.pth", b"x" * 100)
    return buffer.getvalue()


OTHERS = {
    "a page": (b"\n<!DOCTYPE html><html>404</html>", "a web page; the server sent it"),
    "an error in XML": (b'<?xml version="1.0"?><Error/>', "a web page; the server sent it"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "a pointer of Git LFS"),
    "tar": (archive("tar"), "a tar archive; unpack it"),
    "gzip": (gzip.compress(b"x" * 100), "compressed by gzip; unpack it"),
    "zip": (archive("zip"), "a zip archive of other files, as weights/vig.pth; unpack it"),
    "npz": (archive("npz"), "arrays of numpy (npz)"),
    "npy": (b"\x93NUMPY\1\0v\0", "an array of numpy"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "a file of HDF5"),
    "JSON": (b'{"model": "vig"}', "a text of JSON"),
    "TorchScript": (archive("script"), "a TorchScript program"),
    "empty": (b"", "cut short, damaged or not a checkpoint of torch"),
    "anything": (b"\x80\x04anything", "cut short, damaged or not a checkpoint of torch"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, name):
    content, says = OTHERS[name]
    (tmp_path / "file").write_bytes(content)
    for read in (load, recognise, lambda path: load_released(small(), path)):
        with pytest.raises(CheckpointError) as error:
            read(tmp_path / "file")
        assert str(error.value).startswith(f"{tmp_path / 'file'}: {says}") and "\n" not in str(error.value)


def test_the_folder_of_an_unpacked_checkpoint_can_be_packed_again(tmp_path):
    source, target = small(), small()
    torch.save(as_released(source), tmp_path / "weights.pth.tar")
    with zipfile.ZipFile(tmp_path / "weights.pth.tar") as packed:
        packed.extractall(tmp_path)
        inside, = {name.split("/")[0] for name in packed.namelist()}
    with pytest.raises(CheckpointError, match=r"the folder of an unpacked checkpoint; .*zip -0 -r weights.pth NAME"):
        load(tmp_path / inside)
    with zipfile.ZipFile(tmp_path / "again.pth", "w", zipfile.ZIP_STORED) as packed:
        for path in sorted((tmp_path / inside).rglob("*")):
            packed.write(path, path.relative_to(tmp_path))
    load_released(target, tmp_path / "again.pth")
    assert same_weights(source, target)


def test_a_checkpoint_of_ours_is_still_read(tmp_path):
    save(tmp_path / "a.pt", {"model": {"x": torch.ones(2)}})
    assert unwrapped(load(tmp_path / "a.pt"), "a.pt")[0]["x"].tolist() == [1, 1]
