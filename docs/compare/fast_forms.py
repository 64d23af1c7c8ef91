"""What each fast form of graphs/fast/ brings: `python docs/compare/fast_forms.py`, about a minute.

Both forms take turns on the same input; the best turn counts, in milliseconds an image. For what has a gradient,
a forward and backward pass, and the bytes that autograd keeps of an image in between.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vig_minimal import Graph, plain  # noqa: E402
from vig_minimal.constructors.cluster_knn import cluster_graph  # noqa: E402
from vig_minimal.constructors.knn import nearest  # noqa: E402
from vig_minimal.constructors.lrgc import alpha_of  # noqa: E402
from vig_minimal.graphs.aggregate import max_relative  # noqa: E402
from vig_minimal.graphs.distance import fill_diagonal, smallest, squared_distance, unit  # noqa: E402
from vig_minimal.graphs.kmeans import kmeans  # noqa: E402
from vig_minimal.models.pyramid import relative_positions  # noqa: E402

B, N, C, ROUNDS = 8, 196, 192, 7


def kept(work: Callable[[], Tensor]) -> float:
    """Bytes that autograd keeps for the backward pass of `work()`, beside the inputs."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    del result
    return sum(storage.nbytes() for storage in storages.values())


def compare(name: str, work: Callable[[], object], backward: bool = False, images: int = B) -> None:
    """Print one line: the time of an image in both forms and, with `backward`, the megabytes kept."""
    best = {True: float("inf"), False: float("inf")}
    for _ in range(ROUNDS):
        for on in best:
            with plain(on), torch.set_grad_enabled(backward):
                begun = time.perf_counter()
                result = work()
                if backward:
                    result.sum().backward()
                best[on] = min(best[on], time.perf_counter() - begun)
    memory = []
    for on in best if backward else ():
        with plain(on):
            memory.append(kept(work) / images / 1e6)
    ms = [1e3 * best[on] / images for on in best]
    print(f"{name:44} {ms[0]:9.3f} {ms[1]:9.3f} {ms[0] / ms[1]:7.1f}", *(f"{megabytes:8.2f}" for megabytes in memory))


def main() -> None:
    torch.manual_seed(0)
    x, score = torch.randn(B, N, C, requires_grad=True), torch.randn(B, N, N, requires_grad=True)
    tau, nodes = torch.tensor(-1.0, requires_grad=True), unit(x.detach())
    distance = squared_distance(nodes, nodes)
    graphs = {"k-NN": Graph(N, index=distance.topk(13, largest=False).indices),
              "25 % of all pairs": Graph(N, weights=torch.rand(B, N, N) < 0.25),
              "α": Graph(N, weights=alpha_of(score.detach(), tau.detach()).requires_grad_())}
    print(f"{'':44} {'plain ms':>9} {'fast ms':>9} {'times':>7} {'plain MB':>8} {'fast MB':>8}")
    for name, graph in graphs.items():
        compare(f"maximum.py, {name}", lambda graph=graph: max_relative(x, graph), backward=True)
        compare(f"search.py, sparse.py, {name}, no gradient", lambda graph=graph: max_relative(x, graph))
    compare("alpha.py", lambda: alpha_of(score, tau), backward=True)
    compare("smallest.py, 18 of 196", lambda: smallest(distance, 18))
    compare("diagonal.py", lambda: fill_diagonal(distance, 0.0))
    compare("nearest.py, smallest.py, 18 of 196", lambda: nearest(nodes, nodes, None, 18))
    compare("rounds.py, 4 of 196", lambda: kmeans(x.detach(), 4, init=x[:, :4].detach()))
    labels = kmeans(x.detach(), 4, init=x[:, :4].detach())[0]
    compare("partitions.py, 18 in 4 of 196", lambda: cluster_graph(x.detach(), labels, 4, 18))
    many = torch.randn(2, 1764, C)
    labels = kmeans(many, 6, init=many[:, :6])[0]
    compare("partitions.py, 18 in 6 of 1764", lambda: cluster_graph(many, labels, 6, 18), images=2)
    compare("position_rows.py, 3136 by 196", lambda: relative_positions(48, (56, 56), 196), images=1)


if __name__ == "__main__":
    main()
