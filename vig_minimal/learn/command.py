"""Learn Vision GNNs by writing them: twelve lessons, each one file in the folder lessons/.

The first `learn N` writes the file of lesson N, which is yours and never overwritten; from then on it checks what you
wrote in it, and `learn N --look` draws what it does. Without a number: all lessons, which are done, and what comes
next.
"""

import contextlib
import faulthandler
import os
import runpy
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from ..look.command import Parser
from .answers import FOLDER, Progress, load
from .lessons import LESSONS, Lesson, find

SECONDS = 20  # that a check may take
# Small images and few channels keep the messages (B, N, N, C) small, which a plainly written maximum makes in full.
# Measured with such answers, seed 0: vig_nano 99.45 % (6 min 33 s on one core that had other work), lrgc_nano 99.50 %.
TRAINS = """
Lessons 3, 5, 6 and 8 are done, so your own functions can train a network:

python train.py --model vig_nano --lessons {folder} \\
  --img-size 48 --set dim=64 --set depth=4 --epochs 4

It reaches 99 % top-1 on the scenes in about 6 minutes of one core.
With --model lrgc_nano, lesson 8 makes the graph."""


def path_of_lessons(folder: Path) -> str:
    """List all lessons with their status, and the next command."""
    progress = Progress(folder)
    done = [progress.is_done(lesson) for lesson in LESSONS]
    lines = ["Twelve lessons: you write the equations of Vision GNNs, and a check explains", "what went wrong.", ""]
    for lesson, is_done in zip(LESSONS, done, strict=True):
        mark = "done" if is_done else "    " if not (folder / lesson.file).exists() else "open"
        lines.append(f"  {mark}  {lesson.number:2}  {lesson.title:32}{lesson.source}")
    lines += ["", f"{sum(done)} of {len(LESSONS)} are done. {_next(folder)}"]
    return "\n".join(lines)


def _next(folder: Path) -> str:
    """Name the next step."""
    progress = Progress(folder)
    trains = "" if progress.missing() else TRAINS.format(folder=folder)
    for lesson in LESSONS:
        if not progress.is_done(lesson):
            return f"Next: python -m vig_minimal learn {lesson.number}{trains}"
    return f"That is the whole path.{trains}"


def begin(lesson: Lesson, folder: Path) -> str:
    """Write a lesson's file for the first time; return what to do with it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / lesson.file
    with open(path, "x", encoding="utf-8") as file:
        file.write(lesson.text())
    return (f"wrote {path}\n\n"
            f"Lesson {lesson.number}: {lesson.title}.\nRead the file, write the bodies that are missing,\n"
            f"then check them:   python -m vig_minimal learn {lesson.number}\n"
            f"If you are stuck:  python -m vig_minimal learn {lesson.number} --hint")


def check_file(lesson: Lesson, folder: Path) -> tuple[bool, str]:
    """Check a lesson's file; return whether it is done, and the report."""
    from .check import check, raised_by_file  # imports torch, which takes seconds

    path = folder / lesson.file
    title = f"Lesson {lesson.number}: {lesson.title}    {path}\n\n"
    try:
        answers = load(path)
    except (Exception, SystemExit) as error:
        Progress(folder).passed(lesson, False)
        return False, title + raised_by_file(error, path)
    report = check(lesson, answers)
    Progress(folder).passed(lesson, report.done, report.failing)
    if not report.done:
        return False, title + report.text
    return True, (f"{title}{report.text}\n\nDone. To look at it: python -m vig_minimal learn {lesson.number} --look\n"
                  f"{_next(folder)}")


def look(lesson: Lesson, folder: Path) -> str:
    """Run a lesson's file as a script in this process, which finds the package wherever this command did. Return the
    error message, or "" if there was none."""
    from .check import raised_by_file

    path = folder / lesson.file
    try:
        runpy.run_path(str(path.resolve()), run_name="__main__")
    except BrokenPipeError:  # whoever reads what is printed has read enough
        raise
    except Exception as error:
        return raised_by_file(error, path, "It stopped")
    return ""


