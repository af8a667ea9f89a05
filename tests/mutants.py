"""Bugs put in on purpose, those that the lessons warn of: does a test notice?

    python tests/mutants.py             # all of them: minutes
    python tests/mutants.py 25 29 33    # those of some lessons

Each mutant is a copy of the project in which one place is changed; its tests must fail there.
Exit status 1 where they do not: such a test proves nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "log", "edu_fineweb10B", "hellaswag")


class Mutant(NamedTuple):
    """One place of one file, changed; `tests` are pytest's arguments."""

    lesson: int
    bug: str
    path: str
    old: str
    new: str
    tests: str


INSIDE = """\
        with nullcontext() if is_last or compute.world_size == 1 else model.no_sync():
            with compute.autocast():  # the backward pass follows the forward pass's dtypes
                _, loss = model(x, y)
"""
BEFORE = """\
        with nullcontext():
            with compute.autocast():
                _, loss = model(x, y)
            model.require_backward_grad_sync = is_last
"""

MUTANTS = [
    Mutant(
        5,
        "the context is cut on the wrong side",
        "train_gpt2.py",
        "idx = idx[:, -block_size:]",
        "idx = idx[:, :block_size]",
        "tests/test_sample.py",
    ),
    Mutant(
        7,
        "the copy on the device is dropped",
        "support/compute.py",
        "return [t.to(self.device) for t in tensors]",
        "return [t for t in tensors if t.to(self.device) is not None]",
        "tests/test_device.py -k copies",
    ),
    Mutant(
        12,
        "the clock is read before the device is done",
        "train_gpt2.py",
        "        compute.synchronize()\n",
        "",
        "tests/test_wiring.py -k clock",
    ),
    Mutant(
        12,
        "tokens per second of one micro-batch",
        "train_gpt2.py",
        "tok_per_sec = s.total_batch_size / seconds",
        "tok_per_sec = s.B * s.T / seconds",
        "tests/test_wiring.py -k clock",
    ),
    Mutant(
        12,
        "FLOPs without attention's products",
        "train_gpt2.py",
        "6 * weights + 12 * c.n_layer * c.n_embd * c.block_size",
        "6 * weights",
        "tests/test_model.py -k flops",
    ),
    Mutant(
        14,
        "a step outside of autocast",
        "train_gpt2.py",
        "            with compute.autocast():  # the backward",
        "            with nullcontext():  # the backward",
        "tests/test_precision.py -k dtype_of_the_run",
    ),
    Mutant(
        14,
        "autocast is told cuda:3",
        "support/compute.py",
        "torch.autocast(self.device_type, self.dtype)",
        "torch.autocast(self.device, self.dtype)",
        "tests/test_precision.py -k told",
    ),
    Mutant(
        14,
        "--dtype is ignored",
        "support/compute.py",
        "dtype = dtype or (",
        "dtype = (",
        "tests/test_precision.py -k typed",
    ),
    Mutant(
        15,
        "validation by the compiled model",
        "train_gpt2.py",
        "validation_loss(raw_model, ",
        "validation_loss(model, ",
        "tests/test_wiring.py -k compiled",
    ),
    Mutant(
        15,
        "the compiler's gradients are left behind",
        "support/compute.py",
        "        model.zero_grad(set_to_none=True)\n",
        "        pass\n",
        "tests/test_compile.py -k finds_its_graphs",
    ),
    Mutant(
        17,
        "ids that only pad the vocabulary are taken",
        "train_gpt2.py",
        "vocab_size = min(N_VOCAB, raw_model.config.vocab_size)",
        "vocab_size = raw_model.config.vocab_size",
        "tests/test_wiring.py -k ids",
    ),
    Mutant(
        18,
        "all logits at once",
        "train_gpt2.py",
        "return None, chunked_cross_entropy(x, weight, targets.flatten())",
        "return None, F.cross_entropy(F.linear(x, weight), targets.flatten())",
        "tests/test_loss.py -k never_has_all",
    ),
    Mutant(
        19,
        "--grad_clip is ignored",
        "train_gpt2.py",
        "micro_steps, lr, s.grad_clip)",
        "micro_steps, lr, 1.0)",
        "tests/test_wiring.py -k rate",
    ),
    Mutant(
        20,
        "the rate of the next step",
        "train_gpt2.py",
        "lr = get_lr(step, s)",
        "lr = get_lr(step + 1, s)",
        "tests/test_wiring.py -k rate",
    ),
    Mutant(
        21,
        "--weight_decay is ignored",
        "train_gpt2.py",
        "how = s.weight_decay, s.max_lr",
        "how = 0.0, s.max_lr",
        "tests/test_wiring.py -k rate",
    ),
    Mutant(
        23,
        "the division is forgotten",
        "train_gpt2.py",
        "loss = loss / micro_steps",
        "loss = loss * 1",
        "tests/test_accumulation.py",
    ),
    Mutant(
        24,
        "all processes of a second machine take its GPUs by their global rank",
        "support/compute.py",
        'device = f"cuda:{local_rank}"',
        'device = f"cuda:{rank}"',
        "tests/test_device.py -k local_rank",
    ),
    Mutant(
        25,
        "the switch is set after the forward pass",
        "train_gpt2.py",
        INSIDE,
        BEFORE,
        "tests/test_distributed.py -k averaged",
    ),
    Mutant(
        25,
        "gradients are averaged after each micro-step",
        "train_gpt2.py",
        "model.no_sync()",
        "nullcontext()",
        "tests/test_distributed.py -k averaged",
    ),
    Mutant(
        26,
        "a run that is resumed repeats documents",
        "fineweb.py",
        "[max(0, start - row) :]",
        "[0:]",
        "tests/test_fineweb.py -k any_document",
    ),
    Mutant(
        27,
        "a shard is read into memory as a whole",
        "support/shards.py",
        'np.lib.format.open_memmap(path, mode="r")',
        "np.load(path)",
        "tests/test_data.py -k stays_on_the_disk",
    ),
    Mutant(
        28,
        "validation on the training tokens",
        "train_gpt2.py",
        'DataLoaderLite(s.B, s.T, *ranks, "val", ',
        'DataLoaderLite(s.B, s.T, *ranks, "train", ',
        "tests/test_wiring.py -k own_tokens",
    ),
    Mutant(
        28,
        "validation keeps what a backward pass would need",
        "train_gpt2.py",
        "@torch.no_grad()\ndef validation_loss",
        "def validation_loss",
        "tests/test_validation.py -k keeps_nothing",
    ),
    Mutant(
        29,
        "samples draw from training's generator",
        "train_gpt2.py",
        "32 - len(start), generator=generator)",
        "32 - len(start))",
        "tests/test_sample.py -k left_alone",
    ),
    Mutant(
        31,
        "acc in training, not acc_norm",
        "train_gpt2.py",
        "_, right = hellaswag.evaluate",
        "right, _ = hellaswag.evaluate",
        "tests/test_wiring.py -k acc_norm",
    ),
    Mutant(
        33,
        "the generator is not restored",
        "support/runs.py",
        '    torch.set_rng_state(checkpoint["rng"])\n',
        "",
        "tests/test_checkpoint.py -k generator",
    ),
    Mutant(
        33,
        "the GPU's generator is not saved",
        "support/runs.py",
        'states["cuda_rng"] = torch.cuda.get_rng_state()',
        "pass",
        "tests/test_checkpoint.py -k generator",
    ),
    Mutant(
        33,
        "nothing is saved at the end",
        "train_gpt2.py",
        "due(step, s.save_every, is_last)",
        "due(step, s.save_every, False)",
        "tests/test_wiring.py -k at_the_end",
    ),
    Mutant(
        33,
        "a file gets its name before it is on the disk",
        "support/files.py",
        "file.flush()\n                os.fsync(file.fileno())\n",
        "file.flush()\n",
        "tests/test_files.py",
    ),
    Mutant(
        37,
        "a fifth of the sleep",
        "support/compute.py",
        "time.sleep(0.1)",
        "time.sleep(0.02)",
        "tests/test_distributed.py -k sleep",
    ),
    Mutant(
        38,
        "the gradients of several chunks are summed in bfloat16",
        "support/loss.py",
        "dtype=dtype if N <= rows else weight_dtype",
        "dtype=dtype",
        "tests/test_loss.py -k stay_in_fp32",
    ),
    Mutant(
        42,
        "model_00010_old.pt is resumed from",
        "support/runs.py",
        're.fullmatch(r"model_(\\d+)"',
        're.match(r"model_(\\d+)"',
        "tests/test_checkpoint.py -k with_a_step",
    ),
    Mutant(
        44,
        "a process without examples stays away from the sum",
        "train_gpt2.py",
        "if examples is not None and due",
        "if examples and due",
        "tests/test_distributed.py -k fewer_examples",
    ),
    Mutant(
        44,
        "a compiler fails on one process, which alone goes on without",
        "support/compute.py",
        'failed = compute.gather(int(reason != ""))',
        'failed = [int(reason != "")]',
        "tests/test_compile.py -k none_compiles",
    ),
    Mutant(
        45,
        "the target's logit is picked by gather",
        "support/loss.py",
        "loss = loss - torch.where(hit, logp, 0).sum()",
        "loss = loss - logp.gather(1, target).sum()",
        "tests/test_compile.py -k several_chunks",
    ),
    Mutant(
        45,
        "chunks do not wait for each other",
        "support/loss.py",
        "chunk = chunk + (0 * loss).to(chunk.dtype)",
        "pass",
        "tests/test_compile.py -k several_chunks",
    ),
    Mutant(
        47,
        "the window moves, the keys stay",
        "support/cache.py",
        "        self.length = 0\n        if",
        "        if",
        "tests/test_cache.py",
    ),
    Mutant(
        53,
        "a run that goes on takes the defaults instead of its own settings",
        "support/plan.py",
        "known = {**saved, **given}",
        "known = dict(given)",
        "tests/test_resume.py -k own_settings",
    ),
    Mutant(
        53,
        "other data is not noticed",
        "train_gpt2.py",
        'state.get("shards", found) != found',
        "len(found) == 0",
        "tests/test_resume.py -k other_data",
    ),
    Mutant(
        54,
        "a trained model goes on with a new one's rate",
        "support/plan.py",
        'SIZES[size]["max_lr"] / 10',
        'SIZES[size]["max_lr"]',
        "tests/test_finetune.py -k defaults",
    ),
    Mutant(
        54,
        "a trained model is not trained further, a new one is",
        "train_gpt2.py",
        "(trained or start_model(s))",
        "start_model(s)",
        "tests/test_finetune.py -k faster",
    ),
    Mutant(
        57,
        "a checkpoint's checksums are not looked at",
        "support/runs.py",
        "        refuse_changed_bytes(path)\n",
        "",
        "tests/faults/test_checkpoint_faults.py",
    ),
    Mutant(
        58,
        "only the process that was told stops",
        "train_gpt2.py",
        "if stops > 0 and",
        "if stop.signal > 0 and",
        "tests/faults/test_stop.py -k all_stop",
    ),
    Mutant(
        58,
        "the checkpoint of a stopped run says the step before",
        "train_gpt2.py",
        "    state.step += 1\n",
        "",
        "tests/faults/test_stop.py -k finished",
    ),
    Mutant(
        59,
        "the lock is not taken",
        "support/runs.py",
        "lock.acquire(timeout=LOCK_SECONDS)",
        "pass",
        "tests/faults/test_lock.py -k second",
    ),
    Mutant(
        64,
        "AdamW moves the blocks' matrices, too",
        "support/muon.py",
        "if p not in taken]",
        "]",
        "tests/test_muon.py -k hand",
    ),
    Mutant(
        64,
        "Muon's updates are not scaled to AdamW's",
        "support/muon.py",
        '"match_rms_adamw"',
        '"original"',
        "tests/test_muon.py -k size",
    ),
    Mutant(
        66,
        "the budget forgets one of the backward pass's matmuls",
        "support/budget.py",
        "return 3 * 2 * s.B",
        "return 2 * 2 * s.B",
        "tests/test_budget.py -k paper",
    ),
]


def is_noticed(mutant: Mutant, folder: Path) -> bool:
    """Whether a test fails in `folder`, a copy of the project, with the bug in it."""
    path = folder / mutant.path
    right = path.read_text(encoding="utf-8")
    assert right.count(mutant.old) == 1, f"{mutant.bug}: its place in {mutant.path} is not there"
    path.write_text(right.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-qx", *mutant.tests.split()]
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    finally:
        path.write_text(right, encoding="utf-8")
    assert done.returncode in (0, 1), done.stdout  # 1: a test failed; others: none was run
    return done.returncode == 1


def main(lessons: list[str]) -> int:
    chosen = [m for m in MUTANTS if not lessons or str(m.lesson) in lessons]
    noticed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
        for mutant in chosen:
            is_good = is_noticed(mutant, folder)
            noticed += is_good
            verdict = "noticed" if is_good else "NOT NOTICED"
            print(f"lesson {mutant.lesson:02d}  {verdict}: {mutant.bug}", flush=True)
    print(f"{noticed} of {len(chosen)} bugs noticed")
    return 0 if noticed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
