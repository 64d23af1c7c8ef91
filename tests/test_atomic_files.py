"""Files that are written whole or not at all, also through links, to devices and by several processes; and streams."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vig_minimal import streams
from vig_minimal.atomic_files import load, replacing, save

ROOT = Path(__file__).resolve().parents[1]


def write(path, text):
    with replacing(path, "w") as file:
        file.write(text)


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    write(tmp_path / "real.csv", "old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write(tmp_path / "link.csv", "new")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["link.csv", "real.csv"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=write, args=(tmp_path / "pipe", "text"), daemon=True)
    writer.start()
    assert (tmp_path / "pipe").read_text() == "text"
    writer.join()
    assert os.listdir(tmp_path) == ["pipe"] and (tmp_path / "pipe").is_fifo()


@pytest.mark.slow
@pytest.mark.parametrize("how", [">", ">>"])
def test_standard_output_that_is_a_file_keeps_what_it_has(tmp_path, how):
    command = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom vig_minimal.atomic_files import replacing\n"
               "with replacing('/dev/stdout', 'w') as file: file.write('middle')")
    subprocess.run(f"(echo first; \"$PYTHON\" -c \"$COMMAND\"; echo last) {how} log.txt", shell=True, check=True,
                   cwd=tmp_path, env=os.environ | {"PYTHON": sys.executable, "COMMAND": command})
    assert (tmp_path / "log.txt").read_text() == "first\nmiddlelast\n" and os.listdir(tmp_path) == ["log.txt"]


def test_the_checkpoint_before_a_link_stays(tmp_path):
    (tmp_path / "big").mkdir()
    save(tmp_path / "big" / "last.pt", {"step": 1})
    (tmp_path / "last.pt").symlink_to(Path("big", "last.pt"))
    save(tmp_path / "last.pt", {"step": 2}, keep="previous.pt")
    assert load(tmp_path / "last.pt")["step"] == 2 and load(tmp_path / "previous.pt")["step"] == 1


def test_two_processes_may_write_the_same_file(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path, "w") as first:
        first.write("first")
        write(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["a.txt"]


def test_a_terminal_that_lacks_a_character_gets_a_code_for_it():
    """The list of commands has «…», which ASCII lacks."""
    done = subprocess.run([sys.executable, "-m", "vig_minimal"], capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stderr == "" and r"COMMAND \u2026" in done.stdout


def test_a_closed_stream_takes_any_text(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    streams.prepare()
    with sys.stdout:
        print("nobody reads this → \udcff")
        assert sys.stdout.encoding == "utf-8"
