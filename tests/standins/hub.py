"""A stand-in for the model and data hub: as much of its interface as downloading and publishing a
repository need."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Kind = str
"""``models`` or ``datasets``."""


@dataclass(frozen=True)
class Repository:
    """Files by path, at each of its revisions; `gate` is the status that answers whoever has no
    access, 401 or 403."""

    revisions: dict[str, dict[str, bytes]]
    gate: int | None = None

    def commit(self, revision: str) -> str | None:
        """The id of the revision, which is also good as a revision."""
        for name in self.revisions:
            if revision in (name, _digest(name.encode())):
                return _digest(name.encode())
        return None

    def files(self, commit: str) -> dict[str, bytes]:
        return next(
            files for name, files in self.revisions.items() if _digest(name.encode()) == commit
        )


@dataclass
class Hub:
    """The stand-in's repositories and the requests that it has seen."""

    url: str
    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    token: str | None = None
    """What whoever writes must send; None: nobody may."""
    owners: tuple[str, ...] = ("me",)
    """Whose repositories the token may write; the first is its own."""
    private: dict[str, bool] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files by their digest."""
    broken: str | None = None
    """A part of the path at which the server fails."""


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def do_PUT(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        digest = hashlib.sha256(content).hexdigest()
        hub.stored[digest] = content
        self._send(200 if self.path == f"/lfs/{digest}" else 400, b"")

    def _written(self, hub: Hub, path: str) -> bool:
        """Answer a request that has to do with writing; False where it has not."""
        if hub.broken and hub.broken in path:
            self._send(500, b"broken")
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._created(hub, json.loads(self._body))
        elif (
            "/preupload/" in path or path.endswith("/info/lfs/objects/batch") or "/commit/" in path
        ):
            self._uploaded(hub, path)
        else:
            return False
        return True

    def _created(self, hub: Hub, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or hub.owners[0]
        name = f"{owner}/{wanted['name']}"
        if hub.token is None or self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse(401, "Unauthorized", "Invalid username or password.")
        elif owner not in hub.owners:
            self._refuse(
                403,
                "Forbidden",
                f"You don't have the rights to create a model under the namespace {owner}",
            )
        elif name in hub.models:
            self._send(
                409,
                json.dumps(
                    {"error": "You already created this model repo", "url": f"{hub.url}/{name}"}
                ).encode(),
                {"Content-Type": "application/json"},
            )
        else:
            hub.models[name] = Repository({"main": {}})
            hub.private[name] = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self._json({"url": f"{hub.url}/{name}", "name": name})

    def _uploaded(self, hub: Hub, path: str) -> None:
        if hub.token is None or self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse(401, "Unauthorized", "Invalid username or password.")
        elif "/preupload/" in path:
            self._json(
                {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": "lfs" if f["size"] > 20_000 else "regular",
                            "shouldIgnore": False,
                        }
                        for f in json.loads(self._body)["files"]
                    ]
                }
            )
        elif path.endswith("/batch"):
            self._json(
                {
                    "transfer": "basic",
                    "objects": [
                        {
                            "oid": o["oid"],
                            "size": o["size"],
                            "actions": {
                                "upload": {"href": f"{hub.url}/lfs/{o['oid']}", "header": {}}
                            },
                        }
                        for o in json.loads(self._body)["objects"]
                    ],
                }
            )
        else:
            parts = path.strip("/").split("/")
            files = hub.models["/".join(parts[2:4])].revisions["main"]
            for line in map(json.loads, self._body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.stored[value["oid"]]
            self._json(
                {
                    "commitUrl": f"{hub.url}/{'/'.join(parts[2:4])}/commit/{'0' * 40}",
                    "commitOid": "0" * 40,
                    "success": True,
                }
            )

    def log_message(self, *_: Any) -> None:
        """Keep the terminal clean."""

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if self.command == "POST" and self._written(hub, path):
            return
        if parts[0] == "api" and len(parts) >= 4:
            self._interface(hub, parts[1], "/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts:
            kind, name = (
                ("datasets", parts[1:3]) if parts[0] == "datasets" else ("models", parts[:2])
            )
            start = parts.index("resolve")
            self._file(hub, kind, "/".join(name), parts[start + 1], "/".join(parts[start + 2 :]))
        else:
            self._send(404 if path != "/" else 200, b"")

    def _repository(self, hub: Hub, kind: Kind, name: str) -> Repository | None:
        known: dict[str, Repository] = getattr(hub, kind, {})
        if name not in known:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
            return None
        return known[name]

    def _commit(self, repository: Repository, revision: str) -> str | None:
        commit = repository.commit(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _interface(self, hub: Hub, kind: Kind, name: str, rest: list[str]) -> None:
        repository = self._repository(hub, kind, name)
        if repository is None:
            return
        if repository.gate is not None and rest[:1] in (["tree"], ["auth-check"]):
            self._refuse(repository.gate, "GatedRepo", f"Access to {name} is restricted.")
            return
        revision = (
            rest[1] if len(rest) > 1 and rest[0] in ("revision", "tree", "paths-info") else "main"
        )
        commit = self._commit(repository, revision)
        if commit is None:
            return
        files = repository.files(commit)
        if rest[:1] == ["tree"]:
            self._json(_tree(files, "/".join(rest[2:])))
        elif rest[:1] == ["paths-info"]:
            form = _form(self._body)
            self._json(
                [entry for path in form for entry in _tree(files, "") if entry["path"] == path]
            )
        else:
            self._json(
                {
                    "id": name,
                    "sha": commit,
                    "private": False,
                    "gated": "auto" if repository.gate else False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [{"rfilename": path} for path in files],
                }
            )

    def _file(self, hub: Hub, kind: Kind, name: str, revision: str, path: str) -> None:
        repository = self._repository(hub, kind, name)
        if repository is None:
            return
        if repository.gate is not None:
            self._refuse(repository.gate, "GatedRepo", f"Access to {name} is restricted.")
            return
        commit = self._commit(repository, revision)
        if commit is None:
            return
        content = repository.files(commit).get(path)
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found", commit)
            return
        self._send(200, content, {"X-Repo-Commit": commit, "ETag": f'"{_digest(content)}"'})

    def _refuse(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        extra = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, message.encode(), extra | ({"X-Repo-Commit": commit} if commit else {}))

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        start = 0
        wanted = self.headers.get("Range", "")
        if status == 200 and wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last or len(content) - 1)
            headers = {**(headers or {}), "Content-Range": f"bytes {start}-{end}/{len(content)}"}
            status, content = 206, content[start : end + 1]
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _form(body: bytes) -> list[str]:
    """The paths that a request asks about, sent as JSON or as a form."""
    from urllib.parse import parse_qs

    if body.startswith(b"{"):
        return list(json.loads(body)["paths"])
    return parse_qs(body.decode()).get("paths", [])


def _tree(files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
    """Everything below a folder, folders too, as the hub lists it."""
    below = {
        path: content
        for path, content in files.items()
        if not folder or path.startswith(f"{folder}/")
    }
    folders = {path.rsplit("/", 1)[0] for path in below if "/" in path} - {folder}
    return [
        {"type": "directory", "oid": _digest(name.encode()), "size": 0, "path": name}
        for name in sorted(folders)
    ] + [
        {"type": "file", "oid": _digest(content), "size": len(content), "path": path}
        for path, content in sorted(below.items())
    ]
