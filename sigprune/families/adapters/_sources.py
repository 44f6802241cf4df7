"""Sources: ``hf-hub:user/repo@revision`` or ``local-dir:folder``, where a library finds ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from sigprune.base.errors import BadInput, one_line
from sigprune.base.family import Plain

HUB, FOLDER = "hf-hub:", "local-dir:"


def plain_name(source: str) -> bool:
    """Whether it is a library's own name of an architecture rather than a repository or a folder."""
    return not source.startswith((HUB, FOLDER))


def split_source(source: str) -> tuple[str, str | None]:
    """A repository or folder, and the revision if it is a repository and has one."""
    if source.startswith(FOLDER):
        return source.removeprefix(FOLDER), None
    repository, _, revision = source.removeprefix(HUB).partition("@")
    return repository, revision or None


def read_config(source: str) -> Mapping[str, Plain]:
    """The ``config.json`` of a repository (fetched through transformers; ``HF_HUB_OFFLINE`` holds) or folder.

    Raises:
        BadInput: there is none, it cannot be fetched, or it is no JSON object.
    """
    place, revision = split_source(source)
    try:
        path = Path(place) / "config.json" if source.startswith(FOLDER) else _fetch(place, revision)
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{place}: cannot read its config.json: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise BadInput(f"{place}: expected an object in config.json, got {type(config).__name__}")
    return cast(dict[str, Plain], config)


def _fetch(repository: str, revision: str | None) -> Path:
    from transformers.utils import cached_file

    return Path(cast(str, cached_file(repository, "config.json", revision=revision)))
