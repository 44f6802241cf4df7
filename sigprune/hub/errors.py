"""What the Hub refuses a push, each in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sigprune.base.errors import BadInput, one_line


@contextmanager
def telling(repo: str, *, sending: bool) -> Iterator[None]:
    """Errors of the block as :class:`BadInput`.

    Args:
        repo: what messages begin with.
        sending: files are on their way; else the block only prepares for them.

    Raises:
        BadInput: something in the block did not succeed.
    """
    from huggingface_hub import constants

    try:
        yield
    except Exception as error:  # connections and disks raise errors of three libraries
        raise BadInput(f"{repo}: {_refusal(error, repo, constants.ENDPOINT, sending=sending)}") from error


def _refusal(error: Exception, repo: str, hub: str, *, sending: bool) -> str:
    from huggingface_hub import errors, get_token

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to push"
    if not isinstance(error, errors.HfHubHTTPError):
        if not sending:
            return f"cannot reach {hub} ({one_line(error)}); nothing was sent, check network and HF_ENDPOINT"
        return (
            f"the upload to {hub} was cut off ({one_line(error)}); nothing was committed, push again: what "
            "arrived is not sent again"
        )
    status = error.response.status_code
    if status in {401, 403, 404} and not get_token():
        return "no token is set; set HF_TOKEN or log in (hf auth login)"
    known = {
        401: f"{hub} does not know the token in use; set HF_TOKEN or log in (hf auth login)",
        403: f"the token in use may not write to {repo}; set HF_TOKEN to one with write access, or open a "
        "pull request (--create-pr)",
        404: f"{hub} has no such repository, or it is private and the token in use does not open it",
        409: "somebody else changed the branch meanwhile; nothing was committed, push again",
        412: "somebody else changed the branch meanwhile; nothing was committed, push again",
        429: f"{hub} asks to wait; nothing was committed, push again later",
    }
    why = known.get(status, f"{hub} answered {status}; nothing was committed, push again later")
    return f"{why} ({one_line(error)})" if status not in known else why
