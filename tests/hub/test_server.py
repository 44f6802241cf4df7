"""The Hub of the tests, judged by huggingface_hub: uploads, history, revisions, rights, headers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support.hub import INVALID_TOKEN, READ_TOKEN, STRANGER_TOKEN, TOKEN, client, running
from tests.support.hub.scripts import START, run


def weights(folder: Path, count: int = 50_000) -> Path:
    """A folder to push: a safetensors file, a card, an empty file in a folder."""
    (folder / "sub").mkdir(parents=True)
    save_file({"w": np.arange(count, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "README.md").write_text("---\ntags: [x]\nlibrary_name: timm\n---\nA card.\n")
    (folder / "sub" / "empty.txt").write_text("")
    return folder


PUSH = """
says(api.create_repo(repo).repo_id, fails(lambda: api.create_repo(repo)))
says(api.create_repo(repo, exist_ok=True))
first = api.upload_folder(repo_id=repo, folder_path=folder)
again = api.upload_folder(repo_id=repo, folder_path=folder)
says(first.oid == again.oid == api.model_info(repo).sha, [c.title for c in api.list_repo_commits(repo)])
says(sorted(api.list_repo_files(repo)), api.model_info(repo).tags)
local = Path(snapshot_download(repo))
says([p for p in folder.rglob("*.*") if (local / p.relative_to(folder)).read_bytes() != p.read_bytes()])
info = {f.path: f for f in api.get_paths_info(repo, ["model.safetensors", "sub", "none"])}
lfs = info["model.safetensors"].lfs
says(sorted(info), lfs.size == (folder / "model.safetensors").stat().st_size, lfs.sha256)
url = hf_hub_url(repo, "model.safetensors")
says(get_hf_file_metadata(url).etag == lfs.sha256, get_hf_file_metadata(url).size == lfs.size)
says([entry.path for entry in api.list_repo_tree(repo)])
"""


def test_a_folder_is_pushed_in_one_commit(tmp_path):
    folder = weights(tmp_path / "push")
    with running(tmp_path) as hub:
        created, known, pushed, listed, same, paths, meta, top = run(hub, PUSH, folder)
        path = "/api/models/someone/net/commit/main"
        assert [e.path for e in hub.log.find("POST", "*/commit/*")] == [path]
        (put,) = hub.log.find("PUT")
    assert (created, known) == (["someone/net", ["HfHubHTTPError", 409]], [f"{hub.address}/someone/net"])
    assert pushed == [True, ["Upload folder using huggingface_hub", "initial commit"]]
    assert listed == [[".gitattributes", "README.md", "model.safetensors", "sub/empty.txt"], ["timm", "x"]]
    assert same == [[]]
    assert paths[:2] == [["model.safetensors", "sub"], True]
    assert (put.path.split("/")[-2], put.token) == (paths[2], None)
    assert put.received == (folder / "model.safetensors").stat().st_size
    assert meta == [True, True]
    assert top == [[".gitattributes", "README.md", "model.safetensors", "sub"]]


HISTORY = """
api.create_repo(repo)
one, two = commit(text("1")).oid, commit(text("2"), text("b", "d/b.txt")).oid
api.create_tag(repo, tag="v1", revision=one)
api.create_branch(repo, branch="dev/x", revision=one)
three = commit(text("3"), revision="dev/x").oid
says([read("a.txt", at) for at in (None, one, two, "v1", "dev/x", one[:9])])
etags = [get_hf_file_metadata(hf_hub_url(repo, "a.txt", revision=at)) for at in (one, "v1", two)]
says([e.commit_hash for e in etags] == [one, one, two], etags[0].etag == etags[1].etag != etags[2].etag)
refs = api.list_repo_refs(repo)
refs = {ref.name: ref.target_commit for ref in refs.branches + refs.tags}
says(refs == {"main": two, "dev/x": three, "v1": one})
says([c.commit_id for c in api.list_repo_commits(repo)][:2] == [two, one])
says([fails(lambda: api.create_tag(repo, tag="v1")), fails(lambda: api.create_branch(repo, branch="dev/x"))])
says([fails(lambda: read("a.txt", "v9")), fails(lambda: read("none.txt"))])
says(fails(lambda: commit(text("4"), revision="v1")))
says(fails(lambda: commit(text("4"), parent_commit=one)), commit(text("4"), parent_commit=two).oid != two)
# files come and go, and one refused line refuses the commit
copies = CommitOperationCopy("a.txt", "c/a.txt"), CommitOperationCopy("d/b.txt", "e.txt", src_revision=two)
commit(*copies, CommitOperationDelete("d/"))
says(api.list_repo_files(repo), read("c/a.txt"))
says(fails(lambda: commit(text("5"), CommitOperationDelete("none.txt"))), read("a.txt"))
says(fails(lambda: commit(text("---\\na: [\\n---", "README.md"))))
api.delete_tag(repo, tag="v1"), api.delete_branch(repo, branch="dev/x")
says(fails(lambda: read("a.txt", "v1", force_download=True)), read("a.txt", one, force_download=True))
api.delete_repo(repo)
says(api.repo_exists(repo), fails(lambda: commit(text("6"))))
"""


def test_revisions_stay_what_they_were(tmp_path):
    with running(tmp_path) as hub:
        said = run(hub, HISTORY, tmp_path)
    revision, entry, taken = (
        ["RevisionNotFoundError", 404],
        ["RemoteEntryNotFoundError", 404],
        "HfHubHTTPError",
    )
    assert said[:4] == [[["2", "1", "2", "1", "3", "1"]], [True, True], [True], [True]]
    assert said[4:6] == [[[[taken, 409], [taken, 409]]], [[revision, entry]]]
    assert said[6:8] == [[["BadRequestError", 400]], [[taken, 412], True]]
    assert said[8:10] == [[[".gitattributes", "a.txt", "c/a.txt", "e.txt"], "4"], [entry, "4"]]
    assert said[10][0][0] == "ValueError"
    assert "YAML Error" in said[10][0][1]
    assert said[11:] == [[revision, "1"], [False, ["RepositoryNotFoundError", 404]]]


PULLS = """
base = api.create_repo(repo) and commit(text("1"), text("x", "b.txt")).oid
pull = commit(text("2"), create_pr=True)
status = lambda: api.get_discussion_details(repo, 1).status
says(pull.pr_revision, read("a.txt"), read("a.txt", pull.pr_revision), status())
commit(text("y", "b.txt"), revision=pull.pr_revision)
commit(text("z", "c.txt"))
api.merge_pull_request(repo, 1)
says([read(name) for name in ("a.txt", "b.txt", "c.txt")], status())
late = api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id=repo, create_pr=True)
commit(text("4"))
says(late.pr_num, fails(lambda: api.merge_pull_request(repo, late.pr_num)))
says(api.create_pull_request(repo, title="a draft").git_reference)
says([ref.ref for ref in api.list_repo_refs(repo, include_pull_requests=True).pull_requests])
"""


def test_pull_requests(tmp_path):
    with running(tmp_path) as hub:
        opened, merged, late, draft, refs = run(hub, PULLS, tmp_path)
    assert opened == ["refs/pr/1", "1", "2", "open"]
    assert merged == [["2", "y", "z"], "merged"]
    assert late == [2, ["HfHubHTTPError", 409]]
    assert draft == ["refs/pr/3"]
    assert refs == [["refs/pr/1", "refs/pr/2", "refs/pr/3"]]


RIGHTS = """
api.create_repo(repo), api.create_repo("someone/own", private=True), api.create_repo("someone/door")
api.update_repo_settings("someone/door", gated="auto")
for name in (repo, "someone/own", "someone/door"):
    api.create_commit(name, [text("1")], commit_message="a file")
