"""A W&B server that takes everything and remembers it: the few answers that ``wandb sync`` waits for, on localhost."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Attributes: ``asked``, pairs of operation and variables; ``uploaded``, path -> bytes; ``refuse``, operations."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.uploaded: dict[str, bytes] = {}
        self.refuse: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def variables(self, operation: str) -> list[dict[str, Any]]:
        return [variables for name, variables in self.asked if name == operation]


@contextmanager
def wandb_server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer({})

    def do_HEAD(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self.server.uploaded[self.path] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if not self.path.endswith("/graphql"):
            self.server.uploaded[self.path] = self.server.uploaded.get(self.path, b"") + body
            return self._answer({})
        asked = json.loads(body)
        found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        operation, variables = found[1] if found else "", asked.get("variables") or {}
        self.server.asked.append((operation, variables))
        if operation in self.server.refuse:
            return self._answer({"errors": [{"message": f"{operation} is not allowed"}]}, 403)
        answer = _ANSWERS.get(operation, lambda url, variables: {})
        return self._answer({"data": answer(self.server.url, variables)})

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: object, code: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _bucket(url: str, v: dict[str, Any]) -> object:
    project = {"id": "P", "name": v.get("project"), "entity": {"id": "E", "name": v.get("entity") or "me"}}
    keys = ("name", "displayName", "description", "config")
    bucket = {"id": "B", "sweepName": None, "historyLineCount": 0, "project": project} | {k: v.get(k) for k in keys}
    return {"upsertBucket": {"bucket": bucket, "inserted": True}}


def _artifact(url: str, v: dict[str, Any]) -> object:
    name = v["input"]["artifactCollectionName"]
    sequence = {"id": f"S-{name}", "latestArtifact": None, "artifactType": {"name": v["input"]["artifactTypeName"]}}
    return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": sequence}}}


def _manifest(field: str) -> Any:
    def answer(url: str, v: dict[str, Any]) -> object:
        file = {"id": "F", "uploadUrl": f"{url}/manifest", "uploadHeaders": []}
        return {field: {"artifactManifest": {"id": "M", "file": file}}}

    return answer


def _artifact_files(url: str, v: dict[str, Any]) -> object:
    nodes = [
        {
            "storagePath": f"artifact/{spec['name']}",
            "uploadUrl": f"{url}/artifact/{spec['artifactID']}/{spec['name']}",
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": spec["artifactID"]},
        }
        for spec in v["input"]["artifactFiles"]
    ]
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


def _run_files(url: str, v: dict[str, Any]) -> object:
    files = [{"name": name, "uploadUrl": f"{url}/run/{name}"} for name in v["files"]]
    return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}}


_ANSWERS: dict[str, Any] = {
    "Viewer": lambda url, v: {"viewer": {"id": "U", "entity": "me", "username": "me", "flags": "{}"}},
    "ServerFeaturesQuery": lambda url, v: {"serverInfo": {"features": []}},
    "XXHashDigestsEnabled": lambda url, v: {"entity": {"xxhashDigestsEnabled": False}},
    "UpsertBucket": _bucket,
    "CreateArtifact": _artifact,
    "CreateArtifactManifest": _manifest("createArtifactManifest"),
    "UpdateArtifactManifest": _manifest("updateArtifactManifest"),
    "CreateArtifactFiles": _artifact_files,
    "CommitArtifact": lambda url, v: {"commitArtifact": {"artifact": {"id": v["artifactID"], "digest": ""}}},
    "UseArtifact": lambda url, v: {"useArtifact": {"artifact": {"id": v["input"]["artifactID"]}}},
    "CreateRunFiles": _run_files,
    "MarkRunFilesUploaded": lambda url, v: {"markRunFilesUploaded": {"success": True}},
}
