"""Weights files: what is read, without running code, and what is refused by its name."""

import argparse
import collections
import datetime
import gzip
import io
import os
import pathlib
import pickle
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save, save_file
from torch import nn

from resnet_hub.config import ResNetConfig
from resnet_hub.convert.weights_file import read_state_dict
from resnet_hub.errors import ResNetHubError
from resnet_hub.model import ResNet

WEIGHTS = ResNet(ResNetConfig(depths=(1,), width=4, shortcut="A", id2label={0: "a"})).state_dict()


def pack(*names: str) -> bytes:
    """A ZIP of files with these names."""
    with zipfile.ZipFile(content := io.BytesIO(), "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return content.getvalue()


def saved(content: Any, file: Path, *, legacy: bool = False) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path):
        self.command = f"touch {marker}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("where", ["alone", "wrapped", "beside"])
def test_a_pickle_with_a_payload_is_refused_and_not_run(how: str, where: str, tmp_path: Path) -> None:
    marker, file = tmp_path / "marker", tmp_path / "model.pth"
    payload = Payload(marker)
    content = {"alone": payload, "wrapped": {"state_dict": payload}, "beside": {"state_dict": WEIGHTS, "x": payload}}
    if how == "pickle":
        file.write_bytes(pickle.dumps(content[where], protocol=2))
    else:
        torch.save(content[where], file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(ResNetHubError, match=r"othing (of it )?was run") as caught:
        read_state_dict(file)
    if how != "pickle":
        assert f"would run {os.system.__module__}.system" in str(caught.value)
    assert not marker.exists()
    if how == "pickle" and where == "alone":  # the payload works where it is let
        pickle.loads(file.read_bytes())
        assert marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".th", ".safetensors"])
