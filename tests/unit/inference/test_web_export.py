"""The files of an exported web page. `tests/e2e/test_web_page.py` opens it in a browser."""

import base64
import hashlib
import json
import re
import shutil
import stat
import zipfile
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.checkpoints import TINY, make_model
from helpers.hub_server import WRITER, Hub

from resnet_hub.cli import main
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import ResNetHubError
from resnet_hub.inference.engines import create_session
from resnet_hub.inference.onnx_graph import INPUT, build_onnx, fold_batchnorm
from resnet_hub.inference.web_export import RUNTIME_URL, RUNTIME_VERSION, build_web_page, export_web
from resnet_hub.model import ResNet

SCRIPTS = {"index.html", "style.css", "page.js", "classifier.js", "resize.js"}
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model(TINY).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """The layout of the npm package, with other content."""
    (tmp_path / "package" / "dist").mkdir(parents=True)
    for name in RUNTIME:
        (tmp_path / "package" / "dist" / name).write_bytes(name.encode())
    return tmp_path / "package"


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def read_policy(index: str) -> str:
    match = re.search(r'Content-Security-Policy" content="([^"]+)"', index)
    assert match
    return unescape(match[1])


def test_the_page_names_a_pinned_runtime_with_its_hashes(folder: Path) -> None:
    assert export_web(folder) == folder / "web"
    assert list_files(folder / "web") == SCRIPTS | {"model.json", "model.onnx"}
    about = json.loads((folder / "web" / "model.json").read_text(encoding="utf-8"))
    assert about["labels"] == TINY.labels
    assert (about["image_size"], about["resize_size"], about["mean"]) == (32, 35, [0.1, 0.2, 0.3])
    assert about["threshold"] == TINY.reliability.threshold
    assert RUNTIME_VERSION in RUNTIME_URL
    for file, name in zip(about["runtime"].values(), RUNTIME, strict=True):
        assert file["url"] == RUNTIME_URL + name
        assert re.fullmatch(r"sha384-[\w+/]{64}", file["integrity"])
    policy = read_policy((folder / "web" / "index.html").read_text(encoding="utf-8"))
    assert f"connect-src 'self' {RUNTIME_URL};" in policy
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "'unsafe-eval'" not in policy


def test_with_a_local_runtime_the_page_needs_no_other_server(folder: Path, runtime: Path) -> None:
    for directory in (runtime, runtime / "dist"):
        web = export_web(folder, runtime=directory)
        about = json.loads((web / "model.json").read_text(encoding="utf-8"))
        for file, name in zip(about["runtime"].values(), RUNTIME, strict=True):
            content = (web / file["url"]).read_bytes()
            assert content == name.encode()
            assert file["integrity"] == "sha384-" + base64.b64encode(hashlib.sha384(content).digest()).decode()
        assert about["bytes"] == len((web / "model.onnx").read_bytes()) + sum(map(len, RUNTIME))
        assert not any(b"https:" in path.read_bytes() for path in web.iterdir() if path.is_file())


