"""The twelve lessons: names, files and checks. Only the checks import torch."""

import importlib
import types
from pathlib import Path
from typing import NamedTuple

TEMPLATES = Path(__file__).parent / "templates"  # as a student gets them


class Lesson(NamedTuple):
    """One lesson; its checks are the module of the same name in `checks/`."""

    number: int
    name: str
    title: str
    source: str

    @property
    def file(self) -> str:
        """Return the name of its file."""
        return f"{self.number:02}_{self.name}.py"

    def text(self) -> str:
        """Return the file as a student gets it: functions without bodies."""
        return (TEMPLATES / self.file).read_text(encoding="utf-8")

    def checks(self) -> types.ModuleType:
        """Import the module with TASKS and, for each of their functions, HINTS."""
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
    """Return the lesson of that number, 1 to 12."""
    return LESSONS[number - 1]


def owner(function: str) -> Lesson:
    """Return the lesson that asks for this function. Raises KeyError."""
    for lesson in LESSONS:
        if f"\ndef {function}(" in lesson.text():
            return lesson
    raise KeyError(f"no lesson asks for a function {function}")
