"""The test server, against the client that it is made for, which runs unchanged in processes of its own."""

import base64
import hashlib
import http.client
import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hub.server import Fault, Hub, Request, User, card_problems, client_environment, path_problem, serve

MODEL = "tester/model"
WEIGHTS = bytes(range(256)) * 1000
PART = 100_000  # WEIGHTS have three parts, the last of them smaller
CARD = b"---\nlicense: mit\nlibrary_name: timm\ntags: [timm]\n---\n# A model\n"

# what every child begins with; `error` says what a call raised, and with which status
PRELUDE = """
import hashlib, json, os, sys, time
from pathlib import Path
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete, HfApi
from huggingface_hub import hf_hub_download, snapshot_download

WEIGHTS = bytes(range(256)) * 1000
CARD = b"---\\nlicense: mit\\nlibrary_name: timm\\ntags: [timm]\\n---\\n# A model\\n"
MODEL = "tester/model"
api = HfApi()
out = {}

def error(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as caught:
        response = getattr(caught, "response", None)
        return [type(caught).__name__, getattr(response, "status_code", None)]
    return None

def commit(repo=MODEL, api=api, **files):
    extra = {key: files.pop(key) for key in ("revision", "parent_commit", "create_pr") if key in files}
    operations = [Add(name.replace("_", "."), content) for name, content in files.items()]
    return api.create_commit(repo, operations, commit_message="a message", **extra)
"""


