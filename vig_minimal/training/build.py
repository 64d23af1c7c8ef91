"""From a config to a run: data, model, task and optimiser; for a resumed run, the checkpoint's state."""

import hashlib
import os

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ..data.data_recipe import refuse_first
from ..data.batches import TrainingBatches, ValidationBatches, images_of_epoch
from ..data.datasets import Data, fetch, image_name, open_data, oversampled, targets_of
from ..data.loading import PreparedImages, store_if_it_fits
from ..data.dense.mask_batches import MaskImages, MaskTraining, MaskValidation
from ..data.dense.object_batches import ObjectImages, ObjectTraining, ObjectValidation
from ..data.seeds import mixed_seed
from ..models.checks import plural
from ..models.released import init_from
from ..models.resnet import load_backbone
from .teacher import create_teacher
from .config import RunConfig
from .distributed import Processes
from .engine import Run, create_run
from .recipes import Recipe
from .resolve import Start, enough_epochs
from .resume import basenames, restore
from .tasks import Task, choose_task

# of a task: images, batches of training and of validation
BATCHES = {"labels": (PreparedImages, TrainingBatches, ValidationBatches),
           "detection": (ObjectImages, ObjectTraining, ObjectValidation),
           "segmentation": (MaskImages, MaskTraining, MaskValidation)}


def build(config: RunConfig, start: Start | None, processes: Processes) -> Run:
    """Make a run. Raises ValueError, in all processes, for data and files that cannot work."""
    resumes, notes = start is not None and start.resumes, {}
    torch.autograd.set_detect_anomaly(config.detect_anomaly)
    processes.from_first(fetch, config.data, config.data_dir)
    data, batches, val_batches = processes.together(open_batches, config, processes)
    seen, step = fingerprint(data), start.state.get("step") if resumes else 0
    if len(set(map(str, processes.gather((seen, step))))) > 1:
        raise ValueError("the processes read different checkpoints or data; --output and --data-dir must be folders"
                         " that all machines share, or alike on all of them")
    if batches is not None and not resumes:
        config, notes["epochs"] = enough_epochs(config, len(batches))
    model, task, notes["start"] = processes.together(create_networks, config, start, processes, data)
    if not resumes:
        images, _ = processes.together(next, batches.epoch(0))  # a broken image is found before the run begins
        if start is None and config.task != "detection":
            calibrate(model, task, images, processes)
    run = create_run(model, task, config, processes, start=start, data=data, seen=seen, batches=batches,
                     val_batches=val_batches, notes={name: note for name, note in notes.items() if note})
    if resumes:
        processes.together(restore, run)
    return run


def open_batches(config: RunConfig, processes: Processes) -> tuple[Data, TrainingBatches | None, ValidationBatches]:
    """Open the data, and make the batches of training and validation; for an evaluation, of validation alone."""
    recipe, size, (kind, training, validation) = config.recipe, config.img_size, BATCHES[config.task]
    data = open_data(config.data, config.data_dir, size, config.limit, config.seed, config.task,
                     only_val=config.eval_only and config.eval_split == "val")
    if not config.eval_only and recipe.oversample > 0:
        data = oversampled(data, recipe.oversample)
    check_batch(recipe, None if config.eval_only else len(data.train), processes)
    cores = max(1, (os.cpu_count() or 1) // processes.local_world)
    workers = min(8, cores) if config.workers is None else config.workers
    place = (processes.rank, processes.world), processes.device, workers
    memory = workers, processes.local_world, processes.device
    evaluated = kind(data.train if config.eval_split == "train" else data.val, size, recipe.eval_crop)
    val_batches = validation(store_if_it_fits(evaluated, *memory), recipe, *place)
    if config.eval_only:
        return data, None, val_batches
    augmented = kind(data.train, size, recipe.eval_crop, recipe, config.seed, config.bad_images == "skip")
    batches = training(store_if_it_fits(augmented, *memory), len(data.classes), recipe, config.seed, *place)
    return data, batches, val_batches


def create_networks(config: RunConfig, start: Start | None, processes: Processes, data: Data
                    ) -> tuple[nn.Module, Task, str]:
    """Return the model with its first weights, its task, and a sentence on the weights of --init-from, if any."""
    recipe, teacher, loaded = config.recipe, None, ""
    torch.manual_seed(mixed_seed("model", config.seed))
    model = config.build_model(num_classes=len(data.classes))
    if start is not None and not start.resumes:
        new_parts = init_from(model, config.init_from)
        if not new_parts and start.state.get("classes", data.classes) != data.classes:
            model.reset_classifier(len(data.classes))  # of other classes, though as many
            new_parts = ["the last layer"]
        loaded = f"from {config.init_from}: {start.found}; new: {', '.join(new_parts) or 'nothing'}"
        loaded += "; all else is frozen" if config.freeze else ""
    if config.backbone_weights and not (start and start.resumes):
        load_backbone(model.backbone, model.config.backbone, config.backbone_weights)
    model = model.to(processes.device, memory_format=torch.channels_last)  # as images and gradients are
    if recipe.teacher != "none" and not config.eval_only:
        teacher = create_teacher(recipe.teacher, config.teacher_weights, len(data.classes), recipe.mean, recipe.std,
                                 processes.device)
    return model, choose_task(config, model.config, data, teacher, processes), loaded


def check_batch(recipe: Recipe, images: int | None, processes: Processes) -> None:
    """Raise ValueError if the batch is larger than the data, or cannot be split over processes and parts. images: of
    training; none in an evaluation."""
    size = recipe.batch_size
    drawn = size if images is None else images_of_epoch(images, recipe.repeats)
    share, rest = divmod(size, processes.world * recipe.accumulation)
    each = (f"the global batch; each of {plural(processes.world, 'process')} × {plural(recipe.accumulation, 'part')}"
            " (--accumulation) must get as many images")
    refuse_first([
        (size > drawn, f"--batch-size {size}: larger than an epoch of this data, {plural(drawn, 'training image')} with"
                       f" --repeats {recipe.repeats}"),
        (rest or share < 2, f"--batch-size {size}: {each}, at least 2 for batch norm"),
        (recipe.mixes and share % 2, f"--batch-size {size}: {each}, an even number, since mixup and CutMix pair them"),
    ])


def calibrate(model: nn.Module, task: Task, images: Tensor, processes: Processes) -> None:
    """Set batch norm's running statistics to those of the first batch, alike in all processes: with means 0 and
    variances 1 an untrained network's first evaluation has a loss near 1000. No step reads them: docs/differences.md.
    """
    task.begin_epoch(model, 0)
    update_bn([images], model)
    processes.share_buffers(model)


def fingerprint(data: Data) -> dict[str, list]:
    """Return the number of images of each split, and a hash of their names, wherever their folder lies, and labels."""
    splits = {}
    for split, source in (("training", data.train), ("validation", data.val)):
        names, targets = basenames(image_name(source, index) for index in range(len(source))), targets_of(source)
        content = "\n".join(names).encode(errors="surrogateescape")
        content += b"" if targets is None else targets.numpy().tobytes()
        splits[split] = [len(names), hashlib.blake2b(content, digest_size=16).hexdigest()]
    return splits
