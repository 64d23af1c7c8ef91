"""What follows from what was given: `resolve` makes the whole `RunConfig`, before any data is read.

Data, model and recipe follow from one another in this order; each choice is one function.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from ..data.data_recipe import refuse_first
from ..data.datasets import DATA_SETS, DOWNLOADS, IMAGE_SIZES, MULTI_LABEL, NEED_FOLDER, WITH_BOXES, WITH_MASKS
from ..models.checks import near, plural
from ..models.cost import count_parameters
from ..models.registry import CONFIGS, create_model
from .config import FAMILIES, MODELS, RunConfig, family_of
from .recipes import PAPERS, PAPERS_ON, RECIPE_FLAGS, Recipe, get_recipe, override

MULTI_LABEL_FAMILY = "gkgnet"


class Dense(NamedTuple):
    """A task whose targets are boxes or masks."""

    data: str                  # default data set
    folder_data: str           # default with --data-dir
    sets: tuple[str, ...]      # all that have its targets
    own_sets: tuple[str, ...]  # those that have no others
    targets: str               # in words, as the next
    augmentation: str


DENSE = {
    "detection": Dense("shapes-boxes", "coco", WITH_BOXES, ("shapes-boxes",), "boxes and masks",
                       "--flip and --scale-jitter"),
    "segmentation": Dense("shapes-masks", "maskfolder", WITH_MASKS, ("shapes-masks", "maskfolder", "voc2012"),
                          "masks of classes", "--flip and --scale-range"),
}
MOST_PARAMETERS, MOST_NODES = 2**31, 2**17
LEAST_STEPS, MOST_EPOCHS = 600, 100  # of own data without --epochs; demo takes 624 steps on the synthetic scenes


@dataclass(frozen=True)
class Start:
    """The file that a run starts from."""

    path: Path
    state: dict              # its content
    name: str                # of its model; "" if that is not known
    config: dict             # known fields of its model's config, without num_classes
    recipe: Recipe           # it was trained with the crop, mean and std of this one
    recipe_name: str         # the recipe to take unless another one is given; "" for none
    resumes: bool            # that run, by --resume; or starts another one, by --init-from
    found: str = ""          # how the model was recognised
    damaged: str = ""        # why this is previous.pt and not last.pt
    asked: Sequence[str] = ()  # fields of the model that are given now

    def of(self, config: RunConfig) -> "Start | None":
        """The start from which choices of `config` follow: None for a model of another family, which takes the weights
        alone, such as GKGNet from Pyramid ViG."""
        if self.resumes:
            return self
        if not self.name or family_of(config.model or self.name) != family_of(self.name):
            return None
        if config.task in DENSE:  # the classifier becomes the backbone; a detector's κ follows the new grid
            body = {name: value for name, value in self.config.items()
                    if name != "clusters" or config.task == "segmentation"}
            return replace(self, config={"body": tuple(body.items())}, recipe_name="")
        return self


def resolve(given: dict, start: Start | None = None) -> RunConfig:
    """Decide everything about a run. given: fields of `RunConfig` and `Recipe`. Raises ValueError for what cannot work
    together."""
    config = resolve_names(given, start)
    if config.freeze and start is None:
        raise ValueError("--freeze: keeps the loaded weights; name them with --init-from FILE")
    start = start and start.of(config)
    config = replace(config, recipe=choose_recipe(given, config, start))
    config = replace(config, fields=choose_fields(config, start))
    config = replace(config, img_size=config.fields["img_size"])
    (check_dense if config.task in DENSE else check_labels)(config)
    with torch.device("meta"):  # what cannot work is found before any data is downloaded or memory taken
        count = count_parameters(config.build_model())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{config.model}: {count:,} parameters, and at most {MOST_PARAMETERS:,} are allowed; choose a"
                         " smaller dim or depth with --set")
    return config


def resolve_names(given: dict, start: Start | None = None) -> RunConfig:
    """Decide data, task, model and the name of the recipe: the first part of `resolve`."""
    config = RunConfig.of(given)
    config = replace(config, data=choose_data(config, start))
    of_data = next((task for task, dense in DENSE.items() if config.data in dense.own_sets), "labels")
    config = replace(config, task=config.task or of_data)
    model, recipe = choose_names(config, start and start.of(config))
    return replace(config, model=model, recipe_name=recipe)


def choose_data(config: RunConfig, start: Start | None) -> str:
    """Name the data set: --data, else image folders if there is --data-dir, else synthetic scenes."""
    model = config.model or (start.name if start else "")
    several = config.multi_label or model.startswith(MULTI_LABEL_FAMILY)
    if not config.data and config.task in DENSE:
        return DENSE[config.task].folder_data if config.data_dir else DENSE[config.task].data
    if not config.data:
        return "imagefolder" if config.data_dir else "shapes-multi" if several else "shapes"
    known = list(dict.fromkeys((*DATA_SETS, *DOWNLOADS)))
    if name := next((name for name in known if name.lower() == config.data.lower()), ""):
        return name
    raise ValueError(f"unknown data set {config.data!r}{near(config.data, known)}")


def choose_names(config: RunConfig, start: Start | None) -> tuple[str, str]:
    """Return the model's full name and the recipe's name. The recipe is finetune for a model that starts trained, demo
    for nano models and synthetic scenes, else the paper's; a family without a size takes the recipe's."""
    dense, data = config.task in DENSE, config.data
    model = config.model or (start.name if start else "cvig" if dense else "lrgc")
    if start and family_of(start.name) == model:
        model = start.name
    family = family_of(model)
    paper, demo = PAPERS.get(family, "vig"), "demo_multi" if data in MULTI_LABEL else "demo"
    paper = PAPERS_ON.get((paper, data), paper)
    if dense:
        paper, demo = config.task, f"demo_{config.task}"
    recipe = config.recipe_name or (start.recipe_name if start else "") or (
        demo if data.startswith("shapes") or model.endswith("_nano") else paper)
    if model not in FAMILIES:
        return model, recipe
    size = get_recipe(recipe).size.removeprefix("resnet" if family == "resnet" else "")  # resnet_18, cnn2gnn_resnet18
    if f"{model}_{size}" not in CONFIGS:
        raise ValueError(f"--recipe {recipe}: made for models of size {size}, which {model} does not have; give a full"
                         f" name, one of {', '.join(name for name in CONFIGS if family_of(name) == model)}")
    return f"{model}_{size}", recipe


def choose_recipe(given: dict, config: RunConfig, start: Start | None) -> Recipe:
    """Return the recipe with the crop, mean and std of the weights that the run starts from, and with the values that
    were given."""
    recipe = get_recipe(config.recipe_name)
    if start:
        kept = start.recipe
        recipe = replace(recipe, eval_crop=kept.eval_crop, mean=tuple(kept.mean), std=tuple(kept.std))
    return override(recipe, {name: given[name] for name in RECIPE_FLAGS if name in given}, config.scale_lr)


def enough_epochs(config: RunConfig, steps: int) -> tuple[RunConfig, str]:
    """Return the config and a remark, with epochs for LEAST_STEPS steps, at most MOST_EPOCHS, for a demo recipe on the
    user's own data, unless --epochs or --limit is given. steps: of an epoch."""
    recipe, given = config.recipe, config.given
    epochs = min(MOST_EPOCHS, math.ceil(LEAST_STEPS / max(1, steps)))
    if (epochs <= recipe.epochs or config.data not in NEED_FOLDER or not config.recipe_name.startswith("demo")
            or given.keys() & {"epochs", "limit"}):
        return config, ""
    phases = {name: given[name] for name in ("warmup_epochs", "cooldown_epochs", "decay_epochs") if name in given}
    remark = f"{epochs}, not the recipe's {recipe.epochs}: one has only {plural(steps, 'step')}; --epochs N sets it"
    recipe = override(recipe, phases | {"epochs": epochs})
    return replace(config, recipe=recipe, given=given | {"epochs": epochs}), remark


