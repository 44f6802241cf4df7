"""What the name of a model means: an architecture of a library, a Hub repository or a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["library", "hub", "folder"]


@dataclass(frozen=True)
class ModelRef:
    """Where a model is to be found.

    Attributes:
        kind: an architecture of a ``library``, a repository on the ``hub``, or a local ``folder``.
        library: the adapter that knows it; None where ``config.json`` has to tell.
        name: the architecture, repository or folder.
        revision: branch, tag or commit of a repository.
    """

    kind: Kind
    library: str | None
    name: str
    revision: str | None = None

    @property
    def full_name(self) -> str:
        """With the revision, if there is one: ``user/repo@revision``."""
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def source(self) -> str:
        """How the adapters want it: a plain name, ``hf-hub:user/repo[@revision]`` or ``local-dir:folder``."""
        if self.kind == "library":
            return self.name
        return f"local-dir:{self.name}" if self.kind == "folder" else f"hf-hub:{self.full_name}"

    def __str__(self) -> str:
        """The reference as it is written; parsing it gives an equal one."""
        if self.kind == "library":
            return f"{self.library}:{self.full_name}"
        return self.source if self.library is None else f"{self.library}:{self.source}"


def local_path(ref: str | Path) -> Path | None:
    """The file or folder that a reference names on this machine; None if there is none of that name."""
    try:
        path = Path(ref).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # too long for a path, or the home of a user that does not exist
        return None
