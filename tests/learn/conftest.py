import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # loops, tensors and answering


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Work in an empty folder: lessons and pictures go into the working directory."""
    monkeypatch.chdir(tmp_path)
