"""RunConfig: all that is fixed about a run, in one table; every field with a help text is a flag of train.py.

`parse` gives what a command line says, and `resolve.resolve` makes the whole of it.
"""

import argparse
import ast
import os
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from ..data.data_recipe import Allowed, check_allowed
from ..data.datasets import DATA_SETS
from ..models.detection import create_detector, detector_size
from ..models.registry import CONFIGS, create_model
from ..models.segmentation import create_segmenter, segmenter_size
from ..own_modules import import_first
from .distributed import read_place
from .endings import fail
from .recipes import RECIPES, Recipe, flags

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
# what a checkpoint keeps of a flag: nothing, since it is of one call; what was given; the value too, which must stay in
# a run that goes on; the value too, which may change
CALL, GIVEN, STAYS, CHANGES = "call", "given", "stays", "changes"


def option(default, group: str, text: str, kept: str = CALL, allowed: Allowed | None = None, **how):
    """A field and its flag. how: further arguments of `add_argument`; flag: its name, if it is not the field's."""
    return field(default=default, metadata={"group": group, "help": text, "kept": kept, "allowed": allowed, "how": how})


@dataclass(frozen=True)
class RunConfig:
    """What a run is. In `parse` and before `resolve`, a field that was not given has its default here."""

    model: str = option(None, "model", f"a family ({', '.join(FAMILIES)}) or a full name, as lrgc_ti (default: lrgc; of"
                                       " a detector cvig)", GIVEN, metavar="NAME", type=str.lower)
    fields: dict = option(None, "model", "field of the model's config: k=6, conv=gin", GIVEN, flag="--set",
                          action="append", metavar="FIELD=VALUE")
    img_size: tuple[int, int] = option(None, "model", "side, or height and width (default: the data's)", GIVEN,
                                       Allowed(1, 8192), type=int, nargs="+", metavar="N")
    init_from: str = option(None, "model", "start from these weights, of train.py, of a trained model"
                                           " (lrgc_nano-cifar10) or of the papers' authors: they tell the model and its"
                                           " size, and the recipe is finetune; with --model gkgnet, Pyramid ViG's", STAYS,
                           metavar="FILE")
    freeze: bool = option(False, "model", "train the head alone; stem and blocks stay as loaded, batch norm's"
                                          " statistics too", STAYS)
    task: str = option(None, "model", "labels: classification; detection: Mask R-CNN; segmentation: Semantic FPN"
                                      " (default: that of the data, else labels)", STAYS, choices=tuple(MODELS))
    anchors_per_class: int = option(None, "model", "of CNN2GNN: training images that stand for a class (1)", GIVEN,
                                    PER_CLASS, type=int, metavar="N")
    proxies_per_class: int = option(None, "model", "of CNN2GNN: learnt vectors that stand for a class (1)", GIVEN,
                                    PER_CLASS, type=int, metavar="N")
    backbone_weights: str = option(None, "model", "of CNN2GNN's ResNet: a state dict, or «torchvision» to download",
                                   metavar="FILE")

    data: str = option(None, "data", f"one of {', '.join(DATA_SETS)}; by default imagefolder with --data-dir, else"
                                     " shapes, or shapes-multi for GKGNet and --multi-label", CHANGES, metavar="NAME")
    data_dir: str = option(None, "data", "holds train/CLASS/*.jpg and val/CLASS/*.jpg; or keeps downloads (./data)",
                           CHANGES, metavar="DIR")
    multi_label: bool = option(False, "data", "train yes or no for each class, on multi-label data; GKGNet always does",
                               STAYS)
    limit: int = option(None, "data", "use only N training images, for trials", CHANGES, Allowed(1, 10**7), type=int,
                        metavar="N")
    bad_images: str = option("skip", "data", "training images that cannot be read: replace and list them, at most 1 %%"
                                             " (skip), or end the run (error)", CHANGES, type=str.lower,
                             choices=("skip", "error"))

    recipe_name: str = option(None, "recipe", f"one of {', '.join(RECIPES)} (default: demo on shapes and for nano"
                                              " models, else the paper's); each of the following replaces one value",
                              GIVEN, flag="--recipe", metavar="NAME", type=str.lower)
    recipe: Recipe = Recipe()
    given: dict = field(default_factory=dict)  # what a checkpoint keeps of what was given
    scale_lr: bool = option(False, "recipe", "learning rates in proportion to the batch: they are for the recipe's own"
                                             " batch size", GIVEN)
    teacher_weights: str = option(None, "recipe", "the teacher's state dict (default: torchvision's)", CHANGES,
                                  metavar="FILE")

    resume: str = option(None, "run", "go on from this checkpoint; auto: from the output folder's last.pt, if any",
                         metavar="PATH")
    eval_only: bool = option(False, "run", "evaluate the checkpoint of --resume; with one label an image, write"
                                           " confusion.csv and confusion.png")
    eval_split: str = option("val", "run", "images that --eval-only evaluates (default val)", choices=("val", "train"))
    dry_run: bool = option(False, "run", "two steps and an evaluation: what the whole would take; write nothing")
    imports: list = option(None, "run", "import this module or file first: it registers constructors or data sets of"
                                        " your own", flag="--import", action="append", type=import_first, metavar="NAME")
    seed: int = option(0, "run", "of everything random (default 0)", STAYS, Allowed(-2**63, 2**63), type=int,
                       metavar="N")
    device: str = option("auto", "run", "auto, cpu, cuda or mps (default auto: a GPU if there is one)", type=str.lower)
    workers: int = option(None, "run", "processes that decode images (default: one for each core, at most 8)",
                          allowed=Allowed(0, 256), type=int, metavar="N")
    timeout: float = option(5.0, "run", "end when another process does not answer for so long (default 5)",
                            allowed=Allowed(0.01, 1440), type=float, metavar="MINUTES")
    amp: str = option(None, "run", "compute in bfloat16 (or fp16, with a scaled loss) where it is safe; graphs are made"
                                   " in float32 of features that are rounded already", STAYS, nargs="?", const="bf16",
                      type=str.lower, choices=tuple(AMP))
    compile: bool = option(False, "run", "torch.compile the model: a slow start, then faster", STAYS)
    plain: bool = option(False, "run", "compute everything in its plain form, as it is defined: slower, to be stepped"
                                       " through")
    lessons: str = option(None, "run", "compute with your own functions, of a folder in which lessons 3, 5, 6 and 8 of"
                                       " python -m vig_minimal learn are done", metavar="DIR")
    grad_checkpoint: bool = option(False, "run", "compute blocks again for the backward pass: less memory, about a"
                                                 " third more time", CHANGES)
    sync_bn: bool = option(False, "run", "batch norm over the batches of all GPUs together", STAYS)
    detect_anomaly: bool = option(False, "run", "name the operation whose gradient is not a number; slow")

    output: Path = option(None, "output", "where all is written (default runs/MODEL-DATA, numbered where a run is)",
                          metavar="DIR")
    save_every: int = option(None, "output", "write last.pt every N steps too, not only after each epoch", CHANGES,
                             COUNT, type=int, metavar="N")
    keep_every: int = option(None, "output", "keep the weights of epochs 0, N, 2N, ... as epoch-NNN.pt", CHANGES, COUNT,
                             type=int, metavar="N")
    every: int = option(None, "output", "keep the graphs of four validation images at epochs 0, N, 2N, ... for python"
                                        " -m vig_minimal explore --run DIR", CHANGES, COUNT, type=int, metavar="N")
    log_every: int = option(None, "output", "print a line with the loss every N steps, too", CHANGES, COUNT, type=int,
                            metavar="N")
    tensorboard: bool = option(False, "output", "write event files too, if the package tensorboard is there", CHANGES)

    @classmethod
    def of(cls, given: dict) -> "RunConfig":
        """What was given, and defaults; nothing is resolved yet."""
        return cls(**{name: given[name] for name in flag_fields() if name in given}, given=given_of(given))

    @property
    def writes(self) -> bool:
        """Whether this run trains and writes into its folder."""
        return not (self.eval_only or self.dry_run)

    @property
    def family(self) -> str:
        return family_of(self.model)

    def build_model(self, **fields) -> nn.Module:
        """Build the model; `fields` come on top of the config's. Raises ValueError for a value that cannot work."""
        try:
            return MODELS[self.task][0](self.model, **(self.fields | fields))
        except TypeError as error:
            raise ValueError(f"--set: a value of the wrong kind ({error})") from None

    def kept(self) -> dict:
        """What a checkpoint keeps of the run: the values of flags, as plain data."""
        return kept_flags(vars(self), STAYS, CHANGES) | {"recipe": self.recipe_name}


