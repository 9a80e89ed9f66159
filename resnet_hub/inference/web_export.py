"""Exports a model as a web page that runs it in the browser by ONNX Runtime Web; any static server can serve it.

The page loads ONNX Runtime Web from a pinned address, whose files the browser checks against their hashes, or from a
copy beside the page. It asks no other server for anything, and photos stay in the browser.
"""

import base64
import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from resnet_hub.atomic import open_atomic, replace_files
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import ResNetHubError, disk_is_full
from resnet_hub.inference.engines import create_session, example_batch
from resnet_hub.inference.onnx_export import require_onnx
from resnet_hub.inference.onnx_graph import INPUT, build_onnx, fold_batchnorm
from resnet_hub.model import ResNet
from resnet_hub.version import __version__

WEB_FOLDER = "web"  # in a checkpoint folder
RUNTIME_VERSION = "1.30.0"  # of the npm package onnxruntime-web
RUNTIME_URL = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{RUNTIME_VERSION}/dist/"
_RUNTIME_FILES = {  # of that version: bytes, and SHA-384
    "script": (
        "ort.wasm.bundle.min.mjs",
        73_054,
        "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    ),
    "binary": (
        "ort-wasm-simd-threaded.wasm",
        14_239_897,
        "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
    ),
}
_PAGE = Path(__file__).with_name("web_page")
_MODEL, _CONFIG, _INDEX = "model.onnx", "model.json", "index.html"
_FEW_LABELS = 5  # name the page
_TOLERANCE = 0.01  # of scores against PyTorch, which half precision changes


def export_web(
    source: str | Path,
    output: str | Path | None = None,
    *,
    runtime: str | Path | None = None,
    title: str | None = None,
) -> Path:
    """Writes a web page that classifies images in the browser with a checkpoint's model.

    Weights are stored in half precision, which halves the download; the browser computes in float32. Images are resized
    and cropped as in Python.

    Args:
        source: A checkpoint folder or the id of a repo on the Hub.
        output: The folder to write, or a ZIP if its name ends with .zip; default: `web` in the checkpoint folder. In a
            folder that exists, files of another page are not replaced.
        runtime: Folder of the npm package onnxruntime-web, or its `dist`. Two of its files are copied into the page,
            which then needs no other server; otherwise the browser loads them from `RUNTIME_URL`.
        title: The heading of the page; default: that of the model card, or the labels if there are few.

    Returns:
        The path of the folder or ZIP.

    Raises:
        ResNetHubError: The model has no head, its input is not an image in gray or color, half precision changes its
            scores, `runtime` lacks the files, or the output cannot be written.
    """
    is_folder = Path(source).expanduser().is_dir()
    if output is None and not is_folder:
        raise ResNetHubError(f"There is no folder {source}. To export a model of the Hub, name an output.")
    output = Path(output).expanduser() if output is not None else Path(source).expanduser() / WEB_FOLDER
    require_onnx()
    model = ResNet.from_pretrained(source if is_folder else str(source))
    files = build_web_page(model, runtime=runtime, title=title)
    try:
        if output.suffix.lower() == ".zip":
            _write_zip(output, files)
        else:
            _write_folder(output, files)
    except OSError as error:
        reason = "the disk is full" if disk_is_full(error) else error.strerror or error
        raise ResNetHubError(f"The web page cannot be saved to {output}: {reason}.") from None
    return output


def build_web_page(model: ResNet, *, runtime: str | Path | None = None, title: str | None = None) -> dict[str, bytes]:
    """Returns the files of the page by their names; see `export_web`."""
    config = model.config
    if not config.num_classes:
        raise ResNetHubError("The model has no head and so no labels to show. Train it first, or load it with labels.")
    if config.in_channels not in (1, 3):
        raise ResNetHubError(f"The model takes {config.in_channels} channels. Use a model that takes 3, or 1 (gray).")
    runtime_files = _read_runtime(runtime) if runtime is not None else {}
    network = _build_network(model)
    about = _describe(config, runtime_files)
    about["bytes"] = len(network) + sum(file.pop("bytes") for file in about["runtime"].values())
    return {
        _INDEX: _render_index(config, title or _create_title(model), is_local=bool(runtime_files)).encode(),
        **{path.name: path.read_bytes() for path in sorted(_PAGE.iterdir()) if path.suffix in (".js", ".css")},
        _CONFIG: json.dumps(about, ensure_ascii=False, indent=1).encode(),
        _MODEL: network,
        **{f"runtime/{name}": content for name, content in runtime_files.items()},
    }


def _build_network(model: ResNet) -> bytes:
    import torch

    graph, batch = build_onnx(fold_batchnorm(model), store_half=True), example_batch(model)
    with torch.inference_mode():
        (logits,) = create_session(graph).run(None, {INPUT: batch.numpy()})
        scores, expected = torch.from_numpy(logits).softmax(1), model(batch).softmax(1)
    if not (scores - expected).abs().max() <= _TOLERANCE:
        raise ResNetHubError("Half precision changes the scores of this model; it cannot be exported for the web.")
    return graph


def _describe(config: ResNetConfig, runtime_files: dict[str, bytes]) -> dict[str, Any]:
    """Returns what the scripts of the page need to know: labels, preprocessing and the files of the runtime."""
    runtime = {}
    for role, (name, size, integrity) in _RUNTIME_FILES.items():
        if name in runtime_files:
            content = runtime_files[name]
            size, integrity = len(content), f"sha384-{base64.b64encode(hashlib.sha384(content).digest()).decode()}"
        url = f"runtime/{name}" if runtime_files else RUNTIME_URL + name
        runtime[role] = {"url": url, "integrity": integrity, "bytes": size}
    keys = ("labels", "image_size", "resize_size", "crop_mode", "interpolation", "in_channels", "mean", "std")
    values = {key: getattr(config, key) for key in keys}
    return values | {"threshold": config.reliability.threshold, "runtime": runtime}


def _create_title(model: ResNet) -> str:
    labels = model.config.labels
    if len(labels) <= _FEW_LABELS:
        return f"{', '.join(labels[:-1])} or {labels[-1]}?" if len(labels) > 1 else labels[0]
    heading = re.search(r"^# (.+)$", model.card or "", re.MULTILINE)
    return heading[1].strip() if heading else model.config.architecture


def _render_index(config: ResNetConfig, title: str, *, is_local: bool) -> str:
    from jinja2 import Environment

    source = "'self'" if is_local else f"'self' {RUNTIME_URL}"
    policy = {
        "default-src": "'none'",
        "script-src": "'self' blob: 'wasm-unsafe-eval'",  # the runtime's code, once its hash is checked
        "connect-src": source,
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    template = Environment(autoescape=True).from_string((_PAGE / _INDEX).read_text(encoding="utf-8"))
    labels = f"{config.num_classes:,} label{'s' if config.num_classes > 1 else ''}"
    policy_text = "; ".join(f"{name} {value}" for name, value in policy.items())
    return template.render(title=title, labels=labels, policy=policy_text, version=__version__)


def _read_runtime(folder: str | Path) -> dict[str, bytes]:
    folder = Path(folder).expanduser()
    names = [name for name, _, _ in _RUNTIME_FILES.values()]
    for candidate in (folder, folder / "dist"):
        if all((candidate / name).is_file() for name in names):
            return {name: (candidate / name).read_bytes() for name in names}
    raise ResNetHubError(
        f"{folder} is not a copy of onnxruntime-web: it lacks {' and '.join(names)}. Unpack the npm package "
        f"onnxruntime-web {RUNTIME_VERSION} and name its folder."
    )


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Replaces the page in a folder, and leaves the folder's other files."""
    if (folder / _INDEX).exists() and not (folder / _CONFIG).exists():
        raise ResNetHubError(f"{folder} has another {_INDEX}. Name a new folder.")
    if (folder / "runtime").is_symlink():
        (folder / "runtime").unlink()  # the files behind the link are another's
    stale = {f"runtime/{name}" for name, _, _ in _RUNTIME_FILES.values()} - files.keys()
    with replace_files(folder, [*stale, *files.keys() - {_INDEX}, _INDEX]) as new:
        for name, content in files.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_bytes(content)


def _write_zip(path: Path, files: dict[str, bytes]) -> None:
    with open_atomic(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)  # no date, so that equal pages are equal files
            info.external_attr = 0o644 << 16
            archive.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)
