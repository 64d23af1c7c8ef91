"""One Chromium for all tests of pages: it takes seconds to start."""

from collections.abc import Iterator

import pytest
from browser import Browser, chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as window:
        yield window
