"""Publishing to the Hugging Face Hub: the only place that uploads.

A new repository is private until what it holds has been read back and compared; in one that is public already a commit
is seen at once, but for a pull request. Whatever interrupts a publication, the same command goes on: what is there
already is not sent again.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.hub.bundle import PUBLISHED_FILES, Bundle, check_token
from cutmix_zoo.hub.fresh_logits import probe, probe_elsewhere
from cutmix_zoo.models.exported import load_exported
from cutmix_zoo.store import WEIGHTS_FILE, file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import ModelInfo

MAIN = "main"
"""The branch that a repository shows."""
_ALWAYS_THERE = ".gitattributes"
_FIRST = "initial commit"
"""What the Hub calls the commit that a repository begins with."""
_PUBLISH = "Publish"
"""What our commits begin with."""
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


@dataclass(frozen=True)
class Wishes:
    """How a model is to be published.

    Args:
        private: leave the repository private.
        create_pr: open a pull request in a repository that exists, and leave its main branch and visibility alone.
        tag: a name for the commit, such as ``v1.0``.

    Raises:
        UserError: if a pull request is to be tagged, whose commit its owner may never take.
    """

    private: bool = False
    create_pr: bool = False
    tag: str | None = None

    def __post_init__(self) -> None:
        if self.create_pr and self.tag is not None:
            raise UserError("--tag names a commit of the main branch, which --create-pr leaves alone; give one of them")


def check_here(bundle: Bundle) -> None:
    """Check that timm loads the files in a process of its own, and that the model computes there what it does here.

    Raises:
        UserError: if it does not.
    """
    _compare(bundle, bundle.folder)


def publish(bundle: Bundle, wishes: Wishes, api: HfApi) -> str:
    """Upload a bundle in one commit, read it back, tag it, and make its repository public.

    Args:
        bundle: what to publish; :func:`check_here` has passed.
        wishes: how.
        api: the Hub's client; the access token is found by it, in the places that huggingface_hub looks at.

    Returns:
        The commit, 40 hexadecimal digits.

    Raises:
        UserError: if the Hub cannot be reached, refuses something or returns other files than were sent, with what to
            do. The same call then goes on from where it stopped.
    """
    token = api.token if isinstance(api.token, str) else get_token()
    if token is None:
        raise UserError(
            "publishing needs an access token of the Hub with the right to write: `hf auth login` keeps one."
        )
    check_token(bundle, token)
    with _going_on_later(bundle.repo, token):
        info = _repository(bundle.repo, wishes, api)
        if wishes.tag is not None:
            _check_tag(bundle, wishes.tag, str(info.sha), api)
        revision = _pull_request(bundle, api) if wishes.create_pr else MAIN
        commit = api.create_commit(
            bundle.repo,
            _operations(bundle, api.model_info(bundle.repo, revision=revision) if revision != MAIN else info),
            commit_message=_title(bundle),
            revision=revision,
            create_pr=wishes.create_pr and revision == MAIN,
            # what somebody else has added meanwhile is not overwritten unseen
            parent_commit=info.sha if revision == MAIN else None,
        ).oid
        _verify(bundle, commit, api)
        if wishes.tag is not None:
            _tag(bundle.repo, wishes.tag, commit, api)
        if not wishes.private and not wishes.create_pr:
            _make_public(bundle.repo, commit, api)
    return commit


def _operations(bundle: Bundle, info: ModelInfo) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Replace all files that a publication has; what is left of an earlier one would be about other weights."""
    files, there = bundle.files(), {found.rfilename for found in info.siblings or ()}
    pickles = sorted(name for name in there if name.endswith(_PICKLES))
    if pickles:
        raise UserError(f"{bundle.repo} holds {', '.join(pickles)}, which would be loaded as well; delete it first.")
    return [
        *(CommitOperationAdd(name, str(file)) for name, file in files.items()),
        *(CommitOperationDelete(name) for name in PUBLISHED_FILES if name in there and name not in files),
    ]


def _repository(repo: str, wishes: Wishes, api: HfApi) -> ModelInfo:
    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        if wishes.create_pr:
            raise UserError(f"there is no repository {repo} to open a pull request in.") from None
        api.create_repo(repo, private=True, exist_ok=True)
        return api.model_info(repo)
    if wishes.private and not info.private:
        raise UserError(f"{repo} exists and is public; leave out --private, or choose another repository.")
    return info


def _title(bundle: Bundle) -> str:
    return f"{_PUBLISH} {bundle.facts.name} ({file_sha256(bundle.folder / WEIGHTS_FILE)[:12]})"


