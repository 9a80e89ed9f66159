"""What the Hub says of a repo: its commit, its files, their sizes and digests."""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.errors import (
    HubError,
    one_line,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class RepoListing(NamedTuple):
    """What the Hub says of a repo."""

    commit: str
    sizes: dict[str, int]  # of its files, in bytes


def read_listing(repo_id: str, info: Any) -> RepoListing:
    """The commit and the files of what `HfApi.model_info` answered; raises `HubError` where that makes no sense."""
    sizes: dict[str, int] = {}
    for file in info.siblings or ():
        name, size = file.rfilename, file.size or 0
        if not isinstance(name, str) or not isinstance(size, int) or size < 0:
            raise nonsense_error(repo_id, f"a file {name!r} of {size!r} bytes")
        sizes[name] = size
    if not isinstance(info.sha, str) or not re.fullmatch(r"[0-9a-f]{40}", info.sha):  # it becomes a folder's name
        raise nonsense_error(repo_id, f"the commit {info.sha!r}")
    return RepoListing(info.sha, sizes)


def nonsense_error(about: str, what: str) -> HubError:
    return HubError(f"The Hub's answer about {about} makes no sense ({one_line(what, 80)}); check HF_ENDPOINT.")


def fetch_digests(api: "HfApi", repo_id: str, names: list[str], commit: str) -> dict[str, str]:
    """Of files as the Hub lists them: SHA-256 of a large one (64 digits), git's of a small one (40)."""
    files: list[Any] = api.get_paths_info(repo_id, names, revision=commit)
    return {file.path: str(file.lfs.sha256 if file.lfs else file.blob_id) for file in files}


def digest_file(path: Path, length: int) -> str:
    return sha256_file(path) if length == 64 else git_digest(path.read_bytes())


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
