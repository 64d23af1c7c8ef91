"""RunConfig: all that is fixed about a run, in one table; every field with a help text is a flag of train.py.

`parse` returns what a command line gives, and `resolve.resolve` completes it.
"""

import argparse
import ast
import os
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from ..data.data_recipe import Allowed, check_fields, flag_name, refuse_first
from ..data.datasets import DATA_SETS
from ..models.detection import create_detector, detector_size
from ..models.registry import CONFIGS, create_model
from ..models.segmentation import create_segmenter, segmenter_size
from ..own_modules import import_first
from .recipes import RECIPE_FLAGS, RECIPES, Recipe

EXAMPLES = """example: python -m vig_minimal train --model lrgc --epochs 1

  torchrun train.py --model lrgc                      synthetic scenes, nothing to download
  python train.py --model vig_nano --data-dir PHOTOS --img-size 64 --epochs 20
  python train.py --resume runs/lrgc_nano-shapes/best.pt --eval-only
"""

FAMILIES = tuple(sorted({name.partition("_")[0] for name in CONFIGS}))
AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
# of a task: what makes its model, and the size of its images unless the data has one
MODELS = {"labels": (create_model, lambda name: CONFIGS[name].img_size[:1]),
          "detection": (create_detector, detector_size), "segmentation": (create_segmenter, segmenter_size)}
COUNT, PER_CLASS = Allowed(1, 10**6), Allowed(1, 10**4)
# how a checkpoint stores a flag: not at all, since it is of one call; as given; also its value, which must stay in a
# resumed run; also its value, which may change
CALL, GIVEN, STAYS, CHANGES = "call", "given", "stays", "changes"
# arguments of `add_argument` by the type of a field; a field may replace them
ARGUMENTS = {bool: {"action": argparse.BooleanOptionalAction}, int: {"type": int, "metavar": "N"},
             float: {"type": float, "metavar": "X"}, str: {"type": str.lower, "metavar": "NAME"},
             Path: {"metavar": "PATH"}, tuple: {"type": float, "nargs": "*", "metavar": "EPOCH"}}


def option(default, group: str, text: str, kept: str = CALL, allowed: Allowed | tuple[str, ...] | None = None, **how):
    """A field and its flag. how: further arguments of `add_argument`; flag: its name, if it is not the field's."""
    return field(default=default, metadata={"group": group, "help": text, "kept": kept, "allowed": allowed, "how": how})


