"""Train or evaluate a Vision GNN: the loop. `python -m vig_minimal train`, `torchrun train.py` and
`torchrun -m vig_minimal.train` are the same.

Read it from top to bottom: main → train → fit (epochs) → train_one_epoch (steps), which calls backward and update.
training/config.py parses the flags, training/resume.py and resolve.py decide everything about the run, and
training/build.py makes data, model and task. It writes metrics.csv, config.json, last.pt (to resume from) and best.pt
(to use) into the output folder. If the recipe has a moving average of the weights (ema_decay), that is evaluated, and
is `model` in these files.

Exit codes: 0 done; 1 training failed (what is saved stays); 2 bad input, nothing was begun; 130 and 143 ended by SIGINT
(Ctrl-C) and SIGTERM after saving. `--resume auto` resumes.
"""

import contextlib
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost process is one sentence, no stack of C++

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from .data.batches import TrainingBatches  # noqa: E402
from .data.decoding import DataError  # noqa: E402
from .data.loading import FileNote  # noqa: E402
from .graphs.plain import plain  # noqa: E402
from .learn.use import use_lessons  # noqa: E402
from .look import confusion  # noqa: E402
from .models.checks import plural  # noqa: E402
from .models.cost import peak_memory  # noqa: E402
from .streams import Progress, duration, prepare  # noqa: E402
from .training.build import build  # noqa: E402
from .training.distributed import start as join  # noqa: E402
from .training.endings import Diverged, Stopped, one_sentence  # noqa: E402
from .training.engine import Run, evaluate, learning_rate  # noqa: E402
from .training.config import parse  # noqa: E402
from .training.resume import begin  # noqa: E402
from .training.run_log import RunLog, describe, first_loss  # noqa: E402

DRY_STEPS, DRY_BATCHES = 2, 4  # of training and of evaluation in a dry run


