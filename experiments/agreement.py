"""Lesson 20: do different examples ask for the same change, at first and later?"""

import torch
from matplotlib.figure import Figure

from experiments.drawing import panels
from experiments.small import small_model, text

ROWS = 8  # rows of 64 tokens, whose gradients are compared
LOOK = (0, 3, 6, 10, 15, 25, 40, 70, 120, 200)


def row_gradients(model: torch.nn.Module) -> torch.Tensor:
    """(ROWS, parameters): each row's own gradient, from a stretch that training has not reached."""
    loader, found = text(B=1), []
    loader.position = 200_000
    for _ in range(ROWS):
        _, loss = model(*loader.next_batch())
        found.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])
        )
    return torch.stack(found)


def agreement(gradients: torch.Tensor) -> tuple[float, float, float]:
    """Mean cosine of two rows' gradients; mean norm of one; norm of their mean."""
    norms = gradients.norm(dim=1)
    cosines = (gradients / norms[:, None]) @ (gradients / norms[:, None]).T
    pairs = cosines[~torch.eye(ROWS, dtype=torch.bool)]
    return pairs.mean().item(), norms.mean().item(), gradients.mean(0).norm().item()


def draw(quick: bool) -> Figure:
    look = LOOK[:2] if quick else LOOK
    model, loader = small_model(n_layer=2, n_embd=64), text(B=4)
    optimizer = model.configure_optimizers(0.1, 2e-3, "cpu")
    found = []
    for step in range(look[-1] + 1):
        if step in look:
            found.append(agreement(row_gradients(model)))
            print(
                f"step {step:4d}",
                "cosine {:5.2f}  norm {:5.2f}  of the mean {:5.2f}".format(*found[-1]),
            )
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 2e-3 * min(
            1, (step + 1) / 20
        )
        _, loss = model(*loader.next_batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    cosines, norms, of_mean = zip(*found, strict=True)
    figure, (left, right) = panels(2)
    left.plot(look, cosines, "o-")
    left.set(xlabel="step", ylabel="cosine of two rows' gradients", ylim=(0, 1))
    right.plot(look, norms, "o-", label="of one row's gradient")
    right.plot(look, of_mean, "o-", label=f"of the mean of {ROWS}")
    right.set(xlabel="step", ylabel="norm", ylim=(0, None))
    right.legend()
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(-1, 250)
        axes.set_xticks([0, 5, 10, 50, 200], labels=["0", "5", "10", "50", "200"])
    return figure
