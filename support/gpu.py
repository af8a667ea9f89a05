"""What is to be found out on a GPU before a long run: python bench.py gpu --part 1, 2 or 3.

Each part is a list of rows; parts 4 to 6 measure whole steps and are in bench.py.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from support.budget import copy_speed, matmul_speed, products, seconds_of, step_attention
from support.compute import Compute, compile_or_not
from support.loss import chunked_cross_entropy

HERE = Path(__file__).resolve().parent.parent
Settings = Any  # train_gpt2.Settings, which this module does not import
Row = tuple[str, str]

# ---------- 1: what the card can do ------------------------------------------------------


def limits(s: Settings, compute: Compute) -> Iterator[Row]:
    """Copies, matmuls and attention alone, at the shapes of s: no step can be faster."""
    yield "torch, CUDA, cuDNN", f"{torch.__version__}, {torch.version.cuda}, {cudnn()}"
    yield "copy, read and written", f"{copy_speed(compute) / 1e9:,.0f} GB/s"
    side = 8192 if compute.device_type == "cuda" else 256
    yield f"matmul {side} x {side}", f"{matmul_speed(compute, side) / 1e12:.3g} TFLOP/s"
    total = 0.0
    for i, o in dict.fromkeys(products(s)):
        x, w, dy = (
            torch.randn(*size, device=compute.device, dtype=compute.dtype)
            for size in ((s.B * s.T, i), (o, i), (s.B * s.T, o))
        )
        pairs = (x, w.t()), (dy, w), (dy.t(), x)
        ms = [1000 * seconds_of(partial(torch.matmul, *pair), compute) for pair in pairs]
        total += sum(ms) * products(s).count((i, o))
        speeds = " ".join(f"{2 * s.B * s.T * i * o / each / 1e9:.3g}" for each in ms)
        yield f"matmul {i} -> {o}: forward, dx, dw", f"{speeds} TFLOP/s"
    yield "all matmuls of a micro-step", f"{total:.1f} ms"
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                alone = f"{1000 * seconds_of(step_attention(s, compute), compute):.1f} ms"
        except RuntimeError as error:  # not on this device
            alone = str(error).splitlines()[0]
        yield f"attention of a micro-step, {backend.name}", alone


def cudnn() -> int | None:
    return torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None


# ---------- 2: is the answer right -------------------------------------------------------


def errors(s: Settings, model: torch.nn.Module, compute: Compute) -> Iterator[Row]:
    """Loss and gradient of a small model, eager and compiled, in fp32 and in the run's dtype, and
    of the head at its full size, against float64."""
    torch.manual_seed(0)
    size = model.config.vocab_size
    x, y = torch.randint(min(size, 50257), (2, 4, model.config.block_size), device=compute.device)
    model.double()
    exact = gradient(lambda x, y: F.cross_entropy(model(x)[0].mT, y), model, x, y)
    model.float()  # below, fp32 is TF32 where the card has it
    for dtype in dict.fromkeys((torch.float32, compute.dtype)):
        how = Compute(compute.device, dtype)
        for wanted in (0, 1):
            form = compile_or_not(model, how, wanted, *x.shape)
            with how.autocast():
                found = gradient(lambda x, y, form=form: form(x, y)[1], model, x, y)
            name = f"{'compiled' if form is not model else 'eager'}, {dtype}: loss, gradient"
            loss, grad = (relative(a, b) for a, b in zip(found, exact, strict=True))
            yield name, f"{loss:.1e}, {grad:.1e}"
    yield f"head of {s.B * s.T} rows: loss, dx, dw", head_error(s, compute)


def gradient(
    loss_of: Callable[..., torch.Tensor], model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor
) -> list[torch.Tensor]:
    """The loss, and the gradient of all parameters as one vector, both float64."""
    model.zero_grad()
    loss = loss_of(x, y)
    loss.backward()
    grads = [p.grad.double().flatten() for p in model.parameters()]
    model.zero_grad()
    return [loss.detach().double(), torch.cat(grads)]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b).norm() / b.norm()).item()


def head_error(s: Settings, compute: Compute) -> str:
    """Errors of the loss in chunks at its full size; in float64 1,024 rows at a time."""
    torch.manual_seed(0)
    N, C, V = s.B * s.T, s.n_embd, s.vocab_size
    x = torch.randn(N, C, device=compute.device).requires_grad_()
    weight = (0.02 * torch.randn(V, C, device=compute.device)).requires_grad_()
    targets = torch.randint(min(V, 50257), (N,), device=compute.device)
    with compute.autocast():
        loss = torch.compile(chunked_cross_entropy)(x, weight, targets)
    found = loss, *torch.autograd.grad(loss, (x, weight))
    exact_weight = weight.detach().double().requires_grad_()
    total, dxs = torch.zeros((), device=compute.device, dtype=torch.double), []
    for rows, target in zip(x.detach().split(1024), targets.split(1024)):
        rows = rows.double().requires_grad_()
        part = F.cross_entropy(rows @ exact_weight.t(), target, reduction="sum") / N
        part.backward()  # adds to exact_weight's gradient
        dxs.append(rows.grad)
        total += part.detach()
    exact = total, torch.cat(dxs), exact_weight.grad
    return ", ".join(f"{relative(a, b):.1e}" for a, b in zip(found, exact, strict=True))


# ---------- 3: the true script -----------------------------------------------------------


def true_run(log_dir: Path, flags: list[str]) -> Iterator[Row]:
    """Five steps with all that happens between steps, then three more from the checkpoint; what
    each printed, line by line."""
    flags = [*flags, "--eval_every", "5", "--sample_every", "5", "--hellaswag_every", "5"]
    flags += ["--log_dir", str(log_dir)]
    for name, more in (
        ("run", ["--max_steps", "5"]),
        ("resume", ["--max_steps", "8", "--resume", "1"]),
    ):
        command = [sys.executable, "train_gpt2.py", *flags, *more]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        for line in (done.stdout + done.stderr).splitlines():
            yield name, line
        yield name, f"exit code {done.returncode}"
