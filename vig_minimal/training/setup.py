"""Set-up of a run: from settings to data, model and task, or to the state of a checkpoint."""

import contextlib
import copy
import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..atomic_files import CheckpointError
from ..data.batches import TrainingBatches, ValidationBatches
from ..data.data_recipe import DataRecipe
from ..data.datasets import Data, fetch, image_name, open_data, oversampled, targets_of
from ..data.decoding import DataError
from ..data.loading import FileNote, PreparedImages, StoredImages, store_if_it_fits
from ..data.object_batches import ObjectImages, ObjectTraining, ObjectValidation
from ..data.seeds import mixed_seed
from ..models.checks import plural
from ..models.cost import count_macs, count_parameters, saved_bytes
from ..models.registry import as_now
from ..models.released import init_from, misfit
from ..models.resnet import load_backbone
from ..models.teacher import create_teacher
from . import checkpoint
from .distributed import Processes
from .engine import Run, create_run, evaluate
from .recipes import Recipe
from .run_log import RunLog, first_loss
from .settings import Settings, check_batch
from .tasks import choose_task

AMP_NAMES = {None: "float32", "bf16": "bfloat16", "fp16": "float16 with a scaled loss"}


@dataclass
class Job:
    """All that one call of train.py works with."""

    settings: Settings
    data: Data
    images: dict[str, PreparedImages | StoredImages]  # of training and validation, or of validation alone
    batches: TrainingBatches
    val_batches: ValidationBatches
    run: Run
    first_step: int               # of the open epoch, where a run goes on in its middle
    seen: dict                    # fingerprint of the data
    changes: list[str]            # what differs from the checkpoint's run
    new_parts: list[str] | None   # what --init-from left random
    log: RunLog

    def evaluate(self) -> dict[str, float]:
        """The scores of the evaluated network."""
        with self.log.bar("evaluation", len(self.images["validation"])) as bar:
            return evaluate(self.run, self.val_batches, bar)

    def file_notes(self) -> dict[str, list[FileNote]]:
        """Remarks of all processes on image files since the last call, by split."""
        splits = {"training": self.batches.notes, "validation": self.val_batches.notes}
        notes = {split: sum(self.run.processes.gather(list(own.values())), []) for split, own in splits.items()}
        for own in splits.values():
            own.clear()
        return notes

    def save(self, name: str, with_training: bool) -> None:
        """Write a checkpoint: the weights to use and, with_training, what is needed to go on. While steps are not
        finite (`run.bad_in_a_row`), nothing is written: the weights may be what is wrong."""
        run, data, recipe = self.run, self.data, self.run.recipe
        if run.bad_in_a_row:
            return
        if run.step > run.epoch * len(self.batches):  # in the middle of an epoch: as before an evaluation
            with contextlib.suppress(DataError):  # the data may be what is lost; the weights must not be
                run.task.begin_evaluation(run.evaluated)
        state = {"name": self.settings.model, "config": asdict(run.model.config), "classes": data.classes,
                 "mean": recipe.mean, "std": recipe.std, "recipe": asdict(recipe), "epoch": run.epoch, "step": run.step,
                 "steps": len(self.batches), "best": run.best, "multi_label": data.multi_label,
                 "anchors": run.task.anchor_names, "model": run.evaluated.state_dict(),
                 "flags": self.settings.kept(), "data": self.seen}
        state |= {"training": run.state()} if with_training else {}
        checkpoint.save(self.settings.folder / name, state, keep="previous.pt" if with_training else None)

    def after_step(self, loss: float) -> None:
        """Say the loss of the first step beside that of a guess, unless the weights know the classes already; write
        last.pt every --save-every steps."""
        if self.run.step == 1 and self.new_parts != []:
            self.log.say(first_loss(loss, *self.run.task.chance(len(self.data.classes))))
        every = self.settings.flags.save_every
        if self.settings.writes and self.run.processes.is_first and every and self.run.step % every == 0:
            self.save("last.pt", with_training=True)


