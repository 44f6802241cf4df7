"""Where a recipe comes from, so that what a file says is told apart from what the caller says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

Keys = tuple[str, ...]
"""The path of a value in a recipe: ``("model", "ref")``."""


@dataclass(frozen=True)
class Origin:
    """Whose word the values of a recipe are.

    Attributes:
        file: the file that they were read from; None: the caller's own, made in Python or typed.
        typed: paths of the values, or whole sections, that the caller gave beside the file (``--set``).
        consented: the caller has consented to everything that the file asks for.
    """

    file: Path | None = None
    typed: frozenset[Keys] = field(default_factory=frozenset)
    consented: bool = False

    def is_own_word(self, path: Sequence[str]) -> bool:
        """Whether the caller answers for the value at a path."""
        above = (tuple(path[:end]) for end in range(1, len(path) + 1))
        return self.file is None or self.consented or any(keys in self.typed for keys in above)

    @property
    def folder(self) -> Path | None:
        """The file's own folder, resolved; the file itself may be a link that leads elsewhere."""
        return None if self.file is None else self.file.absolute().parent.resolve()

    def consent(self) -> Origin:
        """The same, with the caller's consent."""
        return replace(self, consented=True)
