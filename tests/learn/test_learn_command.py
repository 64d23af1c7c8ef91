"""`python -m vig_minimal learn`: the path, files that are the person's own, hints, and what a check prints."""

import os
import subprocess
import sys
from pathlib import Path

import loops
import pytest
from answering import answered, finish, write

from vig_minimal.__main__ import main
from vig_minimal.learn import command
from vig_minimal.learn.answers import FOLDER, Progress, earlier, load
from vig_minimal.learn.lessons import LESSONS, find

ROOT = Path(__file__).resolve().parents[2]
ANSWER = "return squared_distances(unit(x), unit(x)).argsort(2)[..., :k]"  # of `nearest`


def learn(capsys, *argv) -> tuple[int, str]:
    """Run the command: its exit code, and what it prints."""
    try:
        main(["learn", *map(str, argv)])
        code = 0
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    text = out + err
    assert all(len(line) < 80 and line.isascii() for line in text.splitlines()), text
    return code, text


def body(name: str, lines: str) -> str:
    """Lesson 3 with loops' answers, but for one function with this body."""
    text = answered(find(3), loops)
    return text.replace('\n\nif __name__', f"\n\ndef {name}(x, k):\n    {lines}\n\n\nif __name__")


def test_the_path_the_file_the_check(capsys):
    code, text = learn(capsys)
    assert code == 0 and "0 of 12 are done. Next: python -m vig_minimal learn 1" in text
    assert all(lesson.title in text for lesson in LESSONS) and not FOLDER.exists()

    code, text = learn(capsys, 1)
    path = FOLDER / "01_nodes.py"
    assert code == 0 and f"wrote {path}" in text and path.read_text(encoding="utf-8") == find(1).text()
    code, text = learn(capsys, 1)
    assert code == 1 and "not written yet (line" in text

    path.write_text(answered(find(1), loops), encoding="utf-8")
    code, text = learn(capsys, 1)
    assert code == 0 and "Done." in text and "Next: python -m vig_minimal learn 2" in text
    assert path.read_text(encoding="utf-8") == answered(find(1), loops)  # never overwritten
    code, text = learn(capsys)
    assert "1 of 12 are done" in text and "  done   1  an image is a set of nodes" in text

    path.write_text(answered(find(1), loops) + "# changed\n", encoding="utf-8")
    assert "0 of 12 are done" in learn(capsys)[1]  # until it passes again
    assert "  open   1  an image is a set of nodes" in learn(capsys)[1]


@pytest.mark.slow
def test_looking_works_from_a_clone_without_pythonpath(tmp_path, capsys):
    (tmp_path / "vig_minimal").symlink_to(ROOT / "vig_minimal", target_is_directory=True)
    finish(FOLDER, find(3), loops)
    write(FOLDER, find(4), answered(find(4), loops))  # takes functions of lesson 3 while it is read
    code, checked = learn(capsys, 4)
    assert code == 0 and "To look at it: python -m vig_minimal learn 4 --look\n" in checked
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "vig_minimal", "learn", "4", "--look"]
    looked = subprocess.run(command, capture_output=True, timeout=600, env=environment, text=True)
    assert looked.returncode == 0 and looked.stderr == ""
    assert "wrote 04_dilation.png" in looked.stdout and Path("04_dilation.png").is_file()


def test_looking_too_early_shows_the_line(capsys):
    assert learn(capsys, 5, "--look")[1].startswith("wrote ")  # the file, for a beginning
    code, text = learn(capsys, 5, "--look")
    assert code == 1 and "It stopped; line" in text and "NotImplementedError: not written yet" in text


def test_all_done(capsys):
    for lesson in LESSONS:
        assert ("python train.py " in learn(capsys)[1]) == (lesson.number > 8)  # 3, 5, 6 and 8 are done
        finish(FOLDER, lesson, loops)
    assert "12 of 12 are done. That is the whole path." in learn(capsys)[1]


def test_hints_come_one_after_the_other(capsys):
    hints = sum(find(5).checks().HINTS.values(), ())
    for number in range(len(hints)):
        code, text = learn(capsys, 5, "--hint")
        assert code == 0 and text.startswith(f"Hint {number + 1} of {len(hints)}: ")
        assert " ".join(hints[number].split()) in " ".join(text.split())
    code, text = learn(capsys, 5, "--hint")
    assert code == 0 and f"all {len(hints)} hints" in text and "learn 5 --solution" in text


