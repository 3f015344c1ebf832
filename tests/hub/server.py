"""A server that speaks the Hugging Face Hub's protocol, on loopback alone: publishing and loading are tested offline.

    with serve() as hub:
        hub.add_repo("tester/model", {"config.json": b"{}"})
        subprocess.run(command, env=client_environment(hub, tmp_path / "home", "hf_test"), check=True)
        assert hub.files("tester/model") == {"config.json": b"{}"}

It has two origins, as the Hub has: the Hub itself, and a "CDN" that large files are uploaded to and downloaded from,
where a bearer token must not arrive. It checks what the client never proves: the sha256 of what was uploaded.

What differs from the Hub: there are models only; the rules for the metadata of a card are only those written down here;
everything lives in memory; whoever may not write may not open a pull request either.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import yaml

LARGE = 10 * 2**20  # a file of this size goes to LFS, whatever it is called
LFS_ENDINGS = (".bin", ".gz", ".npy", ".npz", ".onnx", ".pkl", ".png", ".pt", ".pth", ".safetensors", ".tar", ".zip")
GIT_ATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS_ENDINGS).encode()
Origin = Literal["hub", "cdn"]
Kind = int | float | Literal["drop", "drop_after"]


class User(NamedTuple):
    """Whom a token belongs to, and what it may do in the namespaces of that user."""

    name: str
    role: Literal["read", "write"] = "write"
    orgs: tuple[str, ...] = ()

    def writes(self, namespace: str) -> bool:
        return self.role == "write" and namespace in (self.name, *self.orgs)


TOKENS = {"hf_test": User("tester"), "hf_read": User("tester", "read"), "hf_other": User("other")}


class Fault(NamedTuple):
    """What goes wrong once, with the request of that number, or the first of that method with that text in its path.

    `kind` is a status to answer with nothing done, "drop" (the connection is closed, and the request has had no
    effect), "drop_after" (it is closed after the request took effect), or, below 100, seconds to wait before it is
    handled as any other.
    """

    where: int | tuple[str, str]
    kind: Kind

    def meets(self, request: "Request") -> bool:
        if isinstance(self.where, int):
            return self.where == request.index
        method, text = self.where
        return method == request.method and text in request.path


@dataclass
class Request:
    """A request that arrived, and what was answered: None before the answer, or if there was none."""

    index: int
    origin: Origin
    method: str
    path: str  # with the query
    headers: dict[str, str]  # names in small letters
    body: bytes = b""
    status: int | None = None


@dataclass(frozen=True)
class Blob:
    """A file; data is None where only the Xet store has it."""

    sha256: str
    size: int
    lfs: bool
    data: bytes | None

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def git_oid(self) -> str:
        content = self.pointer if self.lfs else self.data or b""
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def oid(self) -> str:
        """What a client compares with its own file, to see whether it has changed."""
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """A commit: all its files, not only those it changed."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Blob]


@dataclass
class Discussion:
    """A discussion, or a pull request, whose commits are then at refs/pr/{num}."""

    num: int
    title: str
    description: str
    author: str
    status: str
    is_pull_request: bool
    date: str
    base: str  # the commit of main that it began with
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"


@dataclass
class Repo:
    """A repository of a model."""

    id: str
    private: bool
    created: str
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS objects that were uploaded, committed or not

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def find(self, revision: str) -> Commit | None:
        """Return the commit of a branch, a tag, a pull request or a hash (seven digits are enough)."""
        short = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        for refs in (self.branches, self.tags, self.pulls):
            if short in refs:
                return self.commits[refs[short]]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            return next((commit for oid, commit in self.commits.items() if oid.startswith(revision)), None)
        return None

    def moving(self, revision: str) -> dict[str, str] | None:
        """Return the table that a commit to this revision changes, if one can commit to it at all."""
        return next((refs for refs in (self.branches, self.pulls) if revision in refs), None)

    def add(
        self, refs: dict[str, str], ref: str, files: dict[str, Blob], title: str, *, author: str, message: str = ""
    ) -> str:
        """Add a commit on top of a ref, or the first one, and return its hash."""
        parent = refs.get(ref)
        listing = sorted((path, blob.git_oid) for path, blob in files.items())
        oid = hashlib.sha1(repr((self.id, len(self.commits), parent, title, message, listing)).encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, message, author, _now(), dict(files))
        refs[ref] = oid
        return oid

    def history(self, commit: Commit) -> Iterator[Commit]:
        """Yield a commit and those before it, the newest first."""
        at: Commit | None = commit
        while at is not None:
            yield at
            at = self.commits[at.parent] if at.parent else None


