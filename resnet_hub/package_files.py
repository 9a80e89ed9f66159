"""The files and requirements of this package, for machines that run a copy of it: a job or a Space."""

from pathlib import Path

# As in pyproject.toml, which an installed package does not have.
LIBRARY = (
    *("torch>=2.8", "safetensors>=0.5", "huggingface_hub>=2.4,<3", "pyyaml>=6", "jinja2>=3.1", "numpy>=2"),
    *("pillow>=11.3,<13", "tqdm>=4.66"),
)
HEIC = ("pillow-heif>=1.0",)
TRAIN = (
    "torchvision>=0.23",
    "datasets>=5.0,<6",
    "accelerate>=1.10,<2",
    "filelock>=3.16",
    "psutil>=5.9",
    "matplotlib>=3.9",
)
ONNX = ("onnx>=1.18,<2", "onnxruntime>=1.20,<2")
GRADIO_VERSION = "6.31.0"
PAGE = (f"gradio[oauth]~={GRADIO_VERSION}", "markdown-it-py>=3")

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
