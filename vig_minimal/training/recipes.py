"""Recipes of the papers, as data: one frozen dataclass, whose every field with a help text is a flag."""

from dataclasses import asdict, dataclass, fields, replace

from ..data.data_recipe import SHARE, Allowed, DataRecipe, flag
from ..models.checks import IMAGENET_MEAN, IMAGENET_STD, near

RATE, WEIGHT = Allowed(0, 1000), Allowed(0, 1000)


@dataclass(frozen=True)
class Recipe(DataRecipe):
    """All of training but model, data and machine. Raises ValueError for impossible values.

    The learning rate rises linearly from `warmup_lr` to `lr` during the warm-up. Then, with schedule "cosine", it falls
    along a cosine to `min_lr` and stays there for the cool-down; with "poly" it falls as (1 − t)^0.9, t from 0 to 1;
    with "step" it shrinks tenfold at each of `decay_epochs`.
    """

    epochs: int = flag(300, "epochs; warm-up, cool-down and decay_epochs keep their share of them unless given too",
                       Allowed(1, 10**6))
    optimiser: str = flag("adamw", "adamw or sgd (with momentum 0.9); no decay on biases, norms and τ",
                          ("adamw", "sgd"))
    lr: float = flag(2e-3, "highest learning rate", Allowed(0, 1000, above=True))
    schedule: str = flag("cosine", "schedule of the learning rate after warm-up: cosine, poly or step",
                         ("cosine", "poly", "step"))
    warmup_lr: float = flag(1e-6, "learning rate of the first step", RATE)
    min_lr: float = flag(1e-5, "learning rate at the end of the cosine", RATE)
    warmup_epochs: float = flag(20.0, "epochs of linear warm-up", Allowed(0, 10**6))
    cooldown_epochs: float = flag(10.0, "epochs at the lowest learning rate, at the end", Allowed(0, 10**6))
    decay_epochs: tuple = flag((), "epochs at which the schedule 'step' multiplies the learning rate by 0.1",
                               Allowed(0, 10**6, above=True))
    layer_decay: float = flag(1.0, "factor of the learning rate from each block to the one before it; the head has lr",
                              Allowed(0, 1, above=True))
    weight_decay: float = flag(0.05, "weight decay", Allowed(0, 100))
    clip_grad: float = flag(0.0, "largest norm of the gradient; 0 for no limit", Allowed(0, 10**6))
    label_smoothing: float = flag(0.1, "ε: share of a label that is spread over all classes; of several labels, a yes"
                                       " counts as 1 − ε and a no as ε", SHARE)
    asymmetric: float = flag(10.0, "weight w of the asymmetric loss, where an image has several labels", WEIGHT)
    contrastive: float = flag(1.0, "weight of CNN2GNN's triplet and contrastive losses; 0 for cross-entropy alone",
                              WEIGHT)
    drop_path: float = flag(0.1, "stochastic depth of the last block, growing linearly from 0", SHARE)
    ema_decay: float = flag(0.99996, "decay of the moving average of the weights (EMA), which is evaluated; 0 for none",
                            SHARE)
    teacher: str = flag("none", "torchvision model for hard-label distillation, or none")
    size: str = "ti"  # of a model given by its family alone

    def __post_init__(self):
        super().__post_init__()
        if self.warmup_epochs + self.cooldown_epochs > self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs:g} and cooldown_epochs={self.cooldown_epochs:g} do not"
                             f" fit in epochs={self.epochs}; make them shorter")
        if list(self.decay_epochs) != sorted(self.decay_epochs):
            raise ValueError(f"decay_epochs={self.decay_epochs}: must increase")


RECIPE_FLAGS = {field.name: field for field in fields(Recipe) if field.metadata}  # with `help` and what is `allowed`


# ViG section 4.1, Table 2 and the released command: 300 epochs (20 warm-up from 1e-6, 10 cool-down), batch 1024, AdamW
# at 2e-3 with cosine to 1e-5, weight decay 0.05, label smoothing 0.1, stochastic path 0.1, EMA 0.99996, RandAugment
# (m9, mstd 0.5, inc), mixup 0.8, CutMix 1.0, erasing 0.25, repeated augmentation ×3; crop 0.9, mean = std = 0.5.
VIG = Recipe(batch_size=1024, rand_augment=9.0, mixup=0.8, cutmix=1.0, erasing=0.25, repeats=3)

# GKGNet section 4.1: AdamW at 1e-4, weight decay 0.05, 80 epochs, ×0.1 at epochs 10 and 50 (VOC: 5 and 50). Released
# configuration: batch 128, 5 epochs of warm-up from lr/1000, clip 5, erasing 0.5, jitter 0.4, ε = 0.1, w = 10; the
# whole photo is evaluated, stretched to a square. docs/differences.md lists what is not taken over.
GKGNET = Recipe(epochs=80, batch_size=128, lr=1e-4, schedule="step", warmup_lr=1e-7, warmup_epochs=5.0,
                cooldown_epochs=0.0, decay_epochs=(10.0, 50.0), clip_grad=5.0, ema_decay=0.0, color_jitter=0.4,
                erasing=0.5, eval_crop=0.0, size="s", mean=IMAGENET_MEAN, std=IMAGENET_STD)

