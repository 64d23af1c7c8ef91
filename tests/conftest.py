"""Every test starts from a fixed seed, on one thread: its tensors are tiny."""

import multiprocessing
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, and by processes that a test starts

import pytest  # noqa: E402
import torch  # noqa: E402


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
