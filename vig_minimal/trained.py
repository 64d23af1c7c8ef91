"""`create_model` and `list_models` as users call them: those of models/registry.py, and the trained models."""

from torch import nn

from .atomic_files import CheckpointError
from .look.predict import load
from .models import registry
from .models.checks import near
from .trained_files import trained
from .training.checkpoint import load_run

# family -> where its authors keep their code, and such weights as they published; `load_released` reads that format
VIG = "https://github.com/huawei-noah/Efficient-AI-Backbones/tree/master/vig_pytorch"
AUTHORS = {"vig": VIG, "pvig": VIG, "svig": "https://github.com/IsmaelElsharkawi/SViG",
           "gkgnet": "https://github.com/jin-s13/GKGNet"}


def create_model(name: str, pretrained: bool | str = False, **overrides) -> nn.Module:
    """Build the model of that name. `overrides` are fields of its config.

    create_model("vig_ti", num_classes=10, img_size=32, patch=4, drop_path=0.1)    # random weights
    create_model("lrgc_nano", pretrained=True)                       # trained; one of list_models(pretrained=True)
    create_model("lrgc_nano", pretrained="cifar10", num_classes=5)   # trained on that data, with a new last layer

    A trained model has the fields of its training, is in evaluation mode, and knows `classes`, `transform` and the rest
    of what `load` gives. For another img_size its position embedding is resized. For another num_classes its last layer
    is random, and its classes are numbers.

    Raises ValueError, naming what exists, for an unknown name or field, a value that cannot work, a model without
    trained weights, and fields that its weights do not fit.
    """
    if pretrained is False:
        return registry.create_model(name, **overrides)
    weights = find(name, pretrained)
    kept = load_run(weights)["config"]
    count = overrides.pop("num_classes", kept["num_classes"])
    try:
        if overrides.get("conv", kept.get("conv")) != kept.get("conv"):
            raise CheckpointError("another convolution may have the same shapes, but not the same meaning")
        model = load(weights, **overrides)
    except CheckpointError as error:
        given = ", ".join(f"{field}={value!r}" for field, value in overrides.items())
        raise ValueError(f"the trained weights {weights} do not fit {name} with {given}; leave out what changes its"
                         f" weights, or train anew ({error})") from None
    if count != len(model.classes):
        model.reset_classifier(count)
        model.classes = [str(number) for number in range(count)]
    return model


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Return the names that `create_model` takes, or those that match a pattern like "lrgc_*" (none: an empty list).
    pretrained: only those that it takes with pretrained=True."""
    names = registry.list_models(pattern)
    return [name for name in names if trained(f"{name}-*")] if pretrained else names


def find(name: str, pretrained: bool | str = True) -> str:
    """Name the trained weights of a model: the first there are, or those of the data that `pretrained` names. Raises
    ValueError where there are none; it says what there is, and of the authors' models where their files are."""
    if name not in registry.CONFIGS:
        registry.create_model(name)  # raises, naming the models there are
    own = trained(f"{name}-*")
    if own and pretrained is True:
        return own[0]
    if own:
        data = [weights.removeprefix(f"{name}-") for weights in own]
        if pretrained in data:
            return f"{name}-{pretrained}"
        raise ValueError(f"{name} has no trained weights of pretrained={pretrained!r}{near(str(pretrained), data)}")
    there = ", ".join(trained()) or "none"
    family, size = name.split("_", 1)
    if family in AUTHORS and size != "nano":
        raise ValueError(f"{name}: no trained weights in this package (it has {there}). The authors' code and the files"
                         f" that they published are at {AUTHORS[family]}; load one with"
                         f" vig_minimal.load_released(vig_minimal.create_model({name!r}), FILE)")
    raise ValueError(f"{name}: no trained weights in this package (it has {there}), and none of its authors' that"
                     f" load_released reads; train it with train.py --model {name}")
