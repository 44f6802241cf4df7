"""Model cards: what a report says, as the README.md of a model repository (imports no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from types import MappingProxyType
from typing import TYPE_CHECKING

import yaml

from sigprune.base.registry import JsonValue
from sigprune.families.datasets import datasets
from sigprune.report import card_sections
from sigprune.report.loading_examples import image_file, snippets
from sigprune.report.record import Report

if TYPE_CHECKING:
    from sigprune.format.manifest import Manifest

_ORDER = (
    "name", "seed", "device", "model", "data", "init", "measure", "verify", "prune", "isometry", "train",
    "baselines", "checks", "save", "push",
)  # fmt: skip

_PROVENANCE = MappingProxyType({
    "score": "score",
    "allocation": "allocation",
    "pattern": "pattern",
    "sparsity": "sparsity asked for",
    "include": "pruned were",
    "exclude": "left alone were",
    "seed": "seed",
    "mask_from": "mask from",
    "source": "weights from the folder",
    "base_model": "weights from",
    "revision": "at its commit",
    "recipe_digest": "recipe digest",
    "proved": "the model of `config.json` was never run; it has the same",
})
"""Keys of a manifest's provenance that a card tells, and how."""


def card(report: Report, *, repo: str | None = None, dense: bool = True, sparse: bool = True) -> str:
    """The model card of a run's folder; equal reports give equal cards, whatever their timing.

    A base model is named only where its weights were kept, a licence never: the author of the card adds it.

    Args:
        report: what happened.
        repo: Hub id that the folder will have, for the loading examples; None writes them for a local folder.
        dense: the dense weights are there.
        sparse: the packed weights are there.

    Returns:
        Markdown with YAML front matter; the figures are linked by their names in the run's folder.

    Example:
        >>> from pathlib import Path
        >>> report = Report.read("runs/quickstart")  # doctest: +SKIP
        >>> _ = Path("runs/quickstart/README.md").write_text(card(report))  # doctest: +SKIP
    """
    template = resources.files(__package__).joinpath("card.md").read_text(encoding="utf-8")
    text = Template(template).substitute(
        metadata=_yaml(metadata(report)),
        title=_title(report),
        summary=card_sections.summary(report),
        score=card_sections.score(report),
        figures=card_sections.figures(report),
        signal=card_sections.signal(report),
        findings=card_sections.findings(report),
        loading=_loading(report, repo, dense=dense, sparse=sparse),
        preprocessing=_preprocessing(report, repo, dense=dense),
        checks=card_sections.checks(report),
        files=card_sections.files(report),
        provenance=card_sections.provenance(report),
        initialisation=card_sections.initialisation(report),
        recipe=_yaml(_ordered(report.facts["recipe"])),
        sources=card_sections.sources(report),
        limits=card_sections.limits(report),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def plain_card(
    manifest: Manifest, *, repo: str | None = None, dense: bool = True, sparse: bool = True
) -> str:
    """The card of a checkpoint of which no report is known: what its manifest says, and how to load it."""
    from sigprune.propagation.emptied import emptied_in

    library, recorded = manifest.library, manifest.provenance
    front: dict[str, object] = {
        "library_name": library if library in {"timm", "transformers"} else "sigprune",
        "tags": ["sigprune", "sparse", "pruning"],
    }
    front |= {"base_model": recorded["base_model"]} if isinstance(recorded.get("base_model"), str) else {}
    rows = [
        (
            f"`{name}`",
            str(list(entry.shape)),
            f"{entry.kept:,}",
            f"{1 - entry.kept / max(entry.total, 1):.4f}",
        )
        for name, entry in manifest.tensors.items()
        if entry.kept is not None
    ]
    percent, made = card_sections.percent(manifest.sparsity), _made(recorded)
    lines = [f"- {_in_words(line)}\n" for line in emptied_in(manifest)]
    warned = "".join(lines) + "\n" * bool(lines)
    found = recorded.keys() & {"score", "mask_from", "recipe"}
    unknown = "What that costs" if found else "How the mask was found and what it costs"
    return "\n".join([
        f"---\n{_yaml(front)}\n---\n\n# {manifest.architecture}, {percent} sparse\n",
        f"{manifest.kept:,} of {manifest.total:,} entries are kept in {len(rows)} tensors, packed as "
        f"{', '.join(manifest.codecs) or 'nothing'}. {unknown} in accuracy is not recorded here.\n\n"
        f"{warned}## Loading\n",
        snippets(library, "base", repo, dense=dense, sparse=sparse),
        f"\n## How it was made\n\n{made}\n" if made else "",
        f"## Layers\n\n{card_sections.table(('tensor', 'shape', 'kept', 'sparsity'), rows)}\n",
    ])


def metadata(report: Report) -> dict[str, object]:
    """The front matter: only what the report knows."""
    facts = report.facts
    library = facts["model"]["library"]
    plain: dict[str, object] = {
        "library_name": library if library in {"timm", "transformers"} else "sigprune",
        "tags": ["sigprune", "sparse", "pruning", report.member("prune", "score")],
    }
    if base := facts["model"].get("base_model"):
        plain["base_model"] = base
    data = report.member("data", "source")
    accuracy = report.test_accuracy
    if data in {"", "noise"} or accuracy is None:
        return plain
    hub = card_sections.fact(datasets, data, "HUB")
    plain |= {"pipeline_tag": "image-classification", "metrics": ["accuracy"]}
    plain |= {"datasets": [hub]} if hub else {}
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"type": hub or data, "name": data},
        "metrics": [{"type": "accuracy", "name": "Test accuracy", "value": accuracy}],
    }
    return plain | {"model-index": [{"name": _title(report), "results": [result]}]}


