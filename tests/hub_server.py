# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""A Hugging Face Hub on loopback: a process of its own that speaks the Hub's HTTP API, and keeps everything in memory.

`python tests/hub_server.py` prints its URL and serves until its standard input ends. Tests use `running`. Beyond the
Hub's own API there is `/_control`, which tests use to reset it, to read what it was asked and to inject faults:

* `POST /_control/faults` takes a list of `{"method", "path" (a regular expression, searched for in the decoded path),
  "times" (1), "kind"}`. The first that matches a request applies to it, and is gone after `times` requests. The kinds:
  `status` answers `"status"` with `"headers"`; `drop` closes the connection after `"after"` (0) bytes of a download or
  of what any other method sends, by a TCP reset if `"reset"`; `lost` does what it is asked and closes the
  connection instead of answering; `corrupt` flips one bit of a download's byte `"at"` (-1); `stall` never answers.
  `GET` and `DELETE` answer the faults that are left, and `DELETE` clears them.
* `GET /_control/requests` answers `[{"method", "path", "range", "status", "received", "authorized"}]`, and `DELETE`
  clears it too. `status` is null where no answer was begun.
* `POST /_control/gate` takes `{"repo", "type" ("models"), "gated" ("auto")}`; `POST /_control/reset` wipes everything.
"""

import asyncio
import base64
import functools
import hashlib
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json import dumps, loads
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


PREFIXES = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
TOKENS = {"hf_writer": ("tester", "write"), "hf_reader": ("tester", "read"), "hf_stranger": ("stranger", "write")}
LFS_SIZE = 10_000_000
OF_A_REPO = re.compile(r"^/api/(models|datasets|spaces)/|/resolve/")
LFS_SUFFIXES = (".safetensors", ".parquet")
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class Refused(Exception):
    """An answer that refuses what was asked for."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @functools.cached_property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()
        )

    @functools.cached_property
    def id(self) -> str:
        stored = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.id


