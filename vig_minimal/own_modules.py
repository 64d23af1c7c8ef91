"""`--import NAME`: constructors and data sets that a module or file of one's own registers."""

import argparse
import importlib
import os
import sys


def import_first(name: str) -> str:
    """Import a module, or a file such as `graphs/mine.py`, seen from the current folder. Returns its name.

    Raises ArgumentTypeError, one sentence, for one that is not there or fails.
    """
    folder, module = os.path.split(name.removesuffix(".py"))
    if os.path.abspath(folder) not in sys.path:
        sys.path.insert(0, os.path.abspath(folder))  # worker processes have it too
    try:
        found = importlib.import_module(module)
    except Exception as error:  # of any kind: it is a person's own code
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        raise argparse.ArgumentTypeError(
            f"{name}: no such module here" if missing else f"{name}: {type(error).__name__}: {error}") from None
    if name.endswith(".py") and not os.path.samefile(found.__file__ or os.devnull, name):
        raise argparse.ArgumentTypeError(f"{name}: a module {module} is there already ({found.__file__}); rename yours")
    return name
