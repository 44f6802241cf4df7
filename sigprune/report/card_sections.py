"""The sections of a model card, each one in Markdown, from a report alone (imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from sigprune.base.registry import Family, JsonValue
from sigprune.families.allocations import allocations
from sigprune.families.datasets import datasets
from sigprune.families.inits import inits
from sigprune.families.repairs import repairs
from sigprune.families.scores import scores
from sigprune.format.names import CONFIG, DENSE, PACKED, PROCESSOR
from sigprune.report.record import Report, gains, number
from sigprune.report.schema import CheckFacts, Number

T = TypeVar("T")

_CAPTIONS = MappingProxyType({
    "singular_values": "Singular values of the input-output Jacobian at each step; the dashed line is 1",
    "gains": "Gain of the signal, stage by stage, forwards from the input and backwards from the output",
    "sparsity": "What pruning left of each layer",
    "training": "Test accuracy and loss during training, sparse and dense",
})


_CHOICES = (
    ("init", "method"),
    ("prune", "score"),
    ("prune", "allocation"),
    ("isometry",),
    ("data", "source"),
)


def summary(report: Report) -> str:
    """What it is and where it comes from, in two sentences."""
    facts, init = report.facts, report.member("init", "method")
    start = f"a fresh `{init}` initialisation" if init else "the weights that it was opened with"
    removed = f"{percent(report.sparsity)} of its {facts['mask']['total']:,} prunable entries removed"
    isometry = f", isometry restored by `{facts['isometry']['method']}`" if facts["isometry"] else ""
    epochs = len(facts["training"]["epochs"])
    data = report.member("data", "source")
    trained = f"then trained on `{data}` ({epochs} epochs)" if epochs else "not trained yet"
    by = report.member("prune", "score")
    return (
        f"`{facts['model']['ref']}` with {start}: {removed} by `{by}`{isometry}, {trained}. "
        f"Made with sigprune {facts['versions'].get('sigprune', '')}."
    )


def score(report: Report) -> str:
    """Test accuracy beside that of the dense network; empty where there was no test split."""
    if report.test_accuracy is None:
        return ""
    examples = report.facts["evaluation"].get("examples")
    rows = [
        ("this network", report.test_accuracy),
        ("dense, same plan", report.dense_test_accuracy),
        ("largest class", report.majority_accuracy),
    ]
    known = [(name, f"{100 * value:.2f} %") for name, value in rows if value is not None]
    return table((f"test accuracy ({examples} examples)", ""), known)


def figures(report: Report) -> str:
    """Links to the figures, with captions."""
    stems = {name: name.rpartition("/")[2].removesuffix(".png") for name in report.figures}
    return "\n\n".join(f"![{_CAPTIONS[stem]}]({name})" for name, stem in stems.items())


def signal(report: Report) -> str:
    """A table of the singular values, how they were found, and the stage that changes the signal most."""
    keys = ("mean", "std", "min", "median", "max", "condition")
    rows = [(m["moment"], *(number_text(m["summary"][key]) for key in keys)) for m in report.facts["signal"]]
    if not rows:
        return "Not measured."
    methods = "; ".join(dict.fromkeys(m["method"] for m in report.facts["signal"] if m.get("method")))
    last = report.facts["signal"][-1]
    change = gains(last).weakest
    method = f"\n\nMethod: {methods}." if methods else ""
    method += f"\n\nThe largest change of the signal {last['moment']}: {change}." if change else ""
    return table(("", *keys), rows) + method


def findings(report: Report) -> str:
    """A table of what was checked before training; empty where nothing was."""
    rows = [
        (
            "ok" if f["ok"] else "**failed**" if f["required"] else "**warning**",
            f["name"],
            f["where"],
            number_text(f["value"]),
            f"{number_text(f['low'])} to {number_text(f['high'])}",
            "" if f["ok"] else f["remedy"],
        )
        for f in report.facts["findings"]
    ]
    if not rows:
        return ""
    head = ("", "finding", "where", "value", "bounds", "remedy")
    return "Findings before training:\n\n" + table(head, rows, text=(0, 1, 2, 5))


def checks(report: Report) -> str:
    """A table of the sanity checks; empty where none were asked for."""
    rows = [
        (
            one["variant"],
            one["changed"],
            *(_known(figure) for figure in (one["overlap"], one["chance"], one["mean_jsv"])),
            _outcome(one),
        )
        for one in report.facts["checks"]
    ]
    if not rows:
        return ""
    head = ("", "changed", "overlap", "by chance", "mean singular value", "test accuracy")
    return (
        "Does the mask matter? The recipe again with one thing changed; overlap is the Jaccard index of the "
        "two masks, by chance that of independent ones with the same layer densities:\n\n"
    ) + table(head, rows, text=(0, 1, 5))


def _outcome(check: CheckFacts) -> str:
    if "skipped" in check:
        return f"left out: {check['skipped']}"
    if check.get("stopped"):
        return f"stopped: {check['stopped']}"
    return f"{100 * number(check['test_accuracy'] or 0):.2f} %"


def _known(value: Number | None) -> str:
    return "" if value is None else number_text(value)


def preprocessing(report: Report) -> str:
    """How an image file becomes an input, and the names of the classes."""
    known = report.facts.get("preprocessing")
    if known is None:
        return (
            "The data of this run are no image files: how one would have to be prepared is not known. What "
            "`config.json` says of it is the architecture's own, not that of this run."
        )
    mode = "greyscale" if len(known["mean"]) == 1 else "colour"
    whose = "of the pretrained weights" if known["normalisation"] == "weights" else "of the training data"
    mean, std = (", ".join(f"{one:.4g}" for one in known[key]) for key in ("mean", "std"))
    library = report.facts["model"]["library"]
    where = {
        "timm": "`config.json` says so to `timm.data.resolve_data_config`",
        "transformers": "`preprocessor_config.json` and `config.json` say so to transformers",
    }.get(library, "No file says so but this one")
    classes = known["classes"]
    names = ", ".join(" ".join(name.split()) for name in known["labels"][: min(classes, 20)])
    names += f" and {classes - 20:,} more" if classes > 20 else ""
    return (
        f"A {mode} image of 8 bits, resized as a whole to {known['height']} x {known['width']} pixels "
        f"(bilinear, antialiased), scaled to [0, 1], minus {mean}, divided by {std}: mean and deviation "
        f"{whose}. {where}. The {classes:,} classes: {names}."
    )


def files(report: Report) -> str:
    """A table of the checkpoint's files."""
    notes = {
        CONFIG: "the library's own configuration",
        PROCESSOR: "how transformers prepares images",
        DENSE: "every tensor dense, removed entries exactly zero",
        PACKED: "kept values and mask, packed; what `sigprune.load` reads and checks",
    }
    rows = [
        (f"`{name}`", f"{_integer(fact['bytes']):,}", f"`{str(fact['sha256'])[:16]}`", notes.get(name, ""))
        for name, fact in report.facts["files"].items()
    ]
    return table(("file", "bytes", "SHA-256", "holds"), rows, text=(0, 2, 3))


