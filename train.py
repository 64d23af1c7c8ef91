"""Train or evaluate a Vision GNN, on one process or, under torchrun or srun, on many.

    torchrun train.py --model lrgc                                    # the embedded data set, nothing to download
    python train.py --model lrgc_nano --data cifar10 --data-dir ~/data
    torchrun --nproc_per_node 8 train.py --model lrgc --data-dir IMAGENET --amp   # a folder with train/ and val/
    python train.py --resume runs/lrgc_nano-shapes/best.pt --eval-only

Read it from top to bottom: check → build → say what will happen → loop. What the flags mean is in options.py.
It writes metrics.csv, config.json, last.pt (to go on from; previous.pt is the one before) and best.pt (to use) into the
output folder. Where the recipe has a moving average of the weights (ema_decay), that is what is evaluated and what
these files hold as `model`.

Exit codes: 0 all is done; 1 training could not go on (what is saved stays); 2 bad input, nothing was begun;
130 and 143 ended by SIGINT (Ctrl-C) and SIGTERM, after the step in hand was saved. --resume auto goes on.
"""

import argparse
import contextlib
import itertools
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from vig_minimal.data.batches import TrainingBatches, ValidationBatches
from vig_minimal.data.datasets import fetch, open_data, oversampled
from vig_minimal.data.decoding import DataError
from vig_minimal.data.loading import PreparedImages, store_if_it_fits
from vig_minimal.data.seeds import mixed_seed
from vig_minimal.models.released import init_from
from vig_minimal.training import checkpoint, distributed
from vig_minimal.training import run_log as report
from vig_minimal.training import settings as options
from vig_minimal.training.engine import Diverged, Run, create_run, evaluate, mean_neighbours, train_one_epoch
from vig_minimal.training.recipes import flags, get_recipe, kept_recipe, override
from vig_minimal.training.settings import fail
from vig_minimal.training.signals import EXIT_FAILED, Stopped, lock
from vig_minimal.training.tasks import choose_task
from vig_minimal.training.teacher import create_teacher

DRY_STEPS, DRY_BATCHES = 2, 4  # of training and of evaluation


