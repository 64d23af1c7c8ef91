"""Cost of each constructor alone against the number of nodes: `python -m vig_minimal benchmark --graphs`."""

from argparse import Namespace
from dataclasses import replace

import torch
from tqdm import tqdm

from ...constructors import CONSTRUCTORS
from ...models.layers import FFN, Block, to_image
from ...models.registry import CONFIGS, list_constructors
from ...models.vig import Grapher
from ..chart import Axis, Chart, Series, draw_page, log_ticks
from ..command import save_picture
from ..panels import colours
from .floor import best_times, forward_only
from .throughput import in_own_process, peak_memory


def graph_figure(name: str, grid: int, batch: int, rounds: int, device: str, threads: int) -> tuple[float, ...]:
    """Return milliseconds an image to build that constructor's graph on grid² nodes, the graph's share of the time of a
    block of vig_ti, and the block's peak of memory in MiB.

    The constructor is that of the 7th of 12 blocks; κ is 4, and 6 from 784 nodes on, as in the paper. Features are
    random around 8 centres, the same in every run.
    """
    torch.set_num_threads(threads)
    config = replace(CONFIGS["vig_ti"], img_size=16 * grid, k=9, graph=name, clusters=4 if grid < 28 else 6)
    constructor = CONSTRUCTORS[name][0](config)[6].eval()
    block = Block(Grapher(config.dim, constructor), FFN(config.dim)).eval()
    block = block.to(device, memory_format=torch.channels_last)
    draw = torch.Generator().manual_seed(0)
    group = torch.randint(8, (batch, grid**2, 1), generator=draw).expand(-1, -1, config.dim)
    centres = torch.randn(batch, 8, config.dim, generator=draw)
    nodes = (torch.randn(batch, grid**2, config.dim, generator=draw) + centres.gather(1, group)).to(device)
    before = peak_memory(device)
    parts = [lambda x: constructor(x, (grid, grid)), lambda x: block(to_image(x, (grid, grid)))]
    building, whole = best_times(parts, nodes, forward_only, rounds)
    return building, building / whole, (peak_memory(device) - before) / 2**20


def print_graphs(args: Namespace) -> None:
    """Print the table of --graphs, a row for each constructor, and draw its picture."""
    grids = sorted(set(args.grids))
    about = args.batch, args.rounds, args.device, args.threads
    print("| graph | " + " | ".join(f"{grid**2} nodes: ms, share, MiB" for grid in grids) + " |\n|---|"
          + "---:|" * len(grids))
    curves = []
    for name, colour in zip(list_constructors(), colours(len(list_constructors()))):
        figures = {}
        for grid in tqdm(grids, name, leave=False, disable=None):
            figures[grid] = in_own_process(f"{name}, {grid**2} nodes", graph_figure, name, grid, *about)
            if figures[grid] is None:  # out of memory, and so would be larger grids
                break
        cells = ["{:.2f}, {:.0%}, {:.0f}".format(*figures[grid]) if figures.get(grid) else "-" for grid in grids]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        curves.append(Series(name, [(grid**2, figure[0]) for grid, figure in figures.items() if figure], colour))
    times = [milliseconds for curve in curves for _, milliseconds in curve.points]
    low, high = min(times) / 1.2, max(times) * 1.2
    nodes = [grid**2 for grid in grids]
    x, y = Axis(nodes[0] / 1.2, nodes[-1] * 1.2, nodes, log=True), Axis(low, high, log_ticks(low, high), log=True)
    title = f"building the graph of one block of 192 channels, {args.device}, best of {args.rounds} rounds"
    print()
    save_picture(draw_page(title, [Chart("ms an image", "nodes", x, y, curves, curves)]), args.out or "graphs.png")
