"""Every test starts from a fixed seed; torch uses at most two threads."""

import multiprocessing

import pytest
import torch

torch.set_num_threads(min(2, torch.get_num_threads()))


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