def test_hints_are_for_the_function_that_is_not_right(capsys):
    assert learn(capsys, 3, "--hint")[1].startswith("Hint 1 of 4: x.norm")  # nothing is checked yet
    write(FOLDER, find(3), body("nearest", "return None"))
    learn(capsys, 3)
    hints = find(3).checks().HINTS["nearest"]
    for number, text in enumerate(hints):
        printed = " ".join(learn(capsys, 3, "--hint")[1].split())
        assert printed == f"Hint {number + 1} of {len(hints)} for nearest: {text}"
    assert learn(capsys, 3, "--hint")[1].startswith("You have read all 2 hints for nearest:\n")
    write(FOLDER, find(3), find(3).text())  # from the beginning
    learn(capsys, 3)
    assert learn(capsys, 3, "--hint")[1].startswith("Hint 1 of 1 for unit: ")
    assert learn(capsys, 3, "--hint")[1].startswith("You have read the hint for unit:\n")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_solution_is_a_file_and_a_line(lesson, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, text = learn(capsys, lesson.number, "--solution")
    assert code == 0 and f"{Path('vig_minimal')}{os.sep}" in text and ", line " in text
    assert all(task.name in text for task in lesson.checks().TASKS)


@pytest.mark.parametrize("argv, words", [
    ((0,), "invalid choice"), ((13,), "invalid choice"), (("--hint",), "number, 1 to 12"),
    (("--solution",), "number, 1 to 12"), ((3, "--notebook", "n.ipynb"), "give no other"),
    (("--look",), "number, 1 to 12"),
])
def test_wrong_arguments_are_one_sentence(argv, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["learn", *map(str, argv)])
    error = capsys.readouterr().err
    assert end.value.code == 2 and words in error and error.count("\n") == 1


@pytest.mark.parametrize("text, words", [
    ("def nearest(x, k):\n    return x[\n", ["The file cannot be read; line", "SyntaxError"]),
    ("import torch\n\nx = torch.zeros(2) @ torch.zeros(3)\n",
     ["cannot be read; line 3", "x = torch.zeros(2) @", "RuntimeError"]),
    ("import nowhere\n", ["line 1", "import nowhere", "ModuleNotFoundError"]),
    ("import sys\nsys.exit(3)\n", ["line 2", "sys.exit(3)", "SystemExit"]),
    ("\n", ["has no function unit"]),
    (body("nearest", "return x.topk(k, dim=7)"), ["raises an error in line", "return x.topk(k, dim=7)", "IndexError"]),
    (body("nearest", "import sys; sys.exit(3)"), ["import sys; sys.exit(3)", "SystemExit: 3"]),
    (body("nearest", "return k.nearest"), ["return k.nearest", "AttributeError: 'int' object"]),
    (body("nearest", "pass"), ["returns None; does it end with a return?"]),
    (body("nearest", "raise NotImplementedError"), ["nearest: not written yet (line"]),
])
def test_what_is_wrong_is_shown_with_their_line(text, words, capsys):
    write(FOLDER, find(3), text)
    code, printed = learn(capsys, 3)
    assert code == 1 and "vig_minimal/" not in printed and "Traceback" not in printed
    assert all(word in " ".join(printed.split()) for word in words), printed


@pytest.mark.parametrize("line", [
    "adj.float() @ x", "adj @ x", "torch.zeros(4, 4).index_put((torch.tensor(0),), x[0, 0, 0]) + x",
    "torch.zeros(1, 4, 2).scatter(1, adj.long(), x)", "torch.bmm(adj.float(), x)"])
def test_types_that_differ_are_explained(line, capsys):
    text = answered(find(2), loops).replace("\n\nif __name__", f"\n\ndef mean_of_sources(adj, x):\n    return {line}"
                                            "\n\n\nif __name__")
    write(FOLDER, find(2), text)
    code, printed = learn(capsys, 2)
    assert code == 1 and "The check uses float64. adj.to(x) or adj.to(x.dtype)" in " ".join(printed.split()), printed


def test_what_an_answer_prints_is_shown_once(capsys):
    write(FOLDER, find(3), body("nearest", f"print('here', k); {ANSWER}"))
    code, printed = learn(capsys, 3)
    assert code == 0 and printed.count("here") == 1


def test_progress_that_cannot_be_read_is_none(capsys):
    finish(FOLDER, find(1), loops)
    for broken in ("", "[]", '{"done": 3}', "{"):
        (FOLDER / "progress.json").write_text(broken)
        assert "0 of 12 are done" in learn(capsys)[1]


def test_a_lesson_uses_their_earlier_answers_once_they_are_done():
    file = FOLDER.resolve() / "04_dilation.py"
    ours = earlier(str(file), "nearest")
    assert ours.__module__ == "vig_minimal.learn.checks.nearest"
    path = write(FOLDER, find(3), answered(find(3), loops))
    assert earlier(str(file), "nearest") is ours  # not checked yet
    Progress(FOLDER).passed(find(3), True)
    assert earlier(str(file), "nearest") is load(path)["nearest"]
    assert [function.__name__ for function in earlier(str(file), "unit", "nearest")] == ["unit", "nearest"]


def run(*argv, encoding: str = "ascii", seconds: float | None = None) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    code = ("import sys\nfrom vig_minimal.learn import command\nfrom vig_minimal.streams import prepare\nprepare()\n"
            f"command.SECONDS = {seconds or command.SECONDS}\ncommand.main(sys.argv[1:])")
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, timeout=600,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding})


@pytest.mark.slow
def test_an_endless_loop_is_ended_with_its_line():
    path = write(FOLDER, find(3), body("nearest", f"while x.shape[1] > 4: pass\n    {ANSWER}"))
    ended = run("3", seconds=3.0)
    assert ended.returncode == 1 and ended.stderr == b""
    text = ended.stdout.decode("ascii")
    assert "still running after 3 s" in text and f"of {path}" in text and "while x.shape[1] > 4: pass" in text


@pytest.mark.slow
def test_a_terminal_without_utf_8_and_colours():
    write(FOLDER, find(3), body("nearest", "raise ValueError('‖x‖ ≠ 1')"))
    ended = run("3", seconds=500)
    text = ended.stdout.decode("ascii")
    assert ended.returncode == 1 and ended.stderr == b"" and "\x1b" not in text
    assert "ValueError: \\u2016x\\u2016 \\u2260 1" in text and "unit               right" in text