def build(settings: Settings, processes: Processes) -> Job:
    """Make data, model, task and run; with --resume, the run as its checkpoint left it. Raises ValueError."""
    flags, recipe, size = settings.flags, settings.recipe, settings.fields["img_size"]
    detects = flags.task == "detection"
    torch.autograd.set_detect_anomaly(flags.detect_anomaly)

    # data: one process downloads, all open
    processes.first_alone(fetch, settings.data, flags.data_dir)
    data = open_data(settings.data, flags.data_dir, size, flags.limit, settings.split_seed, boxes=detects)
    data = oversampled(data, recipe.oversample) if recipe.oversample > 0 and not flags.eval_only else data
    check_batch(recipe, None if flags.eval_only else len(data.train), processes)
    skip, evaluated = flags.bad_images == "skip", data.train if flags.eval_split == "train" else data.val
    images = {"training": PreparedImages(data.train, size, recipe.eval_crop, recipe, flags.seed, skip),
              "validation": PreparedImages(evaluated, size, recipe.eval_crop)}
    training, validation = (ObjectTraining, ObjectValidation) if detects else (TrainingBatches, ValidationBatches)
    if detects:
        images = {split: ObjectImages(**vars(part)) for split, part in images.items()}
    else:
        images = {split: part if flags.eval_only and split == "training" else
                  store_if_it_fits(part, settings.workers, processes.local_world, processes.device)
                  for split, part in images.items()}
    place = processes.share, processes.device, settings.workers
    batches = training(images["training"], len(data.classes), recipe, flags.seed, *place)
    val_batches = validation(images["validation"], recipe, *place)
    if flags.eval_only:
        del images["training"]  # none is read

    # model and task
    torch.manual_seed(mixed_seed("model", flags.seed))
    model = settings.build_model(num_classes=len(data.classes))
    new_parts = start_from(model, settings, data) if settings.source is not None else None
    model = model.to(processes.device, memory_format=torch.channels_last)  # as images and gradients are
    teacher = None
    if recipe.teacher != "none" and not flags.eval_only:
        about = (recipe.teacher, flags.teacher_weights, len(data.classes), recipe.mean, recipe.std, processes.device)
        processes.first_alone(create_teacher, *about)  # downloads
        teacher = create_teacher(*about)
    task = choose_task(model.config, data, recipe, teacher, processes, flags.seed, trains=not flags.eval_only)
    if flags.backbone_weights and not settings.state:
        about = model.backbone, model.config.backbone, flags.backbone_weights
        processes.first_alone(load_backbone, *about)  # downloads
        load_backbone(*about)

    run = create_run(model, task, recipe, processes, flags.seed, flags.amp, flags.compile, flags.grad_checkpoint,
                     flags.sync_bn, bool(flags.freeze))
    first_step = restore(run, settings, data, len(batches)) if settings.state else 0
    seen, changes = fingerprint(data), settings.changes
    if settings.state and not flags.eval_only:
        changes += checkpoint.check_data(settings.state, settings.resumed, seen, first_step)
    if len(set(processes.gather((run.step, len(data.train), len(data.val))))) > 1:
        raise ValueError("the processes read different checkpoints or data; --output and --data-dir must be folders"
                         " that all machines share, or alike on all of them")
    if not settings.state:
        calibrate(run, *next(batches.epoch(0)))
    log = RunLog(settings, data, run, len(batches))
    return Job(settings, data, images, batches, val_batches, run, first_step, seen, changes, new_parts, log)


def start_from(model: nn.Module, settings: Settings, data: Data) -> list[str]:
    """Load the weights of --init-from, and return the parts that stay random: for other classes the last layer, also
    where they are as many."""
    new = init_from(model, settings.flags.init_from)
    if not new and settings.source.get("classes", data.classes) != data.classes:
        model.reset_classifier(len(data.classes))
        new = ["the last layer"]
    return new


