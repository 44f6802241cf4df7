"""``sigprune push``, ``pull`` and ``inspect`` as somebody new meets them, against the tests' Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from sigprune.base.errors import BadInput
from sigprune.checkpoint.conversion import convert
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.save import save
from sigprune.format.names import DENSE, PACKED
from sigprune.hub.upload_plan import plan_push
from sigprune.models.opening import open_model
from tests.checkpoint.test_checkpoint import pruned
from tests.support.hub import INVALID_TOKEN, TOKEN, Hub, client, running

CODE = """
import contextlib, io, json, sys, time
from sigprune.cli.app import main
from tests.support.console import without_progress

time.sleep = lambda seconds: None
for line in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(line.split())
    print(json.dumps([code, out.getvalue(), without_progress(err.getvalue())]))
"""


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: ``runs/both``, ``runs/packed`` and ``runs/dense`` hold one checkpoint."""
    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("home")
    save(home / "runs" / "both", *pruned(open_model("timm:test_resnet", args={"num_classes": 5})))
    convert(home / "runs" / "both", home / "runs" / "packed")
    convert(home / "runs" / "both", home / "runs" / "dense", to="dense")
    return home


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running(tmp_path) as server:
        yield server


def cli(hub: Hub, home: Path, *lines: str, token: str | None = TOKEN, **environment: str) -> list[Said]:
    """What each command said."""
    given = hub.environment | environment | ({"HF_TOKEN": token} if token else {})
    done = client(given, CODE, *lines, folder=home)
    assert done.returncode == 0, done.stderr
    return [Said(*json.loads(line)) for line in done.stdout.splitlines()]


NAMES = {
    "digits": "expected user/repo of letters",
    "a/b/c": "expected user/repo of letters",
    "someone/a--b": "expected user/repo of letters",
    "someone/digits@v1": "name the branch apart: someone/digits --revision v1",
    "someone/digits@": "name the branch apart: someone/digits --revision BRANCH",
}


def test_names_that_are_none_are_refused_before_any_request(hub: Hub, home: Path) -> None:
    lines = [f"push runs/both {name}{dry}" for name in NAMES for dry in ("", " --dry-run")]
    said = cli(hub, home, *lines)
    for name, (real, dry) in zip(NAMES, zip(said[::2], said[1::2], strict=True), strict=True):
        assert real == dry
        assert (real.code, real.out, real.err.count("\n")) == (2, "", 1)
        assert real.err.startswith(f"error: {name}: ")
        assert NAMES[name] in real.err
    assert not hub.log.find("*", "*")


def test_a_push_of_what_is_there_says_that_nothing_changed(hub: Hub, home: Path) -> None:
    line = "push runs/both someone/net"
    first, again, told, asked, other = cli(
        hub, home, line, line, f"{line} --json", f"{line} --create-pr", f"{line} --no-dense --create-pr"
    )
    assert "bytes sent: " in first.out
    for said in (again, asked):
        assert said.code == 0
        assert "nothing changed: someone/net already holds these 4 files" in said.out
        assert "sent" not in said.out
    assert "no pull request was opened" in asked.out
    assert json.loads(told.out)["unchanged"] is True
    assert "/discussions/1" in other.out
    assert len(hub.log.find("POST", "*/commit/*")) == 2


def test_a_dry_run_tells_what_would_be_deleted(hub: Hub, home: Path) -> None:
    line = "push runs/both someone/net --no-sparse"
    _, dry, branch, facts, kept, done = cli(
        hub, home, "push runs/both someone/net", f"{line} --dry-run", f"{line} --revision new --dry-run",
        f"{line} --dry-run --json", "push runs/both someone/net --dry-run", f"{line} --json",
    )  # fmt: skip
    for said in (dry, branch):
        assert f"would delete there: {PACKED} (weights of an earlier push)" in said.out
    assert json.loads(facts.out)["would_delete"] == [PACKED] == json.loads(done.out)["deleted"]
    assert "delete" not in kept.out
    assert len(hub.log.find("POST", "*/commit/*")) == 2
    assert not hub.log.find("POST", "*/branch/*")


def test_a_dry_run_says_why_it_does_not_know(hub: Hub, home: Path) -> None:
    line = "push runs/both someone/new --dry-run"
    said, facts = cli(hub, home, line, f"{line} --json")
    assert said.code == 0
    assert "not known what would be deleted there: someone/new: no such repository on" in said.out
    assert "would be sent to someone/new" in said.out
    assert json.loads(facts.out)["would_delete"] is None
    assert "no such repository" in json.loads(facts.out)["not_known"]
    (offline,) = cli(hub, home, line, HF_HUB_OFFLINE="1")
    assert "not known what would be deleted there: someone/new: HF_HUB_OFFLINE is set" in offline.out
    assert not hub.log.find("POST", "*")


def test_who_asks_is_told_what_is_missing(hub: Hub, home: Path) -> None:
    line = "push runs/both someone/net"
    (said,) = cli(hub, home, line, token=None)
    assert said.err == "error: someone/net: no token is set; set HF_TOKEN or log in (hf auth login)\n"
    (said,) = cli(hub, home, line, token=INVALID_TOKEN)
    assert said.err.endswith("does not know the token in use; set HF_TOKEN or log in (hf auth login)\n")


