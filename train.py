"""Train or evaluate a Vision GNN, on one process or, under torchrun or srun, on many.

    torchrun train.py --model lrgc                                    # synthetic scenes, nothing to download
    torchrun --nproc_per_node 8 train.py --model lrgc --data-dir IMAGENET --amp   # a folder with train/ and val/
    python train.py --resume runs/lrgc_nano-shapes/best.pt --eval-only

Read it from top to bottom: main → train → fit (epochs) → train_one_epoch (steps), which calls backward and update. What
follows from the flags is decided in training/settings.py; data, model and task are made in training/setup.py.
It writes metrics.csv, config.json, last.pt (to go on from) and best.pt (to use) into the output folder. Where the
recipe has a moving average of the weights (ema_decay), that is what is evaluated, and `model` in these files.

Exit codes: 0 done; 1 training could not go on, or its last steps were not finite (what is saved stays); 2 bad input,
nothing was begun; 130 and 143 ended by SIGINT (Ctrl-C) and SIGTERM after saving. `--resume auto` goes on.
"""

import contextlib
import itertools
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

from vig_minimal.streams import prepare
from vig_minimal.training.flags import parse

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # another process that is gone is a sentence, no stack of C++
if __name__ == "__main__":  # torch takes seconds to import: --help and a wrong flag are answered before
    prepare()
    parse(None)
    hears_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if hears_ctrl_c:  # it ends the import of torch without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # of a full disk; the first lines will say so
        if os.environ.get("RANK", "0") == "0":
            print("loading torch …", flush=True)

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vig_minimal.data.batches import TrainingBatches
from vig_minimal.data.decoding import DataError
from vig_minimal.graphs.plain import plain
from vig_minimal.look import confusion
from vig_minimal.models.checks import plural
from vig_minimal.models.layers import RunningStatistics
from vig_minimal.training.checkpoint import last_good
from vig_minimal.training.distributed import start
from vig_minimal.training.endings import EXIT_FAILED, Diverged, Stopped, fail, one_sentence
from vig_minimal.training.engine import Run, evaluate, learning_rate
from vig_minimal.training.run_log import estimate
from vig_minimal.training.settings import settle
from vig_minimal.training.setup import Job, build, describe, take_folder

BAD_STEPS = 10  # in a row, with a loss or gradient that is not finite, end a run
DRY_STEPS, DRY_BATCHES = 2, 4  # of training and of evaluation in a dry run


