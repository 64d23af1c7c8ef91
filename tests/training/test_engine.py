"""Schedule, optimiser groups, moving average, metrics, recipes: against their formulas on small numbers."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from vig_minimal import create_model
from vig_minimal.graphs.draws import draw
from vig_minimal.training.config import RunConfig
from vig_minimal.training.distributed import Processes
from vig_minimal.training.engine import create_optimiser, create_run, evaluate, learning_rate, moving_average
from vig_minimal.training.metrics import TopK
from vig_minimal.training.recipes import RECIPE_FLAGS, RECIPES, Recipe, get_recipe, kept_recipe, override
from vig_minimal.training.run_log import mean_neighbours
from vig_minimal.training.tasks import SingleLabel

ONE = Processes(torch.device("cpu"))


def test_learning_rate_warms_up_falls_as_a_cosine_and_cools_down():
    recipe = Recipe(epochs=10, warmup_epochs=2.0, cooldown_epochs=3.0, lr=1.0, warmup_lr=0.1, min_lr=0.01)
    rates = [learning_rate(step, 4, recipe) for step in range(40)]
    assert rates[0] == 0.1 and rates[4] == pytest.approx(0.55) and rates[8] == 1.0
    assert rates[18] == pytest.approx((1.0 + 0.01) / 2)  # halfway between the end of warm-up and the cool-down
    assert rates[28:] == pytest.approx([0.01] * 12)
    assert all(a < b for a, b in zip(rates[:8], rates[1:9])) and all(a > b for a, b in zip(rates[8:28], rates[9:29]))


def test_no_decay_on_vectors_and_tau():
    model = create_model("lrgc_nano", dim=16, depth=2, img_size=16)
    decayed, others = create_optimiser(model, Recipe(weight_decay=0.05)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    without = {names[id(p)] for p in others["params"]}
    assert without == {name for name in names.values() if name.endswith(("bias", "tau")) or ".1.weight" in name
                       or (name.startswith("stem") and dict(model.named_parameters())[name].ndim == 1)}
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def test_moving_average_follows_its_formula_buffers_too():
    model, decay = nn.BatchNorm1d(1), 0.6
    average = moving_average(model, decay)
    expected = None
    for t, value in enumerate([4.0, 8.0, -2.0, 5.0]):
        for tensor in (model.weight.data, model.running_mean):
            tensor.fill_(value)
        average.update_parameters(model)
        # the first update copies; after t updates the decay is min(decay, (1 + t) / (10 + t))
        d = min(decay, (1 + t) / (10 + t))
        expected = value if t == 0 else d * expected + (1 - d) * value
        assert average.module.weight.item() == pytest.approx(expected)
        assert average.module.running_mean.item() == pytest.approx(expected)
    assert average.module.num_batches_tracked == model.num_batches_tracked


def test_label_smoothing_is_its_formula():
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    log_p = logits.log_softmax(1)
    expected = sum(-0.9 * log_p[i, y] - 0.1 * log_p[i].mean() for i, y in enumerate(labels)) / 5
    losses = SingleLabel(0.1).losses(logits, labels, None)
    assert list(losses) == ["cross_entropy"]
    torch.testing.assert_close(losses["cross_entropy"], expected)


def test_top_k_streams():
    logits, labels = torch.randn(23, 7), torch.randint(7, (23,))
    metric = TopK()
    for part in (slice(0, 10), slice(10, 11), slice(11, 23)):
        metric.update(logits[part], labels[part])
    scores = metric.compute(ONE)
    order = logits.argsort(1, descending=True)
    for k in (1, 5):
        right = sum(int(label) in row[:k].tolist() for row, label in zip(order, labels))
        assert scores[f"top{k}"] == pytest.approx(100 * right / 23)
    assert scores["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_of_equal_scores_the_first_class_counts():
    # else a network that says the same of all classes would always be right, and half precision is full of ties
    metric, labels = TopK(), torch.arange(10)
    metric.update(torch.zeros(10, 10, dtype=torch.bfloat16), labels)
    scores = metric.compute(ONE)
    assert scores["top1"] == 10 and scores["top5"] == 50
    assert metric.pairs.tolist() == [labels.tolist(), [0] * 10]
    metric = TopK()
    metric.update(logits := torch.randn(400, 10).round(), labels := torch.randint(10, (400,)))
    assert metric.compute(ONE)["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    metric = TopK()
    metric.update(torch.full((10, 10), torch.nan), torch.arange(10))
    assert metric.compute(ONE)["top5"] == 0


@pytest.mark.parametrize("classes, shown", [(2, False), (5, False), (6, True)])
def test_top_5_is_left_out_where_it_is_always_100(classes, shown):
    metric = TopK()
    metric.update(torch.randn(4, classes), torch.tensor([0, 1, 1, 0]))
    assert ("top5" in metric.compute(ONE)) == shown


def test_evaluation_takes_the_average_and_leaves_it_in_evaluation_mode():
    model = create_model("vig_nano", dim=16, depth=1, img_size=16, num_classes=3)
    run = create_run(model, SingleLabel(0.0), RunConfig(recipe=Recipe(ema_decay=0.9)), ONE)
    for parameter in run.average.module.head[4].parameters():
        parameter.data.zero_()  # equal scores for all classes, in the average only
    scores = evaluate(run, [(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]))])
    assert scores["loss"] == pytest.approx(math.log(3), rel=1e-6) and not run.evaluated.training
    assert create_run(model, SingleLabel(0.0), RunConfig(recipe=Recipe(ema_decay=0.0)), ONE).evaluated is model


def small_run(**options):
    model = create_model("vig_nano", dim=16, depth=1, img_size=16, patch=4, num_classes=3)
    return create_run(model, SingleLabel(0.0), RunConfig(recipe=Recipe(batch_size=8), **options), ONE)


def test_draws_inside_the_model_follow_from_seed_and_step():
    def drawn(run, step, number=0):
        run.step = step
        with run.part(number, 8):
            return draw(8, 5, device=ONE.device), torch.rand(3)

    run = small_run()
    first, again, later, other = drawn(run, 4), drawn(run, 4), drawn(run, 5), drawn(small_run(seed=1), 4)
    assert all(map(torch.equal, first, again))
    for different in (later, other):
        assert not any(map(torch.equal, first, different))


@pytest.mark.parametrize("amp, dtype", [("fp16", torch.float16), ("bf16", torch.bfloat16), (None, torch.float32)])
def test_layers_compute_in_the_precision_of_amp(amp, dtype):
    run = small_run(amp=amp)
    with run.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert run.scaler._enabled == (amp == "fp16")  # bfloat16 has float32's range


def test_freezing_leaves_the_head_to_train():
    for name, trained in (("vig_nano", {"head"}), ("pvig_nano", {"head"}), ("gkgnet_nano", {
            "labels", "cross", "widen", "of_labels", "of_patches"})):
        model = create_model(name)
        run = create_run(model, SingleLabel(0.0), RunConfig(recipe=Recipe(), freeze=True, init_from="x.pt"), ONE)
        learns = {key.split(".")[0] for key, value in model.named_parameters() if value.requires_grad}
        assert learns == trained
        in_groups = {id(parameter) for group in run.optimiser.param_groups for parameter in group["params"]}
        assert in_groups == {id(value) for value in model.parameters() if value.requires_grad}
        run.train()
        assert model.training and not any(part.training for part in model.stem.modules())


def test_mean_neighbours_are_those_of_the_graphs():
    images = torch.randn(2, 3, 16, 16)
    assert mean_neighbours(create_model("lrgc_nano", dim=16, depth=3, img_size=16, patch=4), images) == [16, 16, 16]
    assert mean_neighbours(create_model("vig_nano", dim=16, depth=2, img_size=16, patch=4, k=4), images) == [4, 8]


def test_state_can_be_restored():
    def run():
        model = create_model("lrgc_nano", dim=16, depth=1, img_size=16, num_classes=3)
        return create_run(model, SingleLabel(0.0), RunConfig(recipe=Recipe(ema_decay=0.9)), ONE)

    first, second = run(), run()
    second.restore(first.state())
    assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values()))


def test_recipes_by_name():
    assert get_recipe("demo").size == "nano" and set(RECIPE_FLAGS) <= set(vars(RECIPES["demo"]))
    with pytest.raises(ValueError, match="demo, demo_multi, vig, lrgc"):
        get_recipe("none")


@pytest.mark.parametrize("name", ["vig", "lrgc", "cvig"])
def test_the_cosine_ends_ten_epochs_before_the_end(name):
    recipe = get_recipe(name)
    rates = [learning_rate(10 * epoch, 10, recipe) for epoch in range(recipe.epochs)]
    assert len(rates) == 300 and rates[0] == 1e-6 and rates[20] == 2e-3 == max(rates)
    assert rates[289] > rates[290] == pytest.approx(1e-5) and rates[290:] == pytest.approx([1e-5] * 10)


def test_fewer_epochs_keep_the_share_of_the_warm_up():
    recipe = override(get_recipe("vig"), {"epochs": 30})
    assert (recipe.warmup_epochs, recipe.cooldown_epochs) == (2, 1)
    assert override(get_recipe("vig"), {"epochs": 30, "warmup_epochs": 5.0}).warmup_epochs == 5
    assert override(get_recipe("vig"), {"epochs": 300}) == get_recipe("vig")


def test_a_kept_recipe_comes_back_or_is_refused():
    assert kept_recipe(asdict(get_recipe("lrgc"))) == get_recipe("lrgc")
    with pytest.raises(ValueError, match="another version"):
        kept_recipe({"epochs": 3, "warm_restarts": True})


@pytest.mark.parametrize("change", [
    {"epochs": 0}, {"batch_size": 0}, {"batch_size": -4}, {"lr": 0.0}, {"lr": float("nan")}, {"ema_decay": 1.0},
    {"label_smoothing": -0.1}, {"warmup_epochs": 400.0}, {"crop": "middle"}, {"eval_crop": 0.05}, {"clip_grad": -1.0},
    {"weight_decay": -1.0}, {"optimiser": "adam"}, {"schedule": "linear"}, {"rand_augment": 11.0}, {"erasing": 1.5},
    {"mixup": float("nan")}, {"repeats": 0}, {"accumulation": 0}, {"decay_epochs": (50.0, 10.0)}])
def test_a_recipe_that_cannot_work_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change)).replace("_", "[-_]")):
        replace(get_recipe("vig"), **change)
