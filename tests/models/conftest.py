import pytest
import torch


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    """Forget what earlier tests compiled. torch keeps at most eight programs of one function; with fullgraph=True a
    ninth is an error. Programs of models that were collected as garbage do not count, so it would come by chance."""
    torch._dynamo.reset()
