"""What a push would send: decided from the folder alone, before any request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sigprune.base.canonical_json import read_text
from sigprune.base.errors import BadInput, reading_damaged
from sigprune.checkpoint.inspection import checked_files
from sigprune.checkpoint.locate import local_folder
from sigprune.checkpoint.safetensors_io import dense_file
from sigprune.checkpoint.sidecar_files import with_plug_in
from sigprune.format.index import read_manifest
from sigprune.format.names import CARD, CONFIG, DENSE, REPORT, is_dense_file, is_packed_file
from sigprune.format.network_config import expect_network
from sigprune.propagation.emptied import emptied_in
from sigprune.report.model_card import card, plain_card
from sigprune.report.record import Report
from sigprune.sources.hub_client import check_name
from sigprune.sources.local_files import file_in, files_in

_SAFE = frozenset({
    ".json",
    ".jsonl",
    ".md",
    ".model",
    ".png",
    ".safetensors",
    ".svg",
    ".txt",
    ".yaml",
    ".yml",
})
"""Endings of files that hold no code: nothing else is sent or fetched, and no pickle ever."""


@dataclass(frozen=True)
class Upload:
    """What a push sends.

    Attributes:
        files: path in the repository -> bytes.
        left_out: path -> why it is not sent.
        made: path -> text that differs from the folder's own: the card names the repository.
        warnings: what the mask empties, as the checkpoint says it.
    """

    files: Mapping[str, int]
    left_out: Mapping[str, str]
    made: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def plan_push(folder: str | Path, repo: str, *, dense: bool | None = None, sparse: bool = True) -> Upload:
    """What :func:`~sigprune.hub.push_pull.push` would send; nothing is sent, and no network is asked.

    Raises:
        CheckpointError: the folder holds no packed model, or its weights, configuration, card or report are
            links out of it; other such links are left out.
        BadInput: the repository's name is none; neither dense nor packed weights are wanted, or the dense
            ones are, and are not there.
    """
    check_name(repo)
    if dense is False and not sparse:
        raise BadInput("a push without dense and without packed weights would send no model")
    folder = local_folder(folder, None)
    manifest = read_manifest(folder)
    there = dense_file(folder) is not None
    makes = f"`sigprune convert {folder} NEW --to both` makes it"
    if not there and (dense or not sparse):
        rest = "" if sparse else ", and without the packed model nothing is left to send"
        raise BadInput(f"{folder}: it has no {DENSE}{rest}; {makes}")
    sends = there and dense is not False
    files: dict[str, int] = {}
    left_out = {} if there or dense is False else {DENSE: f"not in the folder; {makes}"}
    weights = checked_files(folder)
    listing = files_in(folder)
    for name, size in listing.files.items():
        reason = reason_to_leave(name, dense=sends, sparse=sparse)
        if reason is None and ".safetensors" in name and name not in weights:
            reason = "weights that are no part of this model"
        if reason is None:
            files[name] = size
        else:
            left_out[name] = reason
    left_out |= listing.refused
    expect_network(folder, manifest)
    with reading_damaged(folder):
        made = {CARD: _card(folder, repo, dense=sends, sparse=sparse)}
        if not sparse and manifest.library == "transformers":
            made[CONFIG] = with_plug_in(read_text(folder / CONFIG), packed=False)
    files |= {name: len(text.encode()) for name, text in made.items()}
    return Upload(dict(sorted(files.items())), left_out, made, emptied_in(manifest))


def reason_to_leave(name: str, *, dense: bool, sparse: bool) -> str | None:
    """Why a file stays where it is; None if it travels."""
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    if path.suffix not in _SAFE and path.name != "LICENSE":
        return "no weights, text or picture (pickles and programs never travel)"
    if not dense and is_dense_file(name):
        return "dense weights were not asked for"
    if not sparse and is_packed_file(name):
        return "packed weights were not asked for"
    return None


def _card(folder: Path, repo: str, *, dense: bool, sparse: bool) -> str:
    """The folder's own card if somebody wrote or edited it, else a fresh one that names the repository."""
    path = file_in(folder, CARD)
    own = None if path is None else read_text(path)
    report = None if file_in(folder, REPORT) is None else Report.read(folder)
    if own is not None and (report is None or own != card(report)):
        return own
    if report is None:
        return plain_card(read_manifest(folder), repo=repo, dense=dense, sparse=sparse)
    return card(report, repo=repo, dense=dense, sparse=sparse)
