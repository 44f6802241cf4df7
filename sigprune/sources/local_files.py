"""Files of a local folder: what a folder holds is read, what it merely points at elsewhere is not.

A folder comes from anybody. A link in it may name a private key or a file without end, and what is read is
copied, pushed or quoted. So links are followed only inside the folder, and into the cache of the Hub, whose
snapshots consist of links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sigprune.base.errors import CheckpointError


@dataclass(frozen=True)
class Listing:
    """The files of a folder and of the folders in it.

    Attributes:
        files: path in the folder -> bytes.
        refused: path in the folder -> why it is not read: a link elsewhere or to a folder, a pipe, a device.
    """

    files: Mapping[str, int]
    refused: Mapping[str, str]


def file_in(folder: Path, name: str) -> Path | None:
    """The file of this name in the folder; None if there is none.

    Raises:
        CheckpointError: it is a link out of the folder, or no regular file.
    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    reason = _reason_to_refuse(folder, path)
    if reason is not None:
        raise CheckpointError(
            f"{path}: {reason}; expected a file, or a link inside the folder or into the Hub cache: put a "
            "copy of the file there"
        )
    return path


def files_in(folder: Path) -> Listing:
    """All files below the folder, in the order of their names; no link to a folder is followed."""
    files: dict[str, int] = {}
    refused: dict[str, str] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        for path in (Path(place) / name for name in sorted([*names, *linked])):
            name, reason = path.relative_to(folder).as_posix(), _reason_to_refuse(folder, path)
            if reason is None:
                files[name] = path.stat().st_size
            else:
                refused[name] = reason
    return Listing(dict(sorted(files.items())), dict(sorted(refused.items())))


def _reason_to_refuse(folder: Path, path: Path) -> str | None:
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
    except PermissionError:
        return "not readable"
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        return "a link that leads nowhere"
    if not target.is_relative_to(folder.resolve()) and not _in_cache(target):
        return f"a link out of its folder, to {target}"
    if stat.S_ISDIR(mode):
        return "a link to a folder" if path.is_symlink() else "a folder"
    return None if stat.S_ISREG(mode) else "a pipe, socket or device"


def _in_cache(target: Path) -> bool:
    from huggingface_hub import constants

    return target.is_relative_to(Path(constants.HF_HUB_CACHE).resolve())
