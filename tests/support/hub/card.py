"""The YAML block of a README.md, as the Hub reads and refuses it."""

from __future__ import annotations

import re

import yaml

from tests.support.hub.store import Blob
from tests.support.hub.wire import Answer, Request, as_json

RELATIONS = ("adapter", "merge", "quantized", "finetune")
_TEXT, _TEXTS, _LIST = "must be a string", "must be a string or an array of strings", "must be an array"
FIELDS = {
    "license": _TEXTS, "library_name": _TEXT, "pipeline_tag": _TEXT, "base_model": _TEXTS, "language": _TEXTS,
    "tags": _TEXTS, "datasets": _TEXTS, "metrics": _TEXTS, "model-index": _LIST,
}  # fmt: skip


def block(text: str) -> str | None:
    """The text between the two lines of dashes, or None."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n?---\s*(\n|$)", text, re.DOTALL)
    return found[1] if found else None


def metadata(readme: Blob | None) -> dict[str, object]:
    """What a card that the Hub accepted says; nothing without one."""
    text = block(readme.bytes().decode()) if readme else None
    found = yaml.safe_load(text) if text else None
    return found if isinstance(found, dict) else {}


def errors(text: str) -> list[str]:
    """Why the Hub refuses a card."""
    try:
        found = yaml.safe_load(block(text) or "")
    except yaml.YAMLError as error:
        return [f"YAML Error: {error}"]
    if found is None:
        return []
    if not isinstance(found, dict):
        return ["YAML Error: the metadata must be a mapping"]
    said = [f'"{key}" {rule}' for key, rule in FIELDS.items() if key in found and not _fits(found[key], rule)]
    relation = found.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        said.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    for entry in found.get("model-index") or []:
        if not (isinstance(entry, dict) and entry.get("name") and isinstance(entry.get("results"), list)):
            said.append('"model-index" must hold objects with a name and an array of results')
    return said


def _fits(value: object, rule: str) -> bool:
    if rule == _LIST:
        return isinstance(value, list)
    if rule == _TEXT or not isinstance(value, list):
        return isinstance(value, str)
    return all(isinstance(item, str) for item in value)


def validate(request: Request) -> Answer:
    """``POST /api/validate-yaml``."""
    text = request.json()["content"]
    warned = [] if block(text) else [{"message": "empty or missing yaml metadata in repo card"}]
    said = [{"message": message} for message in errors(text)]
    return as_json({"errors": said, "warnings": warned}, 400 if said else 200)
