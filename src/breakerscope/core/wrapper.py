"""Builds a wrapper with the same signature as the function.

A wrapper with `*args, **kwargs` packs the arguments of each call into a tuple and a dict and
unpacks them again: about a third of the whole cost of a protected call. So the wrapper is written
with the parameters of the function itself, as dataclasses write their `__init__`. The same text
serves functions and coroutine functions, and leaves out the questions that a policy never asks.

A call with arguments that do not fit fails before the breaker is asked: it is no call.
"""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

TEXT = """\
def _make(_fn, {names}):
    _plain = None
    {async_}def protected({parameters}):
        {nonlocal_}
        try:
            _permit = _machine.permit.take()
        except IndexError:
            _permit = _admit()
        _start = _now()
        try:
            _result = {await_}_fn({arguments})
        except BaseException as _error:
            {failed}
            raise
        {look}
        {measure}
        if {special}:
            _succeeded(_permit, _duration, _result)
        else:
            _permit.entries.append({entry})
        return _result
    return protected
"""
"""Names of our own begin with an underscore; a function whose parameters do so as well gets
`*_args, **_kwargs`.

They are those of an enclosing function, not globals: functions with the same parameters share their
code, and the interpreter remembers in the code where the globals of one function were.
"""


ANYTHING = "*_args, **_kwargs"
FAILED = "_failed(_permit, _start, _now(), _error)"
FAILED_UNLESS_UNFIT = f"""\
if _is_misfit(_error, _fn, _args, _kwargs):
                _withdraw(_permit)
            else:
                {FAILED}"""
LOOK = """\
if type(_result) is not _plain:
            if _ends_later(type(_result)):
                return _hand_out(_permit, _start, _result)
            _plain = type(_result)"""
"""Most functions return one type, so most calls compare one pointer."""


def wrapper_of(
    fn: Callable[..., Any],
    names: dict[str, Any],
    *,
    is_coroutine: bool,
    looks: bool,
    asks_slow: bool,
    timed: bool,
) -> Callable[..., Any]:
    """The protected form of `fn`. `names` are what the text calls. `looks`: it may return what ends
    later. `timed`: the journal is to say when each call ended.
    """
    parameters, arguments = _signature(fn)
    text = TEXT.format(
        names=", ".join(names),
        async_="async " if is_coroutine else "",
        await_="await " if is_coroutine else "",
        parameters=parameters,
        arguments=arguments,
        nonlocal_="nonlocal _plain" if looks else "",
        look=LOOK if looks else "",
        failed=FAILED_UNLESS_UNFIT if parameters == ANYTHING else FAILED,
        measure="_end = _now()\n        _duration = _end - _start"
        if timed
        else "_duration = _now() - _start",
        special="_duration >= _slow_from or _permit.watched()"
        if asks_slow
        else "_permit.watched()",
        entry="(_end, _duration)" if timed else "_duration",
    )
    protected = _maker(text)(fn, **names)
    if isinstance(fn, FunctionType):
        protected.__defaults__ = fn.__defaults__
        protected.__kwdefaults__ = fn.__kwdefaults__
    return functools.wraps(fn)(protected)


@functools.lru_cache(maxsize=1024)
def _maker(text: str) -> Callable[..., Any]:
    """What makes the wrappers of all functions with the same parameters. The text is kept for
    tracebacks.
    """
    file = f"<breakerscope {hash(text):x}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {}
    # The text is ours; of the function it has no more than the names of its parameters.
    exec(compile(text, file, "exec"), scope)  # noqa: S102
    return cast("Callable[..., Any]", scope["_make"])


def _signature(fn: Callable[..., Any]) -> tuple[str, str]:
    """The parameters of a function as its head has them, and as a call hands them on."""
    if not isinstance(fn, FunctionType):
        return ANYTHING, ANYTHING
    code = fn.__code__
    n, n_first, n_key = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
    rest = code.co_varnames[n + n_key :]
    takes_args = bool(code.co_flags & inspect.CO_VARARGS)
    takes_kwargs = bool(code.co_flags & inspect.CO_VARKEYWORDS)
    names = code.co_varnames[: n + n_key + takes_args + takes_kwargs]
    if any(name.startswith("_") or not name.isidentifier() for name in names):
        return ANYTHING, ANYTHING
    optional = n - len(fn.__defaults__ or ())
    head = [name if at < optional else f"{name}=None" for at, name in enumerate(names[:n])]
    call = list(names[:n])
    if n_first:
        head.insert(n_first, "/")
    if takes_args:
        head.append(f"*{rest[0]}")
        call.append(f"*{rest[0]}")
    elif n_key:
        head.append("*")
    with_default = fn.__kwdefaults__ or {}
    for name in names[n : n + n_key]:
        head.append(f"{name}=None" if name in with_default else name)
        call.append(f"{name}={name}")
    if takes_kwargs:
        kwargs = rest[1 if takes_args else 0]
        head.append(f"**{kwargs}")
        call.append(f"**{kwargs}")
    return ", ".join(head), ", ".join(call)