for at, token in enumerate(json.loads(sys.argv[1])):
    as_him = {"token": token or False}
    says(
        fails(lambda: api.create_repo(f"someone/{at}", **as_him)),
        fails(lambda: commit(text(str(at)), **as_him)),
        fails(lambda: commit(text(str(at)), create_pr=True, **as_him)),
        fails(lambda: api.model_info("someone/own", **as_him)),
        fails(lambda: get_hf_file_metadata(hf_hub_url("someone/door", "a.txt"), **as_him)),
        fails(lambda: api.model_info("someone/door", **as_him)),
        fails(lambda: api.model_info("someone/none", **as_him)),
    )
says(fails(lambda: api.create_repo("stranger/1")), fails(lambda: api.whoami(token="hf_invalid")))
says(api.whoami()["name"], api.whoami(token=json.loads(sys.argv[1])[1])["auth"]["accessToken"]["role"])
"""


def test_who_may_do_what(tmp_path):
    tokens = json.dumps([None, READ_TOKEN, STRANGER_TOKEN, TOKEN, INVALID_TOKEN])
    with running(tmp_path) as hub:
        done = client(hub.environment | {"HF_TOKEN": TOKEN}, START + RIGHTS, tokens)
    assert done.returncode == 0, done.stderr
    nobody, reader, stranger, owner, invalid, *rest = map(json.loads, done.stdout.splitlines())
    denied, hidden, gated = ["HfHubHTTPError", 403], "RepositoryNotFoundError", "GatedRepoError"
    login = ["HfHubHTTPError", 401]
    assert nobody == [login, login, login, [hidden, 401], [gated, 401], None, [hidden, 401]]
    assert reader == [denied, denied, denied, None, None, None, [hidden, 404]]
    assert stranger == [denied, denied, None, [hidden, 404], [gated, 403], None, [hidden, 404]]
    assert owner == [None, None, None, None, None, None, [hidden, 404]]
    assert [status for _, status in invalid] == [401] * 7
    assert rest == [[denied, login], ["someone", "read"]]


HEADERS = """
api.create_repo(repo)
api.upload_folder(repo_id=repo, folder_path=folder)
found = api.get_safetensors_metadata(repo)
says(found.sharded, found.files_metadata["model.safetensors"].tensors["w"].shape)
"""


def test_headers_are_read_without_the_weights(tmp_path):
    with running(tmp_path) as hub:
        (said,) = run(hub, HEADERS, weights(tmp_path / "push"))
        asked = hub.log.find("GET", "/cdn/*/model.safetensors")
    assert said == [False, [50_000]]
    assert [(e.range, e.status, e.sent, e.token) for e in asked] == [("bytes=0-100000", 206, 100_001, None)]
