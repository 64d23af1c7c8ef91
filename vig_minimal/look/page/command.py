"""`explore --html`, `--live` and `--run`: from flags to a page."""

import argparse
import os
from errno import EISDIR, ENOENT
from pathlib import Path

from tqdm import tqdm

from ...atomic_files import replacing
from ..predict import open_model
from .build import build
from .history import epochs_of

SCENES = 60  # drawn scenes in a live page


def add_flags(add) -> None:
    """Add the flags of pages to those of `explore`."""
    add("--html", metavar="FILE", help="write an HTML page instead of a picture: every patch and layer, any number of"
                                       " images, and of models (repeat --model or --checkpoint)")
    add("--live", action="store_true", help="with --html: the network itself runs in the page (ViG, SViG, LRGC)")
    add("--run", metavar="DIR", help="with --html: the graphs that train.py --every N kept, with a slider over epochs")


def check(args: argparse.Namespace) -> None:
    """Raise ValueError unless the flags of pages and of pictures go together."""
    if args.graph and (args.run or args.checkpoint):
        raise ValueError("--graph: a trained model has its own graph; leave --graph out, or give --model NAME without"
                         " --checkpoint")
    if not args.html:
        if args.live or args.run:
            raise ValueError(f"--{'live' if args.live else 'run'}: add --html FILE, the page to write")
        if not args.image:
            raise ValueError("required: image, a file or shapes:INDEX")
        if len(args.image) != 1 or max(len(args.model), len(args.checkpoint), len(args.graph)) > 1:
            raise ValueError("a picture shows one image and one model; give one of each, or --html FILE for a page")
        return
    for flag in ("node", "partitions", "hyperedge", "label", "layers"):
        if not (getattr(args, flag) is None or getattr(args, flag) is False):  # hyperedge 0 is asked for
            raise ValueError(f"--{flag} and --html: the page shows all of them; leave --{flag} out")
    if args.out or args.threshold is not None:
        raise ValueError(f"--{'out' if args.out else 'threshold'}: is for pictures; leave it out, or leave --html out")
    if args.run and (args.live or args.model or args.checkpoint or args.image):
        raise ValueError("--run: shows the images and models that the run kept; leave images, --model, --checkpoint and"
                         " --live out")
    if not args.run and not args.image:
        raise ValueError("--html: name one image or several, such as shapes:9 or photo.jpg")
    if not Path(args.html).resolve().parent.is_dir():
        raise ValueError(f"{args.html}: the page cannot be written ({os.strerror(ENOENT)})")
    if Path(args.html).is_dir():
        raise ValueError(f"{args.html}: the page cannot be written ({os.strerror(EISDIR)})")


def write(args: argparse.Namespace) -> None:
    """Make the page and write it. Raises ValueError and OSError."""
    if args.run:
        page = epochs_of(args.run)
    else:
        models = [(open_model(None, path), path) for path in args.checkpoint]
        if args.model or not models:
            models += [(open_model(name, None, graph), f"{graph} graph, random weights" if graph else "random weights")
                       for name in args.model or [None] for graph in args.graph or [None]]
        title = ", ".join(dict.fromkeys(model.name for model, _ in models)) + ": see the graph"
        with tqdm(total=len(models) * len(args.image), unit="graph", disable=None, leave=False) as bar:
            page = build(models, args.image, title, args.live, SCENES if args.live else 0, progress=bar.update)
    with replacing(args.html, "w") as file:
        file.write(page)
    print(f"wrote {args.html}, {len(page.encode()) / 2**20:.1f} MB: open it in a browser")
