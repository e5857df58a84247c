"""Mutation tests of the pure core: each small change to a rule has to make some test fail.

Run it with `make mutate`. It takes the changes from mutmut and adds a few of its own. It does not
use mutmut's runner, which leaves out decorated functions (so all properties) and everything that
stands at the top of a module or a class (the defaults of a policy, the table of transitions).

No file is touched. Each change lives in the memory of one forked process, which runs the quick
tests and stops at the first failure. A change that no test notices has to stand in
`docs/mutation.md`, with the reason why nobody could notice it. Exit code 1: a change that nobody
noticed is not listed there, or a listed one is noticed or gone. Exit code 2: the run itself failed.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import ndiff
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from textwrap import indent
from time import monotonic
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "breakerscope" / "core"
LIST = ROOT / "docs" / "mutation.md"
MODULES = (
    "windows",
    "policy",
    "classification",
    "state_machine",
    "manual_control",
    "trip_rules",
)
TESTS = (
    "test_policy",
    "test_classify",
    "test_machine_rules",
    "test_machine",
    "test_bad_input",
    "test_semantics",
    "test_extras",
)
PYTEST = [
    *("-x", "-q", "--assert=plain", "--no-header", "--rootdir", str(ROOT)),
    *("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"),
    # The first tries many examples, the second starts a pytest of its own.
    *("-k", "not test_no_random_run_leaves_the_table and not test_the_fixtures_of_the_plugin"),
    *(str(ROOT / "tests" / "unit" / f"{name}.py") for name in TESTS),
]
PRELOADED = (
    *("pytest", "_pytest.pytester", "hypothesis", "sybil", "anyio", "asyncio", "httpx"),
    *("structlog", "prometheus_client", "opentelemetry.trace", "opentelemetry.sdk.trace"),
)
"""Imported once for all; nothing of breakerscope may be among them."""

MEMORY = 4 << 30
"""Bytes that one run may use: a change can make a loop endless."""


@dataclass(frozen=True, order=True)
class Change:
    """One change: where it is, the lines before and the lines after."""

    module: str
    scope: str
    diff: str

    def __str__(self) -> str:
        return f"### `{self.module}.py`: `{self.scope}`\n\n```diff\n{self.diff}\n```\n"


@dataclass(frozen=True)
class Mutant:
    """A change and the whole module that has it."""

    change: Change
    source: str


# -- making changes -------------------------------------------------------------------------------


def mutants_of(module: str) -> Iterator[Mutant]:
    """All changes of one module, in the order of its lines."""
    cst: Any = import_module("libcst")
    mutmut: Any = import_module("mutmut.mutation.file_mutation")
    mutators: Any = import_module("mutmut.mutation.mutators")
    pragmas: Any = import_module("mutmut.mutation.pragma_handling")

    source = (PACKAGE / f"{module}.py").read_text()
    wrapper = cst.MetadataWrapper(cst.parse_module(source))
    nothing = pragmas.get_ignored_lines(module, source, wrapper, None)
    own = [(cst.CSTNode, lambda node: _own_changes(cst, node))]
    visitor = mutmut.MutationVisitor([*mutators.mutation_operators, *own], nothing)
    visitor._skip_node_and_children = lambda node: _is_for_type_checkers(cst, node)
    tree = wrapper.visit(visitor)
    scopes = _scopes(source)
    for mutation in visitor.mutations:
        changed = tree.deep_replace(mutation.original_node, mutation.mutated_node).code
        if changed == source:
            continue
        first, diff = _diff(source, changed)
        yield Mutant(Change(module, scopes[first], diff), changed)


def _is_for_type_checkers(cst: Any, node: Any) -> bool:
    """Annotations, the type in a `cast`, and calls that only fail when changed."""
    if isinstance(node, cst.Annotation):
        return True
    called = node.func.value if isinstance(node, cst.Call) else None
    return called in ("len", "isinstance", "cast", "TypeVar")


def _own_changes(cst: Any, node: Any) -> Iterator[Any]:
    """What mutmut leaves out: a statement that is not made, a condition the other way round, min
    for max, any for all.
    """
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield cst.Pass()
    if isinstance(node, cst.Raise) or (isinstance(node, cst.Return) and node.value is None):
        yield cst.Pass()
    if isinstance(node, cst.If | cst.While | cst.CompIf):
        test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        negated = cst.UnaryOperation(
            cst.Not(), test, lpar=[cst.LeftParen()], rpar=[cst.RightParen()]
        )
        yield node.with_changes(test=negated)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
        other = {"min": "max", "max": "min", "any": "all", "all": "any"}.get(node.func.value)
        if other is not None:
            yield node.with_changes(func=cst.Name(other))


def _scopes(source: str) -> list[str]:
    """The qualified name of what each line belongs to; lines count from 0."""
    scopes: list[str] = []
    stack: list[tuple[int, str]] = []
    # A decorator belongs to what it decorates: it is given that name before its turn.
    for line in re.sub(
        r"(?m)^( *)(@.*)\n( *(?:class|def) (\w+))", r"\1def \4 \2\n\3", source
    ).split("\n"):
        depth = len(line) - len(line.lstrip())
        if line.strip() and line.strip()[0] not in ")]}":
            while stack and depth <= stack[-1][0]:
                stack.pop()
        if named := re.match(r"\s*(?:class|(?:async )?def) (\w+)", line):
            stack.append((depth, named[1]))
        scopes.append(".".join(name for _, name in stack) or "module")
    return scopes


def _diff(before: str, after: str) -> tuple[int, str]:
    """The first line that differs, and all that do."""
    old, new = before.splitlines(), after.splitlines()
    first = next(at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    old.reverse()
    new.reverse()
    same = next(at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    old, new = old[same : len(old) - first][::-1], new[same : len(new) - first][::-1]
    lines = [line for line in ndiff(old, new) if line[0] in "+-"]
    # All that goes, then all that comes; the indentation of the first line is taken away.
    lines.sort(key=lambda line: line[0] == "+")
    margin = min(len(line[2:]) - len(line[2:].lstrip()) for line in lines)
    return first, "\n".join(line[:2] + line[2 + margin :] for line in lines)


# -- one run in one process -----------------------------------------------------------------------


class Changed(MetaPathFinder, Loader):
    """Gives one module of breakerscope another source."""

    def __init__(self, module: str, source: str) -> None:
        self.name = f"breakerscope.core.{module}"
        self.path = str(PACKAGE / f"{module}.py")
        self.source = source

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """The spec of that module, nothing for all others."""
        return spec_from_loader(fullname, self, origin=self.path) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the other source."""
        code: CodeType = compile(self.source, self.path, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - that is what an import does


def start(changed: Changed | None) -> int:
    """Run the tests in a new process; its exit code is 0 if they all pass."""
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silent, stream)
        if changed is not None:
            sys.meta_path.insert(0, changed)
        code = int(import_module("pytest").main(PYTEST))
    finally:
        os._exit(code)


