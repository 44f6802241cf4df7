"""Ctrl-C, a closed terminal, the end of a batch job: whenever they come, nothing is left half-written."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from sigprune.base import atomic_dir, rename_exchange, signals, staging
from sigprune.base.atomic_dir import new_folder
from sigprune.cli.app import main
from sigprune.cli.process import guarded

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")

FOREVER = range(10**9)
"""Long enough for every machine; what never stops is a failure by time-out."""


def strike(number: int = signal.SIGINT) -> None:
    """The signal is handled at once: Python looks for signals when its own ``kill`` returns."""
    os.kill(os.getpid(), number)


def wait() -> None:
    """Work in Python."""
    for _ in FOREVER:
        pass


# An interruption gets lost


class Falls:
    def __del__(self) -> None:
        strike()


def in_del() -> None:
    Falls()
    wait()


def in_a_callback_of_a_weak_reference() -> None:
    gone = Falls.__new__(type("Thing", (), {}))
    reference = weakref.ref(gone, lambda _: strike())
    del gone
    assert reference() is None
    wait()


def in_a_bare_except() -> None:
    try:  # noqa: SIM105
        strike()
    except:  # noqa: E722
        pass
    wait()


def in_a_callback_of_c() -> None:
    ctypes.CFUNCTYPE(None)(strike)()
    wait()


def in_a_collection_of_garbage() -> None:
    def collected(phase: str, facts: dict) -> None:
        gc.callbacks.remove(collected)
        strike()

    gc.callbacks.append(collected)
    gc.collect()
    wait()


def in_a_generator_that_is_dropped() -> None:
    def generate() -> Iterator[None]:
        try:
            yield
        finally:
            strike()

    next(generate())
    wait()


def in_set_name() -> None:
    """Python makes a RuntimeError of it."""

    class Descriptor:
        def __set_name__(self, owner: type, name: str) -> None:
            strike()

    type("Owner", (), {"descriptor": Descriptor()})


def twice_in_a_row() -> None:
    in_del_first = Falls()
    del in_del_first
    in_a_bare_except()


LOST = [
    in_del,
    in_a_callback_of_a_weak_reference,
    in_a_bare_except,
    in_a_callback_of_c,
    in_a_collection_of_garbage,
    in_a_generator_that_is_dropped,
    in_set_name,
    twice_in_a_row,
]


@pytest.mark.parametrize("act", LOST, ids=lambda act: act.__name__)
def test_an_interruption_that_gets_lost_comes_again(act, capsys):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    assert guarded(act, ()) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == handlers
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_lost_just_before_the_end(capsys):
    def act() -> None:
        Falls()

    assert guarded(act, ()) == 130
    assert capsys.readouterr().err == "error: interrupted when everything was done\n"


def test_what_is_lost_besides_is_still_reported(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: reported.append(about.exc_value))

    class Fails:
        def __del__(self) -> None:
            raise ValueError

    def act() -> None:
        Fails()

    assert guarded(act, ()) == 0
    assert [type(error) for error in reported] == [ValueError]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_and_their_codes(name, capsys, tmp_path):
    number = getattr(signal, name)

    def act() -> None:
        with new_folder(tmp_path / "out"):
            strike(number)

    assert guarded(act, ()) == 128 + number
    told = f"nothing was written to {tmp_path / 'out'}; the same command starts again from the beginning"
    assert capsys.readouterr().err == f"error: interrupted: {told}\n"
    assert not list(tmp_path.iterdir())


def test_signals_that_are_ignored_stay_ignored(tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert guarded(lambda: strike(signal.SIGHUP), ()) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_does_not_stop_the_cleaning_and_a_third_one_does(capsys):
    cleaned = []

    def act(count: int) -> None:
        try:
            strike()
        finally:
            for _ in range(count - 1):
                strike()
            cleaned.append(count)

    for count in (1, 2, 3):
        assert guarded(partial(act, count), ()) == 130
    assert cleaned == [1, 2]
    assert "Traceback" not in capsys.readouterr().err


def test_a_terminal_that_is_gone(monkeypatch):
    class Gone:
        def write(self, _: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    assert guarded(lambda: strike(signal.SIGHUP), ("--quiet",)) == 129


# A folder is written

FILES = frozenset(module.__file__ for module in (atomic_dir, rename_exchange, signals, staging))


def at(number: int, act: Callable[[], object], *, signals: int) -> int:
    """Strike at one line out of those of the modules that write folders, and at each that follows it.

    Returns:
        How many lines there were up to the end.
    """
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> object:
        nonlocal lines
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            lines += 1
            if number <= lines < number + signals:
                strike()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return lines


def exchanged(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "mark").write_text("old")


def filled(folder: Path) -> None:
    """As where the folder must stay the same one."""
    exchanged(folder)
    (folder / "out" / "more").write_text("old")


def fresh(folder: Path) -> None:
    """Nothing is there."""


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("start", [fresh, exchanged, filled], ids=lambda start: start.__name__)
def test_wherever_a_write_is_interrupted_the_folder_is_the_old_or_the_new_one(
    start, signals, tmp_path, monkeypatch, capsys
):
    """At every single line, once, and a second time in the line that follows."""
    if start is filled:
        monkeypatch.setattr(atomic_dir, "exchangeable", lambda _: False)

    def write(folder: Path) -> None:
        with new_folder(folder / "out", replace=("mark",)) as part:
            (part / "mark").write_text("new")

    def content(folder: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.iterdir()}

    def attempt(number: int, folder: Path) -> int | None:
        """How many lines there were, if the end was reached."""
        folder.mkdir()
        start(folder)
        states = [content(folder / "out") if (folder / "out").exists() else None, {"mark": "new"}]
        lines: list[int] = []
        code = guarded(lambda: lines.append(at(number, lambda: write(folder), signals=signals)), ())
        said = capsys.readouterr().err
        assert (code, said == "") == ((0, True) if lines else (130, False)), (number, said)
        state = content(folder / "out") if (folder / "out").exists() else None
        assert {path.name for path in folder.iterdir()} == (set() if state is None else {"out"}), (
            number,
            said,
        )
        assert state in states[lines != [] or "is complete" in said :], (number, said)
        assert state == states[0] or "nothing was written" not in said, (number, said)
        return lines[0] if lines else None

    number = 1
    while attempt(number, tmp_path / str(number)) is None:
        number += 1 if signals == 1 else 4
    assert number > 40


def test_what_a_killed_process_left_is_removed_when_the_folder_is_written_again(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale, living = tmp_path / f".out.{dead.pid}-0.part", tmp_path / f".out.{os.getppid()}-0.part"
    other, old = tmp_path / f".other.{dead.pid}-0.part", tmp_path / f".out.{dead.pid}-0.old"
    for folder in (stale, living, other, old):
        folder.mkdir()
        (folder / "file").write_text("half")
    with new_folder(tmp_path / "out") as part:
        (part / "file").write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"out", living.name, other.name, old.name}


def test_a_folder_in_which_another_container_works_stays(tmp_path):
    """Its number of a process means nothing here, its lock does."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    busy = tmp_path / f".out.{dead.pid}-0.part"
    busy.mkdir()
    lock = staging.lock(busy)
    assert lock is not None
    try:
        with new_folder(tmp_path / "out"):
            assert busy.exists()
    finally:
        os.close(lock)
    assert busy.exists()