@torch.no_grad()
def calibrate(run: Run, images: Tensor, targets: Tensor) -> None:
    """Start the running statistics of batch norm at those of the first batch, which makes them the same in all
    processes. Norms of loaded weights keep theirs.

    From means 0 and variances 1, the logits of an untrained network in evaluation are in the millions, and they stay
    wrong for the first tens of steps. No step changes by this: in training, batch norm reads its own batch.
    """
    norms = [part for part in run.model.train().modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # take the batch's statistics as they are
        norm.train(not norm.running_mean.any())
    run.task.begin_epoch(run.model, 0)
    with run.part(0, len(images)), run.autocast():
        run.task.outputs(run.model.forward, images, targets)  # not the compiled __call__
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        if norm.training:
            norm.num_batches_tracked.zero_()  # it counts steps
    run.processes.share_buffers(run.model)
    run.evaluated.load_state_dict(run.model.state_dict())


def in_their_folder(names: Sequence[str]) -> list[str]:
    """Return the names of images without the folder that all lie in, which may be another one when a run goes on."""
    names = [os.path.abspath(name) if os.sep in name else name for name in names]
    root = os.path.commonpath([min(names), max(names)]) if names else ""
    return [name.removeprefix(root) for name in names]


def fingerprint(data: Data) -> dict[str, list]:
    """Return the number of images of each split, and a hash of their names, wherever their folder lies, and labels."""
    splits = {}
    for split, source in (("training", data.train), ("validation", data.val)):
        names, targets = [image_name(source, index) for index in range(len(source))], targets_of(source)
        content = "\n".join(in_their_folder(names)).encode(errors="surrogateescape")
        content += b"" if targets is None else targets.numpy().tobytes()
        splits[split] = [len(names), hashlib.blake2b(content, digest_size=16).hexdigest()]
    return splits


def restore(run: Run, settings: Settings, data: Data, steps: int) -> int:
    """Go on from a checkpoint, and return the first step of its open epoch; with --eval-only, take its weights. Raises
    CheckpointError for what does not fit."""
    state, path = settings.state, settings.resumed
    free = [setting.partition("=")[0] for setting in settings.flags.set] if settings.flags.eval_only else []
    config = as_now(settings.model, asdict(run.model.config))
    settings.changes.extend(checkpoint.check_same(state, path, settings.model, config, data.classes, free))
    try:
        if settings.flags.eval_only:
            take_weights(run.evaluated, state["model"], free)
            return 0
        run.evaluated.load_state_dict(state["model"])
        if in_their_folder(state.get("anchors", [])) != in_their_folder(run.task.anchor_names):
            raise ValueError("its anchors are other images; go on with the same data and seed")
        if "training" not in state:
            raise ValueError("holds the weights to use only; go on from last.pt, or give --eval-only")
        checkpoint.check_types(state, path, checkpoint.POSITION | {"training": dict})
        checkpoint.check_types(state["best"], path, {"epoch": int, run.task.key: (int, float)})
        checkpoint.check_types(state["training"], path, checkpoint.TRAINING)
        checkpoint.check_optimiser(run.optimiser, state["training"]["optimiser"], path)
        run.restore(state["training"])
        run.epoch, run.best = state["epoch"], state["best"]
        run.step, first_step = checkpoint.position(state, path, steps)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many kinds for states that do not fit
        raise CheckpointError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from None
    return first_step


def take_weights(model: nn.Module, weights: dict[str, Tensor], changed: Sequence[str]) -> None:
    """Load weights for an evaluation, maybe with another graph: weights of the checkpoint's constructors, which the
    model's do not have, are left out, and a random graph is then the one that this model drew. Raises ValueError for
    weights that do not fit. changed: fields of --set."""
    wanted = model.state_dict()
    drawn = {key: value for key, value in wanted.items() if key.endswith("_extra_state")}
    weights = drawn | {key: value for key, value in weights.items() if key in wanted or ".constructor." not in key}
    if problems := misfit(wanted, weights):
        advice = f"; choose a value of {' and '.join(changed)} that changes no weight" if changed else ""
        raise ValueError(f"its weights do not fit this model; {problems}{advice}")
    model.load_state_dict(weights)


def take_folder(settings: Settings, resources: contextlib.ExitStack) -> None:
    """Lock the output folder. Rename a damaged last.pt: the next save would overwrite the good previous.pt with it.
    Raises ValueError if another run has written there since this one read it: nothing of that may be lost."""
    try:
        resources.enter_context(checkpoint.lock(settings.folder))
    except OSError as error:
        raise ValueError(f"{settings.folder}: cannot be written ({error.strerror}); name another folder with --output"
                         ) from None
    if checkpoint.on_disk(settings.folder) != settings.found:
        raise ValueError(f"{settings.folder}: another run wrote there while this one began; start it again")
    for left in settings.folder.glob("*.????????.tmp"):  # of a run that was killed while it wrote
        left.unlink(missing_ok=True)
    if settings.damaged and (settings.folder / "last.pt").exists():
        (settings.folder / "last.pt").replace(settings.folder / "damaged.pt")


def describe(job: Job) -> dict[str, str]:
    """Return the first lines, heading to text: what a person wants to know before waiting."""
    settings, data, run = job.settings, job.data, job.run
    flags, recipe, processes, config = settings.flags, run.recipe, run.processes, run.model.config
    name, family = settings.model, settings.model.rpartition("_")[0]
    if flags.model == family:
        name += f" (family {family}, size of the recipe {settings.recipe_name})"
    spare = copy.deepcopy(run.evaluated)  # measuring moves running statistics
    task = copy.copy(run.task)  # it remembers the model
    task.begin_evaluation(spare)
    task.begin_epoch(spare, 0)
    share = recipe.batch_size // (processes.world * recipe.accumulation)
    noise = torch.rand(2, 3, *config.img_size, device=processes.device)
    parameters, macs, kept = count_parameters(spare), count_macs(spare, noise), 0.0
    with run.autocast():
        outputs = functools.partial(task.outputs, spare.train(), targets=task.blank(noise))
        if not flags.eval_only:
            kept = saved_bytes(spare, noise, outputs)
        if not flags.eval_only and task.anchor_names:  # they go through the backbone once a step, however many images there are
            more = saved_bytes(spare, noise.repeat(2, 1, 1, 1), outputs)
            kept = max(0.0, 2 * more - kept)
    copies = 4 if run.average is None else 5  # weights, gradients, AdamW's two moments, moving average
    memory = 4 * copies * parameters + kept * share
    where = {split: "in memory" if isinstance(part, StoredImages) else "read as needed"
             for split, part in job.images.items()}
    counts = [f"{plural(len(part), f'{split} image')} ({where[split]})" for split, part in job.images.items()]
    threads = f", {plural(torch.get_num_threads(), 'thread')}" if processes.device.type == "cpu" else ""
    grid = f" in patches of {config.patch}: {config.grid[0]}×{config.grid[1]} nodes" if hasattr(config, "patch") else ""
    output = f"{settings.folder}" if settings.writes else "none: a dry run"
    if settings.state and settings.writes:
        steps = f" and {job.first_step} steps" if job.first_step else ""
        output += f", going on after epoch {run.epoch}{steps} of {settings.resumed}"
    if flags.eval_only:
        matrix = "none" if data.multi_label or flags.task == "detection" else f"confusion matrix in {settings.folder}"
        output = f"{matrix}: evaluates {settings.resumed}"
    start = {"changed": "; ".join(job.changes)} if job.changes else {}
    if job.new_parts is not None:
        start["start"] = (f"from {flags.init_from}: {settings.source.get('said', 'weights')}; new:"
                          f" {', '.join(job.new_parts) or 'nothing'}{'; all else is frozen' if flags.freeze else ''}")
    steps = "" if flags.eval_only else f" of {plural(len(job.batches), 'step')}"
    lines = {
        "model": f"{name}: {parameters:,} parameters, {macs / 1e9:.3f} GMACs an image",
        "grid": f"{config.img_size[0]}×{config.img_size[1]} pixels{grid}",
        "data": "; ".join([f"{data.name}: {plural(len(data.classes), 'class')}, {', '.join(counts)}", *data.remarks]),
        "recipe": f"{settings.recipe_name}: {plural(recipe.epochs, 'epoch')}{steps}, "
                  + ", ".join(f"{field} {_short(value)}" for field, value in used(recipe, config, data).items()),
        "batch": f"{plural(recipe.batch_size, 'image')} a step (global) = {share} a process ×"
                 f" {plural(processes.world, 'process')} × {plural(recipe.accumulation, 'part')} (accumulation),"
                 f" learning rate {recipe.lr:g}",
        "memory": f"about {memory / 2**20:,.0f} MiB a process: {4 * copies * parameters / 2**20:,.0f} for weights,"
                  f" gradients and averages, {kept / 2**20:.1f} for each image of the backward pass",
        "device": f"{processes.device}{threads}, {AMP_NAMES[run.amp]}, torch {torch.__version__}",
        "output": output,
    } | start
    return {name: text for name, text in lines.items() if not (flags.eval_only and name in ("batch", "memory"))}


def used(recipe: Recipe, config: object, data: Data) -> dict[str, object]:
    """Return the fields of the recipe that this model's training uses: those that are switched on, and said nowhere
    else in the first lines. Fields of data and augmentation come last."""
    elsewhere = {"epochs", "batch_size", "accumulation", "lr", "size"}
    off = {"oversample": 0, "color_jitter": 0, "rand_augment": 0, "mixup": 0, "cutmix": 0, "erasing": 0, "clip_grad": 0,
           "scale_jitter": 0, "weight_decay": 0, "label_smoothing": 0, "ema_decay": 0, "drop_path": 0, "contrastive": 0,
           "asymmetric": 0, "cooldown_epochs": 0, "repeats": 1, "layer_decay": 1, "teacher": "none"}
    other = {"min_lr", "cooldown_epochs"} if recipe.schedule == "step" else {"decay_epochs"}
    other |= set() if recipe.warmup_epochs else {"warmup_epochs", "warmup_lr"}
    other |= set() if data.multi_label else {"asymmetric"}
    other |= set() if getattr(config, "aggregation", "none") != "none" else {"contrastive"}
    other |= {"crop", "eval_crop", "label_smoothing"} if hasattr(config, "body") else set()
    own = dict(getattr(config, "body", vars(config)))  # of a detector, its backbone
    values = asdict(recipe) | {"drop_path": own.get("drop_path", 0)}
    shown = [name for name, value in values.items() if name not in elsewhere | other and value != off.get(name)]
    return {name: values[name] for name in sorted(shown, key=DataRecipe.__dataclass_fields__.__contains__)}


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{part:g}" for part in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