def provenance(report: Report) -> str:
    """Digests, counts and versions."""
    facts = report.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    opened = facts["model"]["gates_opened"]
    lines = [
        f"- recipe digest `{facts['digest'][:16]}`, seed {facts['recipe'].get('seed', 0)}; {versions}",
        f"- mask digest `{facts['mask']['digest'][:16]}`: {facts['mask']['kept']:,} of "
        f"{facts['mask']['total']:,} entries kept in {len(facts['mask']['layers'])} tensors; "
        f"{facts['model']['parameters']:,} parameters in all",
    ]
    if heads := facts["mask"].get("dense_heads"):
        lines.append(f"- {dense_heads(report, heads)}")
    if opened:
        lines.append(f"- {len(opened)} gates of residual branches opened before scoring")
    for done in facts["calibration"]:
        scaled = ", ".join(f"{part} by {factor:.4g}" for part, factor in done["factors"].items()) or "nothing"
        levels = f"{number(done['before']):.3g} to {number(done['after']):.3g}"
        lines.append(f"- calibrated {done['moment']}: {scaled} (root mean square singular value {levels})")
    if facts["isometry"]:
        before, after = (_mean(facts["isometry"][key]) for key in ("before", "after"))
        known = facts["isometry"].get("floor")
        floor = f"; no less than {_mean(known):.3g} is possible" if known else ""
        lines.append(
            f"- mean distance of the layers from isometry, ‖W Wᵀ - I‖: {before:.3g}, then {after:.3g}{floor}"
        )
    return "\n".join([*lines, "- run it again: `sigprune run recipe.yaml`"])


