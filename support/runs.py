"""What a run leaves in its log_dir: log.txt, settings.json, and checkpoints that are whole."""

import json
import platform
import re
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as short
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from support.cli import TYPED, UserError, takes
from support.compute import Compute
from support.files import free_name, one_line_when_not_writable, whole_file, write_whole
from support.weights import (
    HEAD,
    SHAPE,
    is_tensor,
    our_names,
    refuse_other_shape,
    refuse_other_weights,
)

LOCK_SECONDS = 5  # to wait for it: a run that torchrun starts again may find its own last breath
OTHERWISE = "start without it, or name its --log_dir"
OUR_TEMPORARY = re.compile(
    r"(model_\d+\.pt|settings\.json|log(_before_resume_at_\d+(-\d+)?)?\.txt)(\.\d+)?\.tmp"
)

# ---------- One run in a folder ---------------------------------------------------------


@contextmanager
def only_run_in(log_dir: str, compute: Compute, resume: str = "0") -> Iterator[None]:
    """Meanwhile no other run can use log_dir. The lock is the operating system's: it ends with the
    process that took it, rank 0, however that ends.

    Raises UserError on all processes if another run has it, if log_dir cannot be written to, or if
    the run to go on with has no such folder: one whose name is a mistake is not made.
    """
    lock, problem = FileLock(Path(log_dir) / ".lock"), 0
    if compute.rank == 0 and resume == "1" and not Path(log_dir).is_dir():
        problem = 3
    elif compute.rank == 0:
        try:
            Path(log_dir).mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=LOCK_SECONDS)
            if any(Path(log_dir).glob("run-*.moving")):
                move_earlier_run_away(Path(log_dir))  # or half of it would be taken for this one's
        except Timeout:
            problem = 1
        except OSError:
            problem = 2
    problems = compute.gather(problem)
    if 1 in problems:
        raise UserError(f"another run is using {log_dir}: wait for it, or name another --log_dir")
    if 2 in problems:
        raise UserError(f"--log_dir {log_dir}: not a folder that can be written to; name another")
    if 3 in problems:
        raise UserError(f"--resume 1: {no_checkpoint(log_dir)}; {OTHERWISE}")
    try:
        yield
    finally:
        lock.release()


# ---------- The log ---------------------------------------------------------------------


class Log:
    """log.txt, lines of STEP STREAM VALUE (streams train, val, hella), and settings.json.

    Only rank 0 writes. A new run moves the files of an earlier one into a folder of their own.
    """

    def __init__(self, log_dir: str, run: dict[str, Any], rank: int = 0, first_step: int = 0):
        """`run` (settings, device, ...) goes to settings.json, with versions and commit."""
        self.path, self.run, self.first_step = Path(log_dir) / "log.txt", run, first_step
        self.is_writer, self.has_begun = rank == 0, False
        if self.is_writer:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def begin(self) -> None:
        """With the first line: what fails before it has not touched the earlier run."""
        self.has_begun = True
        for leftover in self.path.parent.glob("*.tmp"):
            if OUR_TEMPORARY.fullmatch(leftover.name):
                leftover.unlink()  # of a run that was killed while it saved
        if self.first_step == 0:
            move_earlier_run_away(self.path.parent)
        else:
            keep = self.run.get("settings", {}).get("keep", 0)
            remove_older(str(self.path.parent), self.first_step, keep)
        self.keep_lines_before(self.first_step)
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        text = json.dumps({**self.run, **versions, "commit": git_commit()}, indent=2) + "\n"
        write_whole(self.path.parent / "settings.json", text)

    def keep_lines_before(self, first_step: int) -> None:
        """Later ones are written again, if the run takes the same way; a copy keeps them all, but
        where they are only what was measured at first_step, with the same weights."""
        text, kept, dropped = self.path.read_bytes() if self.path.is_file() else b"", [], []
        for line in text.splitlines(keepends=True):
            match = re.fullmatch(rb"(\d{1,18}) \w+ \S+\n", line)  # and not the half of one
            (kept if match and int(match[1]) < first_step else dropped).append(line)
        measured = b"%d val " % first_step, b"%d hella " % first_step
        if not all(line.startswith(measured) for line in dropped):
            copy = free_name(self.path.with_name(f"log_before_resume_at_{first_step:05d}.txt"))
            write_whole(copy, text)
            print(f"log.txt goes on at step {first_step}; what it was until now is in {copy}")
        write_whole(self.path, b"".join(kept))

    def write(self, step: int, stream: str, value: float) -> None:
        """Raises UserError where it cannot be written, as on a full disk."""
        if not self.is_writer:
            return
        with one_line_when_not_writable(self.path):
            if not self.has_begun:
                self.begin()
            with self.path.open("a") as file:
                file.write(f"{step} {stream} {value:.6f}\n")


