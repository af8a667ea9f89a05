"""Run an experiment: it prints its numbers and draws its figure.

    python -m experiments                    the experiments, and what each asks
    python -m experiments first_loss         one of them, or several
    python -m experiments all                all but those in LONG, which take 5 minutes or more
    python -m experiments all --quick        all, on very little: nothing is kept, only tried
    python -m experiments muon --source X    on another text: a file, or a folder of .parquet or
                                             .jsonl files with a column "text"

A figure NAME.svg and the numbers NAME.txt are written to book/figures/, those of another text to
runs/.
"""

import argparse
import contextlib
import inspect
import io
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from experiments.drawing import svg
from experiments.judge import RUNS
from support.cli import Parser, UserError, one_line_errors
from support.files import write_whole

FIGURES = Path(__file__).resolve().parent.parent / "book" / "figures"
TOOLS = ("__main__", "drawing", "judge", "letters", "small")
LONG = "batch beyond elsewhere muon ramp rates schedules shuffle what_helps".split()  # runs x seeds


def names() -> list[str]:
    found = iter_modules([str(Path(__file__).parent)])
    return [module.name for module in found if module.name not in TOOLS]


class Echo(io.StringIO):
    """Keeps what is printed, and shows it."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)
        sys.__stdout__.flush()
        return super().write(text)


def run(name: str, quick: bool, source: str | None) -> None:
    """Draw one figure; with `quick` on next to nothing, and without keeping it.

    Raises UserError if it has a text of its own, and is given another.
    """
    draw: Callable = import_module(f"experiments.{name}").draw
    if source and "source" not in inspect.signature(draw).parameters:
        raise UserError(f"{name} has a text of its own: leave out --source")
    start, numbers = time.perf_counter(), Echo()
    with contextlib.redirect_stdout(numbers):
        picture = svg(draw(quick, source) if source else draw(quick))
    if not quick:
        path = RUNS / f"{name} {Path(source).stem}" if source else FIGURES / name
        write_whole(path.with_suffix(".svg"), picture)
        write_whole(path.with_suffix(".txt"), numbers.getvalue())
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
        parser.add_argument("--source", help="another text, or a folder of documents")
        args = parser.parse_args(argv)
        if not args.name:
            for name in names():
                print(f"{name:<24} {import_module(f'experiments.{name}').__doc__.splitlines()[0]}")
        everything = [name for name in names() if args.quick or name not in LONG]
        for name in everything if args.name == ["all"] else args.name:
            if name not in names():
                raise UserError(f"no experiment {name}: python -m experiments lists them")
            run(name, args.quick, args.source)


if __name__ == "__main__":
    main()
