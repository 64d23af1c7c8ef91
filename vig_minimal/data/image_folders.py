"""Folders of images, one for each class: FOLDER/train/CLASS/* and FOLDER/val/CLASS/*, or FOLDER/CLASS/* to be split.

Without train/ and val/, one image in five of every class is for validation. Which ones follows from the seed and the
files' names in the folder alone: not from their order on the disk, nor from where the folder lies.
"""

import contextlib
import filecmp
import os
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset

from .decoding import DataError, read_image
from .seeds import mixed_seed

VALIDATION_SHARE = 0.2  # of a folder that has no train/ and val/
LAYOUT = "an image folder holds train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg alone"
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # names that are no classes
# a file with one of these endings is an image; one without an ending is looked into
ENDINGS = (".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm",
           ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp")
OF_PROGRAMS = {"@eadir", "__macosx", "#recycle"}  # folders that NAS and macOS put anywhere
THUMBNAILS = {"thumbnails", "thumbnail", "thumbs", "_thumbs"}  # no images of their own inside a class
COMPARED, OPENED = 2_000, 200_000  # validation and training images that are compared with each other


class ImageFiles(Dataset):
    """Image files `paths` with one label each, `targets` (n,), of `classes`: item i is an RGB image and its label."""

    def __init__(self, paths: list[str], targets: list[int], classes: list[str]):
        self.paths, self.targets, self.classes = paths, torch.tensor(targets, dtype=torch.int64), classes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return read_image(self.paths[index]), int(self.targets[index])

    def part(self, places: list[int]) -> "ImageFiles":
        """The files at these places."""
        return ImageFiles([self.paths[i] for i in places], self.targets[places].tolist(), self.classes)


def image_folders(folder: str, seed: int, only_val: bool = False) -> tuple[ImageFiles, ImageFiles, list[str]]:
    """Training and validation images, and remarks. only_val: of a folder with val/ read that alone, and return no
    training image. Raises DataError, in one sentence."""
    root, paths = Path(folder), (Path(folder, "train"), Path(folder, "val"))
    missing = [path for path in paths if not path.is_dir()]
    if only_val and paths[1] not in missing:
        val, remarks = _listed(paths[1])
        return val.part([]), val, remarks
    if not root.is_dir() or len(missing) == 1:
        raise DataError(f"{missing[0] if root.is_dir() else root}: no such folder; {LAYOUT}")
    if missing:
        train, val, remarks = _split(root, seed)
    else:
        (train, said), (val, more) = map(_listed, paths)
        remarks = said + more
        classes = set(train.classes), set(val.classes)
        if classes[0] != classes[1]:
            only = [f"only in {name}/: {', '.join(sorted(own)[:5])}" + f" and {len(own) - 5} more" * (len(own) > 5)
                    for name, own in (("train", classes[0] - classes[1]), ("val", classes[1] - classes[0])) if own]
            raise DataError(f"{folder}: train/ and val/ have different classes ({'; '.join(only)})")
    if found := copies(train.paths, val.paths):
        least = "at least " * (len(val) > COMPARED or len(train) > OPENED)
        remarks.append(f"warning: {least}{len(found)} of {len(val):,} validation images are exact copies of training"
                       f" images, such as {found[0][0]} of {found[0][1]}: scores are too high; remove them"
                       " from one side")
    return train, val, remarks


def find_images(root: str | Path, classes: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
    """Return (folder of `root` or ".", path) of all image files inside, and remarks on what is left out.

    What is hidden are copies and notes of other programs, as .ipynb_checkpoints/ and ._0.jpg, and is not mentioned.
    Each folder is read once, so links cannot go round for ever; one into `root` or to what holds it is not followed, or the
    images of one class would be another's. classes: the folders in `root` are classes, and one may be called thumbs.
    Raises DataError for a folder that cannot be read.
    """
    top, found, links, copied, others = Path(os.path.realpath(root)), [], [], [], Counter()
    seen = {top}  # folders, without links in their paths

    def failed(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})")

    for place, folders, names in os.walk(root, followlinks=True, onerror=failed):
        inside = os.path.relpath(place, root).split(os.sep)[0]
        shown = sorted(name for name in folders if not name.startswith("."))
        folders.clear()  # those to read are put back
        for name in shown:
            path = os.path.join(place, name)
            real = Path(os.path.realpath(path))
            if name.lower() in OF_PROGRAMS or name.lower() in THUMBNAILS and not (classes and inside == "."):
                copied.append(path)
            elif real in seen or os.path.islink(path) and (real.is_relative_to(top) or top.is_relative_to(real)):
                links.append(path)
            else:
                seen.add(real)
                folders.append(name)
        for path in [os.path.join(place, name) for name in sorted(names) if not name.startswith(".")]:
            ending = os.path.splitext(path)[1].lower()
            if ending in ENDINGS or not ending and _is_image(path):
                found.append((inside, path))
            else:
                others[ending or "without an ending"] += 1
    remarks = [f"{len(paths)} {what}: {', '.join(paths[:5])}" for paths, what in (
        (links, "links are not followed, since each folder is read once"),
        (copied, "folders are left out, where programs keep copies")) if paths]
    if others:
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in others.most_common(5))
        remarks.append(f"{root}: {others.total():,} files are left out, which are no images by their endings: {kinds}")
    return found, remarks