@dataclass(frozen=True)
class RunConfig:
    """What a run is. Before `resolve`, a field that was not given has its default here. Raises ValueError for values
    that are not allowed, alone or together."""

    model: str = option(None, "model", f"a family ({', '.join(FAMILIES)}) or a full name such as lrgc_ti (default:"
                                       " lrgc; of a detector cvig)", GIVEN)
    fields: dict = option(None, "model", "field of the model's config: k=6, conv=gin", GIVEN, flag="--set",
                          action="append", metavar="FIELD=VALUE")
    img_size: tuple[int, int] = option(None, "model", "side, or height and width (default: the data's)", GIVEN,
                                       Allowed(1, 8192), type=int, nargs="+", metavar="N")
    init_from: Path = option(None, "model", "start from these weights, of train.py, of a trained model"
                                            " (lrgc_nano-cifar10) or of the papers' authors: they determine model and"
                                            " size, and the recipe is finetune; with --model gkgnet, Pyramid ViG's",
                             STAYS)
    freeze: bool = option(False, "model", "train the head alone; stem and blocks stay as loaded, batch norm's"
                                          " statistics too", STAYS)
    task: str = option(None, "model", "labels: classification; detection: Mask R-CNN; segmentation: Semantic FPN"
                                      " (default: that of the data, else labels)", STAYS, tuple(MODELS))
    anchors_per_class: int = option(None, "model", "CNN2GNN: training images that represent a class (1)", GIVEN,
                                    PER_CLASS)
    proxies_per_class: int = option(None, "model", "CNN2GNN: learnt vectors that represent a class (1)", GIVEN,
                                    PER_CLASS)
    backbone_weights: Path = option(None, "model", "CNN2GNN's ResNet: a state dict, or «torchvision» to download")

    data: str = option(None, "data", f"one of {', '.join(DATA_SETS)}; by default imagefolder with --data-dir, else"
                                     " shapes, or shapes-multi for GKGNet and --multi-label", CHANGES)
    data_dir: Path = option(None, "data", "has train/CLASS/*.jpg and val/CLASS/*.jpg; or keeps downloads (./data)",
                            CHANGES)
    multi_label: bool = option(False, "data", "multi-label classification, on multi-label data; GKGNet's default",
                               STAYS)
    limit: int = option(None, "data", "use only N training images, for trials", CHANGES, Allowed(1, 10**7))
    bad_images: str = option("skip", "data", "training images that cannot be read: replace and list them, at most 1 %"
                                             " (skip), or end the run (error)", CHANGES, ("skip", "error"))

    recipe_name: str = option(None, "recipe", f"one of {', '.join(RECIPES)} (default: demo on shapes and for nano"
                                              " models, else the paper's); each of the following replaces one value",
                              GIVEN, flag="--recipe")
    recipe: Recipe = Recipe()
    given: dict = field(default_factory=dict)  # the part of what was given that a checkpoint stores
    scale_lr: bool = option(False, "recipe", "scale the learning rates with the batch: they are for the recipe's own"
                                             " batch size", GIVEN)
    teacher_weights: Path = option(None, "recipe", "the teacher's state dict (default: torchvision's)", CHANGES)

    resume: Path = option(None, "run", "resume from this checkpoint; auto: from the output folder's last.pt, if any")
    eval_only: bool = option(False, "run", "evaluate the checkpoint of --resume; with one label per image, write"
                                           " confusion.csv and confusion.png")
    eval_split: str = option("val", "run", "images that --eval-only evaluates (default val)", allowed=("val", "train"))
    dry_run: bool = option(False, "run", "two steps and an evaluation, to estimate time and memory; write nothing")
    imports: list = option(None, "run", "import this module or file first: it registers constructors or data sets of"
                                        " your own", flag="--import", action="append", metavar="NAME",
                           type=import_first)
    seed: int = option(0, "run", "random seed (default 0)", STAYS, Allowed(-2**63, 2**63))
    device: str = option("auto", "run", "auto, cpu, cuda or mps (default auto: a GPU if there is one)")
    workers: int = option(None, "run", "processes that decode images (default: one for each core, at most 8)",
                          allowed=Allowed(0, 256))
    timeout: float = option(5.0, "run", "minutes to wait for another process (default 5)",
                            allowed=Allowed(0.01, 1440))
    amp: str = option(None, "run", "mixed precision: bfloat16, or fp16 with a scaled loss; graphs are built in float32"
                                   " from features that are rounded already", STAYS, tuple(AMP), nargs="?",
                      const="bf16")
    compile: bool = option(False, "run", "torch.compile the model: a slow start, then faster", STAYS)
    plain: bool = option(False, "run", "compute everything in its plain form, as it is defined: slower, for a debugger")
    lessons: Path = option(None, "run", "compute with your own functions, of a folder in which lessons 3, 5, 6 and 8 of"
                                        " python -m vig_minimal learn are done")
    grad_checkpoint: bool = option(False, "run", "recompute blocks in the backward pass: less memory, about a third"
                                                 " more time", CHANGES)
    sync_bn: bool = option(False, "run", "batch norm over the batches of all GPUs together", STAYS)
    detect_anomaly: bool = option(False, "run", "name the operation whose gradient is not a number; slow")

    output: Path = option(None, "output", "where everything is written (default runs/MODEL-DATA, numbered where a run"
                                          " is)")
    save_every: int = option(None, "output", "write last.pt every N steps too, not only after each epoch", CHANGES,
                             COUNT)
    keep_every: int = option(None, "output", "keep the weights of epochs 0, N, 2N, ... as epoch-NNN.pt", CHANGES, COUNT)
    every: int = option(None, "output", "keep the graphs of four validation images at epochs 0, N, 2N, ... for python"
                                        " -m vig_minimal explore --run DIR", CHANGES, COUNT)
    log_every: int = option(None, "output", "print a line with the loss every N steps, too", CHANGES, COUNT)

    def __post_init__(self):
        check_fields(OPTIONS.values(), vars(self))
        refuse_first([
            (self.eval_only and self.resume in (None, "auto"), "--eval-only: name the checkpoint with --resume PATH"),
            (self.plain and self.compile, "--plain and --compile: choose one of them"),
            (self.eval_only and self.dry_run, "--dry-run and --eval-only: choose one of them"),
            (self.eval_split == "train" and not self.eval_only, "--eval-split: goes with --eval-only alone"),
            (len(self.img_size or ()) > 2, f"--img-size {self.img_size}: one side, or height and width"),
        ])

    @classmethod
    def of(cls, given: dict) -> "RunConfig":
        """The fields that were given, and defaults; nothing is resolved yet."""
        check_fields(RECIPE_FLAGS.values(), given)
        recipe = {name: given[name] for name in RECIPE_FLAGS if name in given}
        return cls(**{name: given[name] for name in OPTIONS if name in given},
                   given=kept(given, GIVEN, STAYS, CHANGES) | recipe)

    @property
    def writes(self) -> bool:
        """Whether this run trains and writes into its folder."""
        return not (self.eval_only or self.dry_run)

    def build_model(self, **fields) -> nn.Module:
        """Build the model; `fields` come on top of the config's. Raises ValueError for impossible values."""
        try:
            return MODELS[self.task][0](self.model, **(self.fields | fields))
        except TypeError as error:
            raise ValueError(f"--set: a value of the wrong kind ({error})") from None

    def flags(self) -> dict:
        """The values of the flags that a checkpoint keeps, as plain data."""
        return kept(vars(self), STAYS, CHANGES) | {"recipe": self.recipe_name}


