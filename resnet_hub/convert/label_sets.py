"""Labels of published datasets, and labels from a text file."""

from pathlib import Path

from resnet_hub.errors import CheckpointError

LABEL_SETS = ("cifar10", "cifar100", "imagenet")


def read_label_set(name: str) -> list[str]:
    """Read the labels of one of `LABEL_SETS`, in the order of the dataset; those of ImageNet-1k as in timm."""
    return Path(__file__).with_name(f"{name}.txt").read_text("utf-8").splitlines()


def read_label_file(text: str) -> list[str]:
    """Read labels from a file with one label per line, or from a comma-separated list; raises `CheckpointError`."""
    path = Path(text).expanduser()
    try:
        if "," not in text or path.is_file():
            return [line.strip() for line in path.read_text("utf-8-sig").strip().splitlines()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CheckpointError(
            f"Cannot read labels from {text[:80]} ({reason}). Name a text file with one label per line, or list the "
            "labels: a,b,c."
        ) from None
    return [label.strip() for label in text.split(",")]
