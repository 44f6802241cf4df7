"""Files of Hub repositories through the local cache, and what can go wrong on the way, each in one line.

``HF_HUB_OFFLINE``, ``HF_TOKEN`` (or a stored login), ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_CACHE`` hold
as huggingface_hub reads them.
"""

from __future__ import annotations

import errno
import re
from http import HTTPStatus
from pathlib import Path

from sigprune.base.errors import BadInput, one_line

_COMMIT = re.compile("[0-9a-f]{40}")
_NO_NAME = "no valid name of a repository; expected user/repo of letters, digits and single . _ -"


def check_name(repository: str) -> None:
    """Make sure that it is ``user/repo``, as the Hub takes it, without a revision; no network is asked.

    Raises:
        BadInput: it is not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    name, at, revision = repository.partition("@")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise BadInput(f"{repository}: {_NO_NAME}") from error
    if "/" not in name:  # the Hub's client would put it under the account of the token
        raise BadInput(f"{repository}: {_NO_NAME}")
    if at:
        raise BadInput(
            f"{repository}: expected user/repo without a revision; name the branch apart: {name} "
            f"--revision {revision or 'BRANCH'}"
        )


def fetch(repository: str, file: str, revision: str | None, place: str) -> Path | None:
    """Where the file lies in the cache, fetched if need be; None if the repository has no such file.

    What the cache knows of a commit is not asked again.

    Args:
        repository: ``user/repo``.
        file: its name in there.
        revision: branch, tag or commit; None is ``main``.
        place: what messages call the repository.

    Raises:
        BadInput: the file may be there, and cannot be had.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        if revision and _COMMIT.fullmatch(revision):
            known = try_to_load_from_cache(repository, file, revision=revision)
            if known is not None:  # its path, or the mark of a file that is known not to exist
                return Path(known) if isinstance(known, str) else None
        return Path(hf_hub_download(repository, file, revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:  # connections, disks and names raise errors of three libraries
        raise BadInput(f"{place}: {_reason(error, repository, file)}") from error


def listing(repository: str, revision: str | None, place: str) -> tuple[str, dict[str, int]]:
    """The commit that a revision names, and its files with their bytes; no file is fetched.

    Raises:
        BadInput: the repository cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    except Exception as error:  # as in fetch
        raise BadInput(f"{place}: {_reason(error, repository, 'its list of files')}") from error
    return str(info.sha), {file.rfilename: int(file.size or 0) for file in info.siblings or ()}


def offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def file_metadata(repository: str, file: str, revision: str | None, place: str) -> dict[str, str]:
    """The metadata of a safetensors file, by requests for ranges: of the file only its header is fetched.

    Raises:
        BadInput: the file cannot be reached, or is no safetensors file.
    """
    from huggingface_hub import HfApi

    try:
        header = HfApi().parse_safetensors_file_metadata(repository, file, revision=revision)
    except Exception as error:  # as in fetch, and those of a damaged header
        raise BadInput(f"{place}: {_reason(error, repository, file)}") from error
    return dict(header.metadata)


def _reason(error: Exception, repository: str, file: str) -> str:
    """What was expected, what was got, and what to do next."""
    from huggingface_hub import constants, errors, get_token

    unreached = isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception)
    cause = error.__cause__ if unreached else error
    hub, uncached = constants.ENDPOINT, f"{file} is not in the cache ({constants.HF_HUB_CACHE})"
    token = "the token in use does not open it" if get_token() else "no token is set"
    known = {
        errors.GatedRepoError: f"a gated repository, and {token}; accept its terms on {hub}/{repository}, "
        "and set HF_TOKEN to a token of that account",
        errors.RepositoryNotFoundError: f"no such repository on {hub}, or a private one, and {token}; "
        "check the name, and set HF_TOKEN if it is private",
        errors.RevisionNotFoundError: "there is no such branch, tag or commit; "
        f"{hub}/{repository}/tree/main lists them",
        errors.OfflineModeIsEnabled: f"HF_HUB_OFFLINE is set, and {uncached}; "
        "unset it to fetch the file, or name a local folder",
        errors.HFValidationError: _NO_NAME,
    }
    for kind, text in known.items():
        if isinstance(cause, kind):
            return text
    if isinstance(cause, errors.HfHubHTTPError):
        return f"{hub} answered {_answer(cause.response.status_code)}, and {uncached}; {_next(cause)}"
    if unreached:
        return (
            f"cannot reach {hub} ({one_line(cause or error)}), and {uncached}; check network and HF_ENDPOINT"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        cache = constants.HF_HUB_CACHE
        return f"no space left for {file} in the cache ({cache}); make room, or set HF_HUB_CACHE"
    return f"cannot fetch {file} from {hub}: {one_line(error)}"


def _answer(status: int) -> str:
    known = {code.value: code.phrase for code in HTTPStatus}
    return f"{status} {known.get(status, '')}".strip()


def _next(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    refused = isinstance(error, HfHubHTTPError) and error.response.status_code in {401, 403}
    return "check HF_TOKEN, and what it may read" if refused else "try again later"
