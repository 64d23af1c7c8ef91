"""Train or evaluate a Vision GNN, on one process or, under torchrun, on many.

    torchrun train.py --model lrgc                                    # the embedded data set, nothing to download
    python train.py --model lrgc_nano --data cifar10 --data-dir ~/data
    torchrun --nproc_per_node 8 train.py --model lrgc --data-dir IMAGENET --amp   # a folder with train/ and val/
    python train.py --resume runs/lrgc_nano-shapes/best.pt --eval-only

Read it from top to bottom: flags, what they mean together, then `main`: check → build → say what will happen → loop.
It writes metrics.csv, config.json, last.pt (to go on from) and best.pt (to use) into the output folder. Where the
recipe has a moving average of the weights (ema_decay), that is what is evaluated and what both files hold as `model`.
"""

import argparse
import ast
import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from vig_minimal import MODELS, checkpoint, create_model, distributed, report
from vig_minimal.batches import TrainingBatches, ValidationBatches
from vig_minimal.data import DATA_SETS, SIZES, DataError, Pictures, fetch, mixed_seed, open_data, stored_if_it_fits
from vig_minimal.distributed import Processes
from vig_minimal.engine import SingleLabel, create_run, evaluate, mean_neighbours, train_one_epoch
from vig_minimal.recipes import RECIPES, Recipe, flags, get_recipe, kept_recipe, override

FAMILIES = {name.rsplit("_", 1)[0] for name in MODELS}


# ---- flags ---------------------------------------------------------------------------------------------------------


def fail(error: object, everywhere: bool = False) -> None:
    """Say in one sentence what is wrong and end with code 2. Of many processes the first says it, or every one."""
    if everywhere or distributed.read_rank() == 0:
        print(f"train.py: error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line. What a flag of the recipe was not given stays None, and the recipe's own value holds."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train or evaluate a Vision GNN.",
                                     epilog="example: torchrun train.py --model lrgc")
    parser.error = fail
    add = parser.add_argument
    add("--model", help=f"a family ({', '.join(sorted(FAMILIES))}) or a full name, as lrgc_ti (default: lrgc)")
    add("--data", help=f"one of {', '.join(DATA_SETS)}; by default imagefolder with --data-dir, else shapes")
    add("--data-dir", metavar="DIR", help="holds train/CLASS/*.jpg and val/CLASS/*.jpg; or keeps downloads (./data)")
    add("--img-size", type=int, nargs="+", metavar="N", help="side, or height and width (default: the data's)")
    add("--limit", type=int, metavar="N", help="use only N training images, for trials")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="field of the model's config: k=6, conv=gin")
    add("--recipe", help=f"one of {', '.join(RECIPES)} (default: demo on shapes and for nano models, else the paper's)")
    recipe = parser.add_argument_group("fields of the recipe")
    for name, (kind, text) in flags().items():
        how = {"type": kind, "metavar": kind.__name__.upper()}
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        recipe.add_argument("--" + name.replace("_", "-"), help=text.replace("%", "%%"), **how)
    recipe.add_argument("--no-ema", dest="ema_decay", action="store_const", const=0.0, help="same as --ema-decay 0")
    add("--workers", type=int, metavar="N", help="processes that decode images (default: one for each core, at most 8)")
    add("--seed", type=int, default=0, help="of everything random (default 0)")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default auto: cuda if there is one)")
    add("--amp", action="store_true", help="compute in bfloat16 where it is safe")
    add("--compile", action="store_true", help="torch.compile the model: a slow start, then faster")
    add("--output", metavar="DIR", help="where all is written (default runs/MODEL-DATA, numbered where a run is)")
    add("--resume", metavar="PATH", help="go on from this checkpoint; auto: from the output folder's last.pt, if any")
    add("--eval-only", action="store_true", help="evaluate the checkpoint of --resume, and write nothing")
    return parser.parse_args(argv)


# ---- what the flags mean together ----------------------------------------------------------------------------------


def choose_names(args: argparse.Namespace, data: str, state: dict | None) -> tuple[str, str]:
    """Full name of the model, and name of the recipe: size nano goes with the demo recipe, size ti with the paper's."""
    model = args.model or (state["name"] if state else "lrgc")
    paper = "lrgc" if model.startswith("lrgc") else "vig"
    recipe = args.recipe or ("demo" if data == "shapes" or model.endswith("_nano") else paper)
    return (f"{model}_{get_recipe(recipe).size}" if model in FAMILIES else model), recipe


