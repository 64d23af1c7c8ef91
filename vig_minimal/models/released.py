"""Weights that the papers' authors released, under our names; and starting a model from another one's weights."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from ..files import CheckpointError, load
from ..graphs.distance import full_precision

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