def test_half_precision_halves_the_file_and_computes_in_float32(folder: Path) -> None:
    model = ResNet.from_pretrained(folder)
    files = build_web_page(model)
    graph = onnx.load_from_string(files["model.onnx"])
    assert {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) > 1} == {
        onnx.TensorProto.FLOAT16
    }
    assert len(files["model.onnx"]) < 0.6 * len(build_onnx(fold_batchnorm(model)))
    batch = torch.rand(2, 3, 32, 32)
    (logits,) = create_session(files["model.onnx"]).run(None, {INPUT: batch.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(logits, model(batch).numpy(), atol=5e-3)


def test_weights_beyond_half_precision_stay_in_float32() -> None:
    model = make_model(TINY)
    with torch.no_grad():
        model.fc.weight.mul_(1e7)
    graph = onnx.load_from_string(build_onnx(fold_batchnorm(model), store_half=True))
    types = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert types["fc.weight"] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    ("labels", "title"),
    [
        (["daisy", "rose", "tulip"], "daisy, rose or tulip?"),
        (["daisy"], "daisy"),
        (["<script>alert(1)</script>", "b"], "&lt;script&gt;alert(1)&lt;/script&gt; or b?"),
        ([str(number) for number in range(6)], "resnet_custom"),
    ],
)
def test_the_title_is_escaped(labels: list[str], title: str) -> None:
    model = make_model(ResNetConfig(**vars(TINY) | {"id2label": dict(enumerate(labels))}))
    model.card = None
    index = build_web_page(model)["index.html"].decode()
    assert f"<h1>{title}</h1>" in index and f"<title>{title}</title>" in index
    assert f"{len(labels)} label{'s' * (len(labels) > 1)}. " in index
    model.card = "---\nlicense: mit\n---\n\n# Six & more\n"
    index = build_web_page(model)["index.html"].decode()
    assert f"<h1>{'Six &amp; more' if len(labels) == 6 else title}</h1>" in index
    assert "<h1>Mine</h1>" in build_web_page(model, title="Mine")["index.html"].decode()


def test_a_zip_has_the_same_files_and_is_reproducible(folder: Path, runtime: Path, tmp_path: Path) -> None:
    web = export_web(folder, runtime=runtime)
    first, second = (export_web(folder, tmp_path / name, runtime=runtime) for name in ("a.zip", "b.ZIP"))
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {*archive.namelist()} == list_files(web)
        for info in archive.infolist():
            assert archive.read(info) == (web / info.filename).read_bytes()
            assert stat.S_IMODE(info.external_attr >> 16) == 0o644


def test_a_second_export_replaces_the_page_and_keeps_other_files(folder: Path, runtime: Path) -> None:
    web = export_web(folder, runtime=runtime)
    (web / "notes.txt").write_text("mine")
    (web / "model.onnx").write_bytes(b"old")
    export_web(folder)
    assert list_files(web) == SCRIPTS | {"model.json", "model.onnx", "notes.txt"}
    assert (web / "model.onnx").stat().st_size > 1000


def test_a_linked_runtime_and_folders_beside_it_stay(folder: Path, runtime: Path) -> None:
    web = export_web(folder, runtime=runtime)
    (web / "runtime" / "mine").mkdir()
    export_web(folder)
    assert (web / "runtime" / "mine").is_dir() and list_files(web / "runtime") == set()
    shutil.rmtree(web / "runtime")
    before = list_files(runtime)
    (web / "runtime").symlink_to(runtime)
    export_web(folder)
    assert not (web / "runtime").is_symlink() and list_files(runtime) == before


def test_another_page_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(ResNetHubError, match=r"has another index\.html. Name a new folder"):
        export_web(folder, tmp_path / "site")
    assert list_files(tmp_path / "site") == {"index.html"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {}}, "has no head"),
        ({"in_channels": 4, "mean": (0.5,) * 4, "std": (0.5,) * 4}, "takes 4 channels"),
    ],
)
def test_a_model_that_the_page_cannot_run(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ResNetHubError, match=message):
        build_web_page(make_model(ResNetConfig(**vars(TINY) | changes)))


def test_a_folder_without_the_runtime(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResNetHubError, match=f"not a copy of onnxruntime-web.*onnxruntime-web {RUNTIME_VERSION}"):
        export_web(folder, runtime=tmp_path)
    assert not (folder / "web").exists()


def test_a_model_of_the_hub_needs_an_output(hub: Hub, tmp_path: Path) -> None:
    make_model(TINY).push_to_hub("user/tiny", token=WRITER)
    with pytest.raises(ResNetHubError, match="name an output"):
        export_web("user/tiny")
    assert list_files(export_web("user/tiny", tmp_path / "web")) == SCRIPTS | {"model.json", "model.onnx"}


def test_the_command(folder: Path, runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = tmp_path / "page.zip"
    for arguments, path in (
        (["--web", str(folder), "--runtime", str(runtime)], folder / "web"),
        ([str(folder), "--web"], folder / "web"),
        ([str(folder), "--web", str(elsewhere)], elsewhere),
    ):
        assert main(["export", *arguments]) == 0
        assert capsys.readouterr().out == f"{path}\n"
        assert path.exists()
    assert not (folder / "onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export"], "no checkpoint folder to export"),
        (["export", "--web"], "no checkpoint folder to export"),
        (["export", "--web", "absent"], "There is no folder absent"),
        (["export", "absent", "--runtime", "x"], "add --web"),
    ],
)
def test_the_command_names_missing_packages_and_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