# ours: with it, lrgc_nano passes 99 % on the synthetic scenes within 5 minutes on two CPU cores
DEMO = Recipe(epochs=2, batch_size=32, lr=1.5e-3, warmup_epochs=0.2, cooldown_epochs=0.0, drop_path=0.0, ema_decay=0.99,
              clip_grad=1.0, crop="pad", eval_crop=1.0, size="nano")

# CNN2GNN section 4.1: SGD with momentum 0.9 at 3e-4, 100 epochs, batch 256 (100 for CIFAR-100 and ImageNet), random
# crop and colour jitter, and no mirrored images; the paper gives neither a schedule nor weight decay.
CNN2GRAPH = Recipe(epochs=100, batch_size=256, optimiser="sgd", lr=3e-4, schedule="step", warmup_epochs=0.0,
                   cooldown_epochs=0.0, weight_decay=0.0, label_smoothing=0.0, drop_path=0.0, ema_decay=0.0,
                   color_jitter=0.4, flip=False, eval_crop=1.0, size="resnet18", mean=IMAGENET_MEAN, std=IMAGENET_STD)

# ClusterViG section V: AdamW at 2e-4, 12 epochs, 1333 × 800, 8 GPUs. As is customary for 12 epochs: 16 images a step,
# the rate cut at epochs 8 and 11, 500 steps of warm-up, half of the images mirrored.
DETECTION = Recipe(epochs=12, batch_size=16, lr=2e-4, schedule="step", warmup_lr=2e-7, warmup_epochs=0.07,
                   cooldown_epochs=0.0, decay_epochs=(8.0, 11.0), ema_decay=0.0, mean=IMAGENET_MEAN, std=IMAGENET_STD,
                   size="s")

# Semantic FPN as PVT (Wang et al., 2021, section 5.3), GreedyViG and AdaptViG train it on ADE20K: AdamW at 2e-4, weight
# decay 1e-4, poly 0.9, 40,000 steps of 32 crops of 512 pixels (64 epochs of ADE20K's 20,210 images), scaled by ½ to 2,
# half of them mirrored.
SEGMENTATION = Recipe(epochs=64, batch_size=32, lr=2e-4, schedule="poly", warmup_epochs=0.0, cooldown_epochs=0.0,
                      min_lr=0.0, weight_decay=1e-4, ema_decay=0.0, scale_range=2.0, mean=IMAGENET_MEAN,
                      std=IMAGENET_STD, size="s")

# Ours, for a trained model and a few hundred images or more of other classes. AdamW from a rate well below 2e-3, which
# would undo what was learnt, and lower still for earlier blocks, which know edges and colours already: ×0.75 a block as
# in BEiT (Bao et al., 2022) and MAE (He et al., 2022, section A.1, Table 9), with their short warm-up and decay 0.05.
# 20 epochs, since the weights move little. Flips and small shifts alone: with few images mixup and strong augmentation
# cost more than they bring (BiT, Kolesnikov et al., 2020, section 3.3). Batch 32, as small data sets have few batches.
# No moving average: it would still remember the start. The crop, mean and std are those of the trained model.
FINETUNE = Recipe(epochs=20, batch_size=32, lr=5e-4, layer_decay=0.75, warmup_lr=1e-6, min_lr=1e-6, warmup_epochs=2.0,
                  cooldown_epochs=0.0, clip_grad=1.0, ema_decay=0.0, crop="pad")

# Ours, for nano models and all of CIFAR-10 on a CPU: crops of the image padded by an eighth of its side (4 of 32;
# edges repeat) and flips, as is customary there. In short runs (docs/results.md) the rates 1.5e-3 and 3e-3 came out
# alike, and so did batches of 32 and 64 after as many epochs; 64 took two thirds of the time. The cosine ends
# at 0, where an average of the weights has nothing left to smooth. 10 epochs: two hours of half a core.
CIFAR = replace(DEMO, epochs=10, batch_size=64, lr=2e-3, min_lr=0.0, warmup_epochs=0.625, ema_decay=0.0)

