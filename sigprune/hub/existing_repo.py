"""What a push leaves of a repository that holds dense weights of somebody else."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path

from sigprune.base.canonical_json import load_object, read_text
from sigprune.base.errors import BadInput, in_checkpoint
from sigprune.base.registry import JsonValue
from sigprune.format.names import CARD, CONFIG
from sigprune.hub.upload_plan import Upload
from sigprune.sources.hub_client import fetch

_OURS = "\n- sigprune\n"
"""The tag that every card of ours has."""

_OF_FILES = frozenset({"quantization_config", "transformers_version"})
"""Keys that say how files were written, not what the model is."""


def merge_into_existing(
    upload: Upload, folder: Path, repo: str, commit: str, there: Container[str]
) -> Upload:
    """What of an upload may join a repository of somebody else: all but the card, if the models are the same.

    Raises:
        BadInput: the repository's ``config.json`` says another model; names the first difference.
        CheckpointError: it, or the folder's own, is damaged.
    """
    path = fetch(repo, CONFIG, commit, repo) if CONFIG in there else None
    if path is not None and CONFIG in upload.files:
        _expect_same(_model(path, repo), _model(folder / CONFIG, str(folder)), repo, folder)
    card = fetch(repo, CARD, commit, repo) if CARD in there else None
    if card is None or _OURS in read_text(card):
        return upload
    files = {name: size for name, size in upload.files.items() if name != CARD}
    return replace(upload, files=files, left_out={**upload.left_out, CARD: "the repository has its own"})


def _expect_same(
    theirs: Mapping[str, JsonValue], ours: Mapping[str, JsonValue], repo: str, folder: Path
) -> None:
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise BadInput(
                f"{repo}: its {CONFIG} says {key} {theirs.get(key)!r}, that of {folder} {ours.get(key)!r}, "
                "which is not what its dense weights are of: choose another repository, or push dense "
                "weights too, which replaces them"
            )


def _model(config: Path, place: str) -> dict[str, JsonValue]:
    text = read_text(config)
    with in_checkpoint(f"{place}: {CONFIG}"):
        return {key: value for key, value in load_object(text).items() if key not in _OF_FILES}
