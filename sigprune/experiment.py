"""Experiments: the one place where the verbs are put in order."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from sigprune.base.errors import BadInput, CheckpointError, DataError
from sigprune.base.family import Plain
from sigprune.base.folders import new_folder
from sigprune.base.seeds import generator
from sigprune.effects import facts
from sigprune.effects.card import card
from sigprune.effects.figures import draw
from sigprune.effects.progress import Progress, SilentProgress
from sigprune.effects.report import Report
from sigprune.effects.training import Split, TrainPlan, evaluate, fit
from sigprune.families.datasets import datasets
from sigprune.families.datasets._shared import fit_images
from sigprune.recipe import Recipe, load_recipe
from sigprune.values.finding import Bound, Findings
from sigprune.values.mask import Mask
from sigprune.values.operator import jacobian
from sigprune.values.spectrum import Spectrum
from sigprune.values.view import View
from sigprune.verbs.checkpoint import load, save
from sigprune.verbs.initialising import reinit_
from sigprune.verbs.isometry import restore_
from sigprune.verbs.measuring import measure
from sigprune.verbs.opening import class_args, describe, open_model
from sigprune.verbs.pruning import Method, Pruned, apply_, choose_mask
from sigprune.verbs.verifying import Evidence, judge


def run(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Open, re-initialise, measure, prune, restore isometry, verify, train, evaluate, save, load back.

    Everything is written to a temporary folder that becomes ``out`` at the very end.

    Args:
        recipe: a Recipe, the name of a shipped one, or the path of a YAML file.
        out: the folder to make: ``config.json``, ``model.safetensors``, ``model.sparse.safetensors``,
            ``recipe.yaml``, ``report.json``, ``README.md`` and figures.
        force: replace an ``out`` that is not empty.
        progress: told what is going on; silent by default.

    Returns:
        The report; equal recipes on one machine give equal reports, apart from ``timing``.

    Raises:
        FindingFailed: a required finding failed; nothing was trained and nothing is written.
        BadInput: something in the recipe, the model or the data cannot be used.

    Example:
        >>> from sigprune import run
        >>> report = run("quickstart", "runs/quickstart")  # doctest: +SKIP
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    with new_folder(out, replace=force) as folder:
        return _Experiment(recipe, progress or SilentProgress()).carry_out(folder)


@dataclass(eq=False)
class _Experiment:
    """One recipe on its way; the report grows as the steps are done."""

    recipe: Recipe
    progress: Progress
    told: dict[str, Plain] = field(default_factory=dict)
    signal: list[Plain] = field(default_factory=list)
    scores: dict[str, Plain] = field(default_factory=dict)
    seconds: dict[str, Plain] = field(default_factory=dict)
    view: View = field(init=False)
    train: Split = field(init=False)
    test: Split | None = field(init=False)

    def carry_out(self, folder: Path) -> Report:
        """All steps, in order; the folder gets every file."""
        with self.step("open"):
            self.open()
        self.look("as opened")
        self.initialise()
        dense = (
            replace(self.view, module=copy.deepcopy(self.view.module))
            if "dense" in self.recipe.baselines
            else None
        )
        with self.step("prune"):
            pruned = self.prune()
        spectrum = self.look("after pruning")
        self.told["isometry"] = None
        if self.recipe.isometry is not None:
            spectrum = self.restore(pruned.mask)
        findings = self.judge(spectrum, pruned)
        self.told["findings"] = [facts.of_finding(f) for f in findings]
        findings.require()
        self.train_both(pruned.mask, dense)
        return self.write(folder, pruned.mask)

    def open(self) -> None:
        """Data first: the model takes its number of classes from it."""
        recipe, source, plan = self.recipe, self.recipe.data.source, self.recipe.prune
        data = datasets.choose(source).member.load(**source.options)
        args = class_args(recipe.model.ref, len(data.classes)) | dict(recipe.model.args)
        module = open_model(recipe.model.ref, pretrained=recipe.model.pretrained, args=args, seed=recipe.seed)
        view = describe(module.to(_device(recipe.device)), batchnorm=recipe.model.batchnorm)
        self.view = view.select(include=plan.include, exclude=plan.exclude, biases=plan.biases)
        self.train = (_fitted(data.train[0], view, recipe.data.size), data.train[1])
        self.test = data.test and (_fitted(data.test[0], view, recipe.data.size), data.test[1])

    def initialise(self) -> None:
        """Fresh values, gates opened; nothing to look at again if nothing changed."""
        init = self.recipe.init
        with self.step("initialise"):
            opened = reinit_(self.view, init.method, seed=self.recipe.seed, gates=init.gates)
        model = self.recipe.model
        kept = model.pretrained and init.method is None
        self.told["model"] = facts.of_model(self.view, model.ref, opened, kept=kept)
        if opened or init.method is not None:
            self.look("after init")

    def look(self, moment: str) -> Spectrum:
        """Measure the Jacobian's singular values on a fixed few training examples."""
        with self.step(f"measure {moment}"):
            operator = jacobian(self.view, self.examples("measure", self.recipe.measure.examples))
            spectrum = measure(operator, self.recipe.measure.method, seed=self.recipe.seed)
        self.signal.append(facts.of_spectrum(moment, spectrum))
        return spectrum

    def prune(self) -> Pruned:
        """Choose the mask and apply it."""
        plan = self.recipe.prune
        method = Method(plan.score, plan.allocation, plan.pattern, plan.schedule, plan.objective)
        count = len(self.train[1]) if plan.batches == "all" else int(plan.batches) * plan.batch_size
        inputs, labels = self.examples("prune", count)
        batches = list(zip(inputs.split(plan.batch_size), labels.split(plan.batch_size), strict=True))
        pruned = choose_mask(self.view, plan.sparsity, method, batches, seed=self.recipe.seed)
        apply_(self.view, pruned.mask)
        return pruned

    def restore(self, mask: Mask) -> Spectrum:
        """Restore isometry and look again."""
        assert self.recipe.isometry is not None
        with self.step("isometry"):
            done = restore_(self.view, mask, self.recipe.isometry)
        self.told["isometry"] = facts.of_restoration(self.recipe.isometry.name, done)
        return self.look("after isometry")

    def judge(self, spectrum: Spectrum, pruned: Pruned) -> Findings:
        """The findings on the network that is about to be trained."""
        bounds = {name: _bound(b.low, b.high, b.required) for name, b in self.recipe.verify.items()}
        batch = self.examples("measure", self.recipe.measure.examples)
        return judge(
            Evidence(self.view, batch, spectrum, pruned.mask, pruned.dead), bounds, "before training"
        )

    def train_both(self, mask: Mask, dense: View | None) -> None:
        """The sparse network, then the dense baseline under the same plan from the same initial values."""
        self.told["training"] = {"epochs": self.fit("train sparse", self.view, mask)}
        self.told["dense"] = {"epochs": self.fit("train dense", dense, None)} if dense else None
        if self.test is not None:
            self.scores |= {
                "test_accuracy": evaluate(self.view, self.test)["accuracy"],
                "dense_test_accuracy": evaluate(dense, self.test)["accuracy"] if dense else None,
                "examples": len(self.test[1]),
                "majority_accuracy": facts.majority(self.test[1]),
            }

    def fit(self, title: str, view: View, mask: Mask | None) -> list[Plain]:
        """Train one network; no epochs, no rows."""
        plan = _plan(self.recipe)
        if plan is None:
            return []
        with self.step(title) as tell:
            rows = fit(view, mask, self.train, self.test, plan, seed=self.recipe.seed, report=tell)
        return [dict(row) for row in rows]

    def write(self, folder: Path, mask: Mask) -> Report:
        """Save, load back, evaluate again, then report, figures and card."""
        recipe = self.recipe
        with self.step("save"):
            extra: dict[str, Plain] = {"recipe": recipe.resolved(), "recipe_digest": recipe.digest}
            files = save(folder, self.view, mask, codec=recipe.save.codec, extra=extra)
        with self.step("load back"):
            self.check_reload(folder)
        report = Report({
            **self.told,
            "schema": 1,
            "recipe": recipe.resolved(),
            "digest": recipe.digest,
            "versions": facts.of_versions(),
            "signal": self.signal,
            "mask": facts.of_mask(self.view, mask),
            "evaluation": self.scores,
            "files": {name: dict(about) for name, about in files.items()},
            "timing": {"seconds": self.seconds},
        })
        (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
        draw(report, folder)
        (folder / "README.md").write_text(card(report), encoding="utf-8")
        return report

    def check_reload(self, folder: Path) -> None:
        """The checkpoint must give the accuracy that the trained network gave, exactly."""
        own = self.view.module
        loaded = load(folder, into=copy.deepcopy(own) if self.view.library == "torch" else None)
        if self.test is None:
            return
        module = loaded.model.to(next(own.parameters()).device)
        again = evaluate(replace(self.view, module=module), self.test)["accuracy"]
        if again != self.scores["test_accuracy"]:
            raise CheckpointError(
                f"{folder}: the loaded checkpoint has test accuracy {again}, "
                f"the trained network {self.scores['test_accuracy']}"
            )
        self.scores["reloaded_test_accuracy"] = again

    def examples(self, purpose: str, count: int) -> Split:
        """A fixed random choice of training examples, one per purpose."""
        rows = torch.randperm(len(self.train[1]), generator=generator(self.recipe.seed, "examples", purpose))
        return self.train[0][rows[:count]], self.train[1][rows[:count]]

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Tell the progress and the clock."""
        start = time.perf_counter()
        with self.progress.step(title) as tell:
            yield tell
        self.seconds[title] = round(time.perf_counter() - start, 3)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device: cuda was asked for, but torch finds no CUDA device; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _bound(low: float | None, high: float | None, required: bool) -> Bound:
    return Bound(-math.inf if low is None else low, math.inf if high is None else high, required)


def _plan(recipe: Recipe) -> TrainPlan | None:
    """The training plan, or None where nothing is trained."""
    wanted = recipe.train.model_dump()
    if wanted["epochs"] == 0:
        return None
    return TrainPlan(**wanted, batch_size=recipe.data.batch_size, device=recipe.device)


def _fitted(images: Tensor, view: View, size: int | None) -> Tensor:
    """Images in the shape that the model's main input has."""
    if view.input_name not in view.example.inputs or view.embed is not None:
        raise DataError(
            f"the data set holds images; {view.architecture} takes {', '.join(view.example.inputs)}"
        )
    shape = tuple(view.example.inputs[view.input_name].shape[1:])
    if len(shape) == 1:
        flat = images if size is None else fit_images(images, images.shape[1], (size, size))
        if flat[0].numel() != shape[0]:
            raise DataError(
                f"the model takes {shape[0]} numbers, an image has {flat[0].numel()}; set data.size"
            )
        return flat.flatten(1)
    channels, *own = shape
    height, width = (size, size) if size else own
    return fit_images(images, channels, (height, width))
