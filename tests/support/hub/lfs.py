"""Large files: the batch request, and the storage that takes them, whole or in parts."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.hub.access import need_owner, need_writer
from tests.support.hub.reading import need_no_token
from tests.support.hub.store import Repo, Store
from tests.support.hub.wire import Answer, Refused, Request, as_json

STORAGE = "storage"


@dataclass
class Transfers:
    """Signed addresses: ``storage/KIND/USER/REPO/SHA256/NUMBER[/PART]``; PUT sends, POST completes.

    Files over ``part_bytes`` go in parts.
    """

    store: Store
    part_bytes: int = 64 * 2**20
    issued: int = 0

    def batch(self, repo: Repo, request: Request) -> Answer:
        """``POST /user/repo.git/info/lfs/objects/batch``: where to send what is not there yet."""
        body = request.json()
        # the npm client writes sha_256
        if body.get("operation") != "upload" or body.get("hash_algo", "sha256") not in {"sha256", "sha_256"}:
            raise Refused(422, "only uploads by SHA-256 are served")
        if "ref" in body:
            need_owner(request.account, repo.name)
        else:
            need_writer(request.account)  # anybody may propose a pull request
        multipart = "multipart" in body.get("transfers", [])
        objects = [self._place(repo, request, item, multipart) for item in body["objects"]]
        return as_json({"transfer": "multipart" if multipart else "basic", "objects": objects})

    def _place(self, repo: Repo, request: Request, item: dict, multipart: bool) -> dict[str, object]:
        oid, size = item["oid"], item["size"]
        found: dict[str, object] = {"oid": oid, "size": size, "authenticated": True}
        if not re.fullmatch("[0-9a-f]{64}", str(oid)) or not isinstance(size, int) or size < 0:
            return {"oid": str(oid), "size": 0, "error": {"code": 422, "message": "no SHA-256 or no size"}}
        if oid in repo.objects:
            return found
        self.issued += 1
        origin, prefix = f"http://{request.host}", "" if repo.kind == "models" else f"{repo.kind}/"
        href = f"{origin}/{STORAGE}/{repo.kind}/{repo.name}/{oid}/{self.issued}"
        header = {}
        if multipart and size > self.part_bytes:
            count = -(-size // self.part_bytes)
            header = {str(part): f"{href}/{part}" for part in range(1, count + 1)}
            header["chunk_size"] = str(self.part_bytes)
        verify = {"href": f"{origin}/{prefix}{repo.name}.git/info/lfs/objects/verify"}
        return found | {"actions": {"upload": {"href": href, "header": header}, "verify": verify}}

    def verify(self, repo: Repo, request: Request) -> Answer:
        """``POST /user/repo.git/info/lfs/objects/verify``."""
        need_writer(request.account)
        body = request.json()
        path = self.store.path(body["oid"])
        if body["oid"] not in repo.objects or path.stat().st_size != body["size"]:
            raise Refused(404, f"the object {body['oid']} was not uploaded, or has another size")
        return as_json({})

    def put(self, request: Request) -> Answer:
        """``PUT`` of a whole object, or of a part."""
        repo, oid, number, part = self._address(request)
        path = self._part(oid, number, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(request.body, file)
        if not part:
            self._keep(repo, path, oid)
            return Answer(200, b"", {"ETag": f'"{oid}"'})
        return Answer(200, b"", {"ETag": f'"{_digest(path)}"'})

    def complete(self, request: Request) -> Answer:
        """``POST`` after the parts."""
        repo, oid, number, _ = self._address(request)
        named = sorted((part["partNumber"], part["etag"].strip('"')) for part in request.json()["parts"])
        path = self._part(oid, number, "")
        with path.open("wb") as file:
            for part, etag in named:
                piece = self._part(oid, number, str(part))
                if not piece.is_file() or _digest(piece) != etag:
                    raise Refused(400, f"InvalidPart: part {part} was not uploaded, or has another ETag")
                file.write(piece.read_bytes())
                piece.unlink()
        self._keep(repo, path, oid)
        return as_json({})

    def _address(self, request: Request) -> tuple[Repo, str, str, str]:
        need_no_token(request)
        _, kind, user, name, oid, number, *part = request.parts
        repo = self.store.get(kind, f"{user}/{name}")
        if repo is None or not 0 < int(number) <= self.issued:
            raise Refused(403, "AccessDenied")
        return repo, oid, number, part[0] if part else ""

    def _part(self, oid: str, number: str, part: str) -> Path:
        return self.store.path(f"incoming/{oid}-{number}-{part}")

    def _keep(self, repo: Repo, path: Path, oid: str) -> None:
        if (found := _digest(path)) != oid:
            path.unlink()
            raise Refused(400, f"BadDigest: expected the SHA-256 {oid}, got {found}")
        path.replace(self.store.path(oid))
        repo.objects.add(oid)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
