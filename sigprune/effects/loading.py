"""How to load what a run made: the examples in its model card."""

from __future__ import annotations

from types import MappingProxyType

HERE = "path/to/this/folder"
_AUTO = MappingProxyType({
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "base": "AutoModel",
})
_HOLD = """\
from sigprune import describe, hold

with hold(describe(checkpoint.model), checkpoint.mask, optimizer):
    ...  # your own training loop"""


def snippets(library: str, task: str, repo: str | None) -> str:
    """With the library alone where it has a loader, and with sigprune, which also gives the mask.

    Args:
        library: the adapter that described the model.
        task: of a transformers model, as its recipe says it.
        repo: Hub id; None for a local folder.
    """
    zeros = "; removed weights are zeros:"
    if library == "timm":
        first = _block(f"With timm alone{zeros}", _timm(repo))
    elif library == "transformers":
        first = _block(f"With transformers alone{zeros}", _transformers(_AUTO.get(task, "AutoModel"), repo))
    else:
        first = _block(f"As a state dict for your own class{zeros}", _state_dict(repo))
    own = library not in {"timm", "transformers"}
    checked = "With sigprune, from the packed file; every name, shape and digest is checked:"
    return "\n\n".join([
        first,
        _block(checked, _sigprune(own, repo)),
        _block("To train on, staying sparse:", _HOLD),
    ])


def _timm(repo: str | None) -> str:
    source = f"hf-hub:{repo}" if repo else f"local-dir:{HERE}"
    return f'import timm\n\nmodel = timm.create_model("{source}", pretrained=True)'


def _transformers(kind: str, repo: str | None) -> str:
    return f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("{repo or HERE}")'


def _state_dict(repo: str | None) -> str:
    last = 'state = load_file(f"{folder}/model.safetensors")'
    return "\n".join([*_folder(repo, "from safetensors.torch import load_file"), last])


def _sigprune(own: bool, repo: str | None) -> str:
    call = "load(folder, into=model)  # model: an instance of your own class" if own else "load(folder)"
    last = "checkpoint.model, checkpoint.mask, checkpoint.manifest"
    return "\n".join([*_folder(repo, "from sigprune import load"), f"checkpoint = {call}", last])


def _folder(repo: str | None, import_line: str) -> list[str]:
    if repo is None:
        return [import_line, "", f'folder = "{HERE}"']
    return [
        "from huggingface_hub import snapshot_download",
        import_line,
        "",
        f'folder = snapshot_download("{repo}")',
    ]


def _block(title: str, code: str) -> str:
    return f"{title}\n\n```python\n{code}\n```"
