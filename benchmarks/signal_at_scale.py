"""Mean singular values of the input-output Jacobian of full-size networks: dense, pruned, restored.

Fresh orthogonal weights (gain 1, gates open), calibrated to a root mean square of 1 (--target); then SNIP at
sparsity 0.9 on random inputs towards uniform outputs (of few labels SNIP would keep those alone), isometry
restored, calibrated again. Classifiers stay dense unless asked: SNIP removes the rows of all classes but
those that the fresh network happens to predict. Every mean is that of the Jacobian of logits with respect to
pixels or embedded tokens at one random input: exact where there are few logits, else estimated (± its
standard error).

    python benchmarks/signal_at_scale.py resnet50 bert
"""

from __future__ import annotations

import argparse
import time

import torch
from transformers import CONFIG_MAPPING

from sigprune.base.registry import JsonValue, MemberSpec
from sigprune.base.rng import generator
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.propagation.calibration import calibrate_
from sigprune.propagation.measurement import measure
from sigprune.propagation.repair import restore_
from sigprune.pruning.choose import apply_, prune
from sigprune.values.batch import Batch
from sigprune.values.operator import jacobian
from sigprune.values.view import View

MODELS = ("vit_small_patch16_224", "resnet50", "convnext_tiny", "bert", "gpt2")
ARGS: dict[str, dict[str, JsonValue]] = {"gpt2": {"pad_token_id": 0}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--examples", type=int, default=16, help="that SNIP scores with")
    parser.add_argument("--target", type=float, default=1.0, help="root mean square to calibrate to")
    parser.add_argument("--heads", action="store_true", help="prune classifiers too")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n", flush=True)
    print("| model | moment | mean JSV | rms | scaled by | seconds |\n|---|---|---|---|---|---|")
    for model in arguments.models:
        look_at(model, arguments)


def look_at(name: str, arguments: argparse.Namespace) -> None:
    """One row for each moment."""
    library = "transformers" if name in CONFIG_MAPPING else "timm"
    view = describe(open_model(f"{library}:{name}", args=ARGS.get(name)))
    view = view if arguments.heads else view.select(exclude=("head",))
    x = inputs(view, 1, "measure")
    row(name, "as opened", view, x)
    reinit_(view, MemberSpec("orthogonal"))
    row(name, "orthogonal, gain 1", view, x)
    done = calibrate_(view, x, target=arguments.target)
    row(name, "calibrated", view, x, done.factors)
    start = time.perf_counter()
    batch, sparsity = inputs(view, arguments.examples, "snip"), arguments.sparsity
    mask = prune(view, sparsity=sparsity, score="snip", objective="uniform", batches=[batch])
    apply_(view, mask)
    row(name, f"SNIP {sparsity:g}", view, x, seconds=time.perf_counter() - start)
    gains = dict.fromkeys((weight.name for weight in view.weights), done.factors.get("weights", 1.0))
    gains |= {w.name: done.factors.get("heads", 1.0) for w in view.weights if w.role == "head"}
    start = time.perf_counter()
    restore_(view, mask, gain=gains)
    row(name, "isometry restored", view, x, seconds=time.perf_counter() - start)
    done = calibrate_(view, x, target=arguments.target)
    row(name, "calibrated again", view, x, done.factors)


def row(
    name: str, moment: str, view: View, x: Batch, factors: object = None, *, seconds: float | None = None
) -> None:
    summary = measure(jacobian(view, x)).summary()
    scaled = ", ".join(f"{part} {value:.3g}" for part, value in dict(factors or {}).items())
    took = "" if seconds is None else f"{seconds:.0f}"
    error = f" ± {summary.mean_error:.1g}" if summary.mean_error else ""
    print(f"| {name} | {moment} | {summary.mean:.3g}{error} | {summary.mean_square**0.5:.3g}", end=" ")
    print(f"| {scaled} | {took} |", flush=True)


def inputs(view: View, examples: int, purpose: str) -> Batch:
    """Gaussian pixels, or the example's tokens drawn at random."""
    draw, found = generator(0, "inputs", purpose), {}
    for key, value in view.example.inputs.items():
        shape = (examples, *value.shape[1:])
        if value.is_floating_point():
            found[key] = torch.randn(shape, generator=draw)
        elif "mask" in key:
            found[key] = torch.ones(shape, dtype=value.dtype)
        else:
            found[key] = torch.randint(1000, shape, generator=draw)
    return Batch(found)


if __name__ == "__main__":
    main()
