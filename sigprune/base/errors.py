"""The exception tree.

::

    SigpruneError
    ├── BadInput            the caller can mend it: the CLI prints one line and exits with 2
    │   ├── UnknownName     a model, member, weight or recipe that does not exist; names the nearest ones
    │   ├── RecipeError     a recipe value, with its path inside the recipe
    │   │   └── NeedsConsent a recipe file that asks for more than data: code, files elsewhere, a push
    │   ├── NeedsData       a score, objective or measure asked for data that it was not given
    │   ├── DataError       a data set that is missing, unreadable or of the wrong shape
    │   ├── CheckpointError a checkpoint folder or file that is not what it says it is
    │   │   └── TooLarge    a file beyond the bounds of what is read
    │   ├── FolderExists    an output folder that would be overwritten
    │   ├── NoSpace         the disk of an output folder is full
    │   └── UnsupportedModel a network that the adapters cannot describe
    ├── BadScores           a score gave a wrong shape, NaN or infinity
    ├── MaskViolated        a weight that the mask removed is not zero
    ├── Diverged            training left the finite numbers: the CLI exits with 1
    └── FindingFailed       a required finding failed: the CLI exits with 1
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from sigprune.base.escape import printable

_SHORTEST = 3
"""Letters of a beginning of a name; fewer begin too many."""
_LONGEST = 1000
"""Characters of a message that quotes a file."""


class SigpruneError(Exception):
    """Root of every error that sigprune raises on purpose; can be pickled, so that worker processes may."""

    def __reduce__(
        self,
    ) -> tuple[Callable[..., SigpruneError], tuple[type[SigpruneError], str], dict[str, object]]:
        # the default calls the class with its message, which is not what every class is made from
        return _unpickled, (type(self), str(self)), vars(self)


def _unpickled(kind: type[SigpruneError], message: str) -> SigpruneError:
    return kind.__new__(kind, message)


class BadInput(SigpruneError, ValueError):
    """An argument, recipe, file or model that the caller can mend."""


class UnknownName(BadInput, LookupError):
    """A name that is not known, with the nearest known ones.

    Args:
        kind: what was looked up, in words ("score", "timm model").
        name: the name that is not known.
        known: every known name.

    Example:
        >>> raise UnknownName("score", "snipp", ["snip", "synflow"])
        Traceback (most recent call last):
        sigprune.base.errors.UnknownName: unknown score 'snipp'; did you mean snip?
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.nearest = nearest(name, known)
        super().__init__(f"unknown {kind} {name!r}; {suggestion(name, known)}")


class RecipeError(BadInput):
    """A recipe that does not say a valid experiment; the message starts with the path of the value."""


class NeedsConsent(RecipeError):
    """A recipe file asks for what the caller has not consented to; nothing was imported, read or sent."""


class NeedsData(BadInput):
    """Data was asked for where none was given."""


class DataError(BadInput):
    """A data set that is missing, unreadable or of the wrong shape."""


class CheckpointError(BadInput):
    """A checkpoint that is not what it says it is.

    What a file says is quoted up to a length, and escaped: a name with a line end in it makes no second line.
    """

    def __init__(self, message: str) -> None:
        short = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
        super().__init__(printable(short))


class TooLarge(CheckpointError):
    """A file beyond the bounds that docs/format.md states: it was not read, or not to the end."""


@contextmanager
def in_checkpoint(place: str) -> Iterator[None]:
    """A :class:`CheckpointError` of the block gets the place in front: a file, a tensor."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"{place}: {error}") from error


@contextmanager
def reading_damaged(place: object) -> Iterator[None]:
    """For code that only reads: whatever damaged input raises becomes one line that names the place.

    Readers check what they can think of; libraries raise anything for the rest (``KeyError`` in a
    configuration class, ``RuntimeError`` in torch, ``MemoryError``). The cause stays attached.

    Args:
        place: the file or folder that is read.
    """
    try:
        yield
    except (SigpruneError, OSError):  # these say what is wrong, and where
        raise
    except Exception as error:
        raise CheckpointError(
            f"{place}: it cannot be read ({type(error).__name__}: {one_line(error)}); it is damaged, or was "
            "written by something else: write or fetch it again"
        ) from error


class FolderExists(BadInput):
    """An output folder that exists already and would be overwritten."""


class NoSpace(BadInput):
    """The disk of an output folder is full.

    Args:
        folder: what was to be written.
        needs: bytes that it takes at least.
        free: bytes that are left when nothing of it is there.
    """

    def __init__(self, folder: object, needs: int, free: int) -> None:
        self.needs = needs
        super().__init__(
            f"{folder}: no space left on its disk: it takes at least {needs:,} bytes, {free:,} are free; "
            "make room, or choose a folder on another disk"
        )


class UnsupportedModel(BadInput):
    """A network that cannot be described."""


class BadScores(SigpruneError, ValueError):
    """Scores of the wrong names or shapes, or with NaN or infinity among them."""


class MaskViolated(SigpruneError, AssertionError):
    """A weight that the mask removed is not exactly zero."""


class Diverged(SigpruneError, ArithmeticError):
    """The loss of a training run became NaN or infinite."""


class FindingFailed(SigpruneError):
    """A required finding failed; the network is not worth training as it stands.

    Attributes:
        signal: what was measured until then (:class:`sigprune.report.run_record.Measurement`).
    """

    signal: Sequence[object] = ()


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names nearest to a mistyped or unfinished one, best first (at most ``count``; may be empty).

    Those that go on where the name ends come first, the shortest of them before all others.

    Example:
        >>> nearest("vit_tiny", ["vit_base_patch16_224", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224"])
        ['vit_tiny_patch16_224', 'vit_tiny_r_s16_p8_224']
    """
    lowered, asked = {k.lower(): k for k in known}, name.lower()
    begun = [k for k in lowered if len(asked) >= _SHORTEST and k.startswith(asked)]
    # a whole part of a name before a part of a part: vit_base before vitamin
    begun.sort(key=lambda k: (k[len(asked) : len(asked) + 1].isalnum(), len(k), k))
    close = difflib.get_close_matches(asked, lowered, n=count, cutoff=0.6)
    inside = [k for k in lowered if len(asked) >= _SHORTEST and asked in k] if not begun + close else []
    found = dict.fromkeys([*begun, *close, *sorted(inside, key=lambda k: (len(k), k))])
    return [lowered[k] for k in found][:count]


def suggestion(name: str, known: Iterable[str], limit: int = 64) -> str:
    """What to print after an unknown name: the nearest, else all known ones and how many more there are."""
    known = sorted(known)
    close = nearest(name, known)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not known:
        return "nothing is known here"
    more = f" and {len(known) - limit:,} more" if len(known) > limit else ""
    return f"known: {', '.join(known[:limit])}{more}"


def one_line(error: BaseException) -> str:
    """The first line of an error's text, for messages of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:400] or type(error).__name__
