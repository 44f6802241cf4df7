"""Experiments: the one place where the verbs are put in order."""

from __future__ import annotations

import copy
import math
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch

from sigprune.base.atomic_dir import new_folder
from sigprune.base.errors import BadInput, CheckpointError, Diverged
from sigprune.base.progress import Progress, SilentProgress
from sigprune.base.registry import JsonValue
from sigprune.checkpoint.read import load
from sigprune.checkpoint.safetensors_io import file_facts
from sigprune.checkpoint.save import save
from sigprune.experiment.pipeline import Experiment
from sigprune.experiment.sanity_checks import check
from sigprune.format.names import CARD, RECIPE, REPORT
from sigprune.hub.push_pull import push
from sigprune.propagation.emptied import EmptiedWeights
from sigprune.recipe.consent import expect_consent
from sigprune.recipe.recipe import Recipe, load_recipe
from sigprune.report import serialize
from sigprune.report.figures import draw
from sigprune.report.model_card import card
from sigprune.report.record import Report
from sigprune.values.finding import Finding
from sigprune.values.mask import Mask

"""Its presence shows that a folder was written by a run."""

_UNTRAINED = ".untrained"
"""Holds the network as it was before training, inside the staging folder, until training has succeeded."""

Files: TypeAlias = Mapping[str, Mapping[str, JsonValue]]
"""File name -> its size in ``bytes`` and its ``sha256``."""


