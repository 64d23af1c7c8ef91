"""Make a file of the package's trained models from a run's best.pt or last.pt.

It holds what best.pt does, in float16, and without paths of the machine that trained it: the weights, what `load` needs
and how they came about. vig_minimal/weights/README.md has a row for each, with its accuracy.
"""

from pathlib import Path

from ..atomic_files import save
from ..trained_files import FOLDER
from ..training.checkpoint import load_run
from .command import Parser

KEPT = ("name", "config", "classes", "mean", "std", "multi_label", "recipe", "epoch", "step", "steps", "best")
FLAGS = ("recipe", "seed")  # not amp: these weights are evaluated in float32
MOST_BYTES = 2_500_000  # of a file in the package


def pack(checkpoint: str | Path, path: str | Path) -> int:
    """Write the weights of `checkpoint` to `path`, and return the bytes of the file. Raises ValueError, the old file
    untouched, for weights beyond the range of float16 and for more than MOST_BYTES."""
    state = load_run(checkpoint)
    weights = {key: value.half() if value.is_floating_point() else value for key, value in state["model"].items()}
    if wrong := [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ValueError(f"{checkpoint}: beyond the range of float16: {', '.join(wrong)}")
    if (size := sum(value.nbytes for value in weights.values())) > MOST_BYTES:
        raise ValueError(f"{checkpoint}: {size:,} bytes in float16, and a file of the package has at most"
                         f" {MOST_BYTES:,}")
    flags = {flag: value for flag, value in state.get("flags", {}).items() if flag in FLAGS}
    save(path, {key: state[key] for key in KEPT if key in state} | {"flags": flags, "model": weights})
    return Path(path).stat().st_size


def main(argv: list[str] | None = None) -> None:
    """Run `python -m vig_minimal pack`."""
    parser = Parser("pack", __doc__, "runs/lrgc_nano-imagefolder/best.pt cifar10")
    parser.add_argument("checkpoint", metavar="PATH", help="best.pt or last.pt of train.py")
    parser.add_argument("data", metavar="DATA", help="what it was trained on: the file is MODEL-DATA.pt")
    parser.add_argument("--folder", metavar="DIR", default=FOLDER, help="where to write it (default: into the package)")
    args = parser.parse_args(argv)
    with parser.errors_in_one_sentence():
        path = Path(args.folder, f"{load_run(args.checkpoint)['name']}-{args.data}.pt")
        print(f"wrote {path}, {pack(args.checkpoint, path):,} bytes")
