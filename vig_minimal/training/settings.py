"""The flags of train.py (`parse`), and what follows from flags, checkpoint, recipe, data and model (`settle`)."""

import argparse
import ast
import math
import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..data.datasets import DATA_SETS, IMAGE_SIZES, MULTI_LABEL
from ..models.pyramid import PyramidConfig
from ..models.registry import CONFIGS, create_model
from .checkpoint import MAY_CHANGE, STAY, as_it_was, load_latest, load_run, recipe_changes
from .distributed import Processes
from .endings import fail
from .engine import AMP
from .recipes import PAPERS, RECIPES, Recipe, flags, get_recipe, kept_recipe, override

FAMILIES = {name.rsplit("_", 1)[0] for name in CONFIGS}
MULTI_LABEL_FAMILY = "gkgnet"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line. A flag of the recipe that is not given is None: the recipe's own value holds."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train or evaluate a Vision GNN.",
                                     epilog="example: torchrun train.py --model lrgc")
    parser.error = fail
    add = parser.add_argument
    add("--model", help=f"a family ({', '.join(sorted(FAMILIES))}) or a full name, as lrgc_ti (default: lrgc)")
    add("--data", help=f"one of {', '.join(DATA_SETS)}; by default imagefolder with --data-dir, else shapes, or"
                       " shapes-multi for GKGNet and --multi-label")
    add("--data-dir", metavar="DIR", help="holds train/CLASS/*.jpg and val/CLASS/*.jpg; or keeps downloads (./data)")
    add("--multi-label", action="store_true",
        help="train yes or no for each class, on multi-label data; GKGNet always does")
    add("--anchors-per-class", type=int, metavar="N", help="of CNN2GNN: training images that stand for a class (1)")
    add("--proxies-per-class", type=int, metavar="N", help="of CNN2GNN: learnt vectors that stand for a class (1)")
    add("--backbone-weights", metavar="FILE", help="of CNN2GNN's ResNet: a state dict, or «torchvision» to download")
    add("--init-from", metavar="FILE",
        help="start from these weights: Pyramid ViG's for GKGNet, other classes' for any")
    add("--img-size", type=int, nargs="+", metavar="N", help="side, or height and width (default: the data's)")
    add("--limit", type=int, metavar="N", help="use only N training images, for trials")
    add("--bad-images", choices=("skip", "error"),
        help="training images that cannot be read: replace and list them, at most 1 %% (skip), or end the run (error)")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="field of the model's config: k=6, conv=gin")
    add("--output", metavar="DIR", help="where all is written (default runs/MODEL-DATA, numbered where a run is)")
    add("--resume", metavar="PATH", help="go on from this checkpoint; auto: from the output folder's last.pt, if any")
    add("--save-every", type=int, metavar="N", help="write last.pt every N steps too, not only after each epoch")
    add("--keep-every", type=int, metavar="N", help="keep the weights of epochs 0, N, 2N, ... as epoch-NNN.pt")
    add("--every", type=int, metavar="N", help="keep the graphs of four validation images at epochs 0, N, 2N, ... for"
                                               " `python -m vig_minimal explore --run DIR`")
    add("--eval-only", action="store_true", help="evaluate the checkpoint of --resume, and write nothing")
    add("--eval-split", choices=("val", "train"), default="val", help="images that --eval-only evaluates (default val)")
    add("--dry-run", action="store_true", help="two steps and an evaluation: what the whole would take; write nothing")
    add("--tensorboard", action="store_true", help="write event files too, if the package tensorboard is there")
    recipe = parser.add_argument_group("the recipe, and its fields")
    recipe.add_argument("--recipe", help=f"one of {', '.join(RECIPES)} (default: demo on shapes and for nano models,"
                                         " else the paper's)")
    for name, (kind, text) in flags().items():
        how = {"type": kind, "metavar": kind.__name__.upper()}
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        if kind is tuple:
            how = {"type": float, "nargs": "*", "metavar": "EPOCH"}
        recipe.add_argument("--" + name.replace("_", "-"), help=text.replace("%", "%%"), **how)
    recipe.add_argument("--no-ema", dest="ema_decay", action="store_const", const=0.0, help="same as --ema-decay 0")
    recipe.add_argument("--scale-lr", action="store_true",
                        help="learning rates in proportion to the batch: they are for the recipe's own batch size")
    recipe.add_argument("--teacher-weights", metavar="FILE", help="the teacher's state dict (default: torchvision's)")
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto: cuda if there is one)")
    machine.add_argument("--workers", type=int, metavar="N",
                         help="processes that decode images (default: one for each core, at most 8)")
    machine.add_argument("--seed", type=int, help="of everything random (default 0)")
    machine.add_argument("--amp", nargs="?", const="bf16", choices=list(AMP),
                         help="compute in bfloat16 (or fp16, with a scaled loss) where it is safe; graphs are made in"
                              " float32 of features that are rounded already")
    machine.add_argument("--compile", action="store_true", help="torch.compile the model: a slow start, then faster")
    machine.add_argument("--grad-checkpoint", action="store_true",
                         help="compute blocks again for the backward pass: less memory, about a third more time")
    machine.add_argument("--sync-bn", action="store_true", help="batch norm over the batches of all GPUs together")
    machine.add_argument("--detect-anomaly", action="store_true",
                         help="name the operation whose gradient is not a number; slow")
    args = parser.parse_args(argv)
    args.decay_epochs = None if args.decay_epochs is None else tuple(args.decay_epochs)
    ranges = {"epochs": (1, 10 ** 6), "batch_size": (1, 10 ** 6), "accumulation": (1, 10 ** 6), "repeats": (1, 1000),
              "limit": (1, 10 ** 8), "save_every": (1, 10 ** 8), "keep_every": (1, 10 ** 6), "every": (1, 10 ** 6),
              "workers": (0, 1024),
              "seed": (-2 ** 63, 2 ** 63), "anchors_per_class": (1, 10 ** 4), "proxies_per_class": (1, 10 ** 4)}
    names = "data_dir", "output", "resume", "init_from", "backbone_weights", "teacher_weights"
    for wrong, sentence in [
        (args.eval_only and args.resume in (None, "auto"), "--eval-only: name the checkpoint with --resume PATH"),
        (args.dry_run and args.eval_only, "--dry-run and --eval-only: choose one of them"),
        (args.eval_split == "train" and not args.eval_only, "--eval-split: goes with --eval-only alone"),
        *((getattr(args, name) == "", f"--{name.replace('_', '-')}: an empty name") for name in names),
        *((getattr(args, name) is not None and not least <= getattr(args, name) <= most,
           f"--{name.replace('_', '-')} {getattr(args, name)}: {least} to {most}") for name, (least, most)
          in ranges.items()),
    ]:
        if wrong:
            fail(sentence)
    return args


