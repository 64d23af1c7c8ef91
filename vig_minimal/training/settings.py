"""What follows from flags, checkpoint, recipe, data and model: all that is decided before a run begins."""

import argparse
import ast
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..data.batches import images_of_epoch
from ..data.datasets import DATA_SETS, DOWNLOADS, IMAGE_SIZES, MULTI_LABEL, WITH_BOXES
from ..models.checks import check_compiler, near, plural
from ..models.cost import count_parameters
from ..models.detection import create_detector, detector_size
from ..models.pyramid import PyramidConfig
from ..models.registry import CONFIGS, create_model, recognise
from ..models.teacher import check_teacher
from ..trained_files import located, trained
from .checkpoint import MAY_CHANGE, STAY, as_it_was, load_latest, load_run, on_disk, recipe_changes
from .distributed import Processes, check_sync_bn
from .flags import FAMILIES
from .recipes import PAPERS, Recipe, flags, get_recipe, kept_recipe, override

MULTI_LABEL_FAMILY = "gkgnet"
MOST_PARAMETERS, MOST_NODES = 2**31, 2**17


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
    source: dict | None      # what --init-from holds, see `recognise`
    found: tuple             # what was in the folder when it was read, see `on_disk`
    changes: list[str]       # what differs from the checkpoint's run

    def kept(self) -> dict:
        """What a checkpoint keeps of the flags, whether given or guessed."""
        paths = {name: os.path.abspath(path) for name in ("data_dir", "teacher_weights")
                 if (path := getattr(self.flags, name))}
        return {name: getattr(self.flags, name) for name in (*MAY_CHANGE, *STAY)} | paths | {
            "data": self.data, "recipe": self.recipe_name}

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
            create = create_detector if self.flags.task == "detection" else create_model
            return create(self.model, **(self.fields | fields))
        except TypeError as error:
            raise ValueError(f"--set: a value of the wrong kind ({error})") from None


