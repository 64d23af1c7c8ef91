"""Weights from elsewhere: those that the papers' authors released, and those of another model to start from."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..atomic_files import CheckpointError, load
from .layers import resize_position

# Names in the released ViG, Pyramid ViG, SViG (class DeepGCN) and GKGNet -> ours. «place N» is the N-th block, in a
# pyramid the N-th block or downsampling.
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
BODY = ("stem", "position", "blocks", "stages", "backbone")  # of a model: what does not depend on the classes


def load_released(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor]) -> None:
    """Load the authors' released ViG, Pyramid ViG, SViG or GKGNet weights, or a checkpoint of train.py, into `model`.

    Takes a file (read without running code) or a state dict, bare or under one of WRAPPERS, with or without a `module.`
    prefix. Position embeddings of another grid are resized bicubically. Tables of relative positions are left out,
    since they follow from the grid. Raises CheckpointError, which names keys and shapes, for what does not fit, as
    released weights in a model with another convolution than conv="mr"; the model is then as it was.
    """
    _fit(model, *_read_weights(model, path_or_state_dict))


def init_from(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor]) -> list[str]:
    """Start `model` from another one's weights: its stem, position and all blocks, and whatever else has the same name
    and shape. So GKGNet starts from Pyramid ViG-S, any model from its own trained for other classes, and a detector's
    backbone from a classifier.

    Takes what `load_released` takes. Returns the parts that stay as they were, as 'head' or 'labels'. Raises
    CheckpointError where the stem, position or a block does not fit; the model is then as it was.
    """
    if hasattr(model, "body"):
        return [*init_from(model.body, path_or_state_dict), "neck", "rpn", "roi_heads"]
    weights, source = _read_weights(model, path_or_state_dict)
    wanted = model.state_dict()
    taken = {key: value for key, value in weights.items()
             if key.split(".")[0] in BODY or (key in wanted and value.shape == wanted[key].shape)}
    rest = [key for key in wanted if key.split(".")[0] not in BODY and key not in taken]
    _fit(model, taken | {key: wanted[key] for key in rest}, source)
    return list(dict.fromkeys(key.split(".")[0] for key in rest if not key.endswith("num_batches_tracked")))


def unwrapped(state: Mapping) -> Mapping:
    """The weights of a checkpoint, which may be inside one of WRAPPERS: the first that is there."""
    return next((state[wrapper] for wrapper in WRAPPERS if isinstance(state.get(wrapper), Mapping)), state)


def misfit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Which keys are missing, unknown or of another shape, in words; '' where all fit."""
    # num_batches_tracked is read by no computation, and old torch versions did not save it
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted]
    shapes = [f"{key} (given {tuple(given[key].shape)}, wanted {tuple(value.shape)})"
              for key, value in wanted.items() if key in given and given[key].shape != value.shape]
    problems = (("missing", missing), ("not in this model", unknown), ("of another shape", shapes))
    return "; ".join(f"{what}: {', '.join(keys[:6])}" + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
                     for what, keys in problems if keys)


def _read_weights(model: nn.Module, path_or_state_dict) -> tuple[dict[str, Tensor], str]:
    """The weights of a file or state dict under our names, and the name of their source for messages."""
    is_file = isinstance(path_or_state_dict, (str, Path))
    state = unwrapped(load(path_or_state_dict) if is_file else path_or_state_dict)
    source = str(path_or_state_dict) if is_file else "the state dict"
    places = []
    for i, stage in enumerate(getattr(model, "stages", ())):  # released pyramids number all of these in one row
        places += [f"stages.{i}.downsample", *(f"stages.{i}.blocks.{j}" for j in range(len(stage.blocks)))]
    places = dict(enumerate(places[1:]))  # the first stage has no downsampling
    weights = {_our_name(str(key), places): value for key, value in state.items()
               if isinstance(value, Tensor) and not str(key).endswith(".relative_pos")}
    if any(".gconv." in key for key in state) and model.config.conv != "mr":
        raise CheckpointError(f"{source}: released weights are of conv='mr', this model has conv={model.config.conv!r}")
    if not weights:
        raise CheckpointError(f"{source}: holds no weights, neither bare nor under {', '.join(WRAPPERS)}")
    return weights, source


def _our_name(key: str, places: Mapping[int, str]) -> str:
    key = key.removeprefix("module.")
    for pattern, name in RENAMES:
        key = re.sub(pattern, name, key)
    return re.sub(r"^place (\d+)", lambda place: places.get(int(place[1]), f"blocks.{place[1]}"), key)


def _fit(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights that fit the model after resizing its position embedding, or raise CheckpointError."""
    wanted = model.state_dict()
    given, own = (state.get("position", torch.empty(0)) for state in (weights, wanted))  # (1, C, h, w)
    if given.ndim == 4 and given.shape[:2] == own.shape[:2] and given.shape != own.shape:
        weights["position"] = resize_position(given, own.shape[2:])
    if problems := misfit(wanted, weights):
        raise CheckpointError(f"{source} does not fit this model; {problems}")
    model.load_state_dict(weights, strict=False)