def run(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    trust: bool = False,
) -> Report:
    """Open, re-initialise, measure, prune, restore isometry, verify, train, evaluate, save, load back.

    Everything is written to a temporary folder that becomes ``out`` at the very end.

    Args:
        recipe: a Recipe, the name of a shipped one, or the path of a YAML file.
        out: the folder to make: ``config.json``, ``model.safetensors``, ``model.sparse.safetensors``,
            ``recipe.yaml``, ``report.json``, ``README.md`` and figures.
        force: replace an ``out`` that an earlier run wrote.
        progress: told what is going on; silent by default.
        trust: consent to all that a recipe file asks for: code to call, files outside its folder, a push.

    Returns:
        The report; equal recipes on one machine give equal reports, apart from ``timing``.

    Raises:
        NeedsConsent: a recipe file asks for more than data, and ``trust`` is not set; nothing was done.
        FindingFailed: a required finding failed; nothing was trained and nothing is written.
        Diverged: training left the finite numbers. ``out`` is not made, or stays as it was; the network as it
            was before training, its mask and a report of what was measured are in ``out`` + "-diverged".
        BadInput: something in the recipe, the model or the data cannot be used, or the finished folder could
            not be pushed.

    Example:
        >>> from sigprune import Recipe, run
        >>> recipe = Recipe.model_validate({
        ...     "model": {
        ...         "ref": "torch:torch.nn.Linear",
        ...         "args": {"in_features": 64, "out_features": 10},
        ...     },
        ...     "train": {"epochs": 1},
        ... })
        >>> report = run(recipe, "runs/linear")
        >>> round(report.sparsity, 3)
        0.9
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if trust:
        recipe = recipe.consented()
    expect_consent(recipe)
    progress = progress or SilentProgress()
    with new_folder(out, replace=(REPORT,) if force else ()) as folder:
        report = _Run(recipe, progress).carry_out(folder, Path(out))
    _send(out, recipe, progress)
    return report


def _send(out: str | Path, recipe: Recipe, progress: Progress) -> None:
    """Push the folder if the recipe says so; it stays whatever the Hub answers."""
    target = recipe.push
    if target.repo is None:
        return
    with progress.step(f"push to {target.repo}"):
        try:
            push(
                out,
                target.repo,
                private=target.private,
                revision=target.revision,
                create_pr=target.create_pr,
                dense=target.dense,
                sparse=target.sparse,
            )
        except BadInput as error:
            raise BadInput(f"{error}; the folder is complete: sigprune push {out} {target.repo}") from error


@dataclass(eq=False)
class _Run(Experiment):
    """An experiment that ends in a folder."""

    def carry_out(self, folder: Path, out: Path) -> Report:
        """All steps, in order.

        Args:
            folder: gets every file.
            out: what it will be called; what is left of a training that diverges lies beside it.
        """
        dense, mask = self.prepare()
        untrained = folder / _UNTRAINED
        if self.recipe.train.epochs:
            self.save(untrained, mask, "save before training")
        try:
            self.train_both(mask, dense)
        except Diverged as error:
            kept = out.with_name(f"{out.name}-diverged")
            with new_folder(kept, replace=(REPORT,)) as kept_folder:
                self.write_untrained(kept_folder, untrained, mask, error)
            raise Diverged(
                f"{error}; {kept} holds the pruned network as it was before training, its mask (prune.mask: "
                f"{kept}) and what was measured"
            ) from error
        if untrained.exists():
            shutil.rmtree(untrained)
        if self.recipe.checks:
            self.record.checks = check(self.recipe, self.progress, variants=self.recipe.checks)
        return self.write(folder, mask)

    def save(self, folder: Path, mask: Mask, title: str) -> Files:
        """The network as it is now, dense and packed."""
        recipe = self.recipe
        with self.step(title):
            extra = serialize.provenance_of(self.record, recipe.resolved(), recipe.digest)
            preprocessing, codec = self.setting.preprocessing, recipe.save.codec
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EmptiedWeights)  # a finding of the report
                return save(folder, self.view, mask, codec=codec, extra=extra, preprocessing=preprocessing)

    def write(self, folder: Path, mask: Mask) -> Report:
        """Save, load back, then report, figures and card."""
        files = self.save(folder, mask, "save")
        with self.step("load back"):
            self.check_reload(folder)
        return self.write_report(folder, mask, files)

    def write_untrained(self, folder: Path, untrained: Path, mask: Mask, error: Diverged) -> None:
        """After a divergence: the files saved before training, and a report without an evaluation."""
        for path in untrained.iterdir():
            path.rename(folder / path.name)
        stopped = Finding("finite_training", "training", math.nan, 0.0, math.inf, remedy=str(error))
        self.record.findings.append(stopped)
        self.write_report(folder, mask, {path.name: file_facts(path) for path in sorted(folder.iterdir())})

    def write_report(self, folder: Path, mask: Mask, files: Files) -> Report:
        """Recipe, report, figures and card beside the weights."""
        recipe = self.recipe
        report = serialize.report_of(
            self.record, self.view, mask, recipe=recipe.resolved(), digest=recipe.digest, files=files
        )
        (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        (folder / REPORT).write_text(report.to_json(), encoding="utf-8")
        draw(report, folder)
        (folder / CARD).write_text(card(report), encoding="utf-8")
        return report

    def check_reload(self, folder: Path) -> None:
        """The model that the folder holds must give the outputs of the one that was trained.

        A few examples show that its configuration makes the same network; :func:`load` checks every weight.
        """
        own = self.view.using("eval")
        loaded = load(folder, into=copy.deepcopy(own.module) if own.library == "torch" else None)
        place = next(own.module.parameters()).device
        other = replace(own, module=loaded.model.to(place))
        batch = own.read(self.setting.examples("reload", self.recipe.measure.examples))
        with torch.no_grad():
            outputs, again = own.forward({}, batch), other.forward({}, batch)
        # Equal weights give equal outputs except for the order of sums, which may follow memory's alignment.
        bound = torch.finfo(outputs.dtype).eps ** 0.5 * float(outputs.abs().max())
        difference = float((outputs - again).abs().max())
        if not difference <= bound:
            raise CheckpointError(
                f"{folder}: the outputs of the loaded model differ by {difference:.3g} from those of the "
                f"trained one (expected at most {bound:.3g}): its config.json makes another network"
            )
        self.record.reload_difference = difference
