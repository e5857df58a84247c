"""One program: `python -m tests.integration.interrupts.programs HOW FORM... OPTIONS`.

It prints what it did as JSON. If it is stuck it ends by itself, and tells where all threads are.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import breakerscope as bs
from tests.integration.interrupts.forms import FORMS, Form, Round, everything, round_of
from tests.integration.interrupts.world import (
    INTERRUPTS,
    Reason,
    World,
    in_another_thread,
    is_bad,
    is_interrupt,
    still_alive,
)

SHORTEST, SHORT = 20e-6, 250e-6
WARM_UP = 4
STEP = 10
FEWEST = 20
"""Fewer interrupts prove nothing, however long they take."""
THREADS = 3


PACKAGE = str(Path(bs.__file__).parent)
TESTS = str(Path(__file__).parents[1])


def in_package(frame: FrameType | None) -> bool:
    """Whether it is the package that is at work, and not what it calls of ours."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith((PACKAGE, "<breakerscope")):
            return True
        if file.startswith(TESTS) and file != __file__:
            return frame.f_code is is_bad.__code__  # it is asked by the package
        frame = frame.f_back
    return False


def calls(code: CodeType, frame: FrameType | None) -> bool:
    """Whether it is this code that is at work, or what it calls."""
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


class Run:
    """How often, and for how long at most."""

    def __init__(
        self, world: World, forms: list[Form], times: int, seconds: float, *, control: bool
    ) -> None:
        self.control = control
        self.world = world
        self.forms = forms
        self.times = times
        self.seconds = seconds
        self.end = 0.0
        self.chance = world.chance
        self.rounds = [round_of(world, form.name) for form in forms]

    def round(self) -> None:
        """One of the forms it is about."""
        self.chance.choice(self.rounds)()

    def goes_on(self, done: int) -> bool:
        """The time begins when this is first asked."""
        self.end = self.end or time.monotonic() + self.seconds
        if done % STEP == 0:
            still_alive()
        return done < self.times and (done < FEWEST or time.monotonic() < self.end)

    def warm_up(self, work: Round) -> float:
        """Everything is imported and made. Returns how long a round takes."""
        for _ in range(WARM_UP):
            work()
        start = time.perf_counter()
        for _ in range(WARM_UP):
            work()
        return (time.perf_counter() - start) / WARM_UP

    def delay(self, of_a_round: float) -> float:
        """Until the next interrupt: some moment of a round, however long that takes."""
        return self.chance.uniform(SHORTEST, max(SHORT, 1.2 * of_a_round))


def storm(run: Run) -> int:
    """A timer whose handler raises."""
    hits = 0
    fired = False
    within = run.forms[0].within

    def handler(_number: int, frame: FrameType | None) -> None:
        nonlocal hits, fired
        outside = within is not None and not calls(within, frame)
        if outside or (run.control and in_package(frame)):
            signal.setitimer(signal.ITIMER_REAL, SHORTEST)
            return
        hits += 1
        run.world.hits.append(None)
        fired = True
        raise run.chance.choice(INTERRUPTS)

    work = run.round
    length = run.warm_up(work)

    def until_it_fires() -> None:
        # A function: the jump of a loop belongs to no `try` around it, see test_loops_under_locks.
        # It ends in the other way where somebody has taken the error for that of a listener.
        while not fired:
            work()

    signal.signal(signal.SIGALRM, handler)
    while run.goes_on(hits):
        fired = False
        try:
            signal.setitimer(signal.ITIMER_REAL, run.delay(length))
            until_it_fires()
        except BaseException as error:
            if not is_interrupt(error):
                raise
    return hits


def handlers(run: Run) -> int:
    """A timer whose handler uses the form, in the middle of everything."""
    world, uses = run.world, 0
    rounds = everything(world, run.forms)

    def handler(_number: int, frame: FrameType | None) -> None:
        nonlocal uses
        if run.control and in_package(frame):
            signal.setitimer(signal.ITIMER_REAL, SHORTEST)
            return
        try:
            run.round()
        except BaseException as error:
            world.failures.note("in a handler", error)
        uses += 1

    lengths = {work: run.warm_up(work) for work in rounds}
    signal.signal(signal.SIGALRM, handler)
    while run.goes_on(uses):
        before, work = uses, run.chance.choice(rounds)
        signal.setitimer(signal.ITIMER_REAL, run.delay(lengths[work]))
        while uses == before:
            work()
    return uses


