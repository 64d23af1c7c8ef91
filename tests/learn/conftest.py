import pytest


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Work in an empty folder: lessons and pictures go into the working directory."""
    monkeypatch.chdir(tmp_path)
