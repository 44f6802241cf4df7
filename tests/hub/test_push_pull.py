"""Checkpoints go to the Hub and come back: one commit, nothing stale, nothing half, no pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.checkpoint.save import save
from sigprune.format.names import DENSE, DENSE_INDEX, PACKED, PACKED_INDEX
from sigprune.hub.upload_plan import plan_push
from sigprune.models.opening import open_model
from tests.checkpoint.test_checkpoint import LIBRARIES, pruned
from tests.support.hub import READ_TOKEN, TOKEN, Fault, Hub, client, running

START = """
import json, sys, time
from pathlib import Path
import torch
from sigprune import load, pull, push
from sigprune.checkpoint.inspection import inspect

time.sleep = lambda seconds: None
folder, repo = Path(sys.argv[1]), "someone/net"

def says(*values):
    print(json.dumps(values))

def fails(act):
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def outputs(model):
    torch.manual_seed(0)
    with torch.no_grad():
        return model(torch.randn(2, 3, 160, 160)).flatten()[:4].tolist()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of timm, with a pickle that must stay where it is."""
    torch.manual_seed(0)
    model = open_model("timm:test_resnet", args={"num_classes": 5})
    path = tmp_path_factory.mktemp("hub") / "net"
    save(path, *pruned(model), extra={"base_model": "timm/test_resnet.r160_in1k"})
    (path / "optimizer.pt").write_bytes(b"\x80\x04N.")
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of transformers in several files."""
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    path = tmp_path_factory.mktemp("hub") / "bert"
    save(path, *pruned(model), max_shard_bytes=8000)
    return path


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running(tmp_path) as server:
        yield server


def run(hub: Hub, code: str, folder: Path, token: str | None = TOKEN) -> list[list]:
    given = {"HF_TOKEN": token} if token else {}
    done = client(hub.environment | given, START + code, str(folder))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


ROUND = """
done = push(folder, repo, private=True)
says(done.url, done.upload.left_out)
model = load(repo).model
says(outputs(model) == outputs(load(folder).model))
import timm
says(outputs(timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()) == outputs(model))
facts = inspect(repo, verify=True)
says(facts["sparsity"], facts["verified"], sorted(facts["files"]))
back = pull(repo, folder.parent / f"{sys.argv[2]}")
says(sorted(path.name for path in back.iterdir()))
says((back / "model.sparse.safetensors").read_bytes() == (folder / "model.sparse.safetensors").read_bytes())
"""


def test_there_and_back(hub: Hub, folder: Path, tmp_path: Path) -> None:
    code = ROUND.replace('f"{sys.argv[2]}"', repr(f"back-{tmp_path.name}"))
    (url, left_out), (same,), (plain,), (sparsity, verified, files), (names,), (bytes_,) = run(
        hub, code, folder
    )
    assert "/someone/net/commit/" in url
    assert list(left_out) == ["optimizer.pt"]
    assert same
    assert plain
    assert bytes_
    assert sparsity == pytest.approx(0.75, abs=1e-3)
    assert verified["packed"] > 10
    assert set(files) - {".gitattributes"} == {"README.md", "config.json", DENSE, PACKED}
    assert names == ["README.md", "config.json", PACKED]
    assert len(hub.log.find("POST", "*/commit/*")) == 1


def test_inspect_fetches_headers_alone(hub: Hub, folder: Path) -> None:
    run(hub, "push(folder, repo)", folder)
    hub.log.clear()
    ((sparsity,),) = run(hub, 'says(inspect(repo)["sparsity"])', folder)
    assert sparsity == pytest.approx(0.75, abs=1e-3)
    size = (folder / PACKED).stat().st_size
    asked = [entry for entry in hub.log.find("GET", f"*{PACKED}") if entry.status in {200, 206}]
    assert asked
    assert all(entry.range for entry in asked)
    assert sum(entry.sent for entry in asked) < min(size, 120_000 * len(asked))


