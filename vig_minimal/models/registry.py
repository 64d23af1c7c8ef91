"""Every model by name, family_size, with its configuration and its number of parameters; `create_model` builds one.

Sizes ti, s, m, b and resnetNN are the papers'; nano is ours, for small images and laptops.
"""

import re
from dataclasses import fields, replace
from fnmatch import fnmatch
from pathlib import Path

from torch import nn

from ..atomic_files import CheckpointError, load
from ..constructors import CONSTRUCTORS
from ..constructors.schedules import PYRAMID_K, first_k
from .adaptvig import AdaptViG, AdaptViGConfig
from .checks import near
from .clustervig import ClusterViG, ClusterViGConfig
from .cnn2graph import CNN2Graph, CNN2GraphConfig
from .gkgnet import GKGNet, GKGNetConfig
from .pyramid import PyramidConfig, PyramidViG
from .released import unwrapped
from .vig import ViG, ViGConfig

NETWORKS = {ViGConfig: ViG, ClusterViGConfig: ClusterViG, PyramidConfig: PyramidViG, GKGNetConfig: GKGNet,
            AdaptViGConfig: AdaptViG, CNN2GraphConfig: CNN2Graph}

NANO = {"dim": 96, "depth": 6, "num_classes": 10, "img_size": 64, "patch": 8}
PYRAMID_NANO = {"dim": (24, 48, 96, 160), "depth": (1, 1, 2, 1), "num_classes": 10, "img_size": 64, "patch": 2}
ADAPTVIG_NANO = PYRAMID_NANO | {"local": (1, 1, 1, 1), "depth": (1, 1, 1, 1), "hops": (2, 1, 1, 1),
                                "distillation": False}
CVIG_TI = ClusterViGConfig(dim=192, depth=12, update_groups=1, distillation=True)
CVIG_B = replace(CVIG_TI, dim=640, depth=16, update_groups=4)
RESNET_NANO = {"backbone": "nano", "num_classes": 10, "img_size": 32}

