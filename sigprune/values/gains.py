"""Gains: what each stage of a network receives of the input's signal, and the output of its (no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class StageGain:
    """Gains at the output of one stage.

    Both are root mean square singular values of a Jacobian J, sqrt(||J||²_F / n), pooled over the examples;
    n is the number of its singular values per example, the smaller of its two sides. An isometry has 1.

    Attributes:
        stage: its name.
        forward: of the Jacobian from the input to the stage; NaN where it is not known.
        forward_error: its standard error.
        backward: of the Jacobian from the stage to the output; NaN where it is not known.
        backward_error: its standard error.
        activation: root mean square entry of the stage's output.
    """

    stage: str
    forward: float = math.nan
    forward_error: float = math.nan
    backward: float = math.nan
    backward_error: float = math.nan
    activation: float = math.nan


@dataclass(frozen=True)
class Change:
    """A change of the gain at one stage.

    Attributes:
        stage: where.
        direction: ``forward`` or ``backward``: which gain changes.
        before: the gain on the near side of the stage (forward: of the stage before it, 1 at the input;
            backward: of its own output).
        after: the gain on its far side.
    """

    stage: str
    direction: str
    before: float
    after: float

    @property
    def size(self) -> float:
        """|log(after / before)|; infinite where the signal vanishes or overflows."""
        if not (math.isfinite(self.before) and math.isfinite(self.after) and self.before > 0 < self.after):
            return math.inf
        return abs(math.log(self.after / self.before))

    @property
    def falls(self) -> bool:
        """Whether the signal gets weaker."""
        return self.after < self.before

    def __str__(self) -> str:
        verb = "falls" if self.falls else "rises"
        return f"at {self.stage} the {self.direction} gain {verb} from {self.before:.3g} to {self.after:.3g}"


@dataclass(frozen=True)
class Profile:
    """Gains of every stage in the order in which they run.

    Attributes:
        stages: one row each.
        notes: stage -> why it, or a part of its row, is missing.

    Example:
        >>> rows = StageGain("a", 0.8, 0, 1e-6, 0, 1), StageGain("b", 1e-6, 0, 1.0, 0, 1)
        >>> str(Profile(rows).weakest)
        'at b the forward gain falls from 0.8 to 1e-06'
    """

    stages: tuple[StageGain, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def weakest(self) -> Change | None:
        """The first stage at which the gain vanishes or is not finite, else that of its largest change."""
        return self.largest_change()

    def largest_change(self, *, falling: bool | None = None) -> Change | None:
        """As :attr:`weakest`, of the changes in one direction only (rising ones include NaN); None: none.

        The forward gain tells; the backward gain where no forward gain is known.
        """
        changes = self._forward() or self._backward()
        chosen = [s for s in changes if falling is None or s.falls == falling]
        return max(chosen, key=lambda change: change.size, default=None)

    def _forward(self) -> list[Change]:
        rows = [StageGain("input", forward=1.0), *self.stages]
        if all(math.isnan(row.forward) for row in self.stages):
            return []
        return [
            Change(row.stage, "forward", last.forward, row.forward)
            for last, row in pairwise(rows)
            if last.forward != 0 and math.isfinite(last.forward)
        ]

    def _backward(self) -> list[Change]:
        """From the output back: what one stage does shows at the output of the stage before it."""
        rows = self.stages[::-1]
        return [
            Change(row.stage, "backward", row.backward, before.backward)
            for row, before in pairwise(rows)
            if row.backward != 0 and math.isfinite(row.backward)
        ]