@dataclass(frozen=True)
class Settings:
    """All that is decided before a run begins. `flags` holds what needs no other information."""

    flags: argparse.Namespace
    model: str               # full name, as lrgc_nano
    fields: dict             # of the model's config, those that differ from the preset
    data: str                # name of the data set
    recipe_name: str
    recipe: Recipe
    folder: Path             # output
    workers: int             # processes that decode images
    resumed: Path | None     # the checkpoint to go on from, or to evaluate
    state: dict | None       # what it holds
    damaged: str             # why previous.pt is used and not last.pt, or ""
    changes: list[str]       # what differs from the checkpoint's run

    def kept(self) -> dict:
        """What a checkpoint keeps of the flags, whether given or guessed."""
        folder = self.flags.data_dir and os.path.abspath(self.flags.data_dir)
        return {name: getattr(self.flags, name) for name in (*MAY_CHANGE, *STAY)} | {
            "data": self.data, "data_dir": folder, "recipe": self.recipe_name}

    @property
    def split_seed(self) -> int:
        """The seed that splits a folder without train/ and val/: the run's, also where an evaluation has another."""
        return (self.state or {}).get("flags", {}).get("seed", self.flags.seed)

    @property
    def writes(self) -> bool:
        """Whether this run trains and writes into its folder."""
        return not (self.flags.eval_only or self.flags.dry_run)

    def build_model(self, **fields) -> nn.Module:
        """Build the model; `fields` come on top of the settings. Raises ValueError for a value that cannot work."""
        try:
            return create_model(self.model, **(self.fields | fields))
        except TypeError as error:
            raise ValueError(f"--set: a value of the wrong kind ({error})") from None