CONFIGS = {                                                                      # parameters
    # ViG, Table 1: dim and depth
    "vig_nano": ViGConfig(**NANO),                                               #     933,098
    "vig_ti": ViGConfig(dim=192, depth=12),                                      #   7,184,744
    "vig_s": ViGConfig(dim=320, depth=16),                                       #  22,747,752
    "vig_b": ViGConfig(dim=640, depth=16),                                       #  86,841,832
    # SViG: ViG-Ti with q_0 = 0.89, δ = 0.03 (74.6 % top-1 in its authors' table; 0.86 and 0.03 give the same)
    "svig_nano": ViGConfig(**NANO, graph="threshold"),                           #     933,098
    "svig_ti": ViGConfig(dim=192, depth=12, graph="threshold"),                  #   7,184,744
    # LRGC section 3.2 and Table 2: ViG-Ti's sizes
    "lrgc_nano": ViGConfig(**NANO, graph="lrgc"),                                #   1,044,848
    "lrgc_ti": ViGConfig(dim=192, depth=12, graph="lrgc"),                       #   8,074,100
    # ClusterViG, Table III; the second, distillation classifier is counted
    "cvig_nano": ClusterViGConfig(**NANO),                                       #   1,181,066
    "cvig_ti": CVIG_TI,                                                          #  11,472,304
    "cvig_s": replace(CVIG_B, dim=320),                                          #  28,163,232
    "cvig_b": CVIG_B,                                                            # 104,803,792
    "cvig_b_784": replace(CVIG_B, patch=8, clusters=6),                          # 105,180,112
    # ViG, Table 2: widths and blocks of the pyramid's stages
    "pvig_nano": PyramidConfig(**PYRAMID_NANO),                                  #     973,098
    "pvig_ti": PyramidConfig(),                                                  #  10,714,376
    "pvig_s": PyramidConfig(dim=(80, 160, 400, 640)),                            #  27,251,912
    "pvig_m": PyramidConfig(dim=(96, 192, 384, 768), depth=(2, 2, 16, 2)),       #  49,525,832
    "pvig_b": PyramidConfig(dim=(128, 256, 512, 1024), depth=(2, 2, 18, 2)),     #  92,980,328
    # GKGNet section 4.1 and Table 1: Pyramid ViG-S's sizes; 34,017,840 at 448 and 34,673,200 at 576 pixels
    "gkgnet_nano": GKGNetConfig(**PYRAMID_NANO),                                 #   1,282,028
    "gkgnet_s": GKGNetConfig(dim=(80, 160, 400, 640)),                           #  33,265,200
    # AdaptViG: local and graph blocks, and widths, of its stages; the second, distillation classifier is counted
    "adaptvig_nano": AdaptViGConfig(**ADAPTVIG_NANO),                            #   1,165,293
    "adaptvig_s": AdaptViGConfig(),                                              #   8,685,785
    "adaptvig_m": AdaptViGConfig((48, 96, 192, 320), (4, 4, 12, 4), (4,) * 4),   #  18,062,812
    "adaptvig_b": AdaptViGConfig((48, 96, 192, 384), (5, 5, 15, 5), (5,) * 4),   #  26,987,231
    # CNN2GNN, Tables 1 and 2, and their baseline, the ResNet alone
    "resnet_nano": CNN2GraphConfig(**RESNET_NANO, aggregation="none"),           #   1,228,970
    "resnet_18": CNN2GraphConfig("resnet18", "none"),                            #  11,689,512
    "resnet_34": CNN2GraphConfig("resnet34", "none"),                            #  21,797,672
    "cnn2mean_nano": CNN2GraphConfig(**RESNET_NANO, aggregation="mean"),         #   1,231,530
    "cnn2mean_resnet18": CNN2GraphConfig("resnet18", "mean"),                    #  12,201,512
    "cnn2mean_resnet34": CNN2GraphConfig("resnet34", "mean"),                    #  22,309,672
    "cnn2max_nano": CNN2GraphConfig(**RESNET_NANO, aggregation="max"),           #   1,231,530
    "cnn2max_resnet18": CNN2GraphConfig("resnet18", "max"),                      #  12,201,512
    "cnn2max_resnet34": CNN2GraphConfig("resnet34", "max"),                      #  22,309,672
    "cnn2gnn_nano": CNN2GraphConfig(**RESNET_NANO, aggregation="gnn"),           #   1,362,858
    "cnn2gnn_resnet18": CNN2GraphConfig("resnet18", "gnn"),                      #  12,726,312
    "cnn2gnn_resnet34": CNN2GraphConfig("resnet34", "gnn"),                      #  22,834,472
    "cnn2transformer_nano": CNN2GraphConfig(**RESNET_NANO),                      #   1,756,074
    "cnn2transformer_resnet18": CNN2GraphConfig("resnet18"),                     #  14,299,176
    "cnn2transformer_resnet34": CNN2GraphConfig("resnet34"),                     #  24,407,336
}


EVAL_CROPS = {"pvig_b": 0.95}  # of the released models: side of the crop, where it is not the recipe's (0.9)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that `create_model` takes, or those that match a pattern like "lrgc_*" (none: an empty list)."""
    return [name for name in CONFIGS if fnmatch(name, pattern)]


def list_constructors() -> list[str]:
    """Return what the field `graph` of ViG, SViG and LRGC takes. ClusterViG takes "cluster_knn" alone and GKGNet
    "group_knn" alone; a pyramid takes "knn", "group_knn" and those of `constructors.OF_PLACES`."""
    return list(CONSTRUCTORS)


def create_model(name: str, **overrides) -> nn.Module:
    """Build the model of that name with random weights. `overrides` are fields of its config.

    create_model("vig_ti", num_classes=10, img_size=32, patch=4, drop_path=0.1)

    Raises ValueError, naming what exists, for an unknown name or field or a value that cannot work.
    """
    if name not in CONFIGS:
        raise ValueError(f"unknown model {name!r}{near(name, list_models())}")
    preset = CONFIGS[name]
    known = [field.name for field in fields(preset)]
    for field in overrides:
        if field not in known:
            raise ValueError(f"{name} has no field {field!r}{near(field, known)}")
    stem = {"stem": None} if "stem" in known else {}  # None: chosen by the image's size, not by the preset's
    config = replace(preset, **stem | overrides)
    network, graph = NETWORKS[type(config)], getattr(config, "graph", None)
    if hasattr(config, "graph") and graph not in list(CONSTRUCTORS):  # whatever was given, also what has no hash
        raise ValueError(f"unknown graph {graph!r}{near(graph, list_constructors())}")
    for field, value in overrides.items():
        readers = [reader for reader, (_, own_fields) in CONSTRUCTORS.items() if field in own_fields]
        if readers and graph not in readers and value not in (None, getattr(preset, field)):
            names = " and ".join(f"graph={reader!r}" for reader in readers)
            raise ValueError(f"{field} is read by {names} alone, and here graph={graph!r}")
    if isinstance(config, ViGConfig):
        one_per_block, _ = CONSTRUCTORS[graph]
        return network(config, one_per_block(config))
    return network(config)  # a pyramid makes its own constructors, for the nodes that each stage has