def _is_image(path: str) -> bool:
    """Whether Pillow recognises a file by its first bytes."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # Pillow raises many kinds
        warnings.simplefilter("ignore")
        if os.path.isfile(path):  # a pipe would wait for ever
            Image.open(path).close()
            return True
    return False


def _listed(root: Path) -> tuple[ImageFiles, list[str]]:
    """The images of ROOT/CLASS, and remarks. Raises DataError for a class without any. Names are compared and given as
    Unicode composes them (NFC): macOS writes Äpfel with an A and two dots, other systems with an Ä."""
    found, remarks = find_images(root, classes=True)
    folders = [entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
    classes = sorted({unicodedata.normalize("NFC", name) for name in folders if name.lower() not in OF_PROGRAMS})
    labels = {name: label for label, name in enumerate(classes)}
    found = [(unicodedata.normalize("NFC", name), path) for name, path in found if name != "."]  # not beside classes
    if empty := sorted(set(classes) - {name for name, _ in found}):
        raise DataError("; ".join([f"{root}: no images (.jpg, .png and others that Pillow reads) of the classes"
                                   f" {', '.join(empty[:5])}", *remarks]))
    if len(classes) < 2:
        few = f"one class only ({classes[0]})" if classes else "no class"
        raise DataError("; ".join([f"{root}: {few}; {LAYOUT}, with two classes or more", *remarks]))
    found.sort(key=lambda entry: (entry[0], *os.path.split(entry[1].replace(os.sep, "/"))))  # alike on Windows
    return ImageFiles([path for _, path in found], [labels[name] for name, _ in found], classes), remarks


def _split(root: Path, seed: int) -> tuple[ImageFiles, ImageFiles, list[str]]:
    """Split the images of ROOT/CLASS, every class in the same shares."""
    files, remarks = _listed(root)
    if splits := [name for name in files.classes if name.lower() in SPLITS]:
        raise DataError(f"{root}: {', '.join(splits)} cannot be classes; {LAYOUT}")
    of_class = [[] for _ in files.classes]  # paths
    for path, label in zip(files.paths, files.targets.tolist()):
        of_class[label].append(path)
    if alone := [name for name, paths in zip(files.classes, of_class) if len(paths) < 2]:
        raise DataError(f"{root}: 1 image only of {', '.join(alone[:5])}; one is for validation, so each class needs 2:"
                        " add images, or remove the class")
    held = set().union(*(held_out(paths, root, seed) for paths in of_class))
    said = (f"{root} has no train/ and val/: {VALIDATION_SHARE:.0%} of the images of every class are for validation,"
            f" chosen by seed {seed}")
    train, val = (files.part([i for i, path in enumerate(files.paths) if (path in held) == side])
                  for side in (False, True))
    return train, val, [said, *remarks]


def held_out(paths: Sequence[str], root: Path, seed: int) -> set[str]:
    """Return VALIDATION_SHARE of the paths, at least one: those whose names in `root`, mixed with the seed, come first.
    """
    names = {path: unicodedata.normalize("NFC", os.path.relpath(path, root).replace(os.sep, "/")) for path in paths}
    ranked = sorted(paths, key=lambda path: mixed_seed("split", seed, names[path]))
    return set(ranked[:max(1, round(VALIDATION_SHARE * len(ranked)))])


def copies(train: Sequence[str], val: Sequence[str]) -> list[tuple[str, str]]:
    """Return (validation file, training file) for each validation image that is, byte by byte, a training image too.

    Only files of one size can be: of these 4 KiB are compared, and all of what is then still alike. Of a large folder
    COMPARED and OPENED images of the two sides, evenly spaced, so that it takes seconds.
    """
    train, val = (paths[::max(1, -(-len(paths) // most))] for paths, most in ((train, OPENED), (val, COMPARED)))
    alike, found = defaultdict(list), {}
    for path in val:
        if size := _size(path):
            alike[size, _middle(path)].append(path)
    sizes = {size for size, _ in alike}
    for path in train:
        if (size := _size(path)) in sizes:
            for other in alike.get((size, _middle(path)), ()):
                if other not in found and filecmp.cmp(path, other, shallow=False):
                    found[other] = path
    return sorted(found.items())


def _size(path: str) -> int:
    """The bytes of a file; 0 for what is none."""
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _middle(path: str) -> bytes:
    """The 4 KiB in the middle of a file; of one that cannot be read, its name."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, _size(path) // 2 - 2048))
            return file.read(4096)
    except OSError:
        return os.fsencode(path)
