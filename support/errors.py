"""A user's mistake gets one line and exit code 2; everything else keeps its traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Says what was found, what was expected and what to type."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Around main(): print a UserError as one line (rank 0 only) and exit with code 2."""
    try:
        yield
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
