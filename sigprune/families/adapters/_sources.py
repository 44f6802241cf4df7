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
    """The ``config.json`` of a repository or folder.

    Raises:
        BadInput: there is none, it cannot be fetched, or it is no JSON object.
    """
    place, _ = split_source(source)
    path = file_of(source, "config.json")
    if path is None:
        raise BadInput(f"{place}: there is no config.json, so that sigprune cannot tell what model it is")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{place}: its config.json is not JSON: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise BadInput(f"{place}: expected an object in config.json, got {type(config).__name__}")
    return cast(dict[str, Plain], config)


def expect_safetensors(source: str) -> None:
    """Look for weights that are safe to read; what is fetched for that, the library needs anyway.

    Raises:
        BadInput: there are none, or they cannot be fetched.
    """
    names = ("model.safetensors", "model.safetensors.index.json")
    if all(file_of(source, name) is None for name in names):
        place, _ = split_source(source)
        raise BadInput(f"{place}: there is no model.safetensors, and pickles are never read")


def file_of(source: str, name: str) -> Path | None:
    """A file of a repository (from the cache, or fetched into it) or folder; None where it has no such file.

    ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` hold.

    Raises:
        BadInput: it cannot be fetched.
    """
    place, revision = split_source(source)
    if source.startswith(FOLDER):
        path = Path(place) / name
        return path if path.is_file() else None
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(place, name, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        raise BadInput(f"{place}: {_unreachable(name, error)}") from error
    except errors.EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{place}: {_refused(place, revision, error)}") from error


def _unreachable(name: str, error: Exception) -> str:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return f"HF_HUB_OFFLINE is set, and the local cache does not have its {name}"
    cause = f" ({one_line(error.__cause__)})" if isinstance(error.__cause__, Exception) else ""
    return f"{constants.ENDPOINT} does not answer{cause}, and the local cache does not have its {name}"


def _refused(place: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{place}"
        return f"the repository is gated: accept its terms at {page}, then set HF_TOKEN to your token"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r} (branch, tag or commit)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{constants.ENDPOINT} has no such repository, or hides it: check its name, or set HF_TOKEN"
    return one_line(error)
