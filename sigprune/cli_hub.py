"""The commands that talk to the Hub: push and pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sigprune.cli_options import AsJson, Quiet, Revision


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder that run, prune or convert wrote")],
    repo: Annotated[str, typer.Argument(metavar="USER/REPO", help="repository; it is made if need be")],
    *,
    private: Annotated[bool, typer.Option("--private", help="a repository that is made is private")] = False,
    revision: Revision = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="open a pull request instead")] = False,
    dense: Annotated[bool, typer.Option("--dense/--no-dense", help="send model.safetensors")] = True,
    sparse: Annotated[bool, typer.Option("--sparse/--no-sparse", help="send the packed model")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be sent")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a checkpoint to the Hub in one commit; what arrived before a cut is not sent again."""
    from sigprune.cli_tables import console, print_json, print_rows
    from sigprune.effects.hub import Pushed, plan_push
    from sigprune.effects.hub import push as send

    plan = plan_push(folder, repo, dense=dense, sparse=sparse)
    done = (
        None
        if dry_run
        else send(
            folder, repo, private=private, revision=revision, create_pr=create_pr, dense=dense, sparse=sparse
        )
    )
    deleted = list(done.deleted) if isinstance(done, Pushed) else []
    if as_json:
        facts = {"files": dict(plan.files), "left_out": dict(plan.left_out), "deleted": deleted}
        print_json(facts | ({"url": done.url, "commit": done.commit} if done else {}))
        return
    print_rows(console(), [{"file": name, "bytes": size} for name, size in plan.files.items()])
    for name, why in plan.left_out.items():
        console().print(f"left out: {name} ({why})")
    for name in deleted:
        console().print(f"deleted there: {name} (weights of an earlier push)")
    total = f"{len(plan.files)} files, {sum(plan.files.values()):,} bytes"
    console().print(f"\n{total} sent: {done.url}" if done else f"\n{total} would be sent to {repo}")


def pull(
    ref: Annotated[str, typer.Argument(metavar="USER/REPO[@REV]", help="repository")],
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="new folder (the repo's name)")] = None,
    *,
    revision: Revision = None,
    dense: Annotated[bool, typer.Option("--dense", help="fetch model.safetensors too")] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a checkpoint from the Hub into a new folder, every bit checked."""
    from sigprune.cli_progress import watch
    from sigprune.cli_tables import console
    from sigprune.effects.hub import pull as receive

    with watch(quiet=quiet).step(f"fetch {ref}"):
        found = receive(ref, folder, revision=revision, dense=dense)
    console().print(f"{found}: every bit checked; `sigprune inspect {found}` shows it")
