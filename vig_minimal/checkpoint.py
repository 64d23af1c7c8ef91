"""Checkpoints: saving, loading, going on, and weights released by the papers' authors.

A checkpoint is a dict of tensors and plain data and nothing else: `weights_only=True` loads it, and runs no code. The
file ends with its own checksum. Writing is atomic, and the last.pt before this one stays as previous.pt.

    model      the weights to use: the exponential moving average where the recipe has one, else the trained weights
    name, config, classes, mean, std   what is needed to use them
    recipe, epoch, step, steps, best   how they came about: epochs and steps done, steps of an epoch
    training   in last.pt only, what is needed to go on: weights, moving average, optimiser, sums of the epoch

No random state is kept: every random draw is a function of (seed, epoch, step or image), see `data.mixed_seed`.
"""

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distance import full_precision

PLAIN = (bool, int, float, str, type(None), Tensor)
CHECKSUM_SIZE = 32  # bytes


class CheckpointError(ValueError):
    """A file that cannot be used, said in one sentence."""


@contextlib.contextmanager
def replacing(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """A file to write, which becomes `path` at the end: at any moment `path` is the old file or the new one, whole."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, mode, newline=None if "b" in mode else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(path: str | Path, state: dict, keep: str | None = None) -> None:
    """Write a checkpoint, atomically, with its checksum. Raises OSError, the old file untouched, where that fails.

    keep: the name that the old file, if there is one, takes in its folder.
    Raises TypeError for anything but tensors, plain data, and dicts, lists and tuples of them.
    """
    _check_plain(state, "checkpoint")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data, path = buffer.getvalue(), Path(path)
    with replacing(path) as file:
        # torch writes a zip archive, which ends with the length of a comment: 0. The checksum becomes that comment.
        file.write(data[:-2] + CHECKSUM_SIZE.to_bytes(2, "little") + _checksum(data))
        if keep and path.exists():
            file.flush()
            os.fsync(file.fileno())
            os.replace(path, path.with_name(keep))


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_SIZE).digest()


def _check_plain(value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _check_plain(part, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            _check_plain(part, f"{where}[{i}]")
    elif not isinstance(value, PLAIN):
        raise TypeError(f"{where} is a {type(value).__name__}: a checkpoint holds tensors and plain data only")


def load(path: str | Path) -> dict:
    """The dict in a checkpoint, its tensors on the CPU. Raises CheckpointError for a file that is missing, cut short,
    changed since it was written or no checkpoint, and for one that would run code."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if data[-CHECKSUM_SIZE - 2:-CHECKSUM_SIZE] == CHECKSUM_SIZE.to_bytes(2, "little"):  # files of others have none
        data, checksum = data[:-CHECKSUM_SIZE - 2] + b"\0\0", data[-CHECKSUM_SIZE:]
        if _checksum(data) != checksum:
            raise CheckpointError(f"{path}: damaged, its checksum is not that of its content")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; whatever it was, the file is not usable
        if code := re.search(r"GLOBAL (\S+)|unsupported (?:class|function) (\S+)", str(error), re.IGNORECASE):
            raise CheckpointError(f"{path}: refused, since loading it would run code ({code[1] or code[2]}); a"
                                  " checkpoint must hold tensors and plain data only") from None
        raise CheckpointError(f"{path}: cut short, damaged or not a checkpoint of torch") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a dict of weights")
    return state


def load_run(path: str | Path) -> dict:
    """A checkpoint that train.py wrote. Raises CheckpointError as `load` does, and for a file of anything else."""
    state = load(path)
    if missing := [key for key in ("name", "config", "classes", "recipe", "model") if key not in state]:
        raise CheckpointError(f"{path}: not a checkpoint of train.py, it has no {missing[0]!r} (released weights are"
                              " loaded with vig_minimal.checkpoint.load_released)")
    return state


def load_latest(folder: str | Path) -> tuple[dict | None, Path | None, str]:
    """The run's last checkpoint or, if that cannot be used, the one before it; its path; and a sentence on what was
    wrong with the last, or "". (None, None, "") where there is none yet. Raises CheckpointError if no one can be used.
    """
    wrong = []
    for path in (Path(folder, "last.pt"), Path(folder, "previous.pt")):
        if path.exists():
            try:
                return load_run(path), path, "; ".join(wrong)
            except CheckpointError as error:
                wrong.append(str(error))
    if wrong:
        raise CheckpointError("; ".join(wrong))
    return None, None, ""


def position(state: dict, path: str | Path, steps: int) -> tuple[int, int]:
    """Where a run goes on: steps taken in all, and in the epoch that is open. steps: of an epoch, now.

    Raises CheckpointError for a checkpoint from the middle of an epoch that had another number of steps.
    """
    in_epoch = state["step"] - state["epoch"] * state["steps"]
    if in_epoch and steps != state["steps"]:
        raise CheckpointError(f"{path}: from the middle of an epoch of {state['steps']} steps, and this run's have"
                              f" {steps}; go on with the same data and batch size")
    return state["epoch"] * steps + in_epoch, in_epoch


def check_same(state: dict, path: str | Path, name: str, config: dict, classes: list[str]) -> None:
    """Raises CheckpointError unless `state`, from `load_run`, is of that model and for those classes."""
    if state["name"] != name:
        raise CheckpointError(f"{path}: a checkpoint of {state['name']}, and this run's model is {name}; choose --model"
                              f" {state['name']} or another checkpoint")
    if len(state["classes"]) != len(classes):
        raise CheckpointError(f"{path}: trained for {len(state['classes'])} classes, and this run's data has"
                              f" {len(classes)}")
    if state["classes"] != classes:
        theirs, ours = next(pair for pair in zip(state["classes"], classes) if pair[0] != pair[1])
        raise CheckpointError(f"{path}: trained for other classes: where it has {theirs!r}, the data has {ours!r}")
    theirs = state["config"]
    if differ := [key for key in config if theirs.get(key) != config[key]]:
        theirs, ours = (", ".join(f"{key}={values.get(key)}" for key in differ) for values in (theirs, config))
        raise CheckpointError(f"{path}: trained with {theirs}, and this run has {ours}; give the flags it was trained"
                              " with")


# The names of the released ViG, Pyramid ViG, SViG (class DeepGCN) and GKGNet, and ours; `place` is the block or, in a
# pyramid, the block or downsampling of that number.
RENAMES = (
    (r"^backbone\.(?=backbone|stem|pos_embed|gcn_label|ffn_label|label_lt)", ""),  # GKGNet's backbone has a backbone
    (r"^pos_embed$", "position"),
    (r"^stem\.convs\.", "stem.layers."),
    (r"^backbone\.(\d+)\.0\.", r"place \1.grapher."),
    (r"^backbone\.(\d+)\.1\.", r"place \1.ffn."),
    (r"^backbone\.(\d+)\.conv\.", r"place \1."),
    (r"^gcn_label\.(\d+)\.0\.", r"cross.\1."),
    (r"^ffn_label\.(\d+)\.0\.", r"widen.\1."),
    (r"^label_lt\.", "labels."),
    (r"^head\.fc1\.", "of_labels."),
    (r"^head\.fc2\.", "of_patches."),
    (r"\.graph_conv\.gconv\.nn\.", ".conv.update."),
    (r"^prediction\.", "head."),
)
WRAPPERS = ("state_dict_ema", "state_dict", "model")


def load_released(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor]) -> None:
    """Put the authors' released ViG, Pyramid ViG, SViG or GKGNet weights, or those of a checkpoint of train.py, into
    `model`.

    Takes a file (read without running code) or a state dict, bare or under `state_dict_ema`, `state_dict` or `model`
    (the first that is there), with or without a `module.` prefix. Position embeddings of another grid are resized
    bicubically; tables of relative positions, which follow from the grid, are left out. Released weights are of the
    max-relative convolution: with another one they are refused.

    Raises CheckpointError, which names keys and shapes, for what does not fit; the model is then as it was.
    """
    weights, source = _read_weights(model, path_or_state_dict)
    _fit(model, weights, source)


