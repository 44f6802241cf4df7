"""Scoring: from a network and the evidence to one checked number per entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from sigprune.base import distributed
from sigprune.base.errors import BadScores
from sigprune.base.registry import BoundMember, MemberSpec
from sigprune.base.rng import generator
from sigprune.base.tensors import Tensors
from sigprune.families.objectives import Objective, objectives, predictions, preparation
from sigprune.families.scores import Score, remedy, scores
from sigprune.values.batch import Batch, BatchLike
from sigprune.values.mask import Mask
from sigprune.values.problem import Prepare, Problem, Setting, Workspace, unprepared
from sigprune.values.view import View, empty_filter


@dataclass(frozen=True, eq=False)
class Scorer:
    """A score and an objective for one network.

    In several processes (:mod:`sigprune.base.distributed`) each gives batches of its own, as many and as
    large as all others: scores are those of one process that sees each round of batches as one.

    Attributes:
        view: the network; the same values in every process.
        score: ranks the entries.
        objective: what it differentiates, if it differentiates one.
        seed: of random scores, and of what an objective draws.
        workspace: what the score keeps between calls: the network does not change between them.
    """

    view: View
    score: BoundMember[Score]
    objective: BoundMember[Objective]
    seed: int
    workspace: Workspace = field(default_factory=Workspace)

    @classmethod
    def of(
        cls,
        view: View,
        score: str | MemberSpec | ModuleType,
        objective: str | MemberSpec | ModuleType,
        seed: int,
    ) -> Scorer:
        """The members that the names or steps stand for."""
        return cls(view, scores.choose(score), objectives.choose(objective), seed)

    def __call__(self, mask: Mask, batches: Iterable[BatchLike] | None, draw: str) -> Tensors:
        """Finite scores in the order of the prunable names, in float64 or float32, that share no parameter.

        Args:
            mask: entries still kept.
            batches: what a data loader yields, or None.
            draw: names the random stream of this round.

        Raises:
            NeedsData: the score or its objective needs data that was not given.
            BadScores: scores are not finite or do not fit the weights.
            BadInput: processes that do not agree.
        """
        data = None if batches is None else _Counted(batches)
        aim = partial(self.objective.member.objective, **self.objective.options)
        draws = generator(self.seed, "score", draw)
        counts = partial(predictions(self.objective.member), **self.objective.options)
        problem = Problem(self.view, mask, draws, aim, data, self._prepare(), self.workspace, counts)
        found = self._checked(self.score.member.score(problem, **self.score.options))
        if data is not None:
            distributed.expect_equal([*data.sizes], "the sizes of the batches that are scored with")
        return found

    def _prepare(self) -> Prepare:
        own = preparation(self.objective.member) if self.score.member.NEEDS == "objective" else None
        if own is None:
            return unprepared

        def dense(batch: Batch) -> Tensor:
            with torch.no_grad():
                return self.view.forward({}, batch)

        def prepare(number: int, batch: Batch) -> Batch:
            whose = f"{distributed.rank()}/{number}" if distributed.rank() else str(number)
            setting = Setting(generator(self.seed, "objective", whose), dense)
            return own(batch, setting, **self.objective.options)

        return prepare

    def _checked(self, ranked: Tensors) -> Tensors:
        member, shapes = self.score.name, self.view.prunable_shapes()
        if ranked.keys() != shapes.keys():
            name = sorted(ranked.keys() ^ shapes.keys())[0]
            raise BadScores(f"score {member!r}: {name} is missing or was not asked for")
        own = {parameter.data_ptr() for parameter in self.view.params().values()}
        found: Tensors = {}
        for name, shape in shapes.items():
            values = ranked.pop(name)  # one by one, so that a cast holds no second copy of all
            if tuple(values.shape) != shape:
                raise BadScores(
                    f"score {member!r} of {name}: expected shape {shape}, got {tuple(values.shape)}"
                )
            # a sum is the cheapest pass that sees every NaN and infinity; it may also overflow by itself
            if not bool(values.sum().isfinite()) and not bool(torch.isfinite(values).all()):
                bad = int((~torch.isfinite(values)).sum())
                raise BadScores(
                    f"score {member!r} of {name}: {bad} of {values.numel()} entries are NaN or infinite; "
                    f"{self._cause()}"
                )
            plain = values.detach().to(_selection_dtype(values)).contiguous()
            found[name] = plain.clone() if plain.data_ptr() in own else plain
        return found

    def _cause(self) -> str:
        """Why scores are not finite, and what to do."""
        for name, parameter in self.view.params().items():
            if not bool(torch.isfinite(parameter).all()):
                return f"the parameter {name} itself holds NaN or infinity: load or draw its values anew"
        reason = empty_filter(self.view, self.view.params())
        if reason is not None:
            return reason
        own = remedy(self.score.member)
        if own is not None:
            return own(**self.score.options)
        return "the score overflows: lower the init gain, look at the spectrum after init and at the data"


@dataclass(eq=False)
class _Counted:
    """Batches, and how many examples each of those read had."""

    batches: Iterable[BatchLike]
    sizes: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[BatchLike]:
        self.sizes.clear()
        for item in self.batches:
            self.sizes.append(_length(item))
            yield item


def _length(item: BatchLike) -> int:
    """Of what is no batch it is 0: reading it says why."""
    if isinstance(item, Batch):
        item = item.inputs
    first: object = item
    if not isinstance(item, Tensor) and isinstance(item, Iterable):
        first = next(iter(item.values() if isinstance(item, Mapping) else item), None)
    return len(first) if isinstance(first, Tensor) and first.dim() else 0


def _selection_dtype(values: Tensor) -> torch.dtype:
    return values.dtype if values.dtype is torch.float64 else torch.float32
