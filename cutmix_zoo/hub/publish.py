"""Publishing to the Hugging Face Hub: the only place that uploads.

A repository is private until what it holds has been read back and compared. Whatever interrupts a publication, the same
command goes on: what is there already is not sent again.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.hub.bundle import Bundle, check_bundle
from cutmix_zoo.hub.fresh_logits import probe, probe_elsewhere
from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.models.exported import load_exported
from cutmix_zoo.store import WEIGHTS_FILE, WEIGHTS_NAME, file_sha256
from cutmix_zoo.training.files import write_text
from cutmix_zoo.zoo import read_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import ModelInfo

MAIN = "main"
"""The branch that a repository shows."""
_ALWAYS_THERE = ".gitattributes"


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
    check_bundle(bundle)
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
    if get_token() is None and not api.token:
        raise UserError(
            "publishing needs an access token of the Hub with the right to write: `hf auth login` keeps one."
        )
    with _going_on_later(bundle.repo):
        info = _repository(bundle.repo, wishes, api)
        revision = _pull_request(bundle, api) if wishes.create_pr else MAIN
        commit = api.create_commit(
            bundle.repo,
            [CommitOperationAdd(name, str(file)) for name, file in bundle.files().items()],
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
            _make_public(bundle, api)
    return commit


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
    return f"Publish {bundle.facts.name} ({file_sha256(bundle.folder / WEIGHTS_FILE)[:12]})"


def _pull_request(bundle: Bundle, api: HfApi) -> str:
    """Find the pull request that an interrupted publication has opened; the main branch where there is none."""
    for found in api.get_repo_discussions(bundle.repo, discussion_type="pull_request", discussion_status="open"):
        if found.title == _title(bundle):
            return f"refs/pr/{found.num}"
    return MAIN


def _verify(bundle: Bundle, commit: str, api: HfApi) -> None:
    """Read the commit back into an empty cache and compare every file, and what the model computes."""
    files = bundle.files()
    with tempfile.TemporaryDirectory() as cache:
        folder = Path(api.snapshot_download(bundle.repo, revision=commit, cache_dir=cache, allow_patterns=list(files)))
        for name, file in files.items():
            if not (folder / name).is_file() or file_sha256(folder / name) != file_sha256(file):
                raise UserError(f"{name} came back from {bundle.repo} at {commit} as something else than was sent.")
        _compare(bundle, folder)


def _compare(bundle: Bundle, folder: Path) -> None:
    expected, found = probe(load_exported(bundle.folder)), probe_elsewhere(folder)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
        raise UserError(f"the model computes something else when it is loaded from {folder}; it is not published.")


def _tag(repo: str, tag: str, commit: str, api: HfApi) -> None:
    there = {found.name: found.target_commit for found in api.list_repo_refs(repo).tags}
    if tag not in there:
        api.create_tag(repo, tag=tag, revision=commit)
    elif there[tag] != commit:
        raise UserError(
            f"{repo} has the tag {tag} already, for {there[tag]}; choose another --tag for {commit}, which is uploaded."
        )


def _make_public(bundle: Bundle, api: HfApi) -> None:
    """Show a repository to everybody, if there is nothing in it that was not just checked."""
    info = api.model_info(bundle.repo)
    if not info.private:
        return
    published = {*bundle.files(), _ALWAYS_THERE}
    others = sorted({found.rfilename for found in info.siblings or ()} - published)
    if others:
        raise UserError(
            f"{bundle.repo} stays private: it also holds {', '.join(others)}. Make it public by hand, delete them, or "
            "add --private."
        )
    api.update_repo_settings(bundle.repo, private=False)


@contextmanager
def _going_on_later(repo: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one line, without the access token."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  of the HTTP library too, which depends on the client's version
        text = one_line(error)
        token = get_token()
        if token:
            text = text.replace(token, "(token)")
        raise UserError(
            f"{repo} is not published completely: {text} The same command goes on, and sends nothing twice."
        ) from None


def check_row(row: dict[str, Any], name: str) -> None:
    """Check that a row fits into the zoo table.

    Args:
        row: what :func:`~cutmix_zoo.hub.bundle.zoo_row` returned.
        name: of the model.

    Raises:
        UserError: if the table cannot have it.
    """
    if "name" not in row:  # it adds to one that is there
        return
    if not WEIGHTS_NAME.fullmatch(name):
        raise UserError(f"{name} cannot be a row of the zoo table: call the repository ARCHITECTURE.TAG.")
    if row["dataset"] not in KNOWN_DATASETS or row["recipe"] is None:
        raise UserError(f"{name} cannot be a row of the zoo table: its dataset or its recipe is not known.")


def add_to_table(row: dict[str, Any], name: str, file: Path) -> None:
    """Write a row into a zoo table, or what is new into the row that the table has.

    Args:
        row: what :func:`~cutmix_zoo.hub.bundle.zoo_row` returned.
        name: of the model.
        file: a ``zoo.json``.

    Raises:
        UserError: if the file is no zoo table, or cannot have the row.
    """
    check_row(row, name)
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        found = [each for each in table["weights"] if each["name"] == name]
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not a zoo table: {one_line(error)}") from error
    if not found and "name" not in row:
        raise UserError(f"{file} has no row {name}, which the installed table has; give the table of this version.")
    if found:
        found[0].update(row)
    else:
        table["weights"].append({key: value for key, value in row.items() if value is not None})
    read_table(table)
    write_text(file, json.dumps(table, indent=2, ensure_ascii=False) + "\n")
