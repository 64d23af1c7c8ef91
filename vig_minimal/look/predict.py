"""Classify images: the most probable classes of each, of a multi-label model all above a threshold. A detector finds
objects, which --out draws; a segmentation model the share of each class, with a picture and masks.

Without --checkpoint a trained model of the package is used. Images are resized, cropped and normalised as in
evaluation. A folder stands for all images in it and its subfolders. Unreadable files are listed at the end.
"""

import contextlib
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision.transforms.functional as TF
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..atomic_files import CheckpointError, replacing
from ..data import image_folders
from ..data.augment import normalise
from ..data.decoding import Picture, as_rgb
from ..data.loading import centre_crop
from ..data.synthetic import CLASSES, Shapes
from ..models.detection import Detector, create_detector
from ..models.gkgnet import GKGNet
from ..models.layers import evaluating
from ..models.registry import create_model
from ..models.released import load_released
from ..models.segmentation import Segmenter, create_segmenter
from ..training.checkpoint import check_types, load_run
from ..training.distributed import start
from ..trained_files import DEFAULT
from .command import Parser, save_picture
from .objects.found import Found, detect, draw_found
from .panels import sheet
from .objects.segments import Region, draw_regions, mask_image, segment

DENSE = (Detector, Segmenter)  # networks that take whole images
FEW = 100  # images that are read without processes of their own, which take seconds to start

MOST_DRAWN = 24  # images on the page of --out
SIDES = ("left", "top", "right", "bottom")  # of a box

# names of classes and their probabilities, the highest first; objects; classes and their pixels
Answer = list[tuple[str, float]] | list[Found] | list[Region]

@dataclass(frozen=True)
class Transform:
    """What evaluation does to an image: `transform(image)` is float (3, *size), scaled, cropped and normalised.

    eval_crop: the crop's side as a share of the scaled image, 0 for the whole; None for a detector, which takes images
    as they are.
    """

    size: tuple[int, int]
    eval_crop: float | None = 1.0
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)

    def crop(self, image: Picture) -> Tensor:
        """The part of the image that the model sees: uint8 (3, *size), or all of it for a detector."""
        image = as_rgb(image)
        if self.eval_crop is not None:
            image = centre_crop(image, self.size, self.eval_crop)
        return image if isinstance(image, Tensor) else TF.pil_to_tensor(image)

    def __call__(self, image: Picture) -> Tensor:
        return normalise(self.crop(image)[None], self.mean, self.std)[0]


def load(path: str | Path, **overrides) -> nn.Module:
    """Load a model from a checkpoint of train.py (best.pt) or, by its name, a trained model of the package, as
    "lrgc_nano-cifar10". It is in evaluation mode and has:

    `classes`, their names; `transform`, see `Transform`; `multi_label`, whether an image may show several classes;
    `name`, as for `create_model`; `seed`, of its run. overrides: fields of the config that shall differ. Raises
    CheckpointError for a file that is no such checkpoint, and for weights that do not fit the overrides.
    """
    state = load_run(path)
    check_types(state, path, {"mean": (tuple, list), "std": (tuple, list)})
    check_types(state["recipe"], path, {"eval_crop": float})
    dense = "body" in state["config"]
    create = create_detector if "box_head" in state["config"] else create_segmenter if dense else create_model
    model = create(state["name"], **state["config"] | overrides)
    load_released(model, state["model"])
    model.seed = state.get("flags", {}).get("seed", 0)
    if len(state["classes"]) != model.config.num_classes:
        raise CheckpointError(f"{path}: names {len(state['classes'])} classes, and its model has"
                              f" {model.config.num_classes}")
    crop = None if dense else state["recipe"]["eval_crop"]
    transform = Transform(model.config.img_size, crop, state["mean"], state["std"])
    return _with(model, state["name"], state["classes"], state.get("multi_label", isinstance(model, GKGNet)), transform)


