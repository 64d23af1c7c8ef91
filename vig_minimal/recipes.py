"""How each paper trains, as data: a recipe is one frozen dataclass, and every field of it is a flag of train.py.

    demo    nano models on small images and a laptop; the default on the embedded data set and for nano models
    vig     ViG and SViG on ImageNet
    lrgc    ViG-LRGC on ImageNet: the same at batch 256 (LRGC Table 1)

Of the papers' augmentations there are crop and flip; RandAugment, mixup, cutmix, erasing and repeated augmentation
would be fields here, read in `batches.py`.
"""

from dataclasses import dataclass, field, fields, replace

CROPS = ("pad", "resized")


def _flag(default, text: str):
    """A field with its default and the help text of its flag."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """Everything about training that is neither model nor data nor machine. Raises ValueError for what cannot work.

    The learning rate rises linearly from `warmup_lr` to `lr` over the warm-up, falls as a cosine to `min_lr`, and stays
    there for the cool-down; together these are `epochs`. AdamW; no decay on biases, norms and LRGC's τ.
    """

    epochs: int = _flag(300, "epochs; warm-up and cool-down keep their share of them unless given too")
    batch_size: int = _flag(256, "images a step over all processes together (the global batch)")
    lr: float = _flag(2e-3, "highest learning rate")
    warmup_lr: float = _flag(1e-6, "learning rate of the first step")
    min_lr: float = _flag(1e-5, "learning rate at the end")
    warmup_epochs: float = _flag(20.0, "epochs of linear warm-up")
    cooldown_epochs: float = _flag(10.0, "epochs at the lowest learning rate, at the end")
    weight_decay: float = _flag(0.05, "weight decay of AdamW")
    label_smoothing: float = _flag(0.1, "share of a label that goes to all classes alike")
    drop_path: float = _flag(0.1, "stochastic depth of the last block, growing linearly from 0")
    ema_decay: float = _flag(0.99996, "decay of the weights' moving average, which is what is evaluated; 0 for none")
    clip_grad: float = _flag(0.0, "largest norm of the gradient; 0 for no limit")
    crop: str = _flag("resized", "training crop: resized (random part and scale) or pad (shift by up to an eighth)")
    flip: bool = _flag(True, "mirror half of the training images")
    eval_crop: float = _flag(0.9, "side of the evaluation crop as a share of the resized image")
    size: str = "ti"                               # of a model given by its family alone
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of RGB in [0, 1]: images are normalised by (x − mean) / std
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("warmup_lr", "min_lr", "warmup_epochs", "cooldown_epochs", "weight_decay", "clip_grad"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name):g}: must be at least 0")
        for name in ("label_smoothing", "ema_decay", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name):g}: must be at least 0 and less than 1")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr:g}: must be more than 0")
        if not 0 < self.eval_crop <= 1:
            raise ValueError(f"eval_crop={self.eval_crop:g}: a share of the image, more than 0 and at most 1")
        if self.crop not in CROPS:
            raise ValueError(f"crop={self.crop!r}: choose one of {', '.join(CROPS)}")
        if self.warmup_epochs + self.cooldown_epochs > self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs:g} and cooldown_epochs={self.cooldown_epochs:g} do not"
                             f" fit in epochs={self.epochs}; make them shorter")


# ViG section 4.1 and its released command: 300 epochs (20 warm-up, 10 cool-down), batch 1024, AdamW at 2e-3 with
# cosine, weight decay 0.05, label smoothing 0.1, stochastic path 0.1, EMA 0.99996; warm-up from 1e-6, lowest rate 1e-5,
# crop 0.9, mean = std = 0.5.
VIG = Recipe(batch_size=1024)

RECIPES = {
    # ours: chosen so that lrgc_nano passes 90 % on the embedded data set within 5 minutes on two CPU cores
    "demo": Recipe(epochs=3, batch_size=32, lr=1.5e-3, warmup_epochs=0.3, cooldown_epochs=0.0, drop_path=0.0,
                   ema_decay=0.99, clip_grad=1.0, crop="pad", eval_crop=1.0, size="nano"),
    "vig": VIG,
    # LRGC Table 1 and section 4.2: ViG's own recipe at batch 256
    "lrgc": replace(VIG, batch_size=256),
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError, naming what exists, for an unknown one."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: there are {', '.join(RECIPES)}")
    return RECIPES[name]


def kept_recipe(values: dict) -> Recipe:
    """The recipe that a checkpoint keeps as plain data. Raises ValueError if its fields are not those of today."""
    try:
        return Recipe(**values)
    except TypeError:
        raise ValueError("the checkpoint's recipe is of another version of this project; name one with --recipe") from None


def override(recipe: Recipe, changes: dict) -> Recipe:
    """The recipe with some fields replaced. With `epochs` alone, warm-up and cool-down keep their share of them."""
    epochs = changes.get("epochs", recipe.epochs)
    if epochs != recipe.epochs:
        share = epochs / recipe.epochs
        phases = {"warmup_epochs": share * recipe.warmup_epochs, "cooldown_epochs": share * recipe.cooldown_epochs}
        changes = phases | changes
    return replace(recipe, **changes)


def flags() -> dict[str, tuple[type, str]]:
    """The fields that have a flag: name to type and help text."""
    return {f.name: (f.type, f.metadata["help"]) for f in fields(Recipe) if f.metadata}
