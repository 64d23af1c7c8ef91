"""vig_minimal: Vision Graph Neural Networks in plain PyTorch that reads like the papers.

Folders, each importing only those before it: graphs, constructors, models, data, training, look, learn.
"""

import importlib

__version__ = "0.2.0"
MODULES = {"Graph": "graphs.graph", "create_model": "trained", "draw": "look.patch_sources",
           "list_constructors": "models.registry", "list_models": "trained", "init_from": "models.released",
           "load_released": "models.released", "load": "look.predict", "predict": "look.predict", "plain": "graphs.plain"}
__all__ = list(MODULES)


def __getattr__(name: str):
    """Import what is asked for when it is asked for: torch takes seconds, and --help does not need it."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *MODULES])