RECIPES = {
    # nano models, small images, laptops
    "demo": DEMO,
    # ours, for several labels: gkgnet_nano passes 90 mAP on the synthetic scenes within 10 minutes on two CPU cores
    "demo_multi": replace(DEMO, epochs=5, warmup_epochs=0.5),
    "vig": VIG,
    # LRGC Table 1 and section 4.2: ViG's own recipe at batch 256
    "lrgc": replace(VIG, batch_size=256),
    # ClusterViG section V: batch 1024, AdamW at 2e-3, cosine, 300 epochs, distillation from RegNetY-16GF, augmentation
    # as in ViG; mean and std: the released code, and the teacher's own training
    "cvig": replace(VIG, teacher="regnet_y_16gf", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    # AdaptViG: crop, mean and std, teacher and drop path as released; the rest is ClusterViG's
    "adaptvig": replace(VIG, teacher="regnet_y_16gf", mean=IMAGENET_MEAN, std=IMAGENET_STD, size="s"),
    "gkgnet": GKGNET,
    "gkgnet_voc": replace(GKGNET, decay_epochs=(5.0, 50.0)),
    "cnn2graph": CNN2GRAPH,
    "cnn2graph_100": replace(CNN2GRAPH, batch_size=100),
    "detection": DETECTION,
    # ours: nano models, small images, from random weights. Scenes look in all directions, so none is mirrored
    "demo_detection": replace(DEMO, epochs=2, batch_size=8, lr=1e-3, warmup_epochs=0.1, flip=False),
    "segmentation": SEGMENTATION,
    "demo_segmentation": replace(DEMO, epochs=3, batch_size=16, flip=False),
    "finetune": FINETUNE,
    "cifar": CIFAR,
}
# family of a model -> recipe of its paper
PAPERS = {"vig": "vig", "svig": "vig", "pvig": "vig", "lrgc": "lrgc", "cvig": "cvig", "gkgnet": "gkgnet",
          "adaptvig": "adaptvig",
          **dict.fromkeys(("cnn2gnn", "cnn2transformer", "cnn2mean", "cnn2max", "resnet"), "cnn2graph")}
# that recipe and data -> the paper's recipe on these data
PAPERS_ON = {("gkgnet", "voc2007"): "gkgnet_voc", ("cnn2graph", "cifar100"): "cnn2graph_100",
             ("cnn2graph", "imagefolder"): "cnn2graph_100"}


def get_recipe(name: str) -> Recipe:
    """Return the recipe of that name. Raises ValueError for an unknown one."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{near(name, list(RECIPES))}")
    return RECIPES[name]


def kept_recipe(values: dict) -> Recipe:
    """Return the recipe that a checkpoint keeps as plain data; a field that it lacks has its default. Raises ValueError
    for other fields or types."""
    try:
        return Recipe(**values)
    except (TypeError, RuntimeError):  # that of a tensor
        raise ValueError("the checkpoint's recipe is of another version of this project") from None


def override(recipe: Recipe, changes: dict, scale_lr: bool = False) -> Recipe:
    """Return the recipe with some fields replaced. If `epochs` is, its phases keep their share unless replaced too.
    scale_lr: scale the learning rates with the batch size."""
    share = changes.get("epochs", recipe.epochs) / recipe.epochs
    if share != 1:
        phases = {"warmup_epochs": share * recipe.warmup_epochs, "cooldown_epochs": share * recipe.cooldown_epochs,
                  "decay_epochs": tuple(share * epoch for epoch in recipe.decay_epochs)}
        changes = phases | changes
    changed = replace(recipe, **changes)
    factor = changed.batch_size / recipe.batch_size if scale_lr else 1
    return replace(changed, lr=changed.lr * factor, min_lr=changed.min_lr * factor)


# values that switch a field of the recipe off
OFF = {"oversample": 0, "color_jitter": 0, "rand_augment": 0, "mixup": 0, "cutmix": 0, "erasing": 0, "clip_grad": 0,
       "scale_jitter": 0, "scale_range": 0, "weight_decay": 0, "label_smoothing": 0, "ema_decay": 0, "drop_path": 0,
       "contrastive": 0, "asymmetric": 0, "cooldown_epochs": 0, "repeats": 1, "layer_decay": 1, "teacher": "none"}


def used(recipe: Recipe, config: object, multi_label: bool) -> dict[str, str]:
    """Return the fields of the recipe, in words, that the training of a model with this config uses: those that are
    switched on and not in another of the first lines. Fields of data and augmentation come last."""
    other = {"epochs", "batch_size", "accumulation", "lr", "size"}
    other |= {"min_lr", "cooldown_epochs"} if recipe.schedule == "step" else {"decay_epochs"}
    other |= set() if recipe.warmup_epochs else {"warmup_epochs", "warmup_lr"}
    other |= set() if multi_label else {"asymmetric"}
    other |= set() if getattr(config, "aggregation", "none") != "none" else {"contrastive"}
    other |= {"crop", "eval_crop", "label_smoothing"} if hasattr(config, "body") else {"scale_jitter", "scale_range"}
    own = dict(getattr(config, "body", vars(config)))  # of a detector, its backbone
    values = asdict(recipe) | {"drop_path": own.get("drop_path", 0)}
    shown = [name for name, value in values.items() if name not in other and value != OFF.get(name)]
    return {name: _short(values[name]) for name in sorted(shown, key=DataRecipe.__dataclass_fields__.__contains__)}


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{part:g}" for part in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
