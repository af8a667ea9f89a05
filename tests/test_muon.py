"""--optimizer muon: the update, whose it is, and a run of it."""

import pytest
import torch

from support.cli import UserError
from support.runs import checkpoints, newest_checkpoint
from test_optimizer import adamw_by_hand, groups_of, step
from tiny import TINY_FLAGS, losses, run, tiny_model, write_shards
from train_gpt2 import GPT, GPTConfig, Settings

FLAGS = "--T 16 --B 2 --total_batch_size 64 --eval_every 0 --sample_every 0 --max_steps 8".split()
FLAGS += "--save_every 4 --max_lr 0.01 --optimizer muon --dtype float32".split()


def orthogonal(update: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """U S V^T -> near U V^T: each step takes a singular value s to a s + b s^3 + c s^5."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update / update.norm()
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def muon_by_hand(p, grads, lr, decay, momentum=0.95):
    """Jordan et al. 2024, with Nesterov's momentum; the size of Liu et al. 2025, section 2.2."""
    total = torch.zeros_like(p)
    for g in grads:
        total = momentum * total + (1 - momentum) * g
        update = orthogonal((1 - momentum) * g + momentum * total)
        p = p - lr * (0.2 * max(p.shape) ** 0.5 * update + decay * p)
    return p


def test_a_step_is_muon_by_hand_for_the_blocks_matrices_and_adamw_for_the_rest():
    model = tiny_model()
    optimizer = model.configure_optimizers(0.1, 1e-2, "cpu", "muon")
    torch.manual_seed(1)
    grads = {n: torch.randn(3, *p.shape) for n, p in model.named_parameters()}
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    for i in range(3):
        for n, p in model.named_parameters():
            p.grad = grads[n][i].clone()
        optimizer.step()
    for n, p in model.named_parameters():
        is_muons = ".h." in n and p.dim() == 2
        if is_muons:
            expected = muon_by_hand(start[n], grads[n], 1e-2, 0.1)
            moved, error = (expected - start[n]).norm(), (p - expected).norm()
            assert error / moved < 0.02, n  # torch's orthogonalises in bfloat16
        else:
            expected = adamw_by_hand(start[n], grads[n], 1e-2, 0.1 if p.dim() == 2 else 0.0)
            torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-6)


def test_all_directions_of_an_update_become_about_equally_long():
    torch.manual_seed(0)
    update = torch.randn(64, 64)
    before, after = (torch.linalg.svdvals(x) for x in (update, orthogonal(update)))
    assert before[0] / before[31] > 1.9
    assert after[0] < 1.25 and after[31] > 0.65


def test_both_take_steps_of_the_same_size():
    """The root mean square of a first update, without decay: 0.2 of the rate, or the rate."""
    for kind, size in (("muon", 0.2), ("adamw", 1.0)):
        model = tiny_model(n_embd=64)
        optimizer = model.configure_optimizers(0.0, 1e-2, "cpu", kind)
        weight = model.transformer.h[0].mlp.c_fc.weight
        before = weight.detach().clone()
        step(model, optimizer)
        moved = (weight.detach() - before).square().mean().sqrt().item() / 1e-3  # step's rate
        assert moved == pytest.approx(size, rel=0.25)


def test_whose_parameters_are_whose():
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=50304))
        embeddings, vectors, matrices = model.configure_optimizers(
            0.1, 1e-3, "meta", "muon"
        ).param_groups
    assert sum(p.numel() for p in matrices["params"]) == 12 * 12 * 768**2 == 84_934_656
    assert {id(p) for p in embeddings["params"]} == {
        id(model.transformer.wpe.weight),
        id(model.lm_head.weight),
    }
    assert sum(p.numel() for p in vectors["params"]) == 121_344
    assert [g["weight_decay"] for g in (embeddings, vectors, matrices)] == [0.1, 0.0, 0.1]
    assert len(groups_of(50304)) == 2  # AdamW's are as they were


@pytest.fixture(scope="module")
def eight_steps(tmp_path_factory):
    """A run of eight steps, with checkpoints at 4 and 8."""
    folder = tmp_path_factory.mktemp("muon")
    write_shards(folder, 500, 300)
    flags = (*TINY_FLAGS, *FLAGS, "--data_root", str(folder))
    return folder, flags, losses(run(*flags, "--log_dir", str(folder / "log")))


def test_it_goes_on_bit_for_bit(eight_steps, tmp_path):
    folder, flags, whole = eight_steps
    log = tmp_path / "log"
    log.mkdir()
    (log / "model_00004.pt").write_bytes((folder / "log" / "model_00004.pt").read_bytes())
    assert losses(run(*flags, "--log_dir", str(log), "--resume", "1")) == whole[4:]
    ends = [torch.load(f / "model_00008.pt", weights_only=True) for f in (folder / "log", log)]
    assert all(torch.equal(w, ends[0]["model"][name]) for name, w in ends[1]["model"].items())


def test_what_accumulates_is_what_comes_at_once(eight_steps, tmp_path):
    _, flags, whole = eight_steps  # 2 x 2 rows
    at_once = losses(run(*flags, "--B", "4", "--log_dir", str(tmp_path)))
    assert at_once == pytest.approx(whole, abs=2e-3)


def test_two_processes_are_one(eight_steps, tmp_path):
    _, flags, whole = eight_steps
    two = losses(run(*flags, "--log_dir", str(tmp_path), processes=2))
    assert two == pytest.approx(whole, abs=2e-3)


def test_a_run_goes_on_with_its_own_optimizer(eight_steps, tmp_path):
    folder, flags, _ = eight_steps
    other = run(*flags, "--optimizer", "adamw", "--resume", "1", "--log_dir", str(folder / "log"))
    assert other.returncode == 2 and "--optimizer adamw: the run in" in other.stderr
    older = tmp_path / "model_00004.pt"
    assert losses(run(*flags, *"--optimizer adamw --max_steps 4 --log_dir".split(), str(tmp_path)))
    checkpoint = torch.load(older, weights_only=True)
    del checkpoint["settings"]["optimizer"]  # as before there was a choice
    torch.save(checkpoint, older)
    other = run(*flags, "--resume", "1", "--log_dir", str(tmp_path))
    assert other.returncode == 2 and "--optimizer muon: the run in" in other.stderr


def test_a_checkpoint_without_its_momentum_is_passed_over(eight_steps, tmp_path):
    folder, _, _ = eight_steps
    for step_number, path in checkpoints(str(folder / "log")):
        checkpoint = torch.load(path, weights_only=True)
        if step_number == 8:
            del checkpoint["optimizer"]["state"][27]["momentum_buffer"]  # of a matrix
        torch.save(checkpoint, tmp_path / path.name)
    assert newest_checkpoint(str(tmp_path), Settings)["step"] == 4
    (tmp_path / "model_00004.pt").unlink()
    with pytest.raises(UserError, match="its optimizer holds other things"):
        newest_checkpoint(str(tmp_path), Settings)
