"""Several processes train and evaluate as one does. Gloo on the CPU, two processes, batch norm statistics fixed."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from vig_minimal import train
from commands import PROCESSES, ROOT, SECONDS, children, finish, free_port, join
from helpers import image_folder, same_tensors
from vig_minimal.train import train_one_epoch
from vig_minimal import create_model
from vig_minimal.data.batches import TrainingBatches
from vig_minimal.data.loading import StoredImages
from vig_minimal.training import checkpoint, distributed
from vig_minimal.training.config import RunConfig
from vig_minimal.training.distributed import Processes
from vig_minimal.training.engine import create_run, evaluate
from vig_minimal.training.recipes import Recipe, get_recipe
from vig_minimal.training.build import calibrate
from vig_minimal.training.tasks import SingleLabel

STEPS, BATCH, CLASSES = 3, 8, 3
VALIDATION = 7  # odd: one process has an image more


class Batches:
    """Stands in for TrainingBatches: a rank's part of three batches of noise, in float64."""

    def __init__(self, processes):
        source, size = torch.Generator().manual_seed(0), BATCH // processes.world
        self.share = slice(processes.rank * size, (processes.rank + 1) * size)
        self.images = torch.randn(STEPS, BATCH, 3, 16, 16, generator=source, dtype=torch.float64)
        self.labels = torch.randint(CLASSES, (STEPS, BATCH), generator=source)

    def __len__(self):
        return STEPS

    def epoch(self, epoch, first_step=0):
        yield from zip(self.images[first_step:, self.share], self.labels[first_step:, self.share])


class NoBar:
    def update(self, images, loss):
        pass


def frozen_model(name="lrgc_nano", **fields):
    model = create_model(name, dim=16, depth=2, img_size=16, patch=4, num_classes=CLASSES, **fields).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # statistics stay fixed: they would couple a batch
    return model


def train_three_steps(processes):
    """Weights, average, mean loss and validation figures after three steps."""
    torch.manual_seed(0)
    model = frozen_model()
    recipe = Recipe(epochs=1, batch_size=BATCH, warmup_epochs=0.0, cooldown_epochs=0.0, lr=1e-3, clip_grad=1.0,
                    ema_decay=0.9)
    run = create_run(model, SingleLabel(0.1), RunConfig(recipe=recipe), processes)
    trained = train_one_epoch(run, Batches(processes), 0, NoBar())
    source = torch.Generator().manual_seed(1)
    images = torch.randn(VALIDATION, 3, 16, 16, generator=source, dtype=torch.float64)[processes.rank::processes.world]
    labels = torch.randint(CLASSES, (VALIDATION,), generator=source)[processes.rank::processes.world]
    scores = evaluate(run, [(images, labels)])
    return {"model": model.state_dict(), "average": run.average.module.state_dict(), "loss": trained["train_loss"],
            "scores": scores}


def one_of_two(rank, port, folder):
    join(rank, 2, port)
    processes = distributed.start("cpu")
    torch.save(train_three_steps(processes), f"{folder}/{rank}.pt")
    model = create_model("vig_nano", dim=16, depth=1, img_size=16, patch=4, num_classes=CLASSES)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(rank))
    calibrate(model, SingleLabel(0.1), images, processes)
    run = create_run(model, SingleLabel(0.1), RunConfig(recipe=Recipe()), processes)
    torch.save(run.evaluated.state_dict(), f"{folder}/start{rank}.pt")
    answer = processes.from_first(lambda: f"from {processes.rank}")
    try:
        processes.from_first(open, f"{folder}/nowhere")
    except OSError as error:
        answer += f" {type(error).__name__}"
    processes.leave()
    assert answer == "from 0 FileNotFoundError"  # the first process's result, and its error, reach both


def test_two_processes_give_the_weights_of_one_on_the_joined_batch(tmp_path):
    mp.start_processes(one_of_two, (free_port(), str(tmp_path)), 2, start_method="forkserver")
    alone = train_three_steps(Processes(torch.device("cpu")))
    start = create_model("lrgc_nano", dim=16, depth=2, img_size=16, patch=4, num_classes=CLASSES)
    assert (alone["model"]["head.4.weight"] - start.state_dict()["head.4.weight"]).abs().max() > 1e-3  # it has learnt
    starts = [torch.load(tmp_path / f"start{rank}.pt", weights_only=True) for rank in range(2)]
    assert same_tensors(*starts) and starts[0]["stem.layers.1.running_mean"].any()  # each has read its own images
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for part in ("model", "average"):
            for name, value in alone[part].items():
                torch.testing.assert_close(shared[part][name], value, rtol=1e-9, atol=1e-11, msg=f"{part} {name}")
        assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        assert shared["scores"] == pytest.approx(alone["scores"], rel=1e-6)


