"""One process against several, on the CPU."""
import pytest

from tiny import TINY_FLAGS, losses, run

FLAGS = [*TINY_FLAGS, *"--T 32 --total_batch_size 512 --max_steps 4".split()]


@pytest.fixture(scope="module")
def alone():
    return run(*FLAGS, "--B", "16")


@pytest.mark.parametrize("processes, B", [(2, 4), (4, 4)])
def test_several_processes_print_the_losses_of_one(alone, processes, B):
    together = run(*FLAGS, "--B", str(B), processes=processes)
    assert losses(together) == pytest.approx(losses(alone), abs=5e-5)
    assert len(losses(together)) == 4  # rank 0 alone prints


def test_a_user_s_mistake_is_told_once_by_rank_0():
    result = run(*FLAGS, "--B", "3", processes=2)
    assert result.stderr.count("error: --total_batch_size 512") == 1
    assert "exitcode  : 2" in result.stderr  # torchrun's own report