def init_from(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor]) -> list[str]:
    """Start `model` from weights of another one: stem, position and all blocks from there, and of the rest what has the
    same name and shape. So GKGNet starts from Pyramid ViG-S, or any model from its own trained for other classes.

    Takes what `load_released` takes. Returns the parts that stay as they were, as 'head' or 'labels'. Raises
    CheckpointError where the stem, position or a block does not fit; the model is then as it was.
    """
    weights, source = _read_weights(model, path_or_state_dict)
    wanted = model.state_dict()

    def is_body(key: str) -> bool:
        return key.split(".")[0] in ("stem", "position", "blocks", "stages")

    taken = {key: value for key, value in weights.items()
             if is_body(key) or (key in wanted and value.shape == wanted[key].shape)}
    rest = [key for key in wanted if not is_body(key) and key not in taken]
    _fit(model, taken | {key: wanted[key] for key in rest}, source)
    return list(dict.fromkeys(key.split(".")[0] for key in rest if not key.endswith("num_batches_tracked")))


def _read_weights(model: nn.Module, path_or_state_dict) -> tuple[dict[str, Tensor], str]:
    """The weights of a file or state dict under our names, and what to call it."""
    is_file = isinstance(path_or_state_dict, (str, Path))
    state = load(path_or_state_dict) if is_file else path_or_state_dict
    source = str(path_or_state_dict) if is_file else "the state dict"
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    places = _places(model)
    weights = {_our_name(str(key), places): value for key, value in state.items()
               if isinstance(value, Tensor) and not str(key).endswith(".relative_pos")}
    if any(".gconv." in key for key in state) and model.config.conv != "mr":
        raise CheckpointError(f"{source}: released weights are of conv='mr', this model has conv={model.config.conv!r}")
    if not weights:
        raise CheckpointError(f"{source}: holds no weights, neither bare nor under {', '.join(WRAPPERS)}")
    return weights, source


