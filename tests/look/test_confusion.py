"""What --eval-only says of each class: accuracies, confused pairs, the confusion matrix as a table and a picture."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vig_minimal import train
from commands import TINY, own_folder  # noqa: F401  (a fixture)
from helpers import image_folder
from vig_minimal.look.confusion import NAMES, SIDE, confusion, draw_matrix, in_words
from vig_minimal.training import distributed
from vig_minimal.training.metrics import TopK

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 3, 3, 3])  # no image of class 2
TAKEN = torch.tensor([0, 0, 1, 3, 0, 0, 1, 3, 3, 3])
CLASSES = ["cat", "dog", "owl", "fox"]


def test_the_matrix_counts_images_of_a_class_by_what_they_are_taken_for():
    metric = TopK()
    logits = torch.full((10, 4), -1.0)
    logits[range(10), TAKEN] = 1.0
    logits[9] = 0.5  # all alike: the first class is meant
    for part in (slice(0, 4), slice(4, 10)):
        metric.update(logits[part], LABELS[part])
    top1 = metric.compute(distributed.start("cpu"))["top1"]
    matrix = confusion(metric.pairs, 4)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for label, taken in zip(LABELS.tolist(), [*TAKEN[:9].tolist(), 0]):
        expected[label, taken] += 1
    assert torch.equal(matrix, expected) and not torch.equal(matrix, matrix.mT)
    assert 100 * matrix.diag().sum() / matrix.sum() == pytest.approx(top1)


def test_accuracies_and_confused_pairs_in_words():
    accuracy, missing, pairs = in_words(confusion(torch.stack([LABELS, TAKEN]), 4), CLASSES)
    assert accuracy == "accuracy of classes in percent: dog 33.3, cat 50.0, fox 100.0"
    assert missing == "no accuracy, and in no mean, since no image shows them: owl"
    assert pairs == "most frequent confusions: dog for cat (2 of 3), cat for dog (1 of 4), cat for fox (1 of 4)"
    assert in_words(5 * torch.eye(4, dtype=torch.int64), CLASSES)[1] == "most frequent confusions: none"
    assert in_words(torch.ones(1, 1, dtype=torch.int64), ["cat"])[1].endswith(": none")


def test_dark_cells_are_large_numbers_and_rows_are_rows():
    matrix = torch.tensor([[100.0, 0.0], [25.0, 75.0]])
    for written in ("", "{:.0f}"):
        page = np.asarray(draw_matrix(matrix, ["cat", "dog"], written)).astype(int)
        assert page.shape == (NAMES + SIDE, NAMES + SIDE, 3)
        corners = [page[NAMES + row * SIDE // 2 + 5, NAMES + column * SIDE // 2 + 5].tolist()
                   for row in (0, 1) for column in (0, 1)]
        assert corners == [[0, 60, 120], [255] * 3, [191, 206, 221], [63, 108, 153]]
        middle = page[NAMES + 85:NAMES + 95, NAMES + 80:NAMES + 100]  # of the upper left cell
        assert ((middle == 255).all(-1).any()) == bool(written)
    assert draw_matrix(torch.ones(500, 500), [str(i) for i in range(500)], "{:.0f}").width == NAMES + 500


def test_eval_only_says_and_writes_it(tmp_path, capsys):
    image_folder(tmp_path / "data", count=4)
    train.main([*TINY, "--data-dir", "data", "--epochs", "1", "--batch-size", "4", "--output", "out"])
    capsys.readouterr()
    train.main(["--resume", "out/last.pt", "--eval-only", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "output  out" in said and "weights out/last.pt" in said
    with open("out/confusion.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "cat", "dog"] and [row[0] for row in rows] == ["cat", "dog"]
    matrix = np.array([row[1:] for row in rows], int)
    assert (matrix.sum(1) == 4).all() and f"top-1 {100 * matrix.trace() / 8:5.2f} %" in said
    for name, right in zip(("cat", "dog"), matrix.diagonal()):
        assert f"{name} {25 * right:.1f}" in said
    assert Image.open("out/confusion.png").width > SIDE
    train.main(["--resume", "out/last.pt", "--eval-only", "--eval-split", "train", "--output", "new/folder",
                "--device", "cpu"])
    assert sorted(path.name for path in Path("new/folder").iterdir()) == ["confusion-train.csv", "confusion-train.png"]
    Path("file").touch()
    train.main(["--resume", "out/last.pt", "--eval-only", "--output", "file", "--device", "cpu"])
    assert "warning: the confusion matrix is not written" in capsys.readouterr().out
