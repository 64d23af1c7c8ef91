"""`--import NAME`: a module or file that registers constructors or data sets."""

import argparse
import importlib
import os
import sys


def import_first(name: str) -> str:
    """Import a module, or a file such as `graphs/mine.py`, seen from the current folder. Returns its name.

    Raises ArgumentTypeError if it is missing or fails.
    """
    if name.endswith(".py") and not os.path.isfile(name):
        raise argparse.ArgumentTypeError(f"{name}: no such file")
    folder, module = os.path.split(name.removesuffix(".py"))
    if os.path.abspath(folder) not in sys.path:
        sys.path.insert(0, os.path.abspath(folder))  # worker processes have it too
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the user's code may raise any
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        raise argparse.ArgumentTypeError(
            f"{name}: no such module here" if missing else f"{name}: {type(error).__name__}: {error}") from None
    if name.endswith(".py") and not (found.__file__ and os.path.samefile(found.__file__, name)):
        raise argparse.ArgumentTypeError(f"{name}: a module {module} is there already ({found.__file__}); rename yours")
    return name
