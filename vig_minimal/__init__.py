"""vig_minimal: Vision Graph Neural Networks in plain PyTorch that reads like the papers."""

from dataclasses import fields, replace
from difflib import get_close_matches

from torch import nn

from . import clustervig, cnn2graph, gkgnet, lrgc, pyramid, svig, vig
from .graph import Graph

__all__ = ["Graph", "create_model", "list_constructors", "list_models"]

MODELS = {name: (vig.ViG, config) for paper in (vig, svig, lrgc) for name, config in paper.PRESETS.items()}
MODELS |= {name: (clustervig.ClusterViG, config) for name, config in clustervig.PRESETS.items()}
MODELS |= {name: (pyramid.PyramidViG, config) for name, config in pyramid.PRESETS.items()}
MODELS |= {name: (gkgnet.GKGNet, config) for name, config in gkgnet.PRESETS.items()}
MODELS |= {name: (cnn2graph.CNN2Graph, config) for name, config in cnn2graph.PRESETS.items()}
# fields that some constructors alone read: given with another one they would be silently ignored
READ_BY = {"epsilon": ("knn", "group_knn"), "threshold": ("threshold",), "decrement": ("threshold",),
           "clusters": ("cluster_knn",), "groups": ("group_knn",)}
CONSTRUCTORS = {"knn": vig.knn_constructors, "group_knn": vig.group_constructors,
                "threshold": svig.threshold_constructors, "lrgc": lrgc.lrgc_constructors,
                "cluster_knn": clustervig.cluster_constructors}


def list_models() -> list[str]:
    """The names that `create_model` takes: family and size, as in 'lrgc_ti'."""
    return list(MODELS)


def list_constructors() -> list[str]:
    """The graph constructors that the field `graph` of a model's config takes; a pyramid takes those of pooled sources,
    knn and group_knn."""
    return list(CONSTRUCTORS)


def create_model(name: str, **overrides) -> nn.Module:
    """The model of that name, randomly initialised; `overrides` are fields of its config.

    create_model("vig_ti", num_classes=10, img_size=32, patch=4, drop_path=0.1)

    Raises ValueError, naming what exists, for an unknown name or field or a value that cannot work.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}{_near(name, list_models())}")
    build, config = MODELS[name]
    known = [field.name for field in fields(config)]
    for field in overrides:
        if field not in known:
            raise ValueError(f"{name} has no field {field!r}{_near(field, known)}")
    # what follows from the image's size is worked out again for another one
    derived = {name: None for name in ("k", "stem") if name in known}
    config = replace(config, **{**derived, **overrides})
    if not hasattr(config, "graph"):
        return build(config)
    if config.graph not in CONSTRUCTORS:
        raise ValueError(f"unknown graph {config.graph!r}{_near(config.graph, list_constructors())}")
    for field, value in overrides.items():
        readers = READ_BY.get(field, (config.graph,))
        if config.graph not in readers and value != getattr(MODELS[name][1], field):
            graphs = " and ".join(f"graph={reader!r}" for reader in readers)
            raise ValueError(f"{field} is read by {graphs} alone, and here graph={config.graph!r}")
    # a pyramid makes its own constructors, of the nodes that each stage has
    return build(config, CONSTRUCTORS[config.graph](config)) if isinstance(config, vig.ViGConfig) else build(config)


def _near(word: str, known: list[str]) -> str:
    """'; did you mean …? There are: …'"""
    close = get_close_matches(str(word), known)
    return (f"; did you mean {' or '.join(close)}?" if close else ";") + f" There are: {', '.join(known)}"
