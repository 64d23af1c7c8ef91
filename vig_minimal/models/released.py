"""Load the authors' released weights, or start from the weights of another model."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
# names in the released AdaptViG -> ours, once the place of a part is known: see `_our_name`
ADAPTVIG_RENAMES = (
    (r"^stem\.stem\.", "stem."),
    (r"\.downsample\.conv\.", ".downsample."),
    (r"\.dws\.pw1\.", ".widen.0."),
    (r"\.dws\.norm1\.", ".widen.1."),
    (r"\.dws\.dw\.", ".depthwise.0."),
    (r"\.dws\.norm2\.", ".depthwise.1."),
    (r"\.dws\.pw2\.", ".narrow.0."),
    (r"\.dws\.norm3\.", ".narrow.1."),
    (r"(\.local\.\d+)\.layer_scale_2$", r"\1.scale.scale"),
    (r"\.layer_scale_1$", ".grapher.scale.scale"),
    (r"\.layer_scale_2$", ".ffn.scale.scale"),
    (r"\.mixer\.cpe\.pe\.", ".grapher.cpe."),
    (r"\.graph_conv\.nn\.", ".conv.update."),
    (r"\.graph_conv\.v_conv\.", ".conv.value."),
    (r"\.graph_conv\.q_(?:conv)?", ".constructor.query_"),
    (r"\.graph_conv\.k_(?:conv)?", ".constructor.key_"),
    (r"_\.weight$", ".weight"),
    (r"\.graph_conv\.temperature$", ".constructor.temperature"),
    (r"\.mixer\.", ".grapher."),
    (r"\.ffn\.([01])\.", r".ffn.fc1.\1."),
    (r"\.ffn\.([34])\.", lambda part: f".ffn.fc2.{int(part[1]) - 3}."),
    (r"^prediction\.([12])\.", lambda part: f"head.{int(part[1]) - 1}."),
    (r"^head\.(weight|bias)$", r"head.4.\1"),
    (r"^dist_head\.", "distilled."),
)
# what programs keep beside weights: tables that follow from the grid, counters of thop and of averages
NO_WEIGHTS = {"relative_pos", "total_ops", "total_params", "n_averaged"}
DEEPEST = 5  # nested dicts, the innermost with the weights
AVERAGES = ("ema", "average", "swa")  # in the names of such dicts
BODY = ("stem", "position", "blocks", "stages", "backbone")  # of a model: what does not depend on the classes


def load_released(model: nn.Module, path_or_state_dict: str | Path | Mapping) -> str:
    """Load the authors' released ViG, Pyramid ViG, SViG or GKGNet weights, or a checkpoint of train.py, into `model`.

    Takes a file (of torch, read without running code, or of safetensors) or a dict. The weights may lie in dicts inside
    it, under any prefix: what fits the model best is taken, of an average and raw weights the average. Returns a
    sentence on that choice, '' where there was none. Position embeddings of another grid are resized bicubically.
    Tables of relative positions are left out, since they follow from the grid. Raises CheckpointError, which names keys
    and shapes, for what does not fit, as released weights in a model with another convolution than conv="mr"; the model
    is then as it was.
    """
    weights, source, said = _read_weights(model, path_or_state_dict)
    _fit(model, weights, source)
    return said


def init_from(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor]) -> list[str]:
    """Start `model` from another one's weights: its stem, position and all blocks, and whatever else has the same name
    and shape. So GKGNet starts from Pyramid ViG-S, any model from its own trained for other classes, and a detector's
    backbone from a classifier.

    Takes what `load_released` takes. Returns the parts that stay as they were, as 'head' or 'labels'. Raises
    CheckpointError where the stem, position or a block does not fit; the model is then as it was.
    """
    if hasattr(model, "body"):
        heads = [name for name, part in model.named_children() if name != "backbone" and list(part.parameters())]
        return [*init_from(model.body, path_or_state_dict), "neck", *heads]
    weights, source, _ = _read_weights(model, path_or_state_dict)
    wanted = model.state_dict()
    taken = {key: value for key, value in weights.items()
             if key.split(".")[0] in BODY or (key in wanted and value.shape == wanted[key].shape)}
    rest = [key for key in wanted if key.split(".")[0] not in BODY and key not in taken]
    _fit(model, taken | {key: wanted[key] for key in rest}, source)
    return list(dict.fromkeys(key.split(".")[0] for key in rest if not key.endswith("num_batches_tracked")))


def unwrapped(state: Mapping, source: str, score: Callable[[dict[str, Tensor]], int] = len) -> tuple[dict, str]:
    """Return the weights in a checkpoint, also in dicts inside it, and a sentence on the choice if there was one.

    Those with the highest `score` are taken (default: the most tensors), of equal ones an average; of a checkpoint of
    train.py those to use. Raises CheckpointError, listing the keys there are, if there are none.
    """
    if {"name", "config", "classes", "model"} <= state.keys():
        state = state["model"]
    found = [(score(weights), any(word in name.lower() for word in AVERAGES), name or "the dict itself", weights)
             for name, weights in _dicts_of_weights(state) if weights]
    if not found:
        keys = ", ".join(map(str, list(state)[:8])) + " and more" * (len(state) > 8) or "none"
        raise CheckpointError(f"{source}: holds no weights; its keys are {keys}")
    points, average, name, weights = max(found, key=lambda entry: (entry[0], entry[0] > 0 and entry[1], len(entry[3])))
    others = [other for equal, is_average, other, _ in found if equal == points > 0 and not is_average]
    return weights, f"taken from {name}, an average, and not from {others[0]}" if average and others else ""


def _dicts_of_weights(state: Mapping, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the name and the tensors of a dict and of all dicts in it."""
    yield place, {key.replace("_orig_mod.", ""): value for key, value in state.items() if isinstance(key, str)
                  and isinstance(value, Tensor) and key.rpartition(".")[2] not in NO_WEIGHTS}
    for key, value in state.items() if depth < DEEPEST else ():
        if isinstance(value, Mapping):
            yield from _dicts_of_weights(value, f"{place}.{key}".removeprefix("."), depth + 1)