class Doubled:
    """Real training batches, in float64."""

    def __init__(self, processes, parts):
        source = torch.Generator().manual_seed(1)
        images = torch.randint(256, (60, 3, 16, 16), generator=source, dtype=torch.uint8)
        stored = StoredImages(images, torch.randint(CLASSES, (60,), generator=source))
        self.recipe = replace(get_recipe("lrgc"), epochs=2, warmup_epochs=0.5, cooldown_epochs=0.0, batch_size=16,
                              crop="pad", ema_decay=0.9, accumulation=parts)
        share = processes.rank, processes.world
        self.batches = TrainingBatches(stored, CLASSES, self.recipe, 0, share, processes.device, 0)

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch, first_step=0):
        for images, targets in self.batches.epoch(epoch, first_step):
            yield images.double(), targets.double()


def loss_curve(processes, parts=1):
    """The loss of every step of two epochs with mixtures, erasing, repeated augmentation and draws in the model."""
    torch.manual_seed(0)
    batches, losses = Doubled(processes, parts), []
    model = frozen_model("vig_nano", drop_path=0.3, epsilon=0.5, k=2)
    run = create_run(model, SingleLabel(0.1), RunConfig(recipe=batches.recipe), processes)
    for epoch in range(2):
        train_one_epoch(run, batches, epoch, NoBar(), after_step=losses.append)
    return losses


def curve_of_one(rank, world, parts, port, folder):
    join(rank, world, port)
    processes = distributed.start("cpu")
    losses = loss_curve(processes, parts)
    processes.leave()
    with open(f"{folder}/{world}x{parts}-{rank}.json", "w") as file:
        json.dump(losses, file)


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (4, 1), (2, 2)])
def test_any_number_of_processes_has_the_loss_curve_of_one(tmp_path, world, parts):
    context, port = PROCESSES, free_port()
    started = [context.Process(target=curve_of_one, args=(rank, world, parts, port, str(tmp_path)))
               for rank in range(world)]
    for process in started:
        process.start()
    assert [finish(process) for process in started] == [0] * world
    alone = loss_curve(Processes(torch.device("cpu")))
    assert len(alone) == 6 and len(set(alone)) == 6
    for rank in range(world):
        curve = json.loads((tmp_path / f"{world}x{parts}-{rank}.json").read_text())
        assert curve == pytest.approx(alone, rel=1e-6)  # losses are added up in float32


@pytest.mark.parametrize("given", ["torchrun", "srun", "a batch script", "nothing"])
def test_launchers_say_who_a_process_is(monkeypatch, given):
    names = {"torchrun": distributed.SLURM.keys(), "nothing": ()}.get(given, distributed.SLURM.values())
    place = dict(zip(names, ("5", "8", "1", "4")))
    if given in ("torchrun", "srun"):
        place |= {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    if given == "srun":
        place |= {"SLURM_STEP_ID": "0"}
    monkeypatch.setattr(os, "environ", place)
    assert distributed.read_place() == ((5, 8, 1, 4) if given in ("torchrun", "srun") else (0, 1, 0, 1))


@pytest.mark.slow
def test_torchrun_starts_again_after_a_worker_died_and_ends_bit_identical(tmp_path):
    argv = [*TINY, "--limit", "64", "--batch-size", "8", "--epochs", "3", "--save-every", "1", "--drop-path", "0.1",
            "--output", "out", "--resume", "auto"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", "2",
               "--master_port", str(free_port()), str(ROOT / "train.py"), *argv]

    def launch(folder):
        folder.mkdir()
        log = open(folder / "log.txt", "w")
        with log:
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT,
                                    env=os.environ | {"OMP_NUM_THREADS": "1"})

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert launch(straight).wait(SECONDS) == 0
    launcher = launch(broken)
    for moment in ("first step", "epoch 2/3"):
        deadline = time.monotonic() + SECONDS
        while moment not in (broken / "log.txt").read_text():
            assert launcher.poll() is None and time.monotonic() < deadline, (broken / "log.txt").read_text()
            time.sleep(0.02)
        os.kill(children(launcher.pid)[0], signal.SIGKILL)
    assert launcher.wait(SECONDS) == 0, (broken / "log.txt").read_text()
    said = " ".join((broken / "log.txt").read_text().split())  # the folder's name decides where lines are broken
    assert said.count("resumed after epoch") == 2
    states = [checkpoint.load(folder / "out" / "last.pt") for folder in (straight, broken)]
    assert states[0]["step"] == 24 and same_tensors(*states)


TINY = ["--model", "lrgc_nano", "--set", "dim=16", "--set", "depth=2", "--img-size", "16", "--set", "patch=4",
        "--device", "cpu", "--workers", "0"]
