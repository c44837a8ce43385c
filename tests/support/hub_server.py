"""A Hub on this machine: as much of its HTTP as `huggingface_hub` needs to list, read, make and write repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


class HubServer(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: the files of each, by `org/repo` and by path.
        gated: those that nobody may read.
        cut: paths of which no more than half is sent before the connection ends.
        ranges: whether a part of a file is sent where one is asked for.
        whole: paths that are sent whole all the same.
        said: what a part is said to be of, in place of what it is.
        sent: bytes of files, by path.
        status: what everything is answered with, such as 503; None: what is there.
        asked: what was asked for, as `GET /path`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.cut: set[str] = set()
        self.ranges = True
        self.whole: set[str] = set()
        self.said: str | None = None
        self.sent: dict[str, int] = {}
        self.status: int | None = None
        self.asked: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        """Answer nobody any more: not even this process, which would ask on by a connection that it keeps."""
        from huggingface_hub import close_session

        self.shutdown()
        self.server_close()
        close_session()

    def put(self, name: str, folder: Path) -> None:
        """A repository with the files of a folder."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.repositories[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def commit(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.repositories[name].items())).encode()).hexdigest()


@contextmanager
def running() -> Iterator[HubServer]:
    """A server, for processes that are given its `endpoint` as `HF_ENDPOINT`."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
    """The same for this process: `huggingface_hub` takes it for the Hub, with a cache of its own."""
    from huggingface_hub import constants

    with running() as server:
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        yield server


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models" if api else "").strip("/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        if self.server.status is not None:
            self._answer(self.server.status, {"error": "as the test wants it"})
        elif name in self.server.gated:
            self._answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif name not in self.server.repositories:
            self._answer(404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})
        elif rest and rest[1] not in ("main", self.server.commit(name)):
            self._answer(404, {"error": "none"}, {"X-Error-Code": "RevisionNotFound"})
        elif api:
            self._about(name, rest)
        else:
            self._file(name, "/".join(rest[2:]))

    def _about(self, name: str, rest: list[str]) -> None:
        files = self.server.repositories[name]
        if rest and rest[0] == "tree":
            found = [{"type": "file", "path": p, "size": len(x), "oid": _digest(x)} for p, x in files.items()]
            self._answer(200, found)
        else:
            siblings = [{"rfilename": path} for path in files]
            self._answer(200, {"id": name, "sha": self.server.commit(name), "siblings": siblings})

    def _file(self, name: str, path: str) -> None:
        content = self.server.repositories[name].get(path)
        if content is None:
            self._answer(404, {"error": "none"}, {"X-Error-Code": "EntryNotFound"})
            return
        digest, size = _digest(content), len(content)
        parts = self.server.ranges and path not in self.server.whole
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if parts else None
        if part is not None:
            first, last = int(part[1]), min(int(part[2] or size), size - 1)
            content = content[first : last + 1]
        self.send_response(200 if part is None else 206 if content else 416)
        if part is not None:
            true = f"bytes {first}-{last}/{size}" if content else f"bytes */{size}"
            self.send_header("Content-Range", self.server.said or true)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", self.server.commit(name))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            cut = path in self.server.cut
            content = content[: len(content) // 2] if cut else content
            self.server.sent[path] = self.server.sent.get(path, 0) + len(content)
            self.wfile.write(content)
            self.close_connection = self.close_connection or cut

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"POST {path}")
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        name = "/".join(path.strip("/").split("/")[2:4])
        if path == "/api/repos/create":
            said = json.loads(body)
            made = f"{said.get('organization') or 'me'}/{said['name']}"
            self.server.repositories.setdefault(made, {})
            self._answer(200, {"url": f"{self.server.endpoint}/{made}", "name": made, "id": made})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self._answer(200, {"files": [each | {"uploadMode": "regular", "shouldIgnore": False} for each in files]})
        elif "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.repositories[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del self.server.repositories[name][line["value"]["path"]]
            commit = self.server.commit(name)
            url = f"{self.server.endpoint}/{name}/commit/{commit}"
            self._answer(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
        else:
            self._answer(200, {"errors": [], "warnings": []})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
