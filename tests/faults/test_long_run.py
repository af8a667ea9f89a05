"""A long run leaks nothing, and does not slow down."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import ROOT, TINY_FLAGS

pytestmark = pytest.mark.soak
STEPS, EVERY = 2000, 50
FLAGS = [*TINY_FLAGS, *f"--T 32 --total_batch_size 256 --B 8 --max_steps {STEPS}".split()]
FLAGS += f"--eval_every {EVERY} --val_tokens 2048 --sample_every {EVERY} --keep 3".split()
FLAGS += f"--save_every {EVERY}".split()

WATCHED = """
import json, os, re, sys, time
from pathlib import Path
import train_gpt2
from support.runs import Log

def now() -> dict:
    text = Path("/proc/self/status").read_text()
    kb = {name: int(re.search(rf"^{name}:\\s+(\\d+)", text, re.M)[1]) for name in NAMES}
    return {**kb, "files": len(os.listdir("/proc/self/fd")), "cpu": time.process_time()}

NAMES = "VmRSS RssAnon Threads".split()
write, seen = Log.write, []

def watch(self, step, stream, value):
    write(self, step, stream, value)
    if stream == "train" and step % 50 == 10:
        seen.append({"step": step, **now()})

Log.write = watch
train_gpt2.main(sys.argv[2:])
Path(sys.argv[1]).write_text(json.dumps(seen))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_files_threads_and_speed_stay_as_they_are(tmp_path):
    script = tmp_path / "watched.py"
    script.write_text(WATCHED)
    command = [sys.executable, script, tmp_path / "seen", *FLAGS, "--log_dir", tmp_path / "log"]
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    seen = json.loads((tmp_path / "seen").read_text())
    tenth = len(seen) // 10
    settled, last = seen[tenth], seen[-1]
    # In processor seconds, as others use the machine, too: what 200 steps take, with all they do.
    first, end = settled["cpu"] - seen[0]["cpu"], last["cpu"] - seen[-1 - tenth]["cpu"]
    print(f"{settled}\n{last}\nspeed of the last tenth to that of the first: {first / end:.3f}")
    for name in ("VmRSS", "RssAnon"):
        assert last[name] < 1.02 * settled[name]
    assert (last["files"], last["Threads"]) == (settled["files"], settled["Threads"])
    assert first / end > 0.95