COMMANDS = {
    "sound": ["--limit", "33", "--batch-size", "8", "--epochs", "1", "--output", "out"],
    "partitions": ["--model", "cvig_nano", "--limit", "33", "--batch-size", "8", "--epochs", "1", "--output", "cvig",
                   "--set", "distillation=True"],
    "several": ["--model", "gkgnet_nano", "--set", "dim=(8,16)", "--set", "depth=(1,1)", "--set", "pool=(2,1)",
                "--limit", "33", "--batch-size", "8", "--epochs", "1", "--output", "several"],
    "indivisible": ["--limit", "33", "--batch-size", "9"],
    "apart": ["--limit", "33", "--batch-size", "8", "--epochs", "2", "--output", "out", "--resume", "auto"],
    "broken": ["--data-dir", "data", "--batch-size", "4", "--epochs", "1", "--crop", "resized",  # read as needed
               "--bad-images", "error", "--seed", "1"],  # and not in the first batch
}


def commands_of_two(rank, ports, folder):
    """Run every command as one of two processes; leaves what it said and its exit code in files."""
    for (name, argv), port in zip(COMMANDS.items(), ports):
        join(rank, 2, port)
        os.chdir(f"{folder}/elsewhere" if name == "apart" and rank == 1 else folder)  # two machines, two disks
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                train.main([*TINY, *argv])
            except SystemExit as end:
                code = end.code
        with open(f"{folder}/{name}{rank}.json", "w") as file:
            json.dump({"out": out.getvalue(), "err": err.getvalue(), "code": code}, file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder in which two processes ran all commands, and what each of them said, by command."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "elsewhere").mkdir()
    (image_folder(folder / "data", count=4) / "train" / "dog" / "2.png").write_bytes(b"not an image")
    mp.start_processes(commands_of_two, ([free_port() for _ in COMMANDS], str(folder)), 2, start_method="forkserver")
    said = {name: [json.loads((folder / f"{name}{rank}.json").read_text()) for rank in range(2)] for name in COMMANDS}
    return folder, said


def test_the_command_under_two_processes_and_going_on_with_one(finished, monkeypatch, capsys):
    folder, said = finished
    first, second = said["sound"]
    assert (first["code"], second["code"]) == (0, 0) and first["err"] == second["err"] == second["out"] == ""
    assert "epoch 1/1" in first["out"] and "8 images a step (global) = 4 a process × 2 processes" in first["out"]
    assert checkpoint.load(folder / "out" / "last.pt")["step"] == 4
    with open(folder / "out" / "metrics.csv", newline="") as file:
        trained = list(csv.DictReader(file))[-1]
    monkeypatch.chdir(folder)  # one process finds the same figures over the same 33 images
    train.main(["--resume", "out/last.pt", "--eval-only", "--limit", "33", "--batch-size", "8", "--device", "cpu"])
    assert f"top-1 {float(trained['val_top1']):5.2f} %" in capsys.readouterr().out
    right = float(trained["val_top1"]) * 33 / 100
    assert right == pytest.approx(round(right), abs=1e-3)


def test_two_classifiers_and_depthwise_convolutions_train_without_a_warning(finished):
    assert [process["code"] for process in finished[1]["partitions"]] == [0, 0]
    assert all(process["err"] == "" for process in finished[1]["partitions"])


def test_average_precision_is_that_of_all_images_and_labels_and_patches_train_together(finished, monkeypatch, capsys):
    folder, said = finished
    assert [(process["code"], process["err"]) for process in said["several"]] == [(0, "")] * 2
    with open(folder / "several" / "metrics.csv", newline="") as file:
        trained = list(csv.DictReader(file))[-1]
    monkeypatch.chdir(folder)
    train.main(["--resume", "several/last.pt", "--eval-only", "--limit", "33", "--batch-size", "8", "--device", "cpu"])
    scores = " ".join(capsys.readouterr().out.partition("\nloss ")[1:])
    alone = dict(re.findall(r"((?:top-3 )?\w+) ([\d.]+)", " ".join(scores.split())))
    for name, column in (("mAP", "mAP"), ("CF1", "CF1"), ("top-3 OF1", "OF1_top3"), ("loss", "loss")):
        assert float(alone[name]) == pytest.approx(float(trained[f"val_{column}"]), abs=0.006)


def test_what_is_wrong_is_said_once_and_ends_both(finished):
    first, second = finished[1]["indivisible"]
    assert (first["code"], second["code"]) == (2, 2) and first["out"] == second["out"] == second["err"] == ""
    assert first["err"].startswith("train.py: error: --batch-size 9: the global batch; each of 2 processes")


def test_machines_that_do_not_share_the_output_folder_do_not_go_on_from_different_steps(finished):
    first, second = finished[1]["apart"]
    assert (first["code"], second["code"]) == (2, 2) and "read different checkpoints or data" in first["err"]
    assert checkpoint.load(finished[0] / "out" / "last.pt")["step"] == 4  # as it was


def test_an_image_that_breaks_one_process_ends_both_with_its_name(finished):
    both = finished[1]["broken"]
    assert sorted(process["code"] for process in both) == [1, 1]  # one has lost the other
    said = "".join(process["err"] for process in both)
    assert said.count("data/train/dog/2.png: this image is broken") == 1 and "Traceback" not in said
