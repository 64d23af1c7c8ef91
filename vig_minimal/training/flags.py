"""The flags of train.py, in groups, and their ranges. One that is not given is None where something else decides.

Nothing here imports torch, which takes seconds: --help answers at once.
"""

import argparse
from collections.abc import Callable
from difflib import get_close_matches
from typing import NoReturn

from ..data.data_recipe import Allowed, check_allowed
from .recipes import RECIPES, flags

# names for the help text, of models, data sets and autocast; a test compares them with those that exist
FAMILIES = ("cnn2gnn", "cnn2max", "cnn2mean", "cnn2transformer", "cvig", "gkgnet", "lrgc", "pvig", "resnet", "svig",
            "vig")
DATA_SETS = ("shapes", "imagefolder", "cifar10", "cifar100", "stl10", "svhn", "voc2007", "shapes-multi", "shapes-boxes",
             "coco")
AMP = ("bf16", "fp16")
EXAMPLES = """examples:
  torchrun train.py --model lrgc                      synthetic scenes, nothing to download
  python train.py --model vig_nano --data-dir PHOTOS --img-size 64 --epochs 20
  python train.py --resume runs/lrgc_nano-shapes/best.pt --eval-only
"""
COUNT = Allowed(1, 10**6)
RANGES = {"anchors_per_class": Allowed(1, 10**4), "proxies_per_class": Allowed(1, 10**4), "img_size": Allowed(1, 8192),
          "limit": Allowed(1, 10**7), "save_every": COUNT, "keep_every": COUNT, "every": COUNT,
          "workers": Allowed(0, 256), "seed": Allowed(-2**63, 2**63),
          "timeout": Allowed(0.01, 1440)}  # and those of the recipe's fields


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line. What is wrong with it ends the process with one sentence."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train or evaluate a Vision GNN.", epilog=EXAMPLES,
                                     usage="train.py [--model NAME] [--data NAME | --data-dir DIR] [FLAG ...]",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = _refuse
    for title, add_flags in (("model", _model), ("data", _data), ("recipe", _recipe), ("run", _run),
                             ("output", _output)):
        add_flags(parser.add_argument_group(title).add_argument)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        names = [name.lstrip("-") for name in parser._option_string_actions]
        wrong = unknown[0].partition("=")[0].lower().lstrip("-")
        close = [f"--{name}" for name in get_close_matches(wrong, names, 2, 0.55)]
        hint = f"; did you mean {' or '.join(close)}?" if close else "; --help lists all flags"
        _refuse(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    fields = flags()
    args.decay_epochs = None if args.decay_epochs is None else tuple(args.decay_epochs)
    try:
        for name, value in vars(args).items():
            if value == "":
                raise ValueError(f"{_flag(name)}: an empty name")
            allowed = RANGES.get(name) or (fields[name].metadata["allowed"] if name in fields else None)
            for part in value if isinstance(value, list) else () if value is None else (value,):
                check_allowed(f"{_flag(name)} ", part, allowed)
    except ValueError as error:
        _refuse(error)
    for wrong, sentence in [
        (args.eval_only and args.resume in (None, "auto"), "--eval-only: name the checkpoint with --resume PATH"),
        (args.plain and args.compile, "--plain and --compile: choose one of them"),
        (args.dry_run and args.eval_only, "--dry-run and --eval-only: choose one of them"),
        (args.eval_split == "train" and not args.eval_only, "--eval-split: goes with --eval-only alone"),
        (len(args.img_size or ()) > 2, f"--img-size {args.img_size}: one side, or height and width"),
    ]:
        if wrong:
            _refuse(sentence)
    return args


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _refuse(error: object) -> NoReturn:
    from .distributed import read_place  # these import torch
    from .endings import fail
    try:
        said = read_place()[0] > 0  # all processes have the same flags
    except ValueError:
        said = False
    fail(error, said=said)


def _model(add: Callable) -> None:
    add("--model", metavar="NAME", type=str.lower,
        help=f"a family ({', '.join(FAMILIES)}) or a full name, as lrgc_ti (default: lrgc; of a detector cvig)")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="field of the model's config: k=6, conv=gin")
    add("--img-size", type=int, nargs="+", metavar="N", help="side, or height and width (default: the data's)")
    add("--init-from", metavar="FILE",
        help="start from these weights, of train.py, of a trained model (lrgc_nano-cifar10) or of the papers' authors:"
             " they tell the model and its size, and the recipe is finetune; with --model gkgnet, Pyramid ViG's")
    add("--freeze", action="store_true", default=None,
        help="train the head alone; stem and blocks stay as loaded, batch norm's statistics too")
    add("--task", choices=("labels", "detection"),
        help="tell what an image shows, or detect objects: their classes, boxes and masks, by Mask R-CNN (default:"
             " labels; detection on shapes-boxes)")
    add("--anchors-per-class", type=int, metavar="N", help="of CNN2GNN: training images that stand for a class (1)")
    add("--proxies-per-class", type=int, metavar="N", help="of CNN2GNN: learnt vectors that stand for a class (1)")
    add("--backbone-weights", metavar="FILE", help="of CNN2GNN's ResNet: a state dict, or «torchvision» to download")