@dataclass(frozen=True)
class Commit:
    """A full snapshot."""

    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repo:
    kind: str
    id: str
    private: bool
    sdk: str | None = None
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # the LFS store, by sha256
    pull_requests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def url(self, request: Request) -> str:
        return f"{base_url(request)}/{PREFIXES[self.kind]}{self.id}"

    def reference(self, revision: str) -> str:
        """The full name of a branch, a tag or a pull request."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return name
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, revision: str) -> Commit:
        return self.commits.get(revision) or self.commits[self.refs[self.reference(revision)]]

    def add(self, parent: str | None, files: dict[str, Blob], title: str, message: str, author: str) -> str:
        """Store a commit. No reference points to it yet."""
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        content = dumps([self.kind, self.id, len(self.commits), parent, title, message, author, date])
        id = hashlib.sha1((content + tree_id(files, "")).encode()).hexdigest()
        self.commits[id] = Commit(id, parent, title, message, author, date, files)
        return id

    def history(self, revision: str) -> Iterator[Commit]:
        commit: Commit | None = self.commit(revision)
        while commit:
            yield commit
            commit = self.commits[commit.parent] if commit.parent else None


REPOS: dict[tuple[str, str], Repo] = {}
UPLOADS: dict[str, tuple[Repo, str, int]] = {}  # what may be uploaded where: repository, sha256 and size by ticket
FAULTS: list[dict[str, Any]] = []
REQUESTS: list[dict[str, Any]] = []


def base_url(request: Request) -> str:
    return f"http://{request.headers['host']}"


def tree_id(files: dict[str, Blob], folder: str) -> str:
    listing = sorted(f"{path} {blob.id}" for path, blob in files.items() if path.startswith(folder))
    return hashlib.sha1("\n".join(listing).encode()).hexdigest()


def account(request: Request) -> tuple[str | None, str | None]:
    """The user that the token stands for, and its role."""
    authorization = request.headers.get("authorization")
    if authorization is None:
        return None, None
    token = authorization.removeprefix("Bearer ")
    if token not in TOKENS:
        raise Refused(401, "Invalid credentials in Authorization header")
    return TOKENS[token]


def anonymous(request: Request) -> Refused:
    # The Hub sends no code, and the client knows what is missing by the URL, but only if that is an https one.
    code = "RepoNotFound" if OF_A_REPO.search(request.scope["path"]) else None
    return Refused(401, "Invalid username or password.", code)


def writer(request: Request, owner: str | None) -> str:
    """The user, who must be allowed to write what `owner` owns."""
    user, role = account(request)
    if user is None:
        raise anonymous(request)
    if role != "write":
        raise Refused(403, "Forbidden: you must use a write token to upload to a repository.")
    if owner not in (None, user):
        raise Refused(403, f"Forbidden: you don't have the rights to write under the namespace {owner!r}.")
    return user


def repo_not_found(request: Request) -> Refused:
    return anonymous(request) if account(request)[0] is None else Refused(404, "Repository not found", "RepoNotFound")


def find(request: Request, kind: str | None = None, write: bool = False) -> Repo:
    parameters = request.path_params
    repo = REPOS.get((kind or parameters["kind"], f"{parameters['user']}/{parameters['name']}"))
    if repo is None or (repo.private and account(request)[0] != repo.owner):
        raise repo_not_found(request)
    account(request)
    if write:
        writer(request, repo.owner)
    return repo


def revision_of(request: Request) -> str:
    return unquote(request.path_params.get("revision", "main"))


def front_matter(text: str) -> dict[str, Any]:
    match = re.match(r"---\s*\n(.*?)\n?---\s*(\n|$)", text, re.DOTALL)
    data = yaml.safe_load(match[1]) if match else None
    return data if isinstance(data, dict) else {}


def lfs_entry(blob: Blob, key: str) -> dict[str, Any]:
    return {key: blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}


def tree_entry(repo: Repo, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    """A file, or the folder of this name."""
    blob = commit.files.get(path)
    if blob is None:
        return {"type": "directory", "oid": tree_id(commit.files, f"{path}/"), "size": 0, "path": path}
    entry = {"type": "file", "oid": blob.id, "size": len(blob.data), "path": path}
    if blob.lfs:
        entry["lfs"] = lfs_entry(blob, "oid")
    if expand:
        last = commit
        for earlier in repo.history(commit.id):
            if earlier.files.get(path) != blob:
                break
            last = earlier
        entry["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
    return entry


def folders(files: dict[str, Blob]) -> set[str]:
    return {str(parent) for path in files for parent in Path(path).parents} - {"."}


async def whoami(request: Request) -> Response:
    user, role = account(request)
    if user is None:
        raise anonymous(request)
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    return JSONResponse({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": auth})


async def validate_yaml(request: Request) -> Response:
    try:
        front_matter((await request.json())["content"])
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


async def create(request: Request) -> Response:
    body = await request.json()
    user = writer(request, body.get("organization"))
    private = bool(body.get("private")) or body.get("visibility") == "private"
    repo = Repo(body.get("type", "model") + "s", f"{user}/{body['name']}", private, body.get("sdk"))
    if (repo.kind, repo.id) in REPOS:
        raise Refused(409, f"You already created this {body.get('type', 'model')} repo", url=repo.url(request))
    attributes = {".gitattributes": Blob(GIT_ATTRIBUTES, False)}
    repo.refs["refs/heads/main"] = repo.add(None, attributes, "initial commit", "", user)
    REPOS[repo.kind, repo.id] = repo
    return JSONResponse({"url": repo.url(request), "name": repo.id, "id": repo.id, "private": private})


async def delete(request: Request) -> Response:
    body = await request.json()
    request.path_params.update(user=body.get("organization") or account(request)[0], name=body["name"])
    repo = find(request, body.get("type", "model") + "s", write=True)
    del REPOS[repo.kind, repo.id]
    return Response("OK")


async def settings(request: Request) -> Response:
    repo, body = find(request, write=True), await request.json()
    repo.private = body.get("visibility", "private" if body.get("private", repo.private) else "public") == "private"
    repo.gated = body.get("gated", repo.gated)
    return JSONResponse({"private": repo.private, "gated": repo.gated})


async def info(request: Request) -> Response:
    repo = find(request)
    commit = repo.commit(revision_of(request))
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
    if "blobs" in request.query_params:
        for sibling in siblings:
            blob = commit.files[sibling["rfilename"]]
            sibling |= {
                "blobId": blob.id,
                "size": len(blob.data),
                "lfs": lfs_entry(blob, "sha256") if blob.lfs else None,
            }
    first = list(repo.history(commit.id))[-1]
    answer = {"_id": first.id[:24], "id": repo.id, "author": repo.owner, "sha": commit.id, "lastModified": commit.date}
    answer |= {"createdAt": first.date, "private": repo.private, "gated": repo.gated, "disabled": False, "likes": 0}
    answer |= {"downloads": 0, "tags": [], "siblings": siblings}
    if "README.md" in commit.files:
        card = front_matter(commit.files["README.md"].data.decode())
        tags = [card.get("library_name"), card.get("pipeline_tag"), *(card.get("tags") or [])]
        answer |= {"cardData": card, "tags": list(dict.fromkeys(tag for tag in tags if tag))}
        answer |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    if repo.kind == "models":
        answer["modelId"] = repo.id
    if repo.kind == "spaces":
        answer["sdk"] = repo.sdk
    return JSONResponse(loads(dumps(answer, default=str)))  # the dates that YAML reads


async def refs(request: Request) -> Response:
    repo = find(request)
    answer: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for ref, commit in repo.refs.items():
        key, prefix = {"heads": ("branches", "refs/heads/"), "tags": ("tags", "refs/tags/")}.get(
            ref.split("/")[1], ("pullRequests", "refs/pr/")
        )
        answer[key].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit})
    return JSONResponse(answer)


async def add_reference(request: Request, what: str) -> Response:
    """`branch/NAME` with the starting point in the body, or `tag/REVISION` with the name in the body."""
    repo, body = find(request, write=True), loads(await request.body() or b"{}")
    if what == "branch":
        name, start = f"refs/heads/{revision_of(request)}", body.get("startingPoint", "main")
    else:
        name, start = f"refs/tags/{body['tag']}", revision_of(request)
    commit = repo.commit(start)
    if name in repo.refs:
        raise Refused(409, f"Reference already exists: {name}")
    repo.refs[name] = commit.id
    return JSONResponse({"ref": name})


async def delete_reference(request: Request, what: str) -> Response:
    repo = find(request, write=True)
    name = f"refs/{'heads' if what == 'branch' else 'tags'}/{revision_of(request)}"
    if name == "refs/heads/main":
        raise Refused(403, "Cannot delete the default branch")
    if repo.refs.pop(name, None) is None:
        raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return Response("OK")


async def commits(request: Request) -> Response:
    history = find(request).history(revision_of(request))
    listed = [(commit, {"id": commit.id, "title": commit.title, "message": commit.message}) for commit in history]
    return JSONResponse([{**entry, "authors": [{"user": c.author}], "date": c.date} for c, entry in listed])


async def discussions(request: Request) -> Response:
    listed = find(request).pull_requests
    return JSONResponse({"discussions": listed, "count": len(listed), "start": 0})


async def tree(request: Request) -> Response:
    repo = find(request)
    commit, query = repo.commit(revision_of(request)), request.query_params
    path = unquote(request.path_params.get("path", "")).strip("/")
    below, inner = f"{path}/" if path else "", folders(commit.files)
    if path and path not in inner:
        raise Refused(404, f"{path} does not exist on {revision_of(request)!r}", "EntryNotFound")
    listed = sorted(entry for entry in {*commit.files, *inner} if entry.startswith(below))
    if query.get("recursive", "false").lower() not in ("true", "1"):
        listed = [entry for entry in listed if "/" not in entry.removeprefix(below)]
    expand = query.get("expand", "false").lower() in ("true", "1")
    return JSONResponse([tree_entry(repo, commit, entry, expand) for entry in listed])


async def paths_info(request: Request) -> Response:
    repo, body = find(request), parse_qs((await request.body()).decode())
    commit = repo.commit(revision_of(request))
    known = {*commit.files, *folders(commit.files)}
    expand = body.get("expand", ["false"])[0].lower() in ("true", "1")
    return JSONResponse([tree_entry(repo, commit, path, expand) for path in body.get("paths", []) if path in known])


async def preupload(request: Request) -> Response:
    repo, body = find(request, write=True), await request.json()
    existing, files = repo.commit(revision_of(request)).files, []
    for file in body["files"]:
        path, old = file["path"], existing.get(file["path"])
        lfs = file["size"] > LFS_SIZE or path.endswith(LFS_SUFFIXES)
        files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False})
        if old and old.lfs == lfs:
            files[-1]["oid"] = old.etag
    return JSONResponse({"files": files})


async def lfs_batch(request: Request, kind: str) -> Response:
    repo, body = find(request, kind, write=True), await request.json()
    objects = []
    for wanted in body["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in repo.objects:
            ticket = uuid.uuid4().hex  # an upload carries no token: who knows the ticket may send this object
            UPLOADS[ticket] = (repo, wanted["oid"], wanted["size"])
            upload = {"href": f"{base_url(request)}/_lfs/{wanted['oid']}/{ticket}"}
            answer["actions"] = {"upload": upload, "verify": {"href": f"{repo.url(request)}.git/info/lfs/verify"}}
        objects.append(answer)
    return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")


async def lfs_upload(request: Request) -> Response:
    if request.path_params["ticket"] not in UPLOADS:
        raise Refused(403, "Unknown upload")
    repo, oid, size = UPLOADS[request.path_params["ticket"]]
    data = await request.body()
    if len(data) != size or hashlib.sha256(data).hexdigest() != oid:
        raise Refused(400, "The content does not match the announced size and sha256")
    repo.objects[oid] = data
    return Response()


async def lfs_verify(request: Request, kind: str) -> Response:
    repo, body = find(request, kind, write=True), await request.json()
    if len(repo.objects.get(body["oid"], b"")) != body["size"]:
        raise Refused(404, "Object not found")
    return Response()


def changed_files(repo: Repo, files: dict[str, Blob], operations: list[dict[str, Any]]) -> dict[str, Blob]:
    files = dict(files)
    for operation in operations:
        key, value = operation["key"], operation["value"]
        path = value["path"]
        if key == "file":
            encoded = value.get("encoding") == "base64"
            files[path] = Blob(base64.b64decode(value["content"]) if encoded else value["content"].encode(), False)
        elif key == "lfsFile":
            data = repo.objects.get(value["oid"])
            if data is None or value.get("size", len(data)) != len(data):
                raise Refused(400, f"LFS pointer of {path} points to a file that was not uploaded: {value['oid']}")
            files[path] = Blob(data, True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [path] if key == "deletedFile" else [f for f in files if f.startswith(f"{path.rstrip('/')}/")]
            if not gone or any(name not in files for name in gone):
                raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refused(400, f"Unknown operation: {key}")
    return files


async def add_commit(request: Request) -> Response:
    repo, body = find(request, write=True), await request.body()
    header, *operations = (loads(line) for line in body.splitlines() if line.strip())
    if header.get("key") != "header" or not header["value"].get("summary"):
        raise Refused(400, "The first line must be a header with a summary")
    header, user, revision = header["value"], writer(request, repo.owner), revision_of(request)
    wants_pull_request = request.query_params.get("create_pr") in ("1", "true")
    parent = header.get("parentCommit")
    if wants_pull_request:
        reference = f"refs/pr/{len(repo.pull_requests) + 1}"
        head = repo.commit(parent or revision).id
    else:
        reference = repo.reference(revision)
        head = repo.refs[reference]
        if reference.startswith("refs/tags/"):
            raise Refused(400, f"{revision} is not a branch")
        if parent not in (None, head):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
    title = header["summary"]
    files = changed_files(repo, repo.commits[head].files, operations)
    repo.refs[reference] = id = repo.add(head, files, title, header.get("description", ""), user)
    answer = {"success": True, "commitOid": id, "commitUrl": f"{repo.url(request)}/commit/{id}", "hookOutput": ""}
    if wants_pull_request:
        number = len(repo.pull_requests) + 1
        thread = {"num": number, "title": title, "author": {"name": user}, "status": "open", "isPullRequest": True}
        named = {"name": repo.id, "type": repo.kind.removesuffix("s")}
        repo.pull_requests.append({**thread, "createdAt": repo.commits[id].date, "repo": named})
        answer["pullRequestUrl"] = f"{repo.url(request)}/discussions/{number}"
    return JSONResponse(answer)


async def resolve(request: Request, kind: str) -> Response:
    repo, user = find(request, kind), account(request)[0]
    if repo.gated and user != repo.owner:
        raise Refused(403 if user else 401, f"Access to {repo.id} is restricted.", "GatedRepo")
    commit = repo.commit(revision_of(request))
    path = unquote(request.path_params["path"])
    blob = commit.files.get(path)
    if blob is None:
        missing = Refused(404, "Entry not found", "EntryNotFound")
        missing.headers["X-Repo-Commit"] = commit.id
        raise missing
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(Path(path).name)}"
    if blob.lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    size, status, data = len(blob.data), 200, blob.data
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if wanted and any(wanted.groups()):
        first = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
        last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
        if first > last:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        status, data = 206, data[first : last + 1]
    return Response(data, status, headers, media_type="application/octet-stream")


async def unknown(request: Request) -> Response:
    if OF_A_REPO.search(request.scope["path"]):
        raise repo_not_found(request)
    raise Refused(404, "Sorry, we can't find the page you are looking for.")


async def control_faults(request: Request) -> Response:
    if request.method == "POST":
        FAULTS.extend({"times": 1, **fault} for fault in await request.json())
    answer = JSONResponse(FAULTS)
    if request.method == "DELETE":
        FAULTS.clear()
    return answer


async def control_requests(request: Request) -> Response:
    answer = JSONResponse(REQUESTS)
    if request.method == "DELETE":
        REQUESTS.clear()
    return answer


async def control_gate(request: Request) -> Response:
    body = await request.json()
    REPOS[body.get("type", "models"), body["repo"]].gated = body.get("gated", "auto")
    return JSONResponse({})


async def control_reset(request: Request) -> Response:
    for kept in (REPOS, UPLOADS, FAULTS, REQUESTS):
        kept.clear()
    return JSONResponse({})


def refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse(error.body, error.status, error.headers)


def routes() -> list[Route]:
    listed: list[tuple[str, str, Callable[..., Any]]] = [
        ("GET", "/api/whoami-v2", whoami),
        ("POST", "/api/validate-yaml", validate_yaml),
        ("POST", "/api/repos/create", create),
        ("DELETE", "/api/repos/delete", delete),
        ("GET", "/api/{kind}/{user}/{name}", info),
        ("GET", "/api/{kind}/{user}/{name}/revision/{revision}", info),
        ("PUT", "/api/{kind}/{user}/{name}/settings", settings),
        ("GET", "/api/{kind}/{user}/{name}/refs", refs),
        ("GET", "/api/{kind}/{user}/{name}/discussions", discussions),
        ("GET", "/api/{kind}/{user}/{name}/commits/{revision}", commits),
        ("GET", "/api/{kind}/{user}/{name}/tree/{revision}", tree),
        ("GET", "/api/{kind}/{user}/{name}/tree/{revision}/{path:path}", tree),
        ("POST", "/api/{kind}/{user}/{name}/paths-info/{revision}", paths_info),
        ("POST", "/api/{kind}/{user}/{name}/preupload/{revision}", preupload),
        ("POST", "/api/{kind}/{user}/{name}/commit/{revision}", add_commit),
        ("PUT", "/_lfs/{oid}/{ticket}", lfs_upload),
        ("GET DELETE POST", "/_control/faults", control_faults),
        ("GET DELETE", "/_control/requests", control_requests),
        ("POST", "/_control/gate", control_gate),
        ("POST", "/_control/reset", control_reset),
    ]
    for what in ("branch", "tag"):
        for method, handler in (("POST", add_reference), ("DELETE", delete_reference)):
            path = f"/api/{{kind}}/{{user}}/{{name}}/{what}/{{revision}}"
            listed.append((method, path, functools.partial(handler, what=what)))
    for kind, prefix in PREFIXES.items():
        for method, path, handler in (
            ("POST", "{name}.git/info/lfs/objects/batch", lfs_batch),
            ("POST", "{name}.git/info/lfs/verify", lfs_verify),
            ("GET", "{name}/resolve/{revision}/{path:path}", resolve),
        ):
            listed.append((method, f"/{prefix}{{user}}/{path}", functools.partial(handler, kind=kind)))
    listed.append(("GET POST PUT DELETE", "/{rest:path}", unknown))
    return [Route(path, handler, methods=method.split()) for method, path, handler in listed]


ROUTER = Starlette(routes=routes(), exception_handlers={Refused: refuse})


class Protocol(H11Protocol):
    """Hands the connection to the application, which cannot close one otherwise."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


