"""Names: refused where a programmer gives a hostile one, escaped where it comes from outside.

Hostile is what cannot be written as UTF-8 (a lone surrogate ends the scrape or the export of all
breakers), and what makes a line of text lie: control characters, line and paragraph separators, and
Unicode's Bidi_Control, which shows what follows in another order. Other invisible characters stay:
they move nothing, and many an emoji and many a word have a joiner inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar, cast

T = TypeVar("T")

OTHER = "_OTHER"
"""The name under which all are counted that are beyond a limit."""
LONGEST = 260
"""No escaped text is longer. The longest name of a host with its port is just below."""
_DIGITS = 32

_HOSTILE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_LIKE_AN_ESCAPE = re.compile(r"\\([nrt]|x[0-9a-f]{2}|u[0-9a-f]{4})")

NOT_EMPTY = "text that is not empty"
HARMLESS = "text without control characters, line separators, bidirectional controls and surrogates"


class BreakerNameError(ValueError):
    """A breaker name cannot be. The message says what is allowed."""


def checked_name(name: object, argument: str = "name") -> str:
    """The name, if it can be one. Raises BreakerNameError, which names the argument."""
    if not isinstance(name, str) or not name.strip():
        raise BreakerNameError(f"{argument}={name!r}: allowed is {NOT_EMPTY}")
    if problem := problem_of(name):
        raise BreakerNameError(f"{argument}={name!r}: {problem}")
    return name


def problem_of(text: str) -> str | None:
    """Which hostile character is in this text, and what is allowed; None if there is none."""
    if text.isprintable() or (found := _HOSTILE.search(text)) is None:
        return None
    return f"{_escape(found)} is in it; allowed is {HARMLESS}"


def is_utf8(text: object) -> bool:
    """Whether this is text that can leave the process."""
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encodable(value: T) -> T:
    """Text with its lone surrogates escaped, for data; whatever is no text as it is."""
    if not isinstance(value, str) or value.isascii():
        return value
    return cast("T", value.encode("utf-8", "backslashreplace").decode())


def readable(value: T) -> T:
    """Text with its hostile characters escaped, for lines; whatever is no text as it is."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return cast("T", _HOSTILE.sub(_escape, value))


def escaped(value: object) -> str:
    r"""A text of its own for each text, without hostile characters and with a limit to its length.

    Hostile characters become `\n`, `\x85` or `\udc80`, as Python writes them. Backslashes are
    doubled where such a character, or what looks like its escape, is in the text; any other text
    stays as it is. Of what would have `LONGEST` characters or more, the end becomes a hash of the
    whole. What is no text is taken as `str()` says it.
    """
    text = as_text(value)
    if _HOSTILE.search(text) or _LIKE_AN_ESCAPE.search(text):
        text = _HOSTILE.sub(_escape, text.replace("\\", "\\\\"))
    return text if len(text) < LONGEST else _shortened(text)


def as_text(value: object) -> str:
    """What this says as text; of a subclass of `str`, the text itself."""
    return str.__str__(value) if isinstance(value, str) else str(value)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _shortened(text: str) -> str:
    # Here, since most of its import is the loading of OpenSSL.
    import hashlib

    digits = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    return f"{text[: LONGEST - _DIGITS - 1]}~{digits}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of these names that was meant, if one is so close that it was a slip of the pen."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return near[0] if near else None
