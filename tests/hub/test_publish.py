"""Publishing to a server that fails at every request in turn, and what must never come of it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import timm
import torch
from huggingface_hub import CommitOperationAdd, HfApi
from safetensors.torch import load_file

import cutmix_zoo.cli
import cutmix_zoo.hub.publish
import cutmix_zoo.zoo
from cutmix_zoo.errors import UserError
from cutmix_zoo.hub.bundle import Bundle, make_bundle
from cutmix_zoo.hub.fresh_logits import probe, probe_elsewhere
from cutmix_zoo.hub.publish import Wishes, check_here, publish
from cutmix_zoo.models.exported import load_exported
from tests.hub.conftest import REPO
from tests.hub.server import Fault, Hub, Request, User, client_environment, serve

# the client's own way of uploading, which its HTTP library no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_TokenThatMustNotBeSeenAnywhere0123"
OTHER_TOKEN = "hf_OtherTokenOfSomebodyWithoutRights01"
TAG = Wishes(tag="v1.0")
FAULTS: tuple[int | float | str, ...] = (500, "drop", "drop_after", 0.2)


def computed_here(folder: Path, **_: object) -> torch.Tensor:
    return probe(load_exported(folder))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    # what a process of its own computes is looked at once, below
    monkeypatch.setattr(cutmix_zoo.hub.publish, "probe_elsewhere", computed_here)
    # the client waits longer each time before it tries again
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    with serve(tokens={TOKEN: User("tester", "write"), OTHER_TOKEN: User("other", "write")}) as server:
        yield server


def client(hub: Hub, token: str = TOKEN) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def contents(bundle: Bundle) -> dict[str, bytes]:
    return {name: file.read_bytes() for name, file in bundle.files().items()}


def shown_files(hub: Hub) -> dict[str, bytes]:
    return {name: content for name, content in hub.files(REPO).items() if name != ".gitattributes"}


def test_a_run_is_published_in_one_commit_that_is_read_back_before_it_is_shown(hub: Hub, bundle: Bundle) -> None:
    commit = publish(bundle, TAG, client(hub))
    assert shown_files(hub) == contents(bundle)
    repo = hub.repos[REPO]
    assert not repo.private
    assert (repo.tags["v1.0"], hub.head(REPO)) == (commit, commit)
    assert set(bundle.files()) == {
        *("README.md", "config.json", "model.safetensors", "recipe.yaml", "metrics.jsonl", "results.json"),
        *(".eval_results/accuracy.yaml", "plots/curves.png"),
    }
    order = [(request.method, request.path.partition("?")[0]) for request in hub.log]
    assert json.loads(hub.requests("POST", "/api/repos/create")[0].body)["visibility"] == "private"
    commits = [place for place, (method, path) in enumerate(order) if method == "POST" and "/commit/" in path]
    reads = [place for place, (method, path) in enumerate(order) if method == "GET" and f"/resolve/{commit}/" in path]
    shows = [place for place, (method, path) in enumerate(order) if method == "PUT" and path.endswith("/settings")]
    assert len(commits) == len(shows) == 1
    assert commits[0] < min(reads) < max(reads) < shows[0]


def test_again_it_sends_nothing_and_changes_nothing(hub: Hub, bundle: Bundle) -> None:
    commit = publish(bundle, TAG, client(hub))
    before = hub.snapshot()
    hub.reset_log()
    assert publish(bundle, TAG, client(hub)) == commit
    assert hub.snapshot() == before
    assert not hub.requests("PUT")
    assert not hub.requests("POST", "/commit/")


def count_requests(bundle: Bundle) -> int:
    with serve(tokens={TOKEN: User("tester", "write")}) as server:
        publish(bundle, TAG, client(server))
        return len(server.log)


def interrupt(hub: Hub, bundle: Bundle, fault: Fault) -> str:
    """Publish with one request failing, then again; say how the first attempt ended."""
    hub.repos.clear()
    hub.reset_log()
    hub.faults = [fault]
    try:
        publish(bundle, TAG, client(hub))
        outcome = "published"
    except UserError as error:
        outcome = str(error)
        assert "The same command goes on" in outcome
    assert hub.faults == [], "the request was there to fail"
    repo = hub.repos.get(REPO)
    if repo is not None:
        files = shown_files(hub)
        assert files in ({}, contents(bundle)), "all files or none"
        assert repo.private or files, "nothing is shown before it is complete"
        stored = set(repo.objects)
        hub.reset_log()
        publish(bundle, TAG, client(hub))
        assert not [put for put in hub.requests("PUT", "/upload/") if any(oid in put.path for oid in stored)]
    else:
        publish(bundle, TAG, client(hub))
    repo = hub.repos[REPO]
    assert shown_files(hub) == contents(bundle)
    assert not repo.private
    assert repo.tags == {"v1.0": hub.head(REPO)}
    assert [commit.title for commit in repo.commits.values()].count(cutmix_zoo.hub.publish._title(bundle)) == 1
    return outcome


def campaign(hub: Hub, bundle: Bundle, faults: list[Fault], capsys: pytest.CaptureFixture[str]) -> list[str]:
    outcomes = [interrupt(hub, bundle, fault) for fault in faults]
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, *outcomes):
        assert TOKEN not in text
    return outcomes


def test_whichever_request_fails_nothing_is_half_done_and_the_next_attempt_completes_it(
    hub: Hub, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = [Fault(number, FAULTS[number % len(FAULTS)]) for number in range(count_requests(bundle))]
    outcomes = campaign(hub, bundle, faults, capsys)
    assert {outcome == "published" for outcome in outcomes} == {True, False}


@pytest.mark.slow
def test_whichever_request_fails_in_whatever_way(hub: Hub, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    count = count_requests(bundle)
    assert count > 25
    faults = [Fault(number, kind) for number in range(count) for kind in (*FAULTS, 401, 403, 404, 412, 429, 503)]
    outcomes = campaign(hub, bundle, faults, capsys)
    with capsys.disabled():
        sys.stdout.write(f"{len(outcomes)} faults, {outcomes.count('published')} of them without consequence\n")


def test_what_comes_back_otherwise_is_not_shown(hub: Hub, bundle: Bundle) -> None:
    def flip(content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1])

    for damage, message in ((flip, "came back from"), (lambda content: content[:1000], "not published completely")):
        hub.repos.clear()
        hub.corrupt = {"model.safetensors": damage}
        with pytest.raises(UserError, match=message):
            publish(bundle, TAG, client(hub))
        assert hub.repos[REPO].private
        assert not hub.repos[REPO].tags
    hub.corrupt = {}
    publish(bundle, TAG, client(hub))
    assert not hub.repos[REPO].private


def test_it_stays_private_on_demand(hub: Hub, bundle: Bundle) -> None:
    publish(bundle, Wishes(private=True), client(hub))
    assert hub.repos[REPO].private
    hub.repos[REPO].private = False
    with pytest.raises(UserError, match="exists and is public; leave out --private"):
        publish(bundle, Wishes(private=True), client(hub))


def test_a_private_repository_with_other_files_is_not_shown(hub: Hub, bundle: Bundle) -> None:
    hub.add_repo(REPO, {"notes.txt": b"mine"}, private=True)
    with pytest.raises(UserError, match=r"stays private: it also holds notes.txt, the commit .{8} \(Add files\)"):
        publish(bundle, TAG, client(hub))
    assert hub.repos[REPO].private
    assert hub.files(REPO)["notes.txt"] == b"mine"


def test_a_private_repository_with_a_history_of_its_own_is_not_shown(hub: Hub, bundle: Bundle) -> None:
    hub.add_repo(REPO, {"README.md": b"a secret list of customers"}, private=True)
    with pytest.raises(UserError, match=r"stays private: it also holds the commit"):
        publish(bundle, TAG, client(hub))
    assert hub.repos[REPO].private
    assert shown_files(hub) == contents(bundle)


@pytest.mark.parametrize("kind", ["branch", "tag", "pull request", "newer commit"])
def test_a_private_repository_with_something_beside_it_is_not_shown(hub: Hub, bundle: Bundle, kind: str) -> None:
    publish(bundle, Wishes(private=True), client(hub))
    api = client(hub)
    if kind == "branch":
        api.create_branch(REPO, branch="drafts")
    elif kind == "tag":
        api.create_branch(REPO, branch="gone")
        stray = api.create_commit(
            REPO, [CommitOperationAdd("notes.txt", b"mine")], commit_message="mine", revision="gone"
        ).oid
        api.create_tag(REPO, tag="mine", revision=stray)
        api.delete_branch(REPO, branch="gone")
    elif kind == "pull request":
        api.create_pull_request(REPO, title="mine")
    else:

        def meddle(request: Request) -> None:
            if "/tree/" in request.path and not hub.faults_seen:
                hub.faults_seen = True
                hub.add_repo(REPO, {**hub.files(REPO), "README.md": b"theirs"}, private=True)

        hub.faults_seen = False
        hub.faults = meddle
    with pytest.raises(UserError, match=f"stays private: it also holds .*the {kind}"):
        publish(bundle, Wishes(), client(hub))
    assert hub.repos[REPO].private


def test_what_an_earlier_publication_left_is_replaced(hub: Hub, bundle: Bundle) -> None:
    old = {
        "results.json": b'{"top1": 99.9}',
        ".eval_results/accuracy.yaml": b"[]",
        "recipe.yaml": b"old",
        "notes.txt": b"mine",
    }
    hub.add_repo(REPO, old)
    for name in ("results.json", "recipe.yaml", ".eval_results/accuracy.yaml"):
        (bundle.folder / name).unlink()
    publish(bundle, TAG, client(hub))
    assert shown_files(hub) == {**contents(bundle), "notes.txt": b"mine"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "old/weights.pth"])
def test_a_repository_with_a_pickle_gets_nothing(hub: Hub, bundle: Bundle, name: str) -> None:
    hub.add_repo(REPO, {name: b"pickle"})
    with pytest.raises(UserError, match=f"holds {name}, which would be loaded as well; delete it first"):
        publish(bundle, TAG, client(hub))
    assert hub.files(REPO) == {name: b"pickle"}


def test_a_file_with_the_token_is_not_sent(hub: Hub, bundle: Bundle) -> None:
    token = "a.token.of.another.form"
    (bundle.folder / "metrics.jsonl").write_text(f'{{"epoch": 1, "token": "{token}"}}')
    with pytest.raises(UserError, match=r"metrics.jsonl holds what looks like an access token"):
        publish(bundle, TAG, client(hub, token))
    assert hub.log == []


def test_a_tag_of_another_publication_stays(hub: Hub, bundle: Bundle, tmp_path: Path, published_run: Path) -> None:
    first = publish(bundle, TAG, client(hub))
    other = make_bundle(published_run, tmp_path / "other", REPO, "mit")

    def refused() -> None:
        hub.reset_log()
        with pytest.raises(UserError, match=f"has the tag v1.0 already, for {first}; choose another --tag\\."):
            publish(other, TAG, client(hub))
        assert not hub.requests("POST"), "it is seen before anything is sent"

    refused()
    second = publish(other, Wishes(tag="v1.1"), client(hub))
    refused()
    assert hub.repos[REPO].tags == {"v1.0": first, "v1.1": second}


def test_a_tag_that_comes_up_meanwhile_stays(hub: Hub, bundle: Bundle) -> None:
    main = hub.add_repo(REPO, {"README.md": b"# mine\n"})

    def meddle(request: Request) -> None:
        if "/preupload/" in request.path:
            hub.repos[REPO].tags["v1.0"] = main

    hub.faults = meddle
    with pytest.raises(
        UserError, match=f"has the tag v1.0 already, for {main}; choose another --tag for .{{40}}, which"
    ):
        publish(bundle, TAG, client(hub))
    assert hub.repos[REPO].tags == {"v1.0": main}


def test_a_pull_request_leaves_main_alone_and_is_found_again(hub: Hub, bundle: Bundle) -> None:
    with pytest.raises(UserError, match=r"there is no repository tester/cifar_resnet8.mine to open a pull request in"):
        publish(bundle, Wishes(create_pr=True), client(hub))
    main = hub.add_repo(REPO, {"README.md": b"# mine\n"}, private=True)
    commit = publish(bundle, Wishes(create_pr=True), client(hub))
    assert hub.head(REPO) == main
    assert hub.repos[REPO].private
    assert hub.head(REPO, "refs/pr/1") == commit
    assert {name: hub.files(REPO, "refs/pr/1")[name] for name in bundle.files()} == contents(bundle)
    assert publish(bundle, Wishes(create_pr=True), client(hub)) == commit
    assert len(hub.repos[REPO].pulls) == 1
    with pytest.raises(UserError, match="give one of them"):
        Wishes(create_pr=True, tag="v1.0")


def test_what_somebody_else_adds_meanwhile_is_not_overwritten(hub: Hub, bundle: Bundle) -> None:
    hub.add_repo(REPO, {"README.md": b"# mine\n"})

    def meddle(request: Request) -> None:
        if "/preupload/" in request.path and len(hub.repos[REPO].commits) == 1:
            hub.add_repo(REPO, {"README.md": b"# theirs\n"})

    hub.faults = meddle
    with pytest.raises(UserError, match="not published completely"):
        publish(bundle, TAG, client(hub))
    assert hub.files(REPO) == {"README.md": b"# theirs\n"}


def test_without_the_right_to_write_nothing_happens(hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="not published completely") as caught:
        publish(bundle, TAG, client(hub, OTHER_TOKEN))
    assert OTHER_TOKEN not in str(caught.value)
    monkeypatch.setattr(cutmix_zoo.hub.publish, "get_token", lambda: None)
    with pytest.raises(UserError, match="needs an access token"):
        publish(bundle, TAG, HfApi(endpoint=hub.url))
    assert hub.repos == {}


def test_the_token_is_cut_out_of_what_the_client_says(
    hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"bad header: Bearer {TOKEN}\nsecond line")

    monkeypatch.setattr(cutmix_zoo.hub.publish, "get_token", lambda: TOKEN)
    monkeypatch.setattr(HfApi, "create_commit", fail)
    with pytest.raises(UserError, match=r"bad header: Bearer \(token\) second line") as caught:
        publish(bundle, TAG, client(hub))
    assert caught.value.__cause__ is None


def test_a_model_that_computes_something_else_elsewhere_is_not_published(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_here(bundle)  # in a process of its own
    assert torch.equal(probe_elsewhere(bundle.folder, needs_import=True), probe(load_exported(bundle.folder)))
    monkeypatch.setattr(cutmix_zoo.hub.publish, "probe_elsewhere", lambda *given, **_: computed_here(*given) + 1e-2)
    with pytest.raises(UserError, match="computes something else"):
        check_here(bundle)


def test_a_model_that_comes_back_as_another_is_neither_shown_nor_tagged(
    hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(folder: Path, **_: object) -> torch.Tensor:
        return computed_here(folder) + (0.0 if folder == bundle.folder else 1e-2)

    monkeypatch.setattr(cutmix_zoo.hub.publish, "probe_elsewhere", elsewhere)
    check_here(bundle)
    with pytest.raises(UserError, match="computes something else"):
        publish(bundle, TAG, client(hub))
    assert hub.repos[REPO].private
    assert not hub.repos[REPO].tags


def test_what_does_not_load_elsewhere_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not load in a process of its own: .*Error"):
        probe_elsewhere(tmp_path, needs_import=False)


def shell(hub: Hub, home: Path, *arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    environment = {**client_environment(hub, home, token), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


LOAD = """
import sys, timm
if sys.argv[1] == "ours":
    import cutmix_zoo
