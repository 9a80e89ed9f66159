"""The files of this package, for machines that run a copy of it: a job or a Space."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def list_package_files(*left_out: str) -> dict[str, Path]:
    """Return the files of this package by their path beside it, such as `resnet_hub/model.py`, sorted.

    Hidden files, caches and links are left out, and so are the checkpoints that a wheel has inside the package.

    Args:
        left_out: Subpackages to leave out, such as "demo".
    """
    files = {}
    for path in sorted(_PACKAGE.rglob("*")):
        parts = path.relative_to(_PACKAGE).parts
        is_ours = parts[0] not in {"weights", *left_out} and "__pycache__" not in parts
        if is_ours and path.is_file() and not path.is_symlink() and not any(part.startswith(".") for part in parts):
            files["/".join((_PACKAGE.name, *parts))] = path
    return files
