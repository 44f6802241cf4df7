"""Tokenizers and processors: the files that prepare a model's inputs stay with it when it is saved again."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path

from sigprune.base.errors import BadInput, CheckpointError, one_line
from sigprune.format.names import CONFIG
from sigprune.sources.hub_client import fetch, listing, offline
from sigprune.sources.local_files import file_in

_NAMES = re.compile(
    r"tokenizer[\w.-]*\.(json|model)|vocab[\w.-]*\.(json|txt|model|bpe)|merges\.txt|[\w.-]+\.(spm|model)"
    r"|special_tokens_map\.json|added_tokens\.json|normalizer\.json|chat_template\.(json|jinja)"
    r"|((video_)?pre)?processor_config\.json|generation_config\.json|(LICENSE|NOTICE)(\.md|\.txt)?"
)
"""What transformers' tokenizers and processors write, how a language model is asked, and the licence."""


def copy_processor_files(origin: str, target: Path) -> None:
    """Copy tokenizer and processor from where a model was opened to where it is saved.

    Args:
        origin: the local folder, or ``user/repo[@revision]``: of that what the cache holds, and, unless
            HF_HUB_OFFLINE is set, what the repository has beside it at the same commit. Any other name, as
            that of a model that was built from its type, is left alone.
        target: the folder that is written.

    Warns:
        UserWarning: a file cannot be had; names it.
    """
    repository, _, revision = origin.partition("@")
    local = bool(origin) and os.path.isdir(origin)  # noqa: PTH112 (Path.is_dir raises for long texts)
    folder = Path(origin) if local else _cached(repository, revision or None)
    if folder is None:
        return
    try:
        names = {path.name for path in folder.iterdir()}
        if not local and not offline():
            names |= listing(repository, folder.name, repository)[1].keys()
        for name in sorted(filter(_NAMES.fullmatch, names)):
            path = file_in(folder, name)
            if path is None and not local:
                path = fetch(repository, name, folder.name, repository)
            if path is not None:
                shutil.copyfile(path, target / name)
    except (BadInput, CheckpointError, OSError) as error:
        warnings.warn(
            f"{origin}: its tokenizer and processor are not copied beside the weights: {one_line(error)}; "
            "pass them: save(..., tokenizer=..., processor=...)",
            stacklevel=2,
        )


def _cached(repository: str, revision: str | None) -> Path | None:
    """The snapshot that the Hub's cache holds of a repository, which it does of one that was opened."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(repository, CONFIG, revision=revision)
    except (HFValidationError, ValueError):
        return None
    return Path(path).parent if isinstance(path, str) else None