for name in sys.argv[2:]:
    model = timm.create_model(name, pretrained=True)
    print(model.conv1.weight.flatten()[0].item(), model.pretrained_cfg["label_names"][9])
"""


def test_the_command_line_publishes_and_timm_loads_it(run: Path, tmp_path: Path) -> None:
    home, table = tmp_path / "home", tmp_path / "zoo.json"
    table.write_text(Path(cutmix_zoo.zoo.__file__).with_name("zoo.json").read_text(encoding="utf-8"))
    command = ["-m", "cutmix_zoo.cli", "publish", str(run), "--repo", REPO, "--tag", "v1.0", "--license", "mit"]
    with serve(tokens={TOKEN: User("tester", "write")}) as hub:
        dry = shell(hub, home, *command, "--dry-run", token=None)
        assert (dry.returncode, hub.log) == (0, []), dry.stderr
        assert dry.stdout.startswith("---\n")
        size = (run / "model" / "model.safetensors").stat().st_size
        assert re.search(rf"{size:,} model\.safetensors\n.*\n.*\n.*results\.json\n", dry.stdout)
        assert dry.stdout.endswith(f"{REPO}: checked; nothing was uploaded\n")
        with pytest.raises(UserError, match="its dataset, its preprocessing or its recipe"):
            cutmix_zoo.cli.publish([*command[3:], "--zoo-json", str(table)])  # before anything is sent
        done = shell(hub, home, *command)
        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout[done.stdout.index("{") :])
        assert (row["repo"], row["revision"]) == (REPO, hub.head(REPO))
        weights = load_file(run / "model" / "model.safetensors")["conv1.weight"].flatten()[0].item()
        names = f"hf-hub:{REPO}", f"hf-hub:{REPO}@{row['revision']}"
        loaded = shell(hub, home, "-c", LOAD, "ours", *names, token=None)
        assert loaded.stdout == 2 * f"{weights} Ankle boot\n", loaded.stderr
        alone = shell(hub, home, "-c", LOAD, "alone", names[0], token=None)
        assert "Unknown model (cifar_resnet8)" in alone.stderr, "the card says that it needs this package"
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 10
    assert not any(TOKEN.encode() in content for content in written)
    assert not any(TOKEN in text for each in (dry, done) for text in (each.stdout, each.stderr))


def test_timm_alone_loads_an_architecture_of_its_own(tmp_path: Path) -> None:
    from cutmix_zoo.models import export_model

    model = timm.create_model("resnet10t", num_classes=10)
    config = {
        "input_size": (3, 64, 64),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    names = [f"kind {number}" for number in range(9)] + ["Ankle boot"]
    export_model(model, tmp_path / "model", data_config=config, label_names=names, provenance={"tag": "mine"})
    command = ["-m", "cutmix_zoo.cli", "publish", str(tmp_path / "model"), "--repo", "tester/resnet10t.mine"]
    with serve(tokens={TOKEN: User("tester", "write")}) as hub:
        done = shell(hub, tmp_path / "home", *command)
        assert done.returncode == 0, done.stderr
        card = hub.files("tester/resnet10t.mine")["README.md"].decode()
        assert "It needs timm alone" in card
        assert "Accuracy: not measured" in card
        assert "license: unknown" in card
        script = LOAD.replace("conv1", "conv1[0]")
        loaded = shell(hub, tmp_path / "home", "-c", script, "alone", "hf-hub:tester/resnet10t.mine")
        assert loaded.stdout == f"{model.conv1[0].weight.flatten()[0].item()} Ankle boot\n", loaded.stderr
        code = (
            "import torch\nfrom transformers import AutoModelForImageClassification as Auto\n"
            "model = Auto.from_pretrained('tester/resnet10t.mine').eval()\n"
            "print(model.config.id2label[9], model.timm_model.conv1[0].weight.flatten()[0].item())"
        )
        wrapped = shell(hub, tmp_path / "home", "-c", code)
        assert wrapped.stdout == f"Ankle boot {model.conv1[0].weight.flatten()[0].item()}\n", wrapped.stderr