def choose_fields(config: RunConfig, start: Start | None) -> dict:
    """Return fields of the model's config: those of the weights to start from, of the recipe, of --set and --img-size.
    Unless it is set, patch is chosen so that the grid is near the preset's."""
    model = config.model
    if model not in CONFIGS:
        create_model(model)  # raises, naming the models there are
    preset, recipe = CONFIGS[model], config.recipe
    fields = dict(start.config) if start and start.name == model else {}
    own = {name: getattr(config, name) for name in ("anchors_per_class", "proxies_per_class")}
    own["drop_path"] = recipe.drop_path if hasattr(preset, "drop_path") else config.given.get("drop_path") or None
    fields |= {name: value for name, value in own.items() if value is not None}  # other models refuse them
    fields |= config.fields or {}
    if config.img_size or "img_size" not in fields:
        own = MODELS[config.task or "labels"][1](model)
        size = config.img_size or ([IMAGE_SIZES[config.data]] if config.data in IMAGE_SIZES else own)
        fields["img_size"] = (size[0], size[-1])
    height, width = fields["img_size"]
    if "patch" not in fields and hasattr(preset, "patch") and config.task not in DENSE:
        possible = [patch for patch in preset.patches if height % patch == 0 and width % patch == 0] or [preset.patch]
        fields["patch"] = min(possible, key=lambda patch: abs(math.log(height / patch / preset.grid[0])))
    if type(patch := fields.get("patch")) is int and patch > 0 and height * width > MOST_NODES * patch**2:
        raise ValueError(f"{height}×{width} pixels in patches of {patch}: more than {MOST_NODES:,} nodes; choose a"
                         " smaller --img-size or a larger patch")
    return fields


