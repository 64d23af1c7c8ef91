"""The papers' tables of hyper-parameters as data, from the print: every field of every paper's recipe."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from torch import nn

from vig_minimal.models.checks import IMAGENET_MEAN, IMAGENET_STD
from vig_minimal.training.engine import create_optimiser, learning_rate
from vig_minimal.training.recipes import PAPERS, RECIPES, Recipe, get_recipe, used

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# what no paper has, and so no paper's recipe
ABSENT = {"accumulation": 1, "oversample": 0.0, "scale_jitter": 0.0, "scale_range": 0.0, "layer_decay": 1.0}
# weights of losses that only one family has
LOSSES = {"asymmetric": 10.0,  # GKGNet's released code; the paper prints L_smooth + L_asy
          "contrastive": 1.0}  # CNN2GNN Eq. 17: the plain sum
# ViG-LRGC Table 1, row by row; below it what section 4.2 and ViG's released command add
LRGC = {
    "epochs": 300,
    "optimiser": "adamw",
    "batch_size": 256,
    "lr": 2e-3,
    "schedule": "cosine",
    "warmup_epochs": 20.0,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "drop_path": 0.1,
    "repeats": 3,
    "rand_augment": 9.0,
    "mixup": 0.8,
    "cutmix": 1.0,
    "erasing": 0.25,
    "ema_decay": 0.99996,
    "cooldown_epochs": 10.0, "warmup_lr": 1e-6, "min_lr": 1e-5, "decay_epochs": (), "clip_grad": 0.0,
    "crop": "resized", "flip": True, "color_jitter": 0.0,  # timm jitters no colours where RandAugment does
    "eval_crop": 0.9, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "teacher": "none", "size": "ti",
} | ABSENT | LOSSES
PLAIN = {"repeats": 1, "rand_augment": 0.0, "mixup": 0.0, "cutmix": 0.0, "erasing": 0.0, "cooldown_epochs": 0.0,
         "ema_decay": 0.0, "schedule": "step"}
GKGNET = LRGC | PLAIN | IMAGENET | {
    # section 4.1: AdamW, decay 0.05, 80 epochs, 1e-4 after a warm-up from 1e-3 of it, ×0.1 at epochs 10 and 50
    "epochs": 80, "lr": 1e-4, "warmup_lr": 1e-7, "decay_epochs": (10.0, 50.0),
    # the released configuration; the whole photo is evaluated
    "batch_size": 128, "warmup_epochs": 5.0, "clip_grad": 5.0, "erasing": 0.5, "color_jitter": 0.4, "eval_crop": 0.0,
    "size": "s"}
CNN2GNN = LRGC | PLAIN | IMAGENET | {
    # section 4.1: SGD, 3e-4, 100 epochs, batch 256, random crop and colour jitter
    "epochs": 100, "batch_size": 256, "optimiser": "sgd", "lr": 3e-4, "flip": False, "color_jitter": 0.4,
    # neither printed nor released
    "warmup_epochs": 0.0, "weight_decay": 0.0, "label_smoothing": 0.0, "drop_path": 0.0, "eval_crop": 1.0,
    "size": "resnet18"}
DETECTION = LRGC | PLAIN | IMAGENET | {
    # ClusterViG section V: AdamW, 2e-4, 12 epochs
    "epochs": 12, "lr": 2e-4,
    # as is customary: 16 images, 500 of 118,287 / 16 steps of warm-up from 1/1000, ×0.1 at epochs 8 and 11
    "batch_size": 16, "warmup_lr": 2e-7, "warmup_epochs": 0.07, "decay_epochs": (8.0, 11.0), "size": "s"}
SEGMENTATION = LRGC | PLAIN | IMAGENET | {
    # GreedyViG and AdaptViG on ADE20K: AdamW, 2e-4, decay 1e-4, poly 0.9, 40,000 steps of 32 crops, ½ to 2, flips
    "epochs": 64, "batch_size": 32, "lr": 2e-4, "min_lr": 0.0, "schedule": "poly", "weight_decay": 1e-4,
    "scale_range": 2.0, "warmup_epochs": 0.0, "size": "s"}
PRINTED = {
    "lrgc": LRGC,
    "vig": LRGC | {"batch_size": 1024},
    # ClusterViG section V: batch 1024, AdamW, 2e-3, cosine, 300 epochs, RegNetY-16GF
    "cvig": LRGC | IMAGENET | {"batch_size": 1024, "teacher": "regnet_y_16gf"},
    "gkgnet": GKGNET,
    "gkgnet_voc": GKGNET | {"decay_epochs": (5.0, 50.0)},
    "cnn2graph": CNN2GNN,
    "cnn2graph_100": CNN2GNN | {"batch_size": 100},
    "detection": DETECTION,
    "segmentation": SEGMENTATION,
    "adaptvig": LRGC | IMAGENET | {"batch_size": 1024, "teacher": "regnet_y_16gf", "size": "s"},  # as ClusterViG
}
# the project's own, by which the figures in docs/ were made
DEMO = LRGC | PLAIN | {
    "epochs": 2, "batch_size": 32, "lr": 1.5e-3, "schedule": "cosine", "warmup_epochs": 0.2, "drop_path": 0.0,
    "ema_decay": 0.99, "clip_grad": 1.0, "crop": "pad", "eval_crop": 1.0, "size": "nano"}
OURS = {
    "demo": DEMO,
    "demo_multi": DEMO | {"epochs": 5, "warmup_epochs": 0.5},
    "demo_detection": DEMO | {"batch_size": 8, "lr": 1e-3, "warmup_epochs": 0.1, "flip": False},
    "demo_segmentation": DEMO | {"epochs": 3, "batch_size": 16, "flip": False},
    "cifar": DEMO | {"epochs": 10, "batch_size": 64, "lr": 2e-3, "min_lr": 0.0, "warmup_epochs": 0.625,
                     "ema_decay": 0.0},
    "finetune": LRGC | PLAIN | {
        "epochs": 20, "batch_size": 32, "lr": 5e-4, "schedule": "cosine", "layer_decay": 0.75, "min_lr": 1e-6,
        "warmup_epochs": 2.0, "clip_grad": 1.0, "crop": "pad"},
}


@pytest.mark.parametrize("name", PRINTED | OURS)
def test_a_recipe_is_what_its_paper_prints(name):
    recipe, printed = asdict(get_recipe(name)), (PRINTED | OURS)[name]
    assert {field: recipe[field] for field in printed} == printed  # the difference shows field by field
    assert recipe.keys() == printed.keys(), "a new field needs its value in every paper's table"
    assert RECIPES.keys() == (PRINTED | OURS).keys()


def test_families_have_their_papers_recipes():
    assert PAPERS.items() >= {"vig": "vig", "svig": "vig", "pvig": "vig", "lrgc": "lrgc", "cvig": "cvig",
                              "gkgnet": "gkgnet", "cnn2gnn": "cnn2graph", "cnn2transformer": "cnn2graph",
                              "cnn2mean": "cnn2graph", "cnn2max": "cnn2graph", "resnet": "cnn2graph"}.items()
    assert (IMAGENET_MEAN, IMAGENET_STD) == (IMAGENET["mean"], IMAGENET["std"])


def test_optimisers_are_those_of_the_papers():
    sgd, adamw = (create_optimiser(Layers(), get_recipe(name)) for name in ("cnn2graph", "lrgc"))
    assert type(sgd).__name__ == "SGD" and sgd.defaults["momentum"] == 0.9 and not sgd.defaults["nesterov"]
    assert type(adamw).__name__ == "AdamW" and adamw.defaults["betas"] == (0.9, 0.999)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.05, 0.0]
    assert [group["weight_decay"] for group in sgd.param_groups] == [0.0, 0.0]


@pytest.mark.parametrize("name, rates", [
    # epoch: rate; by hand from the print
    ("gkgnet", {0: 1e-7, 5: 1e-4, 9.99: 1e-4, 10: 1e-5, 49.99: 1e-5, 50: 1e-6, 79.99: 1e-6}),
    ("gkgnet_voc", {4.99: 0.998e-4, 5: 1e-5, 49.99: 1e-5, 50: 1e-6}),
    ("cnn2graph", {0: 3e-4, 50: 3e-4, 99.99: 3e-4}),
    ("detection", {0: 2e-7, 0.07: 2e-4, 7.99: 2e-4, 8: 2e-5, 10.99: 2e-5, 11: 2e-6}),
    ("segmentation", {0: 2e-4, 32: 2e-4 * 0.5**0.9, 63.68: 2e-4 * 0.005**0.9}),
    ("lrgc", {0: 1e-6, 10: 1.0005e-3, 20: 2e-3, 155: 1.005e-3, 290: 1e-5, 299.99: 1e-5}),
])
def test_rates_are_the_printed_ones_at_each_epoch(name, rates):
    for epoch, rate in rates.items():
        assert learning_rate(round(100 * epoch), 100, get_recipe(name)) == pytest.approx(rate, rel=1e-3), epoch


class Layers(nn.Linear):
    """The smallest network with blocks."""

    def __init__(self):
        super().__init__(3, 2)
        self.blocks = []


COUNTS, SHARES, RATES = ([1, 10**6], [0, 10**6 + 1]), ([0.0, 0.999], [-0.001, 1.0]), ([0.0, 1000.0], [-0.1, 1000.1])


@pytest.mark.parametrize("field, fit, others", [
    # the least and the largest value that a field takes, and what is just beyond them
    ("batch_size", *COUNTS), ("accumulation", *COUNTS), ("repeats", [1, 1000], [0, 1001]), ("oversample", *SHARES),
    ("color_jitter", *SHARES), ("rand_augment", [0.0, 10.0], [-0.1, 10.1]), ("mixup", [0.0, 100.0], [-0.1, 100.1]),
    ("cutmix", [0.0, 100.0], [-0.1, 100.1]), ("erasing", [0.0, 1.0], [-0.1, 1.1]), ("scale_jitter", *SHARES),
    ("scale_range", [0.0, 1.0, 16.0], [0.9, 16.1]), ("eval_crop", [0.0, 0.1, 1.0], [0.09, 1.01]),
    ("epochs", [30, 10**6], [0, 29, 10**6 + 1]),  # of which 20 are warm-up and 10 cool-down
    ("warmup_epochs", [0.0, 290.0], [-1.0, 291.0]), ("cooldown_epochs", [0.0, 280.0], [-1.0, 281.0]),
    ("decay_epochs", [(1e-9, 10.0**6), ()], [(0.0,), (10.0**6 + 1,), (2.0, 1.0)]),
    ("lr", [1e-9, 1000.0], [0.0, 1000.1]), ("warmup_lr", *RATES), ("min_lr", *RATES),
    ("layer_decay", [0.001, 1.0], [0.0, 1.001]), ("weight_decay", [0.0, 100.0], [-0.1, 100.1]),
    ("clip_grad", [0.0, 1e6], [-0.1, 1e6 + 1]), ("label_smoothing", *SHARES), ("asymmetric", *RATES),
    ("contrastive", *RATES), ("drop_path", *SHARES), ("ema_decay", *SHARES),
    ("schedule", ["cosine", "poly", "step"], ["linear"]), ("optimiser", ["adamw", "sgd"], ["adam"]),
    ("crop", ["pad", "resized"], ["middle"]),
])
def test_what_a_field_takes(field, fit, others):
    for value in fit:
        assert getattr(replace(Recipe(), **{field: value}), field) == value
    for value in others:
        with pytest.raises(ValueError, match=field.replace("_", "[-_]")):
            replace(Recipe(), **{field: value})


def test_what_a_recipe_switches_off_is_not_among_what_it_uses():
    """A weight, a chance, a norm or an epoch of 0 does nothing; nor does a factor of 1, or to see an image once."""
    off = {"oversample": 0.0, "color_jitter": 0.0, "rand_augment": 0, "mixup": 0.0, "cutmix": 0.0, "erasing": 0.0,
           "clip_grad": 0.0, "scale_jitter": 0.0, "scale_range": 0.0, "weight_decay": 0.0, "label_smoothing": 0.0,
           "ema_decay": 0.0, "contrastive": 0.0, "asymmetric": 0.0, "cooldown_epochs": 0.0, "repeats": 1,
           "layer_decay": 1.0, "teacher": "none"}
    family = SimpleNamespace(aggregation="gatv2", drop_path=0.0)
    detector = SimpleNamespace(aggregation="gatv2", body=(("drop_path", 0.0),))  # images of one label are not scaled
    on = {"rand_augment": 1, "scale_range": 2.0, "repeats": 2, "teacher": "regnet_y_16gf"}
    for config, unused in ((family, {"scale_jitter", "scale_range"}), (detector, {"label_smoothing"})):
        without = used(replace(Recipe(), **off), config, True)
        assert not without.keys() & (off.keys() | {"drop_path"})
        for name in off:
            now = used(replace(Recipe(), **off | {name: on.get(name, 0.5)}), config, True)
            assert now.keys() == without.keys() | ({name} - unused)
