"""A frozen dataclass as the command line: one field, one flag."""
import argparse
import difflib
from dataclasses import field, fields
from typing import Any

from errors import UserError


def flag(default: Any, text: str, kind: type | None = None) -> Any:
    """A field that is also a flag; `kind` where the default is None."""
    return field(default=default, metadata={"help": text, "kind": kind or type(default)})


def parse_flags(settings: type, argv: list[str] | None, epilog: str) -> dict[str, Any]:
    """The flags that were typed, by field name.

    Raises UserError for a value of the wrong kind and for an unknown flag, naming the nearest.
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
    return vars(given)
