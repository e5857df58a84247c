"""Whether two classification rules are the same code. A line that runs again (a reload, a notebook
cell) makes another function of it, which means the same.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any, cast


def is_same_rule(old: Any, new: Any) -> bool:
    """Whether both would give the same answers."""
    if old == new:
        return True
    if isinstance(old, MethodType) and isinstance(new, MethodType):
        return old.__self__ is new.__self__ and is_same_rule(old.__func__, new.__func__)
    if isinstance(old, partial) and isinstance(new, partial):
        one, other = cast("partial[object]", old), cast("partial[object]", new)
        same = one.args == other.args and one.keywords == other.keywords
        return same and is_same_rule(one.func, other.func)
    if not (isinstance(old, FunctionType) and isinstance(new, FunctionType)):
        return False
    return (
        old.__code__ == new.__code__
        and old.__defaults__ == new.__defaults__
        and old.__kwdefaults__ == new.__kwdefaults__
        and _captured(old) == _captured(new)
    )


def _captured(function: FunctionType) -> list[object]:
    """What the variables of enclosing functions hold."""
    try:
        return [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:
        # One of them has no value yet: it is like no other.
        return [object()]
