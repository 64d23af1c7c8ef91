"""The twelve lessons: their names, their files, and what is checked. Needs no torch until a check is asked for."""

import importlib
import types
from pathlib import Path
from typing import NamedTuple

TEMPLATES = Path(__file__).parent / "templates"  # as a person gets them


class Lesson(NamedTuple):
    """One lesson: its file, and in `checks/` the module of the same name."""

    number: int
    name: str
    title: str
    source: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.number:02}_{self.name}.py"

    def text(self) -> str:
        """The file as it is given out, its functions without bodies."""
        return (TEMPLATES / self.file).read_text(encoding="utf-8")

    def checks(self) -> types.ModuleType:
        """The module with TASKS, and HINTS for each of their functions."""
        return importlib.import_module(f"vig_minimal.learn.checks.{self.name}")


LESSONS = (
    Lesson(1, "nodes", "an image is a set of nodes", "ViG"),
    Lesson(2, "matrix", "a graph is a matrix", "the contract of graphs/graph.py"),
    Lesson(3, "nearest", "nearest neighbours", "ViG"),
    Lesson(4, "dilation", "farther for free", "DeepGCNs, ViG"),
    Lesson(5, "difference", "the largest difference", "ViG, LRGC Eq. 5"),
    Lesson(6, "heads", "heads", "ViG, LRGC Eq. 5"),
    Lesson(7, "threshold", "a threshold instead of k", "SViG"),
    Lesson(8, "learnt", "a graph that learns", "LRGC Eqs. 2-5"),
    Lesson(9, "partitions", "partitions", "ClusterViG Algorithm 1"),
    Lesson(10, "talk", "partitions talk", "ClusterViG Eqs. 2-4"),
    Lesson(11, "labels", "labels are nodes too", "GKGNet Eq. 1, CNN2GNN Algorithm 1"),
    Lesson(12, "own", "your own graph", "you"),
)


def find(number: int) -> Lesson:
    """The lesson of that number, 1 to 12."""
    return LESSONS[number - 1]


def owner(function: str) -> Lesson:
    """The lesson that asks for this function. Raises KeyError."""
    for lesson in LESSONS:
        if f"\ndef {function}(" in lesson.text():
            return lesson
    raise KeyError(f"no lesson asks for a function {function}")
