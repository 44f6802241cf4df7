"""The Hub of the tests, judged by timm and transformers: what they push they load again."""

from __future__ import annotations

import json

from tests.support.hub import TOKEN, client, running

TIMM = """
import json, timm, torch
from huggingface_hub import HfApi
from timm.models import push_to_hf_hub

torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=7).eval()
push_to_hf_hub(model, "someone/net", safe_serialization=True)
push_to_hf_hub(timm.create_model("test_vit"), "someone/net", safe_serialization=True)
first, batch = HfApi().list_repo_commits("someone/net")[1].commit_id, torch.randn(2, 3, 160, 160)
old = timm.create_model(f"hf-hub:someone/net@{first}", pretrained=True).eval()
new = timm.create_model("hf-hub:someone/net", pretrained=True)
same = torch.equal(model(batch), old(batch))
print(json.dumps([same, type(new).__name__, HfApi().list_repo_files("someone/net")]))
"""
TRANSFORMERS = """
import json, sys, torch
from huggingface_hub import HfApi
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
config = ViTConfig(image_size=32, patch_size=8, **sizes)
torch.manual_seed(0)
whole, parts, other = (ViTForImageClassification(config) for _ in range(3))
parts.push_to_hub("someone/vit", revision="dev", max_shard_size="20KB")  # before main has a whole file
whole.push_to_hub("someone/vit")
other.save_pretrained(sys.argv[1], variant="other")
HfApi().upload_folder(repo_id="someone/vit", folder_path=sys.argv[1])

def same(model, **options):
    found = AutoModelForImageClassification.from_pretrained("someone/vit", **options).state_dict()
    return all(torch.equal(value, found[name]) for name, value in model.state_dict().items())

print(json.dumps([same(whole), same(parts, revision="dev"), same(other, variant="other"), same(other)]))
print(json.dumps(sum("-of-" in name for name in HfApi().list_repo_files("someone/vit", revision="dev")) > 1))
"""


def test_timm_pushes_and_loads(tmp_path):
    with running(tmp_path) as hub:
        done = client(hub.environment | {"HF_TOKEN": TOKEN}, TIMM)
        assert done.returncode == 0, done.stderr
        assert len(hub.log.find("POST", "*/commit/*")) == 2
    files = [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert json.loads(done.stdout) == [True, "VisionTransformer", files]


def test_transformers_pushes_and_loads(tmp_path):
    with running(tmp_path) as hub:
        done = client(hub.environment | {"HF_TOKEN": TOKEN}, TRANSFORMERS, str(tmp_path / "saved"))
    assert done.returncode == 0, done.stderr
    assert list(map(json.loads, done.stdout.splitlines())) == [[True, True, True, False], True]