def settle(args: argparse.Namespace, processes: Processes) -> Settings:
    """Decide everything, before any data is read. Raises ValueError for what cannot work together."""
    resumed, state, damaged = None, None, ""
    if args.resume == "auto":
        name = args.output or "-".join([choose_names(args, data := choose_data(args, None), None)[0], data])
        args.output = processes.from_first(output_folder, args, name)
        state, resumed, damaged = load_latest(Path(args.output))
    elif args.resume:
        resumed = Path(args.resume)
        state = load_run(resumed)
    changes = as_it_was(args, state, resumed)
    data = choose_data(args, state)
    model, recipe_name = choose_names(args, data, state)
    folder = Path(processes.from_first(output_folder, args, f"{model}-{data}"))
    given = {name: getattr(args, name) for name in flags() if getattr(args, name) is not None}
    # a command given again computes its rates again
    again = state and not (args.recipe or args.scale_lr)
    recipe = override(kept_recipe(state["recipe"]) if again else get_recipe(recipe_name), given, args.scale_lr)
    if state and not args.eval_only:
        changes += recipe_changes(recipe, kept_recipe(state["recipe"]), resumed)
    fields = choose_fields(args, data, model, recipe, state)
    check_task(data, model, recipe, fields, args, state)
    workers = args.workers
    if workers is None:
        workers = min(8, max(1, (os.cpu_count() or 1) // processes.local_world))
    settings = Settings(args, model, fields, data, recipe_name, recipe, folder, workers, resumed, state, damaged,
                        changes)
    settings.build_model()  # what cannot work is found before any data is fetched
    return settings


def choose_data(args: argparse.Namespace, state: dict | None) -> str:
    """Name the data set: --data, else image folders if there is --data-dir, else synthetic scenes."""
    model = args.model or (state["name"] if state else "")
    several = args.multi_label or (state or {}).get("multi_label") or model.startswith(MULTI_LABEL_FAMILY)
    return args.data or ("imagefolder" if args.data_dir else "shapes-multi" if several else "shapes")


def check_task(data: str, model: str, recipe: Recipe, fields: dict, args: argparse.Namespace,
               state: dict | None) -> None:
    """Raise ValueError if model or recipe cannot learn from single-label or from multi-label data."""
    several, made_for = data in MULTI_LABEL, model.startswith(MULTI_LABEL_FAMILY)
    asked = made_for or args.multi_label or (state or {}).get("multi_label")
    has_anchors = getattr(CONFIGS[model], "aggregation", "none") != "none"
    taught = recipe.teacher != "none" or fields.get("distillation", getattr(CONFIGS[model], "distillation", False))
    no_mixing = "give --mixup 0 --cutmix 0"
    for wrong, sentence in [
        (not several and (made_for or args.multi_label),
         f"{model if made_for else '--multi-label: the model'} answers yes or no for every class, and an image of"
         f" {data} has exactly one; multi-label data are {', '.join(MULTI_LABEL)}; choose one, or another model"),
        (not several and recipe.mixes and has_anchors,
         f"mixup and CutMix give an image shares of two classes, and triplets need one; {no_mixing}"),
        (args.backbone_weights and not hasattr(CONFIGS[model], "backbone"),
         f"--backbone-weights: {model} has no ResNet; give --init-from its own weights"),
        (several and not asked,
         f"{model} tells the one class of an image, and an image of {data} shows several or none; choose gkgnet, or"
         " give --multi-label to train yes or no for every class"),
        (several and recipe.mixes, f"mixup and CutMix mix images of one class each; for multi-label data {no_mixing}"),
        (several and taught, "a teacher tells one class an image; for multi-label data give --teacher none and, with"
                             " ClusterViG, --set distillation=False"),
        (several and has_anchors, f"{model}: its anchors stand for one class each; choose resnet, or another model"),
    ]:
        if wrong:
            raise ValueError(sentence)


def choose_names(args: argparse.Namespace, data: str, state: dict | None) -> tuple[str, str]:
    """Return the model's full name and the recipe's name. The recipe is demo for nano models and synthetic scenes, else
    the paper's; a family without a size takes the recipe's."""
    model = args.model or (state["name"] if state else "lrgc")
    if state and state["name"].rsplit("_", 1)[0] == model:
        model = state["name"]
    family = model if model in FAMILIES else model.rsplit("_", 1)[0]
    paper = PAPERS.get(family, "vig")
    paper = {("gkgnet", "voc2007"): "gkgnet_voc", ("cnn2graph", "cifar100"): "cnn2graph_100",
             ("cnn2graph", "imagefolder"): "cnn2graph_100"}.get((paper, data), paper)
    demo = "demo_multi" if data in MULTI_LABEL else "demo"
    recipe = args.recipe or (state or {}).get("flags", {}).get("recipe") or (
        demo if data.startswith("shapes") or model.endswith("_nano") else paper)
    size = get_recipe(recipe).size.removeprefix("resnet" if family == "resnet" else "")  # resnet_18, cnn2gnn_resnet18
    return (f"{model}_{size}" if model in FAMILIES else model), recipe


def choose_fields(args: argparse.Namespace, data: str, model: str, recipe: Recipe, state: dict | None) -> dict:
    """Return fields of the config: of --set, --img-size and the recipe; of a checkpoint all but num_classes.

    Unless it is set, patch is chosen so that the grid is near the preset's.
    """
    if model not in CONFIGS:
        create_model(model)  # raises, naming the models there are
    preset = CONFIGS[model]
    fields = {"drop_path": recipe.drop_path} if hasattr(preset, "drop_path") else {}
    if state and state["name"] == model:
        fields = {name: value for name, value in state["config"].items() if name != "num_classes"}
        fields |= {} if args.drop_path is None else {"drop_path": args.drop_path}
    for name in ("anchors_per_class", "proxies_per_class"):
        if getattr(args, name) is not None:
            fields[name] = getattr(args, name)  # other models refuse it
    if args.drop_path and not hasattr(preset, "drop_path"):
        raise ValueError(f"--drop-path {args.drop_path:g}: {model} has no stochastic depth; leave it out")
    for setting in args.set:
        name, equals, value = setting.partition("=")
        if not equals or name in ("num_classes", "img_size"):
            raise ValueError(f"--set {setting}: it takes FIELD=VALUE; num_classes follows from the data, img_size from"
                             " --img-size")
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[name] = value
        most, values = 1000 if name == "depth" else 10_000, fields[name]
        if any(type(part) is int and part > most for part in (values if isinstance(values, tuple) else (values,))):
            raise ValueError(f"--set {setting}: at most {most}")
    if args.img_size or "img_size" not in fields:
        size = args.img_size or [IMAGE_SIZES.get(data, preset.img_size[0])]
        if len(size) > 2 or not 1 <= min(size) <= max(size) <= 8192:
            raise ValueError(f"--img-size {' '.join(map(str, size))}: one side, or height and width, 1 to 8192 pixels")
        fields["img_size"] = (size[0], size[-1])
    if "patch" not in fields and hasattr(preset, "patch"):
        height, width = fields["img_size"]
        strides = (2, 4, 8) if isinstance(preset, PyramidConfig) else (2, 4, 8, 16)
        possible = [patch for patch in strides if height % patch == 0 and width % patch == 0] or [preset.patch]
        fields["patch"] = min(possible, key=lambda patch: abs(math.log(height / patch / preset.grid[0])))
    return fields


def check_batch(recipe: Recipe, images: int, processes: Processes) -> None:
    """Raise ValueError if the batch is larger than the data, or cannot be split over processes and parts."""
    size, parts = recipe.batch_size, processes.world * recipe.accumulation
    if size > images:
        raise ValueError(f"--batch-size {size}: larger than the data set of {images} training images")
    share, rest = divmod(size, parts)
    what = f"--batch-size {size}: the global batch, of which each of {processes.world} processes"
    what += f" and {recipe.accumulation} parts (--accumulation)" if recipe.accumulation > 1 else ""
    if rest or share < 2:
        raise ValueError(f"{what} must get the same share, of at least 2 images for batch norm")
    if recipe.mixes and share % 2:
        raise ValueError(f"{what} gets {share} images; mixup and CutMix pair them, and need an even number")


def output_folder(args: argparse.Namespace, name: str) -> str:
    """Choose where this run writes, never over another run: without --output, the next free number is taken."""
    def holds_run(folder: Path) -> bool:
        return any((folder / file).exists() for file in ("last.pt", "previous.pt", "best.pt", "metrics.csv"))

    resumed = None if args.resume in (None, "auto") else Path(args.resume).parent
    if args.output or resumed:
        folder = Path(args.output or resumed)
        if holds_run(folder) and args.resume != "auto" and folder != resumed and not args.dry_run:
            raise ValueError(f"{folder} holds a run already: go on with it by --resume auto, or choose another folder")
        return str(folder)
    number, folder = 1, Path("runs", name)
    while holds_run(folder):
        number, latest, folder = number + 1, folder, Path("runs", f"{name}-{number + 1}")
    return str(latest if args.resume == "auto" and number > 1 else folder)