def _title(report: Report) -> str:
    return f"{report.facts['model']['architecture']}, {card_sections.percent(report.sparsity)} sparse"


def _yaml(plain: Mapping[str, object]) -> str:
    return yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True, width=100).rstrip()


def _made(recorded: Mapping[str, JsonValue]) -> str:
    """What a manifest's provenance tells of pruning and packing; empty where it tells nothing."""
    known = {key: _in_words(recorded[key]) for key in _PROVENANCE if recorded.get(key) is not None}
    if recorded.get("mask_from") == "zeros":
        known["mask_from"] = "the zeros of the dense weights"
    lines = [f"- {_PROVENANCE[key]}: {text}" for key, text in known.items()]
    recipe = recorded.get("recipe")
    if isinstance(recipe, dict):
        lines.append(f"- recipe:\n\n```yaml\n{_yaml(_ordered(recipe))}\n```")
    return "\n".join(lines)


def _in_words(value: JsonValue) -> str:
    if isinstance(value, list):
        return ", ".join(map(_in_words, value)) or "nothing"
    if isinstance(value, dict):  # a member and its options
        options = ", ".join(
            f"{_in_words(key)} {_in_words(one)}" for key, one in value.items() if key != "name"
        )
        return _in_words(value.get("name")) + (f" ({options})" if options else "")
    return f"`{' '.join(value.split())}`" if isinstance(value, str) else str(value)


def _loading(report: Report, repo: str | None, *, dense: bool, sparse: bool) -> str:
    args = report.value("model", "args")
    task = args.get("task") if isinstance(args, dict) else None
    library = report.facts["model"]["library"]
    return snippets(library, str(task or "image-classification"), repo, dense=dense, sparse=sparse)


def _preprocessing(report: Report, repo: str | None, *, dense: bool) -> str:
    """How to classify an image file; empty in the reports of earlier versions, which do not tell it."""
    if "preprocessing" not in report.facts:
        return ""
    known, library = report.facts["preprocessing"], report.facts["model"]["library"]
    text = "## Images\n\n" + card_sections.preprocessing(report)
    if known is None or not dense:
        return text
    code = image_file(library, repo, grey=len(known["mean"]) == 1)
    return f"{text}\n\n{code}" if code else text


def _ordered(recipe: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The recipe in the order in which it is carried out."""
    known = [key for key in _ORDER if key in recipe]
    rest = [key for key in recipe if key not in known]
    return {key: _name_first(recipe[key]) for key in known + rest}


def _name_first(value: JsonValue) -> JsonValue:
    if not isinstance(value, dict):
        return value
    return {key: _name_first(value[key]) for key in sorted(value, key=lambda key: (key != "name", key))}