class Hub:
    """The state of the server, and what tests do with it directly.

    `faults` is a list, of which each fires once, or a function of the request that returns a kind or None. `corrupt`
    maps a path in a repository to a function of its bytes, which downloads are served through, while all headers stay
    those of the true file; `corrupt_times` says for how many downloads (without an entry: for all).
    """

    def __init__(
        self,
        *,
        part_size: int | None = None,
        xet_cas: str | None = None,
        page_size: int = 1000,
        tokens: Mapping[str, User] | None = None,
    ) -> None:
        self.url = self.cdn = ""
        self.part_size, self.xet_cas, self.page_size = part_size, xet_cas, page_size
        self.tokens = dict(TOKENS if tokens is None else tokens)
        self.repos: dict[str, Repo] = {}
        self.log: list[Request] = []
        self.faults: list[Fault] | Callable[[Request], Kind | None] = []
        self.corrupt: dict[str, Callable[[bytes], bytes]] = {}
        self.corrupt_times: dict[str, int] = {}
        self.errors: list[str] = []  # tracebacks of the server itself
        self.parts: dict[tuple[str, str], dict[int, bytes]] = {}
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._secret = secrets.token_bytes(16)

    def add_repo(self, repo_id: str, files: dict[str, bytes], private: bool = False) -> str:
        """Commit exactly these files to main, without any check, in a repository that is made if need be."""
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(repo_id, private, _now()))
            repo.private = private
            blobs = {path: _blob(content, _is_lfs(path, len(content))) for path, content in files.items()}
            repo.objects.update({blob.sha256: blob.data or b"" for blob in blobs.values() if blob.lfs})
            return repo.add(repo.branches, "main", blobs, "Add files", author=repo.namespace)

    def head(self, repo_id: str, revision: str = "main") -> str:
        """Return the hash of the commit of a revision."""
        with self.lock:
            commit = self.repos[repo_id].find(revision)
            if commit is None:
                raise KeyError(f"{repo_id} has no revision {revision}")
            return commit.oid

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return the contents of all files of a revision."""
        with self.lock:
            blobs = self.repos[repo_id].commits[self.head(repo_id, revision)].files
            missing = [path for path, blob in blobs.items() if blob.data is None]
            if missing:
                raise ValueError(f"only the Xet store has the contents of {missing}")
            return {path: blob.data or b"" for path, blob in blobs.items()}

    def snapshot(self) -> Any:
        """Return what clients can see of all repositories, to compare (uploads without a commit do not count)."""
        with self.lock:
            return {repo.id: _repo_snapshot(repo) for repo in self.repos.values()}

    def reset_log(self) -> None:
        """Forget the requests so far, and number the next one 0."""
        with self.lock:
            self.log.clear()

    def requests(self, method: str | None = None, text: str = "", origin: Origin | None = None) -> list[Request]:
        """Return the requests of the log with this method, this text in the path, and this origin."""
        with self.lock:
            return [
                request
                for request in self.log
                if method in (None, request.method) and text in request.path and origin in (None, request.origin)
            ]

    def arrived(self, origin: Origin, method: str, path: str, headers: dict[str, str]) -> tuple[Request, Kind | None]:
        """Number a request, and say what goes wrong with it."""
        with self.lock:
            request = Request(len(self.log), origin, method, path, headers)
            self.log.append(request)
            return request, self._fault(request)

    def _fault(self, request: Request) -> Kind | None:
        if callable(self.faults):
            return self.faults(request)
        fault = next((fault for fault in self.faults if fault.meets(request)), None)
        if fault is None:
            return None
        self.faults.remove(fault)
        return fault.kind

    def served(self, path: str, data: bytes) -> bytes:
        """Return what a download of a file gets."""
        change, times = self.corrupt.get(path), self.corrupt_times.get(path)
        if change is None or times == 0:
            return data
        if times is not None:
            self.corrupt_times[path] = times - 1
        return change(data)

    def signed(self, path: str, **query: Any) -> str:
        """Add a query that lets a request in without a token, as the addresses of a CDN have."""
        bare = f"{path}?{urlencode(query)}"
        return f"{bare}&signature={self._signature(bare)}"

    def is_signed(self, path: str) -> bool:
        bare, _, signature = path.partition("&signature=")
        return hmac.compare_digest(signature.encode(), self._signature(bare).encode())

    def _signature(self, path: str) -> str:
        return hmac.digest(self._secret, path.encode(), "sha256").hex()


def _repo_snapshot(repo: Repo) -> Any:
    commits = {
        oid: (commit.parent, commit.title, {path: blob.oid for path, blob in commit.files.items()})
        for oid, commit in repo.commits.items()
    }
    threads = [(talk.num, talk.title, talk.status, talk.is_pull_request) for talk in repo.discussions]
    return (repo.private, commits, dict(repo.branches), dict(repo.tags), dict(repo.pulls), threads)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _blob(data: bytes, lfs: bool) -> Blob:
    return Blob(hashlib.sha256(data).hexdigest(), len(data), lfs, data)


def _is_lfs(path: str, size: int) -> bool:
    return size > 0 and (size >= LARGE or path.lower().endswith(LFS_ENDINGS))


# Answers


@dataclass
class Answer:
    """An answer; the length in its header is that of the body unless given."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


