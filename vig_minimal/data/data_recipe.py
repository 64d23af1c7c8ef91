"""DataRecipe: the part of a training recipe that shapes a batch, its size and what is done to its images."""

import math
from dataclasses import dataclass, field


def flag(default, text: str):
    """A field with its default and the help text of its flag."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class DataRecipe:
    """Batches and augmentation. Raises ValueError for impossible values. Each field with a help text is a flag."""

    batch_size: int = flag(256, "images a step over all processes together (the global batch)")
    accumulation: int = flag(1, "parts of a batch that are computed one after the other, to need less memory")
    repeats: int = flag(1, "copies of an image in a batch, each augmented on its own (repeated augmentation)")
    oversample: float = flag(0.0, "t: images of a class that a share f < t of all show come ⌈√(t/f)⌉ times; 0 for none")
    crop: str = flag("resized", "training crop: resized (random part and scale) or pad (shift by up to an eighth)")
    flip: bool = flag(True, "mirror half of the training images")
    color_jitter: float = flag(0.0, "largest relative change of brightness, contrast and saturation; 0 for none")
    rand_augment: float = flag(0.0, "magnitude of RandAugment, 0 to 10; 0 for none")
    mixup: float = flag(0.0, "α of mixup: the share of an image in a mixture is drawn from Beta(α, α); 0 for none")
    cutmix: float = flag(0.0, "α of CutMix; with mixup, each batch takes one of the two at random; 0 for none")
    erasing: float = flag(0.0, "probability that a part of an image is erased, by noise; 0 for none")
    eval_crop: float = flag(0.9, "side of the evaluation crop as a share of the resized image")
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of RGB in [0, 1]: images are normalised by (x − mean) / std
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        for names, allowed, rule in (
            (("batch_size", "accumulation", "repeats"), lambda v: v >= 1, "must be at least 1"),
            (("mixup", "cutmix"), lambda v: 0 <= v < math.inf, "must be at least 0"),
            (("color_jitter", "oversample"), lambda v: 0 <= v < 1, "must be at least 0 and less than 1"),
            (("erasing",), lambda v: 0 <= v <= 1, "a probability, from 0 to 1"),
            (("rand_augment",), lambda v: 0 <= v <= 10, "a magnitude from 0 to 10"),
            (("eval_crop",), lambda v: 0 < v <= 1, "a share of the image, more than 0 and at most 1"),
            (("crop",), lambda v: v in ("pad", "resized"), "choose one of pad, resized"),
        ):
            for name in names:
                if not allowed(value := getattr(self, name)):
                    value = f"{value:g}" if isinstance(value, float) else repr(value)
                    raise ValueError(f"{name}={value}: {rule}")

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, so that their targets are shares of classes."""
        return self.mixup > 0 or self.cutmix > 0
