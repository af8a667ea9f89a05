"""The command line of all scripts: flags, and one line with exit code 2 for a user's mistake."""

import argparse
import difflib
import errno
import math
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from datetime import timedelta
from typing import Any, NoReturn


class UserError(ValueError):
    """Says what was found, what was expected and what to type."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Around main(): print a UserError as one line and exit with code 2; and so for a file's name
    that is too long, and for output to a full disk.

    Ctrl-C, and a reader of the output who has seen enough, end it without a word. Everything else
    keeps its traceback.
    """
    try:
        yield
        sys.stdout.flush()  # or it might fail when nobody looks any more
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # as by `| head`
        drop_output()
        sys.exit(1)
    except UserError as error:
        say(str(error))
        sys.exit(2)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # of any flag's file
            say(str(error))
        elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            drop_output()
            say(f"cannot write the output ({error.strerror}): make room")
        else:
            raise
        sys.exit(2)


def drop_output() -> None:
    """What is still unwritten would fail again, when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def say(error: str) -> None:
    """One line. Rank 0 prints what all processes have met, another one what rank 0 has not."""
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f" on rank {rank}"
    line = re.sub(r"(\d{20})\d{20,}", r"\1...", error.replace("\n", "\\n"))  # of odd values
    if is_first_to_say(line, rank):
        print(f"error{where}: {line}", file=sys.stderr, flush=True)


def is_first_to_say(error: str, rank: str) -> bool:
    """Whether this process is to print it: rank 0, or the first of those whose error rank 0 has not
    met, too, some seconds later. They leave word in the store that torchrun keeps for them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    from torch.distributed import TCPStore

    key = f"error of start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection((host, port), timeout=3).close()  # TCPStore fails in 20 lines
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=3))
        if rank == "0":
            store.set(key, error)
            return True
        for _ in range(30):
            if store.check([key]):
                break
            time.sleep(0.1)
        said_by_rank_0 = store.check([key]) and store.get(key).decode() == error
        return not said_by_rank_0 and store.add(f"{key}: {error}", 1) == 1
    except (KeyError, OSError, RuntimeError):  # no store, or no longer
        return True


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a UserError, and an unknown flag names the nearest one."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')} (--help lists the flags)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._option_string_actions)
            hint = f"did you mean {near[0]}?" if near else "--help lists the flags"
            raise UserError(f"unknown flag {unknown[0]}: {hint}")
        for flag in self._option_string_actions.values():
            if getattr(given, flag.dest, None) == []:  # what argparse makes of --name=--
                self.error(f"--{flag.dest}: expected one argument")
        return given


def positive(text: str) -> int:
    """The `type` of a flag that takes a whole number of 1 or more."""
    if not re.fullmatch(r"\d{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of 1 or more, of 18 digits at most, found {text!r}"
        )
    return int(text)


def seed(text: str) -> int:
    """The `type` of a flag that takes what torch's generators do."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(
            f"expected a whole number of 0 or more, of 18 digits at most, found {text!r}"
        )
    return int(text)


def not_negative(text: str) -> float:
    """The `type` of a flag that takes a number of 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of 0 or more, found {text!r}")
    return number


# ---------- A frozen dataclass as the command line: one field, one flag -------------------


@dataclass(frozen=True)
class Valid:
    """What a flag takes: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


MIN_1 = Valid("1 to 10**12", lambda x: 1 <= x <= 10**12)
MIN_0 = Valid("0 to 10**12", lambda x: 0 <= x <= 10**12)
SEED = Valid("0 or more, of 18 digits at most", lambda x: 0 <= x < 10**18)
POSITIVE = Valid("more than 0", lambda x: 0 < x < math.inf)
SWITCH = Valid("0 or 1", lambda x: x in (0, 1))
TEXT = Valid("any text", lambda x: True)


def one_of(*names: str) -> Valid:
    return Valid(f"one of {', '.join(names)}", lambda name: name in names)


# What a run that is resumed does with a field: FIXED, it is the checkpoint's, and another value
# makes another run; KEPT, it is the checkpoint's unless it is typed; TYPED, it is about this start
# alone.
FIXED, KEPT, TYPED = "fixed", "kept", "typed"


def flag(
    default: Any,
    text: str,
    valid: Valid = TEXT,
    kind: type | None = None,
    resume: str = KEPT,
) -> Any:
    """A field that is also a flag; `kind` for a number whose default is None."""
    kind = kind or (str if default is None else type(default))
    metadata = {"help": text, "valid": valid, "kind": kind, "resume": resume}
    return field(default=default, metadata=metadata)


def takes(field: Field, value: Any) -> bool:
    """Whether it is what the flag of this field, or its default, could have set."""
    kind = field.metadata["kind"]
    if value is None or type(value) not in ((int, float) if kind is float else (kind,)):
        return value is None and field.default is None
    return field.metadata["valid"].holds(value)


def parse_flags(settings: type, argv: list[str] | None, epilog: str) -> dict[str, Any]:
    """The flags that were typed, by field name.

    Raises UserError for a value of the wrong kind, for one out of range, and for an unknown
    flag.
    """
    parser = Parser(
        epilog=epilog,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for f in fields(settings):
        default = "" if f.default is None else f" (default: {f.default})"
        text = (f.metadata["help"] + default).replace("%", "%%")  # argparse formats it
        parser.add_argument(f"--{f.name}", type=f.metadata["kind"], metavar="X", help=text)
    given = vars(parser.parse_args(argv))
    for f in fields(settings):
        valid = f.metadata["valid"]
        if f.name in given and not valid.holds(given[f.name]):
            raise UserError(f"--{f.name} {given[f.name]}: expected {valid.words}")
    return given
