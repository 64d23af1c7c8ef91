"""One step and what surrounds it: what is not finite, parts, recomputed blocks, half precision, teachers, batches."""

import copy
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from vig_minimal.train import train_one_epoch
from vig_minimal import create_model
from vig_minimal.data.augment import normalise
from vig_minimal.data.batches import TrainingBatches, TrainingOrder
from vig_minimal.data.loading import StoredImages
from vig_minimal.training.teacher import create_teacher
from vig_minimal.training.config import RunConfig
from vig_minimal.training.distributed import Processes
from vig_minimal.training.endings import Diverged
from vig_minimal.training.engine import create_run, learning_rate
from vig_minimal.training.recipes import Recipe, get_recipe, override
from vig_minimal.training.tasks import SingleLabel

CPU = torch.device("cpu")
ONE = Processes(CPU)
CLASSES = 3
PLAIN = Recipe(epochs=1, batch_size=8, schedule="step", warmup_epochs=0.0, cooldown_epochs=0.0, lr=1e-3, ema_decay=0.9,
               drop_path=0.0)


class NoBar:
    def update(self, images, loss):
        pass


class Noise:
    """Stands in for TrainingBatches: batches of noise, each in so many parts; every `poisoned` step is not a number."""

    def __init__(self, steps, parts=1, poisoned=(), size=8):
        source = torch.Generator().manual_seed(0)
        self.images = torch.randn(12, size, 3, 16, 16, generator=source)[:steps]
        self.labels = torch.randint(CLASSES, (12, size), generator=source)[:steps]
        self.images[list(poisoned)] = math.nan
        self.parts = parts

    def __len__(self):
        return len(self.images)

    def epoch(self, epoch, first_step=0):
        for images, labels in zip(self.images[first_step:], self.labels[first_step:]):
            yield from zip(images.chunk(self.parts), labels.chunk(self.parts))


def tiny(name="lrgc_nano", **fields):
    torch.manual_seed(0)
    return create_model(name, **{"dim": 16, "depth": 2, "img_size": 16, "patch": 4, "num_classes": CLASSES} | fields)


def trained(batches, recipe=PLAIN, model=None, **options):
    run = create_run(model or tiny(), SingleLabel(0.1), RunConfig(recipe=recipe, **options), ONE)
    return run, train_one_epoch(run, batches, 0, NoBar())


def assert_same_weights(one, other, **tolerance):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name, **tolerance)


# ---- what is not finite --------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_training_at_once_and_moves_no_weight():
    sound, _ = trained(Noise(3))
    run = create_run(tiny(), SingleLabel(0.1), RunConfig(recipe=PLAIN), ONE)
    with pytest.raises(Diverged, match=r"not finite: loss nan, at epoch 1, step 4, learning rate 1.00e-0") as end:
        train_one_epoch(run, Noise(5, poisoned=[3]), 0, NoBar())
    assert end.value.step == run.step == 3
    for one, other in ((run.model, sound.model), (run.average.module, sound.average.module)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_so_does_a_gradient():
    class Root(SingleLabel):
        def losses(self, outputs, targets, images):
            return {"root": outputs.sum().sub(outputs.sum().detach()).sqrt()}  # 0, with an infinite gradient

    model = tiny()
    before = copy.deepcopy(dict(model.named_parameters()))
    run = create_run(model, Root(0.0), RunConfig(recipe=PLAIN), ONE)
    with pytest.raises(Diverged, match="not finite: norm of the gradient (inf|nan), at epoch 1, step 1"):
        train_one_epoch(run, Noise(1), 0, NoBar())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_fp16_skips_steps_whose_gradients_overflow():
    run = create_run(tiny(), SingleLabel(0.1), RunConfig(recipe=PLAIN, amp="fp16"), ONE)
    before = copy.deepcopy(dict(run.model.named_parameters()))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    train_one_epoch(run, Noise(1), 0, NoBar())
    assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())
    assert run.scaler.get_scale() == 2.0**125 and run.step == 1


# ---- the same in other ways ----------------------------------------------------------------------------------------