def client(hub: Hub, home: Path, script: str, token: str | None = "hf_test") -> Any:
    """Run a script of the client, and return what it put into `out`."""
    code = f"{PRELUDE}\n{script}\nprint(json.dumps(out))"
    home.mkdir(exist_ok=True)
    environment = {**client_environment(hub, home, token), "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def call(
    url: str, method: str = "GET", body: bytes | Any = b"", token: str | None = "hf_test", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send one request as it is, and return the status, the headers and the body of the answer."""
    address = urlsplit(url)
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    if token and address.hostname == "127.0.0.1":
        sent["Authorization"] = f"Bearer {token}"
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    with closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)) as connection:
        connection.request(method, address.path + (f"?{address.query}" if address.query else ""), body, sent)
        answer = connection.getresponse()
        return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()


def commit_lines(*operations: tuple[str, dict[str, Any]], parent: str | None = None) -> bytes:
    header = {"summary": "a message", **({"parentCommit": parent} if parent else {})}
    lines = [("header", header), *operations]
    return b"\n".join(json.dumps({"key": key, "value": value}).encode() for key, value in lines)


def added(path: str, content: bytes = b"text") -> tuple[str, dict[str, Any]]:
    return "file", {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}


def first_upload(hub: Hub, data: bytes) -> str:
    """Ask where an object is to be uploaded."""
    body = {"operation": "upload", "objects": [{"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}]}
    status, _, answer = call(f"{hub.url}/{MODEL}.git/info/lfs/objects/batch", "POST", body)
    assert status == 200
    return json.loads(answer)["objects"][0]["actions"]["upload"]["href"]


PUBLISH = """
out["name"] = api.whoami()["name"]
out["url"] = str(api.create_repo(MODEL, private=True))
out["again"] = str(api.create_repo(MODEL, private=True, exist_ok=True))
out["exists"] = error(api.create_repo, MODEL)
first = commit(model_safetensors=WEIGHTS, README_md=CARD, config_json=b"{}", empty_bin=b"")
out["first"] = first.oid
out["read"] = {
    name: hashlib.sha256(Path(hf_hub_download(MODEL, name, revision=first.oid)).read_bytes()).hexdigest()
    for name in ("model.safetensors", "README.md", "empty.bin")
}
out["snapshot"] = sorted(path.name for path in Path(snapshot_download(MODEL)).iterdir())
out["reupload"] = commit(model_safetensors=WEIGHTS, README_md=CARD).oid
out["stale"] = error(commit, config_json=b"[]", parent_commit="0" * 40)
second = commit(config_json=b"[1]", parent_commit=first.oid)
out["second"] = second.oid
api.create_tag(MODEL, tag="v1", revision=first.oid, tag_message="the first")
out["tag exists"] = error(api.create_tag, MODEL, tag="v1")
api.create_tag(MODEL, tag="v1", exist_ok=True)
api.create_branch(MODEL, branch="side/way", revision="v1")
out["branch exists"] = error(api.create_branch, MODEL, branch="side/way")
commit(config_json=b"side", revision="side/way")
pull = commit(model_safetensors=WEIGHTS[::-1], create_pr=True)
out["pull"] = [pull.pr_num, pull.pr_revision, pull.oid]
commit(config_json=b"in the pull request", revision=pull.pr_revision)
draft = api.create_pull_request(MODEL, "A draft")
details = api.get_discussion_details(MODEL, pull.pr_num)
out["discussions"] = [[talk.num, talk.title, talk.status] for talk in api.get_repo_discussions(MODEL)]
out["details"] = [details.target_branch, details.conflicting_files, details.git_reference, draft.num, draft.status]
refs = api.list_repo_refs(MODEL, include_pull_requests=True)
out["refs"] = {ref.ref: ref.target_commit for ref in [*refs.branches, *refs.tags, *refs.pull_requests]}
api.merge_pull_request(MODEL, pull.pr_num)
out["closed"] = api.change_discussion_status(MODEL, draft.num, "closed").new_status
out["titles"] = [entry.title for entry in api.list_repo_commits(MODEL)]
info = api.model_info(MODEL, revision="v1", files_metadata=True)
out["info"] = [info.sha, info.private, info.library_name, info.card_data.license, info.tags]
out["siblings"] = {file.rfilename: [file.size, file.lfs and file.lfs.sha256] for file in info.siblings}
out["expanded"] = api.model_info(MODEL, expand=["sha", "private"]).sha
tree = api.list_repo_tree(MODEL, recursive=True, expand=True)
out["tree"] = {file.path: [file.size, file.last_commit.title] for file in tree}
out["paths"] = [file.path for file in api.get_paths_info(MODEL, ["config.json", "nowhere"])]
out["there"] = [api.file_exists(MODEL, name) for name in ("config.json", "nowhere")]
out["revision"] = api.revision_exists(MODEL, "v2")
out["missing"] = [error(hf_hub_download, MODEL, "nowhere"), error(hf_hub_download, MODEL, "README.md", revision="v2")]
api.create_commit(MODEL, [Delete("README.md")], commit_message="fewer")
out["deleted"] = error(api.create_commit, MODEL, [Delete("README.md")], commit_message="fewer still")
api.update_repo_settings(MODEL, private=False)
api.delete_tag(MODEL, tag="v1")
api.delete_branch(MODEL, branch="side/way")
out["main stays"] = error(api.delete_branch, MODEL, branch="main")
api.create_repo("tester/other")
api.delete_repo("tester/other")
out["gone"] = error(api.delete_repo, "tester/other")
"""


@pytest.mark.parametrize("part_size", [None, PART])
def test_publish_and_read_back(part_size: int | None, tmp_path: Path) -> None:
    with serve(part_size=part_size, page_size=2) as hub:
        out = client(hub, tmp_path, PUBLISH)
        assert hub.files(MODEL, out["first"])["model.safetensors"] == WEIGHTS
        assert hub.files(MODEL)["model.safetensors"] == WEIGHTS[::-1]
        assert hub.files(MODEL)["config.json"] == b"in the pull request"
        assert list(hub.repos) == [MODEL]
        assert not hub.repos[MODEL].private
        puts = hub.requests("PUT", "/upload/")
        log = list(hub.log)
    assert out["name"] == "tester"
    assert out["url"] == out["again"] == f"{hub.url}/{MODEL}"
    assert out["exists"][1] == out["tag exists"][1] == out["branch exists"][1] == 409
    contents = {"model.safetensors": WEIGHTS, "README.md": CARD, "empty.bin": b""}
    assert out["read"] == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    assert out["snapshot"] == sorted([".gitattributes", *contents, "config.json"])
    assert out["reupload"] == out["first"]
    assert out["stale"][1] == 412
    check_refs(out)
    check_listings(out)
    assert len(puts) == (2 if part_size is None else 6)  # two different weights were uploaded, each once
    assert {request.origin for request in puts} == {"cdn"}
    assert not any("authorization" in request.headers for request in log if request.origin == "cdn")
    assert [request.index for request in log] == list(range(len(log)))


def check_refs(out: dict[str, Any]) -> None:
    assert out["pull"][:2] == [1, "refs/pr/1"]
    assert out["discussions"] == [[2, "A draft", "draft"], [1, "a message", "open"]]
    assert out["details"] == ["refs/heads/main", [], "refs/pr/1", 2, "draft"]
    assert set(out["refs"]) == {"refs/heads/main", "refs/heads/side/way", "refs/tags/v1", "refs/pr/1", "refs/pr/2"}
    assert out["refs"]["refs/heads/main"] == out["refs"]["refs/pr/2"] == out["second"]
    assert out["refs"]["refs/tags/v1"] == out["first"]
    assert out["closed"] == "closed"
    assert out["titles"] == ["a message (#1)", "a message", "a message", "initial commit"]
    assert out["main stays"][1] == 403


def check_listings(out: dict[str, Any]) -> None:
    tags = ["timm", "license:mit"]
    assert out["info"] == [out["first"], True, "timm", "mit", tags]
    assert out["siblings"]["model.safetensors"] == [len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()]
    assert out["siblings"]["config.json"] == [2, None]
    assert len(out["expanded"]) == 40
    assert out["tree"]["config.json"] == [len(b"in the pull request"), "a message (#1)"]
    assert out["tree"]["README.md"] == [len(CARD), "a message"]
    assert len(out["tree"]) == 5  # on three pages
    assert out["paths"] == ["config.json"]
    assert out["there"] == [True, False]
    assert out["revision"] is False
    assert out["missing"] == [["RemoteEntryNotFoundError", 404], ["RevisionNotFoundError", 404]]
    assert out["deleted"] == ["RemoteEntryNotFoundError", 404]
    assert out["gone"] == ["RepositoryNotFoundError", 404]


ACCESS = """
users = {"nobody": False, "wrong": "hf_wrong", "reader": "hf_read", "other": "hf_other"}
for name, token in users.items():
    theirs = HfApi(token=token)
    out[name] = {
        "create": error(theirs.create_repo, "tester/new"),
        "private": error(theirs.model_info, "tester/private"),
        "download": error(hf_hub_download, "tester/private", "config.json", token=token, cache_dir=name),
        "public": error(theirs.model_info, "tester/public"),
        "commit": error(commit, "tester/public", theirs, config_json=b"[]"),
        "pull": error(theirs.create_pull_request, "tester/public", "A title"),
        "tag": error(theirs.create_tag, "tester/public", tag="v1"),
        "settings": error(theirs.update_repo_settings, "tester/public", private=True),
        "delete": error(theirs.delete_repo, "tester/public"),
    }
out["whoami"] = error(HfApi(token="hf_wrong").whoami)
member = HfApi(token="hf_member")
out["org"] = [error(member.create_repo, "club/model"), error(commit, "club/model", member, model_bin=WEIGHTS)]
bad = b"---\\nlicense: [\\n---\\n"
out["card"] = error(commit, "tester/public", model_bin=WEIGHTS, README_md=bad)
wrong = {"name": "m", "results": [{"task": {"type": "image-classification"}, "dataset": {"type": "cifar100"},
    "metrics": [{"type": "accuracy"}]}]}
index = ("---\\nmodel-index: " + json.dumps([wrong]) + "\\n---\\n").encode()
try:
    commit("tester/public", README_md=index)
except ValueError as caught:
    out["index"] = str(caught)
"""


def test_who_may_do_what(tmp_path: Path) -> None:
    tokens = {
        "hf_test": User("tester"),
        "hf_read": User("tester", "read"),
        "hf_other": User("other"),
        "hf_member": User("member", orgs=("club",)),
    }
    with serve(tokens=tokens) as hub:
        hub.add_repo("tester/private", {"config.json": b"{}"}, private=True)
        hub.add_repo("tester/public", {"config.json": b"{}"})
        before = hub.snapshot()
        out = client(hub, tmp_path, ACCESS)
        after = hub.snapshot()
        assert [request.path for request in hub.requests("PUT", origin="cdn")] != []  # the member's
        assert not hub.requests("PUT", "/upload/tester/public")  # a bad card is refused before any upload
    assert after.pop("club/model")
    assert after == before
    writes = {"create", "commit", "pull", "tag", "settings", "delete"}
    statuses = {name: {what: raised and raised[1] for what, raised in out[name].items()} for name in tokens_of(out)}
    for name, status in (("nobody", 401), ("wrong", 401), ("reader", 403), ("other", 403)):
        assert {what: statuses[name][what] for what in writes} == dict.fromkeys(writes, status), name
    assert out["nobody"]["private"] == out["nobody"]["download"] == ["RepositoryNotFoundError", 401]
    assert out["other"]["private"] == out["other"]["download"] == ["RepositoryNotFoundError", 404]
    assert out["reader"]["private"] is out["reader"]["download"] is None
    assert [out[name]["public"] for name in ("nobody", "reader", "other")] == [None, None, None]
    assert out["whoami"][1] == 401
    assert out["org"] == [None, None]
    assert out["card"] == ["ValueError", None]
    assert "dataset.name" in out["index"]
    assert "metrics[0].value" in out["index"]


def tokens_of(out: dict[str, Any]) -> list[str]:
    return [name for name, value in out.items() if isinstance(value, dict)]


FAULTS = """
def timed(*args, **kwargs):
    start = time.monotonic()
    return [error(*args, **kwargs), time.monotonic() - start]

out["put"] = error(commit, "tester/put", model_safetensors=WEIGHTS)
out["commit"] = error(commit, "tester/commit", config_json=b"[]")
out["drop"] = error(commit, "tester/drop", config_json=b"[]")
out["drop after"] = error(commit, "tester/drop_after", config_json=b"[]")
out["delay"], out["seconds"] = timed(commit, "tester/delay", config_json=b"[]")
out["resumed"] = [error(commit, "tester/resumed", model_safetensors=WEIGHTS) for _ in range(2)]

def digest(name="model.safetensors", **kwargs):
    return hashlib.sha256(Path(hf_hub_download("tester/corrupt", name, **kwargs)).read_bytes()).hexdigest()

out["flipped"] = digest()
out["true"] = digest(force_download=True)
out["flipped config"] = digest("config.json")
out["short"] = error(digest, "short.bin")
"""


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_faults_and_corruption(tmp_path: Path) -> None:
    names = ["put", "commit", "drop", "drop_after", "delay", "resumed"]
    with serve(part_size=PART) as hub:
        for name in names:
            hub.add_repo(f"tester/{name}", {"config.json": b"{}"})
        hub.add_repo("tester/corrupt", {"model.safetensors": WEIGHTS, "config.json": b"{}", "short.bin": WEIGHTS[1:]})
        hub.faults = [
            Fault(("PUT", "/upload/tester/put"), 503),
            Fault(("POST", "tester/commit/commit/"), 500),
            Fault(("POST", "tester/drop/commit/"), "drop"),
            Fault(("POST", "tester/drop_after/commit/"), "drop_after"),
            Fault(("POST", "tester/delay/commit/"), 0.5),
            Fault(("POST", "tester/resumed/commit/"), 502),
        ]
        hub.corrupt = {"model.safetensors": flipped, "config.json": flipped, "short.bin": lambda data: data[:-1]}
        hub.corrupt_times = {"model.safetensors": 1, "short.bin": 1}
        before = hub.snapshot()
        out = client(hub, tmp_path, FAULTS)
        assert hub.faults == []
        unchanged = {name for name in names if hub.snapshot()[f"tester/{name}"] == before[f"tester/{name}"]}
        assert hub.files("tester/put")["model.safetensors"] == WEIGHTS
        puts = [request.status for request in hub.requests("PUT", "/upload/tester/put")]
        resumed = [request.status for request in hub.requests("PUT", "/upload/tester/resumed")]
        ends = [request.status for request in hub.requests("POST", "tester/drop")[-2:]]
        downloads = [request.status for request in hub.requests("GET", "short.bin", "cdn")]
    assert unchanged == {"commit", "drop"}
    assert out["put"] is None
    assert puts == [503, 200, 200, 200]  # tried again by the client
    assert out["commit"][1] == 500
    assert out["drop"] == out["drop after"] == ["RemoteProtocolError", None]
    assert ends[-1] is None
    assert out["delay"] is None
    assert out["seconds"] >= 0.5
    assert [raised and raised[1] for raised in out["resumed"]] == [502, None]
    assert resumed == [200, 200, 200]  # by the first commit, and nothing again by the second
    assert out["flipped"] == hashlib.sha256(flipped(WEIGHTS)).hexdigest()
    assert out["true"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert out["flipped config"] == hashlib.sha256(flipped(b"{}")).hexdigest()
    assert out["short"] is None
    assert downloads == [200, 200]  # the client notices what is cut off, and asks again


@pytest.fixture
def hub() -> Any:
    with serve() as running:
        running.add_repo(MODEL, {"model.safetensors": WEIGHTS, "config.json": b"{}", "a/b.txt": b"b"}, private=True)
        yield running


@pytest.mark.parametrize(
    "path",
    ["../up", "a/../../up", "/etc/passwd", "C:/up", ".git/config", "a/.GIT/hooks", "a//b", "./a", "", "a\\b", "a\n"],
)
def test_paths_that_leave_the_repository(hub: Hub, path: str) -> None:
    assert path_problem(path)
    before = hub.snapshot()
    operations = [added(path), ("lfsFile", {"path": path, "algo": "sha256", "oid": "0" * 64, "size": 1})]
    for operation in [*operations, ("deletedFile", {"path": path})]:
        assert call(f"{hub.url}/api/models/{MODEL}/commit/main", "POST", commit_lines(operation))[0] == 400
    assert hub.snapshot() == before


def test_commits_that_are_refused(hub: Hub) -> None:
    never = {"path": "x.bin", "algo": "sha256", "oid": hashlib.sha256(b"never").hexdigest(), "size": 5}
    here = {**never, "oid": hashlib.sha256(WEIGHTS).hexdigest()}
    bodies = {
        "an object that was never uploaded": commit_lines(("lfsFile", never)),
        "an object of another size": commit_lines(("lfsFile", here)),
        "a file that is a folder": commit_lines(added("a")),
        "a folder that is a file": commit_lines(added("config.json/x")),
        "not base64": commit_lines(("file", {"path": "x", "content": "*", "encoding": "base64"})),
        "an unknown operation": commit_lines(("rename", {"path": "config.json"})),
        "a bad card": commit_lines(added("README.md", b"---\nlicense: 1\n---\n")),
        "nothing": commit_lines(),
        "no header": commit_lines(added("x")).split(b"\n", 1)[1],
        "not JSON": b"{",
    }
    before = hub.snapshot()
    url = f"{hub.url}/api/models/{MODEL}/commit"
    assert {name: call(f"{url}/main", "POST", body)[0] for name, body in bodies.items()} == dict.fromkeys(bodies, 400)
    sound = commit_lines(added("x"))
    assert call(f"{url}/{hub.head(MODEL)}", "POST", sound)[0] == 400  # not a branch
    assert call(f"{url}/nowhere", "POST", sound)[0] == 404
    assert call(f"{url}/main", "POST", commit_lines(added("x"), parent="0" * 40))[0] == 412
    assert hub.snapshot() == before
    assert call(f"{url}/main", "POST", commit_lines(added("x"), parent=hub.head(MODEL)))[0] == 200
    assert hub.snapshot() != before
    assert hub.files(MODEL)["x"] == b"text"


def test_bytes_that_are_not_the_object(hub: Hub) -> None:
    data = b"the bytes"
    place = first_upload(hub, data)
    assert call(place, "PUT", b"the bites")[0] == 400
    assert call(place, "PUT", data, Authorization="Bearer hf_test")[0] == 400  # a secret that went astray
    assert call(place.replace("size=9", "size=8"), "PUT", data)[0] == 403
    assert hashlib.sha256(data).hexdigest() not in hub.repos[MODEL].objects
    assert call(place, "PUT", data)[0] == 200
    assert hub.repos[MODEL].objects[hashlib.sha256(data).hexdigest()] == data


def test_upload_in_pieces(hub: Hub) -> None:
    """A body whose length is not known before, and one that ends too early, as when the client is killed."""
    place = urlsplit(first_upload(hub, b"the bytes"))
    target = f"{place.path}?{place.query}"
    with closing(http.client.HTTPConnection("127.0.0.1", place.port, timeout=20)) as connection:
        connection.request("PUT", target, b"the b", {"Content-Length": "9"})
    with closing(http.client.HTTPConnection("127.0.0.1", place.port, timeout=20)) as connection:
        connection.request("PUT", target, iter([b"the ", b"bytes"]), encode_chunked=True)
        assert connection.getresponse().status == 200
    end = time.monotonic() + 20
    while len(hub.requests("PUT")) < 2 and time.monotonic() < end:  # nobody waited for the first
        time.sleep(0.01)
    assert {request.status for request in hub.requests("PUT")} == {None, 200}


def test_download_of_a_range(hub: Hub) -> None:
    status, headers, _ = call(f"{hub.url}/{MODEL}/resolve/main/model.safetensors", "HEAD")
    assert status == 302
    assert headers["x-linked-etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert headers["x-linked-size"] == str(len(WEIGHTS))
    assert headers["x-repo-commit"] == hub.head(MODEL)
    place, size = headers["location"], len(WEIGHTS)
    for wanted, start, stop in (
        ("bytes=10-19", 10, 20),
        (f"bytes={size - 5}-", size - 5, size),
        ("bytes=-3", size - 3, size),
    ):
        status, headers, body = call(place, Range=wanted)
        assert (status, body) == (206, WEIGHTS[start:stop])
        assert headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    assert call(place, Range=f"bytes={size}-")[0] == 416
    assert call(place.replace("signature=", "signature=0"))[0] == 403
    status, headers, body = call(f"{hub.url}/{MODEL}/resolve/main/a/b.txt")
    assert (status, body) == (200, b"b")
    assert call(f"{hub.url}/{MODEL}/resolve/main/a/b.txt", token=None)[1]["x-error-code"] == "RepoNotFound"
    assert call(f"{hub.url}/{MODEL}/resolve/main/a/c.txt")[1]["x-error-code"] == "EntryNotFound"
    assert call(f"{hub.url}/{MODEL}/resolve/v1/a/b.txt")[1]["x-error-code"] == "RevisionNotFound"


def test_faults_by_number(hub: Hub) -> None:
    info = f"{hub.url}/api/models/{MODEL}"
    assert call(info)[0] == 200
    hub.reset_log()
    hub.faults = [Fault(1, 429), Fault(2, "drop"), Fault(3, "drop_after"), Fault(4, 0.3)]
    assert [call(info)[0], call(info)[0]] == [200, 429]
    for tag in ("before", "after"):
        with pytest.raises(http.client.RemoteDisconnected):
            call(f"{info}/tag/main", "POST", {"tag": tag})
    assert list(hub.repos[MODEL].tags) == ["after"]
    start = time.monotonic()
    assert call(info)[0] == 200
    assert time.monotonic() - start >= 0.3
    assert [request.status for request in hub.log] == [200, 429, None, None, 200]
    assert hub.faults == []


def test_faults_by_a_function(hub: Hub) -> None:
    def faults(request: Request) -> int | None:
        return 504 if request.headers.get("user-agent") == "unlucky" else None

    hub.faults = faults
    assert call(f"{hub.url}/api/whoami-v2", User_Agent="unlucky")[0] == 504
    assert call(f"{hub.url}/api/whoami-v2")[0] == 200


def test_contents_that_no_client_could_upload(hub: Hub) -> None:
    hostile = {"../up.txt": b"up", "README.md": b"---\na: &a [*a]\n---\n", "config.json": b"\xff"}
    oid = hub.add_repo("tester/hostile", hostile)
    assert hub.files("tester/hostile", oid) == hostile
    assert call(f"{hub.url}/api/models/tester/hostile/revision/{oid}")[0] == 200
    tree = json.loads(call(f"{hub.url}/api/models/tester/hostile/tree/main?recursive=true")[2])
    assert "../up.txt" in [entry["path"] for entry in tree]


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ("license: mit\nmodel-index: []", None),
        ("license: [mit]", "license"),
        ("tags: timm", "tags"),
        ("license: mit\nlicense: apache-2.0", "duplicated mapping key"),
        ("a: b: c", "YAML"),
        ("- a", "mapping"),
        ("model-index: [{name: m}]", "results"),
        ("model-index: [{results: []}]", "name"),
        ("model-index: [{name: m, results: [{}]}]", "task.type"),
        ("model-index: [{name: m, results: [{task: {type: t}, dataset: {type: d, name: D}}]}]", "metrics"),
        (
            "model-index: [{name: m, results: [{task: {type: t}, dataset: {type: d, name: D},"
            " metrics: [{type: accuracy, value: 1.5}]}]}]",
            None,
        ),
        (
            "model-index: [{name: m, results: [{task: {type: t}, dataset: {type: d, name: D},"
            " metrics: [{type: accuracy, value: 1.5}], source: {name: s}}]}]",
            "source.url",
        ),
    ],
)
def test_metadata_of_cards(metadata: str, problem: str | None) -> None:
    errors, warnings = card_problems(f"---\n{metadata}\n---\ntext")
    assert warnings == []
    assert problem in " ".join(errors) if problem else errors == []


def test_card_without_metadata() -> None:
    assert card_problems("text") == ([], ["empty or missing yaml metadata in repo card"])


def test_errors_of_the_server_show() -> None:
    def broken(data: bytes) -> bytes:
        raise ZeroDivisionError("in the test")

    def fail() -> None:
        with serve() as hub:
            hub.add_repo(MODEL, {"config.json": b"{}"})
            hub.corrupt = {"config.json": broken}
            assert call(f"{hub.url}/{MODEL}/resolve/main/config.json")[0] == 500

    with pytest.raises(AssertionError, match="ZeroDivisionError: in the test"):
        fail()


XET = """
api.create_repo(MODEL)
oid = commit(model_safetensors=WEIGHTS, config_json=b"{}").oid
out["same"] = Path(hf_hub_download(MODEL, "model.safetensors", revision=oid)).read_bytes() == WEIGHTS
"""


def test_xet(tmp_path: Path) -> None:
    """Chunks go into the client's own file store, which is not documented: without it there is nothing to test."""
    pytest.importorskip("hf_xet")
    with serve(xet_cas=f"local://{tmp_path / 'store'}") as hub:
        try:
            out = client(hub, tmp_path / "home", XET)
        except AssertionError as error:
            pytest.skip(f"this hf_xet has no file store: {error}")
        assert out["same"]
        assert not hub.requests("PUT", "/upload/")
        with pytest.raises(ValueError, match="only the Xet store"):
            hub.files(MODEL)