def without_prefix(weights: Mapping[str, Tensor], known: Callable[[str], bool]) -> dict[str, Tensor]:
    """Return the weights without the prefix, as `module.` or `model.backbone.`, that makes the most names known; a name
    that lacks it stays."""
    hits = Counter({"": 0})
    for key in weights:
        parts = key.split(".")
        hits.update(prefix for prefix, name in ((".".join([*parts[:i], ""]), ".".join(parts[i:]))
                                                for i in range(len(parts))) if known(name))
    prefix = max(hits, key=lambda prefix: (hits[prefix], -len(prefix)))
    return {key.removeprefix(prefix): value for key, value in weights.items()}


def misfit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return in words which keys are missing, unknown or of another shape; '' if all fit."""
    # num_batches_tracked is read by no computation, and old torch versions did not save it
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted]
    shapes = [f"{key} (given {tuple(given[key].shape)}, wanted {tuple(value.shape)})"
              for key, value in wanted.items() if key in given and given[key].shape != value.shape]
    problems = (("missing", missing), ("not in this model", unknown), ("of another shape", shapes))
    return "; ".join(f"{what}: {', '.join(keys[:6])}" + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
                     for what, keys in problems if keys)


def _read_weights(model: nn.Module, path_or_state_dict) -> tuple[dict[str, Tensor], str, str]:
    """Return the weights of a file or dict under our names, the name of their source, and a sentence on the choice."""
    is_file = isinstance(path_or_state_dict, (str, Path))
    state = load(path_or_state_dict) if is_file else path_or_state_dict
    source = str(path_or_state_dict) if is_file else "the state dict"
    wanted, places = set(model.state_dict()), _places(model)

    def ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = without_prefix(weights, lambda key: _our_name(key, places) in wanted)
        return {_our_name(key, places): value for key, value in weights.items()}

    weights, said = unwrapped(state, source, score=lambda weights: len(wanted.intersection(ours(weights))))
    if any(".gconv." in key for key in weights) and (conv := getattr(model.config, "conv", "mr")) != "mr":
        raise CheckpointError(f"{source}: released weights are of conv='mr', this model has conv={conv!r}")
    return ours(weights), source, said


def _places(model: nn.Module) -> dict[str, str]:
    """Return released names of blocks and downsamplings -> ours. They are numbered in one row, in AdaptViG in
    one row a stage, which begins with its local blocks."""
    places = {}
    for i, stage in enumerate(getattr(model, "stages", ())):
        local = getattr(stage, "local", None)
        parts = [f"stages.{i}.downsample"] * (i > 0)  # the first stage has none
        parts += [f"stages.{i}.local.{j}" for j in range(len(local or ()))]
        parts += [f"stages.{i}.blocks.{j}" for j in range(len(stage.blocks))]
        start = len(places) if local is None else 0
        places |= {f"{start + j}" if local is None else f"{i}.{j}": part for j, part in enumerate(parts)}
    return places


def _our_name(key: str, places: Mapping[str, str]) -> str:
    if "0.0" in places:  # AdaptViG
        key = re.sub(r"^backbone\.(\d+\.\d+)\.", lambda place: places.get(place[1], place[0]) + ".", key)
        renames = ADAPTVIG_RENAMES
    else:
        renames = RENAMES
    for pattern, name in renames:
        key = re.sub(pattern, name, key)
    return re.sub(r"^place (\d+)", lambda place: places.get(place[1], f"blocks.{place[1]}"), key)


def _fit(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights that fit the model after resizing its position embedding, or raise CheckpointError."""
    wanted = model.state_dict()
    given, own = (state.get("position", torch.empty(0)) for state in (weights, wanted))  # (1, C, h, w)
    if given.ndim == 4 and given.shape[:2] == own.shape[:2] and given.shape != own.shape:
        weights["position"] = resize_position(given, own.shape[2:])
    if problems := misfit(wanted, weights):
        raise CheckpointError(f"{source} does not fit this model; {problems}")
    model.load_state_dict(weights, strict=False)