def frozen(model):
    """Batch norm's statistics fixed: else they would tell parts from the whole."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module
    return model


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_give_the_step_of_the_whole(parts):
    batches, in_parts = Noise(3), Noise(3, parts)
    batches.images, in_parts.images = batches.images.double(), in_parts.images.double()
    whole, one = trained(batches, model=frozen(tiny().double()))
    split, other = trained(in_parts, replace(PLAIN, accumulation=parts), model=frozen(tiny().double()))
    assert_same_weights(split.model, whole.model, rtol=1e-7, atol=1e-10)
    assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["vig_nano", "lrgc_nano"])
def test_recomputed_blocks_give_the_same_weights_and_running_statistics(name):
    fields = {"drop_path": 0.3} | ({"epsilon": 0.5, "k": 2} if name == "vig_nano" else {})
    plain, _ = trained(Noise(3), model=tiny(name, **fields))
    recomputed, _ = trained(Noise(3), model=tiny(name, **fields), grad_checkpoint=True)
    assert_same_weights(recomputed.model, plain.model, rtol=1e-5, atol=1e-7)
    assert_same_weights(recomputed.average.module, plain.average.module, rtol=1e-5, atol=1e-7)


def test_recomputing_keeps_less():
    from vig_minimal.models.cost import saved_bytes

    model, images = tiny(depth=6), torch.randn(4, 3, 16, 16)
    before = saved_bytes(model.train(), images)
    create_run(model, SingleLabel(0.0), RunConfig(recipe=PLAIN, grad_checkpoint=True), ONE)
    assert saved_bytes(model, images) < 0.5 * before


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_trains_like_full(amp):
    full, one = trained(Noise(3))
    half, other = trained(Noise(3), amp=amp)
    assert other["train_loss"] == pytest.approx(one["train_loss"], rel=0.02)
    assert half.scaler.is_enabled() == (amp == "fp16")
    again = create_run(tiny(), SingleLabel(0.1), RunConfig(recipe=PLAIN, amp=amp), ONE)
    again.restore(half.state())
    assert again.scaler.state_dict() == half.scaler.state_dict()


def test_synchronised_batch_norm_is_refused_on_the_cpu():
    with pytest.raises(ValueError, match="--sync-bn: torch has synchronised batch norm for GPUs only"):
        create_run(tiny(), SingleLabel(0.0), RunConfig(recipe=PLAIN, sync_bn=True), ONE)


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="synchronised batch norm runs on GPUs only")
def test_synchronised_batch_norm_is_batch_norm_where_there_is_one_process():
    device = torch.device("cuda", 0)
    place, images = Processes(device), torch.randn(8, 3, 16, 16, device=device)
    plain = create_run(tiny().to(device), SingleLabel(0.0), RunConfig(recipe=PLAIN), place)
    synchronised = create_run(tiny().to(device), SingleLabel(0.0), RunConfig(recipe=PLAIN, sync_bn=True), place)
    assert any(isinstance(part, nn.SyncBatchNorm) for part in synchronised.model.modules())
    torch.testing.assert_close(synchronised.model.train()(images), plain.model.train()(images))


def test_sgd_moves_with_momentum():
    recipe = replace(PLAIN, optimiser="sgd", weight_decay=0.0, lr=0.1, schedule="step", ema_decay=0.0)
    run = create_run(tiny(), SingleLabel(0.0), RunConfig(recipe=recipe), ONE)
    (group, _), weight = run.optimiser.param_groups, run.model.head[4].weight
    assert isinstance(run.optimiser, torch.optim.SGD) and group["momentum"] == 0.9
    velocity, expected, gradients = 0.0, weight.detach().clone(), []
    weight.register_hook(lambda gradient: gradients.append(gradient.clone()))
    train_one_epoch(run, Noise(3), 0, NoBar())
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient
        expected -= 0.1 * velocity
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("limit", [0.0, 0.01, 1e6])
def test_a_gradient_longer_than_clip_grad_is_shortened_to_it(limit):
    recipe = replace(PLAIN, optimiser="sgd", weight_decay=0.0, lr=0.1, ema_decay=0.0, clip_grad=limit)
    model, batches = tiny().double(), Noise(1)
    whole = copy.deepcopy(model).train()
    batches.images = batches.images.double()
    F.cross_entropy(whole(batches.images[0]), batches.labels[0], label_smoothing=0.1).backward()
    length = sum(p.grad.square().sum() for p in whole.parameters()).sqrt().item()
    assert 0.1 < length < 1e6
    trained(batches, recipe, model)
    share = min(1.0, limit / length) if limit else 1.0  # the first step of SGD goes against the gradient alone
    for moved, start in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(moved, start - 0.1 * share * start.grad, rtol=1e-4, atol=1e-9)


# ---- schedules and recipes -----------------------------------------------------------------------------------------


def test_step_decay():
    recipe = replace(get_recipe("gkgnet"), epochs=8, warmup_epochs=2.0, decay_epochs=(4.0, 6.0), lr=1.0, warmup_lr=0.0)
    rates = [learning_rate(step, 2, recipe) for step in range(16)]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75] + [1.0] * 4 + [0.1] * 4 + [0.01] * 4)


def test_a_rate_is_scaled_with_the_batch_only_where_asked():
    vig = get_recipe("vig")
    assert override(vig, {"batch_size": 256}) == replace(vig, batch_size=256)
    scaled = override(vig, {"batch_size": 256}, scale_lr=True)
    assert (scaled.lr, scaled.min_lr) == (vig.lr / 4, vig.min_lr / 4)
    assert override(get_recipe("gkgnet"), {"epochs": 8}).decay_epochs == (1.0, 5.0)


# ---- order and mixtures --------------------------------------------------------------------------------------------


def keys(count, recipe, world=1, rank=0, epoch=0, first_step=0):
    order = TrainingOrder(count, recipe, 3, (rank, world))
    order.epoch, order.first_step = epoch, first_step
    return list(order)


def test_repeated_augmentation_shows_a_third_of_the_images_three_times():
    recipe = Recipe(batch_size=24, repeats=3)
    batches = keys(1000, recipe)
    # DeiT's sampler: as many images as there are, rounded down to a multiple of 256; then whole batches
    assert len(batches) == 1000 // 256 * 256 // 24
    seen = Counter(index for batch in batches for _, index, _ in batch)
    assert set(seen.values()) == {3} and len(seen) == len(batches) * 8
    for batch in batches:
        assert len(set(batch)) == 24 and Counter(copy for _, _, copy in batch) == {0: 8, 1: 8, 2: 8}
        pairs = zip(batch[::2], batch[1::2])
        assert all(first[1] != second[1] for first, second in pairs)  # a mixture is of two images
    assert len(keys(100, recipe)) == 100 // 24  # fewer than 256: no rounding


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (4, 1), (2, 2), (1, 4)])
def test_shares_and_parts_are_the_global_batch(world, parts):
    recipe = Recipe(batch_size=24, repeats=3)
    alone = keys(300, recipe)
    shares = [keys(300, replace(recipe, accumulation=parts), world, rank) for rank in range(world)]
    joined = [sum((shares[rank][step * parts + part] for part in range(parts) for rank in range(world)), [])
              for step in range(len(alone))]
    assert joined == alone
    assert all(len(batch) == 24 // world // parts for share in shares for batch in share)


def test_an_epoch_can_begin_in_its_middle():
    recipe = Recipe(batch_size=10, repeats=2, accumulation=5)
    assert keys(300, recipe, epoch=2, first_step=7) == keys(300, recipe, epoch=2)[7 * 5:]


FULL = replace(get_recipe("lrgc"), batch_size=8, crop="pad", rand_augment=0.0, repeats=1)


def stored(count=40):
    source = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 3, 16, 16), generator=source, dtype=torch.uint8)
    return StoredImages(images, torch.randint(CLASSES, (count,), generator=source))


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (4, 1), (2, 2)])
def test_augmented_batches_do_not_depend_on_processes_and_parts(world, parts):
    alone = list(TrainingBatches(stored(), CLASSES, FULL, 0, (0, 1), CPU, 0).epoch(1))
    places = [Processes(CPU, rank, world) for rank in range(world)]
    recipe = replace(FULL, accumulation=parts)
    shares = [list(TrainingBatches(stored(), CLASSES, recipe, 0, (place.rank, place.world), CPU, 0).epoch(1))
              for place in places]
    for step, (images, targets) in enumerate(alone):
        pieces = [shares[rank][step * parts + part] for part in range(parts) for rank in range(world)]
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), images)
        assert torch.equal(torch.cat([piece[1] for piece in pieces]), targets)


def test_an_epoch_from_its_middle_has_the_same_batches():
    whole, rest = (list(TrainingBatches(stored(), CLASSES, FULL, 0, (0, 1), CPU, 0).epoch(1, first))
                   for first in (0, 3))
    for (images, targets), (other, other_targets) in zip(whole[3:], rest, strict=True):
        assert torch.equal(images, other) and torch.equal(targets, other_targets)


def test_mixed_targets_are_shares_and_both_kinds_come_up():
    recipe = replace(FULL, erasing=0.0, flip=False)
    batches = list(TrainingBatches(stored(400), CLASSES, recipe, 0, (0, 1), CPU, 0).epoch(0))
    assert all(targets.shape == (8, CLASSES) for _, targets in batches)
    assert all(torch.allclose(targets.sum(1), torch.ones(8)) for _, targets in batches)
    plain = list(TrainingBatches(stored(400), CLASSES, replace(FULL, mixup=0.0, cutmix=0.0, erasing=0.0, flip=False), 0,
                                 (0, 1), CPU, 0).epoch(0))
    kinds = Counter()
    for (mixed, _), (images, _) in zip(batches, plain):
        taken = (mixed == images).all(1)  # pixels that CutMix left
        kinds["cutmix" if 0 < taken.float().mean() < 1 or torch.equal(mixed, images) else "mixup"] += 1
    assert set(kinds) == {"cutmix", "mixup"} and min(kinds.values()) > 10
    assert all(targets.shape == (8,) for _, targets in plain)


# ---- distillation --------------------------------------------------------------------------------------------------


def test_distillation_is_half_labels_half_the_teachers_answers():
    logits, distilled = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    labels, images, answers = torch.tensor([0, 1, 2, 3, 0]), torch.randn(5, 3, 2, 2), torch.randn(5, 4)

    def teacher(seen):
        assert seen is images
        return answers

    losses = SingleLabel(0.1, teacher).losses((logits, distilled), labels, images)
    log_p, log_q = logits.log_softmax(1), distilled.log_softmax(1)
    truth = sum(-0.9 * log_p[i, y] - 0.1 * log_p[i].mean() for i, y in enumerate(labels)) / 5
    learnt = sum(-log_q[i, answers[i].argmax()] for i in range(5)) / 5
    torch.testing.assert_close(losses["cross_entropy"], truth / 2)
    torch.testing.assert_close(losses["distillation"], learnt / 2)
    one_classifier = SingleLabel(0.1, teacher).losses(logits, labels, images)["distillation"]
    torch.testing.assert_close(one_classifier, F.cross_entropy(logits, answers.argmax(1)) / 2)
    alone = SingleLabel(0.1).losses((logits, distilled), labels, images)
    both = truth + F.cross_entropy(distilled, labels, label_smoothing=0.1)
    torch.testing.assert_close(sum(alone.values()), both / 2)


def test_a_teacher_sees_its_own_normalisation_and_learns_nothing(tmp_path):
    torch.manual_seed(1)
    network = models.resnet18(num_classes=CLASSES).eval()
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    recipe = Recipe(mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7))
    teacher = create_teacher("resnet18", tmp_path / "teacher.pt", CLASSES, recipe.mean, recipe.std, CPU)
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    answers = teacher(normalise(pixels, recipe.mean, recipe.std))
    expected = network(normalise(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-4)
    assert not answers.requires_grad
    torch.testing.assert_close(teacher(normalise(pixels, recipe.mean, recipe.std)), answers, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "weights", "message"), [
    ("resnet", None, "torchvision has no such classifier; it has .*resnet18"),
    ("resnet18", None, "ImageNet's 1000 classes, and this data has 3"),
    ("resnet18", "other.pt", "does not fit resnet18 with 3 classes"),
    ("resnet18", "nowhere.pt", "no such checkpoint"),
])
def test_teachers_that_cannot_teach(tmp_path, name, weights, message):
    torch.save(models.resnet18(num_classes=5).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        create_teacher(name, weights and tmp_path / weights, CLASSES, PLAIN.mean, PLAIN.std, CPU)
