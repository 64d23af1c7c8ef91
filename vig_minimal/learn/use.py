"""A student's functions in the place of the package's: models then build and read their graphs with the functions of
lessons 3, 5, 6 and 8. Everything else keeps its fast form."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from ..constructors import knn, lrgc
from ..graphs import aggregate
from ..graphs.graph import Graph, GroupGraph
from ..models import convs
from .answers import Progress, load
from .lessons import owner


@contextlib.contextmanager
def use_lessons(folder: str | Path) -> Iterator[None]:
    """Replace k-NN, max-relative, interleaving, and LRGC's scores and threshold by the functions of a folder of
    lessons. What no lesson covers, such as pooled sources, groups and three interleaved vectors, stays the package's.

    Raises ValueError unless lessons 3, 5, 6 and 8 are done.
    """
    folder = Path(folder)
    if missing := list(map(str, Progress(folder).missing())):
        raise ValueError(f"--lessons {folder}: needs lessons 3, 5, 6 and 8, and {' and '.join(missing)}"
                         f" {'is' if len(missing) == 1 else 'are'} not done; next: python -m vig_minimal learn"
                         f" {missing[0]}")
    names = ("nearest", "max_relative", "interleave", "scores", "soft_threshold", "strongest")
    theirs = {name: load(folder / owner(name).file)[name] for name in names}
    with contextlib.ExitStack() as replaced:
        for place, name, function in (
            (knn, "nearest_sources", _nearest_sources(theirs["nearest"], knn.nearest_sources)),
            (aggregate, "maximum", _maximum(_by_image(theirs["max_relative"]), _by_image(theirs["strongest"]),
                                            aggregate.maximum)),
            (convs, "interleave", _interleave(theirs["interleave"], convs.interleave)),
            (lrgc.LRGC, "scores", _scores(theirs["scores"])),
            (lrgc, "alpha_of", theirs["soft_threshold"]),
        ):
            replaced.enter_context(mock.patch.object(place, name, function))
        yield


def _nearest_sources(theirs: Callable, ours: Callable) -> Callable:
    def nearest_sources(x: Tensor, sources: Tensor | None, relative: Tensor | None, k: int, dilation: int) -> Tensor:
        if sources is None and relative is None:
            return theirs(x.float(), k * dilation)
        return ours(x, sources, relative, k, dilation)

    return nearest_sources


def _by_image(theirs: Callable) -> Callable:
    """Call a function of (B, ...) tensors once for each image: the (1, N, M, C) messages of one image fit into a CPU's
    cache. A step of `vig_nano` (batch 32) with a plainly written maximum takes 1.4 s instead of 1.9 s."""
    def by_image(*tensors: Tensor) -> Tensor:
        return torch.cat([theirs(*image) for image in zip(*(tensor.split(1) for tensor in tensors), strict=True)])

    return by_image


def _maximum(max_relative: Callable, strongest: Callable, ours: Callable) -> Callable:
    def maximum(x: Tensor | None, y: Tensor, graph: Graph) -> Tensor:
        if x is None or isinstance(graph, GroupGraph):
            return ours(x, y, graph)
        adj = graph.adj()
        if adj.dtype == torch.bool:
            return max_relative(x, y, adj)
        return strongest(x, adj) if y is x else ours(x, y, graph)

    return maximum


def _interleave(theirs: Callable, ours: Callable) -> Callable:
    def interleave(x: Tensor, *others: Tensor | None) -> Tensor:
        given = [other for other in others if other is not None]
        return theirs(x, given[0].to(x.dtype)) if len(given) == 1 else ours(x, *given)

    return interleave


def _scores(theirs: Callable) -> Callable:
    def scores(self: lrgc.LRGC, h: Tensor) -> Tensor:
        """W h + b as one product: b is the column of a feature that is always 1."""
        h = torch.cat([h, torch.ones_like(h[..., :1])], -1).to(self.tau.dtype)  # (B, N, D + 1)
        matrices = [torch.cat([layer.weight, layer.bias[:, None]], 1) for layer in (self.key, self.query)]
        return theirs(h, *matrices)

    return scores
