"""Client code for tests: a beginning that all scripts share, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.hub import TOKEN, Hub, client

START = """
import json, sys, time
from pathlib import Path
from huggingface_hub import *
from huggingface_hub import errors

time.sleep = lambda seconds: None  # between the tries
api, repo, folder = HfApi(), "someone/net", Path(sys.argv[-1])

def says(*values):
    print(json.dumps(values))

def fails(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, getattr(getattr(error, "response", None), "status_code", str(error))]

def read(name, revision=None, **options):
    return Path(api.hf_hub_download(repo, name, revision=revision, **options)).read_bytes().decode()

def text(value, path="a.txt"):
    return CommitOperationAdd(path, value.encode())

def commit(*operations, **options):
    return api.create_commit(repo, list(operations), commit_message="change", **options)
"""


def run(hub: Hub, code: str, folder: Path, token: str | None = TOKEN) -> list:
    """What the client says, line by line."""
    given = {"HF_TOKEN": token} if token else {}
    done = client(hub.environment | given, START + code, str(folder))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