# Whole commands

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
SMALL = [
    "model.ref=timm:test_resnet", "model.args={in_chans: 1}", "data.size=32",
    "data.source={name: noise, examples: 40}", "prune.batches=1", "measure.examples=2",
    "isometry.steps=2", "train.epochs=1", "baselines=[]",
]  # fmt: skip
RUN = ["run", "quickstart", "--out", "out", *(word for value in SMALL for word in ("--set", value))]
AT_IMPORT = """
import os, runpy, signal, sys
def hook(event, about):
    if event == "import" and about[0] == WANTED:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
sys.argv[0] = "sigprune"
runpy.run_module("sigprune", run_name="__main__")
"""


@pytest.mark.parametrize("library", ["typer", "torch"])
def test_interrupted_while_a_library_is_imported(library, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", f"WANTED = {library!r}\n{AT_IMPORT}", *RUN],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stderr.startswith("error: interrupted")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


STEPS = {
    "prune": "sigprune.experiment.pipeline.mask_for",
    "isometry": "sigprune.experiment.pipeline.restore_",
    "train sparse": "sigprune.experiment.pipeline.fit",
    "load back": "sigprune.experiment.runner.load",
}


@pytest.mark.parametrize("step", STEPS)
def test_interrupted_in_a_step(step, monkeypatch, tmp_path, capsys):
    """The line says in which, and that nothing is there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(STEPS[step], lambda *_, **__: strike())
    assert main([*RUN, "--quiet"]) == 130
    told = f"step {step!r} was not finished; nothing was written to out; the same command starts again"
    assert capsys.readouterr().err == f"error: interrupted: {told} from the beginning\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_is_interrupted_at_hundreds_of_moments(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.interrupting", "10007", str(tmp_path), *RUN, "--quiet"],
        env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    *forks, end = map(json.loads, filter(lambda line: line.startswith("{"), done.stdout.splitlines()))
    assert end["end"] == 0, done.stderr
    assert len(forks) > 100
    for fork in forks:
        assert fork["code"] == 130, fork
        assert fork["said"].startswith("error: interrupted"), fork
        assert fork["said"].count("\n") == 1, fork
        assert fork["left"] == [] or "nothing was written" not in fork["said"], fork
        assert fork["left"] in ([], ["out"]), fork
        assert fork["left"] == [] or fork["whole"], fork