def survivors(mutants: list[Mutant], workers: int, limit: float) -> Iterator[Mutant]:
    """The mutants under which all tests pass. A run that takes longer than `limit` is a failure."""
    waiting = mutants[::-1]
    running: dict[int, tuple[Mutant, float]] = {}
    done = 0
    while waiting or running:
        while waiting and len(running) < workers:
            mutant = waiting.pop()
            child = start(Changed(mutant.change.module, mutant.source))
            running[child] = (mutant, monotonic() + limit)
        signal.sigtimedwait([signal.SIGCHLD], 1.0)
        for child, (mutant, end) in list(running.items()):
            if monotonic() > end:
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
            pid, status = os.waitpid(child, os.WNOHANG)
            if not pid:
                continue
            del running[child]
            done += 1
            if done % 100 == 0:
                print(f"  {done} of {len(mutants)}", flush=True)
            if status == 0:
                yield mutant


def result_of(changed: Changed | None) -> tuple[bool, float]:
    """Whether all tests pass, and the seconds they took."""
    began = monotonic()
    _, status = os.waitpid(start(changed), 0)
    return status == 0, monotonic() - began


# -- the list of those that nobody can notice -----------------------------------------------------

ENTRY = re.compile(
    r"^### `(?P<module>\w+)\.py`: `(?P<scope>[\w.]+)`\n(?P<rest>.*?)(?=^##|\Z)",
    re.MULTILINE | re.DOTALL,
)
DIFF = re.compile(r"^```diff\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def listed() -> Counter[Change]:
    """The changes in `docs/mutation.md`. Each block needs a reason: the text after it."""
    changes: Counter[Change] = Counter()
    text = LIST.read_text() if LIST.exists() else ""
    for entry in ENTRY.finditer(text):
        # Split are: what stands before, a diff, its reason, a diff, its reason...
        if not all(reason.strip() for reason in DIFF.split(entry["rest"])[2::2]):
            sys.exit(f"docs/mutation.md: no reason given for {entry['module']}, {entry['scope']}")
        for block in DIFF.findall(entry["rest"]):
            changes.update(
                Change(entry["module"], entry["scope"], diff) for diff in block.split("\n\n")
            )
    return changes


def main() -> int:
    """Run all, compare with the list, say what has to be done."""
    parser = argparse.ArgumentParser(description="Mutation tests of the pure core.")
    parser.add_argument("modules", nargs="*", help=f"some of {', '.join(MODULES)}; default all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    modules: list[str] = given.modules or list(MODULES)

    began = monotonic()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    for name in PRELOADED:
        with suppress(ImportError):
            import_module(name)
    if early := [name for name in sys.modules if name.split(".")[0] == "breakerscope"]:
        print(f"imported too early: {early}")
        return 2

    passed, seconds = result_of(None)
    if not passed:
        print("the tests fail without any change; run: make unit")
        return 2
    for module in modules:
        if result_of(Changed(module, "raise ImportError"))[0]:
            print(f"the changes of {module}.py do not arrive: a broken one is not noticed")
            return 2

    mutants = [mutant for module in modules for mutant in mutants_of(module)]
    print(
        f"{len(mutants)} changes, {given.workers} at a time, up to {seconds:.1f} s each:"
        f" takes at most {len(mutants) * seconds / given.workers / 60:.0f} minutes",
        flush=True,
    )
    found: Counter[Change] = Counter()
    for mutant in survivors(mutants, given.workers, limit=10 + 5 * seconds):
        found[mutant.change] += 1
    known = Counter({change: n for change, n in listed().items() if change.module in modules})
    unknown, stale = found - known, known - found
    for title, changes in (
        ("No test fails for this change, and docs/mutation.md does not explain why:", unknown),
        ("docs/mutation.md explains a change that a test notices or that is gone:", stale),
    ):
        for change in sorted(changes.elements()):
            print(f"\n{title}\n{indent(str(change), '    ')}")
    print(
        f"{len(mutants)} changes: {len(mutants) - found.total()} noticed by a test,"
        f" {(found & known).total()} explained, {unknown.total()} neither;"
        f" {stale.total()} explained for nothing; {monotonic() - began:.0f} s"
    )
    return 1 if unknown or stale else 0


if __name__ == "__main__":
    sys.exit(main())
