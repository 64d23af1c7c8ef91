"""distance.py: the smallest distances of each row, against Python's own sort."""

import math

import pytest
import torch

from vig_minimal.graphs.distance import smallest
from vig_minimal.graphs.fast import smallest as fast
from vig_minimal.graphs.plain import plain

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan, -math.nan]


def by_python(row: list[float], count: int) -> list[int]:
    """The places of the smallest, those of equal ones in order; a NaN is as large as ∞."""
    return sorted(range(len(row)), key=lambda j: (math.inf if math.isnan(row[j]) else row[j], j))[:count]


@pytest.fixture(params=["plain", "numpy", "topk"])
def way(request, monkeypatch) -> str:
    """All ways to find them, whatever the number of threads, the shape and the processor."""
    by_numpy(monkeypatch, request.param == "numpy")
    with plain(request.param == "plain"):
        yield request.param


def by_numpy(monkeypatch, on: bool) -> None:
    monkeypatch.setattr(fast, "FEW_THREADS", 10**6)
    monkeypatch.setattr(fast, "SORTS_FAST", on)


@pytest.mark.parametrize("keys", [1, 40, 10**6])  # blocks of one row, of two, and of all
@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_smallest_come_first_each_with_its_place(way, count, keys, monkeypatch):
    monkeypatch.setattr(fast, "KEYS", keys)
    rows = torch.randn(3, 7, 20)
    places = smallest(rows, count)
    assert places.dtype == torch.int64
    assert places.tolist() == [[by_python(row, count) for row in image] for image in rows.tolist()]


@pytest.mark.parametrize("count", [1, 4, 10])
def test_infinities_zeros_and_the_largest_and_smallest_numbers_are_in_order(way, count):
    rows = torch.tensor([SPECIAL, SPECIAL[::-1], [*SPECIAL[5:], *SPECIAL[:5]]])
    values = rows.nan_to_num(math.inf, math.inf, -math.inf)
    expected = [[values[r, j].item() for j in by_python(row, count)] for r, row in enumerate(rows.tolist())]
    found = smallest(rows, count)
    assert values.gather(1, found).tolist() == expected
    assert all(len(set(row)) == count for row in found.tolist()), "a place came twice"


@pytest.mark.fast_form
def test_of_equal_distances_numpy_takes_the_lowest_place(monkeypatch):
    by_numpy(monkeypatch, True)
    rows = torch.randint(-2, 3, (50, 30)).float()
    rows[rows == 0] *= torch.tensor([0.0, -1.0])[torch.randint(2, ((rows == 0).sum(),))]  # 0 and −0 are equal
    assert smallest(rows, 12).tolist() == [by_python(row, 12) for row in rows.tolist()]


def test_the_distances_stay_as_they_are(way):
    rows = torch.randn(4, 9).t()  # not contiguous, and with a gradient
    before = rows.clone()
    expected = [by_python(row, 3) for row in rows.tolist()]
    assert smallest(rows.requires_grad_(), 3).tolist() == expected
    assert torch.equal(rows, before)
    with torch.inference_mode():
        assert smallest(rows.detach(), 3).tolist() == expected


def test_no_rows_have_no_smallest(way):
    assert smallest(torch.empty(0, 5, 6), 2).shape == (0, 5, 2)


def test_in_float64_what_float32_would_round_away_counts(way):
    assert smallest(torch.tensor([[1 + 1e-12, 1.0, 1 + 2e-12]], dtype=torch.float64), 3).tolist() == [[1, 0, 2]]