def _places(model: nn.Module) -> list[str]:
    """Our names of what the released code numbers in a row: blocks and, in a pyramid, the downsampling between them."""
    if not hasattr(model, "stages"):
        return [f"blocks.{i}" for i in range(len(model.blocks))]
    rows = [[f"stages.{i}.downsample", *(f"stages.{i}.blocks.{j}" for j in range(len(stage.blocks)))]
            for i, stage in enumerate(model.stages)]
    return sum(rows, [])[1:]  # the first stage has no downsampling


def _our_name(key: str, places: list[str]) -> str:
    key = key.removeprefix("module.")
    for pattern, name in RENAMES:
        key = re.sub(pattern, name, key)
    number = re.match(r"place (\d+)", key)
    if number and int(number[1]) < len(places):
        key = places[int(number[1])] + key[number.end():]
    return key.replace("place ", "blocks.")  # of a number that this model does not have


def _fit(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    wanted = model.state_dict()
    for key in wanted.keys() & weights.keys():
        # only the table of positions depends on the grid: (1, C, h, w)
        if key == "position" and weights[key].ndim == 4 and weights[key].shape[:2] == wanted[key].shape[:2]:
            weights[key] = resize_position(weights[key], wanted[key].shape[2:])
    # a counter that no computation reads, and that old torch versions did not save
    missing = [key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")]
    unknown = [key for key in weights if key not in wanted]
    shapes = [f"{key} (given {tuple(weights[key].shape)}, wanted {tuple(value.shape)})"
              for key, value in wanted.items() if key in weights and weights[key].shape != value.shape]
    problems = [f"{what}: {_some(keys)}" for what, keys in
                (("missing", missing), ("not in this model", unknown), ("of another shape", shapes)) if keys]
    if problems:
        raise CheckpointError(f"{source} does not fit this model; {'; '.join(problems)}")
    model.load_state_dict(weights, strict=False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def resize_position(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A position embedding (1, C, h, w) on another grid, bicubically: (1, C, *grid). On its own it is untouched."""
    if tuple(table.shape[2:]) == tuple(grid):
        return table
    return F.interpolate(full_precision(table), tuple(grid), mode="bicubic").to(table.dtype)
