"""File and line of a name of the package."""

import importlib
import inspect
from pathlib import Path


def place(name: str) -> tuple[Path, int]:
    """Return the file, relative to here, and line of "graphs.distance.unit" or "constructors.knn.KNN.forward"."""
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            thing = importlib.import_module(f"vig_minimal.{'.'.join(parts[:split])}")
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            thing = getattr(thing, part)
        thing = inspect.unwrap(thing)
        file = Path(inspect.getsourcefile(thing))
        with_here = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        return with_here, inspect.getsourcelines(thing)[1]
    raise ModuleNotFoundError(name)
