"""Progress: what a long piece of work tells about itself. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeAlias

Tell: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) as often as the work likes."""


class Progress(Protocol):
    """Someone who wants to know what is going on."""

    def step(self, title: str) -> AbstractContextManager[Tell]:
        """A piece of work begins; it ends with the context. What is yielded takes (done, total)."""


class SilentProgress:
    """Wants to know nothing.

    Example:
        >>> with SilentProgress().step("train") as tell:
        ...     tell(1, 10)
    """

    def step(self, title: str) -> AbstractContextManager[Tell]:
        """Ignore the title and all that follows."""
        del title
        return nullcontext(_ignore)


def _ignore(done: int, total: int) -> None:
    del done, total
