"""The layer ratios of another sparse checkpoint."""

from __future__ import annotations

from pathlib import Path

from sigprune.base.errors import BadInput, suggestion
from sigprune.families.allocations._shared import share
from sigprune.format.index import read_manifest
from sigprune.values.ranking import Ranking

PAPER = "Frankle et al. 2021, arXiv 2009.08576, section 5 (layer ratios of one method, entries of another)"


def allocate(ranking: Ranking, *, checkpoint: str) -> dict[str, int]:
    """Counts in proportion to size · (density of the same weight in the checkpoint).

    At the checkpoint's own sparsity every weight keeps just as many entries as there; at another one the
    ratios between densities stay, as far as no weight is full. Names must be the same, shapes need not (a
    head with other classes gets the density of the old one). Masked weights of the checkpoint that are not
    pruned here are not looked at. Reads the header of one file per round, and no tensor.

    Args:
        ranking: sizes; scores are not looked at.
        checkpoint: a folder that ``save`` or ``run`` wrote.

    Raises:
        CheckpointError: the folder holds no packed file, or a damaged one.
        BadInput: a weight to prune has no mask in the checkpoint.
    """
    manifest = read_manifest(Path(checkpoint))
    desire: dict[str, float] = {}
    for name, size in ranking.sizes().items():
        entry = manifest.tensors.get(name)
        if entry is None or entry.kept is None:
            hint = suggestion(name, manifest.masked, 4) if manifest.masked else "it has none of any weight"
            raise BadInput(
                f"from_mask: {checkpoint} has no mask of {name} ({hint}); "
                "take a checkpoint of the same architecture, or exclude the weight"
            )
        desire[name] = size * entry.kept / max(entry.total, 1)
    return share(ranking, desire)
