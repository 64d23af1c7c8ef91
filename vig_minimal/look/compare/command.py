"""Train variants of one model with the same recipe, data and seeds, and compare them: score, cost, graphs.

By default a variant is a graph constructor in vig_nano. --convs compares graph convolutions, --set any field of the
config, and several of these all combinations: --model gkgnet_nano --set groups=1,2,4 --set k=4,9.

A run is a cell: one variant, one seed. The command can be stopped and started again at any time: finished cells are
never run again, others resume. Several processes may work on one folder, each on cells of its own. After each cell it
writes compare.md (a table with its command and the meaning of every column), compare.csv (all measures of every cell)
and compare.png. Times that were measured while other work took the cores are left out where a seed has better ones, and
marked elsewhere. A run that fails is named at the end, the others continue, and the exit code is 1.
"""

import argparse
import contextlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from ...atomic_files import replacing
from ...models.registry import list_constructors
from ...training.checkpoint import lock
from ...training.config import RunConfig
from ...training.resolve import enough_epochs
from ...streams import duration
from ..benchmark.floor import best_times, forward_backward, forward_only
from ..command import Parser, save_picture
from .cells import Cell, Study, Variant, data_of, train, variants_of
from .measures import measure
from .table import as_csv, markdown, picture

# flags of train.py that have their own name here
HANDED_ON = ("data", "data-dir", "img-size", "epochs", "batch-size", "recipe", "limit", "workers", "device")


def settings_of(study: Study, variants: Sequence[Variant]) -> dict:
    """Return the config of each variant. Raises ValueError for what cannot work, and for a model without patches."""
    settings = {variant: study.settle(variant) for variant in variants}
    if next(iter(settings.values())).task == "detection":
        raise ValueError("compare trains classifiers; leave --task detection out, and choose data without boxes")
    if "patch" not in next(iter(settings.values())).fields:
        raise ValueError(f"--model {study.model}: it has no patches, so neither graphs nor a floor to compare with;"
                         " choose one of the families vig, svig, lrgc, cvig, pvig, gkgnet, adaptvig")
    return settings


def estimate(cells: Sequence[Cell], settings: dict) -> str:
    """Return how long the cells that are not finished would take on this machine, from one step of each variant."""
    data, lines, total = data_of(next(iter(settings.values()))), [], 0.0
    for variant, own in settings.items():
        own, _ = enough_epochs(own, len(data.train) // own.recipe.batch_size)
        left = sum(cell.variant == variant and not cell.result.exists() for cell in cells)
        model, batch = own.build_model(num_classes=len(data.classes)), own.recipe.batch_size
        model = model.to(memory_format=torch.channels_last)
        images = torch.randn(batch, 3, *own.img_size).to(memory_format=torch.channels_last)
        training, = best_times([model.train()], images, forward_backward, 1) if left else [0.0]
        evaluation, = best_times([model.eval()], images, forward_only, 1) if left else [0.0]
        epochs, steps = own.recipe.epochs, len(data.train) // batch
        seconds = (epochs * steps * batch * training + (epochs + 1) * len(data.val) * evaluation) / 1e3
        total += left * seconds
        lines.append(f"  {variant.name:24} {left} cells to do" + (f", about {duration(seconds)} each" if left else ""))
    return "\n".join([*lines, f"in all about {duration(total)} with one process, without what is done before and after"
                              " training"])


def about(model: str, cells: Sequence[Cell], config: RunConfig, argv: Sequence[str]) -> tuple[str, str]:
    """Return what was trained, in one line, and the command."""
    results = [result for cell in cells if (result := cell.read())]
    epochs = sorted({int(result["epochs"]) for result in results}) or [config.recipe.epochs]
    data = config.data + f" in {config.data_dir}" * bool(config.data_dir)
    data += f", at most {config.limit:,} training images" * bool(config.limit)
    seeds = " ".join(map(str, dict.fromkeys(cell.seed for cell in cells)))
    epochs = ", ".join(map(str, epochs))
    return (f"{model} on {data}; epochs {epochs}; seeds {seeds}; {len(results)} of {len(cells)} runs",
            shlex.join(["python", "-m", "vig_minimal", "compare", *argv]))


def write(study: Study, cells: Sequence[Cell], baseline: Variant, config: RunConfig) -> str:
    """Write the tables and, once a cell is finished, the picture. Return the text of compare.md."""
    notes = about(study.model, cells, config, study.argv)
    text = markdown(cells, baseline, *notes)
    for name, content in (("compare.md", text), ("compare.csv", as_csv(cells))):
        with replacing(study.folder / name, "w") as file:
            file.write(content)
    if any(cell.result.exists() for cell in cells):
        with contextlib.redirect_stdout(None):
            save_picture(picture(cells, baseline, study.model, notes), str(study.folder / "compare.png"))
    return text


def work(study: Study, cells: Sequence[Cell], settings: dict, baseline: Variant) -> tuple[list[str], list[str]]:
    """Train and measure every cell that no other process works on. Return a sentence for each of those that one does,
    and for each that failed."""
    elsewhere, failed, begun = [], [], time.perf_counter()
    data_of(next(iter(settings.values())))  # raises before anything is trained
    todo = [cell for cell in cells if not cell.result.exists()]
    bar = tqdm(todo, "runs", disable=None)

    def say(text: str) -> None:
        """Show text beside the bar, or print it where there is no terminal."""
        text = f"{cell.variant.name}, seed {cell.seed}: {text}"
        print(text, flush=True) if bar.disable else bar.set_postfix_str(text)

    for number, cell in enumerate(bar, 1):
        say(f"run {number} of {len(todo)}")
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock(cell.folder))
            except ValueError:
                elsewhere.append(f"{cell.variant.name}, seed {cell.seed}: another process works on it")
                continue
            if cell.result.exists():  # another process has just finished it
                continue
            try:
                train(study, cell, say)
                own = settings[cell.variant]
                result = measure(cell.folder / "run", own, data_of(own, cell.seed))
            except ValueError as error:
                failed.append(str(error))
                continue
            with replacing(cell.result, "w") as file:
                json.dump(result | {"threads": torch.get_num_threads()}, file, indent=2)
        write(study, cells, baseline, settings[baseline])
        left = (time.perf_counter() - begun) / number * (len(todo) - number)
        say(f"{result['score_name']} {result['score']:.2f}; about {duration(left)} left")
    return elsewhere, failed