def main(argv: list[str] | None = None) -> dict | None:
    """The command; see --help. Returns the last row of metrics.csv, or the scores of an evaluation."""
    prepare()
    try:
        with contextlib.ExitStack() as resources:  # leaves the other processes and the output folder at the end
            return train(argv, resources)
    except KeyboardInterrupt:
        print("\ninterrupted; --resume auto resumes from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def train(argv: list[str] | None, resources: contextlib.ExitStack) -> dict | None:
    """Set up, print a summary, then train, evaluate or dry-run. Bad input ends the process before that."""
    with one_sentence(ValueError, alike=ValueError):
        given = parse(argv)
    with one_sentence(ValueError, alike=()):  # maybe of this process alone
        processes = join(given.get("device", "auto"), 60 * given.get("timeout", 5.0))
    resources.push(processes.leave)
    with one_sentence(ValueError, alike=ValueError):
        if given.get("plain"):
            resources.enter_context(plain())
        if given.get("lessons"):
            resources.enter_context(use_lessons(given["lessons"]))
        config, start = begin(given, processes, resources)
        run = build(config, start, processes)
        log, first_lines = RunLog(run), describe(run)
    folder = config.output if config.writes else None
    with one_sentence((DataError, Diverged), alike=Diverged, folder=folder), processes.signals.listening():
        try:
            log.begin(first_lines)
            if config.eval_only:
                scores = evaluation(run, log)
                log.evaluation(scores, file_notes(run))
                confusion.report(run, log)
                return scores
            if config.dry_run:
                return log.say(dry_run(run, log))
            return fit(run, log)
        except Stopped:
            if config.writes and run.step > 0:
                processes.from_first(run.save, "last.pt", True)
                log.stopped()
            sys.exit(128 + max(processes.gather(processes.signals.received)))  # one of them received it


def fit(run: Run, log: RunLog) -> dict | None:
    """Train to the last epoch; after each, evaluate and save. Returns the last row of metrics.csv."""
    recipe, steps, size = run.recipe, len(run.batches), run.recipe.batch_size
    if run.epoch >= recipe.epochs:
        log.say(f"this run is finished: {log.best_score()}; a larger --epochs continues it")
        return run.history[-1]
    log.open()
    if not run.history:
        close_epoch(run, log, {}, evaluation(run, log))
    for epoch in range(run.epoch, recipe.epochs):
        begun = time.perf_counter()
        with log.progress(f"epoch {epoch + 1}/{recipe.epochs}", steps, steps * size, run.step) as progress:
            trained = train_one_epoch(run, run.batches, epoch, progress, lambda loss: after_step(run, log, loss))
        speed = (steps - run.first_step) * size / (time.perf_counter() - begun)
        scores = evaluation(run, log)  # a signal in here leaves the epoch open: the resumed run evaluates it
        run.epoch, run.first_step = epoch + 1, 0
        close_epoch(run, log, trained, scores, speed)
    log.end()
    return run.history[-1] if run.history else None


def evaluation(run: Run, log: RunLog) -> dict[str, float]:
    """Return the scores of the evaluated network."""
    with log.progress("evaluation", len(run.val_batches), len(run.val_batches.loader.dataset)) as progress:
        return evaluate(run, run.val_batches, progress)


def close_epoch(run: Run, log: RunLog, trained: dict[str, float], scores: dict[str, float], speed: float = 0) -> None:
    """Write the row of metrics.csv, then the checkpoints, and print the epoch; on the first process. speed: images/s of
    training."""
    run.losses, key, keep_every = {}, run.task.key, run.config.keep_every
    notes = file_notes(run)
    if not run.processes.is_first:
        return
    log.row(trained, scores)
    if run.epoch > 0 and (scores[key] > run.best[key] or run.best["epoch"] == 0):
        run.best = {"epoch": run.epoch, key: scores[key]}
        run.save("best.pt", with_training=False)
        log.best()
    if keep_every and run.epoch % keep_every == 0:
        run.save(f"epoch-{run.epoch:03d}.pt", with_training=False)
    run.save("last.pt", with_training=True)  # written last: from here the epoch is done
    log.epoch(speed, notes)


def train_one_epoch(run: Run, batches: TrainingBatches, epoch: int, progress: Progress,
                    after_step: Callable[[float], None] = lambda loss: None, steps: int | None = None) -> dict:
    """One pass over the training images from `run.first_step` on, or its first `steps`; epochs count from 0. Calls
    after_step(loss). Returns columns of metrics.csv: the mean `train_loss`, its terms if there are several, and `lr`.
    Raises Stopped after the step in which a signal came, and Diverged if loss or gradient is not finite."""
    recipe, first_step, last_step = run.recipe, run.first_step, steps or len(batches)
    parts = batches.epoch(epoch, first_step)
    run.task.begin_epoch(run.model, epoch)
    run.train()
    for step in range(first_step, last_step):
        lr = learning_rate(run.step, len(batches), recipe)
        losses, stop = backward(run, parts)
        update(run, losses, lr, where=f"epoch {epoch + 1}, step {step + 1}, learning rate {lr:.2e}")
        run.step += 1
        after_step(sum(losses.values()))
        progress.update(recipe.batch_size, sum(losses.values()))
        # several processes learn of a signal with the next step's losses, and all stop after the same step
        if stop or (run.processes.world == 1 and run.processes.signals.received):
            raise Stopped
    run.processes.share_buffers(run.evaluated)
    means = {f"train_{name}": total / last_step for name, total in run.losses.items()}
    terms = means if len(means) > 1 else {}
    return {"train_loss": sum(means.values()), **terms, "lr": learning_rate(run.step - 1, len(batches), recipe)}


def backward(run: Run, parts: Iterator[tuple[Tensor, Tensor]]) -> tuple[dict[str, float], bool]:
    """Forward and backward pass of the next batch, part by part. Returns its mean losses, and whether any process
    received a signal."""
    count, total = run.recipe.accumulation, 0.0
    for part in range(count):
        images, targets = next(parts)
        with run.part(part, len(images)):  # DDP averages gradients over processes in the last part
            with run.autocast():  # AMP
                outputs = run.task.outputs(run.parallel, images, targets)
                losses = run.task.losses(outputs, targets, images)  # named; their sum is trained on
            run.scaler.scale(sum(losses.values()) / count).backward()
        total = total + torch.stack([value.detach() for value in losses.values()]) / count
    stop = torch.tensor([float(run.processes.signals.received > 0)], device=total.device)
    *sums, stops = run.processes.sum(torch.cat([total, stop])).tolist()
    return {name: value / run.processes.world for name, value in zip(losses, sums, strict=True)}, stops > 0


def update(run: Run, losses: dict[str, float], lr: float, where: str) -> None:
    """Update the weights. Raises Diverged before that if loss or gradient is not finite."""
    for group in run.optimiser.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)
    loss = sum(losses.values())
    run.scaler.unscale_(run.optimiser)
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.clip_grad or math.inf)
    # fp16 finds its scale by trying: there, the scaler skips steps whose gradients overflow
    if not math.isfinite(loss) or not (math.isfinite(norm) or run.scaler.is_enabled()):
        what = f"loss {loss}" if not math.isfinite(loss) else f"norm of the gradient {float(norm)}"
        raise Diverged(f"not finite: {what}, at {where}; try a lower learning rate or --clip-grad, and --detect-anomaly"
                       " to find the operation", run.step)
    run.scaler.step(run.optimiser)
    run.scaler.update()
    if run.average is not None:
        run.average.update_parameters(run.model)
    run.losses = {name: run.losses.get(name, 0.0) + value for name, value in losses.items()}
    run.optimiser.zero_grad(set_to_none=True)


