"""The commit, files, sizes and digests of a repo on the Hub."""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.errors import HubError, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class RepoListing(NamedTuple):
    """The files of a repo at one commit."""

    commit: str
    sizes: dict[str, int]  # path -> bytes


def read_listing(repo_id: str, info: Any) -> RepoListing:
    """Read commit and files from the result of `HfApi.model_info`; raises `HubError` where it is malformed."""
    sizes: dict[str, int] = {}
    for file in info.siblings or ():
        name, size = file.rfilename, file.size or 0
        if not isinstance(name, str) or not isinstance(size, int) or size < 0:
            raise malformed_response_error(repo_id, f"a file {name!r} of {size!r} bytes")
        sizes[name] = size
    if not isinstance(info.sha, str) or not re.fullmatch(r"[0-9a-f]{40}", info.sha):  # becomes the name of a folder
        raise malformed_response_error(repo_id, f"the commit {info.sha!r}")
    return RepoListing(info.sha, sizes)


def malformed_response_error(subject: str, detail: str) -> HubError:
    return HubError(f"The Hub's response about {subject} is malformed ({one_line(detail, 80)}). Check HF_ENDPOINT.")


def fetch_digests(api: "HfApi", repo_id: str, names: list[str], commit: str) -> dict[str, str]:
    """The digests that the Hub lists: SHA-256 of large files (64 digits), git's blob id of small ones (40)."""
    files: list[Any] = api.get_paths_info(repo_id, names, revision=commit)
    return {file.path: str(file.lfs.sha256 if file.lfs else file.blob_id) for file in files}


def digest_file(path: Path, length: int) -> str:
    """SHA-256 for a `length` of 64 hexadecimal digits, git's blob id for 40."""
    return sha256_file(path) if length == 64 else git_digest(path.read_bytes())


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
