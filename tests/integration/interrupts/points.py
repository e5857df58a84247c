"""One call, interrupted at each point in turn: `python -m tests.integration.interrupts.points`.

Two kinds of points. `real`: where CPython looks for signals and the like, which is when a function
is entered and when one that was written in C has returned; what is raised there is what a handler
raises. (It looks also where a loop jumps back; that is left to the storms.) `lines`: before each
line. That is harsher than any signal can be, and finds what might break when a line is added. Only
where a lock would be lost by the trace function alone is left out, see `out_of_reach`.

After each interrupt another thread has to get into every lock, and the breaker has to work.
"""

from __future__ import annotations

import argparse
import dis
import faulthandler
import gc
import json
import os
import queue
import random
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import breakerscope as bs
from breakerscope import State
from tests.integration.interrupts.cases import ENDINGS, GROUPS, PER_KEY, REGISTRY, Case, Subject
from tests.integration.interrupts.world import INTERRUPTS, Failures, Interrupt, still_alive

PACKAGE = str(Path(bs.__file__).parent)
SOON = float(os.environ.get("BREAKERSCOPE_INTERRUPTS_SOON", "3"))
"""How long another thread may take to get in, and a breaker to change its state."""
MOST_LEAKS = 150
"""With hundreds of leaked listeners all becomes slow."""
MOST_WRONG = 3
"""More of them, of the same case, say nothing new."""


# -- where -----------------------------------------------------------------------------------------


class Injection:
    """Raises at the k-th point, counted in this thread."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.left = at
        self.error = error
        self.where = ""

    @property
    def fired(self) -> bool:
        return bool(self.where)

    def point(self, frame: FrameType, what: str) -> None:
        self.left -= 1
        if self.left == 0:
            file = frame.f_code.co_filename.removeprefix(PACKAGE + os.sep)
            self.where = f"{file}:{frame.f_lineno} in {frame.f_code.co_qualname}, {what}"
            raise self.error(self.where)


def is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith((PACKAGE, "<breakerscope"))


def at_real_points(injection: Injection, act: Callable[[], object]) -> None:
    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_return") and is_ours(frame):
            injection.point(frame, event)

    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)


def at_lines(injection: Injection, act: Callable[[], object]) -> None:
    def in_frame(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line" and frame.f_lasti not in out_of_reach(frame.f_code):
            injection.point(frame, event)
        return in_frame

    def trace(frame: FrameType, _event: str, _argument: object) -> Any:
        return in_frame if is_ours(frame) else None

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)


@cache
def out_of_reach(code: CodeType) -> frozenset[int]:
    """The offsets of instructions before which nothing can come in between, but a trace function.

    They leave a `with`: three times None, and the call. Or they are those of a comprehension that
    3.12 and later have inlined: what is raised as one of these jumps back is not put right.
    """
    found: set[int] = set()
    instructions = [each for each in dis.get_instructions(code) if each.opname != "CACHE"]
    for before, *nones, call in zip(*(instructions[at:] for at in range(5)), strict=False):
        if call.opname in ("PRECALL", "CALL") and all(
            each.opname == "LOAD_CONST" and each.argval is None for each in nones
        ):
            found.update(each.offset for each in (*nones, call))
            if before.opname == "SWAP":
                found.add(before.offset)
    names = {each.offset: each.opname for each in instructions}
    bytecode: Any = dis.Bytecode(code)
    for entry in bytecode.exception_entries:
        if names[entry.target] == "SWAP":
            found.update(range(entry.start, entry.end, 2))
    return frozenset(found)


MODES: dict[str, Callable[[Injection, Callable[[], object]], None]] = {
    "real": at_real_points,
    "lines": at_lines,
}


# -- afterwards ------------------------------------------------------------------------------------


class Watchdog:
    """Another thread, which does as it is told and says when it is done."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except BaseException as error:
                self._done.put(error)
            else:
                self._done.put(None)

    def do(self, job: Callable[[], object]) -> None:
        """Raises TimeoutError if it does not come back."""
        self._jobs.put(job)
        try:
            error = self._done.get(timeout=SOON)
        except queue.Empty:
            raise TimeoutError("another thread does not get in") from None
        if error is not None:
            raise error


def check(subject: Subject, calls: int, watchdog: Watchdog) -> None:
    """The breaker and all that is shared work, in another thread and in this one."""
    breaker = subject.breaker

    def of_this_breaker() -> None:
        assert breaker.state in State
        breaker.read()
        subject.call(call=lambda: breaker.call(subject.answer))

    def of_all() -> None:
        bs.subscribe(list[bs.Event]().append, breaker="nobody").close()
        assert breaker in bs.breakers()
        assert bs.instrumented_breaker(subject.name) is breaker
        # Other keys than those of the trial, and as many as there may be.
        for key in "abc":
            PER_KEY(key)
        assert len(PER_KEY) <= 3, "more breakers by key than allowed"
        bs.flush(0.0)

    watchdog.do(of_this_breaker)
    watchdog.do(of_all)
    reading = breaker.read()
    total = sum(reading.calls.values())
    least = subject.calls + max(calls - 1, 0)
    assert least <= total <= subject.calls + calls, (
        f"{subject.calls} calls were made and up to {calls} interrupted;"
        f" {total} are counted: {reading.calls}"
    )
    assert 0 <= reading.in_flight <= 1, f"{reading.in_flight} in flight"
    breaker.reset()
    in_flight = breaker.read().in_flight
    assert in_flight == 0, f"after a reset {in_flight} calls are in flight"
    works(subject)
    watchdog.do(lambda: listed(subject))