def test_several_files_and_no_stale_ones(hub: Hub, bert: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    save(small, *pruned(model))
    code = f"""
push(folder, repo)
says(sorted(name for name in inspect(repo)["files"] if name.endswith(("safetensors", "json"))))
from transformers import AutoModelForMaskedLM
first = AutoModelForMaskedLM.from_pretrained(repo, variant="sparse")
says(all(torch.equal(v, load(folder).model.state_dict()[k]) for k, v in first.state_dict().items()))
done = push({str(small)!r}, repo)
says(list(done.deleted))
says(sorted(name for name in inspect(repo)["files"] if name.endswith(("safetensors", "json"))))
again, local = load(repo), load({str(small)!r}).model.state_dict()
says(all(torch.equal(v, local[k]) for k, v in again.model.state_dict().items()))
dense = AutoModelForMaskedLM.from_pretrained(repo)
says(all(torch.equal(v, dense.state_dict()[k]) for k, v in again.model.state_dict().items()))
"""
    (before,), (first,), (deleted,), (after,), (packed,), (dense,) = run(hub, code, bert)
    assert {PACKED_INDEX, DENSE_INDEX} <= set(before)
    assert len(before) > 8
    assert sorted(after) == ["config.json", DENSE, PACKED]
    assert set(deleted) == set(before) - set(after)
    assert first
    assert packed
    assert dense


def test_a_packed_model_joins_dense_weights_of_somebody_else(hub: Hub, folder: Path) -> None:
    code = """
from huggingface_hub import HfApi
HfApi().create_repo(repo)
HfApi().upload_file(repo_id=repo, path_in_repo="model.safetensors", path_or_fileobj=b"theirs")
says(push(folder, repo, dense=False).deleted, sorted(inspect(repo)["files"]))
says(push(folder, repo, sparse=False).deleted, fails(lambda: inspect(repo)))
says(fails(lambda: push(folder / "nothing", repo)))
"""
    (deleted, files), (gone, told), (missing,) = run(hub, code, folder)
    assert deleted == []
    assert {DENSE, PACKED} <= set(files)
    assert gone == [PACKED]
    assert f"it is dense ({DENSE})" in told
    assert "no such folder" in missing


def test_what_dense_weights_of_somebody_else_need_stays(hub: Hub, folder: Path) -> None:
    """Their configuration is not replaced by that of another model, nor their card by ours."""
    code = """
from huggingface_hub import HfApi
api = HfApi()
def put(name, text):
    api.upload_file(repo_id=repo, path_in_repo=name, path_or_fileobj=text.encode())
def there(name):
    return Path(api.hf_hub_download(repo, name)).read_text()
api.create_repo(repo)
put("model.safetensors", "theirs"); put("README.md", "their card")
put("config.json", '{"model_type": "gpt2"}')
says(fails(lambda: push(folder, repo, dense=False)), there("config.json"))
put("config.json", "{"); says(fails(lambda: push(folder, repo, dense=False)))
own = json.loads((folder / "config.json").read_text())
put("config.json", json.dumps(own | {"transformers_version": "4.0"}))
done = push(folder, repo, dense=False)
says("README.md" in done.upload.files, done.upload.left_out["README.md"], there("README.md"), done.deleted)
says(load(repo).manifest.sparsity > 0)
repo = "someone/ours"
push(folder, repo, sparse=False)
push(folder, repo, dense=False)
says(sorted(inspect(repo)["files"]), "load(" in there("README.md"))
"""
    (told, config), (damaged,), (sent, why, card, deleted), (loads,), (files, fresh) = run(hub, code, folder)
    assert "BadInput: someone/net: its config.json says " in told
    assert json.loads(config) == {"model_type": "gpt2"}
    assert "CheckpointError: someone/net: config.json: expected JSON" in damaged
    assert (sent, why, card, deleted) == (False, "the repository has its own", "their card", [])
    assert loads
    assert fresh
    assert {DENSE, PACKED} <= set(files)


def test_strays_stay_where_they_are(folder: Path, bert: Path, tmp_path: Path) -> None:
    """Of weights only those are sent that are checked: the ones that manifests and the index name."""
    for source in (folder, bert):
        place = tmp_path / source.name
        shutil.copytree(source, place)
        expected = set(plan_push(place, "a/b").files)
        assert expected >= {p.name for p in source.iterdir() if ".safetensors" in p.name}
        (place / "sub").mkdir()
        strays = {"model-00001-of-00077.safetensors", "model.sparse-00001-of-00077.safetensors"}
        strays |= {"ck.safetensors", "sub/model.safetensors", "other.safetensors.index.json"}
        strays |= {PACKED_INDEX, DENSE_INDEX} if source is folder else set()
        for name in strays:
            (place / name).write_bytes(b"junk")
        for dense in (True, False):
            plan = plan_push(place, "a/b", dense=dense)
            assert strays.isdisjoint(plan.files)
            assert strays <= plan.left_out.keys()
            assert not dense or set(plan.files) == expected
        assert plan_push(place, "a/b").left_out["ck.safetensors"] == "weights that are no part of this model"


def test_odd_texts_are_refused_in_one_line(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "x")
    (tmp_path / "x" / "README.md").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"README\.md: expected a text in UTF-8"):
        plan_push(tmp_path / "x", "a/b")
    (tmp_path / "x" / "README.md").unlink()
    (tmp_path / "x" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        plan_push(tmp_path / "x", "a/b", sparse=False)


def test_repositories_are_converted_and_inspected_at_any_revision(
    hub: Hub, bert: Path, tmp_path: Path
) -> None:
    code = f"""
from sigprune import convert
push(folder, repo)
says(*(inspect(ref, verify=True)["verified"]["packed"] for ref in (repo, f"{{repo}}@main")))
convert(f"{{repo}}@main", {str(tmp_path / "dense")!r}, to="dense")
says(fails(lambda: convert(repo, {str(tmp_path / "y")!r}, mask=str(folder))))
"""
    counts, (told,) = run(hub, code, bert)
    assert len(set(counts)) == 1
    assert (tmp_path / "dense" / DENSE).is_file()
    assert "it is packed and has a mask of its own" in told


def test_revisions_and_pull_requests(hub: Hub, folder: Path) -> None:
    code = """
push(folder, repo)
says(push(folder, repo, revision="v2", dense=False).upload.made["README.md"].count("timm.create_model"))
says(sorted(inspect(repo, revision="v2")["files"]))
says(sorted(inspect(f"{repo}@main")["files"]))
says(push(folder, repo, create_pr=True, dense=False).url)
says(load(repo, revision="v2").manifest.sparsity == load(f"{repo}@main").manifest.sparsity)
says(fails(lambda: load(repo, revision="v9")), fails(lambda: inspect(repo, revision="v9")))
"""
    (snippet,), (other,), (main,), (url,), (same,), unknown = run(hub, code, folder)
    assert snippet == 0
    assert DENSE not in other
    assert {DENSE, PACKED} <= set(main)
    assert "/discussions/" in url
    assert same
    assert all("no such branch, tag or commit" in text for text in unknown)


FAULTS = {
    "500 in mid-upload": (("PUT", "*", Fault(status=500)), {"nth": 2, "times": 50}, "push again"),
    "cut in mid-upload": (("PUT", "*", Fault(cut_request=1000)), {"nth": 2, "times": 50}, "push again"),
    "conflict": (("POST", "*/commit/*", Fault(status=409)), {"times": 50}, "changed the branch meanwhile"),
    "too many": (("POST", "*/commit/*", Fault(status=429)), {"times": 50}, "asks to wait"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_push_that_is_cut_off_changes_nothing_and_goes_on(
    hub: Hub, folder: Path, bert: Path, name: str
) -> None:
    fault, how, message = FAULTS[name]
    state = 'says(inspect(repo)["mask"], sorted(inspect(repo)["files"]))'
    (before,) = run(hub, f"push(folder, repo); {state}", bert)
    hub.faults.add(*fault, **how)
    (told,), after = run(hub, f"says(fails(lambda: push(folder, repo))); {state}", folder)
    assert told.startswith("BadInput: someone/net: ")
    assert message in told
    assert after == before
    hub.faults.clear()
    hub.log.clear()
    ((_, files),) = run(hub, f"push(folder, repo); {state}", folder)
    assert {DENSE, PACKED} <= set(files)
    assert len(hub.log.find("PUT", "*")) <= int("upload" in name)  # of two files of weights


def test_refusals_are_one_line(hub: Hub, folder: Path, tmp_path: Path) -> None:
    code = """
says(fails(lambda: push(folder, repo)))
says(fails(lambda: push(folder, "a b")))
says(fails(lambda: pull("someone/nothing", folder.parent / "never")))
"""
    for token, why in ((READ_TOKEN, "may not write"), (None, "no token is set")):
        rows = run(hub, code, folder, token=token)
        assert why in rows[0][0]
        assert "no valid name" in rows[1][0]
        assert "no such repository" in rows[2][0]
        assert all(row[0].startswith(("BadInput", "CheckpointError")) for row in rows)
        assert not any("\n" in row[0] for row in rows)
    assert not (folder.parent / "never").exists()


def test_a_pull_that_is_cut_off_leaves_nothing_and_goes_on(hub: Hub, folder: Path) -> None:
    run(hub, "push(folder, repo)", folder)
    hub.faults.add("GET", f"/cdn/*{PACKED}", Fault(cut_answer=20_000), times=50)
    target = folder.parent / "cut"
    code = f"says(fails(lambda: pull(repo, {str(target)!r})))"
    ((told,),) = run(hub, code, folder)
    assert told.startswith("BadInput: someone/net: ")
    assert not target.exists()
    assert not list(folder.parent.glob(".cut*"))
    hub.faults.clear()
    assert run(hub, code, folder) == [[None]]
    assert (target / PACKED).read_bytes() == (folder / PACKED).read_bytes()


def test_damage_is_not_pushed(hub: Hub, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save(other, *pruned(open_model("timm:test_resnet", args={"num_classes": 5}), 0.5))
    content = bytearray((other / DENSE).read_bytes())
    content[-1] ^= 1
    (other / DENSE).write_bytes(content)
    ((told,),) = run(hub, "says(fails(lambda: push(folder, repo)))", other)
    assert told.startswith("CheckpointError")
    assert "not the tensor that the packed file holds" in told
    assert not hub.log.find("POST", "*")


def test_the_plan_asks_no_network(folder: Path, bert: Path) -> None:
    plan = plan_push(folder, "someone/net", dense=False)
    assert set(plan.files) == {"README.md", "config.json", PACKED}
    assert set(plan.left_out) == {"optimizer.pt", DENSE}
    assert "base_model: timm/test_resnet.r160_in1k" in plan.made["README.md"]
    assert 'load("someone/net")' in plan.made["README.md"]
    config = json.loads(plan_push(bert, "a/b", sparse=False).made["config.json"])
    assert "quantization_config" not in config
    assert "config.json" not in plan_push(bert, "a/b").made
    with pytest.raises(BadInput, match="no model"):
        plan_push(folder, "a/b", dense=False, sparse=False)


def test_a_recipe_pushes_its_folder(hub: Hub, folder: Path, tmp_path: Path) -> None:
    code = f"""
from sigprune import Recipe, run
recipe = {{
    "model": {{"ref": "timm:test_resnet", "args": {{"in_chans": 1}}}},
    "data": {{"source": {{"name": "noise", "examples": 40}}, "size": 32}},
    "prune": {{"batches": 1}}, "isometry": None, "measure": {{"examples": 2}},
    "train": {{"epochs": 0}}, "baselines": [], "push": {{"repo": repo, "dense": False}},
}}
report = run(Recipe.model_validate(recipe), {str(tmp_path / "run")!r})
facts = inspect(repo, verify=True)
says(sorted(facts["files"]), facts["mask"] == report.facts["mask"]["digest"])
recipe["push"] = {{"repo": "stranger/net"}}
says(fails(lambda: run(Recipe.model_validate(recipe), {str(tmp_path / "other")!r})))
"""
    (files, same), (told,) = run(hub, code, folder)
    assert {"README.md", "report.json", "recipe.yaml", "config.json", PACKED} <= set(files)
    assert DENSE not in files
    assert any(name.endswith(".png") for name in files)
    assert same
    assert "may not write" in told
    assert f"the folder is complete: sigprune push {tmp_path / 'other'} stranger/net" in told
    assert (tmp_path / "other" / "report.json").is_file()
