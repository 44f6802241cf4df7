"""Scores in several processes: those of one process on all data, the same mask everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sigprune.base import distributed
from tests.support.hub import client, running
from tests.support.scoring_together import SCORES, found

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=["2 forks", pytest.param("torchrun", marks=pytest.mark.slow)])
def together(request, tmp_path_factory) -> list[dict[str, object]]:
    """What each process found: of two that are forked (importing takes seconds), or of a launcher's four."""
    folder, count = tmp_path_factory.mktemp("together"), 2 if request.param == "2 forks" else 4
    if request.param == "2 forks":
        code = "import sys; from tests.support.scoring_together import fork; fork(sys.argv[1], 2)"
        with running(tmp_path_factory.mktemp("hub")) as hub:  # unused, but it has a process that is forked
            done = client(hub.environment, code, str(folder))
    else:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        done = subprocess.run(
            [sys.executable, *torchrun, "tests/support/scoring_together.py", str(folder)],
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=3600,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


@pytest.fixture(scope="module")
def alone() -> dict[str, object]:
    return found(0, 1)


@pytest.mark.parametrize("name", SCORES)
def test_all_processes_hold_the_mask_of_one(together, alone, name):
    """Exactly: in float64 no two scores lie as near as the rounding of their sums."""
    assert {one[f"{name}/digest"] for one in together} == {alone[f"{name}/digest"]}


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_those_of_one_process(together, alone, name):
    keys = [key for key in alone if key.startswith(f"{name}/") and not key.endswith("digest")]
    assert len(keys) > 2
    for key in keys:
        expected = alone[key] / (len(together) ** 0.5 if name == "wanda" else 1)  # sums of squares, not means
        for one in together:
            torch.testing.assert_close(one[key], expected, rtol=1e-9, atol=1e-12)


def test_predictions_count_alike_in_all_processes(together, alone):
    """The first three examples have no label: the first process counts less."""
    for one in together:
        torch.testing.assert_close(one["uneven"], alone["uneven"], rtol=1e-9, atol=1e-12)


def test_processes_may_see_other_parts_of_a_network(together):
    assert len({one["routed"] for one in together}) == 1


def test_unequal_parts_are_refused_everywhere(together):
    for one in together:
        assert one["refused"].startswith(
            "the sizes of the batches that are scored with must be the same in all"
        )
        assert "process 0: [16], process 1: [16, 16]" in one["refused"]


def test_one_process_needs_no_group():
    tensors = [torch.ones(2)]
    distributed.average_(tensors)
    distributed.expect_equal("anything", "it")
    assert (distributed.count(), distributed.rank(), tensors[0].tolist()) == (1, 0, [1.0, 1.0])