def check_labels(config: RunConfig) -> None:
    """Raise ValueError if model or recipe cannot learn from single-label or from multi-label data."""
    data, model, recipe, preset = config.data, config.model, config.recipe, CONFIGS[config.model]
    several, multi_label = data in MULTI_LABEL, config.multi_label or model.startswith(MULTI_LABEL_FAMILY)
    has_anchors = getattr(preset, "aggregation", "none") != "none"
    taught = recipe.teacher != "none" or config.fields.get("distillation", getattr(preset, "distillation", False))
    refuse_first([
        *((data in dense.own_sets, f"{data} has {dense.targets}; give --task {task}, or choose shapes")
          for task, dense in DENSE.items()),
        (multi_label and not several, f"{model}: multi-label classification, and an image of {data} has exactly one"
                                      f" label; choose one of {', '.join(MULTI_LABEL)}, or another model"),
        (several and not multi_label, f"{model}: single-label classification, and an image of {data} has several labels"
                                      " or none; choose gkgnet, or give --multi-label"),
        (several and has_anchors, f"{model}: an anchor represents one class; choose resnet, or another model"),
        (several and taught, "a teacher is for one label per image; give --teacher none and, with ClusterViG and"
                             " AdaptViG, --set distillation=False"),
        (recipe.mixes and (several or has_anchors), "mixup and CutMix give an image shares of two classes, which are"
                                                    " for one label per image, without triplets; give --mixup 0"
                                                    " --cutmix 0"),
        (has_anchors and recipe.contrastive > 0 and recipe.accumulation > 1 and not config.eval_only,
         f"--accumulation {recipe.accumulation}: {model}'s triplets are of the whole batch, which parts would cut; give"
         " --grad-checkpoint, --amp or a smaller --batch-size"),
        (config.backbone_weights and not hasattr(preset, "backbone"),
         f"--backbone-weights: {model} has no ResNet; give --init-from its own weights"),
        (config.every and not hasattr(preset, "grid"), f"--every: {model} has no graph over patches"),
    ])


def check_dense(config: RunConfig) -> None:
    """Raise ValueError if a detector or a network for segmentation cannot learn from this data, or by this recipe."""
    recipe, task, dense = config.recipe, config.task, DENSE[config.task]
    other = recipe.scale_range if task == "detection" else recipe.scale_jitter
    refuse_first([
        (config.data not in dense.sets,
         f"--task {task}: {config.data} has no {dense.targets}; {' and '.join(dense.sets)} have"),
        (config.every, "--every: keeps graphs of classifiers alone; leave it out"),
        (config.multi_label, f"--multi-label and --task {task}: choose one of them"),
        (config.backbone_weights, "--backbone-weights: goes with CNN2GNN's ResNet alone; start a detector's backbone"
                                  " with --init-from"),
        (recipe.mixes or recipe.erasing or recipe.rand_augment or recipe.color_jitter or recipe.oversample or other,
         f"--task {task}: its augmentations are {dense.augmentation}; choose a recipe without others, such as {task}"),
        (recipe.teacher != "none", f"--task {task}: a teacher is for one label per image; give --teacher none"),
        (config.compile and task == "detection",
         "--compile: a detector's computation depends on what it finds; leave it out"),
    ])
