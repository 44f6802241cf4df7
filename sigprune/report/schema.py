"""The JSON of a report, as types (imports no torch)."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from sigprune.base.registry import JsonValue

Number = float | Literal["inf", "-inf", "nan"]
"""A number in JSON, which has no infinity: ``report.number`` reads it."""


class Histogram(TypedDict):
    """41 ascending edges and 40 counts, as :func:`histogram` makes them."""

    edges: list[float]
    counts: list[int]


class Gains(TypedDict):
    """Gains of one stage, as :class:`sigprune.values.gains.StageGain` has them."""

    stage: str
    forward: Number
    forward_error: Number
    backward: Number
    backward_error: Number
    activation: Number


class Moment(TypedDict):
    """Singular values of the Jacobian at one moment, how they were found, and gains of the stages."""

    moment: str
    method: NotRequired[str]
    kind: NotRequired[str]
    summary: dict[str, Number]
    histogram: Histogram
    profile: NotRequired[list[Gains]]


class Layer(TypedDict):
    """What pruning left of one tensor."""

    name: str
    role: str
    stage: str
    kept: int
    total: int


class MaskFacts(TypedDict):
    """The mask in numbers."""

    sparsity: float
    kept: int
    total: int
    digest: str
    layers: list[Layer]
    dense_heads: NotRequired[list[str]]


class FindingFacts(TypedDict):
    """One finding with its verdict."""

    name: str
    where: str
    value: Number
    low: Number
    high: Number
    required: bool
    ok: bool
    remedy: str


class ModelFacts(TypedDict):
    """The model in numbers; ``base_model`` is the Hub id whose weights the run started from and kept."""

    ref: str
    library: str
    architecture: str
    parameters: int
    prunable: int
    weights: int
    skipped: dict[str, int]
    gates_opened: list[str]
    base_model: NotRequired[str | None]


class PreprocessingFacts(TypedDict):
    """How an image file becomes an input, as :class:`sigprune.values.preprocessing.Preprocessing` has it.

    ``normalisation`` says whose statistics these are: of the ``data`` or of the pretrained ``weights``.
    """

    height: int
    width: int
    mean: list[float]
    std: list[float]
    normalisation: Literal["data", "weights"]
    labels: list[str]
    classes: int


class PartFacts(TypedDict):
    """What initialisation did to one part of the network, and why."""

    part: str
    tensors: int
    does: str
    reason: str


class CalibrationFacts(TypedDict):
    """Root mean square singular value before and after parts of the network were scaled by factors."""

    moment: str
    before: Number
    after: Number
    factors: dict[str, float]


class CheckFacts(TypedDict):
    """What became of the recipe with one thing changed; NaN where it was not trained or not measured."""

    variant: str
    changed: str
    kept: int | None
    overlap: Number | None
    chance: Number | None
    mean_jsv: Number | None
    effective_sparsity: Number | None
    test_accuracy: Number | None
    accuracy_std: Number | None
    stopped: NotRequired[str]
    skipped: NotRequired[str]


class IsometryFacts(TypedDict):
    """Residual ``|| B Bᵀ - I ||_F`` of every weight before and after restoring isometry.

    No values of the kept entries bring it below ``floor``; reports of earlier versions do not tell it.
    """

    method: str
    before: dict[str, Number]
    after: dict[str, Number]
    floor: NotRequired[dict[str, Number]]


class Curve(TypedDict):
    """One row per epoch: epoch, lr, train_loss, test_loss, test_accuracy."""

    epochs: list[dict[str, Number | None]]


class ReportData(TypedDict):
    """The JSON of a report; all but ``timing`` is equal for equal runs."""

    schema: int
    recipe: dict[str, JsonValue]
    digest: str
    versions: dict[str, str]
    model: ModelFacts
    init: list[PartFacts]
    signal: list[Moment]
    calibration: list[CalibrationFacts]
    checks: list[CheckFacts]
    isometry: IsometryFacts | None
    findings: list[FindingFacts]
    mask: MaskFacts
    training: Curve
    dense: Curve | None
    evaluation: dict[str, Number | None]
    evaluation_skipped: NotRequired[str]
    files: dict[str, dict[str, JsonValue]]
    preprocessing: NotRequired[PreprocessingFacts | None]
    timing: NotRequired[dict[str, JsonValue]]
