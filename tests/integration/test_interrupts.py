"""No interrupt at whatever moment takes a lock, or a breaker, for good.

From a finaliser, a weakref callback or a signal handler, at any moment, every public method returns
with a sensible answer. An exception raised anywhere into the package leaves no lock held, and no
breaker that cannot open, close, be read or be scraped; at most the interrupted call is missing from
a count.

Each test is a program in a process of its own (`interrupts/`), which ends by itself when it has not
moved for ten seconds, and says where all its threads were. Two of them run at a time.

`BREAKERSCOPE_INTERRUPTS=100000` is the nightly profile: so many interrupts for each form, and every
point of every call; that takes hours. `BREAKERSCOPE_INTERRUPTS_SEED=7` makes the programs throw
their dice again as in a run that has failed; what a timer hits is another matter.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import breakerscope
from tests.integration.interrupts.cases import GROUPS
from tests.integration.interrupts.forms import FORMS

NIGHTLY = int(os.environ.get("BREAKERSCOPE_INTERRUPTS", "0"))
DICE = random.SystemRandom()
AT_ONCE = 2
CRASH = "CPython 3.11 crashed"
IN_ONE_PROCESS, IF_IT_LEAKS = 2000, 300
"""Hundreds of listeners that interrupts have left behind make all that comes after them slow."""

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="timers and signals are those of POSIX"),
    pytest.mark.timeout(4 * 3600 if NIGHTLY else 180),
]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Program:
    """What is run in a process of its own."""

    module: str
    how: str
    what: tuple[str, ...]

    @property
    def name(self) -> str:
        return ", ".join(self.what)

    def options(self, seed: int, done: int) -> list[str]:
        if self.module == "points":
            limit = ["--most", "0" if NIGHTLY else "20"]
            return [f"--seed={seed}", *limit]
        leaks = any(FORMS[name].leaks for name in self.what)
        most = IF_IT_LEAKS if leaks else IN_ONE_PROCESS
        times = min(NIGHTLY - done, most) if NIGHTLY else 300
        seconds = 60.0 if NIGHTLY else 0.5
        return [f"--seed={seed}", f"--times={times}", f"--seconds={seconds}"]


@dataclass(frozen=True)
class Ended:
    """How a program ended: `times` it was interrupted, or why that is not known."""

    times: int
    problem: str = ""


def run(program: Program) -> Ended:
    """Run it, in the nightly profile as often as it takes."""
    seed = int(
        os.environ.get("BREAKERSCOPE_INTERRUPTS_SEED", random.SystemRandom().getrandbits(32))
    )
    times = 0
    while True:
        ended = run_once(program, program.options(seed, times))
        times += ended.times
        if ended.problem or program.module == "points" or times >= NIGHTLY:
            return Ended(times, ended.problem)
        seed += 1


def run_once(program: Program, options: list[str]) -> Ended:
    command = [f"tests.integration.interrupts.{program.module}", program.how, *program.what]
    command = [sys.executable, "-m", *command, *options]
    paths = [str(ROOT), str(Path(breakerscope.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    with TemporaryDirectory() as folder:
        if any(FORMS[name].multiprocess for name in program.what if name in FORMS):
            environment["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            done = subprocess.run(
                command,
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=3600 if NIGHTLY else 120,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            return Ended(0, f"{shlex.join(command)}\n{expired}")
    if program.how == "finalisers" and sys.version_info < (3, 12):
        # A collection may set a context variable while CPython 3.11 sets another one, which then
        # keeps a value that is gone. From 3.12 on no collection comes in there.
        if done.returncode == -signal.SIGSEGV:
            return Ended(0, CRASH)
    if done.returncode:
        return Ended(0, f"{shlex.join(command)}\n{done.stderr[-8000:]}")
    return Ended(json.loads(done.stdout.splitlines()[-1])["times"])


@pytest.fixture(scope="module")
def end_of(request: pytest.FixtureRequest) -> Iterator[Callable[[Program], Ended]]:
    """How a program has ended. All that are asked for run from the start, as many as there are
    cores for: the tests wait for them one by one.
    """
    here = [item for item in request.session.items if item.path == Path(__file__)]
    params = [item.callspec.params for item in here if hasattr(item, "callspec")]
    asked: list[Program] = [of_test["program"] for of_test in params]
    if "PYTEST_XDIST_WORKER" in os.environ:
        asked.clear()  # Other workers have their share, and nobody knows which.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {program: pool.submit(run, program) for program in asked}
        yield lambda program: (running.get(program) or pool.submit(run, program)).result()
        pool.shutdown(cancel_futures=True)


def programs(module: str, how: str, *whats: tuple[str, ...]) -> pytest.MarkDecorator:
    made = [Program(module, how, what) for what in whats]
    return pytest.mark.parametrize("program", made, ids=[each.name for each in made])


TOGETHER = [
    ("def", "async def", "call", "call of a coroutine"),
    ("generator", "async generator"),
    ("guard", "async guard", "exchange", "fallback"),
    ("state", "read", "snapshot, adopt"),
    ("force_open, disable, reset", "isolated"),
    ("subscribe", "recent", "stream", "astream"),
    ("flush", "to_jsonl"),
    ("scrape",),
    ("instrumented_breaker, remove_breaker", "breakers_per", "configure"),
    ("setup_telemetry",),
    ("multiprocess",),
    ("httpx", "bridge", "compat"),
]
"""The forms that share a program, where all of them can be used at any moment."""
EACH = [(name,) for name in FORMS]
BY_OTHERS = [(name,) for names in TOGETHER for name in names] if NIGHTLY else TOGETHER


def test_every_form_is_used_by_others_too() -> None:
    together = {name for names in TOGETHER for name in names}
    assert together == {name for name, form in FORMS.items() if form.everywhere}


@programs("programs", "storm", *EACH)
def test_a_signal_handler_raises(program: Program, end_of: Callable[[Program], Ended]) -> None:
    check(end_of(program))


@programs("programs", "handlers", *BY_OTHERS)
def test_a_signal_handler_uses_it(program: Program, end_of: Callable[[Program], Ended]) -> None:
    check(end_of(program))


@programs("programs", "finalisers", *BY_OTHERS)
def test_a_finaliser_uses_it(program: Program, end_of: Callable[[Program], Ended]) -> None:
    check(end_of(program))


@programs("programs", "threads", *BY_OTHERS)
def test_another_thread_sets_an_exception(
    program: Program, end_of: Callable[[Program], Ended]
) -> None:
    check(end_of(program))


@programs("points", "real", *((group,) for group in GROUPS))
def test_an_exception_at_each_point_where_python_looks(
    program: Program, end_of: Callable[[Program], Ended]
) -> None:
    check(end_of(program))


@programs("points", "lines", *((group,) for group in GROUPS))
def test_an_exception_at_each_line(program: Program, end_of: Callable[[Program], Ended]) -> None:
    check(end_of(program))


def check(ended: Ended) -> None:
    if ended.problem == CRASH:
        pytest.skip(CRASH)
    assert not ended.problem, ended.problem
    assert ended.times