def _data(add: Callable) -> None:
    add("--data", metavar="NAME", help=f"one of {', '.join(DATA_SETS)}; by default imagefolder with --data-dir, else"
                                       " shapes, or shapes-multi for GKGNet and --multi-label")
    add("--data-dir", metavar="DIR", help="holds train/CLASS/*.jpg and val/CLASS/*.jpg; or keeps downloads (./data)")
    add("--multi-label", action="store_true",
        help="train yes or no for each class, on multi-label data; GKGNet always does")
    add("--limit", type=int, metavar="N", help="use only N training images, for trials")
    add("--bad-images", type=str.lower, choices=("skip", "error"),
        help="training images that cannot be read: replace and list them, at most 1 %% (skip), or end the run (error)")


def _recipe(add: Callable) -> None:
    add("--recipe", metavar="NAME", type=str.lower,
        help=f"one of {', '.join(RECIPES)} (default: demo on shapes and for nano models, else the paper's); each of"
             " the following replaces one of its values")
    for name, field in flags().items():
        how = {"type": field.type, "metavar": field.type.__name__.upper()}
        if field.type is bool:
            how = {"action": argparse.BooleanOptionalAction}
        if field.type is str:
            how = {"type": str.lower, "metavar": "NAME"}
        if field.type is tuple:
            how = {"type": float, "nargs": "*", "metavar": "EPOCH"}
        add(_flag(name), help=field.metadata["help"].replace("%", "%%"), **how)
    add("--no-ema", dest="ema_decay", action="store_const", const=0.0, help="same as --ema-decay 0")
    add("--scale-lr", action="store_true",
        help="learning rates in proportion to the batch: they are for the recipe's own batch size")
    add("--teacher-weights", metavar="FILE", help="the teacher's state dict (default: torchvision's)")


def _run(add: Callable) -> None:
    add("--resume", metavar="PATH", help="go on from this checkpoint; auto: from the output folder's last.pt, if any")
    add("--eval-only", action="store_true",
        help="evaluate the checkpoint of --resume; with one label an image, write confusion.csv and confusion.png")
    add("--eval-split", choices=("val", "train"), default="val", help="images that --eval-only evaluates (default val)")
    add("--dry-run", action="store_true", help="two steps and an evaluation: what the whole would take; write nothing")
    add("--seed", type=int, metavar="N", help="of everything random (default 0)")
    add("--device", type=str.lower, default="auto",
        help="auto, cpu, cuda or mps (default auto: a GPU if there is one)")
    add("--workers", type=int, metavar="N",
        help="processes that decode images (default: one for each core, at most 8)")
    add("--timeout", type=float, metavar="MINUTES", default=5.0,
        help="end when another process is gone or hangs for so long (default 5)")
    add("--amp", nargs="?", const="bf16", type=str.lower, choices=AMP,
        help="compute in bfloat16 (or fp16, with a scaled loss) where it is safe; graphs are made in float32 of"
             " features that are rounded already")
    add("--compile", action="store_true", default=None, help="torch.compile the model: a slow start, then faster")
    add("--plain", action="store_true", help="run every operation in its plain form, as the papers read; slow")
    add("--grad-checkpoint", action="store_true", default=None,
        help="compute blocks again for the backward pass: less memory, about a third more time")
    add("--sync-bn", action="store_true", default=None, help="batch norm over the batches of all GPUs together")
    add("--detect-anomaly", action="store_true", help="name the operation whose gradient is not a number; slow")


def _output(add: Callable) -> None:
    add("--output", metavar="DIR", help="where all is written (default runs/MODEL-DATA, numbered where a run is)")
    add("--save-every", type=int, metavar="N", help="write last.pt every N steps too, not only after each epoch")
    add("--keep-every", type=int, metavar="N", help="keep the weights of epochs 0, N, 2N, ... as epoch-NNN.pt")
    add("--every", type=int, metavar="N", help="keep the graphs of four validation images at epochs 0, N, 2N, ... for"
                                               " python -m vig_minimal explore --run DIR")
    add("--tensorboard", action="store_true", default=None,
        help="write event files too, if the package tensorboard is there")