def choose_fields(args: argparse.Namespace, data: str, model: str, recipe: Recipe, state: dict | None) -> dict:
    """The model's config fields from --set, --img-size and the recipe, or else from the checkpoint to go on from.

    The patch is the one that keeps the grid nearest to the preset's own, unless it is set.
    """
    if model not in MODELS:
        create_model(model)  # raises, naming the models there are
    preset = MODELS[model][1]
    fields = {"drop_path": recipe.drop_path}
    if state and state["name"] == model:
        fields = {name: value for name, value in state["config"].items()
                  if name == "k" or value != getattr(preset, name, None)}
        fields |= {} if args.drop_path is None else {"drop_path": args.drop_path}
    for setting in args.set:
        name, equals, value = setting.partition("=")
        if not equals or name in ("num_classes", "img_size"):
            raise ValueError(f"--set {setting}: it takes FIELD=VALUE; num_classes follows from the data, img_size from"
                             " --img-size")
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[name] = value
    if args.img_size or "img_size" not in fields:
        size = args.img_size or [SIZES.get(data, preset.img_size[0])]
        if len(size) > 2 or min(size) < 1:
            raise ValueError(f"--img-size {' '.join(map(str, size))}: one side, or height and width, in pixels")
        fields["img_size"] = (size[0], size[-1])
    if "patch" not in fields:
        height, width = fields["img_size"]
        possible = [patch for patch in (2, 4, 8, 16) if height % patch == 0 and width % patch == 0] or [preset.patch]
        fields["patch"] = min(possible, key=lambda patch: abs(math.log(height / patch / preset.grid[0])))
    return fields


def build_model(name: str, fields: dict) -> nn.Module:
    """The model; a value of a wrong kind is an error in the user's words too."""
    try:
        return create_model(name, **fields)
    except TypeError as error:
        raise ValueError(f"--set: a value of the wrong kind ({error})") from None


def check_batch(recipe: Recipe, images: int, processes: Processes) -> None:
    """Raises ValueError for a batch that this data or these processes cannot make."""
    if recipe.batch_size > images:
        raise ValueError(f"--batch-size {recipe.batch_size}: larger than the data set of {images} training images")
    share, rest = divmod(recipe.batch_size, processes.world)
    if rest or share < 2:
        raise ValueError(f"--batch-size {recipe.batch_size}: the global batch, of which each of {processes.world}"
                         " processes must get the same share, of at least 2 images for batch norm")


def output_folder(args: argparse.Namespace, name: str) -> Path:
    """Where this run writes. Never where another run is: that is refused or, with no --output, another number taken."""
    def holds_run(folder: Path) -> bool:
        return any((folder / file).exists() for file in ("last.pt", "best.pt", "metrics.csv"))

    resumed = None if args.resume in (None, "auto") else Path(args.resume).parent
    if args.output or resumed:
        folder = Path(args.output or resumed)
        if holds_run(folder) and args.resume != "auto" and folder != resumed:
            raise ValueError(f"{folder} holds a run already: go on with it by --resume auto, or choose another folder")
        return folder
    number, folder = 1, Path("runs", name)
    while holds_run(folder):
        number, latest, folder = number + 1, folder, Path("runs", f"{name}-{number + 1}")
    return latest if args.resume == "auto" and number > 1 else folder


# ---- the run -------------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """The command; see --help."""
    try:
        train(parse(argv))
    except KeyboardInterrupt:
        print("\ninterrupted; --resume auto goes on from the last complete epoch", file=sys.stderr)
        sys.exit(130)
    finally:
        distributed.stop()