def works(subject: Subject) -> None:
    """It opens on a dead dependency, refuses, and closes on a good one."""
    breaker = subject.breaker
    calls_until(subject, "dead", lambda: breaker.state is State.OPEN, "it does not open")
    rejected = breaker.read().rejected
    calls_until(subject, "dead", lambda: breaker.read().rejected > rejected, "it does not refuse")
    calls_until(subject, "good", lambda: breaker.state is State.CLOSED, "it does not close")
    assert subject.plain() == subject.or_else() == "good"
    assert breaker.read().in_flight == 0


def calls_until(subject: Subject, mood: str, ask: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + SOON
    while True:
        subject.call(mood)
        if ask():
            return
        assert time.monotonic() < end, otherwise
        time.sleep(0.0002)


def listed(subject: Subject) -> None:
    """As `generate_latest` would print it, which takes ten times as long."""
    states = {
        sample.labels["state"]: sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "circuit_breaker_state" and sample.labels["breaker"] == subject.name
    }
    assert states.get("closed") == 1.0, f"the scrape does not say that it is closed: {states}"


NUMBERS = count()


class Trials:
    """All points of all cases of a group, one after the other."""

    def __init__(
        self, mode: str, folder: Path, failures: Failures, *, seed: int = 0, most: int = 0
    ) -> None:
        self.inject = MODES[mode]
        self.chance = random.Random(seed)
        self.most = most
        self.folder = folder
        self.failures = failures
        self.watchdog = Watchdog()
        self.points: Counter[str] = Counter()
        self.wrong: list[str] = []

    def all_of(self, group: str) -> None:
        """Until all is done, or stuck: then what is shared may be lost, and all else with it."""
        for name, case in sorted(GROUPS[group].items(), key=lambda pair: pair[1].leaks):
            before = len(self.wrong)
            for injection in self.injections(name, case):
                try:
                    self.one(name, case, injection)
                except TimeoutError as stuck:
                    faulthandler.dump_traceback(all_threads=True)
                    self.note(name, injection, stuck)
                    return
                if len(self.wrong) >= before + MOST_WRONG:
                    break

    def injections(self, name: str, case: Case) -> Iterator[Injection]:
        """All points, with each kind of error; or at most so many, spread over all."""
        for _ in range(2):
            # The first time, more has to be made.
            dry = Injection(sys.maxsize, Interrupt)
            self.one(name, case, dry)
        points = sys.maxsize - dry.left
        every = [(at, error) for at in range(1, points + 1) for error in INTERRUPTS]
        most = min(self.most or len(every), MOST_LEAKS if case.leaks else len(every))
        if len(every) > most:
            step = len(every) / most
            start = self.chance.random() * step
            every = [every[int(start + step * number)] for number in range(most)]
        for at, error in every:
            yield Injection(at, error)

    def note(self, name: str, injection: Injection, problem: Exception) -> None:
        told = f"{type(problem).__name__}: {problem}"
        self.wrong.append(f"{name}, {injection.error.__name__} at {injection.where}: {told}")

    def one(self, name: str, case: Case, injection: Injection) -> None:
        """One trial."""
        still_alive()
        subject = Subject(f"{name} {next(NUMBERS)}", case.kind, self.folder)
        act = case.prepare(subject)
        with suppress(*INTERRUPTS, *ENDINGS):
            self.inject(injection, act)
        del act
        subject.mood = "good"
        if injection.fired:
            self.points[name] += 1
            try:
                if case.leaks:
                    # The telemetry, too, may have been left half set up.
                    bs.setup_telemetry(registry=REGISTRY, logs=False)
                check(subject, case.calls, self.watchdog)
                self.failures.check()
            except TimeoutError:
                raise
            except Exception as problem:
                self.note(name, injection, problem)
                self.failures.texts.clear()
        for each in subject.listening:
            each.close()
        for ending in ("", " again", " gone"):
            bs.remove_breaker(subject.name + ending)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=0, help="trials of a case; 0: all there are")
    options = parser.parse_args()
    still_alive()
    warnings.simplefilter("ignore")
    failures = Failures()
    bs.setup_telemetry(registry=REGISTRY, logs=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for case in GROUPS[options.group].values():
            # All is imported once, by a trial without an interrupt.
            subject = Subject(f"warm {case.prepare.__name__}", case.kind, Path(folder))
            with suppress(*ENDINGS):
                case.prepare(subject)()
            bs.remove_breaker(subject.name)
        bs.setup_telemetry(registry=REGISTRY, logs=False)
        gc.collect()
        gc.freeze()
        trials = Trials(options.mode, Path(folder), failures, seed=options.seed, most=options.most)
        trials.all_of(options.group)
    points, wrong = trials.points, trials.wrong
    for text in wrong:
        print(text, file=sys.stderr)
    print(json.dumps({"times": points.total(), "points": points, "wrong": len(wrong)}))
    sys.stdout.flush()
    os._exit(bool(wrong))


if __name__ == "__main__":
    main()
