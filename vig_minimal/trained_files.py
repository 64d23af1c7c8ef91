"""Which trained models the package holds: weights/MODEL-DATA.pt, each by its name, as lrgc_nano-cifar10.

Every file of weights that the project reads goes through `atomic_files.load`, which asks here: so a name works wherever
a path does. What is done with them is in trained.py.
"""

import os
from fnmatch import fnmatch
from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
DEFAULT = "lrgc_nano-cifar10"  # what a command takes where neither a checkpoint nor a model is named


def trained(pattern: str = "*") -> list[str]:
    """The names MODEL-DATA of the trained models, or those that match a pattern like "lrgc_nano-*"."""
    return [path.stem for path in sorted(FOLDER.glob("*.pt")) if fnmatch(path.stem, pattern)]


def located(path: str | Path) -> Path:
    """The file of a trained model, if `path` is its name and no file of that name is there; else the path itself."""
    name = str(path)
    return FOLDER / f"{name}.pt" if name in trained() and not os.path.exists(path) else Path(path)
