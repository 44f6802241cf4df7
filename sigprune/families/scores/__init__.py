"""Scores: ``score(problem, *, ...) -> Tensors`` gives one number per prunable entry, higher = keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from sigprune.base.lazy import lazy_names
from sigprune.base.registry import Family, MemberSpec

if TYPE_CHECKING:
    from torch import Tensor

    from sigprune.families.scores._shared import mean_gradients as mean_gradients
    from sigprune.families.scores._shared import single as single

Needs = Literal["nothing", "inputs", "objective"]
Removed = Literal["stay", "may return"]
Comparable = Literal["network", "fresh network", "row"]


class Score(Protocol):
    """A member: ``score(problem, *, options)`` returns finite scores for the names of ``problem.mask``.

    Shapes are the stored shapes; the dtype is floating. ``NEEDS`` says which evidence is read: nothing,
    inputs, or what the objective reads. ``SCHEDULE`` is the schedule used when the caller names none, with
    as many rounds as the integer ``ROUNDS`` says, if the member states one. ``REMOVED`` says whether entries
    removed in an earlier round ``stay`` removed, or ``may return``: then all entries are ranked in each
    round, and the scores of removed ones count. The model is left as it was found.

    A member may have ``remedy(*, options)`` (:func:`remedy`), and ``COMPARABLE``: among which entries scores
    mean the same. Those of the whole ``network`` (also if it does not say), those of a ``fresh network`` (of
    trained ones those of one weight alone), or those of one ``row``, the inputs of one output.
    """

    NEEDS: Needs
    PAPER: str
    SCHEDULE: str
    REMOVED: Removed
    score: Callable[..., dict[str, Tensor]]


scores: Family[Score] = Family(__name__, "score", "score")


def remedy(member: Score) -> Callable[..., str] | None:
    """The member's ``remedy(*, options)``, if it has one: why its scores overflow and what to do then."""
    own: Callable[..., str] | None = vars(member).get("remedy")
    return own


def own_composition(facts: Mapping[str, object], origin: str) -> tuple[MemberSpec, MemberSpec]:
    """The allocation and the pattern of a score when the caller names none.

    Entries are compared where their scores mean the same: all together, as Lee et al. 2019 do; within each
    weight at equal densities (magnitudes of trained layers differ by orders); within each row, as Sun et al.
    2024 do.

    Args:
        facts: the constants of the member, from its module or from its source.
        origin: where the weights come from (:attr:`sigprune.View.weights_origin`).

    Example:
        >>> [step.name for step in own_composition(scores.read("wanda").facts, "pretrained")]
        ['uniform', 'per_row']
    """
    comparable = facts.get("COMPARABLE", "network")
    if comparable == "row":
        return MemberSpec("uniform"), MemberSpec("per_row")
    within = comparable == "fresh network" and origin == "pretrained"
    return MemberSpec("uniform" if within else "pooled"), MemberSpec("unstructured")


def own_schedule(facts: Mapping[str, object]) -> MemberSpec:
    """The schedule of a score when the caller names none.

    Args:
        facts: the constants of the member, from its module or from its source.

    Example:
        >>> own_schedule(scores.read("force").facts)
        MemberSpec(name='exponential', options={'rounds': 60})
    """
    rounds = {"rounds": int(str(facts["ROUNDS"]))} if "ROUNDS" in facts else {}
    return MemberSpec(str(facts["SCHEDULE"]), rounds)


__getattr__ = lazy_names(__name__, {"mean_gradients": "_shared", "single": "_shared"})