def hint(lesson: Lesson, folder: Path) -> str:
    """Return the next hint for the function at which the last check failed or, if unknown, for all in turn."""
    from .check import wrap

    failing, given = Progress(folder).next_hint(lesson)
    by_function = lesson.checks().HINTS
    hints = by_function.get(failing, sum(by_function.values(), ()))
    what = f" for {failing}" if failing in by_function else ""
    if given >= len(hints):
        return (f"You have read {f'all {len(hints)} hints' if len(hints) > 1 else 'the hint'}{what}:\n\n"
                + "\n".join(line for text in hints for line in [*wrap("- " + text)])
                + f"\n\nWhere the answer stands: python -m vig_minimal learn {lesson.number} --solution")
    return "\n".join(wrap(f"Hint {given + 1} of {len(hints)}{what}: {hints[given]}"))


def solution(lesson: Lesson) -> str:
    """List file and line of the package's answers."""
    from .where import place

    lines = [f"Lesson {lesson.number}: {lesson.title}. The package has its answers in", ""]
    for task in lesson.checks().TASKS:
        lines.append(f"  {task.name}")
        for name in task.where:
            file, line = place(name)
            lines += [f"    {name}", f"    {file}, line {line}"]
    return "\n".join(lines)


@contextlib.contextmanager
def limited(path: Path, seconds: float) -> Iterator[None]:
    """End the process if the body takes longer, and show the line of the file that was running."""
    main, file, out = threading.get_ident(), str(path.resolve()), sys.stdout  # a check may catch what is printed

    def end() -> None:
        frames = traceback.extract_stack(sys._current_frames()[main])
        print(f"\nStopped: the check was still running after {seconds:g} s.", file=out)
        for frame in reversed(frames):
            if frame.filename == file:
                print(f"It was in line {frame.lineno} of {path}:\n\n    {frame.line}\n\nDoes its loop end?", file=out)
                break
        out.flush()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    if sys.__stderr__ is not None:
        with contextlib.suppress(ValueError, OSError):  # stderr is no file: the timer alone must do
            faulthandler.dump_traceback_later(seconds + 5, exit=True)  # where one operation of C does not end
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def main(argv: list[str] | None = None) -> None:
    """Run `python -m vig_minimal learn`."""
    parser = Parser("learn", __doc__, "3")
    parser.add_argument("number", nargs="?", type=int, choices=range(1, len(LESSONS) + 1), metavar="N",
                        help="lesson, 1 to 12")
    parser.add_argument("--hint", action="store_true",
                        help="next hint for the function of lesson N that fails")
    parser.add_argument("--solution", action="store_true", help="file and line of the package's solution")
    parser.add_argument("--look", action="store_true", help="run the file of lesson N, which draws")
    parser.add_argument("--notebook", metavar="FILE", help="write all lessons as one Jupyter notebook")
    args = parser.parse_args(argv)
    if args.notebook:
        from .notebook import write
        if args.number or args.hint or args.solution or args.look:
            parser.error("--notebook: writes all lessons; give no other argument")
        with parser.errors_in_one_sentence():
            return print(write(Path(args.notebook)))
    if args.number is None:
        if not (args.hint or args.solution or args.look):
            return print(path_of_lessons(FOLDER))
        parser.error("--hint, --solution and --look need a lesson's number, 1 to 12")
    lesson = find(args.number)
    with parser.errors_in_one_sentence():
        if args.hint:
            return print(hint(lesson, FOLDER))
        if args.solution:
            return print(solution(lesson))
        if not (FOLDER / lesson.file).exists():
            return print(begin(lesson, FOLDER))
        if args.look:
            if wrong := look(lesson, FOLDER):
                print(wrong)
                sys.exit(1)
            return None
        lesson.checks()  # imports torch, which is not in the time of the check
        with limited(FOLDER / lesson.file, SECONDS):
            is_done, text = check_file(lesson, FOLDER)
    print(text)
    if not is_done:
        sys.exit(1)