def finalisers(run: Run) -> int:
    """Objects that go at any moment, and use the form when they do."""
    world, uses = run.world, 0
    rounds = everything(world, run.forms)

    put_off: list[None] = []

    def use(_gone: object = None) -> None:
        nonlocal uses
        if run.control and in_package(inside(sys._getframe())):
            put_off.append(None)
            return
        try:
            run.round()
        except BaseException as error:
            world.failures.note("in a finaliser", error)
        uses += 1

    def inside(frame: FrameType | None) -> FrameType | None:
        """What ran when the finaliser came."""
        while frame is not None and frame.f_code.co_name in ("use", "__del__"):
            frame = frame.f_back
        return frame

    class Goes:
        """With the last reference, or with the next collection."""

        def __init__(self, *, cyclic: bool) -> None:
            self.me = self if cyclic else None

        def __del__(self) -> None:
            use()

    class Watched:
        """Others are told when it goes."""

        def __init__(self) -> None:
            self.me = self

    class Farewell(Exception):
        """An error that uses the form when it goes."""

        def __del__(self) -> None:
            use()

    def forget(what: object) -> None:
        """It goes with the next collection, and the call with it."""
        circle: list[object] = [what]
        circle.append(circle)

    references: list[weakref.ref[Watched]] = []

    def leave_one() -> None:
        way = run.chance.randrange(8)
        service = world.service
        if way == 0:
            Goes(cyclic=True)
        elif way == 1:
            references[:] = [weakref.ref(Watched(), use)]
        elif way == 2:
            weakref.finalize(Watched(), use)
        elif way == 3:
            service.attempt(service.plain, Goes(cyclic=False))
        elif way == 4:
            reason = Reason("it goes with the event")
            reason.last_words = use
            service.breaker.force_open(reason)
            service.breaker.reset()
        elif way == 5:
            stream = service.stream(3)
            service.attempt(next, stream)
            forget(stream)
        elif way == 6:
            if (exchange := service.attempt(service.breaker.exchange)) is not None:
                service.begun.append(None)
                forget(exchange)
        else:
            try:
                with service.breaker.guard():
                    service.begun.append(None)
                    raise Farewell
            except Farewell:
                pass
            except bs.CircuitBreakerOpenError:
                service.refused.append(None)

    for work in rounds:
        run.warm_up(work)
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    while run.goes_on(uses):
        for _ in range(run.chance.randrange(1, 4)):
            leave_one()
        run.chance.choice(rounds)()
        while put_off:
            put_off.pop()
            use()
    gc.set_threshold(*before)
    references.clear()
    gc.unfreeze()
    return uses


class Worker:
    """A thread that does one thing, and is hit by another one."""

    def __init__(self, work: Round) -> None:
        self.work = work
        self.ready = self.sent = self.stop = False
        self.raised: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop:
            try:
                self._until_it_is_hit()
            except BaseException as error:
                if not is_interrupt(error):
                    self.raised = error
                    return

    def _until_it_is_hit(self) -> None:
        self.sent, self.ready = False, True
        while self.ready and not self.stop:
            self.work()
        # It is on its way, or somebody has taken it for an error of his own.
        while not self.sent and not self.stop:
            time.sleep(0)

    def hit(self, error: type[BaseException]) -> bool:
        """Only once it is inside its `try`, and once at a time."""
        if not self.ready or self.thread.ident is None:
            return False
        self.ready = False
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self.thread.ident), ctypes.py_object(error)
        )
        self.sent = True
        return True


def threads(run: Run) -> int:
    """Exceptions set in three threads by another."""
    hits = 0
    run.warm_up(run.round)
    # Nobody knows whether it was this scrape that was hit.
    run.world.scrapes_list_all = False
    workers = [Worker(run.round) for _ in range(THREADS)]
    while run.goes_on(hits):
        for worker in workers:
            hits += worker.hit(run.chance.choice(INTERRUPTS))
        time.sleep(run.chance.uniform(SHORTEST, 2 * SHORT))
    for worker in workers:
        worker.stop = True
    for worker in workers:
        worker.thread.join()
        if worker.raised is not None:
            raise worker.raised
    return hits


HOW: dict[str, Callable[[Run], int]] = {
    "storm": storm,
    "handlers": handlers,
    "finalisers": finalisers,
    "threads": threads,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=HOW)
    parser.add_argument("forms", nargs="+", choices=FORMS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--times", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument(
        "--control",
        action="store_true",
        help="spare the package: shows that what fails without it is the fault of the package",
    )
    options = parser.parse_args()
    still_alive()
    forms = [FORMS[name] for name in options.forms]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        world = World(options.seed, Path(folder))
        run = Run(world, forms, options.times, options.seconds, control=options.control)
        try:
            times = HOW[options.how](run)
        finally:
            # The next one must not hide what went wrong.
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for _ in range(WARM_UP):
            # What others left unfinished, tasks say, ends here.
            run.round()
        still_alive()
        if options.how in ("storm", "threads"):
            world.interrupts = times
        afterwards(run)
        bs.flush(1.0)
    print(json.dumps({"times": times, "calls": sum(len(s.begun) for s in world.services)}))
    sys.stdout.flush()


def afterwards(run: Run) -> None:
    """Whatever was hit works as ever, here and in another thread."""
    world, rounds = run.world, everything(run.world, run.forms)
    world.set_up()
    world.check_all()

    def once_more() -> None:
        for work in rounds:
            still_alive()
            work()
        for number in range(5):
            world.per_key(f"{number}.example.org")
        assert len(world.per_key) <= 4, "more breakers by key than allowed"

    once_more()
    in_another_thread(once_more)
    world.set_up()
    world.check_all()


if __name__ == "__main__":
    main()
