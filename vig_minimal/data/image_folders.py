"""Folders of images, one for each class: FOLDER/train/CLASS/* and FOLDER/val/CLASS/*, or FOLDER/CLASS/* to be split.

Without train/ and val/, one image in five of every class is for validation. Which ones follows from the seed and the
files' names in the folder alone: not from their order on the disk, nor from where the folder lies.
"""

import os
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from .decoding import DataError, read_image
from .seeds import mixed_seed

VALIDATION_SHARE = 0.2  # of a folder that has no train/ and val/
LAYOUT = "an image folder holds train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg alone"
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # names that are no classes


class ImageFiles(Dataset):
    """Image files `paths` with one label each, `targets` (n,), of `classes`: item i is an RGB image and its label."""

    def __init__(self, paths: list[str], targets: list[int], classes: list[str]):
        self.paths, self.targets, self.classes = paths, torch.tensor(targets), classes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return read_image(self.paths[index]), int(self.targets[index])

    def part(self, places: list[int]) -> "ImageFiles":
        """The files at these places."""
        return ImageFiles([self.paths[i] for i in places], self.targets[places].tolist(), self.classes)


def image_folders(folder: str, seed: int) -> tuple[ImageFiles, ImageFiles, list[str]]:
    """Training and validation images, and what to say about them. Raises DataError, in one sentence."""
    root, paths = Path(folder), (Path(folder, "train"), Path(folder, "val"))
    missing = [path for path in paths if not path.is_dir()]
    if not root.is_dir() or len(missing) == 1:
        raise DataError(f"{missing[0] if root.is_dir() else root}: no such folder; {LAYOUT}")
    if missing:
        return _split(root, seed)
    (train, remarks), (val, more) = map(_listed, paths)
    classes = set(train.classes), set(val.classes)
    if classes[0] != classes[1]:
        only = [f"only in {name}/: {', '.join(sorted(found)[:5])}" + f" and {len(found) - 5} more" * (len(found) > 5)
                for name, found in (("train", classes[0] - classes[1]), ("val", classes[1] - classes[0])) if found]
        raise DataError(f"{folder}: train/ and val/ have different classes ({'; '.join(only)})")
    return train, val, remarks + more


def _listed(root: Path) -> tuple[ImageFiles, list[str]]:
    """The images of ROOT/CLASS, and a remark on links that are not followed. Raises DataError for a class without any.

    A link to a folder is followed only if it leads out of `root`, and to images that are not listed already: else it
    would go round for ever, or show the images of one class as another's.
    """
    top, seen, links, found = os.path.realpath(root), set(), [], []

    def failed(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})")

    for place, folders, names in os.walk(root, followlinks=True, onerror=failed):
        inside = os.path.relpath(place, root).split(os.sep)[0]  # the class
        # what is hidden are copies and notes of other programs, as .ipynb_checkpoints/ and ._0.jpg
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if inside == ".":
            classes = list(folders)
        else:
            found += [(inside, place, name) for name in names
                      if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")]
        for name in [name for name in folders if os.path.islink(os.path.join(place, name))]:
            target = os.path.realpath(os.path.join(place, name))
            around = (target, top), (top, target), (os.path.realpath(place), target)  # inside, and what is around it
            if target in seen or any(_is_inside(*pair) for pair in around):
                folders.remove(name)
                links.append(f"{os.path.join(place, name)} to {os.readlink(os.path.join(place, name))}")
            seen.add(target)
    links = [f"{len(links)} links are not followed, which lead to images of this folder or to others seen before:"
             f" {', '.join(links[:5])}"] if links else []
    labels = {name: label for label, name in enumerate(classes)}
    if empty := sorted(set(classes) - {name for name, _, _ in found}):
        raise DataError("; ".join([f"{root}: no images ({', '.join(IMG_EXTENSIONS)}) of the classes"
                                   f" {', '.join(empty[:5])}", *links]))
    if len(classes) < 2:
        few = f"one class only ({classes[0]})" if classes else "no class"
        raise DataError("; ".join([f"{root}: {few}; {LAYOUT}, with two classes or more", *links]))
    found.sort()
    files = ImageFiles([os.path.join(*entry[1:]) for entry in found], [labels[entry[0]] for entry in found], classes)
    return files, links


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _split(root: Path, seed: int) -> tuple[ImageFiles, ImageFiles, list[str]]:
    """Split the images of ROOT/CLASS, every class in the same shares; a file with two names is one image."""
    files, remarks = _listed(root)
    if splits := [name for name in files.classes if name.lower() in SPLITS]:
        raise DataError(f"{root}: {', '.join(splits)} cannot be classes; {LAYOUT}")
    real = [os.path.realpath(path) for path in files.paths]
    labels, ranks = {}, [[] for _ in files.classes]  # label of each file; of each class, its files in random order
    for path, file, label in zip(files.paths, real, files.targets.tolist()):
        if labels.setdefault(file, label) != label:
            raise DataError(f"{path}: the same file is in another class too ({files.classes[labels[file]]});"
                            " remove one")
        ranks[label].append((mixed_seed("split", seed, os.path.relpath(path, root).replace(os.sep, "/")), file))
    own = [list(dict.fromkeys(file for _, file in sorted(rank))) for rank in ranks]
    if alone := [name for name, of_class in zip(files.classes, own) if len(of_class) < 2]:
        raise DataError(f"{root}: 1 image only of {', '.join(alone[:5])}; one is for validation, so each class needs 2:"
                        " add images, or remove the class")
    held = {file for of_class in own for file in of_class[:max(1, round(VALIDATION_SHARE * len(of_class)))]}
    said = (f"{root} has no train/ and val/: {VALIDATION_SHARE:.0%} of the images of every class are for validation,"
            f" chosen by seed {seed}")
    train, val = (files.part([i for i, file in enumerate(real) if (file in held) == side]) for side in (False, True))
    return train, val, [said, *remarks]
