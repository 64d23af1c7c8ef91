"""Rows of the pyramid's relative positions (defined in models/pyramid.py) without an N × N table, kept for every image
size.

Rows are resized one by one, so a block of them at a time gives the same bits. P_i·P_j is a sum of two parts, one of i's
and j's columns and one of their rows. With pooling each source is resized from four entries, and only these are made.
A table that is too large to keep is made anew a few rows at a time.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENTRIES = 2**22  # of the table of relative positions, made at a time: 32 MiB
KEPT = 2**26  # the largest table, and all tables of a stage for other sizes together, that are kept: 256 MiB
Grid = tuple[int, int]


def relative_positions(dim: int, grid: Grid, sources: int) -> "Tensor | RelativeRows":
    """Do `models.pyramid.relative_positions`, or promise the rows of a table that is too large to keep."""
    rows = RelativeRows(dim, grid, sources, torch.device("cpu"))
    return rows if rows.entries > KEPT else _rows(dim, grid, sources)


def relative_on(stage: nn.Module, height: int, width: int) -> "Tensor | RelativeRows":
    """Do `models.pyramid.Stage.relative_on`: at another size than the config's a table that is made once."""
    grid, device = (height, width), stage.blocks[0].grapher.fc1[0].weight.device
    if grid == stage.grid and stage.relative.device == device:
        return stage.relative
    rows = RelativeRows(stage.dim, grid, stage.num_sources(grid), device)
    if rows.entries > KEPT:
        return rows
    made = vars(stage).setdefault("relative_elsewhere", {})
    if (grid, device) not in made:
        if rows.entries + sum(table.numel() for table in made.values()) > KEPT:
            made.clear()
        made[grid, device] = rows[:]
    return made[grid, device]


@dataclass(frozen=True)
class RelativeRows:
    """E of a grid; rows[start:stop] computes these rows."""

    dim: int
    grid: Grid
    sources: int
    device: torch.device

    @property
    def entries(self) -> int:
        """Of the whole table."""
        return self.grid[0] * self.grid[1] * self.sources

    def __getitem__(self, targets: slice) -> Tensor:
        return _rows(self.dim, self.grid, self.sources, targets).to(self.device)


def _rows(dim: int, grid: Grid, sources: int, targets: slice = slice(None)) -> Tensor:
    """Return some rows of E, (rows, M) float32."""
    of_columns, of_rows = (_table(dim, side) for side in grid[::-1])  # (W, C/2), (H, C/2)
    columns, rows = of_columns @ of_columns.T, of_rows @ of_rows.T  # (W, W), (H, H)
    num_nodes = grid[0] * grid[1]
    read, every = torch.arange(num_nodes), num_nodes // sources
    if num_nodes == every * sources and every > 4 and every % 2 == 0:
        # each source is interpolated halfway between the two entries in the middle of its own, from the middle four
        read = read.unflatten(0, (sources, every))[:, every // 2 - 2:every // 2 + 2].flatten()  # (4M,)
    columns, rows = columns[:, read % grid[1]], rows[:, read // grid[1]]  # (W, N or 4M), (H, N or 4M)
    blocks = []
    for i in torch.arange(num_nodes)[targets].split(max(1, ENTRIES // len(read))):
        # Pyramid ViG: E = −2 P·Pᵀ/C
        block = (-2 * (columns[i % grid[1]] + rows[i // grid[1]]) / dim).float()  # (rows, N or 4M)
        blocks.append(F.interpolate(block[None, None], (len(i), sources), mode="bicubic")[0, 0])  # (rows, M)
    return torch.cat(blocks)


def _table(dim: int, side: int) -> Tensor:
    """Return the half of P that is of a patch's column, or of its row: (side, C/2) float64."""
    frequency = 1 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angle = torch.arange(side, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)
