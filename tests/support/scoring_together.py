"""What every process of a launcher runs in tests/test_processes.py: scores on its part of the data.

torchrun --nproc-per-node 2 tests/support/scoring_together.py FOLDER
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from sigprune import describe, prune
from sigprune.base.errors import BadInput
from sigprune.families.scores import scores
from sigprune.pruning.scorer import Scorer
from sigprune.values.mask import Mask
from tests.support.networks import SmallConv, seeded

SCORES = ("random", "magnitude", "snip", "snip_it", "force", "grasp", "synflow", "ntk_sap", "wanda")


def batches(part: int, parts: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches of 16 examples, or one part of each."""
    draws = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(2, 16, 3, 8, 8, generator=draws), torch.arange(32).reshape(2, 16) % 4
    own = slice(part * 16 // parts, (part + 1) * 16 // parts)
    return [(inputs[i, own], labels[i, own]) for i in (0, 1)]


def found(part: int, parts: int) -> dict[str, object]:
    """Scores and masks by every score, as plain tensors."""
    view = describe(seeded(SmallConv()).double())
    told: dict[str, object] = {"uneven": uneven(part, parts)}
    for name in SCORES:
        data = None if scores.read(name).facts["NEEDS"] == "nothing" else batches(part, parts)
        mask = prune(view, sparsity=0.7, score=name, batches=data)
        told[f"{name}/digest"] = mask.digest()
        scorer = Scorer.of(view, name, "labels", 0)
        told |= {f"{name}/{key}": value for key, value in scorer(mask, data, "0").items()}
    return told


def uneven(part: int, parts: int) -> torch.Tensor:
    """Scores with labels of which some say nothing, not as many in each process."""
    view = describe(seeded(SmallConv()).double())
    (x, y), *_ = batches(0, 1)
    labels = y.clone()
    labels[:3] = -100
    own = slice(part * 16 // parts, (part + 1) * 16 // parts)
    scorer = Scorer.of(view, "snip_it", "labels", 0)
    return scorer(Mask.dense(view.prunable_shapes()), [(x[own], labels[own])], "0")["head.weight"]


class Routed(nn.Module):
    """Two experts, of which a batch sees one."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.experts[int(x[0, 0] > 0)](x))


def routed(rank: int) -> str:
    """The mask of a network in half precision of which each process sees another part."""
    view = describe(seeded(Routed()).bfloat16(), example=torch.ones(1, 8))
    data = [(torch.full((4, 8), 1.0 if rank % 2 else -1.0), torch.arange(4))]
    return prune(view, sparsity=0.5, score="snip", batches=data).digest()


def refused(rank: int) -> str:
    """What is said where processes were not given as much."""
    view = describe(seeded(SmallConv()).double())
    try:
        prune(view, sparsity=0.5, score="snip", batches=batches(0, 1)[: 1 + rank])
    except BadInput as error:
        return str(error)
    return ""


def score(folder: str) -> None:
    """What this process finds, as a file of its rank."""
    torch.set_num_threads(1)
    together = Accelerator(cpu=True)
    rank, count = together.process_index, together.num_processes
    torch.save(
        {**found(rank, count), "refused": refused(rank), "routed": routed(rank)}, Path(folder) / f"{rank}.pt"
    )
    together.end_training()


def fork(folder: str, count: int) -> None:
    """The same in forks of this process, with the variables that a launcher sets.

    Raises:
        SystemExit: one of them failed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            score(folder)
            return
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("a process failed")


if __name__ == "__main__":
    score(sys.argv[1])
