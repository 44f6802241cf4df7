"""Progress: what a long piece of work tells about itself. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) as often as the work likes."""


class Progress(Protocol):
    """Someone who wants to know what is going on."""

    def step(self, title: str) -> AbstractContextManager[ProgressCallback]:
        """A piece of work begins; it ends with the context. What is yielded takes (done, total)."""


def say(progress: Progress, text: str) -> None:
    """Text about the step that is under way, such as what an epoch came to, if ``progress.say`` exists."""
    if callable(show := getattr(progress, "say", None)):
        show(text)


class SilentProgress:
    """Wants to know nothing.

    Example:
        >>> with SilentProgress().step("train") as on_progress:
        ...     on_progress(1, 10)
    """

    def step(self, title: str) -> AbstractContextManager[ProgressCallback]:
        """Ignore the title and all that follows."""
        del title
        return nullcontext(ignore)


def ignore(done: int, total: int) -> None:
    """A :data:`ProgressCallback` for who wants to know nothing."""
    del done, total


@dataclass(frozen=True, eq=False)
class CountedIterable(Generic[T]):
    """Items that can be read again and again, and tell how many have been read this time.

    Example:
        >>> list(CountedIterable("ab", print))
        1
        2
        ['a', 'b']
    """

    items: Iterable[T]
    on_progress: Callable[[int], None]

    def __iter__(self) -> Iterator[T]:
        for count, item in enumerate(self.items, start=1):
            yield item
            self.on_progress(count)
