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
from .resolve import enough_epochs
from .resume import Start, in_their_folder, restore
from .tasks import Task, choose_task

# of a task: images, batches of training and of validation; images of None may be kept in memory
BATCHES = {"labels": (None, TrainingBatches, ValidationBatches),
           "detection": (ObjectImages, ObjectTraining, ObjectValidation),
           "segmentation": (MaskImages, MaskTraining, MaskValidation)}


def build(config: RunConfig, start: Start | None, processes: Processes) -> Run:
    """Make a run. Raises ValueError, in all processes, for data and files that cannot work."""
    resumes = start is not None and start.resumes
    torch.autograd.set_detect_anomaly(config.detect_anomaly)
    processes.from_first(fetch, config.data, config.data_dir)
    data, batches, val_batches = processes.together(open_batches, config, start, processes)
    step = str(start.state.get("step")) if resumes else ""  # it may be of any type: nothing is checked yet
    if len(set(processes.gather((step, len(data.train), len(data.val))))) > 1:
        raise ValueError("the processes read different checkpoints or data; --output and --data-dir must be folders"
                         " that all machines share, or alike on all of them")
    config, remark = (config, "") if resumes or batches is None else enough_epochs(config, len(batches))
    model, teacher, new_parts = processes.together(create_networks, config, start, processes, data)
    task = processes.together(choose_task, model.config, data, config.recipe, teacher, processes, config.seed,
                              not config.eval_only)
    if not resumes:
        images, _ = processes.together(next, batches.epoch(0))  # a broken image is found before the run begins
    if start is None and config.task != "detection":
        calibrate(model, task, images, processes)
    run = create_run(model, task, config, processes)
    run.start, run.new_parts, run.remark, run.data, run.seen = start, new_parts, remark, data, fingerprint(data)
    run.batches, run.val_batches = batches, val_batches
    if resumes:
        run.changes = processes.together(restore, run)
    return run


def open_batches(config: RunConfig, start: Start | None, processes: Processes
                 ) -> tuple[Data, TrainingBatches | None, ValidationBatches]:
    """Open the data, and make the batches of training and validation; for an evaluation, of validation alone."""
    recipe, size, (kind, training, validation) = config.recipe, config.img_size, BATCHES[config.task]
    # an evaluation with another seed has the run's own split
    split_seed = start.state.get("flags", {}).get("seed", config.seed) if start and start.resumes else config.seed
    data = open_data(config.data, config.data_dir, size, config.limit, split_seed, config.task,
                     only_val=config.eval_only and config.eval_split == "val")
    cores = max(1, (os.cpu_count() or 1) // processes.local_world)
    workers = min(8, cores) if config.workers is None else config.workers
    place = (processes.rank, processes.world), processes.device, workers

    def images(source, **about):
        if kind is not None:
            return kind(source, size, recipe.eval_crop, **about)
        prepared = PreparedImages(source, size, recipe.eval_crop, **about)
        return store_if_it_fits(prepared, workers, processes.local_world, processes.device)

    batches = None
    if config.eval_only:
        check_batch(recipe, recipe.batch_size, processes)
    else:
        data = oversampled(data, recipe.oversample) if recipe.oversample > 0 else data
        check_batch(recipe, len(data.train), processes)
        skip = config.bad_images == "skip"
        batches = training(images(data.train, recipe=recipe, seed=config.seed, skip=skip), len(data.classes), recipe,
                           config.seed, *place)
    evaluated = data.train if config.eval_split == "train" else data.val
    return data, batches, validation(images(evaluated), recipe, *place)


def create_networks(config: RunConfig, start: Start | None, processes: Processes, data: Data):
    """Return the model with its first weights, the teacher or None, and the parts that --init-from left random."""
    recipe, new_parts, teacher = config.recipe, None, None
    torch.manual_seed(mixed_seed("model", config.seed))
    model = config.build_model(num_classes=len(data.classes))
    if start is not None and not start.resumes:
        new_parts = init_from(model, config.init_from)
        if not new_parts and start.state.get("classes", data.classes) != data.classes:
            model.reset_classifier(len(data.classes))  # of other classes, though as many
            new_parts = ["the last layer"]
    if config.backbone_weights and not (start and start.resumes):
        load_backbone(model.backbone, model.config.backbone, config.backbone_weights)
    model = model.to(processes.device, memory_format=torch.channels_last)  # as images and gradients are
    if recipe.teacher != "none" and not config.eval_only:
        teacher = create_teacher(recipe.teacher, config.teacher_weights, len(data.classes), recipe.mean, recipe.std,
                                 processes.device)
    return model, teacher, new_parts


def check_batch(recipe: Recipe, images: int, processes: Processes) -> None:
    """Raise ValueError if the batch is larger than the data, or cannot be split over processes and parts."""
    size, drawn = recipe.batch_size, images_of_epoch(images, recipe.repeats)
    share, rest = divmod(size, processes.world * recipe.accumulation)
    what = f"--batch-size {size}: the global batch, of which each of {plural(processes.world, 'process')}"
    what += f" and {recipe.accumulation} parts (--accumulation)" if recipe.accumulation > 1 else ""
    refuse_first([
        (size > images, f"--batch-size {size}: larger than the data set of {plural(images, 'training image')}"),
        (size > drawn, f"--batch-size {size}: with --repeats {recipe.repeats} an epoch of this data has {drawn} images,"
                       " a multiple of 256; choose a smaller batch, or --repeats 1"),
        (rest or share < 2, f"{what} must get the same share, of at least 2 images for batch norm"),
        (recipe.mixes and share % 2, f"{what} gets {share} images; mixup and CutMix pair them: choose an even number"),
    ])


def calibrate(model: nn.Module, task: Task, images: Tensor, processes: Processes) -> None:
    """Set batch norm's running statistics to those of the first batch, alike in all processes: with means 0 and
    variances 1 an untrained network's first evaluation has a loss near 1000. No step reads them: docs/differences.md.
    """
    task.begin_epoch(model, 0)
    update_bn([images], model)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.num_batches_tracked.zero_()  # it counts steps
    processes.share_buffers(model)


def fingerprint(data: Data) -> dict[str, list]:
    """Return the number of images of each split, and a hash of their names, wherever their folder lies, and labels."""
    splits = {}
    for split, source in (("training", data.train), ("validation", data.val)):
        names, targets = [image_name(source, index) for index in range(len(source))], targets_of(source)
        content = "\n".join(in_their_folder(names)).encode(errors="surrogateescape")
        content += b"" if targets is None else targets.numpy().tobytes()
        splits[split] = [len(names), hashlib.blake2b(content, digest_size=16).hexdigest()]
    return splits
