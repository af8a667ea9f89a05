"""lm-evaluation-harness on an exported model, beside hellaswag.py on the same examples.

Needs `pip install lm_eval accelerate`, which nothing else here does; skipped without them.
"""

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import export
import hellaswag
from support.tokenizer import get_encoding
from tiny import ROOT, tiny_model
from train_gpt2 import GPT

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")

# as hellaswag.py asks: the text as it is, and each ending after one space, the target_delimiter
TASK = """\
task: hellaswag_as_it_is
dataset_path: json
dataset_kwargs:
  data_files: {{validation: "{examples}"}}
  cache_dir: "{cache}"
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{{{ctx}}}}"
doc_to_target: label
doc_to_choice: endings
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def write_examples(path: Path) -> list[dict]:
    """Eight real ones, and more whose endings differ in characters, bytes and tokens."""
    rng = random.Random(0)
    words = ["a", "é", "日本", "roof", "sleeps.", "unbelievably"]

    def ending() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 3)))

    text = (ROOT / "tests" / "data" / "hellaswag_8.jsonl").read_text(encoding="utf-8")
    for _ in range(100):
        example = {"ctx": "He", "endings": [ending() for _ in range(4)], "label": rng.randrange(4)}
        text += json.dumps(example) + "\n"
    path.write_text(text, encoding="utf-8")
    return hellaswag.load_examples(path)


def harness(model: Path, examples: Path, folder: Path) -> list[dict]:
    """What the harness says about each example, in their order."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "task.yaml").write_text(TASK.format(examples=examples, cache=folder / "cache"))
    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model)},
        tasks=["hellaswag_as_it_is"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        device="cpu",
        batch_size=16,
        bootstrap_iters=0,
    )
    return sorted(results["samples"]["hellaswag_as_it_is"], key=lambda sample: sample["doc_id"])


def export_random_model(folder: Path) -> tuple[GPT, Path]:
    """A model with large weights, and the folder that it was exported to."""
    model = tiny_model(vocab_size=50304, block_size=128).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    checkpoint = {"model": model.state_dict(), "config": asdict(model.config), "step": 0}
    torch.save(checkpoint, folder / "model_00000.pt")
    export.main([str(folder / "model_00000.pt"), str(folder / "mine")])
    return model, folder / "mine"


def test_the_harness_agrees_with_hellaswag_py(tmp_path):
    examples = write_examples(tmp_path / "examples.jsonl")
    model, mine = export_random_model(tmp_path)
    theirs = harness(mine, tmp_path / "examples.jsonl", tmp_path)

    encoding = get_encoding()
    questions = [hellaswag.render(example, encoding)[:2] for example in examples]
    with torch.no_grad():
        losses = hellaswag.score(model, questions, "cpu")  # (examples, 4)
    sums = [[-float(ll) for ll, _ in sample["filtered_resps"]] for sample in theirs]
    torch.testing.assert_close(losses, torch.tensor(sums), rtol=1e-4, atol=0)
    right, _ = hellaswag.evaluate(model, examples, encoding, "cpu")
    assert sum(sample["acc"] for sample in theirs) == right
    # Their acc_norm divides by the ending's characters, without the space; ours by its tokens.
    lengths = torch.tensor([[len(e) for e in example["endings"]] for example in examples])
    labels = torch.tensor([example["label"] for example in examples])
    is_right = (losses / lengths).argmin(dim=1) == labels
    assert [sample["acc_norm"] for sample in theirs] == is_right.tolist()
