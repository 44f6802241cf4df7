"""What the adapters make of every architecture: one row each, checked; and the page ``docs/coverage.md``.

    python -m tests.catalogue      # writes the page

Each parameter is a Weight whose blocks cover every entry exactly once, or skipped with a reason; large
matrices are skipped only for the reasons reviewed below.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from sigprune.families.adapters._module_tree.walk import survey
from sigprune.values.layout import fan_in, fan_out
from sigprune.values.weight import Weight
from tests.support.shrinking import LEFT_OUT, shrunk

TYPES = tuple(t for t in MODEL_MAPPING_NAMES if t not in LEFT_OUT)

# Reasons for which a parameter of rank 2 or more may hold over 1 % of a model's entries.
REVIEWED = {
    "position table": "added to activations or to attention scores, entry by entry: no product of matrices",
    "fixed table": "positions, computed (sines and cosines) or frozen",
    "token": "learned inputs: tokens, queries, prompts",
    "state": "decay of a recurrence, entry by entry: a zero is not the absence of a connection",
    "router": "chooses experts or mixes residual streams; small, and not to be pruned by default",
    "norm scale": "of a norm over several axes",
    "norm shift": "of a norm over several axes",
    "gate": "a scale of several axes that closes a branch",
}
# Parameters skipped as "other" that act entry by entry, by the end of their names, with how they are used.
OTHERS = {
    "alpha": "timm EfficientViM: mixes two activations, channel by channel",
    "freqs": "timm RoPE-mixed: learned frequencies of rotary embeddings",
    "static_weight": "Inkling: depthwise taps that are added to dynamic ones",
    "index_kpool_compress_gate": "GLM: a gate of the indexer, initialised to ones",
    "scale": "scales of heads, entry by entry",
}
_KINDS: dict[str, Callable[[Weight], bool]] = {
    "fused": lambda w: bool(w.layout.fused) and w.role != "recurrent",
    "grouped": lambda w: w.role == "conv" and w.layout.groups > 1,
    "stacked": lambda w: w.layout.stacked,
    "transposed": lambda w: w.layout.transposed and w.role != "embedding",
    "recurrent": lambda w: w.role == "recurrent",
    "standardised": lambda w: w.standardised is not None,
    "weight-normalised": lambda w: w.magnitude is not None,
    "tied": lambda w: bool(w.tied),
}


PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"
_PAGE = """\
# Coverage

Made by `python -m tests.catalogue`; a test compares it. Every parameter of every architecture below is a
weight whose blocks cover each entry once, or skipped with a reason. *In weights*: the smallest share of the
parameters that are weights; *kinds*: layouts that occur besides plain matrices and kernels.

## timm {version}: {architectures} of {architectures} architectures

{timm}

## transformers: {known} of {types} model types

As small models (`tests/support/shrinking.py`), by main input.

{transformers}

Left out: {left_out}.

## Large parameters that are no weights

