"""Lesson 1: an image is a set of nodes.

A convolution sees an image as a grid: a pixel meets its surroundings and nobody else. A Vision GNN
cuts the image into square patches and calls each a node. Nodes have no fixed surroundings, so that
any two may be connected: the two wheels of a car, though they are far apart. Who is connected to
whom is what all later lessons are about.

Nodes are one matrix for each image: a row for each patch, a column for each feature. The papers'
networks let some convolutions turn a patch into features; here they are simply its pixels. Where a
patch was is lost in that matrix, so the networks add a position to every node; you write down the
places.

    ClusterViG Algorithm 1, line 1:    X ← tokenize(I),    X ∈ R^(N×C), N = HW

Symbols: B images; C channels; H, W height and width; N nodes, row by row; patch: the side of a
patch in pixels.
"""

import torch
from torch import Tensor


def to_nodes(image: Tensor, patch: int) -> Tensor:
    """Cut images into nodes: (B, C, H, W) to (B, N, C·patch·patch), with N = (H / patch)·(W / patch).

    Nodes go row by row through the image. A node lists the pixels of its patch channel by channel, and those of a
    channel row by row. `patch` divides H and W.

    image [[[[ 0,  1,  2,  3],        to_nodes(image, 2) is
             [ 4,  5,  6,  7],        [[[ 0,  1,  4,  5],
             [ 8,  9, 10, 11],          [ 2,  3,  6,  7],
             [12, 13, 14, 15]]]]        [ 8,  9, 12, 13],
                                        [10, 11, 14, 15]]]
    """
    raise NotImplementedError("not written yet")


def to_image(nodes: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Put nodes back: (B, N, C·patch·patch) to (B, C, H, W); grid is (H / patch, W / patch), rows and columns of
    patches. to_image(to_nodes(image, patch), grid, patch) is image.
    """
    raise NotImplementedError("not written yet")


def places(grid: tuple[int, int]) -> Tensor:
    """Row and column of every node, counted from 0: (N, 2), whole numbers.

    places((2, 3)) is [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]].
    """
    raise NotImplementedError("not written yet")


if __name__ == "__main__":
    from vig_minimal.learn import show
    show.pieces(to_nodes(show.scene(), 4), "01_nodes.png")  # the patches of a scene, one apart from the other