def dense_heads(report: Report, heads: Sequence[str]) -> str:
    """Which classifiers stayed dense, and whether by default."""
    plan = report.facts["recipe"].get("prune")
    by_default = isinstance(plan, dict) and plan.get("heads") == "dense"
    why = " (as heads of pretrained networks do unless `prune.heads: prune` is set)" if by_default else ""
    return f"{', '.join(f'`{name}`' for name in heads)} stayed dense{why}"


def initialisation(report: Report) -> str:
    """A table of what each part of the network started from, and why."""
    rows = [(one["part"], f"{one['tensors']:,}", one["does"], one["reason"]) for one in report.facts["init"]]
    if not rows:
        return ""
    return "What each part started from:\n\n" + table(
        ("part", "tensors", "values", "why"), rows, text=(0, 2, 3)
    )


def sources(report: Report) -> str:
    """The papers behind the members that were used."""
    names = [report.member(*path) for path in _CHOICES]
    init, score_name, allocation, isometry, data = names
    papers = [
        fact(inits, init, "PAPER"),
        fact(scores, score_name, "PAPER"),
        fact(allocations, allocation, "PAPER"),
        fact(repairs, isometry, "PAPER"),
        fact(datasets, data, "PAPER"),
    ]
    pairs = zip(names, papers, strict=True)
    lines = [f"- `{name}`: {paper}" for name, paper in pairs if paper and not paper.startswith("none")]
    return "Methods and data come from:\n\n" + "\n".join(lines) if lines else ""


def limits(report: Report) -> str:
    """What the network does not do."""
    lines = [
        "- `model.safetensors` stores the removed entries as zeros: it is as large as a dense file, and "
        "running it costs what the dense network costs. Sparsity alone makes nothing faster.",
        "- One run with one seed; no spread over seeds is known.",
    ]
    if report.member("data", "source") == "noise":
        lines.append("- The data are noise with random labels: the accuracy means nothing.")
    known = report.facts.get("preprocessing")
    if known and len(known["labels"]) > known["classes"]:
        lines.append(
            f"- It has {len(known['labels']):,} outputs for {known['classes']:,} classes: the others stand "
            "for nothing."
        )
    if report.at_chance:
        lines.append("- It is no better than saying the largest class: it has learned nothing yet.")
    if not report.facts["training"]["epochs"]:
        lines.append("- The network has not been trained.")
    if report.evaluation_skipped:
        lines.append(f"- Its accuracy was not measured: {report.evaluation_skipped}.")
    if report.dead_layers:
        names = ", ".join(f"`{name}`" for name in report.dead_layers[:5])
        lines.append(f"- Nothing is left of {len(report.dead_layers)} layers, among them {names}.")
    return "\n".join(lines)


def fact(family: Family[T], name: str, key: str) -> str:
    """An upper-case constant of a member, read from its source text; empty where there is none."""
    return family.read(name).facts.get(key, "") if name in family.names() else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = (0,)) -> str:
    """Markdown; all columns but those of ``text`` are numbers."""
    ruler = ["---" if column in text else "---:" for column in range(len(head))]
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ruler, *lines])


def number_text(value: Number) -> str:
    """Four significant digits; infinity as a sign."""
    return f"{number(value):.4g}".replace("inf", "∞")


def _mean(values: Mapping[str, Number]) -> float:
    return sum(map(number, values.values())) / max(len(values), 1)


def _integer(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0


def percent(share: float) -> str:
    """Four significant digits."""
    return f"{100 * share:.4g} %"
