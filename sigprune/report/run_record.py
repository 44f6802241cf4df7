"""What a run measured, in the types it was measured in; ``report.json`` is written from it at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sigprune.report.schema import CheckFacts, Number

if TYPE_CHECKING:
    from sigprune.propagation.calibration import Calibration
    from sigprune.propagation.repair import Restoration
    from sigprune.values.finding import Finding
    from sigprune.values.gains import Profile
    from sigprune.values.preprocessing import Preprocessing
    from sigprune.values.spectrum import Spectrum


@dataclass(frozen=True)
class ModelRecord:
    """The model, counted.

    Attributes:
        ref: the reference that it was opened by.
        base_model: the Hub repository whose weights the run started from and kept; None if it drew its own.
        revision: branch, tag or commit of that repository, if the reference names one.
        library: the adapter.
        architecture: that library's name.
        parameters: entries of all parameters.
        prunable: entries that pruning may remove.
        weights: number of weights.
        skipped: reason -> number of parameters that are not weights.
        gates_opened: names of the gates that were set to 1.
    """

    ref: str
    base_model: str | None
    revision: str | None
    library: str
    architecture: str
    parameters: int
    prunable: int
    weights: int
    skipped: Mapping[str, int]
    gates_opened: tuple[str, ...]


@dataclass(frozen=True)
class PartRecord:
    """What initialisation did to one part of the network, and why."""

    part: str
    tensors: int
    action: str
    reason: str


@dataclass(frozen=True, eq=False)
class Measurement:
    """Singular values of the Jacobian, and gains of the stages, at one moment of a run."""

    moment: str
    spectrum: Spectrum
    gains: Profile | None = None


@dataclass(frozen=True, eq=False)
class CalibrationRecord:
    """A calibration, and the moment it was made at."""

    moment: str
    result: Calibration


@dataclass(frozen=True, eq=False)
class RepairRecord:
    """A repair, and the member that made it."""

    method: str
    result: Restoration


@dataclass(frozen=True)
class PreprocessingRecord:
    """How an image file becomes an input.

    Attributes:
        known: size, statistics, labels.
        classes: number of classes of the data.
        from_weights: the statistics are those of the pretrained weights, not of the data.
    """

    known: Preprocessing
    classes: int
    from_weights: bool


@dataclass(frozen=True)
class Evaluation:
    """Accuracies on the test split, in [0, 1].

    Attributes:
        sparse: of the sparse network.
        dense: of the dense one under the same plan; None where it was not trained.
        examples: size of the split.
        majority: of always saying its most frequent class.
    """

    sparse: float
    dense: float | None
    examples: int
    majority: float


EpochRow = Mapping[str, Number | None]
"""An epoch: epoch, lr, train_loss, test_loss, test_accuracy."""


@dataclass(eq=False)
class RunRecord:
    """Everything that a run measured; it grows as the steps are done.

    Attributes:
        preprocessing: None where the model takes no images.
        model: set by the initialisation.
        parts: what the initialisation did, part by part.
        measurements: in the order in which they were made.
        calibrations: likewise.
        repair: None where the recipe asks for none.
        findings: likewise.
        training: an entry per epoch of the sparse network.
        dense: likewise of the dense one; None where it was not trained, or diverged.
        evaluation: None where there is no test split, or the classifier has learned nothing.
        evaluation_skipped: why no accuracy was measured though there is a test split; empty otherwise.
        reload_difference: largest absolute difference between the outputs of the trained network and those of
            the one that was loaded from the folder; None before that.
        checks: sanity checks.
        seconds: step -> wall-clock seconds.
    """

    preprocessing: PreprocessingRecord | None = None
    model: ModelRecord | None = None
    parts: tuple[PartRecord, ...] = ()
    measurements: list[Measurement] = field(default_factory=list)
    calibrations: list[CalibrationRecord] = field(default_factory=list)
    repair: RepairRecord | None = None
    findings: list[Finding] = field(default_factory=list)
    training: list[EpochRow] = field(default_factory=list)
    dense: list[EpochRow] | None = None
    evaluation: Evaluation | None = None
    evaluation_skipped: str = ""
    reload_difference: float | None = None
    checks: list[CheckFacts] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