def open_model(name: str | None, checkpoint: str | None, graph: str | None = None,
               detectors: bool = False) -> nn.Module:
    """`load` a checkpoint; without one, create a model by its name, with random weights that are the same every time.

    graph: another constructor, for a new model. Its classes then are those of the synthetic scenes where their number
    fits, else numbers. Raises ValueError for an unknown name, and for a checkpoint that cannot be used, is of another
    model, or holds a detector or a network for segmentation unless `detectors` may come.
    """
    if checkpoint is not None:
        model = load(checkpoint)
        if name not in (None, model.name):
            raise CheckpointError(f"{checkpoint}: a checkpoint of {model.name}, not of {name}; leave that name out")
        if isinstance(model, DENSE) and not detectors:
            raise CheckpointError(f"{checkpoint}: holds a detector or a network for segmentation; predict and explore"
                                  " (without --html) take it, this takes a classifier")
        return model
    torch.manual_seed(0)
    name = name or "lrgc_nano"
    model = create_model(name, **({"graph": graph} if graph else {}))
    count = model.config.num_classes
    classes = CLASSES if count == len(CLASSES) else map(str, range(count))
    return _with(model, name, classes, isinstance(model, GKGNet), Transform(model.config.img_size))


def _with(model: nn.Module, name: str, classes: Sequence[str], multi_label: bool, transform: Transform) -> nn.Module:
    model.name, model.classes, model.multi_label, model.transform = name, list(classes), multi_label, transform
    return model.to(memory_format=torch.channels_last).eval()  # as in train.py


def predict(model: nn.Module, images: Picture | Sequence[Picture], top: int | None = 5, threshold: float = 0.5,
            batch_size: int = 32) -> Answer | list[Answer]:
    """Return the classes of an image and their probabilities, [("star", 0.93), …], the highest first; of a list, a
    list. A detector gives all objects of at least that score: name, score, box and mask of each, see `Found`; a
    segmentation model all classes in the image: name, share of the pixels and mask of each, the largest first.

    model: from `load`. images: a path, "shapes:INDEX" for a synthetic scene, a PIL image, or a tensor (3, H, W), uint8
    or numbers from 0 to 1; a list of these, or a tensor (B, 3, H, W). Returns the `top` classes (None: all); of a
    multi-label model, all classes whose probability is at least `threshold`. Raises ValueError for what is no image.
    """
    if not hasattr(model, "transform"):
        raise ValueError("this model does not know its classes and its transform; open a trained one with"
                         " vig_minimal.load(path)")
    if not (isinstance(images, (list, tuple)) or isinstance(images, Tensor) and images.ndim == 4):
        return predict(model, [images], top, threshold)[0]
    answers = []
    for first in range(0, len(images), batch_size):
        crops = [open_image(image, model.transform, scene_view(model)) for image in images[first:first + batch_size]]
        answers += (found_in(model, crops, threshold) if isinstance(model, DENSE) else
                    [named(model, row, top, threshold) for row in probabilities(model, torch.stack(crops))])
    return answers


def found_in(model: Detector | Segmenter, crops: Sequence[Tensor], threshold: float) -> list[Answer]:
    """The objects or regions of uint8 images (3, H, W)."""
    return detect(model, crops, threshold) if isinstance(model, Detector) else segment(model, crops)


@torch.no_grad()
def probabilities(model: nn.Module, crops: Tensor, return_graphs: bool = False) -> Tensor | tuple[Tensor, list]:
    """The probability of every class, (B, classes) float64, for uint8 images (B, 3, H, W) of `transform.crop`.

    return_graphs: also the graph of every layer.
    """
    images = normalise(crops.to(next(model.parameters()).device), model.transform.mean, model.transform.std)
    with evaluating(model):
        logits, graphs = model(images, return_graphs=True) if return_graphs else (model(images), [])
    logits = logits.cpu().double()
    result = logits.sigmoid() if model.multi_label else logits.softmax(1)
    return (result, graphs) if return_graphs else result


def named(model: nn.Module, row: Tensor, top: int | None, threshold: float) -> Answer:
    """The result of `predict` for one image's `probabilities` (classes,)."""
    values, order = row.sort(descending=True, stable=True)
    count = int((values >= threshold).sum()) if model.multi_label else top
    return [(model.classes[i], value) for i, value in zip(order[:count].tolist(), values.tolist())]


# ---- the command