def after_step(run: Run, log: RunLog, loss: float) -> None:
    """Print loss and memory of the first step; write last.pt every --save-every steps."""
    if run.step == 1:
        memory = peak_memory(run.processes.device) / 2**20
        log.say(f"{first_loss(loss, *run.task.chance(len(run.data.classes)))}; {memory:,.0f} MiB of memory a process")
    every = run.config.save_every
    if run.config.writes and run.processes.is_first and every and run.step % every == 0:
        run.save("last.pt", with_training=True)


def file_notes(run: Run) -> dict[str, list[FileNote]]:
    """Return the remarks of all processes on image files so far, by split."""
    splits = {"training": run.batches.notes if run.batches else {}, "validation": run.val_batches.notes}
    return {split: sum(run.processes.gather(list(own.values())), []) for split, own in splits.items()}


def dry_run(run: Run, log: RunLog) -> str:
    """Run two steps and evaluate a few batches, and estimate the whole run from them."""
    recipe, steps, times = run.recipe, len(run.batches), [time.perf_counter()]
    run.first_step = 0

    def clock(loss: float) -> None:
        times.append(time.perf_counter())
        after_step(run, log, loss)

    with log.progress("dry run", DRY_STEPS, DRY_STEPS * recipe.batch_size) as progress:
        train_one_epoch(run, run.batches, 0, progress, clock, min(DRY_STEPS, steps))
    begun, some, step = time.perf_counter(), min(DRY_BATCHES, len(run.val_batches)), times[-1] - times[-2]
    evaluate(run, itertools.islice(run.val_batches, some))
    evaluation = (time.perf_counter() - begun) * len(run.val_batches) / max(1, some)
    whole = recipe.epochs * steps * step + (recipe.epochs + 1) * evaluation
    return (f"dry run: a step takes {step:.3g} s ({recipe.batch_size / step:.0f} images/s), an evaluation about"
            f" {duration(evaluation)}; {plural(recipe.epochs, 'epoch')} of {plural(steps, 'step')} would take about"
            f" {duration(whole)}, with {peak_memory(run.processes.device) / 2**20:,.0f} MiB of memory a process")


if __name__ == "__main__":
    main()