def family_of(model: str) -> str:
    """Return the family of a model's name, or of a family's."""
    return model.partition("_")[0]


def flag_fields() -> dict[str, Field]:
    """Return the fields that have a flag, by name."""
    return {field.name: field for field in fields(RunConfig) if field.metadata}


def given_of(given: dict) -> dict:
    """Return what a checkpoint keeps of what was given, as plain data."""
    return kept_flags(given, GIVEN, STAYS, CHANGES) | {name: given[name] for name in flags() if name in given}


def kept_flags(values: dict, *kinds: str) -> dict:
    """Return the values of flags of which a checkpoint keeps what `kinds` says, as plain data: paths are absolute."""
    kept = {name: values[name] for name, field in flag_fields().items()
            if name in values and field.metadata["kept"] in kinds}
    return {name: os.path.abspath(value) if value and name in ("data_dir", "teacher_weights", "init_from") else value
            for name, value in kept.items()}


def parse(argv: list[str] | None) -> dict:
    """Return what was given, by the names of fields of `RunConfig` and `Recipe`. What is wrong ends the process."""
    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        names = [name.lstrip("-") for name in parser._option_string_actions]
        wrong = unknown[0].partition("=")[0].lower().lstrip("-")
        close = [f"--{name}" for name in get_close_matches(wrong, names, 2, 0.55)]
        hint = f"; did you mean {' or '.join(close)}?" if close else "; --help lists all flags"
        _refuse(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    given, known = vars(args), flag_fields() | flags()
    try:
        for name, value in given.items():
            if value == "":
                raise ValueError(f"{_flag(name)}: an empty name")
            for part in value if isinstance(value, list) else (value,):
                check_allowed(f"{_flag(name)} ", part, known[name].metadata["allowed"])
        if "fields" in given:
            given["fields"] = dict(map(read_field, given["fields"]))
    except ValueError as error:
        _refuse(error)
    if "decay_epochs" in given:
        given["decay_epochs"] = tuple(given["decay_epochs"])
    evaluates = given.get("eval_only")
    for wrong, sentence in [
        (evaluates and given.get("resume", "auto") == "auto", "--eval-only: name the checkpoint with --resume PATH"),
        (given.get("plain") and given.get("compile"), "--plain and --compile: choose one of them"),
        (evaluates and given.get("dry_run"), "--dry-run and --eval-only: choose one of them"),
        (given.get("eval_split") == "train" and not evaluates, "--eval-split: goes with --eval-only alone"),
        (len(size := given.get("img_size", ())) > 2, f"--img-size {size}: one side, or height and width"),
    ]:
        if wrong:
            _refuse(sentence)
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train.py", description="Train or evaluate a Vision GNN.", epilog=EXAMPLES,
                                     usage="train.py [--model NAME] [--data NAME | --data-dir DIR] [FLAG ...]",
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     argument_default=argparse.SUPPRESS)  # what is not given is not there
    parser.error = _refuse
    groups = {title: parser.add_argument_group(title) for title in ("model", "data", "recipe", "run", "output")}
    for name, field in flag_fields().items():
        about, how = field.metadata, dict(field.metadata["how"])
        if field.type is bool:
            how["action"] = "store_true"
        how.pop("flag", None)
        groups[about["group"]].add_argument(_flag(name), dest=name, help=about["help"], **how)
    for name, field in flags().items():
        how = {"type": field.type, "metavar": field.type.__name__.upper()}
        if field.type is bool:
            how = {"action": argparse.BooleanOptionalAction}
        if field.type is str:
            how = {"type": str.lower, "metavar": "NAME"}
        if field.type is tuple:
            how = {"type": float, "nargs": "*", "metavar": "EPOCH"}
        groups["recipe"].add_argument(_flag(name), help=field.metadata["help"].replace("%", "%%"), **how)
    groups["recipe"].add_argument("--no-ema", dest="ema_decay", action="store_const", const=0.0,
                                  help="same as --ema-decay 0")
    return parser


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


def _flag(name: str) -> str:
    own = flag_fields()[name].metadata["how"] if name in flag_fields() else {}
    return own.get("flag", "--" + name.replace("_", "-"))


def _refuse(error: object) -> NoReturn:
    try:
        said = read_place()[0] > 0  # all processes have the same flags
    except ValueError:
        said = False
    fail(error, said=said)