def open_scene(source: str, size: tuple[int, int], view: str) -> tuple[Tensor, int | Tensor]:
    """Image and label or labels of the synthetic validation scene "shapes:INDEX". Raises ValueError."""
    index = source.removeprefix("shapes:")
    if not index.isdecimal() or len(index) > 6:
        raise ValueError(f"{source}: after shapes: comes the number of a scene, 0 to 999999")
    return Shapes(size, int(index) + 1, "val", view)[int(index)]


def scene_view(model: nn.Module) -> str:
    """Return the view of synthetic scenes that a model is for: "single", "multi" or "boxes"."""
    return "boxes" if isinstance(model, DENSE) else "multi" if getattr(model, "multi_label", False) else "single"


def open_image(source: Picture, transform: Transform, view: str = "single") -> Tensor:
    """Return what a model sees of an image or, for "shapes:INDEX", of a synthetic validation scene in that view: uint8
    (3, *size). Raises ValueError if there is no image."""
    is_scene = isinstance(source, str) and source.startswith("shapes:")
    return transform.crop(open_scene(source, transform.size, view)[0] if is_scene else source)


def find_images(sources: Sequence[str], remarks: list[str]) -> list[str]:
    """Files and scenes as they are given, and in the place of a folder its images, each once. remarks: gets what is
    left out. Raises ValueError."""
    found = []
    for source in sources:
        inside = [source]
        if os.path.isdir(source):
            images, said = image_folders.find_images(source)
            inside = sorted(path for _, path in images)
            remarks += said
            if not inside:
                raise ValueError("; ".join([f"{source}: no image in this folder", *said]))
        elif not source.startswith("shapes:") and not os.path.exists(source):
            raise ValueError(f"{source}: no such image or folder (a synthetic scene is shapes:INDEX)")
        found += inside
    once = {}
    for source in found:
        once.setdefault(source if source.startswith("shapes:") else os.path.realpath(source), source)
    return list(once.values())


@dataclass(eq=False)
class Crops(Dataset):
    """Each source with what the model sees of it, or with a sentence on why it cannot be read."""

    sources: Sequence[str]
    transform: Transform
    view: str

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[str, Tensor | str]:
        source = self.sources[index]
        try:
            return source, open_image(source, self.transform, self.view)
        except ValueError as error:
            return source, str(error)


def read_and_compute(model: nn.Module, sources: list[str], batch_size: int, threshold: float,
                     unread: list[str]) -> Iterator[tuple[str, Tensor, Tensor | list[Found]]]:
    """Yield each readable image's name, what the model sees, and its `probabilities` (classes,), or of a detector the
    objects. unread: gets a sentence for each of the others."""
    workers = min(8, os.cpu_count() or 1) if len(sources) > FEW else 0
    crops = Crops(sources, model.transform, scene_view(model))
    with tqdm(total=len(sources), unit="images", leave=False,
              disable=len(sources) == 1 or not sys.stderr.isatty()) as bar:
        for batch in DataLoader(crops, batch_size, num_workers=workers, collate_fn=list):
            read = {name: crop for name, crop in batch if isinstance(crop, Tensor)}
            unread += [sentence for _, sentence in batch if isinstance(sentence, str)]
            if read:
                seen = list(read.values())
                yield from zip(read, seen, found_in(model, seen, threshold) if isinstance(model, DENSE) else
                               probabilities(model, torch.stack(seen)))
            bar.update(len(batch))


def in_words(answer: Answer) -> str:
    """star 0.931, circle 0.042"""
    return ", ".join(f"{name} {value:.3f}" for name, value, *_ in answer)