def next_fault(method: str, path: str) -> dict[str, Any]:
    for fault in FAULTS:
        if fault.get("method", method) == method and re.search(fault["path"], path):
            fault["times"] -= 1
            if not fault["times"]:
                FAULTS.remove(fault)
            return fault
    return {"kind": None}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Log the request, apply a fault, and hand it to the routes."""
    method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
    # Routes match the path as it was sent, in which a revision such as refs%2Fpr%2F1 is one segment.
    scope = {**scope, "path": scope["raw_path"].decode()}
    if path.startswith("/_control/"):
        return await ROUTER(scope, receive, send)
    entry = {"method": method, "path": path, "range": headers.get(b"range", b"").decode() or None, "status": None}
    entry |= {"received": 0, "authorized": b"authorization" in headers}
    REQUESTS.append(entry)
    fault, transport, sent = next_fault(method, path), scope["state"]["transport"], 0
    kind, after = fault["kind"], fault.get("after", 0)

    async def read() -> Message:
        message = await receive()
        entry["received"] += len(message.get("body", b""))
        return message

    async def read_body(enough: float = float("inf")) -> None:
        while entry["received"] < enough and (await read()).get("more_body"):
            pass

    async def cut() -> None:
        if fault.get("reset"):
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass

    async def answer(message: Message) -> None:
        nonlocal sent
        if kind == "lost" or transport.is_closing():
            return
        if message["type"] == "http.response.start":
            entry["status"] = message["status"]
        elif kind == "corrupt" and message["body"]:
            body = bytearray(message["body"])
            body[fault.get("at", -1)] ^= 1
            message = {**message, "body": bytes(body)}
        elif kind == "drop":
            body = message["body"][: after - sent]
            sent += len(body)
            await send({**message, "body": body, "more_body": True})
            return await cut()
        await send(message)

    if kind == "status":
        await read_body()
        response = Response(status_code=fault["status"], headers=fault.get("headers"))
        await response(scope, read, answer)
    elif kind == "drop" and method != "GET":
        await read_body(after)
        await cut()
    elif kind == "stall":
        await read_body()
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        with suppress(ClientDisconnect):
            await ROUTER(scope, read, answer)
        if kind == "lost":
            await cut()


def serve() -> None:
    listening = socket.create_server(("127.0.0.1", 0))

    def follow_parent() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=follow_parent, daemon=True).start()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        timeout_keep_alive=3600,  # clients keep idle connections: the server is never the one to close them
    )
    uvicorn.Server(config).run(sockets=[listening])


@dataclass(frozen=True)
class Hub:
    """A server that runs."""

    url: str

    def control(self, method: str, path: str, json: Any = None) -> Any:
        """Ask `/_control/PATH`."""
        data = None if json is None else dumps(json).encode()
        request = urllib.request.Request(f"{self.url}/_control/{path.strip('/')}", data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return loads(response.read())

    def environment(self, cache_folder: str | Path, token: str | None = None) -> dict[str, str]:
        """The environment of a client process, which starts with whatever is in `cache_folder`."""
        unwanted = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN"}
        unwanted |= {"HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_ASSETS_CACHE", "TRANSFORMERS_CACHE"}
        unwanted |= {"HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"}
        unwanted |= {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"}
        kept = {key: value for key, value in os.environ.items() if key.upper() not in unwanted}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(cache_folder), "HF_HUB_DISABLE_XET": "1"}
        kept |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        kept["no_proxy"] = kept["NO_PROXY"]
        return kept | ({"HF_TOKEN": token} if token else {})


@contextmanager
def running() -> Iterator[Hub]:
    """Start a server, and end it with the block."""
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("The server did not start")
            yield Hub(url)
        finally:
            process.kill()


if __name__ == "__main__":
    serve()
