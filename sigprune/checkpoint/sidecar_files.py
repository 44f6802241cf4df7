"""What stands beside the weights: settings travel with them; pickles, code and other weights never."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path, PurePosixPath

from sigprune.base.canonical_json import load_object, read_object, read_text
from sigprune.base.errors import BadInput, CheckpointError, TooLarge, in_checkpoint
from sigprune.base.registry import JsonValue
from sigprune.checkpoint.safetensors_io import file_facts
from sigprune.format.index import KEY
from sigprune.format.manifest import SCHEMA
from sigprune.format.names import CONFIG, DENSE, DENSE_INDEX, REPORT, is_packed_file
from sigprune.models.opening import parse_ref
from sigprune.sources.hub_client import fetch, listing, offline
from sigprune.sources.local_files import Listing, file_in, files_in

"""What a run measured: true of these weights, however they are stored, and of no others."""

SMALL = 10**7
"""Bytes of a file in a subfolder that still travels."""

LARGE = 512 * 2**20
"""Bytes of a vocabulary that still travels; large ones have some 40 MB."""

_TEXTS = frozenset({".json", ".jsonl", ".txt", ".model", ".yaml"})
"""Endings of vocabularies and settings."""

_LEGAL = re.compile(r"(LICENSE|NOTICE|COPYING)(\.md|\.txt)?")
_OF_A_RUN = re.compile(r"report\.json|recipe\.yaml|figures/[^/]+\.png")
_REWRITTEN = re.compile(
    rf"{re.escape(CONFIG)}|{re.escape(DENSE)}|{re.escape(DENSE_INDEX)}|model-\d{{5}}-of-\d{{5}}\.safetensors"
)


def copy_sidecar_files(
    ref: str | Path, source: Path, target: Path, library: str, *, packed: bool, same: bool
) -> tuple[str, ...]:
    """Copy ``config.json``, which names the plug-in if packed files lie beside it, and small texts.

    Args:
        ref: the folder or repository that was read; what lies beside a repository's weights is fetched now
            (with HF_HUB_OFFLINE: what the cache holds of it).
        source: where its files are; of a repository the snapshot of one commit.
        target: the folder that is written, best before the weights: what fails, fails at once.
        library: the adapter.
        packed: packed files will lie in the target.
        same: the weights are the source's, so that what a run said of them stays true; :func:`tell_files_`
            then has to follow the weights.

    Returns:
        What stays behind: files of the source that are neither copied nor written anew, hidden ones aside;
        with the reason where they are links out of the folder, or no files.

    Raises:
        CheckpointError: ``config.json`` is damaged, or a link out of the folder.
        BadInput: ``config.json`` says that its weights are stored otherwise, or a repository cannot be read.
    """
    files, refused, repository = _listed(ref, source)
    ours = REPORT in files and _report(_file(REPORT, source, repository)) is not None
    left = [f"{name} ({why})" for name, why in refused.items()]
    for name, size in files.items():
        if _REWRITTEN.fullmatch(name) or is_packed_file(name):
            continue
        if _travels(name, size) if not (ours and _OF_A_RUN.fullmatch(name)) else same:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_file(name, source, repository), target / name)
        else:
            left.append(name)
    config = file_in(source, CONFIG)
    if config is not None:
        text = read_text(config)
        with in_checkpoint(str(source)):
            text = with_plug_in(text, packed=packed) if library == "transformers" else text
        (target / CONFIG).write_text(text, encoding="utf-8")
    return tuple(left)


def with_plug_in(config: str, *, packed: bool) -> str:
    """The text of a transformers ``config.json`` that says whether packed files lie beside it.

    Raises:
        CheckpointError: it is no JSON object, or its ``quantization_config`` is none.
        BadInput: it names another format of stored weights.
    """
    with in_checkpoint(CONFIG):
        fields = load_object(config)
    known = fields.pop("quantization_config", None)
    if not isinstance(known, dict | None):
        raise CheckpointError(f"{CONFIG}: expected an object as quantization_config, got {known!r}")
    if known is not None and known.get("quant_method") != KEY:
        raise BadInput(
            f"{CONFIG}: its weights are stored as {known.get('quant_method')}; expected plain tensors: load "
            "and save the model dense first"
        )
    if packed:
        fields["quantization_config"] = {"quant_method": KEY, "schema": SCHEMA}
    try:
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"
    except RecursionError as error:
        raise CheckpointError(f"{CONFIG}: its values are nested too deeply: {error}") from error


def record_files_(folder: Path) -> None:
    """Make the report of a run, if it lies there, name the files beside it: cards are made from it."""
    report = _report(folder / REPORT) if (folder / REPORT).is_file() else None
    if report is not None:
        weights = (path for path in sorted(folder.iterdir()) if path.suffix == ".safetensors")
        report["files"] = {path.name: file_facts(path) for path in (folder / CONFIG, *weights)}
        text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def _listed(ref: str | Path, source: Path) -> tuple[dict[str, int], dict[str, str], str | None]:
    """Of what is not hidden: name -> bytes, and name -> why it is not read; the repository, if asked."""
    reference = parse_ref(str(ref))
    repository = reference.name if reference.kind == "hub" else None
    if repository is None or offline():
        found, repository = files_in(source), None
    else:
        found = Listing(listing(repository, source.name, repository)[1], {})
    shown = {name: size for name, size in found.files.items() if not _hidden(name)}
    return shown, {name: why for name, why in found.refused.items() if not _hidden(name)}, repository


def _hidden(name: str) -> bool:
    return re.search(r"(^|/)\.", name) is not None


def _file(name: str, source: Path, repository: str | None) -> Path:
    if repository is None:
        return source / name
    path = fetch(repository, name, source.name, repository)
    if path is None:
        raise BadInput(f"{repository}: it lists {name}, and does not have it; try again later")
    return path


def _travels(name: str, size: int) -> bool:
    path = PurePosixPath(name)
    if ".safetensors.index." in path.name or path.is_absolute() or ".." in path.parts or "\\" in name:
        return False
    small = size <= (LARGE if len(path.parts) == 1 else SMALL)
    return small and (path.suffix in _TEXTS or _LEGAL.fullmatch(path.name) is not None)


def _report(path: Path) -> dict[str, JsonValue] | None:
    """What the file says, if a run wrote it."""
    try:
        plain = read_object(path)
    except TooLarge:
        raise
    except CheckpointError:  # no JSON object: not one of ours
        return None
    ours = {"schema", "recipe", "signal", "files"} <= plain.keys()
    return plain if ours and isinstance(plain["files"], dict) else None
