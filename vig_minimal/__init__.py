"""vig_minimal: Vision Graph Neural Networks in plain PyTorch that reads like the papers.

Folders, each importing only those before it: graphs, constructors, models, data, training, look.
"""

from .graphs.graph import Graph
from .look.predict import load, predict
from .models.registry import create_model, list_constructors, list_models
from .models.released import init_from, load_released

__version__ = "0.2.0"
__all__ = ["Graph", "create_model", "init_from", "list_constructors", "list_models", "load", "load_released",
           "predict"]