def settle(args: argparse.Namespace, processes: Processes) -> Settings:
    """Decide everything, before any data is read. Raises ValueError for what cannot work together."""
    resumed, state, damaged, found, compiles = None, None, "", None, args.compile
    source, wrong = read_source(args)
    if wrong and not (args.model or args.output):  # the folder would be that of another model
        raise wrong
    if args.resume == "auto":
        args.output = processes.from_first(output_folder, args, args.output or run_name(args, source))
        found = on_disk(Path(args.output))
        state, resumed, damaged = load_latest(Path(args.output))
        check_source(args, source, state, resumed)
    elif args.resume:
        resumed = Path(args.resume)
        found = on_disk(Path(args.output or resumed.parent))
        state = load_run(resumed)
    changes = as_it_was(args, state, resumed)
    if wrong and not state:
        raise wrong
    if args.eval_only and not compiles:
        args.compile = False  # one pass is over before a compiler is done
    for flag in ("backbone_weights", "teacher_weights"):
        path = getattr(args, flag)
        if path and not state and path != "torchvision" and not os.path.exists(path):
            raise ValueError(f"--{flag.replace('_', '-')} {path}: no such file")
    data = choose_data(args, state)
    args.task = args.task or ("detection" if data == "shapes-boxes" else "labels")
    source = None if state else source
    if args.freeze and source is None and not state:
        raise ValueError("--freeze: keeps the loaded weights; name them with --init-from FILE")
    like = as_a_start(args, source)
    model, recipe_name = choose_names(args, data, state or like)
    folder = Path(processes.from_first(output_folder, args, f"{model}-{data}"))
    found = on_disk(folder) if found is None else found
    given = {name: getattr(args, name) for name in flags() if getattr(args, name) is not None}
    # a command given again computes its rates again
    again = state and (args.recipe or args.scale_lr)
    recipe = kept_recipe(state["recipe"]) if state and not again else get_recipe(recipe_name)
    # a run that goes on keeps the crop, mean and std that it may have from --init-from
    trained = like or (state if again and not args.eval_only else None)
    recipe = override(as_trained(recipe, trained) if trained else recipe, given, args.scale_lr)
    if state and not args.eval_only:
        changes += recipe_changes(recipe, kept_recipe(state["recipe"]), resumed)
    fields = choose_fields(args, data, model, recipe, state or like)
    check_task(data, model, recipe, fields, args, state)
    if recipe.teacher != "none" and not args.eval_only:
        check_teacher(recipe.teacher)
    if args.sync_bn:
        check_sync_bn(processes)
    if args.compile:
        check_compiler(processes.device.type)
    workers = args.workers
    if workers is None:
        workers = min(8, max(1, (os.cpu_count() or 1) // processes.local_world))
    settings = Settings(args, model, fields, data, recipe_name, recipe, folder, workers, resumed, state, damaged,
                        source, found, changes)
    with torch.device("meta"):  # what cannot work is found before any data is fetched or memory taken
        if (count := count_parameters(settings.build_model())) > MOST_PARAMETERS:
            raise ValueError(f"{model}: {count:,} parameters, and at most {MOST_PARAMETERS:,} are allowed; choose a"
                             " smaller dim or depth with --set")
    return settings


def as_a_start(args: argparse.Namespace, source: dict | None) -> dict | None:
    """Return what --init-from holds as if it were the checkpoint of a run to fine-tune, or None: a model of another
    family, as GKGNet from Pyramid ViG, takes the weights alone."""
    if not source or family_of(args.model or source["name"]) != family_of(source["name"]):
        return None
    if args.task == "detection":  # the classifier becomes the backbone; κ follows the new grid
        body = {name: value for name, value in source["config"].items() if name != "clusters"}
        return source | {"flags": {}, "config": {"body": tuple(body.items())}}
    return source | {"flags": {"recipe": "finetune"}}


def read_source(args: argparse.Namespace) -> tuple[dict | None, ValueError | None]:
    """Return what --init-from holds, see `recognise`, or None; and what is wrong with it, which a run that goes on need
    not know."""
    path = args.init_from
    if not path:
        return None, None
    if not located(path).exists():
        return None, ValueError(f"--init-from {path}: no such file, nor a trained model ({', '.join(trained())})")
    try:
        source = recognise(path)
    except ValueError as error:
        return None, error
    if source == {} and not args.model:
        return None, ValueError(f"{path}: no checkpoint of train.py, and no released weights of ViG, Pyramid ViG, SViG"
                                " or GKGNet whose size is known by their shapes; name the model with --model")
    return source, None


def run_name(args: argparse.Namespace, source: dict | None) -> str:
    """Return MODEL-DATA, after which a new run's folder is named."""
    args, data = argparse.Namespace(**vars(args)), choose_data(args, None)
    args.task = args.task or ("detection" if data == "shapes-boxes" else "labels")
    return f"{choose_names(args, data, as_a_start(args, source))[0]}-{data}"


def check_source(args: argparse.Namespace, source: dict | None, state: dict | None, resumed: Path | None) -> None:
    """Raise ValueError if a run that goes on by itself cannot have begun from the weights of --init-from."""
    if source and state and not args.model and source["name"] != state["name"]:
        raise ValueError(f"{resumed} is of {state['name']}, and --init-from {args.init_from} of {source['name']};"
                         " choose another --output, or leave --init-from out to go on")


def choose_data(args: argparse.Namespace, state: dict | None) -> str:
    """Name the data set: --data, else image folders if there is --data-dir, else synthetic scenes."""
    model = args.model or (state["name"] if state else "")
    several = args.multi_label or (state or {}).get("multi_label") or model.startswith(MULTI_LABEL_FAMILY)
    if not args.data and args.task == "detection":
        return "coco" if args.data_dir else "shapes-boxes"
    if not args.data:
        return "imagefolder" if args.data_dir else "shapes-multi" if several else "shapes"
    known = list(dict.fromkeys((*DATA_SETS, *DOWNLOADS)))
    if name := next((name for name in known if name.lower() == args.data.lower()), ""):
        return name
    raise ValueError(f"unknown data set {args.data!r}{near(args.data, known)}")


def check_task(data: str, model: str, recipe: Recipe, fields: dict, args: argparse.Namespace,
               state: dict | None) -> None:
    """Raise ValueError if model or recipe cannot learn from single-label or from multi-label data."""
    if args.task == "detection":
        return check_detection(data, recipe, args)
    several, made_for = data in MULTI_LABEL, model.startswith(MULTI_LABEL_FAMILY)
    asked = made_for or args.multi_label or (state or {}).get("multi_label")
    has_anchors = getattr(CONFIGS[model], "aggregation", "none") != "none"
    taught = recipe.teacher != "none" or fields.get("distillation", getattr(CONFIGS[model], "distillation", False))
    no_mixing = "give --mixup 0 --cutmix 0"
    for wrong, sentence in [
        (recipe.scale_jitter, "--scale-jitter: scales images with boxes; give --task detection too, or --crop resized"),
        (data == "shapes-boxes", "shapes-boxes tells boxes and masks; give --task detection, or choose shapes"),
        (not several and (made_for or args.multi_label),
         f"{model if made_for else '--multi-label: the model'} answers yes or no for every class, and an image of"
         f" {data} has exactly one; multi-label data are {', '.join(MULTI_LABEL)}; choose one, or another model"),
        (not several and recipe.mixes and has_anchors,
         f"mixup and CutMix give an image shares of two classes, and triplets need one; {no_mixing}"),
        (args.backbone_weights and not hasattr(CONFIGS[model], "backbone"),
         f"--backbone-weights: {model} has no ResNet; give --init-from its own weights"),
        (args.every and not hasattr(CONFIGS[model], "grid"), f"--every: {model} has no graph over patches"),
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


def check_detection(data: str, recipe: Recipe, args: argparse.Namespace) -> None:
    """Raise ValueError if a detector cannot learn from this data, or by this recipe."""
    for wrong, sentence in [
        (data not in WITH_BOXES, f"--task detection: {data} has no boxes and masks; {' and '.join(WITH_BOXES)} have"),
        (args.every, "--every: keeps graphs of classifiers alone; leave it out"),
        (args.multi_label, "--multi-label and --task detection: choose one of them"),
        (args.backbone_weights, "--backbone-weights: goes with CNN2GNN's ResNet alone; start a detector's backbone with"
                                " --init-from"),
        (recipe.mixes or recipe.erasing or recipe.rand_augment or recipe.color_jitter or recipe.oversample,
         "--task detection: of all augmentation it has --flip and --scale-jitter; choose a recipe without the others,"
         " as detection"),
        (recipe.teacher != "none", "--task detection: a teacher tells one class an image; give --teacher none"),
        (args.compile, "--compile: what a detector computes depends on what it finds; leave it out"),
    ]:
        if wrong:
            raise ValueError(sentence)


def family_of(model: str) -> str:
    """Return the family of a model's name, or of a family's."""
    return model.partition("_")[0]


def as_trained(recipe: Recipe, source: dict) -> Recipe:
    """Return the recipe with the crop, mean and std with which the weights of `source` were trained."""
    kept = source.get("recipe")
    kept = kept_recipe(kept) if kept else get_recipe(PAPERS.get(family_of(source["name"]), "vig"))
    return replace(recipe, eval_crop=kept.eval_crop, mean=tuple(kept.mean), std=tuple(kept.std))


def choose_names(args: argparse.Namespace, data: str, state: dict | None) -> tuple[str, str]:
    """Return the model's full name and the recipe's name. The recipe is finetune for a model that starts trained, demo
    for nano models and synthetic scenes, else the paper's; a family without a size takes the recipe's.

    state: what --resume or --init-from holds."""
    model = args.model or (state["name"] if state else "cvig" if args.task == "detection" else "lrgc")
    if state and family_of(state["name"]) == model:
        model = state["name"]
    family = family_of(model)
    paper = PAPERS.get(family, "vig")
    paper = {("gkgnet", "voc2007"): "gkgnet_voc", ("cnn2graph", "cifar100"): "cnn2graph_100",
             ("cnn2graph", "imagefolder"): "cnn2graph_100"}.get((paper, data), paper)
    demo = "demo_multi" if data in MULTI_LABEL else "demo"
    if args.task == "detection":
        paper, demo = "detection", "demo_detection"
    recipe = args.recipe or (state or {}).get("flags", {}).get("recipe") or (
        demo if data.startswith("shapes") or model.endswith("_nano") else paper)
    if model not in FAMILIES:
        return model, recipe
    size = get_recipe(recipe).size.removeprefix("resnet" if family == "resnet" else "")  # resnet_18, cnn2gnn_resnet18
    if f"{model}_{size}" not in CONFIGS:
        raise ValueError(f"--recipe {recipe}: made for models of size {size}, which {model} does not have; give a full"
                         f" name, one of {', '.join(name for name in CONFIGS if family_of(name) == model)}")
    return f"{model}_{size}", recipe


def choose_fields(args: argparse.Namespace, data: str, model: str, recipe: Recipe, state: dict | None) -> dict:
    """Return fields of the config: of --set, --img-size and the recipe; of a checkpoint all but num_classes.

    Unless it is set, patch is chosen so that the grid is near the preset's.
    """
    if model not in CONFIGS:
        create_model(model)  # raises, naming the models there are
    preset = CONFIGS[model]
    fields = {"drop_path": recipe.drop_path} if hasattr(preset, "drop_path") else {}
    if state and state["name"] == model:
        starts = "said" in state  # from --init-from: stochastic depth is the recipe's
        fields |= {name: value for name, value in state["config"].items()
                   if name != "num_classes" and not (starts and name == "drop_path")}
        fields |= {} if args.drop_path is None else {"drop_path": args.drop_path}
    for name in ("anchors_per_class", "proxies_per_class"):
        if getattr(args, name) is not None:
            fields[name] = getattr(args, name)  # other models refuse it
    if args.drop_path and not hasattr(preset, "drop_path"):
        raise ValueError(f"--drop-path {args.drop_path:g}: {model} has no stochastic depth; leave it out")
    fields |= dict(map(read_field, args.set))
    if args.img_size or "img_size" not in fields:
        own = detector_size(model) if args.task == "detection" else preset.img_size[:1]
        size = args.img_size or ([IMAGE_SIZES[data]] if data in IMAGE_SIZES else own)
        fields["img_size"] = (size[0], size[-1])
    if "patch" not in fields and hasattr(preset, "patch") and args.task != "detection":
        height, width = fields["img_size"]
        strides = (2, 4, 8) if isinstance(preset, PyramidConfig) else (2, 4, 8, 16)
        possible = [patch for patch in strides if height % patch == 0 and width % patch == 0] or [preset.patch]
        fields["patch"] = min(possible, key=lambda patch: abs(math.log(height / patch / preset.grid[0])))
    height, width = fields["img_size"]
    if type(patch := fields.get("patch")) is int and patch > 0 and height * width > MOST_NODES * patch**2:
        raise ValueError(f"{height}×{width} pixels in patches of {patch}: more than {MOST_NODES:,} nodes; choose a"
                         " smaller --img-size or a larger patch")
    return fields


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


def check_batch(recipe: Recipe, images: int | None, processes: Processes) -> None:
    """Raise ValueError if the batch is larger than the data, or cannot be split over processes and parts. images: those
    to train on; None in an evaluation."""
    size, parts = recipe.batch_size, processes.world * recipe.accumulation
    images = size if images is None else images
    if size > images:
        raise ValueError(f"--batch-size {size}: larger than the data set of {plural(images, 'training image')}")
    if size > (drawn := images_of_epoch(images, recipe.repeats)):
        raise ValueError(f"--batch-size {size}: with --repeats {recipe.repeats} an epoch of this data has {drawn}"
                         " images, a multiple of 256; choose a smaller batch, or --repeats 1")
    share, rest = divmod(size, parts)
    what = f"--batch-size {size}: the global batch, of which each of {plural(processes.world, 'process')}"
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
    if args.resume in trained():  # it lies in the package, where nothing is written
        return str(args.output or Path("runs", args.resume))
    if args.output or resumed:
        folder = Path(args.output or resumed)
        if holds_run(folder) and args.resume != "auto" and folder != resumed and not args.dry_run:
            raise ValueError(f"{folder} holds a run already: go on with it by --resume auto, or choose another folder")
        return str(folder)
    number, folder = 1, Path("runs", name)
    while holds_run(folder):
        number, latest, folder = number + 1, folder, Path("runs", f"{name}-{number + 1}")
    return str(latest if args.resume == "auto" and number > 1 else folder)