def test_damaged_files_are_one_sentence(suffix: str, tmp_path: Path) -> None:
    file, weights = tmp_path / f"x{suffix}", WEIGHTS
    if suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=suffix == ".pth")
    whole = file.read_bytes()
    torch.manual_seed(0)
    garbage = torch.randint(256, (3000,), dtype=torch.uint8).numpy().tobytes()
    for damaged in (whole[:10], whole[:999], whole[: len(whole) // 2], whole[:-1], garbage):
        file.write_bytes(damaged)
        with pytest.raises(ResNetHubError, match=r"x\.\w+ is damaged, or .* Nothing of it was run\. ") as caught:
            read_state_dict(file)
        assert "\n" not in str(caught.value)
    for wrong in (tmp_path / "missing.pth", tmp_path / "missing.safetensors"):
        with pytest.raises(ResNetHubError, match=r"^Cannot read .*: [\w ]+\.$"):
            read_state_dict(wrong)


class AttributeDict(dict):
    """As Lightning has it."""


AttributeDict.__module__ = "pytorch_lightning.utilities.parsing"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(lr=0.1, out=pathlib.Path("runs"), layers=[1, 2], inner=argparse.Namespace(a=None)),
        {"best": np.float64(0.93), "epoch": np.int64(3), "sizes": np.arange(3), "name": np.str_("a")},
        collections.OrderedDict(a=collections.defaultdict(list, {"x": [1, 2]})),
        pathlib.PurePosixPath("a/b"),
        {datetime.datetime(2020, 1, 1): datetime.timedelta(1)},
        collections.Counter("abba"),
        collections.deque([1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_harmless_objects_beside_the_weights_are_no_obstacle(value: Any, legacy: bool, tmp_path: Path) -> None:
    allowed = set(torch.serialization.get_safe_globals())
    content = read_state_dict(saved({"state_dict": WEIGHTS, "args": value}, tmp_path / "x.pth", legacy=legacy))
    assert content.keys() == {"state_dict", "args"}
    if isinstance(value, argparse.Namespace):  # its settings are read
        assert content["args"]["lr"] == 0.1 and content["args"]["inner"] == {"a": None}
    assert all(torch.equal(content["state_dict"][key], tensor) for key, tensor in WEIGHTS.items())
    assert set(torch.serialization.get_safe_globals()) == allowed  # nothing stays allowed for others


def test_containers_of_other_libraries_need_not_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(AttributeDict.__module__)
    module.AttributeDict = AttributeDict  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.utilities", AttributeDict.__module__):
            patch.setitem(sys.modules, name, module)
        file = saved({"state_dict": WEIGHTS, "hyper_parameters": AttributeDict(lr=0.1)}, tmp_path / "x.ckpt")
    assert read_state_dict(file)["hyper_parameters"] == {"lr": 0.1}


def test_the_code_of_a_harmless_object_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("this ran")

    setter = type("Namespace", (), {"__module__": "argparse", "__setstate__": fail, "__getstate__": lambda _: {"a": 1}})
    monkeypatch.setattr(argparse, "Namespace", setter)
    file = saved({"state_dict": WEIGHTS, "args": setter()}, tmp_path / "x.pth")
    assert read_state_dict(file)["args"] == {"a": 1}


def save_script(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.trace(nn.Linear(2, 2).eval(), torch.zeros(1, 2)).save(file)


def test_whole_models_are_called_that(tmp_path: Path) -> None:
    for model, name in (
        (torchvision.models.resnet18(), "torchvision.models.resnet.ResNet"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), "torch.nn.modules.container.Sequential"),
        (nn.DataParallel(nn.Linear(1, 1)), "torch.nn.parallel.data_parallel.DataParallel"),
    ):
        for legacy in (False, True):
            with pytest.raises(ResNetHubError, match="is a pickle of a whole model that would run") as error:
                read_state_dict(saved(model, tmp_path / "whole.pt", legacy=legacy))
            assert "torch.save(model.state_dict(), FILE)" in str(error.value)
            assert name in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "Git LFS pointer"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x08\x07\x12\x07pytorch", "ONNX"),
        (b"\x08\x08:\x04abcd", "ONNX"),
        (b"\x08\x01\x12\xd0\x01\n\x0esaved", "SavedModel"),
        (b"\x89HDF\r\n\x1a\n\0", "HDF5"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"\x93NUMPY\x01", "NumPy array"),
        (gzip.compress(b"abc", mtime=0), "compressed"),
        (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
        (b'{"architecture": "resnet18"}', "JSON"),
        (b"", "is empty"),
        (pack("config.json", "metadata.json", "model.weights.h5"), "Keras"),
        (pack("a.npy", "b.npy"), "NumPy arrays"),
        (pack("photos/1.jpg"), "ZIP archive"),
        (pickle.dumps({"a": 1.0}, protocol=4), "that `torch.save` did not write"),
        (pickle.dumps({"a": 1.0}, protocol=5), "that `torch.save` did not write"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_formats_are_called_by_their_names(content: bytes, message: str, suffix: str, tmp_path: Path) -> None:
    (file := tmp_path / f"weights{suffix}").write_bytes(content)
    with pytest.raises(ResNetHubError, match=message) as error:
        read_state_dict(file)
    assert str(error.value).startswith(str(file)) and str(error.value).endswith(".") and "\n" not in str(error.value)


def test_programs_and_folders_are_called_by_their_names(tmp_path: Path) -> None:
    save_script(tmp_path / "script.pt")
    with pytest.raises(ResNetHubError, match="TorchScript"):
        read_state_dict(tmp_path / "script.pt")
    (tmp_path / "renamed.safetensors").write_bytes((tmp_path / "script.pt").read_bytes())
    with pytest.raises(ResNetHubError, match="TorchScript"):
        read_state_dict(tmp_path / "renamed.safetensors")
    with pytest.raises(ResNetHubError, match=r"is a folder\. Name the weights file in it\."):
        read_state_dict(tmp_path)


def test_the_content_decides_how_a_file_is_read(tmp_path: Path) -> None:
    for name in ("x.pth", "x.bin", "x", "x.ckpt"):
        (tmp_path / name).write_bytes(save(WEIGHTS))
        assert read_state_dict(tmp_path / name).keys() == WEIGHTS.keys()
    for legacy in (False, True):
        file = saved(WEIGHTS, tmp_path / "x.safetensors", legacy=legacy)
        assert read_state_dict(file).keys() == WEIGHTS.keys()
