"""One recipe on its way: the steps up to a trained network, in order."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sigprune.base.errors import Diverged, FindingFailed
from sigprune.base.progress import Progress, ProgressCallback, say
from sigprune.base.registry import MemberSpec
from sigprune.experiment.setup import Setting, method_of, open_setting, policy_of
from sigprune.init.policy import Treatment, treatments
from sigprune.init.reinit import reinit_
from sigprune.models.opening import parse_ref
from sigprune.propagation.calibration import calibrate_, scaled_part
from sigprune.propagation.findings import Evidence, judge, paths_of
from sigprune.propagation.repair import restore_
from sigprune.pruning.choose import Pruned, apply_, choose_mask
from sigprune.pruning.mask_transfer import transfer
from sigprune.recipe.recipe import Recipe
from sigprune.report import serialize
from sigprune.report.run_record import (
    CalibrationRecord,
    EpochRow,
    Evaluation,
    Measurement,
    PreprocessingRecord,
    RepairRecord,
    RunRecord,
)
from sigprune.training.determinism import deterministic
from sigprune.training.image_detail import detail_finding
from sigprune.training.image_fitting import Batches
from sigprune.training.loop import Row, evaluate, fit
from sigprune.values.finding import Finding
from sigprune.values.gains import Profile
from sigprune.values.mask import Mask
from sigprune.values.origin import replaced_in
from sigprune.values.spectrum import Spectrum
from sigprune.values.view import View


@dataclass(eq=False)
class Experiment:
    """One recipe on its way; its record grows as the steps are done."""

    recipe: Recipe
    progress: Progress
    record: RunRecord = field(default_factory=RunRecord)
    treated: tuple[Treatment, ...] = ()
    scales: defaultdict[str, float] = field(default_factory=lambda: defaultdict(lambda: 1.0))
    gains: Profile | None = None
    setting: Setting = field(init=False)
    view: View = field(init=False)

    def prepare(self) -> tuple[View | None, Mask]:
        """All that comes before training; also the dense twin, if it is a baseline."""
        with self.step("open"):
            self.setting = open_setting(self.recipe)
            self.view = self.setting.view
            if (known := self.setting.preprocessing) is not None:
                from_weights = self.setting.images.normalisation is not None
                classes = len(self.setting.data.classes)
                self.record.preprocessing = PreprocessingRecord(known, classes, from_weights)
            self.record.findings += self.setting.findings()
        try:
            with deterministic(next(self.view.module.parameters()).device, full_precision=True):
                return self.prune_and_repair()
        except FindingFailed as error:
            error.signal = tuple(self.record.measurements)
            raise

    def prune_and_repair(self) -> tuple[View | None, Mask]:
        """From the values of the opened model to those that are trained."""
        self.look("as opened")
        self.initialise()
        judge(
            Evidence(self.view, self.setting.measured(), gains=self.gains), self.recipe.bounds(), "after init"
        ).require()
        dense = self.twin() if "dense" in self.recipe.baselines else None
        pruned = self.prune()
        spectrum = self.look("after pruning")
        if self.recipe.isometry is not None:
            spectrum = self.restore(self.recipe.isometry, pruned.mask)
        self.judge(spectrum, pruned)
        return dense, pruned.mask

    def initialise(self, seed: int | None = None) -> None:
        """Fresh values, gates opened; nothing to look at again if nothing changed."""
        init, model = self.recipe.init, self.recipe.model
        seed = self.recipe.seed if seed is None else seed
        self.scales.clear()
        with self.step("initialise"):
            policy = policy_of(self.recipe)
            self.treated = treatments(self.view, init.method, init.gates, policy)
            opened = reinit_(self.view, init.method, seed=seed, gates=init.gates, policy=policy)
        self.calibrate("after init")
        kept = model.pretrained and init.method is None
        ref = parse_ref(model.ref)
        self.record.model = serialize.model_record(self.view, ref, model.ref, opened, kept=kept)
        self.record.parts = serialize.part_records(self.view, self.treated, replaced_in(self.view.module))
        redrawn = any(not one.kept for one in self.treated if one.part != "gates")
        if redrawn or opened or init.calibrate:
            self.look("after init")

    def calibrate(self, moment: str) -> None:
        """Scale the network to the singular values that the recipe wants, if it wants any."""
        if self.recipe.init.calibrate is None:
            return
        setting, target = self.setting, self.recipe.init.calibrate
        with self.step(f"calibrate {moment}") as on_progress:
            done = calibrate_(
                setting.measured_view,
                setting.measured(),
                target=target,
                seed=self.recipe.seed,
                on_progress=on_progress,
            )
        self.record.calibrations.append(CalibrationRecord(moment, done))
        for weight in self.view.weights:
            self.scales[weight.name] *= done.factors.get(scaled_part(weight), 1.0)

    def look(self, moment: str) -> Spectrum | None:
        """Measure the Jacobian's singular values on a fixed few training examples."""
        with self.step(f"measure {moment}") as on_progress:
            spectrum = self.setting.spectrum(on_progress)
            self.gains = self.setting.profile()
        self.record.measurements.append(Measurement(moment, spectrum, self.gains))
        return spectrum

    def prune(self) -> Pruned:
        """Choose the mask and apply it."""
        with self.step("prune") as on_progress:
            pruned = mask_for(self.setting, on_progress)
            apply_(self.view, pruned.mask)
        return pruned

    def restore(self, isometry: MemberSpec, mask: Mask) -> Spectrum | None:
        """Restore isometry at the gains of the initialisation, and look again."""
        gains = {name: one.gain * self.scales[name] for one in self.treated for name in one.names}
        with self.step("isometry") as on_progress:
            done = restore_(self.view, mask, isometry, gain=gains, on_progress=on_progress)
        self.record.repair = RepairRecord(isometry.name, done)
        self.calibrate("after isometry")
        return self.look("after isometry")

    def judge(self, spectrum: Spectrum | None, pruned: Pruned) -> None:
        """Stop here if the network is not worth training."""
        with self.step("follow paths"):
            on_path = paths_of(self.view, pruned.mask)
        examples = self.setting.measured()
        evidence = Evidence(
            self.view, examples, spectrum, pruned.mask, pruned.unranked, gains=self.gains, on_path=on_path
        )
        findings = judge(evidence, self.recipe.bounds(), "before training")
        detail = detail_finding(self.setting.data.train[0], tuple(examples[0].shape[2:]))
        self.record.findings += [*detail, *findings]
        findings.require()

    def twin(self) -> View:
        """The network as it is now, apart from the one that will be pruned."""
        return replace(self.view, module=copy.deepcopy(self.view.module))

    def train_both(self, mask: Mask, dense: View | None) -> None:
        """The sparse network, then the dense baseline under the same plan from the same initial values."""
        self.record.training = self.fit("train sparse", self.view, mask)
        try:
            self.record.dense = self.fit("train dense", dense, None) if dense else None
        except Diverged as error:  # no reason to lose the sparse network
            dense = None
            lost = Finding("dense_baseline", "training", math.nan, 0.0, math.inf, remedy=str(error))
            self.record.findings.append(lost)
        if not self.classifier_has_learned():
            self.record.evaluation_skipped = "the classifier is fresh and nothing was trained"
            return
        test = self.setting.test()
        if test is not None:
            labels = test[1]
            self.record.evaluation = Evaluation(
                sparse=evaluate(self.view, test)["accuracy"],
                dense=evaluate(dense, test)["accuracy"] if dense else None,
                examples=len(labels),
                majority=int(labels.bincount().max()) / len(labels),
            )

    def classifier_has_learned(self) -> bool:
        """Whether something trained the classifier, here or before: else its accuracy is that of chance."""
        if self.recipe.train.epochs:
            return True
        heads = {weight.name for weight in self.view.weights if weight.role == "head"}
        replaced = replaced_in(self.view.module)
        drawn = {name for one in self.treated if not one.kept for name in one.names}
        drawn |= set(replaced.names) if replaced else set()
        return (self.recipe.model.pretrained or self.view.library == "torch") and not heads & drawn

    def fit(self, title: str, view: View, mask: Mask | None) -> list[EpochRow]:
        """Train one network; no epochs, no rows."""
        setting, plan = self.setting, self.setting.plan()
        if plan.epochs == 0:
            return []
        with self.step(title) as on_progress:
            rows = fit(
                view,
                mask,
                setting.train(),
                setting.test(),
                plan,
                seed=self.recipe.seed,
                on_progress=on_progress,
                each_epoch=lambda row: say(self.progress, _words(row, plan.epochs)),
            )
        return [dict(row) for row in rows]

    @contextmanager
    def step(self, title: str) -> Iterator[ProgressCallback]:
        """Tell the progress and the clock."""
        start = time.perf_counter()
        try:
            with self.progress.step(title) as on_progress:
                yield on_progress
        except KeyboardInterrupt as error:
            error.add_note(f"step {title!r} was not finished")
            raise
        self.record.seconds[title] = round(time.perf_counter() - start, 3)


def _words(row: Row, epochs: int) -> str:
    """What an epoch came to, in one line."""
    words = f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4g}"
    if row["test_accuracy"] is not None:
        words += f", test loss {row['test_loss']:.4g}, test accuracy {row['test_accuracy']:.2%}"
    return words


Change = Callable[[Batches], Batches]


def mask_for(setting: Setting, on_progress: ProgressCallback, change: Change | None = None) -> Pruned:
    """The mask that the recipe asks for; the model is not changed.

    Args:
        setting: view, data and recipe.
        on_progress: called with (batches read, batches in total).
        change: what to do to the examples before they are scored with (a sanity check).
    """
    view, seed, method = setting.view, setting.recipe.seed, method_of(setting.recipe)
    batches = setting.scoring()
    given = batches if change is None else change(batches)
    if setting.mask is not None:
        mask = transfer(
            view,
            setting.mask,
            score=method.score,
            pattern=method.pattern,
            objective=method.objective,
            batches=given,
            seed=seed,
        )
        return Pruned(mask)
    return choose_mask(view, setting.sparsity(), method, given, seed=seed, on_progress=on_progress)
