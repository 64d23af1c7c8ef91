"""Every test starts from a fixed seed; torch uses at most two threads."""

import pytest
import torch

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
