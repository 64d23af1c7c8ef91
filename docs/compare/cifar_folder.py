"""Write CIFAR-10 as a folder of images: python docs/compare/cifar_folder.py CIFAR --train 1000 --val 500

makes CIFAR/train/CLASS/ with 1,000 images of each class, and CIFAR/val/CLASS/ with 500 of the test set, as PNGs. They
are chosen at random, the same ones on every call. torchvision downloads the data set (170 MB) once.
"""

import argparse
from pathlib import Path

import torch
from torchvision.datasets import CIFAR10


def write(data: CIFAR10, folder: Path, per_class: int) -> None:
    """Write `per_class` images of each class below the folder: CLASS/NUMBER.png."""
    labels = torch.tensor(data.targets)
    for label, name in enumerate(data.classes):
        (folder / name).mkdir(parents=True)
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(label))
        for number in members[order[:per_class]].tolist():
            data[number][0].save(folder / name / f"{number:05d}.png")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new one")
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="images of each class (default 1000)")
    parser.add_argument("--val", type=int, default=500, metavar="N", help="images of each class (default 500)")
    parser.add_argument("--download-to", metavar="DIR", default="data", help="where CIFAR-10 is or comes to be")
    args = parser.parse_args(argv)
    if args.folder.exists():
        parser.error(f"{args.folder} is there already; choose another name")
    for split, count, most in (("train", args.train, 5000), ("val", args.val, 1000)):
        if not 1 <= count <= most:
            parser.error(f"--{split} {count}: from 1 to {most} images of each class")
    try:
        train, val = (CIFAR10(args.download_to, is_train, download=True) for is_train in (True, False))
    except (OSError, RuntimeError) as error:
        parser.error(f"CIFAR-10 cannot be downloaded to {args.download_to} ({error})")
    write(train, args.folder / "train", args.train)
    write(val, args.folder / "val", args.val)
    print(f"wrote {10 * args.train} training and {10 * args.val} validation images to {args.folder}")


if __name__ == "__main__":
    main()
