"""The commands that talk to the Hub: push and pull."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sigprune.base.errors import BadInput
from sigprune.cli.options import AsJson, Quiet, Revision

if TYPE_CHECKING:
    from sigprune.hub.push_pull import Pushed
    from sigprune.hub.upload_plan import Upload


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder that run, prune or convert wrote")],
    repo: Annotated[str, typer.Argument(metavar="USER/REPO", help="repository; it is made if need be")],
    *,
    private: Annotated[bool, typer.Option("--private", help="a repository that is made is private")] = False,
    revision: Revision = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="open a pull request instead")] = False,
    dense: Annotated[
        bool | None, typer.Option("--dense/--no-dense", help="send model.safetensors (if it is there)")
    ] = None,
    sparse: Annotated[bool, typer.Option("--sparse/--no-sparse", help="send the packed model")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be sent and deleted")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a checkpoint to the Hub in one commit; what arrived before a cut is not sent again."""
    from sigprune.cli.console import console, print_json
    from sigprune.hub.push_pull import push as send
    from sigprune.hub.upload_plan import plan_push
    from sigprune.propagation.emptied import EmptiedWeights

    plan = plan_push(folder, repo, dense=dense, sparse=sparse)
    if dry_run:
        to_delete, why = _would_delete(plan, repo, revision, create_pr=create_pr)
        if as_json:
            unknown = {} if why is None else {"not_known": why}
            print_json({**_facts(plan), "would_delete": to_delete} | unknown)
            return
        _print_plan(plan)
        for name in to_delete or ():
            console().print(f"would delete there: {name} (weights of an earlier push)")
        if why is not None:
            console().print(f"not known what would be deleted there: {why}")
        console().print(f"\n{_total(plan)} would be sent to {repo}")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptiedWeights)  # printed, or in the JSON
        done = send(
            folder, repo, private=private, revision=revision, create_pr=create_pr, dense=dense, sparse=sparse
        )
    plan = done.upload  # beside somebody's dense weights, their card stays
    if as_json:
        outcome = {"deleted": list(done.deleted), "unchanged": done.unchanged}
        print_json(_facts(plan) | outcome | {"url": done.url, "commit": done.commit})
        return
    _print_plan(plan)
    for name in done.deleted:
        console().print(f"deleted there: {name} (weights of an earlier push)")
    console().print(f"\n{_outcome(done, repo, create_pr=create_pr)}")


def _would_delete(
    plan: Upload, repo: str, revision: str | None, *, create_pr: bool
) -> tuple[list[str] | None, str | None]:
    """What a push would delete; or None, and why that is not known."""
    from sigprune.hub.push_pull import would_delete

    try:
        return list(would_delete(plan, repo, revision=revision, create_pr=create_pr)), None
    except BadInput as error:
        return None, str(error)


def _outcome(done: Pushed, repo: str, *, create_pr: bool) -> str:
    if not done.unchanged:
        return f"{_total(done.upload)} sent: {done.url}"
    opened = "; no pull request was opened" if create_pr else ""
    return f"nothing changed: {repo} already holds these {_total(done.upload)}{opened} ({done.url})"


def _facts(plan: Upload) -> dict[str, object]:
    warned = {"warnings": list(plan.warnings)} if plan.warnings else {}
    return {"files": dict(plan.files), "left_out": dict(plan.left_out)} | warned


def _total(plan: Upload) -> str:
    return f"{len(plan.files)} files, {sum(plan.files.values()):,} bytes"


def _print_plan(plan: Upload) -> None:
    from sigprune.cli.console import console, print_rows

    print_rows(console(), [{"file": name, "bytes": size} for name, size in plan.files.items()])
    for name, why in plan.left_out.items():
        console().print(f"left out: {name} ({why})")
    for line in plan.warnings:
        console().print(line, style="yellow")


def pull(
    ref: Annotated[str, typer.Argument(metavar="USER/REPO[@REV]", help="repository")],
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="new folder (the repo's name)")] = None,
    *,
    revision: Revision = None,
    dense: Annotated[bool, typer.Option("--dense", help="fetch model.safetensors too")] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a checkpoint from the Hub into a new folder, every bit checked."""
    from sigprune.cli.console import console
    from sigprune.cli.progress import watch
    from sigprune.hub.push_pull import pull as receive

    with watch(quiet=quiet).step(f"fetch {ref}"):
        found = receive(ref, folder, revision=revision, dense=dense)
    console().print(f"{found}: every bit checked; `sigprune inspect {found}` shows it")