def _pull_request(bundle: Bundle, api: HfApi) -> str:
    """Find the pull request that an interrupted publication has opened; the main branch where there is none."""
    for found in api.get_repo_discussions(bundle.repo, discussion_type="pull_request", discussion_status="open"):
        if found.title == _title(bundle):
            return f"refs/pr/{found.num}"
    return MAIN


def _verify(bundle: Bundle, commit: str, api: HfApi) -> None:
    """Read the commit back and compare every file, and what the model computes."""
    with _read_back(bundle, commit, api) as folder:
        changed = _changed_file(bundle, folder)
        if changed is not None:
            raise UserError(f"{changed} came back from {bundle.repo} at {commit} as something else than was sent.")
        _compare(bundle, folder)


@contextmanager
def _read_back(bundle: Bundle, commit: str, api: HfApi) -> Iterator[Path]:
    """Download what a publication has of a commit into an empty cache, which is there for the ``with`` block."""
    with tempfile.TemporaryDirectory() as cache:
        files = list(bundle.files())
        yield Path(api.snapshot_download(bundle.repo, revision=commit, cache_dir=cache, allow_patterns=files))


def _changed_file(bundle: Bundle, folder: Path) -> str | None:
    """Name a file of the bundle that the folder lacks or has otherwise."""
    for name, file in bundle.files().items():
        if not (folder / name).is_file() or file_sha256(folder / name) != file_sha256(file):
            return name
    return None


def _compare(bundle: Bundle, folder: Path) -> None:
    expected = probe(load_exported(bundle.folder))
    found = probe_elsewhere(folder, needs_import=bundle.facts.needs_import)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
        raise UserError(f"the model computes something else when it is loaded from {folder}; it is not published.")


def _check_tag(bundle: Bundle, tag: str, head: str, api: HfApi) -> None:
    """Refuse a tag that is there for anything else than this publication, before anything is uploaded."""
    there = _tags(bundle.repo, api).get(tag)
    if there is None:
        return
    if there == head:  # where an earlier attempt has come as far as the tag
        with _read_back(bundle, there, api) as folder:
            if _changed_file(bundle, folder) is None:
                return
    raise UserError(f"{bundle.repo} has the tag {tag} already, for {there}; choose another --tag.")


def _tag(repo: str, tag: str, commit: str, api: HfApi) -> None:
    there = _tags(repo, api).get(tag)
    if there is None:
        api.create_tag(repo, tag=tag, revision=commit)
    elif there != commit:
        raise UserError(
            f"{repo} has the tag {tag} already, for {there}; choose another --tag for {commit}, which is uploaded."
        )


def _tags(repo: str, api: HfApi) -> dict[str, str]:
    return {found.name: found.target_commit for found in api.list_repo_refs(repo).tags}


def _make_public(repo: str, commit: str, api: HfApi) -> None:
    """Show a repository to everybody, if there is nothing in it, or in its history, but what was published."""
    info = api.model_info(repo)
    if not info.private:
        return
    others = _not_published(repo, commit, info, api)
    if others:
        raise UserError(
            f"{repo} stays private: it also holds {', '.join(others)}, which everybody would see. Make it public by "
            "hand, choose another repository, or add --private."
        )
    api.update_repo_settings(repo, private=False)


def _not_published(repo: str, commit: str, info: ModelInfo, api: HfApi) -> list[str]:
    """Name the files, commits, branches and pull requests of a repository that were not put there by publishing."""
    files = {found.rfilename for found in info.siblings or ()} - {*PUBLISHED_FILES, _ALWAYS_THERE}
    history = api.list_repo_commits(repo)
    foreign = [each for each in history if each.title != _FIRST and not each.title.startswith(_PUBLISH)]
    refs = api.list_repo_refs(repo, include_pull_requests=True)
    known = {each.commit_id for each in history}
    return [
        *sorted(files),
        *(f"the commit {each.commit_id[:8]} ({each.title})" for each in foreign),
        *(f"the branch {each.name}" for each in refs.branches if each.name != MAIN),
        *(f"the tag {each.name}" for each in refs.tags if each.target_commit not in known),
        *(f"the pull request {each.ref}" for each in refs.pull_requests or ()),
        *([] if info.sha == commit else [f"the newer commit {str(info.sha)[:8]}"]),
    ]


@contextmanager
def _going_on_later(repo: str, token: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one line, without the access token."""
    try:
        yield
    except (AssertionError, TypeError, UserError):  # those are ours
        raise
    except Exception as error:  # noqa: BLE001  of the HTTP library too, which depends on the client's version
        text = one_line(error).replace(token, "(token)")
        raise UserError(
            f"{repo} is not published completely: {text} The same command goes on, and sends nothing twice."
        ) from None
