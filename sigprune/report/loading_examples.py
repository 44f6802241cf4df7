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


def snippets(library: str, task: str, repo: str | None, *, dense: bool = True, sparse: bool = True) -> str:
    """With the library alone where it has a loader, and with sigprune, which also gives the mask.

    Args:
        library: the adapter that described the model.
        task: of a transformers model, as its recipe says it.
        repo: Hub id; None for a local folder.
        dense: there is a dense file.
        sparse: there is a packed file.
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
    blocks = [first] if dense else []
    if sparse:
        if library == "transformers":
            kind = _AUTO.get(task, "AutoModel")
            blocks.append(_block("With transformers, from the packed file:", _variant(kind, repo)))
        blocks.append(_block(checked, _sigprune(own, repo)))
        blocks.append(_block("To train on, staying sparse:", _HOLD))
    install = ["The packed file and its mask are read by sigprune: `pip install sigprune`."] if sparse else []
    return "\n\n".join(install + blocks)


def image_file(library: str, repo: str | None, *, grey: bool) -> str:
    """How the library alone classifies an image file; empty for libraries that have no way of their own.

    Args:
        library: the adapter that described the model.
        repo: Hub id; None for a local folder.
        grey: the model takes one channel.
    """
    image = f'Image.open("image.png").convert("{"L" if grey else "RGB"}")'
    if library == "timm":
        code = (
            "from PIL import Image\nfrom timm.data import create_transform, resolve_data_config\n\n"
            f"{_timm(repo)}.eval()\ntransform = create_transform(**resolve_data_config({{}}, model=model))\n"
            f"logits = model(transform({image})[None])\n"
            'print(model.pretrained_cfg["label_names"][int(logits.argmax())])'
        )
    elif library == "transformers":
        code = (
            "from PIL import Image\nfrom transformers import AutoImageProcessor\n\n"
            f"{_transformers('AutoModelForImageClassification', repo)}\n"
            f'processor = AutoImageProcessor.from_pretrained("{repo or HERE}")\n'
            f'inputs = processor({image}, return_tensors="pt")\n'
            "print(model.config.id2label[int(model(**inputs).logits.argmax())])"
        )
    else:
        return ""
    return _block("To classify an image file:", code)


def _variant(kind: str, repo: str | None) -> str:
    return (
        f"import sigprune  # it registers itself with transformers\nfrom transformers import {kind}\n\n"
        f'model = {kind}.from_pretrained("{repo or HERE}", variant="sparse")'
    )


def _timm(repo: str | None) -> str:
    source = f"hf-hub:{repo}" if repo else f"local-dir:{HERE}"
    return f'import timm\n\nmodel = timm.create_model("{source}", pretrained=True)'


def _transformers(kind: str, repo: str | None) -> str:
    return f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("{repo or HERE}")'


def _state_dict(repo: str | None) -> str:
    if repo is None:
        return f'from safetensors.torch import load_file\n\nstate = load_file("{HERE}/model.safetensors")'
    return (
        "from huggingface_hub import hf_hub_download\nfrom safetensors.torch import load_file\n\n"
        f'state = load_file(hf_hub_download("{repo}", "model.safetensors"))'
    )


def _sigprune(own: bool, repo: str | None) -> str:
    into = ", into=model)  # model: an instance of your own class" if own else ")"
    last = "checkpoint.model, checkpoint.mask, checkpoint.manifest"
    return f'from sigprune import load\n\ncheckpoint = load("{repo or HERE}"{into}\n{last}'


def _block(title: str, code: str) -> str:
    return f"{title}\n\n```python\n{code}\n```"
