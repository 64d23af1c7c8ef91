"""The part of a recipe that decides what a batch is: its size and parts, and what is done to its images."""

from dataclasses import dataclass, field


def flag(default, text: str):
    """A field with its default and the help text of its flag."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class DataRecipe:
    """Batches and augmentation. Raises ValueError for what cannot work. Each field with a help text is a flag."""

    batch_size: int = flag(256, "images a step over all processes together (the global batch)")
    accumulation: int = flag(1, "parts of a batch that are computed one after the other, to need less memory")
    repeats: int = flag(1, "copies of an image in a batch, each augmented on its own (repeated augmentation)")
    oversample: float = flag(0.0, "t of class-balanced oversampling: images of classes that a share f < t of all"
                                   " images show come √(t/f) times, rounded up; 0 for none")
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
        for name in ("batch_size", "accumulation", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name):g}: must be at least 0")
        for name in ("color_jitter", "oversample"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name):g}: must be at least 0 and less than 1")
        if not 0 <= self.erasing <= 1:
            raise ValueError(f"erasing={self.erasing:g}: a probability, from 0 to 1")
        if not 0 <= self.rand_augment <= 10:
            raise ValueError(f"rand_augment={self.rand_augment:g}: a magnitude from 0 to 10")
        if not 0 < self.eval_crop <= 1:
            raise ValueError(f"eval_crop={self.eval_crop:g}: a share of the image, more than 0 and at most 1")
        if self.crop not in ("pad", "resized"):
            raise ValueError(f"crop={self.crop!r}: choose one of pad, resized")

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, so that their targets are shares of classes."""
        return self.mixup > 0 or self.cutmix > 0