{reviewed}
{others}
"""


@dataclass(frozen=True)
class Row:
    """One architecture."""

    family: str
    parameters: int
    in_weights: int
    gates: int
    kinds: frozenset[str]


def timm_rows(module: str) -> list[Row]:
    """The architectures of a module of timm, on the meta device."""
    rows = []
    for name in timm.list_models(module=module):
        with _named(name):
            rows.append(_row(module, timm.create_model(name, device="meta")))
    return rows


def transformers_row(model_type: str) -> Row:
    """A small model of a type of transformers; every entry is visited."""
    with _named(model_type):
        model = shrunk(model_type)
        row = _row(str(model.main_input_name), model)
        for weight in survey(model).weights:
            visits = torch.zeros(weight.shape)
            for block in weight.layout.blocks(visits):
                block.add_(1)
            assert torch.equal(visits, torch.ones(weight.shape)), weight.name
    return row


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Many architectures make one test: errors say of which. Deprecations inside the libraries are theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            error.add_note(f"in {name}")
            raise


def _row(family: str, module: nn.Module) -> Row:
    found, parameters = survey(module), dict(module.named_parameters())
    every = dict(module.named_parameters(remove_duplicate=False))
    _check(found.weights, found.skipped, every)
    return Row(
        family,
        sum(p.numel() for p in parameters.values()),
        sum(w.count for w in found.weights),
        len(found.gates),
        frozenset(kind for kind, holds in _KINDS.items() if any(map(holds, found.weights))),
    )


def _check(weights: list[Weight], skipped: dict[str, str], parameters: dict[str, nn.Parameter]) -> None:
    total = sum(p.numel() for p in {id(p): p for p in parameters.values()}.values())
    names = [*(name for w in weights for name in (w.name, *w.tied)), *skipped]
    assert sorted(names) == sorted(parameters), "each name once"
    for weight in weights:
        check_blocks(weight, parameters[weight.name])
    for name, reason in skipped.items():
        tensor = parameters[name]
        if tensor.dim() >= 2 and tensor.numel() > 0.01 * total:
            known = reason in REVIEWED or (reason == "other" and name.rpartition(".")[2] in OTHERS)
            assert known, f"{name} {tuple(tensor.shape)} is skipped as {reason!r}: it may be a matrix"


def check_blocks(weight: Weight, tensor: torch.Tensor) -> None:
    """Every entry lies in exactly one block, and the fans are those of the block."""
    assert weight.shape == tuple(tensor.shape)
    blocks = list(weight.layout.blocks(torch.empty_strided(tensor.shape, tensor.stride(), device="meta")))
    assert sum(b.numel() for b in blocks) == tensor.numel(), weight.name
    assert len({b.storage_offset() for b in blocks}) == len(blocks), f"{weight.name}: blocks overlap"
    for block in blocks:
        out, channels, *kernel = block.shape
        assert fan_in(tuple(block.shape)) == channels * math.prod(kernel)
        assert fan_out(tuple(block.shape)) == out * math.prod(kernel)


def timm_table(rows: Iterable[Row]) -> str:
    return _table("module", rows)


def transformers_table(rows: Iterable[Row]) -> str:
    return _table("main input", rows)


def page(timm_table: str, transformers_table: str) -> str:
    """``docs/coverage.md`` with these tables."""
    return _PAGE.format(
        version=timm.__version__,
        architectures=len(timm.list_models()),
        timm=timm_table,
        known=len(TYPES),
        types=len(MODEL_MAPPING_NAMES),
        transformers=transformers_table,
        left_out="; ".join(f"`{name}` ({why})" for name, why in sorted(LEFT_OUT.items())),
        reviewed="\n".join(f"- {reason}: {why}" for reason, why in REVIEWED.items()),
        others="\n".join(f"- other, `{name}`: {why}" for name, why in OTHERS.items()),
    )


def _table(title: str, rows: Iterable[Row]) -> str:
    families: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    lines = [
        f"| {title} | number | parameters | in weights | with gates | kinds |",
        "|---|---|---|---|---|---|",
    ]
    for family, own in sorted(families.items()):
        sizes = sorted(row.parameters for row in own)
        share = min(row.in_weights / row.parameters for row in own)
        kinds = Counter(kind for row in own for kind in row.kinds)
        gated = sum(row.gates > 0 for row in own)
        span = _short(sizes[0]) if len(sizes) == 1 else f"{_short(sizes[0])} to {_short(sizes[-1])}"
        told = ", ".join(kind for kind in _KINDS if kinds[kind])
        lines.append(
            f"| {family} | {len(own)} | {span} | {math.floor(1000 * share) / 10:.1f} % | {gated} | {told} |"
        )
    return "\n".join(lines)


def _short(count: int) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


if __name__ == "__main__":
    rows = (row for module in timm.list_modules() for row in timm_rows(module))
    tables = timm_table(rows), transformers_table(map(transformers_row, TYPES))
    PAGE.write_text(page(*tables), encoding="utf-8")
