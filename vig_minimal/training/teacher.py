"""The teacher of a distillation: a torchvision classifier whose predictions a model learns along with the labels."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision import models

from ..atomic_files import CheckpointError, load
from ..models.checks import IMAGENET_MEAN, IMAGENET_STD


def create_teacher(name: str, weights: str | Path | None, classes: int, mean: Sequence[float], std: Sequence[float],
                   device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function from images, normalised by `mean` and `std`, to the logits of a classifier, without gradient.

    weights: a file with the classifier's state dict for `classes` classes; None: torchvision's own for ImageNet's 1000.
    Raises ValueError for an unknown name, weights that do not fit or cannot be downloaded, another number of classes.
    """
    if name not in (known := models.list_models(module=models)):
        raise ValueError(f"--teacher {name}: torchvision has no such classifier; it has {', '.join(known)}")
    if weights is None and classes != 1000:
        raise ValueError(f"--teacher {name}: torchvision's weights are for ImageNet's 1000 classes, and this data has"
                         f" {classes}; give weights for them with --teacher-weights FILE, or --teacher none")
    try:
        network = models.get_model(name, weights="DEFAULT" if weights is None else None, num_classes=classes)
        if weights is not None:
            state = load(weights)
            network.load_state_dict(state.get("model", state))
    except CheckpointError:
        raise
    except (RuntimeError, TypeError, AttributeError) as error:  # torch's own, of what are no tensors by name
        raise ValueError(f"{weights}: does not fit {name} with {classes} classes ({_first_line(error)})") from None
    except OSError as error:
        raise ValueError(f"--teacher {name}: its weights cannot be downloaded ({_first_line(error)}); give a file with"
                         " --teacher-weights, or --teacher none") from None
    network.to(device).eval().requires_grad_(False)
    # x·scale + shift turns (image − mean) / std of the recipe into that of ImageNet, as in the teacher's own training
    scale = [own / imagenet for own, imagenet in zip(std, IMAGENET_STD)]
    shift = [(own - imagenet) / unit for own, imagenet, unit in zip(mean, IMAGENET_MEAN, IMAGENET_STD)]
    scale, shift = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (scale, shift))

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        return network(images * scale + shift)

    return predict


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