def main(argv: list[str] | None = None) -> None:
    """The command; see --help."""
    try:
        with contextlib.ExitStack() as resources:  # leaves the other processes and the output folder at the end
            train(argv, resources)
    except KeyboardInterrupt:
        print("\ninterrupted; --resume auto goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def train(argv: list[str] | None, resources: contextlib.ExitStack) -> None:
    """Set up, say what will happen, then train, evaluate or try. What is wrong with the input is said before that."""
    flags = parse(argv)
    resources.enter_context(plain(flags.plain))
    try:
        processes = start(flags.device, 60 * flags.timeout)
    except ValueError as error:  # of this machine, maybe of this process alone
        fail(error)
    resources.push(processes.leave)
    with one_sentence(processes.watch, ValueError):
        settings = settle(flags, processes)
        job = build(settings, processes)
        if settings.writes:
            processes.first_alone(take_folder, settings, resources)
        first_lines = describe(job)
    run, log = job.run, job.log
    with one_sentence(processes.watch, DataError, settings.folder if settings.writes else None), processes.listening():
        try:
            log.begin(first_lines)
            if flags.eval_only:
                log.evaluation(job.evaluate(), job.file_notes())
                confusion.report(job)
            elif flags.dry_run:
                log.say(dry_run(job))
            else:
                fit(job)
        except Stopped:
            if settings.writes and run.step > 0:
                processes.first_alone(job.save, "last.pt", True)
                log.stopped()
            sys.exit(128 + max(processes.gather(processes.signals.received)))  # it came to one of them


def fit(job: Job) -> None:
    """Train to the last epoch; after each, evaluate and save."""
    run, log, recipe, images, seconds = job.run, job.log, job.run.recipe, 0, 0.0
    if run.epoch >= recipe.epochs:
        return log.say(f"this run is finished: {log.best_score()}; a larger --epochs trains on")
    log.open(job.val_batches)
    if not job.settings.state:
        close_epoch(job, {}, job.evaluate())
    for epoch in range(run.epoch, recipe.epochs):
        begun = time.perf_counter()
        with log.bar(f"epoch {epoch + 1}/{recipe.epochs}", len(job.batches) * recipe.batch_size) as bar:
            trained = train_one_epoch(run, job.batches, epoch, bar, job.first_step, after_step=job.after_step)
        images += (len(job.batches) - job.first_step) * recipe.batch_size
        seconds += time.perf_counter() - begun
        scores = job.evaluate()  # a signal in here leaves the epoch open: it is evaluated when the run goes on
        run.epoch, job.first_step = epoch + 1, 0
        close_epoch(job, trained, scores)
    log.end(images, seconds)
    if run.bad_in_a_row:
        fail(f"{plural(run.bad_in_a_row, 'step')} at the end not finite, and no checkpoint was written since;"
             f" {last_good(job.settings.folder)}", EXIT_FAILED, said=not run.processes.is_first)


def close_epoch(job: Job, trained: dict[str, float], scores: dict[str, float]) -> None:
    """Write the row of metrics.csv, then the checkpoints, and say how the epoch went; on the first process."""
    run, log, key = job.run, job.log, job.run.task.key
    run.losses, run.skipped = {}, 0
    notes = job.file_notes()
    if not run.processes.is_first:
        return
    row = log.row(trained, scores)
    if run.epoch > 0 and (scores[key] > run.best[key] or run.best["epoch"] == 0) and not run.bad_in_a_row:
        run.best = {"epoch": run.epoch, key: scores[key]}
        job.save("best.pt", with_training=False)
        log.best()
    if job.settings.flags.keep_every and run.epoch % job.settings.flags.keep_every == 0:
        job.save(f"epoch-{run.epoch:03d}.pt", with_training=False)
    job.save("last.pt", with_training=True)  # the last to be written: from here the epoch is done
    log.epoch(row, scores, notes)


def train_one_epoch(run: Run, batches: TrainingBatches, epoch: int, bar, first_step: int = 0,
                    last_step: int | None = None, after_step: Callable[[float], None] | None = None) -> dict:
    """One pass over the training images, or its steps from first_step to last_step; epochs count from 0.
    bar: a tqdm bar, which counts images. after_step: called with the loss of each step.
    Returns the mean `loss`, its terms as `loss_NAME`, `images_per_s`, the last `lr` and the number of steps `skipped`.
    Raises Stopped after the step in which a signal came, and Diverged after ten bad steps in a row.
    """
    recipe, statistics, start = run.recipe, RunningStatistics(run.model), time.perf_counter()
    last_step = len(batches) if last_step is None else last_step
    parts = batches.epoch(epoch, first_step)
    run.task.begin_epoch(run.model, epoch)
    run.train()
    for step in range(first_step, last_step):
        statistics.keep()
        lr = learning_rate(run.step, len(batches), recipe)
        losses, stop = backward(run, parts)
        update(run, statistics, losses, lr, where=f"epoch {epoch + 1}, step {step + 1}, learning rate {lr:.2e}")
        run.step += 1
        bar.update(recipe.batch_size)
        if after_step is not None:
            after_step(sum(losses.values()))
        # several processes learn of a signal with the next step's losses, and all stop after the same step
        if stop or (run.processes.world == 1 and run.processes.signals.received):
            raise Stopped
    run.processes.share_buffers(run.evaluated)
    done, taken = last_step - first_step, last_step - run.skipped
    means = {f"loss_{name}": total / taken for name, total in run.losses.items()}
    return {"loss": sum(means.values()) if taken else math.nan, **means, "skipped": run.skipped,
            "images_per_s": done * recipe.batch_size / (time.perf_counter() - start) if done else math.nan,
            "lr": learning_rate(run.step - 1, len(batches), recipe)}


def backward(run: Run, parts: Iterator[tuple[Tensor, Tensor]]) -> tuple[dict[str, float], bool]:
    """Forward and backward pass of the next batch, part by part.

    Returns the batch's mean losses, and whether a signal told any process to end.
    """
    count, total = run.recipe.accumulation, 0.0
    for part in range(count):
        images, targets = next(parts)
        with run.part(part, len(images)):  # DDP averages gradients over processes in the last part
            with run.autocast():  # AMP
                outputs = run.task.outputs(run.parallel, images, targets)
                losses = run.task.losses(outputs, targets, images)  # named; their sum is trained on
            run.processes.begin()
            run.scaler.scale(sum(losses.values()) / count).backward()
        total = total + torch.stack([value.detach() for value in losses.values()]) / count
    stop = torch.tensor([float(run.processes.signals.received > 0)], device=total.device)
    *sums, stops = run.processes.sum(torch.cat([total, stop])).tolist()
    return {name: value / run.processes.world for name, value in zip(losses, sums, strict=True)}, stops > 0


def update(run: Run, statistics: RunningStatistics, losses: dict[str, float], lr: float, where: str) -> None:
    """Move the weights; if loss or gradient is not finite, count the step as skipped and leave all else as it was."""
    for group in run.optimiser.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)
    loss = sum(losses.values())
    run.scaler.unscale_(run.optimiser)
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.clip_grad or math.inf)
    # fp16 finds its scale by trying: there, the scaler skips steps whose gradients overflow
    if math.isfinite(loss) and (math.isfinite(norm) or run.scaler.is_enabled()):
        run.scaler.step(run.optimiser)
        run.scaler.update()
        if run.average is not None:
            run.average.update_parameters(run.model)
        run.losses = {name: run.losses.get(name, 0.0) + value for name, value in losses.items()}
        run.bad_in_a_row = 0
    else:
        statistics.restore()
        run.scaler.update()
        run.skipped += 1
        run.bad_in_a_row += 1
        if run.bad_in_a_row >= BAD_STEPS:
            what = f"loss {loss}" if not math.isfinite(loss) else f"norm of the gradient {float(norm)}"
            raise Diverged(f"{BAD_STEPS} steps in a row were not finite ({what}), at {where}; try a lower learning rate"
                           " or --clip-grad, and --detect-anomaly to find the operation", run.step + 1 - BAD_STEPS)
    run.optimiser.zero_grad(set_to_none=True)


def dry_run(job: Job) -> str:
    """Two steps and an evaluation of a few batches, and what they say about the whole run."""
    run, times, steps = job.run, [time.perf_counter()], len(job.batches)

    def clock(loss: float) -> None:
        times.append(time.perf_counter())
        job.after_step(loss)

    train_one_epoch(run, job.batches, 0, tqdm(disable=True), last_step=min(DRY_STEPS, steps), after_step=clock)
    begun, some = time.perf_counter(), min(DRY_BATCHES, len(job.val_batches))
    evaluate(run, itertools.islice(job.val_batches, some))
    evaluation = (time.perf_counter() - begun) * len(job.val_batches) / max(1, some)
    return estimate(times[-1] - times[-2], steps, evaluation, run.recipe, run.processes.device)


if __name__ == "__main__":
    if hears_ctrl_c:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