def train(args: argparse.Namespace) -> None:
    """Check and build, say what will happen, train. What is wrong with flags, data or files is said before training."""
    try:
        processes = distributed.start(args.device)
        data_name = args.data or ("imagefolder" if args.data_dir else "shapes")
        if args.eval_only and args.resume in (None, "auto"):
            raise ValueError("--eval-only: name the checkpoint to evaluate with --resume PATH")
        if (args.workers or 0) < 0:
            raise ValueError(f"--workers {args.workers}: at least 0, which decodes in the training process itself")

        # names, recipe and folder; a checkpoint to go on from knows what is not given
        resumed = None if args.resume in (None, "auto") else Path(args.resume)
        state = checkpoint.load_run(resumed) if resumed else None
        model_name, recipe_name = choose_names(args, data_name, state)
        folder = Path(processes.first_alone(lambda: str(output_folder(args, f"{model_name}-{data_name}"))))
        if args.resume == "auto" and (folder / "last.pt").exists():
            resumed = folder / "last.pt"
            state = checkpoint.load_run(resumed)
        given = {name: getattr(args, name) for name in flags() if getattr(args, name) is not None}
        recipe = kept_recipe(state["recipe"]) if state and not args.recipe else get_recipe(recipe_name)
        recipe = override(recipe, given)
        fields = choose_fields(args, data_name, model_name, recipe, state)
        build_model(model_name, fields)  # what cannot work is found before any data is fetched

        # data: one process downloads, all open
        size, cores = fields["img_size"], os.cpu_count() or 1
        workers = min(8, max(1, cores // processes.local_world)) if args.workers is None else args.workers
        processes.first_alone(lambda: fetch(data_name, args.data_dir))
        data = open_data(data_name, args.data_dir, size, args.limit)
        check_batch(recipe, len(data.train), processes)
        pictures = {"training": Pictures(data.train, size, recipe.eval_crop, recipe.crop == "resized", args.seed),
                    "validation": Pictures(data.val, size, recipe.eval_crop)}
        splits = {name: stored_if_it_fits(part, workers, processes.local_world, processes.device)
                  for name, part in pictures.items()}
        batches = TrainingBatches(splits["training"], recipe, args.seed, processes, workers)
        val_batches = ValidationBatches(splits["validation"], recipe, processes, workers)

        # model, and where it goes on from
        torch.manual_seed(mixed_seed("model", args.seed))
        model = build_model(model_name, fields | {"num_classes": len(data.classes)}).to(processes.device)
        task = SingleLabel(recipe.label_smoothing)
        run = create_run(model, task, recipe, processes, args.seed, args.amp, args.compile)
        epoch, best = 0, {"epoch": 0, task.key: 0.0}
        if state:
            checkpoint.check_same(state, resumed, model_name, asdict(model.config), data.classes)
            if args.eval_only:
                run.evaluated.load_state_dict(state["model"])
            elif "training" not in state:
                raise ValueError(f"{resumed}: holds the weights to use only; go on from last.pt, or give --eval-only")
            else:
                run.restore(state["training"])
                run.step, epoch, best = state["step"], state["epoch"], state["best"]
        if not args.eval_only:
            processes.first_alone(lambda: folder.mkdir(parents=True, exist_ok=True))
    except (ValueError, OSError) as error:
        fail(error)

    family, _, _ = model_name.rpartition("_")
    by_family = f"{model_name} (family {family}, size of the recipe {recipe_name})"
    chosen = model_name if args.model == model_name else by_family
    heading = report.describe(run, chosen, recipe_name, data, splits, len(batches))
    heading["output"] = f"{folder}" + (f", going on after epoch {epoch} of {resumed}" if state else "")
    if args.eval_only:
        heading["output"] = f"none: evaluates {resumed}"
    if processes.is_first:
        print("\n".join(f"{name:8}{text}" for name, text in heading.items()), flush=True)
    if args.eval_only:
        scores = evaluate(run, val_batches)
        if processes.is_first:
            print("  ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        return

    def close_epoch(trained: dict[str, float]) -> None:
        """Evaluate; the first process writes the row of metrics.csv, then the checkpoints, and says how it went."""
        scores = evaluate(run, val_batches)
        if not processes.is_first:
            return
        row = report.metrics_row(epoch, run, trained, scores, mean_neighbours(run.evaluated, probe))
        report.append_row(folder / "metrics.csv", row)
        new_best = scores[task.key] > best[task.key] and epoch > 0
        if new_best:
            best.update({"epoch": epoch, task.key: scores[task.key]})
        state = {"name": model_name, "config": asdict(model.config), "classes": data.classes, "mean": recipe.mean,
                 "std": recipe.std, "recipe": asdict(recipe), "epoch": epoch, "step": run.step, "best": best,
                 "model": run.evaluated.state_dict()}
        if new_best:
            checkpoint.save(folder / "best.pt", state)
        checkpoint.save(folder / "last.pt", state | {"training": run.state()})
        print(report.line(row, recipe.epochs), flush=True)

    begun, first_epoch = time.perf_counter(), epoch
    try:
        if processes.is_first:
            probe = next(iter(val_batches))[0]  # the images whose graphs are counted
            report.write_config(folder / "config.json", run, model_name, recipe_name, data)
            report.keep_rows(folder / "metrics.csv", epoch)
        if not state:
            close_epoch({})
        while epoch < recipe.epochs:
            quiet = not processes.is_first or not sys.stderr.isatty()
            with tqdm(total=len(batches) * recipe.batch_size, desc=f"epoch {epoch + 1}", unit="images", leave=False,
                      disable=quiet) as bar:
                trained = train_one_epoch(run, batches, epoch, bar)
            epoch += 1
            close_epoch(trained)
    except (DataError, OSError) as error:
        fail(error, everywhere=True)
    except RuntimeError as error:
        if processes.world > 1 and "peer" in str(error):
            fail("lost the connection to another process, which says why it ended", everywhere=True)
        raise
    if processes.is_first:
        minutes, seconds = divmod(round(time.perf_counter() - begun), 60)
        print(f"best top-1 {best[task.key]:.2f} % at epoch {best['epoch']}; {epoch - first_epoch} epochs in"
              f" {minutes} min {seconds} s; everything is in {folder}")


if __name__ == "__main__":
    main()
