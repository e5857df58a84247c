"""No interrupt at whatever moment takes a lock, or a breaker, for good.

From a finaliser, a weakref callback or a signal handler, at any moment, every public method returns
with a sensible answer. An exception raised anywhere into the package leaves no lock held, and no
breaker that cannot open, close, be read or be scraped; at most the interrupted call is missing from
a count.

Each test is a program in a process of its own (`interrupts/`), which ends by itself when it has not
moved for ten seconds, and says where all its threads were.

`BREAKERSCOPE_INTERRUPTS=100000` is the nightly profile: so many interrupts for each form by itself,
and every point of every call; that takes hours.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.interrupts.cases import GROUPS
from tests.integration.interrupts.forms import FORMS

NIGHTLY = int(os.environ.get("BREAKERSCOPE_INTERRUPTS", "0"))
DICE = random.SystemRandom()

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="timers and signals are those of POSIX"),
    pytest.mark.timeout(4 * 3600 if NIGHTLY else 240),
]
ROOT = Path(__file__).parents[2]

CALLS = (
    *("def", "async def", "generator", "async generator", "call", "call of a coroutine"),
    *("guard", "async guard", "exchange", "fallback", "httpx"),
)
READS = ("state", "read", "snapshot, adopt", "force_open, disable, reset", "isolated", "scrape")
MAKES = ("instrumented_breaker, remove_breaker", "breakers_per", "configure", "compat", "bridge")
TOGETHER = {"calls": CALLS, "readings and commands": READS, "registry and others": MAKES}
HOW = ("storm", "handlers", "finalisers", "threads")


def program(module: str, *arguments: str) -> None:
    seed = DICE.randrange(2**31)
    command = [sys.executable, "-m", f"tests.integration.interrupts.{module}", *arguments]
    done = subprocess.run(
        [*command, f"--seed={seed}"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} --seed={seed}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("group", TOGETHER)
def test_whatever_interrupts_it_goes_on(how: str, group: str) -> None:
    """Timer signals that raise, handlers and finalisers that use everything, exceptions set by
    another thread in three.
    """
    program("programs", how, *TOGETHER[group], "--times=2000", "--seconds=2")


@pytest.mark.parametrize("group", GROUPS)
def test_a_raise_at_each_line_costs_that_call_at_most(group: str) -> None:
    program("points", "lines", group, f"--most={0 if NIGHTLY else 12}")


@pytest.mark.skipif(not NIGHTLY, reason="BREAKERSCOPE_INTERRUPTS is not set")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("form", FORMS)
def test_a_night_of_interrupts(how: str, form: str) -> None:
    # A process for each 2,000: what an interrupt leaks, a listener say, makes the next ones slower.
    for _ in range(0, NIGHTLY, 2000):
        program("programs", how, form, f"--times={min(NIGHTLY, 2000)}", "--seconds=60")
