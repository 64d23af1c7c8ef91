"""Give trained networks other graphs, without training them again: do they use the graph that they were trained with?

    python docs/compare/swap_graphs.py RUN/last.pt … --graphs knn random none --data-dir CIFAR

prints a table: a row for each checkpoint, a column for each graph, top-1 of the validation images. Batch norm remembers
what it saw in training, and so the old graph: with every graph its statistics are taken anew, from 2,000 training
images, before the network is evaluated. The weights stay. A network's own graph is the one it had: what LRGC has
learnt, the edges that were drawn for `random`. Given to another network, `random` is one draw, and LRGC untrained: all
edges with one weight. Checkpoints are of vig_nano and other isotropic models, without partitions.
"""

import argparse
import copy
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Subset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vig_minimal import list_constructors, load
from vig_minimal.constructors import CONSTRUCTORS
from vig_minimal.data.augment import normalise
from vig_minimal.data.datasets import Data, open_data
from vig_minimal.data.loading import PreparedImages, loader, validation_order
from vig_minimal.look.attention import validation
from vig_minimal.models.vig import ViG

IMAGES, BATCH = 2000, 100  # for batch norm's statistics


def with_graph(model: nn.Module, name: str) -> nn.Module:
    """Return a copy of a trained isotropic model whose blocks have the constructors of that graph."""
    model, (make, _) = copy.deepcopy(model), CONSTRUCTORS[name]
    torch.manual_seed(0)
    for block, constructor in zip(model.blocks, make(replace(model.config, graph=name)), strict=True):
        block.grapher.constructor = constructor.eval()
    return model


@torch.no_grad()
def renew_statistics(model: nn.Module, data: Data) -> None:
    """Take batch norm's statistics anew: the mean of those of each batch of training images. All else stays as it is in
    evaluation: no layer is dropped."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None  # the plain mean of all batches
            part.train()
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:IMAGES]
    images = PreparedImages(Subset(data.train, order.tolist()), model.transform.size, model.transform.eval_crop)
    for batch in loader(images, validation_order(len(order), BATCH), workers=0):
        if len(batch.images) > 1:  # batch norm needs two
            model(normalise(batch.images, model.transform.mean, model.transform.std))
    model.eval()


@torch.no_grad()
def top1(model: nn.Module, data: Data, limit: int) -> float:
    """Return the share of validation images that are told right, in per cent."""
    right = [(model(images).argmax(1) == labels) for images, labels in validation(model, data, limit)]
    return 100 * torch.cat(right).float().mean().item()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="of isotropic models, by train.py")
    parser.add_argument("--graphs", nargs="+", choices=list_constructors(), required=True, metavar="NAME")
    parser.add_argument("--data-dir", metavar="DIR", help="holds train/CLASS/ and val/CLASS/; without it, the synthetic"
                                                         " scenes")
    parser.add_argument("--limit", type=int, default=10**9, metavar="N", help="validation images (default: all)")
    args = parser.parse_args(argv)
    print(f"| trained with | {' | '.join(args.graphs)} |\n|---|" + "---:|" * len(args.graphs))
    for path in args.checkpoints:
        try:
            model = load(path)
            if not isinstance(model, ViG):
                raise ValueError(f"{path}: {model.name} has no single graph that another could replace; give a vig,"
                                 " svig or lrgc")
            kind = "imagefolder" if args.data_dir else "shapes"
            data = open_data(kind, args.data_dir, model.config.img_size, None, 0)
            next(validation(model, data, 1))  # that its classes are the model's
        except ValueError as error:
            parser.error(str(error))
        scores = []
        for name in args.graphs:
            swapped = copy.deepcopy(model) if name == model.config.graph else with_graph(model, name)
            renew_statistics(swapped, data)
            scores.append(f"{top1(swapped, data, args.limit):.2f}")
        print(f"| {model.config.graph}, {path} | {' | '.join(scores)} |", flush=True)


if __name__ == "__main__":
    main()