class Refusal(Exception):  # noqa: N818 (an answer, not an error of the server)
    """An answer that says no, in the way the Hub says it."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers

    def answer(self) -> Answer:
        line = " ".join(self.message.encode("ascii", "replace").decode().split())
        headers = {"X-Error-Message": line, **{name.replace("_", "-"): text for name, text in self.headers.items()}}
        if self.code:
            headers["X-Error-Code"] = self.code
        return _json({"error": self.message}, self.status, headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(json.dumps(value).encode(), status, {**kind, **(headers or {})})


@dataclass
class Call:
    """A request on its way to the function that answers it."""

    hub: Hub
    request: Request
    groups: dict[str, str]  # of the address, unquoted
    query: dict[str, list[str]]

    @property
    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.request.body)
        except ValueError as error:
            raise Refusal(400, f"the body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise Refusal(400, "the body is not a JSON object")
        return value

    @property
    def user(self) -> User | None:
        """Whose token came with it; None without one."""
        header = self.request.headers.get("authorization")
        if header is None:
            return None
        user = self.hub.tokens.get(header.removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["0"])[0].lower() in ("1", "true")

    def owner(self, namespace: str) -> User:
        """Return the user, who must be allowed to write."""
        user = self.user
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not user.writes(namespace):
            raise Refusal(403, f"This token of {user.name} may not write to {namespace}")
        return user

    def read(self, repo_id: str | None = None) -> Repo:
        """Return the repository, if it is there for this user."""
        repo, user = self.hub.repos.get(repo_id or self.groups["repo"]), self.user
        if repo is not None and (not repo.private or (user and repo.namespace in (user.name, *user.orgs))):
            return repo
        if user is None:
            raise Refusal(401, "Repository not found, or you are not logged in", "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")

    def write(self, repo_id: str | None = None) -> tuple[Repo, User]:
        repo = self.read(repo_id)
        return repo, self.owner(repo.namespace)

    def commit(self, repo: Repo, revision: str | None = None) -> Commit:
        name = revision or self.groups.get("revision") or "main"
        commit = repo.find(name)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return commit


Handler = Callable[[Call], Answer]
ROUTES: list[tuple[Origin, str, re.Pattern[str], Handler]] = []
MODEL = r"/api/models/(?P<repo>[^/]+/[^/]+)"
REVISION = r"(?P<revision>refs/[^/]+/[^/]+|[^/]+)"


def _route(method: str, path: str, origin: Origin = "hub") -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        ROUTES.append((origin, method, re.compile(path), handler))
        return handler

    return register


def _answer(hub: Hub, request: Request) -> Answer:
    """Find who answers a request, and let it."""
    address = urlsplit(request.path)
    method = "GET" if request.method == "HEAD" else request.method
    try:
        if request.origin == "cdn" and "authorization" in request.headers:
            raise Refusal(400, "a bearer token has no business here")
        for origin, verb, pattern, handler in ROUTES:
            match = pattern.fullmatch(address.path)
            if match and (origin, verb) == (request.origin, method):
                groups = {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
                with hub.lock:
                    return handler(Call(hub, request, groups, parse_qs(address.query, keep_blank_values=True)))
        raise Refusal(404, f"Sorry, we can't find the page: {request.method} {address.path}")
    except Refusal as refusal:
        return refusal.answer()


# Users and repositories


@_route("GET", "/api/whoami-v2")
def _whoami(call: Call) -> Answer:
    user = call.user
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role, "createdAt": _now()}}
    orgs = [{"type": "org", "name": org, "roleInOrg": "admin"} for org in user.orgs]
    return _json(
        {"type": "user", "id": user.name, "name": user.name, "fullname": user.name, "orgs": orgs, "auth": auth}
    )


def _named(call: Call) -> str:
    """Return the repository that a body names; without a namespace it is the user's."""
    body = call.json
    if body.get("type") not in (None, "model"):
        raise Refusal(400, "only models are served here")
    user = call.user
    return f"{body.get('organization') or (user.name if user else '')}/{body.get('name')}"


@_route("POST", "/api/repos/create")
def _create_repo(call: Call) -> Answer:
    repo_id = _named(call)
    user = call.owner(repo_id.split("/")[0])
    if (
        not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo_id)
        or "--" in repo_id
        or ".." in repo_id
        or len(repo_id) > 96
    ):
        raise Refusal(400, f"Invalid repository name: {repo_id}")
    url = {"url": f"{call.hub.url}/{repo_id}", "name": repo_id}
    if repo_id in call.hub.repos:
        return _json({"error": "You already created this model repo", **url}, 409)
    private = call.json.get("visibility") == "private" or call.json.get("private") is True
    repo = call.hub.repos[repo_id] = Repo(repo_id, private, _now())
    repo.add(
        repo.branches, "main", {".gitattributes": _blob(GIT_ATTRIBUTES, False)}, "initial commit", author=user.name
    )
    return _json(url)


@_route("DELETE", "/api/repos/delete")
def _delete_repo(call: Call) -> Answer:
    repo, _ = call.write(_named(call))
    del call.hub.repos[repo.id]
    return _json({})


@_route("PUT", f"{MODEL}/settings")
def _settings(call: Call) -> Answer:
    repo, _ = call.write()
    body = call.json
    if body.get("visibility") not in (None, "public", "private"):
        raise Refusal(400, "visibility must be public or private")
    if "visibility" in body or "private" in body:
        repo.private = body.get("visibility") == "private" or body.get("private") is True
    return _json({"private": repo.private})


