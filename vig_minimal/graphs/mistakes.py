"""Error messages for a constructor of one's own: one sentence per mistake, and what to return instead."""

import torch
from torch import nn


def of_graph(graph) -> str:
    """Return what is wrong with the fields of a Graph."""
    index, weights, num_sources = graph.index, graph.weights, graph.num_sources
    given = {name: tensor for name, tensor in (("index", index), ("weights", weights)) if tensor is not None}
    if not given or hasattr(num_sources, "shape"):
        return ("a Graph takes num_sources and an index (B, N, k), weights (B, N, M), or an index and weights (B, N,"
                " k); give Graph(nodes.shape[1], weights=adjacency), or index=…")
    for name, tensor in given.items():
        if tensor.ndim != graph.ndim:
            shape = "(B, N, M)" if index is None else "(B, N, k)" if graph.ndim == 3 else "(B, G, N, k)"
            return (f"{name} of shape {tuple(tensor.shape)}: a {type(graph).__name__} takes {shape}, B images; for the"
                    f" same edges in all give {name}.expand(B{', -1' * (graph.ndim - 1)})")
    if index is None and weights.shape[-1] != num_sources:
        return (f"weights of shape {tuple(weights.shape)} for num_sources={num_sources}: they have one column per"
                f" source; give num_sources={weights.shape[-1]}")
    if index is not None and index.dtype != torch.int64:
        return f"index of {index.dtype}: it numbers the sources in int64; give index.long(), or an adjacency as weights"
    if len(given) == 2 and index.shape != weights.shape:
        return (f"index of shape {tuple(index.shape)}, weights of shape {tuple(weights.shape)}: an index takes one"
                " weight per edge; give both the same shape, or no index")
    if weights is not None and weights.dtype not in graph.dtypes:
        return (f"weights of {weights.dtype}: they are bool (edge or none) or float; give weights.bool() or"
                " weights.float()")
    return (f"index from {int(index.min())} to {int(index.max())}: num_sources={num_sources}, so sources are numbered"
            f" from 0 to {num_sources - 1}; correct the index, or num_sources")


def of_result(constructor, graph, nodes) -> str:
    """Return why `graph`, which a constructor returned, is no Graph of these nodes (B, N, C)."""
    name = name_of(constructor)
    if not hasattr(graph, "num_sources"):
        return (f"{name} returned a {type(graph).__name__}: a constructor returns a Graph; return"
                " Graph(nodes.shape[1], weights=adjacency), or index=…")
    images = (graph.weights if graph.index is None else graph.index).shape[0]
    sources = graph.features(nodes).shape[1]
    return (f"{name} returned a Graph of B={images}, N={graph.num_targets}, M={graph.num_sources} for {nodes.shape[0]}"
            f" images with {nodes.shape[1]} targets and {sources} sources each; give num_sources={sources} and edges of"
            " shape (B, N, …)")


def of_constructors(constructors, depth: int) -> str:
    """Return why there is not one constructor for each of `depth` blocks; "" if there is."""
    per_block = "return a list of {depth} constructors, one per block, as [{name}() for _ in range(config.depth)]"
    if not isinstance(constructors, (list, tuple)) or len(constructors) != depth:
        length = f" of {len(constructors)}" if isinstance(constructors, (list, tuple)) else ""
        return (f"a function of CONSTRUCTORS returned a {type(constructors).__name__}{length}; "
                + per_block.format(depth=depth, name="Beside"))
    for constructor in constructors:
        name = name_of(constructor)
        if isinstance(constructor, type) or not callable(constructor):
            return f"{name} is not called with nodes and grid; " + per_block.format(depth=depth, name=name)
        if isinstance(constructor, nn.Module) and sum(constructor is each for each in constructors) > 1:
            return f"one {name} is the constructor of several blocks; " + per_block.format(depth=depth, name=name)
    return ""


def name_of(constructor: object) -> str:
    """Return the name of a class or function, or of the class of a module."""
    return getattr(constructor, "__name__", type(constructor).__name__)
