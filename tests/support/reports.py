"""A report as a run writes it, from plain numbers."""

from __future__ import annotations

import math

import numpy as np

from sigprune.report.record import histogram

LAYERS = {"fc1.weight": 30000} | {f"fc{i}.weight": 10000 for i in (2, 3, 4)} | {"head.weight": 1000}


def moment(name: str, values: np.ndarray) -> dict[str, object]:
    low, high = float(values.min()), float(values.max())
    summary = {
        "count": values.size,
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": low,
        "median": float(np.median(values)),
        "max": high,
        "condition": high / low if low > 0 else math.inf,
    }
    return {"moment": name, "summary": summary, "histogram": histogram(values)}


def curve(last: float, epochs: int = 12) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for epoch in range(1, epochs + 1):
        done = 1 - math.exp(-0.6 * epoch)
        rows.append({
            "epoch": epoch,
            "lr": 0.1 * (1 - epoch / epochs),
            "train_loss": 2.3 * (1 - done) + 0.01,
            "test_loss": 2.3 * (1 - done) + 0.1,
            "test_accuracy": last * done,
        })
    return rows


def make_data(layers: dict[str, int] = LAYERS) -> dict[str, object]:
    stream = np.random.default_rng(0)
    kept = {name: max(0, int(total * (0.05 + 0.25 * stream.random()))) for name, total in layers.items()}
    spread = np.exp(stream.normal(size=(8, 10)))
    rows = [
        {"name": name, "role": "linear", "stage": name.split(".")[0], "kept": kept[name], "total": total}
        for name, total in layers.items()
    ]
    total = sum(layers.values())
    return {
        "schema": 1,
        "recipe": {
            "name": "quickstart",
            "seed": 0,
            "device": "auto",
            "model": {"ref": "timm:test_vit", "pretrained": False, "args": {"img_size": 8}},
            "data": {"source": {"name": "digits"}, "size": None, "batch_size": 64},
            "init": {"method": {"name": "orthogonal", "gain": 1.0}, "gates": "open"},
            "prune": {
                "sparsity": 0.9,
                "score": {"name": "snip"},
                "objective": {"name": "labels"},
                "allocation": {"name": "pooled"},
                "pattern": {"name": "unstructured"},
                "schedule": None,
                "exclude": [],
            },
            "isometry": {"name": "gradient_descent", "lr": 1e-5},
            "train": {"epochs": 12, "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4},
            "save": {"codec": {"name": "bitmask"}},
        },
        "digest": "0123456789abcdef" * 4,
        "versions": {"sigprune": "0.1.0", "python": "3.12", "torch": "2.9", "timm": "1.0"},
        "model": {
            "ref": "timm:test_vit",
            "library": "timm",
            "architecture": "test_vit",
            "parameters": total + 300,
            "prunable": total,
            "weights": len(layers),
            "skipped": {"bias": 5},
            "gates_opened": [],
        },
        "init": [
            {
                "part": "weights",
                "tensors": len(layers),
                "does": "orthogonal (gain 1.0)",
                "reason": "by block",
            },
            {"part": "gates", "tensors": 2, "does": "kept", "reason": "the recipe keeps the values"},
        ],
        "signal": [
            moment("as opened", 0.04 * spread**1.5),
            moment("after init", np.exp(0.25 * stream.normal(size=80))),
            moment("after pruning", np.where(spread < 0.4, 0.0, 0.003 * spread)),
            moment("after isometry", 0.6 * np.exp(0.5 * stream.normal(size=80))),
        ],
        "calibration": [],
        "checks": [],
        "isometry": {
            "method": "gradient_descent",
            "before": {name: 9.5 for name in layers},
            "after": {name: 1.5 for name in layers},
            "floor": {name: 0.5 for name in layers},
        },
        "findings": [
            {
                "name": "mean_jsv",
                "where": "before training",
                "value": 0.66,
                "low": 0.1,
                "high": math.inf,
                "required": True,
                "ok": True,
                "remedy": "",
            },
            {
                "name": "dead_layers",
                "where": "fc|4",
                "value": 1.0,
                "low": -math.inf,
                "high": 0.0,
                "required": False,
                "ok": False,
                "remedy": "prune less, or another allocation",
            },
        ],
        "mask": {
            "sparsity": 1 - sum(kept.values()) / total,
            "kept": sum(kept.values()),
            "total": total,
            "digest": "fedcba9876543210" * 4,
            "layers": rows,
        },
        "training": {"epochs": curve(0.968)},
        "dense": {"epochs": curve(0.975)},
        "evaluation": {
            "test_accuracy": 0.968,
            "dense_test_accuracy": 0.975,
            "reloaded_test_accuracy": 0.968,
            "examples": 360,
            "majority_accuracy": 0.102,
        },
        "files": {
            "config.json": {"bytes": 412, "sha256": "aa" * 32},
            "model.safetensors": {"bytes": 244000, "sha256": "bb" * 32},
            "model.sparse.safetensors": {"bytes": 36000, "sha256": "cc" * 32},
        },
        "timing": {"seconds": {"open": 0.1, "train sparse": 3.2}},
    }
