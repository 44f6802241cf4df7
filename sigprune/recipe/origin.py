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
        folder: the file's own folder, resolved when it was read.
        typed: paths of the values, or whole sections, that the caller gave beside the file (``--set``).
        consented: the caller has consented to everything that the file asks for.
    """

    file: Path | None = None
    folder: Path | None = None
    typed: frozenset[Keys] = field(default_factory=frozenset)
    consented: bool = False

    @classmethod
    def of_file(cls, file: Path, typed: frozenset[Keys]) -> Origin:
        """Of what was just read from a file, which may itself be a link that leads elsewhere."""
        return cls(file, file.absolute().parent.resolve(), typed)

    def is_own_word(self, path: Sequence[str]) -> bool:
        """Whether the caller answers for the value at a path."""
        above = (tuple(path[:end]) for end in range(1, len(path) + 1))
        return self.file is None or self.consented or any(keys in self.typed for keys in above)

    def consent(self) -> Origin:
        """The same, with the caller's consent."""
        return replace(self, consented=True)
