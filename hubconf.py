"""Every model of list_models() for torch.hub, with the arguments of vig_minimal.create_model:

    model = torch.hub.load(FOLDER, "lrgc_nano", source="local", pretrained=True)
"""

from functools import partial as _partial

from vig_minimal import create_model as _create_model
from vig_minimal import list_models as _list_models

dependencies = ["torch", "torchvision", "numpy", "tqdm"]

for _name in _list_models():
    globals()[_name] = _partial(_create_model, _name)
    globals()[_name].__doc__ = f"{_name}: see vig_minimal.create_model"