def parse(argv: Sequence[str] | None) -> tuple[Parser, argparse.Namespace]:
    """Parse the command line."""
    parser = Parser("compare", __doc__, "--graphs knn random lrgc --seeds 0 1 2 --epochs 3 --output compare")
    add = parser.add_argument
    add("--model", default="vig_nano", help="the skeleton, a name of list_models() (default vig_nano)")
    add("--graphs", nargs="+", metavar="NAME", default=[], help=f"of {', '.join(list_constructors())} (default: all)")
    add("--convs", nargs="+", metavar="NAME", default=[], help="graph convolutions: mr, edge, sage, gin, attention")
    add("--set", action="append", metavar="FIELD=V1,V2,…", default=[], help="values of a field of the config")
    add("--seeds", nargs="+", type=int, metavar="N", default=[0], help="(default 0)")
    add("--output", metavar="DIR", default="compare", help="the folder for all cells and tables (default compare)")
    add("--dry-run", action="store_true", help="estimate the time, and train nothing")
    for name in HANDED_ON:
        add(f"--{name}", metavar="VALUE", help="as in train.py, for all runs")
    add("flags", nargs="*", metavar="-- FLAG", help="after --: any other flags of train.py, for all runs")
    args = parser.parse_args(argv)
    if not (args.graphs or args.convs or args.set):
        args.graphs = list_constructors()
    return parser, args


def main(argv: Sequence[str] | None = None) -> None:
    """Run `python -m vig_minimal compare`."""
    parser, args = parse(argv)
    handed = [(f"--{name}", getattr(args, name.replace("-", "_"))) for name in HANDED_ON]
    handed += [("--import", name) for name in args.imports]
    flags = [part for name, value in handed if value is not None for part in (name, value)]
    with parser.errors_in_one_sentence():
        called = tuple(sys.argv[1:] if argv is None else argv)
        study = Study(args.model, (*flags, *args.flags), Path(args.output), called)
        variants = variants_of(args.graphs, args.convs, args.set)
        cells = study.cells(variants, list(dict.fromkeys(args.seeds)))
        baseline = next((variant for variant in variants if "graph=knn" in variant.fields), variants[0])
        settings = settings_of(study, variants)
        if args.dry_run:
            print(estimate(cells, settings))
            return
        study.claim()
        elsewhere, failed = work(study, cells, settings, baseline)
        text, drawn = write(study, cells, baseline, settings[baseline]), any(cell.result.exists() for cell in cells)
        print("\n".join([*elsewhere, *failed, text,
                         f"wrote {study.folder}/compare.md, compare.csv" + ", compare.png" * drawn]))
        if failed:
            sys.exit(1)