def as_now(name: str, config: dict) -> dict:
    """Return the fields of a checkpoint's config as this version has them.

    Checkpoints once kept the default k of their size. So a k that equals it counts as not
    chosen: the model is the same, and at other sizes k follows the size, as it did."""
    if "body" in config:  # a detector's backbone
        return config | {"body": tuple(as_now(name, dict(config["body"])).items())}
    preset = CONFIGS.get(name)
    if not isinstance(preset, (ViGConfig, PyramidConfig)) or "k" not in config:
        return config
    try:
        open_config = replace(preset, **config | {"k": None})
    except (TypeError, ValueError):
        return config  # cannot work, as `create_model` will say
    own = first_k(open_config.num_nodes) if isinstance(preset, ViGConfig) else PYRAMID_K
    return config | {"k": None} if type(config["k"]) is int and config["k"] == own else config


def recognise(path: str | Path) -> dict:
    """Return `name`, `config` (fields without num_classes) and `said` (how they were found) of the model whose weights
    a file holds; of a checkpoint of train.py also what else that keeps.

    A released file holds weights alone, under any prefix. The widths of its blocks tell model and size, the
    convolutions of the stem the patch, the position embedding the image; `eval_crop` is that of its released
    configuration where it is not the recipe's, else None. ViG-Ti and SViG-Ti cannot be told apart. {} for any other
    file; raises CheckpointError for one that cannot be read.
    """
    state = load(path)
    if isinstance(state.get("name"), str) and isinstance(state.get("config"), dict):
        if "body" in state["config"]:
            raise CheckpointError(f"{path}: holds a detector or a network for segmentation; --init-from takes a"
                                  " classifier's weights, --resume the others")
        config = as_now(state["name"], state["config"])
        config = {name: value for name, value in config.items() if name != "num_classes"}
        return state | {"config": config, "said": f"{state['name']}, as the checkpoint says"}
    try:
        weights, choice = unwrapped(state, str(path))
    except CheckpointError:
        return {}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    blocks = {tuple(map(int, re.findall(r"\d+", key)[:-2])): shape[0] for key, shape in shapes.items()
              if re.search(r"(^|\.)(backbone|blocks)\.\d+\.(0|grapher)\.fc1\.0\.weight$", key)}
    widths = [blocks[place] for place in sorted(blocks)]
    position = next((shape for key, shape in shapes.items() if key.endswith(("pos_embed", "position"))), ())
    kind = ViGConfig if len(set(widths)) == 1 else PyramidConfig
    kind = GKGNetConfig if any("label" in key for key in shapes) else kind
    patch = 2 ** (sum("stem." in key and len(shape) == 4 for key, shape in shapes.items()) - 1)
    for name, preset in CONFIGS.items():
        if type(preset) is kind and len(position) == 4 and not any("constructor" in key for key in shapes):
            sizes = [(preset.dim, preset.depth)] if kind is ViGConfig else zip(preset.dim, preset.depth, strict=True)
            if widths == [dim for dim, depth in sizes for _ in range(depth)]:
                alike = f" (s{name} has the same shapes: for it give --model s{name})" if f"s{name}" in CONFIGS else ""
                said = [f"{name}, by the shapes of its weights{alike}", choice, "it names no classes: a last layer for"
                        " as many as the data have is kept, and may mean others"]
                return {"name": name, "config": {"patch": patch, "img_size": tuple(patch * n for n in position[2:])},
                        "eval_crop": EVAL_CROPS.get(name), "said": "; ".join(filter(None, said))}
    return {}