def main(argv: list[str] | None = None) -> None:
    """The command; see --help."""
    try:
        with contextlib.ExitStack() as meanwhile:
            train(options.parse(argv), meanwhile)
    except KeyboardInterrupt:
        print("\ninterrupted; --resume auto goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    finally:
        distributed.stop()


def train(args: argparse.Namespace, meanwhile: contextlib.ExitStack) -> None:
    """Check and build, say what will happen, train. What is wrong with flags, data or files is said before training.

    meanwhile: holds what is given back at the end: the lock of the output folder, the handlers of signals.
    """
    try:
        options.check(args)
        processes = distributed.start(args.device)
        torch.autograd.set_detect_anomaly(args.detect_anomaly)

        # names, recipe and folder; a checkpoint to go on from knows what is not given
        resumed, state, damaged = None, None, ""
        if args.resume not in (None, "auto"):
            resumed = Path(args.resume)
            state = checkpoint.load_run(resumed)
        data_name = options.choose_data(args, state)
        model_name, recipe_name = options.choose_names(args, data_name, state)
        folder = Path(processes.first_alone(lambda: str(options.output_folder(args, f"{model_name}-{data_name}"))))
        if args.resume == "auto":
            state, resumed, damaged = checkpoint.load_latest(folder)
        recipe = kept_recipe(state["recipe"]) if state and not args.recipe else get_recipe(recipe_name)
        given = {name: getattr(args, name) for name in flags() if getattr(args, name) is not None}
        recipe = override(recipe, given, args.scale_lr)
        fields = options.choose_fields(args, data_name, model_name, recipe, state)
        options.check_task(data_name, model_name, recipe, fields, args, state)
        options.build_model(model_name, fields)  # what cannot work is found before any data is fetched

        # data: one process downloads, all open
        size, cores = fields["img_size"], os.cpu_count() or 1
        workers = min(8, max(1, cores // processes.local_world)) if args.workers is None else args.workers
        processes.first_alone(lambda: fetch(data_name, args.data_dir))
        data = open_data(data_name, args.data_dir, size, args.limit)
        data = oversampled(data, recipe.oversample) if recipe.oversample > 0 and not args.eval_only else data
        options.check_batch(recipe, len(data.train), processes)
        training = PreparedImages(data.train, size, recipe.eval_crop, recipe, args.seed, skip=args.bad_images == "skip")
        evaluated = data.train if args.eval_split == "train" else data.val
        splits = {name: store_if_it_fits(pictures, workers, processes.local_world, processes.device) for name, pictures
                  in (("training", training), ("validation", PreparedImages(evaluated, size, recipe.eval_crop)))}
        batches = TrainingBatches(splits["training"], len(data.classes), recipe, args.seed, processes.share,
                                  processes.device, workers)
        val_batches = ValidationBatches(splits["validation"], recipe, processes.share, processes.device, workers)

        # model, and where it goes on from
        torch.manual_seed(mixed_seed("model", args.seed))
        model = options.build_model(model_name, fields | {"num_classes": len(data.classes)})
        new_parts = init_from(model, args.init_from) if args.init_from and not state else []
        model = model.to(processes.device, memory_format=torch.channels_last)  # as images and gradients are
        teacher = None
        if recipe.teacher != "none" and not args.eval_only:
            about = recipe.teacher, args.teacher_weights, len(data.classes), recipe, processes.device
            processes.first_alone(lambda: create_teacher(*about) and None)  # one process downloads
            teacher = create_teacher(*about)
        task = choose_task(model.config, data, recipe, teacher, processes, args.seed, trains=not args.eval_only)
        if args.backbone_weights and not state:
            processes.first_alone(lambda: options.load_backbone(model, args.backbone_weights))  # one process downloads
            options.load_backbone(model, args.backbone_weights)
        run = create_run(model, task, recipe, processes, args.seed, args.amp, args.compile, args.grad_checkpoint,
                         args.sync_bn)
        epoch, first_step, best = 0, 0, {"epoch": 0, task.key: 0.0}
        if state:
            checkpoint.check_same(state, resumed, model_name, asdict(model.config), data.classes)
            if not args.eval_only and list(state.get("anchors", [])) != list(task.anchor_names):
                raise ValueError(f"{resumed}: its anchors are other images; go on with the same data and seed")
            if args.eval_only:
                run.evaluated.load_state_dict(state["model"])
            elif "training" not in state:
                raise ValueError(f"{resumed}: holds the weights to use only; go on from last.pt, or give --eval-only")
            else:
                run.restore(state["training"])
                epoch, best = state["epoch"], state["best"]
                run.step, first_step = checkpoint.position(state, resumed, len(batches))
        if len(set(processes.gather((run.step, len(data.train), len(data.val))))) > 1:
            raise ValueError("the processes read different checkpoints or data; --output and --data-dir must be folders"
                             " that all machines share, or alike on all of them")
        writes = not (args.eval_only or args.dry_run)
        if writes:
            processes.first_alone(lambda: meanwhile.enter_context(lock(folder)) and None)
            if damaged and processes.is_first and (folder / "last.pt").exists():
                (folder / "last.pt").replace(folder / "damaged.pt")  # or it would take the place of the good one
    except (ValueError, OSError) as error:
        fail(error)

    def say(*lines: str) -> None:
        if processes.is_first:
            for text in lines:
                tqdm.write(text)
            sys.stdout.flush()

    family, _, _ = model_name.rpartition("_")
    by_family = f"{model_name} (family {family}, size of the recipe {recipe_name})"
    heading = report.describe(run, model_name if args.model == model_name else by_family, recipe_name, data, splits,
                              len(batches))
    reached = f"epoch {epoch}" + (f" and {first_step} steps" if first_step else "")
    heading["output"] = f"{folder}" + (f", going on after {reached} of {resumed}" if state else "")
    if args.init_from and not state:
        heading["start"] = f"from {args.init_from}; new are: {', '.join(new_parts) or 'none'}"
    if not writes:
        heading["output"] = "none: " + (f"evaluates {resumed}" if args.eval_only else "a dry run")
    say(*map(report.paragraph, heading.keys(), heading.values()), *report.warnings(data))
    if damaged:
        say(f"warning: {damaged}; going on from {resumed}, the one before it")

    def progress(text: str, total: int) -> tqdm:
        return tqdm(total=total, desc=text, unit="images", leave=False,
                    disable=not processes.is_first or not sys.stderr.isatty())

    def scores_of(batches) -> dict[str, float]:
        with progress("evaluation", len(evaluated)) as bar:
            return evaluate(run, batches, bar)

    def save(name: str, with_training: bool) -> None:
        state = {"name": model_name, "config": asdict(model.config), "classes": data.classes, "mean": recipe.mean,
                 "std": recipe.std, "recipe": asdict(recipe), "epoch": epoch, "step": run.step, "steps": len(batches),
                 "best": best, "multi_label": data.multi_label, "anchors": task.anchor_names,
                 "model": run.evaluated.state_dict()}
        if with_training:
            checkpoint.save(folder / name, state | {"training": run.state()}, keep="previous.pt")
        else:
            checkpoint.save(folder / name, state)

    def after_step(loss: float) -> None:
        if run.step == 1:
            say(report.first_loss(loss, *task.chance(len(data.classes))))
        if writes and processes.is_first and args.save_every and run.step % args.save_every == 0:
            save("last.pt", with_training=True)

    def close_epoch(trained: dict[str, float], scores: dict[str, float]) -> None:
        """The first process writes the row of metrics.csv, then the checkpoints, and says how it went."""
        run.losses, run.skipped = {}, 0
        notes = {note.name: note for part in processes.gather(list(batches.notes.values())) for note in part}
        batches.notes.clear()
        if not processes.is_first:
            return
        row = report.metrics_row(epoch, run, trained, scores, mean_neighbours(run.evaluated, probe))
        report.append_row(folder / "metrics.csv", row)
        report.write_events(events, row)
        if epoch > 0 and scores[task.key] > best[task.key]:
            best.update({"epoch": epoch, task.key: scores[task.key]})
            save("best.pt", with_training=False)
            if data.multi_label:
                report.write_per_class(folder / "per_class_ap.csv", task.last.scores.per_class)
        save("last.pt", with_training=True)
        if args.keep_every and epoch % args.keep_every == 0:
            save(f"epoch-{epoch:03d}.pt", with_training=False)
        say(report.line(row, recipe.epochs, task.lines))
        if new := [note for name, note in notes.items() if name not in told]:
            told.update(note.name for note in new)
            say(*report.file_notes(new, folder / "bad_images.tsv"))
        if warning := report.suspicious(scores, epoch):
            say(warning)

    begun, trained_images, training_seconds, told = time.perf_counter(), 0, 0.0, set()
    meanwhile.enter_context(run.signals.listening(says=processes.is_first))
    try:
        if args.eval_only:
            say("  ".join(f"{name} {value:.3f}" for name, value in scores_of(val_batches).items()))
            if data.multi_label:
                say(*report.per_class(task.last.scores.per_class))
            return
        if args.dry_run:
            say(dry_run(run, batches, val_batches, after_step))
            return
        if processes.is_first:
            probe = next(iter(val_batches))[0]  # the images whose graphs are counted
            events = report.event_writer(folder, args.tensorboard)
            report.write_config(folder / "config.json", run, model_name, recipe_name, data)
            report.keep_rows(folder / "metrics.csv", epoch)
        if not state:
            close_epoch({}, scores_of(val_batches))
        while epoch < recipe.epochs:
            epoch_begun = time.perf_counter()
            with progress(f"epoch {epoch + 1}/{recipe.epochs}", len(batches) * recipe.batch_size) as bar:
                trained = train_one_epoch(run, batches, epoch, bar, first_step, after_step=after_step)
            trained_images += (len(batches) - first_step) * recipe.batch_size
            training_seconds += time.perf_counter() - epoch_begun
            scores = scores_of(val_batches)  # a signal now leaves the epoch open: it is evaluated when the run goes on
            epoch, first_step = epoch + 1, 0
            close_epoch(trained, scores)
    except Stopped:
        if writes and processes.is_first and run.step > 0:
            save("last.pt", with_training=True)
            say(f"ended by a signal after step {run.step - epoch * len(batches)} of epoch {epoch + 1};"
                f" --resume auto goes on from {folder / 'last.pt'}")
        sys.exit(128 + (run.signals.received or signal.SIGTERM))
    except DataError as error:
        fail(error, everywhere=True)
    except (Diverged, OSError) as error:
        fail(f"{error}; {report.last_good(folder)}", everywhere=True, code=EXIT_FAILED)
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            reason = f"a process that reads images died ({' '.join(str(error).split())}); {report.last_good(folder)}"
            fail(reason, everywhere=True, code=EXIT_FAILED)
        if processes.world > 1 and ("peer" in str(error) or "Connection" in str(error)):
            fail("lost the connection to another process, which says why it ended", everywhere=True, code=EXIT_FAILED)
        raise
    if processes.is_first:
        speed = f", {trained_images / training_seconds:.0f} images/s in training" if trained_images else ""
        if data.multi_label:
            say(*report.per_class(task.last.scores.per_class))
        print(f"best {task.key_name} {best[task.key]:.2f} % at epoch {best['epoch']} of {recipe.epochs}; this took"
              f" {report.duration(time.perf_counter() - begun)}{speed}; everything is in {folder}")


def dry_run(run: Run, batches: TrainingBatches, val_batches: ValidationBatches, after_step) -> str:
    """Two steps and an evaluation of a few batches, and what they say about the whole run."""
    times = [time.perf_counter()]

    def clock(loss: float) -> None:
        times.append(time.perf_counter())
        after_step(loss)

    train_one_epoch(run, batches, 0, tqdm(disable=True), last_step=min(DRY_STEPS, len(batches)), after_step=clock)
    begun, some = time.perf_counter(), min(DRY_BATCHES, len(val_batches))
    evaluate(run, itertools.islice(val_batches, some))
    evaluation = (time.perf_counter() - begun) * len(val_batches) / max(1, some)
    # the first step is slower than all others
    return report.estimate(times[-1] - times[-2], len(batches), evaluation, run.recipe, run.processes.device)


if __name__ == "__main__":
    main()
