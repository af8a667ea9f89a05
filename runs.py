"""What a run leaves in its log_dir: log.txt and settings.json."""
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch


class Log:
    """log.txt, lines of STEP STREAM VALUE (streams train, val, hella), and settings.json.

    Only rank 0 writes. A new run moves the files of an earlier one into a folder of their own.
    """

    def __init__(self, log_dir: str, run: dict[str, Any], rank: int = 0):
        """`run` (settings, device, ...) goes to settings.json, with versions and commit."""
        self.path = Path(log_dir) / "log.txt"
        self.is_writer = rank == 0
        if not self.is_writer:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        keep_earlier_run(self.path.parent)
        self.path.touch()
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        text = json.dumps({**run, **versions, "commit": git_commit()}, indent=2) + "\n"
        (self.path.parent / "settings.json").write_text(text)

    def write(self, step: int, stream: str, value: float) -> None:
        if self.is_writer:
            with self.path.open("a") as file:
                file.write(f"{step} {stream} {value:.6f}\n")


def keep_earlier_run(log_dir: Path) -> None:
    """Move log.txt, settings.json and checkpoints into log_dir/run-DATE-TIME."""
    files = [p for p in log_dir.glob("*") if p.match("log.txt") or p.match("settings.json")]
    if not files:
        return
    newest = time.localtime(max(p.stat().st_mtime for p in files))
    folder = log_dir / time.strftime("run-%Y%m%d-%H%M%S", newest)
    folder.mkdir()  # never into the folder of another run
    for path in files:
        path.rename(folder / path.name)
    print(f"the earlier run in {log_dir} is now in {folder}")


def git_commit() -> str | None:
    """The commit of the code that runs; None outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git
        return None