OPTIONS = {field.name: field for field in fields(RunConfig) if field.metadata}  # with a flag; the recipe's aside


def family_of(model: str) -> str:
    """Return the family of a model's name, or of a family's."""
    return model.partition("_")[0]


def kept(values: dict, *kinds: str) -> dict:
    """Return the options that a checkpoint stores, by `kinds`, as plain data with absolute paths."""
    values = {name: values[name] for name, option in OPTIONS.items()
              if name in values and option.metadata["kept"] in kinds}
    return {name: os.path.abspath(value) if value and OPTIONS[name].type is Path else value
            for name, value in values.items()}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are raised, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse(argv: list[str] | None) -> dict:
    """Return what was given, by the names of fields of `RunConfig` and `Recipe`. Raises ValueError for unknown
    flags, and for values that are not allowed."""
    parser = Parser(prog="train.py", description="Train or evaluate a Vision GNN.", epilog=EXAMPLES,
                    usage="train.py [--model NAME] [--data NAME | --data-dir DIR] [FLAG ...]",
                    formatter_class=argparse.RawDescriptionHelpFormatter,
                    argument_default=argparse.SUPPRESS)  # what is not given is not there
    groups = {title: parser.add_argument_group(title) for title in ("model", "data", "recipe", "run", "output")}
    for name, field in (OPTIONS | RECIPE_FLAGS).items():
        how = ARGUMENTS.get(field.type, {}) | field.metadata.get("how", {})
        how.pop("flag", None)
        groups[field.metadata.get("group", "recipe")].add_argument(
            flag_name(field), dest=name, help=field.metadata["help"].replace("%", "%%"), **how)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        names = [name.lstrip("-") for name in parser._option_string_actions]
        close = get_close_matches(unknown[0].partition("=")[0].lower().lstrip("-"), names, 2, 0.55)
        hint = f"did you mean --{' or --'.join(close)}?" if close else "--help lists all flags"
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)}; {hint}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(args).items()}
    given |= {"fields": dict(map(read_field, given["fields"]))} if "fields" in given else {}
    RunConfig.of(given)  # raises
    return given


def read_field(setting: str) -> tuple[str, object]:
    """Return name and value of a `--set FIELD=VALUE`. A value is text unless it is a number, a bool or a tuple."""
    name, equals, text = setting.partition("=")
    if not equals:
        raise ValueError(f"--set {setting}: it takes FIELD=VALUE")
    if name in ("num_classes", "img_size"):
        raise ValueError(f"--set {setting}: num_classes follows from the data, img_size from --img-size")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    most = 1000 if name == "depth" else 10_000
    if any(type(part) is int and part > most for part in (value if isinstance(value, tuple) else (value,))):
        raise ValueError(f"--set {setting}: at most {most:,}")
    return name, value
