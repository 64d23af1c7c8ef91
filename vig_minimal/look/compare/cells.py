"""The cells of a comparison: one training run for each variant and seed, in a folder of its own.

    OUTPUT/compare.json                        settings that all cells share
    OUTPUT/graph=knn/seed-0/run/               the output folder of train.py
    OUTPUT/graph=knn/seed-0/log.txt            what train.py printed
    OUTPUT/graph=knn/seed-0/result.json        its measurements; a cell that has it is finished
    OUTPUT/graph=knn/seed-0/.lock              locked while a process works on the cell

train.py runs as a process of its own: what it does with memory, threads and signals stays there. An
interrupted cell resumes with `--resume auto`.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from typing import NamedTuple

from ...atomic_files import replacing
from ...data.datasets import Data, fetch, open_data
from ...training import distributed
from ...training.config import RunConfig, parse
from ...training.resolve import resolve

PACKAGE = Path(__file__).resolve().parents[2]
SAVE_EVERY = 100  # steps
MINUTE = 60.0     # seconds between two looks at what a run prints


class Variant(NamedTuple):
    """What differs between the rows of a comparison: its name in tables, and fields of the config, as "k=9"."""

    name: str
    fields: tuple[str, ...]


class Cell(NamedTuple):
    """One run to train and to measure."""

    variant: Variant
    seed: int
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def read(self) -> dict | None:
        """Return what was measured, or None if the cell is not finished."""
        return json.loads(self.result.read_text(encoding="utf-8")) if self.result.exists() else None


@dataclass(frozen=True)
class Study:
    """Settings that all cells share: the model, train.py's other flags, the folder; and the arguments of this call."""

    model: str
    flags: tuple[str, ...]
    folder: Path
    argv: tuple[str, ...] = ()

    def arguments(self, variant: Variant, seed: int) -> list[str]:
        """Return train.py's arguments for a cell, but those about its folder."""
        fields = itertools.chain(*(("--set", field) for field in variant.fields))
        return ["--model", self.model, *fields, "--seed", str(seed), *self.flags]

    def settle(self, variant: Variant) -> RunConfig:
        """Return the config of a variant. Raises ValueError for what cannot work, before anything is trained."""
        config = resolve(parse(self.arguments(variant, 0)))
        distributed.start(config.device)  # raises if there is no such device
        return config

    def cells(self, variants: Sequence[Variant], seeds: Sequence[int]) -> list[Cell]:
        """Return all cells: the first seed of all variants comes first, so that a table is soon of use."""
        names = {variant: re.sub(r"[^\w=.,()-]", "_", ",".join(variant.fields)) or "default" for variant in variants}
        return [Cell(variant, seed, self.folder / names[variant] / f"seed-{seed}")
                for seed in seeds for variant in variants]

    def claim(self) -> None:
        """Make the folder, and note in compare.json what its cells share. Raises ValueError if it holds others."""
        about, path = {"model": self.model, "flags": list(self.flags)}, self.folder / "compare.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and (there := json.loads(path.read_text(encoding="utf-8"))) != about:
            differ = [f"{key} {' '.join(there[key]) if key == 'flags' else there[key]}" for key in about
                      if there.get(key) != about[key]]
            raise ValueError(f"{self.folder}: holds a comparison with {' and '.join(differ)}; give the same, or choose"
                             " another --output")
        with replacing(path, "w") as file:
            json.dump(about, file, indent=2)


def variants_of(graphs: Sequence[str], convs: Sequence[str], fields: Sequence[str]) -> list[Variant]:
    """Return every combination of graphs, of convolutions and of the values of each field, given as "k=4,9,18".

    A name has only what differs. Raises ValueError for a field without values."""
    axes = [[f"graph={name}" for name in graphs], [f"conv={name}" for name in convs]]
    for text in fields:
        name, equals, values = text.partition("=")
        values = [value for value in re.split(r",(?![^(]*\))", values) if value]  # no comma inside (2, 2)
        if not (name and equals and values):
            raise ValueError(f"--set {text}: takes a field of the model and its values, such as k=4,9,18")
        axes.append([f"{name}={value}" for value in values])
    axes = [list(dict.fromkeys(axis)) for axis in axes if axis]
    variants = []
    for chosen in itertools.product(*axes):
        named = [field.removeprefix("graph=") for field, axis in zip(chosen, axes, strict=True) if len(axis) > 1]
        variants.append(Variant(" ".join(named) or " ".join(chosen) or "default", chosen))
    return variants


def data_of(config: RunConfig, seed: int = 0) -> Data:
    """Return the images that the cells of that seed are trained and evaluated on: it splits a folder without train/ and
    val/. Raises ValueError if they are not there."""
    fetch(config.data, config.data_dir)
    return open_data(config.data, config.data_dir, config.img_size, config.limit, seed)


def train(study: Study, cell: Cell, say: Callable[[str], None]) -> None:
    """Train a cell, or resume it. say: called each minute with the last line that it printed. Raises ValueError, with
    the reason, if train.py refused it or failed, and SystemExit if a signal ended it."""
    run = cell.folder / "run"
    command = [sys.executable, "-m", "vig_minimal", "train", *study.arguments(cell.variant, cell.seed), "--output",
               str(run), "--resume", "auto", "--save-every", str(SAVE_EVERY)]
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))  # wherever it was begun
    with open(cell.folder / "log.txt", "a", encoding="utf-8") as log:
        begun = log.tell()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": path})
        # train.py saves and ends when a signal comes; Ctrl-C reaches it by itself
        main = current_thread() is main_thread()
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate()) if main else None
        try:
            while (code := _wait(process)) is None:
                say(last_line(cell.folder / "log.txt", begun))
        except KeyboardInterrupt:
            code = process.wait()
        finally:
            if main:
                signal.signal(signal.SIGTERM, before)
    if code in (130, 143):
        sys.exit(code)
    if code:
        said = last_line(cell.folder / "log.txt", begun) or "it printed nothing"
        raise ValueError(f"{cell.folder}: train.py ended with code {code} ({said})")


def _wait(process: subprocess.Popen) -> int | None:
    try:
        return process.wait(MINUTE)
    except subprocess.TimeoutExpired:
        return None


def last_line(log: Path, begun: int) -> str:
    """Return the last line of a log behind so many bytes, with its indented continuation; "" if there is none."""
    text = log.read_bytes()[begun:].decode(errors="replace").strip()
    return " ".join(re.split(r"\n(?! )", text)[-1].split())

