"""A frozen dataclass as the command line: one field, one flag."""

import argparse
import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from support.errors import UserError


@dataclass(frozen=True)
class Valid:
    """Which numbers a flag takes: in words, and as a test."""

    words: str
    holds: Callable[[float], bool]


MIN_1 = Valid("1 or more", lambda x: x >= 1)
MIN_0 = Valid("0 or more", lambda x: x >= 0)
POSITIVE = Valid("more than 0", lambda x: x > 0)
SWITCH = Valid("0 or 1", lambda x: x in (0, 1))
TEXT = Valid("any text", lambda x: True)


def flag(default: Any, text: str, valid: Valid = TEXT, kind: type | None = None) -> Any:
    """A field that is also a flag; `kind` for a number whose default is None."""
    kind = kind or (str if default is None else type(default))
    return field(default=default, metadata={"help": text, "valid": valid, "kind": kind})


def parse_flags(settings: type, argv: list[str] | None, epilog: str) -> dict[str, Any]:
    """The flags that were typed, by field name.

    Raises UserError for a value of the wrong kind, for one out of range, and for an unknown flag,
    naming the nearest.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )
    for f in fields(settings):
        default = "" if f.default is None else f" (default: {f.default})"
        parser.add_argument(
            f"--{f.name}", type=f.metadata["kind"], metavar="X", help=f.metadata["help"] + default
        )
    try:
        given, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; --help shows all flags") from error
    if unknown:
        near = difflib.get_close_matches(unknown[0], [f"--{f.name}" for f in fields(settings)])
        hint = f"did you mean {near[0]}?" if near else "--help shows all flags"
        raise UserError(f"unknown flag {unknown[0]}: {hint}")
    for f in fields(settings):
        valid = f.metadata["valid"]
        if f.name in given and not valid.holds(getattr(given, f.name)):
            raise UserError(f"--{f.name} {getattr(given, f.name)}: expected {valid.words}")
    return vars(given)
