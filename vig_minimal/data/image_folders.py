"""Folders of images, one for each class: FOLDER/train/CLASS/* and FOLDER/val/CLASS/*, or FOLDER/CLASS/* to be split.

Without train/ and val/, one image in five of every class is for validation. Which ones follows from the seed and the
files' names in the folder alone: not from their order on the disk, nor from where the folder lies.
"""

import contextlib
import hashlib
import os
import stat
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

    What is hidden are copies and notes of other programs, as .ipynb_checkpoints/ and ._0.jpg, and is not mentioned. A
    link to a folder is followed if it leads out of `root`, and a link inside what it leads to is not: else it could go
    round for ever, or show the images of one class as another's. classes: the folders in `root` are classes, and one
    may be called thumbs. Raises DataError for a folder that cannot be read.
    """
    top, found, links, copied, others = Path(os.path.realpath(root)), [], [], [], Counter()

    def failed(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})")

    for place, folders, names in os.walk(root, followlinks=True, onerror=failed):
        inside, own = os.path.relpath(place, root).split(os.sep)[0], _overlap(Path(os.path.realpath(place)), top)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            path = os.path.join(place, name)
            if name.lower() in OF_PROGRAMS or name.lower() in THUMBNAILS and not (classes and inside == "."):
                copied.append(path)
            elif os.path.islink(path) and not (own and not _overlap(Path(os.path.realpath(path)), top)):
                links.append(f"{path} to {os.readlink(path)}")
            else:
                continue
            folders.remove(name)
        for path in [os.path.join(place, name) for name in sorted(names) if not name.startswith(".")]:
            ending = os.path.splitext(path)[1].lower()
            if ending in ENDINGS or not ending and _is_image(path):
                found.append((inside, path))
            else:
                others[ending or "without an ending"] += 1
    remarks = []
    if links:
        remarks.append(f"{len(links)} links are not followed, which lead to images of this folder or out of a linked"
                       f" one: {', '.join(links[:5])}")
    if copied:
        remarks.append(f"{len(copied)} folders are left out, where programs keep copies: {', '.join(copied[:5])}")
    if others:
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in others.most_common(5))
        remarks.append(f"{root}: {others.total():,} files are left out, which are no images by their endings: {kinds}")
    return found, remarks


def _overlap(one: Path, other: Path) -> bool:
    """Whether one folder is the other or in it."""
    return one.is_relative_to(other) or other.is_relative_to(one)


def _is_image(path: str) -> bool:
    """Whether Pillow recognises a file by its first bytes."""
    try:
        with warnings.catch_warnings(), contextlib.suppress(Image.DecompressionBombError):
            warnings.simplefilter("ignore")
            return os.path.isfile(path) and Image.open(path).close() is None  # a pipe would wait for ever
        return True
    except Exception:  # Pillow raises many kinds
        return False


def _listed(root: Path) -> tuple[ImageFiles, list[str]]:
    """The images of ROOT/CLASS, and remarks. Raises DataError for a class without any. Names are compared and given as
    Unicode composes them (NFC): macOS writes Äpfel with an A and two dots, other systems with an Ä."""
    found, remarks = find_images(root, classes=True)
    try:
        folders = [entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror})") from None
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
        name = unicodedata.normalize("NFC", os.path.relpath(path, root).replace(os.sep, "/"))
        ranks[label].append((mixed_seed("split", seed, name), file))
    own = [list(dict.fromkeys(file for _, file in sorted(rank))) for rank in ranks]
    if alone := [name for name, of_class in zip(files.classes, own) if len(of_class) < 2]:
        raise DataError(f"{root}: 1 image only of {', '.join(alone[:5])}; one is for validation, so each class needs 2:"
                        " add images, or remove the class")
    held = {file for of_class in own for file in of_class[:max(1, round(VALIDATION_SHARE * len(of_class)))]}
    said = (f"{root} has no train/ and val/: {VALIDATION_SHARE:.0%} of the images of every class are for validation,"
            f" chosen by seed {seed}")
    train, val = (files.part([i for i, file in enumerate(real) if (file in held) == side]) for side in (False, True))
    return train, val, [said, *remarks]


def copies(train: Sequence[str], val: Sequence[str]) -> list[tuple[str, str]]:
    """Return (validation file, training file) for each validation image that is, byte by byte, a training image too.

    Only files of one size can be: of these 4 KiB are compared, and all of what is then still alike. Of a large folder
    COMPARED and OPENED images of the two sides, evenly spaced, so that it takes seconds.
    """
    train, val = (paths[::max(1, -(-len(paths) // most))] for paths, most in ((train, OPENED), (val, COMPARED)))
    sizes = set(map(_size, val)) - {0}
    same_size = [[path for path in paths if _size(path) in sizes] for paths in (val, train)]
    alike, found = defaultdict(list), {}
    for path in same_size[0]:
        alike[_hash(path, part=True)].append(path)
    for path in same_size[1]:
        for other in alike.get(_hash(path, part=True), ()):
            if other not in found and _hash(path) == _hash(other):
                found[other] = path
    return sorted(found.items())


def _size(path: str) -> int:
    """The bytes of a file; 0 for what is none."""
    try:
        about = os.stat(path)
    except OSError:
        return 0
    return about.st_size if stat.S_ISREG(about.st_mode) else 0


def _hash(path: str, part: bool = False) -> bytes:
    """A hash of a file's bytes, or of its size and 4 KiB in its middle; of a file that cannot be read, its name."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if part:
                file.seek(max(0, size // 2 - 2048))
            return hashlib.blake2b(size.to_bytes(8, "little") + file.read(4096 if part else -1)).digest()
    except OSError:
        return os.fsencode(path)