def test_what_was_never_sent_is_not_called_cut_off(hub: Hub, home: Path) -> None:
    line = "push runs/both someone/net"
    (said,) = cli(hub, home, line, HF_HUB_OFFLINE="1")
    assert said.err == "error: someone/net: HF_HUB_OFFLINE is set; unset it to push\n"
    (said,) = cli(hub, home, line, HF_ENDPOINT="http://127.0.0.1:1")
    assert said.err.startswith("error: someone/net: cannot reach http://127.0.0.1:1 (")
    assert said.err.endswith("nothing was sent, check network and HF_ENDPOINT\n")


def test_a_packed_folder_is_sent_as_it_is(hub: Hub, home: Path) -> None:
    first, told, only, wanted = cli(
        hub, home, "push runs/both someone/net", "push runs/packed someone/net",
        "push runs/packed someone/net --no-sparse", "push runs/packed someone/net --dense",
    )  # fmt: skip
    assert (first.code, told.code, only.code, wanted.code) == (0, 0, 2, 2)
    makes = "`sigprune convert runs/packed NEW --to both` makes it"
    assert f"left out: {DENSE} (not in the folder; {makes})" in told.out
    assert f"deleted there: {DENSE}" in told.out
    assert f"no {DENSE}, and without the packed model nothing is left to send; {makes}" in only.err
    assert f"no {DENSE}; {makes}" in wanted.err


def test_the_card_of_a_packed_folder_shows_no_dense_file(home: Path) -> None:
    card = plan_push(home / "runs" / "packed", "someone/net").made["README.md"]
    assert "timm.create_model" not in card
    assert "left_out" not in card
    assert DENSE not in plan_push(home / "runs" / "packed", "someone/net", dense=False).left_out
    with pytest.raises(BadInput, match="expected user/repo"):
        plan_push(home / "runs" / "packed", "net")


def test_a_mistyped_folder_is_said_to_be_none(hub: Hub, home: Path) -> None:
    typed, pushed, far, named = cli(
        hub, home, "inspect runs/bth", "push runs/bth someone/net", "inspect elsewhere/net",
        "inspect elsewhere/net@v1",
    )  # fmt: skip
    near = "runs/bth: no such folder (did you mean runs/both?); "
    assert near + "on the Hub: no such repository on http://127.0.0.1:" in typed.err
    assert near + "expected one that sigprune wrote\n" in pushed.err
    assert "elsewhere/net: no such folder; on the Hub: no such repository" in far.err
    assert named.err.startswith("error: elsewhere/net: no such repository on ")


def test_pull_of_a_folder(hub: Hub, home: Path) -> None:
    here, none = cli(hub, home, "pull runs/both new", "pull both new")
    wanted = "expected a repository user/repo[@revision]"
    assert here.err == f"error: runs/both: {wanted}, got a folder here, which need not be fetched\n"
    assert none.err == f"error: both: {wanted}\n"
    assert not hub.log.find("*", "*")
    assert not (home / "new").exists()


LOAD = """
from sigprune import load
for ref in ("runs/dense", "someone/net", "runs/bth"):
    try:
        load(ref)
    except ValueError as error:
        print(error)
"""


def test_dense_weights_are_said_to_be_dense(hub: Hub, home: Path, tmp_path: Path) -> None:
    """In a folder and in a repository, in whatever way they are met; the advice can be followed."""
    there = tmp_path / "models" / "someone"
    shutil.copytree(home / "runs" / "dense", there / "net")
    (there / "empty").mkdir()
    (there / "empty" / "README.md").write_text("nothing")
    local = ("inspect runs/dense", "push runs/dense someone/new", "push runs/dense someone/new --no-sparse")
    remote = ("inspect someone/net", "pull someone/net new", "inspect someone/empty")
    said = cli(hub, home, *local, *remote, f"convert someone/net {tmp_path / 'packed'}")
    assert [one.code for one in said] == [2] * 6 + [0]
    loaded = client(hub.environment, LOAD, folder=home).stdout.splitlines()
    advice = "{0}: it is dense ({1}) and holds no packed model; `sigprune convert {0} NEW` packs it"
    for place, found in [("runs/dense", [*said[:3], loaded[0]]), ("someone/net", [*said[3:5], loaded[1]])]:
        for one in found:
            assert advice.format(place, DENSE) in (one if isinstance(one, str) else one.err)
    assert "someone/empty: it holds neither model.sparse.safetensors nor" in said[5].err
    assert loaded[2].startswith("runs/bth: no such folder (did you mean runs/both?); on the Hub: no such rep")


def test_inspect_shows_where_a_checkpoint_comes_from(hub: Hub, home: Path, tmp_path: Path) -> None:
    prune_files(home / "runs" / "dense", tmp_path / "net", sparsity=0.5, exclude=("head",))
    (said,) = cli(hub, home, f"inspect {tmp_path / 'net'}")
    shown = [line.split(maxsplit=1) for line in said.out.partition("provenance")[2].splitlines()]
    assert {"score": "magnitude", "sparsity": "0.5", "source": "dense", "exclude": "head"}.items() <= dict(
        line for line in shown if len(line) == 2
    ).items()
    card = plan_push(tmp_path / "net", "someone/net").made["README.md"]
    assert "- score: `magnitude`\n" in card
    assert "- left alone were: `head`\n" in card