def move_earlier_run_away(log_dir: Path) -> None:
    """Move log.txt, settings.json and checkpoints into log_dir/run-DATE-TIME.

    Until all are there its name ends in .moving: a move that was killed is finished.
    """
    files = [p for p in log_dir.glob("*") if p.match("log.txt") or p.match("settings.json")]
    files += log_dir.glob("model_*.pt")
    moving = next(log_dir.glob("run-*.moving"), None)
    if not files and not moving:
        return
    if moving is None:
        newest = time.localtime(max(p.stat().st_mtime for p in files))
        moving = log_dir / time.strftime("run-%Y%m%d-%H%M%S.moving", newest)
        moving.mkdir()
    for path in files:
        path.rename(moving / path.name)
    folder = moving.rename(free_name(moving.with_suffix("")))  # never into another run's
    print(f"the earlier run in {log_dir} is now in {folder}")


def git_commit() -> str | None:
    """The commit of the code that runs; None outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git
        return None


# ---------- Checkpoints -----------------------------------------------------------------


@dataclass
class State:
    """All that the rest of a run depends on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: Any  # DataLoaderLite
    settings: Any  # Settings, for whoever reads the checkpoint
    step: int = 0  # updates so far
    val_loss: float | None = None  # the latest
    resumed: list[dict[str, Any]] = field(default_factory=list)  # at which steps, what changed

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers and plain dicts."""
        return {
            "model": self.model.state_dict(),
            "config": asdict(self.model.config),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "loader": self.loader.state_dict(),
            **generator_states(),
            "val_loss": self.val_loss,
            "settings": asdict(self.settings),
            "resumed": self.resumed,
        }

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Put everything back as it was when the checkpoint was written.

        Raises UserError if the loader has other data.
        """
        self.loader.load_state_dict(checkpoint["loader"])
        self.model.load_state_dict(checkpoint["model"])
        # Its moments only: its groups are the settings', which may be others now.
        groups = self.optimizer.state_dict()["param_groups"]
        moments = checkpoint["optimizer"]["state"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        restore_generators(checkpoint)
        self.step, self.val_loss = checkpoint["step"], checkpoint["val_loss"]
        self.resumed = checkpoint.get("resumed", [])


def generator_states() -> dict[str, torch.Tensor]:
    """The states of the random generators: the CPU's and, if there is one, this GPU's."""
    states = {"rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda_rng"] = torch.cuda.get_rng_state()
    return states


def restore_generators(checkpoint: dict[str, Any]) -> None:
    """A checkpoint of a CPU says nothing about a GPU's generator, which then goes on as it is."""
    torch.set_rng_state(checkpoint["rng"])
    if torch.cuda.is_available() and "cuda_rng" in checkpoint:
        torch.cuda.set_rng_state(checkpoint["cuda_rng"])


def write_checkpoint(log_dir: str, checkpoint: dict[str, Any], keep: int = 0) -> Path:
    """log_dir/model_STEP.pt: State.state_dict(), for torch.load(..., weights_only=True).

    Of this and those of earlier steps the newest `keep` are left; all of them where that is 0.
    Raises UserError if it cannot be written; all others are then kept.
    """
    path = Path(log_dir) / f"model_{checkpoint['step']:05d}.pt"
    try:
        with whole_file(path) as file:
            torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's own, where a write failed
        raise UserError(f"cannot write {path} ({str(error).splitlines()[0]})") from error
    remove_older(log_dir, checkpoint["step"], keep)
    return path


def remove_older(log_dir: str, step: int, keep: int) -> None:
    """Of the checkpoints before the good one of `step`, leave the newest keep - 1. Those after it
    could not be read when the run began, or it would go on with them."""
    older = [path for other, path in checkpoints(log_dir) if other < step]
    for path in older[::-1][keep - 1 :] if keep > 0 else []:
        path.unlink()


def refuse_broken_weights(model: nn.Module, step: int, log_dir: str) -> None:
    """Raises UserError if any is not finite: such a checkpoint would look like a good one."""
    if not all(p.isfinite().all() for p in model.parameters()):
        raise UserError(
            f"step {step}: the weights are not finite and are not saved; the checkpoints in"
            f" {log_dir} are from before: continue with --resume 1 and a lower --max_lr"
        )


def checkpoints(log_dir: str) -> list[tuple[int, Path]]:
    """Step and path of each model_STEP.pt, by step; model_best.pt is not ours."""
    matches = ((re.fullmatch(r"model_(\d+)", p.stem), p) for p in Path(log_dir).glob("*.pt"))
    return sorted((int(match[1]), path) for match, path in matches if match)


class TheirConfig:
    """Takes the place of the GPTConfig that build-nanogpt's checkpoints hold as an object.

    Such an object is the name of its class and a dict of its fields. weights_only refuses all
    classes, as code could run when one is made. This one has no code.
    """


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of train_gpt2.py, here or in build-nanogpt, its tensors on the CPU.

    Its "config" is a dict, its "model" has the names of our parameters. No code of the file runs.

    Raises UserError when the file is absent, cut short, or not such a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: expected a checkpoint, model_STEP.pt")
    try:
        refuse_changed_bytes(path)
        with torch.serialization.safe_globals([(TheirConfig, "__main__.GPTConfig")]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zipfile or torch makes of a file that is not whole
        raise UserError(f"{path} is not a complete checkpoint of train_gpt2.py") from error
    config = checkpoint.get("config") if isinstance(checkpoint, dict) else None
    if isinstance(config, TheirConfig):
        config = vars(config)
    is_config = isinstance(config, dict) and config.keys() == SHAPE
    if not is_config or not {"model", "step"} <= checkpoint.keys():
        raise UserError(f"{path} holds something other than a checkpoint of train_gpt2.py")
    step, weights = checkpoint["step"], our_names(checkpoint["model"])
    if type(step) is not int or step < 0:
        raise UserError(f"{path} has step {short(step)}, expected a whole number")
    refuse_other_shape(config, str(path))
    refuse_other_weights(weights, config, str(path))
    return {**checkpoint, "config": config, "model": weights}


def refuse_changed_bytes(path: Path) -> None:
    """A checkpoint is a zip archive, with a CRC-32 of each tensor's bytes as they were written.
    torch.load does not look at them; a flipped bit would be another weight.

    Raises BadZipFile where one differs, or is marked as a folder, which torch reads as nothing.
    """
    with zipfile.ZipFile(path) as archive:
        folders = [info.filename for info in archive.infolist() if info.external_attr]
        changed = archive.testzip() or folders
    if changed:
        raise zipfile.BadZipFile(str(changed))


def newest_checkpoint(log_dir: str, settings: type | None = None) -> dict[str, Any]:
    """The newest model_STEP.pt that can be read; one that cannot is named and passed over.

    Given the dataclass of a run's settings, the newest that a run can go on with.
    """
    paths = [path for _, path in reversed(checkpoints(log_dir))]
    for path in paths:
        try:
            checkpoint = read_checkpoint(path)
            if settings is not None:
                refuse_half_a_run(checkpoint, settings, path)
            return checkpoint
        except UserError as error:
            if path == paths[-1]:
                raise
            print(f"{error}; trying the one before", flush=True)
    raise UserError(no_checkpoint(log_dir))


def no_checkpoint(log_dir: str) -> str:
    return f"found no checkpoint in {log_dir}, expected a model_STEP.pt"


def refuse_half_a_run(checkpoint: dict[str, Any], settings: type, path: Path) -> None:
    """Raises UserError unless State.load_state_dict and settle can take it as it is."""
    if not {"optimizer", "loader", "rng", "settings"} <= checkpoint.keys():
        raise UserError(
            f"{path} holds a model only: begin with it by --init_from FILE, and without --resume"
        )
    saved = checkpoint["settings"]
    kind = saved.get("optimizer", "adamw") if isinstance(saved, dict) else ""
    is_right = {
        "optimizer": is_optimizer(checkpoint["optimizer"], checkpoint["model"], kind),
        "loader": is_loader(checkpoint["loader"]),
        "rng": is_generator(checkpoint["rng"]),
        "cuda_rng": isinstance(checkpoint.get("cuda_rng", torch.empty(0)), torch.Tensor),
        "settings": are_settings(checkpoint["settings"], settings, checkpoint["config"]),
        "val_loss": isinstance(checkpoint.get("val_loss"), float | None),
        "resumed": is_json(checkpoint.get("resumed", []), list),
    }
    for name, is_good in is_right.items():
        if not is_good:
            raise UserError(f"{path}: its {name} holds other things than train_gpt2.py writes")


def is_optimizer(state: Any, weights: dict[str, torch.Tensor], kind: str) -> bool:
    """Whether each weight has what its optimizer remembers: AdamW two moments, Muon a sum. They
    come in configure_optimizers' order; the head is the embedding."""
    remembered = state.get("state") if isinstance(state, dict) else None
    order = sorted((n for n in weights if n != HEAD), key=lambda n: group_of(n, weights[n], kind))
    if not isinstance(remembered, dict) or remembered.keys() != set(range(len(order))):
        return False
    return all(
        is_remembered(remembered[i], weights[n], group_of(n, weights[n], kind))
        for i, n in enumerate(order)
    )


def group_of(name: str, weight: torch.Tensor, kind: str) -> int:
    """Of configure_optimizers: 0 decays, 1 does not, 2 is Muon's."""
    is_muons = kind == "muon" and name.startswith("transformer.h.")
    return 1 if weight.dim() < 2 else 2 if is_muons else 0


def is_remembered(found: Any, weight: torch.Tensor, group: int) -> bool:
    if not isinstance(found, dict):
        return False
    if group == 2:
        return is_tensor(found.get("momentum_buffer"), weight.shape)
    moments = [found.get(name) for name in ("exp_avg", "exp_avg_sq")]
    return is_tensor(found.get("step"), ()) and all(is_tensor(m, weight.shape) for m in moments)


def is_loader(state: Any) -> bool:
    if not isinstance(state, dict) or not isinstance(state.get("shards", []), list):
        return False
    shards = all(
        type(x) is list and list(map(type, x)) == [int, int] for x in state.get("shards", [])
    )
    return shards and type(state.get("position")) is int and state["position"] >= 0


def is_generator(state: Any) -> bool:
    try:
        torch.Generator().set_state(state)
    except (RuntimeError, TypeError):
        return False
    return True


def are_settings(saved: Any, settings: type, config: dict[str, int]) -> bool:
    """Whether each value could have been typed, and the model takes rows of T tokens."""
    if not is_json(saved, dict):
        return False
    known = (f for f in fields(settings) if f.name in saved and f.metadata["resume"] != TYPED)
    return all(takes(f, saved[f.name]) for f in known) and saved.get("T", 1) <= config["block_size"]


def is_json(value: Any, kind: type) -> bool:
    """Whether it is of this kind, and settings.json can hold it."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, kind)


def agreed_checkpoint(
    log_dir: str, compute: Compute, resume: str, settings: type
) -> dict[str, Any] | None:
    """The newest checkpoint, where all processes find the same one; None for --resume auto where
    there is none.

    Raises UserError on all of them if they do not, as on machines without a shared disk.
    """
    checkpoint, problem = None, None
    try:
        checkpoint = newest_checkpoint(log_dir, settings)
    except UserError as error:
        problem = error
    steps = compute.gather(checkpoint["step"] if checkpoint else -1)
    if len(set(steps)) > 1:
        raise UserError(
            f"--resume {resume}: by rank, the newest checkpoints in {log_dir} are of steps {steps}"
            " (-1: there is none): copy the newest one to all machines"
        )
    if problem and (resume != "auto" or checkpoints(log_dir)):
        raise UserError(f"--resume {resume}: {problem}; {OTHERWISE}")
    return checkpoint