def main(argv: list[str] | None = None) -> None:
    """Run `python -m vig_minimal predict`."""
    parser = Parser("predict", __doc__, "photo.jpg holiday/ --checkpoint runs/lrgc_nano-shapes/best.pt --csv found.csv")
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="a file, a folder, or shapes:INDEX for a synthetic validation scene")
    add("--checkpoint", default=DEFAULT, metavar="PATH",
        help=f"best.pt or last.pt of train.py, or the name of a trained model (default {DEFAULT})")
    add("--top", type=int, default=5, metavar="N", help="number of classes (default 5)")
    add("--threshold", type=float, default=0.5, metavar="P",
        help="multi-label: lowest probability of a class; detector: lowest score of an object (default 0.5)")
    add("--csv", metavar="FILE", help="also write a table, a row per image and class, or per object with its box")
    parser.add_out(None, f"the picture to write: what a detector finds in the first {MOST_DRAWN} images, or their"
                         " classes (segmentation: segments.png)")
    add("--masks", metavar="DIR", help="segmentation: the folder for masks of class numbers, NAME.png (default masks)")
    add("--batch-size", type=int, default=32, metavar="N", help="images per batch (default 32)")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    args = parser.parse_args(argv)
    for wrong, sentence in ((args.top < 1, f"--top {args.top}: at least 1 class"),
                            (args.batch_size < 1, f"--batch-size {args.batch_size}: at least 1 image"),
                            (not 0 <= args.threshold <= 1, f"--threshold {args.threshold}: from 0 to 1"),
                            (args.csv and not Path(args.csv).parent.is_dir(), f"--csv {args.csv}: no such folder"),
                            (args.csv and Path(args.csv).is_dir(), f"--csv {args.csv}: a folder; name a file in it")):
        if wrong:
            parser.error(sentence)
    with parser.errors_in_one_sentence(), contextlib.ExitStack() as files:
        remarks, unread, count, drawn = [], [], 0, {}
        sources = find_images(args.images, remarks)
        model = load(args.checkpoint).to(start(args.device).device)
        if args.checkpoint == DEFAULT:
            print(f"{DEFAULT}, with the classes {', '.join(model.classes)}", file=sys.stderr)
        detects, segments = isinstance(model, Detector), isinstance(model, Segmenter)
        if args.out and not (detects or segments):
            raise ValueError(f"--out: draws the objects of a detector, but {model.name} is a classifier; leave it out")
        if args.masks and not segments:
            raise ValueError(f"--masks: is for segmentation, but {model.name} is not trained for it; leave it out")
        masks = Path(args.masks or "masks") if segments else None
        args.out = args.out or ("segments.png" if segments else None)
        table = csv.writer(files.enter_context(replacing(args.csv, "w"))) if args.csv else None
        if table:
            table.writerow(["file", "rank", "class", *(["score", *SIDES] if detects else
                                                      ["share" if segments else "probability"])])
        batches = read_and_compute(model, sources, args.batch_size, args.threshold, unread)
        for count, (name, image, row) in enumerate(batches, 1):
            answer = row if detects or segments else named(model, row, args.top, args.threshold)
            said = in_words(answer) or (f"no object has a score of {args.threshold:g}" if detects else
                                        f"no class has {args.threshold:g}, the highest is"
                                        f" {in_words(named(model, row, 1, row.max()))}")
            tqdm.write(f"{name}: {said}".encode(errors="backslashreplace").decode())
            if args.out and count <= MOST_DRAWN:
                drawn[name] = (draw_regions if segments else draw_found)(image, answer, model.classes)
            if segments:
                masks.mkdir(parents=True, exist_ok=True)
                with replacing(masks / f"{Path(name.replace(':', '-')).stem}.png") as file:
                    mask_image(answer, model.classes).save(file, "PNG")
            if table:
                rows = [(name, rank, label, f"{value:.6g}", *(f"{side:.1f}" for side in (box[0] if box else ())))
                        for rank, (label, value, *box) in enumerate(
                            [one[:2] for one in answer] if segments else answer, 1)]
                table.writerows(rows or [(name, "", "", "", *[""] * len(SIDES) * detects)])
        if not count:
            raise ValueError("; ".join(unread[:3]) + f"; and {len(unread) - 3} more" * (len(unread) > 3))
        if drawn:
            save_picture(sheet(list(drawn.values()), [os.path.basename(name) for name in drawn],
                               1 if segments else 4), args.out)
        if segments:
            print(f"wrote masks of class numbers into {masks}/: 0 is {model.classes[0]}")
    if remarks:
        print(*remarks, sep="\n", file=sys.stderr)
    if unread:
        print(f"skipped {len(unread)} of {len(sources)} images:", *unread, sep="\n  ", file=sys.stderr)
    if args.csv:
        print(f"wrote {args.csv}")
