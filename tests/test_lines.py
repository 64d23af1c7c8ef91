"""A forward and backward pass in plain form is short enough to be read."""

import pytest
import torch

from lines import by_folder, functions_run, lines_of
from vig_minimal import create_model, plain, train

LIMITS = {"vig_ti": 190, "lrgc_ti": 150, "cvig_ti": 260, "pvig_ti": 210, "gkgnet_s": 250}


def read(name: str, size: int) -> dict[str, int]:
    """The lines of each function that runs in a training step's forward and backward pass."""
    model, images = create_model(name, img_size=size), torch.randn(2, 3, size, size)

    def step() -> None:
        with plain():
            logits = model(images)
            sum(part.square().sum() for part in (logits if isinstance(logits, tuple) else (logits,))).backward()

    lines = lines_of(functions_run(step))
    return {place: count for place, count in lines.items() if place.partition(" ")[2] != "plain"}  # the switch itself


@pytest.mark.parametrize("size", [64, pytest.param(224, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LIMITS)
def test_few_lines_run_in_plain_form(name, size):
    lines = read(name, size)
    assert not any("fast" in place for place in lines)
    listed = "\n".join(f"{count:4} {place}" for place, count in sorted(lines.items()))
    assert sum(lines.values()) <= LIMITS[name], listed


def test_the_counter_counts_whole_functions_once_without_lambdas():
    def twice() -> None:
        from vig_minimal.graphs.distance import mean_node, unit
        for _ in range(2):
            mean_node(unit(torch.randn(1, 2, 3)))

    lines = lines_of(functions_run(twice))
    assert {place.partition(" ")[2]: count for place, count in lines.items()} == {"mean_node": 3, "unit": 3,
                                                                                  "full_precision": 3}


def test_few_lines_run_in_a_training(tmp_path):
    argv = ["--model", "lrgc", "--epochs", "1", "--limit", "16", "--batch-size", "8", "--workers", "0", "--device", "cpu",
            "--set", "dim=16", "--set", "depth=2", "--output", str(tmp_path)]
    lines = by_folder(lines_of(functions_run(lambda: train.main(argv))))
    assert lines["training"] <= 878 and lines["train.py"] <= 148, lines
