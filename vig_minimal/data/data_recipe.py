"""DataRecipe: the batch size and augmentation of a training recipe."""

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields


@dataclass(frozen=True)
class Allowed:
    """The values of a field: numbers from `least` to `most`, without least itself if `above` and most if `below`; 0 too
    if `zero`."""

    least: float
    most: float
    above: bool = False
    below: bool = False
    zero: bool = False

    def __contains__(self, value: float) -> bool:  # NaN is in no range
        return (self.zero and value == 0) or (self.least < value if self.above else self.least <= value) and (
            value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        return (f"{'0, or ' * self.zero}{'more than' if self.above else 'at least'} {self.least:,} and"
                f" {'less than' if self.below else 'at most'} {self.most:,}")


PROBABILITY, SHARE = Allowed(0, 1), Allowed(0, 1, below=True)


def flag(default, text: str, allowed: Allowed | tuple[str, ...] | None = None):
    """Return a field with its default, the help text of its flag, and its range or choices."""
    return field(default=default, metadata={"help": text, "allowed": allowed})


def flag_name(field: Field) -> str:
    """Return the flag of a field, which is made of its name unless it has another one."""
    return field.metadata.get("how", {}).get("flag", "--" + field.name.replace("_", "-"))


def check_fields(known: Iterable[Field], values: dict) -> None:
    """Raise ValueError unless the values of all fields, and every part of a tuple, are allowed; None always is."""
    for field in known:
        value, allowed = values.get(field.name), field.metadata.get("allowed")
        for part in value if isinstance(value, tuple) else (value,):
            if part == "":
                raise ValueError(f"{flag_name(field)}: an empty name")
            if None not in (part, allowed) and part not in allowed:
                rule = f"choose one of {', '.join(allowed)}" if isinstance(allowed, tuple) else f"must be {allowed}"
                shown = f"{part:g}" if isinstance(part, float) else part
                raise ValueError(f"{flag_name(field)} {shown}: {rule}")


def refuse_first(rules: Iterable[tuple[object, str]]) -> None:
    """Raise ValueError with the first sentence whose condition holds."""
    for wrong, sentence in rules:
        if wrong:
            raise ValueError(sentence)


@dataclass(frozen=True)
class DataRecipe:
    """Batches and augmentation. Raises ValueError for impossible values. Each field with a help text is a flag."""

    batch_size: int = flag(256, "images a step over all processes together (the global batch)", Allowed(1, 10**6))
    accumulation: int = flag(1, "parts of a batch that are computed one after the other, to need less memory",
                             Allowed(1, 10**6))
    repeats: int = flag(1, "copies of an image in a batch, each augmented on its own (repeated augmentation)",
                        Allowed(1, 1000))
    oversample: float = flag(0.0, "t: images of a class that a share f < t of all show come ⌈√(t/f)⌉ times; 0 for none",
                             SHARE)
    crop: str = flag("resized", "training crop: resized (random part and scale) or pad (shift by up to an eighth)",
                     ("pad", "resized"))
    flip: bool = flag(True, "mirror half of the training images")
    color_jitter: float = flag(0.0, "largest relative change of brightness, contrast and saturation; 0 for none", SHARE)
    rand_augment: float = flag(0.0, "magnitude of RandAugment; 0 for none", Allowed(0, 10))
    mixup: float = flag(0.0, "α of mixup: the share of an image in a mixture is drawn from Beta(α, α); 0 for none",
                        Allowed(0, 100))
    cutmix: float = flag(0.0, "α of CutMix; with mixup, each batch takes one of the two at random; 0 for none",
                         Allowed(0, 100))
    erasing: float = flag(0.0, "probability that a part of an image is erased, by noise; 0 for none", PROBABILITY)
    scale_jitter: float = flag(0.0, "s: training images with boxes are scaled by 1 − s to 1 + s, and cut or surrounded"
                                    " by grey; 0 for none", SHARE)
    scale_range: float = flag(0.0, "r: training images with masks for segmentation are scaled by 1/r to r before the"
                                   " crop; 0 for none", Allowed(1, 16, zero=True))
    eval_crop: float = flag(0.9, "side of the evaluation crop as a share of the resized image; 0: the whole image,"
                                 " stretched to the model's size", Allowed(0.1, 1, zero=True))
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of RGB in [0, 1]: images are normalised by (x − mean) / std
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        check_fields(fields(self), vars(self))

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, so that targets are soft labels."""
        return self.mixup > 0 or self.cutmix > 0