@_route("GET", MODEL)
@_route("GET", f"{MODEL}/revision/{REVISION}")
def _info(call: Call) -> Answer:
    repo = call.read()
    commit = call.commit(repo)
    card = _card_data(commit)
    info: dict[str, Any] = {
        "_id": hashlib.md5(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.namespace,
        "sha": commit.oid,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "createdAt": repo.created,
        "lastModified": commit.date,
        "cardData": card,
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "tags": _info_tags(card),
        "siblings": [_sibling(path, blob, call.flag("blobs")) for path, blob in sorted(commit.files.items())],
        "usedStorage": sum(blob.size for blob in commit.files.values()),
    }
    wanted = call.query.get("expand", []) + call.query.get("expand[]", [])
    return _json({name: info[name] for name in ("_id", "id", *wanted) if name in info} if wanted else info)


def _sibling(path: str, blob: Blob, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    lfs = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return {"rfilename": path, "blobId": blob.git_oid, "size": blob.size, **({"lfs": lfs} if blob.lfs else {})}


def _info_tags(card: dict[str, Any]) -> list[str]:
    tags = [tag for tag in card.get("tags") or [] if isinstance(tag, str)]
    named = [card[name] for name in ("library_name", "pipeline_tag") if isinstance(card.get(name), str)]
    licence = [f"license:{card['license']}"] if isinstance(card.get("license"), str) else []
    return list(dict.fromkeys([*named, *tags, *licence]))


def _card_data(commit: Commit) -> dict[str, Any]:
    readme = commit.files.get("README.md")
    if readme is None or readme.data is None:
        return {}
    match = FRONT_MATTER.match(readme.data.decode(errors="replace"))
    try:
        data = yaml.safe_load(match[2]) if match else None
        card = json.loads(json.dumps(data, default=str))  # dates and the like, which JSON does not have, as text
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # cards of `add_repo` may be hostile
        return {}
    return card if isinstance(card, dict) else {}


# Files of a revision


def _entries(repo: Repo, commit: Commit, expand: bool) -> dict[str, dict[str, Any]]:
    """Return what a listing says about every file and folder of a commit, by path."""
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(commit.files.items()):
        entry = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
        if expand:
            entry |= {"lastCommit": _last_change(repo, commit, path), "securityFileStatus": None}
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            entries[folder] = {
                "type": "directory",
                "path": folder,
                "size": 0,
                "oid": hashlib.sha1(folder.encode()).hexdigest(),
            }
        entries[path] = entry
    return entries


def _last_change(repo: Repo, commit: Commit, path: str) -> dict[str, str]:
    last = commit
    for older in repo.history(commit):
        if older.files.get(path) != commit.files[path]:
            break
        last = older
    return {"id": last.oid, "title": last.title, "date": last.date}


@_route("GET", f"{MODEL}/tree/{REVISION}(?:/(?P<path>.+))?")
def _tree(call: Call) -> Answer:
    repo = call.read()
    entries = _entries(repo, call.commit(repo), call.flag("expand"))
    folder = call.groups.get("path", "").strip("/")
    if folder and entries.get(folder, {}).get("type") != "directory":
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
    inside = [entry for path, entry in entries.items() if not folder or path.startswith(f"{folder}/")]
    if not call.flag("recursive"):
        inside = [entry for entry in inside if "/" not in entry["path"][len(folder) :].strip("/")]
    return _page(call, inside)


def _page(call: Call, items: list[Any]) -> Answer:
    """Return one page, and where the next one is."""
    start, size = int(call.query.get("cursor", ["0"])[0]), call.hub.page_size
    headers = {}
    if start + size < len(items):
        query = urlencode({**call.query, "cursor": [str(start + size)]}, doseq=True)
        headers["Link"] = f'<{call.hub.url}{urlsplit(call.request.path).path}?{query}>; rel="next"'
    return _json(items[start : start + size], headers=headers)


@_route("POST", f"{MODEL}/paths-info/{REVISION}")
def _paths_info(call: Call) -> Answer:
    repo = call.read()
    if call.request.headers.get("content-type", "").startswith("application/json"):
        form = {name: value if isinstance(value, list) else [str(value)] for name, value in call.json.items()}
    else:
        form = parse_qs(call.request.body.decode())
    entries = _entries(repo, call.commit(repo), form.get("expand", [""])[0].lower() == "true")
    return _json([entries[path.strip("/")] for path in form.get("paths", []) if path.strip("/") in entries])


@_route("GET", f"{MODEL}/commits/{REVISION}")
def _commits(call: Call) -> Answer:
    repo = call.read()
    return _page(
        call,
        [
            {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.message,
                "authors": [{"user": commit.author}],
                "date": commit.date,
            }
            for commit in repo.history(call.commit(repo))
        ],
    )


# Branches and tags


@_route("GET", f"{MODEL}/refs")
def _refs(call: Call) -> Answer:
    repo = call.read()

    def listed(refs: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in refs.items()]

    answer = {"branches": listed(repo.branches, "refs/heads/"), "converts": [], "tags": listed(repo.tags, "refs/tags/")}
    if call.flag("include_prs"):
        answer["pullRequests"] = listed(repo.pulls, "")
    return _json(answer)


def _check_ref(name: Any) -> str:
    wrong = r"\.\.|//|@\{|[\x00-\x20~^:?*\[\\\x7f]|^[-/.]|[/.]$|\.lock$|^refs/"
    if not isinstance(name, str) or not name or re.search(wrong, name):
        raise Refusal(400, f"Invalid reference name: {name}")
    return name


def _create_ref(refs: dict[str, str], name: Any, commit: Commit) -> Answer:
    if _check_ref(name) in refs:
        raise Refusal(409, f"Reference {name} exists already")
    refs[name] = commit.oid
    return _json({})


def _delete_ref(refs: dict[str, str], name: str) -> Answer:
    if name not in refs:
        raise Refusal(404, f"Reference {name} does not exist", "RevisionNotFound")
    del refs[name]
    return _json({})


@_route("POST", f"{MODEL}/branch/(?P<name>.+)")
def _create_branch(call: Call) -> Answer:
    repo, _ = call.write()
    start = call.json.get("startingPoint") if call.request.body else None
    return _create_ref(repo.branches, call.groups["name"], call.commit(repo, start))


@_route("DELETE", f"{MODEL}/branch/(?P<name>.+)")
def _delete_branch(call: Call) -> Answer:
    repo, _ = call.write()
    if call.groups["name"] == "main":
        raise Refusal(403, "main cannot be deleted")
    return _delete_ref(repo.branches, call.groups["name"])


@_route("POST", f"{MODEL}/tag/{REVISION}")
def _create_tag(call: Call) -> Answer:
    repo, _ = call.write()
    return _create_ref(repo.tags, call.json.get("tag"), call.commit(repo))


@_route("DELETE", f"{MODEL}/tag/(?P<name>.+)")
def _delete_tag(call: Call) -> Answer:
    repo, _ = call.write()
    return _delete_ref(repo.tags, call.groups["name"])


# Discussions and pull requests


def _open(repo: Repo, user: User, title: str, description: str, *, status: str, pull_request: bool) -> Discussion:
    num, base = len(repo.discussions) + 1, repo.branches["main"]
    talk = Discussion(num, title, description, user.name, status, pull_request, _now(), base)
    repo.discussions.append(talk)
    if pull_request:
        repo.pulls[talk.ref] = base
    return talk


def _shown(repo: Repo, talk: Discussion) -> dict[str, Any]:
    return {
        "num": talk.num,
        "title": talk.title,
        "author": {"name": talk.author},
        "createdAt": talk.date,
        "status": talk.status,
        "repo": {"name": repo.id, "type": "model"},
        "isPullRequest": talk.is_pull_request,
    }


@_route("POST", f"{MODEL}/discussions")
def _create_discussion(call: Call) -> Answer:
    repo, user = call.write()
    body = call.json
    title, pull_request = str(body.get("title", "")).strip(), body.get("pullRequest") is True
    if not 3 <= len(title) <= 200:
        raise Refusal(400, "a title has 3 to 200 characters")
    status = "draft" if pull_request else "open"
    talk = _open(repo, user, title, str(body.get("description", "")), status=status, pull_request=pull_request)
    return _json(
        {"num": talk.num, "url": f"{call.hub.url}/{repo.id}/discussions/{talk.num}", "pullRequest": pull_request}
    )


@_route("GET", f"{MODEL}/discussions")
def _discussions(call: Call) -> Answer:
    repo = call.read()
    only = {name: call.query[name][0] for name in ("type", "status", "author") if name in call.query}

    def wanted(talk: Discussion) -> bool:
        of_type = {"pull_request": talk.is_pull_request, "discussion": not talk.is_pull_request}
        is_open = talk.status in ("open", "draft")
        return (
            of_type.get(only.get("type", ""), True)
            and {"open": is_open, "closed": not is_open}.get(only.get("status", ""), True)
            and only.get("author", talk.author) == talk.author
        )

    shown = [_shown(repo, talk) for talk in reversed(repo.discussions) if wanted(talk)]
    start = int(call.query.get("p", ["0"])[0]) * call.hub.page_size
    return _json({"discussions": shown[start : start + call.hub.page_size], "count": len(shown), "start": start})


def _discussion(call: Call, repo: Repo) -> Discussion:
    num = int(call.groups["num"])
    if not 1 <= num <= len(repo.discussions):
        raise Refusal(404, f"there is no discussion {num}")
    return repo.discussions[num - 1]


@_route("GET", rf"{MODEL}/discussions/(?P<num>\d+)")
def _discussion_details(call: Call) -> Answer:
    repo = call.read()
    talk = _discussion(call, repo)
    details: dict[str, Any] = {"events": talk.events, "diff": "", "filesWithConflicts": []}
    if talk.is_pull_request:
        details |= {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": sorted(_conflicts(repo, talk))}
    return _json({**_shown(repo, talk), **details})


def _set_status(talk: Discussion, user: User, status: str) -> Answer:
    talk.status = status
    event = {"id": f"{talk.num}-{len(talk.events)}", "type": "status-change", "author": {"name": user.name}}
    talk.events.append({**event, "createdAt": _now(), "data": {"status": status}})
    return _json({"newStatus": talk.events[-1]})


@_route("POST", rf"{MODEL}/discussions/(?P<num>\d+)/status")
def _change_status(call: Call) -> Answer:
    repo, user = call.write()
    if call.json.get("status") not in ("open", "closed"):
        raise Refusal(400, "a status is open or closed")
    return _set_status(_discussion(call, repo), user, call.json["status"])


def _changes(old: Commit, new: Commit) -> dict[str, Blob | None]:
    paths = sorted({*old.files, *new.files})
    return {path: new.files.get(path) for path in paths if old.files.get(path) != new.files.get(path)}


def _conflicts(repo: Repo, talk: Discussion) -> set[str]:
    """Return the files that both a pull request and main have changed since it began."""
    base, ours, theirs = (repo.commits[oid] for oid in (talk.base, repo.branches["main"], repo.pulls[talk.ref]))
    mine, other = _changes(base, ours), _changes(base, theirs)
    return {path for path in mine if path in other and mine[path] != other[path]}


@_route("POST", rf"{MODEL}/discussions/(?P<num>\d+)/merge")
def _merge(call: Call) -> Answer:
    repo, user = call.write()
    talk = _discussion(call, repo)
    if not talk.is_pull_request or talk.status not in ("open", "draft") or _conflicts(repo, talk):
        raise Refusal(400, f"number {talk.num} cannot be merged")
    changes = _changes(repo.commits[talk.base], repo.commits[repo.pulls[talk.ref]])
    merged = {**repo.commits[repo.branches["main"]].files, **changes}
    files = {path: blob for path, blob in merged.items() if blob is not None}
    repo.add(repo.branches, "main", files, f"{talk.title} (#{talk.num})", author=user.name)
    return _set_status(talk, user, "merged")


# The metadata of a card

FRONT_MATTER = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key stands once, as in the Hub's parser."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"duplicated mapping key {twice[0]!r}", node.start_mark)
        return super().construct_mapping(node, deep)


def card_problems(content: str) -> tuple[list[str], list[str]]:
    """Return what is wrong with the metadata of a card, and what is only worth a warning."""
    match = FRONT_MATTER.match(content)
    try:
        data = yaml.load(match[2], _UniqueKeys) if match else None
    except yaml.YAMLError as error:
        return [f"YAML: {' '.join(str(error).split())}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"], []
    return [*_plain_problems(data), *_index_problems(data.get("model-index", []))], []


def _plain_problems(data: dict[Any, Any]) -> list[str]:
    def strings(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    words = [
        f'"{key}" must be a string'
        for key in ("license", "library_name", "pipeline_tag")
        if key in data and not isinstance(data[key], str)
    ]
    lists = ['"tags" must be a list of strings'] if "tags" in data and not strings(data["tags"]) else []
    either = [
        f'"{key}" must be a string or a list of strings'
        for key in ("base_model", "datasets", "language", "metrics")
        if key in data and not isinstance(data[key], str) and not strings(data[key])
    ]
    return words + lists + either


def _index_problems(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be a list']
    problems = []
    for place, model in enumerate(index):
        at = f"model-index[{place}]"
        problems += _missing(model, at, ["name"])
        results = model.get("results") if isinstance(model, dict) else None
        if not isinstance(results, list):
            problems.append(f'"{at}.results" must be a list')
            continue
        for number, result in enumerate(results):
            problems += _result_problems(result, f"{at}.results[{number}]")
    return problems


def _result_problems(result: Any, at: str) -> list[str]:
    if not isinstance(result, dict):
        return [f'"{at}" must be a mapping']
    problems = _missing(result.get("task"), f"{at}.task", ["type"])
    problems += _missing(result.get("dataset"), f"{at}.dataset", ["type", "name"])
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        return [*problems, f'"{at}.metrics" must be a list with an entry']
    for number, metric in enumerate(metrics):
        problems += _missing(metric, f"{at}.metrics[{number}]", ["type"], ["value"])
    return problems + (_missing(result["source"], f"{at}.source", ["url"]) if "source" in result else [])


def _missing(mapping: Any, at: str, words: list[str], values: list[str] | None = None) -> list[str]:
    """Say which keys a mapping lacks: those whose values are words, and those with values of any kind."""
    mapping = mapping if isinstance(mapping, dict) else {}
    lacking = [key for key in words if not isinstance(mapping.get(key), str) or not mapping[key]]
    return [f'"{at}.{key}" is required' for key in [*lacking, *(key for key in values or [] if key not in mapping)]]


@_route("POST", "/api/validate-yaml")
def _validate_yaml(call: Call) -> Answer:
    errors, warnings = card_problems(str(call.json.get("content", "")))
    messages = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return _json(messages, 400 if errors else 200)


# Uploads


@_route("POST", f"{MODEL}/preupload/{REVISION}")
def _preupload(call: Call) -> Answer:
    repo, _ = call.write()
    now = call.commit(repo).files
    files = []
    for item in call.json.get("files", []):
        path = item["path"]
        mode = "lfs" if _is_lfs(path, item["size"]) else "regular"
        here = {"oid": now[path].oid} if path in now else {}
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **here})
    return _json({"files": files})


@_route("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
def _batch(call: Call) -> Answer:
    repo, _ = call.write()
    body = call.json
    if body.get("operation") != "upload" or body.get("hash_algo", "sha256") != "sha256":
        raise Refusal(400, "only uploads, by sha256")
    items = [(str(item["oid"]), int(item["size"])) for item in body.get("objects", [])]
    parted = call.hub.part_size is not None and "multipart" in body.get("transfers", [])
    objects = [_instructions(call.hub, repo, oid, size, parted) for oid, size in items]
    several = any("chunk_size" in thing.get("actions", {}).get("upload", {}).get("header", {}) for thing in objects)
    return _json({"transfer": "multipart" if several else "basic", "objects": objects})


def _instructions(hub: Hub, repo: Repo, oid: str, size: int, parted: bool) -> dict[str, Any]:
    """Say where an object is to be uploaded; one that is here already needs nothing."""
    answer: dict[str, Any] = {"oid": oid, "size": size}
    if not re.fullmatch(r"[0-9a-f]{64}", oid):
        return {**answer, "error": {"code": 422, "message": "the oid is not a sha256"}}
    if oid in repo.objects:
        return answer
    path = f"/upload/{repo.id}/{oid}"
    upload: dict[str, Any] = {"href": hub.cdn + hub.signed(path, size=size)}
    if parted and hub.part_size and size > hub.part_size:
        hub.parts[repo.id, oid] = {}
        numbers = range(1, -(-size // hub.part_size) + 1)
        header = {str(number): hub.cdn + hub.signed(path, size=size, part=number) for number in numbers}
        complete = hub.url + hub.signed("/api/complete_multipart", repo=repo.id, oid=oid, size=size)
        upload = {"href": complete, "header": {"chunk_size": str(hub.part_size), **header}}
    verify = {"href": f"{hub.url}/{repo.id}.git/info/lfs/objects/verify"}
    return {**answer, "authenticated": True, "actions": {"upload": upload, "verify": verify}}


def _check_signature(call: Call) -> None:
    if not call.hub.is_signed(call.request.path):
        raise Refusal(403, "the signature does not match")


def _store(hub: Hub, repo_id: str, oid: str, size: int, data: bytes) -> None:
    """Keep an uploaded object, if it is what it was said to be."""
    if len(data) != size or hashlib.sha256(data).hexdigest() != oid:
        raise Refusal(400, f"what came is not {oid} of {size} bytes")
    if repo_id not in hub.repos:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    hub.repos[repo_id].objects[oid] = data


@_route("PUT", "/upload/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})", "cdn")
def _put(call: Call) -> Answer:
    _check_signature(call)
    repo_id, oid, data = call.groups["repo"], call.groups["oid"], call.request.body
    if "part" in call.query:
        parts = call.hub.parts.get((repo_id, oid))
        if parts is None:
            raise Refusal(404, "this upload is over")
        parts[int(call.query["part"][0])] = data
    else:
        _store(call.hub, repo_id, oid, int(call.query["size"][0]), data)
    return Answer(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})


@_route("POST", "/api/complete_multipart")
def _complete(call: Call) -> Answer:
    _check_signature(call)
    repo_id, oid, size = (call.query[name][0] for name in ("repo", "oid", "size"))
    if call.hub.repos.get(repo_id) and oid in call.hub.repos[repo_id].objects:
        return _json({})  # the answer to an earlier completion was lost
    parts = call.hub.parts.get((repo_id, oid), {})
    expected = [
        {"partNumber": number, "etag": f'"{hashlib.md5(parts[number]).hexdigest()}"'} for number in sorted(parts)
    ]
    if call.json.get("parts") != expected or call.json.get("oid") != oid:
        raise Refusal(400, "the parts are not those that were uploaded")
    _store(call.hub, repo_id, oid, int(size), b"".join(parts[number] for number in sorted(parts)))
    del call.hub.parts[repo_id, oid]
    return _json({})


@_route("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/verify")
def _verify(call: Call) -> Answer:
    repo, _ = call.write()
    data = repo.objects.get(str(call.json.get("oid")))
    if data is None or len(data) != call.json.get("size"):
        raise Refusal(404, "there is no such object")
    return _json({})


# Commits


def path_problem(path: Any) -> str | None:
    """Say what is wrong with the path of a file in a repository."""
    if not isinstance(path, str) or not path:
        return "a path is a text"
    if path.startswith("/") or "\\" in path or re.search(r"[\x00-\x1f\x7f]", path) or re.match(r"[A-Za-z]:", path):
        return f"{path!r} is not a relative path with slashes"
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in path.split("/")):
        return f"{path!r} leaves the repository, or goes through .git"
    return None


def _operations(body: bytes) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """Return the header and the operations of a commit."""
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        pairs = [(str(line["key"]), dict(line["value"])) for line in lines]
    except (ValueError, KeyError, TypeError):
        raise Refusal(400, "the body is not lines of JSON with a key and a value") from None
    if not pairs or pairs[0][0] != "header" or not str(pairs[0][1].get("summary", "")).strip():
        raise Refusal(400, "the first line must be a header with a summary")
    if len(pairs) == 1:
        raise Refusal(400, "a commit changes something")
    return pairs[0][1], pairs[1:]


def _apply(hub: Hub, repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    path = str(value.get("path", ""))
    problem = path_problem(path.rstrip("/") if key == "deletedFolder" else path)
    if problem:
        raise Refusal(400, f"Invalid path: {problem}")
    if key == "file":
        files[path] = _regular(path, value)
    elif key == "lfsFile":
        files[path] = _uploaded(hub, repo, path, value)
    elif key in ("deletedFile", "deletedFolder"):
        gone = [path] if key == "deletedFile" else [name for name in files if name.startswith(path.rstrip("/") + "/")]
        if not gone or gone[0] not in files:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del files[name]
    else:
        raise Refusal(400, f"Unknown operation: {key}")


def _regular(path: str, value: dict[str, Any]) -> Blob:
    try:
        content = str(value.get("content", "")).encode()
        data = base64.b64decode(content, validate=True) if value.get("encoding") == "base64" else content
    except binascii.Error:
        raise Refusal(400, f"{path} is not base64") from None
    if len(data) >= LARGE:
        raise Refusal(400, f"{path} is too large for a commit without LFS")
    return _blob(data, False)


def _uploaded(hub: Hub, repo: Repo, path: str, value: dict[str, Any]) -> Blob:
    oid, size = str(value.get("oid")), value.get("size")
    data = repo.objects.get(oid)
    if value.get("algo") == "sha256":
        if data is not None and size in (None, len(data)):
            return Blob(oid, len(data), True, data)
        if data is None and isinstance(size, int) and oid in xet_hashes(hub.xet_cas):
            return Blob(oid, size, True, None)
    raise Refusal(400, f"{path}: an object {oid} of {size} bytes was never uploaded")


def _check_commit(files: dict[str, Blob]) -> None:
    """Refuse what only shows when all operations are done."""
    folders = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
    both = sorted(folders & set(files))
    if both:
        raise Refusal(400, f"{both[0]} is both a file and a folder")
    readme = files.get("README.md")
    errors = card_problems(readme.data.decode(errors="replace"))[0] if readme and readme.data else []
    if errors:
        raise Refusal(400, f"Invalid metadata in README.md: {errors[0]}")


@_route("POST", f"{MODEL}/commit/{REVISION}")
def _commit(call: Call) -> Answer:
    repo, user = call.write()
    header, operations = _operations(call.request.body)
    head, ref = call.commit(repo), call.groups["revision"].removeprefix("refs/heads/")
    refs = repo.moving(ref)
    if refs is None or (call.flag("create_pr") and ref != "main"):
        raise Refusal(400, f"{ref} is not a branch to commit to")
    if header.get("parentCommit") not in (None, head.oid):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for key, value in operations:
        _apply(call.hub, repo, files, key, value)
    _check_commit(files)
    title, message = header["summary"], str(header.get("description", ""))
    answer: dict[str, Any] = {"success": True, "hookOutput": ""}
    if call.flag("create_pr"):
        talk = _open(repo, user, title, message, status="open", pull_request=True)
        refs, ref = repo.pulls, talk.ref
        answer["pullRequestUrl"] = f"{call.hub.url}/{repo.id}/discussions/{talk.num}"
    oid = repo.add(refs, ref, files, title, author=user.name, message=message)
    return _json({**answer, "commitOid": oid, "commitUrl": f"{call.hub.url}/{repo.id}/commit/{oid}"})


# Downloads


@_route("GET", f"/(?P<repo>[^/]+/[^/]+)/resolve/{REVISION}/(?P<path>.+)")
def _resolve(call: Call) -> Answer:
    repo = call.read()
    commit, path = call.commit(repo), call.groups["path"]
    blob = commit.files.get(path)
    if blob is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.git_oid}"'}
    if not blob.lfs:
        return _content(call, path, blob.data or b"", headers)
    headers |= {
        "X-Linked-Etag": f'"{blob.sha256}"',
        "X-Linked-Size": str(blob.size),
        **_xet_headers(call, repo, commit, blob),
    }
    place = call.hub.signed(f"/{quote(repo.id)}/{blob.sha256}", file=path)
    return Answer(b"Found", 302, {**headers, "Location": call.hub.cdn + place})


@_route("GET", "/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})", "cdn")
def _get_object(call: Call) -> Answer:
    _check_signature(call)
    repo = call.hub.repos.get(call.groups["repo"])
    data = repo.objects.get(call.groups["oid"]) if repo else None
    if data is None:
        raise Refusal(404, "there is no such object")
    return _content(call, call.query["file"][0], data, {"ETag": f'"{hashlib.md5(data).hexdigest()}"'})


def _content(call: Call, path: str, data: bytes, headers: dict[str, str]) -> Answer:
    """Return a file, or the range of it that is asked for."""
    headers = {**headers, "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    served = call.hub.served(path, data) if call.request.method == "GET" else data
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", call.request.headers.get("range", ""))
    if not match or match[0] == "bytes=-":
        return Answer(served, 200, headers, len(data))
    start, stop = _span(match[1], match[2], len(data))
    if start >= stop:
        raise Refusal(416, "Range not satisfiable", Content_Range=f"bytes */{len(data)}")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Answer(served[start:stop], 206, headers, stop - start)


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


# Xet: the client's own file store stands in for the server that holds the chunks


@_route("GET", f"{MODEL}/xet-(?P<kind>read|write)-token/{REVISION}")
def _xet_token(call: Call) -> Answer:
    if call.groups["kind"] == "write":
        call.write()
    else:
        call.read()
    place = call.hub.xet_cas
    if place is None:
        raise Refusal(404, "there is no Xet store here")
    # the uploader reads the body, the downloader the headers
    expires = int(time.time()) + 3600
    headers = {"X-Xet-Cas-Url": place, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)}
    return _json({"casUrl": place, "accessToken": "xet", "exp": expires}, headers=headers)


def _xet_headers(call: Call, repo: Repo, commit: Commit, blob: Blob) -> dict[str, str]:
    xet_hash = xet_hashes(call.hub.xet_cas).get(blob.sha256)
    if xet_hash is None:
        return {}
    return {
        "X-Xet-Hash": xet_hash,
        "X-Xet-Refresh-Route": f"{call.hub.url}/api/models/{repo.id}/xet-read-token/{commit.oid}",
    }


def xet_hashes(xet_cas: str | None) -> dict[str, str]:
    """Return the Xet hash of every sha256 that a file store ("local:///folder") has."""
    found: dict[str, str] = {}
    if xet_cas is not None:
        for shard in Path(xet_cas.removeprefix("local://")).rglob("*.mdb"):
            found.update(_shard_hashes(shard.read_bytes()))
    return found


def _shard_hashes(shard: bytes) -> Iterator[tuple[str, str]]:
    """Yield the sha256 and the Xet hash of the files of a shard, which is made of records of 48 bytes."""

    def digits(place: int) -> str:
        words = (shard[place + 8 * word : place + 8 * word + 8] for word in range(4))
        return "".join(f"{int.from_bytes(word, 'little'):016x}" for word in words)

    at = 48
    while at + 48 <= len(shard) and shard[at : at + 32] != b"\xff" * 32:
        flags, segments = (int.from_bytes(shard[at + place : at + place + 4], "little") for place in (32, 36))
        after = at + 48 * (1 + segments * (2 if flags & 2**31 else 1))
        if flags & 2**30:
            yield digits(after), digits(at)
            after += 48
        at = after


# The servers


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def log_message(self, *args: Any) -> None:
        """Say nothing: the log is the hub's."""

    def handle_any(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): text for name, text in self.headers.items()}
        request, kind = hub.arrived(self.server.origin, self.command, self.path, headers)
        body = self._body(headers)
        if body is None or kind == "drop":
            self.close_connection = True
            return
        request.body = body
        if isinstance(kind, int | float) and kind < 100:
            hub.closing.wait(kind)
            kind = None
        answer = Refusal(kind, "a fault of the test").answer() if isinstance(kind, int) else self._answer(hub, request)
        if kind == "drop_after":
            self.close_connection = True
            return
        request.status = answer.status
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 (http.server's names)

    def _answer(self, hub: Hub, request: Request) -> Answer:
        try:
            return _answer(hub, request)
        except Exception:  # noqa: BLE001 (shown when the server ends, and the client must not wait)
            hub.errors.append(f"{request.method} {request.path}\n{traceback.format_exc()}")
            return Refusal(500, "the test server itself has failed").answer()

    def _body(self, headers: dict[str, str]) -> bytes | None:
        """Return the body, or None if the client left before it was complete."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        length = int(headers.get("content-length", "0"))
        body = self.rfile.read(length)
        return body if len(body) == length else None

    def _chunks(self) -> bytes | None:
        chunks: list[bytes] = []
        while line := self.rfile.readline():
            size = int(line.split(b";")[0], 16)
            chunk = self.rfile.read(size)
            if len(chunk) < size or not self.rfile.readline():
                return None
            if size == 0:
                return b"".join(chunks)
            chunks.append(chunk)
        return None

    def _send(self, answer: Answer) -> None:
        length = len(answer.body) if answer.length is None else answer.length
        self.send_response(answer.status)
        for name, text in {**answer.headers, "Content-Length": str(length)}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:length])
            self.close_connection |= len(answer.body) < length


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # they are waited for
    request_queue_size = 64

    def __init__(self, hub: Hub, origin: Origin) -> None:
        self.hub, self.origin, self.open = hub, origin, set[socket.socket]()
        super().__init__(("127.0.0.1", 0), _Connection)

    def server_bind(self) -> None:
        """Bind, without asking for the name of this machine as `HTTPServer` does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note what went wrong, unless the client merely left."""
        if not isinstance(sys.exception(), ConnectionError):
            self.hub.errors.append(traceback.format_exc())

    def stop(self) -> None:
        """Stop listening, hang up on clients that keep their connections, and wait for the threads."""
        self.shutdown()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


@contextmanager
def serve(
    *,
    part_size: int | None = None,
    xet_cas: str | None = None,
    page_size: int = 1000,
    tokens: Mapping[str, User] | None = None,
) -> Iterator[Hub]:
    """Serve a hub until the block ends.

    Args:
        part_size: Larger objects are uploaded in parts of this size; None for one PUT each.
        xet_cas: "local:///folder": files go through Xet, into this folder.
        page_size: How many entries a listing has per page.
        tokens: Who may do what; `TOKENS` if None.
    """
    hub = Hub(part_size=part_size, xet_cas=xet_cas, page_size=page_size, tokens=tokens)
    servers = [_Server(hub, "hub"), _Server(hub, "cdn")]
    hub.url, hub.cdn = f"http://127.0.0.1:{servers[0].server_port}", f"http://localhost:{servers[1].server_port}"
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        for server, thread in zip(servers, threads, strict=True):
            server.stop()
            thread.join()
    if hub.errors:
        raise AssertionError("\n".join(["the test server itself has failed:", *hub.errors]))


def client_environment(hub: Hub, home: Path, token: str | None) -> dict[str, str]:
    """Return the whole environment of a child process whose Hub is this server, and nothing else."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": token or "",  # an empty one is none
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1" if hub.xet_cas is None else "0",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
