"""Run an experiment: it prints its numbers and draws its figure.

    python -m experiments                    the experiments, and what each asks
    python -m experiments first_loss         one of them, or several
    python -m experiments all --quick        all, on very little: nothing is kept, only tried

A figure NAME.svg and the numbers NAME.txt are written to book/figures/.
"""

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from experiments.drawing import svg
from support.cli import Parser, UserError, one_line_errors
from support.files import write_whole

FIGURES = Path(__file__).resolve().parent.parent / "book" / "figures"
TOOLS = ("__main__", "drawing", "judge", "letters", "small")


def names() -> list[str]:
    found = iter_modules([str(Path(__file__).parent)])
    return [module.name for module in found if module.name not in TOOLS]


class Echo(io.StringIO):
    """Keeps what is printed, and shows it."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)
        sys.__stdout__.flush()
        return super().write(text)


def run(name: str, quick: bool) -> None:
    """Draw one figure; with `quick` on next to nothing, and without keeping it."""
    draw: Callable = import_module(f"experiments.{name}").draw
    start, numbers = time.perf_counter(), Echo()
    with contextlib.redirect_stdout(numbers):
        picture = svg(draw(quick))
    if not quick:
        write_whole(FIGURES / f"{name}.svg", picture)
        write_whole(FIGURES / f"{name}.txt", numbers.getvalue())
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    with one_line_errors():
        parser = Parser(
            prog="python -m experiments",
            description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("name", nargs="*", help="experiments, or all")
        parser.add_argument("--quick", action="store_true", help="on very little, nothing is kept")
        args = parser.parse_args(argv)
        if not args.name:
            for name in names():
                print(f"{name:<24} {import_module(f'experiments.{name}').__doc__.splitlines()[0]}")
        for name in names() if args.name == ["all"] else args.name:
            if name not in names():
                raise UserError(f"no experiment {name}: python -m experiments lists them")
            run(name, args.quick)


if __name__ == "__main__":
    main()
