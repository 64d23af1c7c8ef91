"""Every test starts from a fixed seed, on one thread: its tensors are tiny.

    pytest --plain     every operation in its plain form, without the tests of speed, memory and compilers
"""

import multiprocessing
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, and by processes that a test starts

import pytest  # noqa: E402
import torch  # noqa: E402

from equations import pytest_pyfunc_call  # noqa: E402, F401  (a hook)
from vig_minimal import plain  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--plain", action="store_true", help="run every operation in its plain form (vig_minimal.plain)")


def pytest_configure(config):
    if config.getoption("--plain"):
        config.in_plain_form = plain()
        config.in_plain_form.__enter__()


def pytest_unconfigure(config):
    if config.getoption("--plain"):
        config.in_plain_form.__exit__(None, None, None)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--plain"):
        left_out = [item for item in items if item.get_closest_marker("fast_form")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_process_left():
    """Kill what a failed test leaves: Python waits at its end for all processes that it started."""
    yield
    for process in multiprocessing.active_children():
        if not process.daemon:
            process.kill()
            process.join()
