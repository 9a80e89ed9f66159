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
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from resnet_hub.config import ResNetConfig
from resnet_hub.convert.state_dict import ConvertedCheckpoint, convert_state_dict
from resnet_hub.convert.weights_file import read_state_dict, unwrap_state_dict
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


CONFIG = ResNetConfig(depths=(1, 1), width=4, id2label={0: "a", 1: "b"})
RAW, AVERAGED = ResNet(CONFIG).state_dict(), ResNet(CONFIG).state_dict()
BACKBONE = {key: tensor for key, tensor in RAW.items() if not key.startswith("fc.")}
HEAD = nn.Linear(CONFIG.num_features, 2)
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


def prefixed(prefix: str, tensors: dict[str, Tensor] = RAW) -> dict[str, Any]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def holds(converted: ConvertedCheckpoint, tensors: dict[str, Tensor]) -> bool:
    return converted.weights.keys() == tensors.keys() and all(
        torch.equal(converted.weights[key], tensor) for key, tensor in tensors.items()
    )


def note(converted: ConvertedCheckpoint, topic: str) -> str:
    return next(text for name, text in converted.notes if name == topic)


AVERAGES: list[dict[str, Any]] = [
    {"state_dict": RAW, "state_dict_ema": AVERAGED, "epoch": 3},
    {"model": RAW, "model_ema": AVERAGED, "optimizer": OPTIMIZER},
    {"model": prefixed("module."), "model_ema": {"n_averaged": torch.tensor(3), **prefixed("module.", AVERAGED)}},
    {"state_dict": prefixed("model.") | prefixed("ema_model.module.", AVERAGED)},
    {"state_dict": RAW, "callbacks": {"EMA": {"ema_state_dict": AVERAGED}}},
    {"net": RAW, "netEMA": AVERAGED},
    {"state_dict": RAW, "ema_state_dict": prefixed("module.", AVERAGED) | {"steps": torch.tensor(3)}},
    {"state_dict": prefixed("model.") | prefixed("model_ema.", AVERAGED) | {"model_ema.decay": torch.tensor(0.9)}},
    {"state_dict": RAW | {"num_updates": torch.tensor([7])}, "ema": AVERAGED | {"n": torch.tensor(7)}},
    {"state_dict": AVERAGED, "current_model_state": RAW, "averaging_state": {"n_averaged": torch.tensor(2)}},
    RAW | prefixed("ema.", AVERAGED),
    prefixed("swa_model.module.", AVERAGED) | {"swa_model.n_averaged": torch.tensor(1)} | prefixed("model."),
]


@pytest.mark.parametrize("content", AVERAGES)
def test_averaged_weights_are_preferred_and_raw_ones_can_be_chosen(content: dict[str, Any]) -> None:
    converted = convert_state_dict(content, "x")
    assert holds(converted, AVERAGED)
    assert note(converted, "weights").startswith("averaged (") and "--weights raw" in note(converted, "weights")
    assert holds(convert_state_dict(content, "x", choice="ema"), AVERAGED)
    assert holds(raw := convert_state_dict(content, "x", choice="raw"), RAW)
    assert note(raw, "weights").endswith("as requested")


def test_an_average_alone_is_one_and_a_missing_one_is_an_error() -> None:
    network = ResNet(CONFIG)
    alone = AveragedModel(network).state_dict()
    assert "n_averaged" in alone
    converted = convert_state_dict(alone, "x")
    assert holds(converted, network.state_dict()) and note(converted, "weights").startswith("averaged")
    with pytest.raises(ResNetHubError, match=r"x has no raw weights, only averaged ones\. Leave out --weights raw\."):
        convert_state_dict(alone, "x", choice="raw")
    for content in (RAW, {"state_dict": RAW}, prefixed("schema.")):
        with pytest.raises(
            ResNetHubError, match=r"x has no averaged weights, only raw ones\. Leave out --weights ema\."
        ):
            convert_state_dict(content, "x", choice="ema")


@pytest.mark.parametrize(
    "prefix",
    [
        *("model.", "net.", "backbone.", "encoder.", "module.model.", "model._orig_mod.", "_orig_mod.module.net."),
        *("learner.backbone.module.", "a.b.c.d.", "resnet.", "student.0."),
    ],
)
@pytest.mark.parametrize("path", [(), ("state_dict",), ("params",), ("checkpoint", "weights", "model_state")])
def test_any_shared_prefix_and_any_nesting_is_removed(prefix: str, path: tuple[str, ...]) -> None:
    content: Any = prefixed(prefix)
    for name in reversed(path):
        content = {"epoch": 1, name: content, "optimizer": OPTIMIZER, "lr": [0.1]}
    converted = convert_state_dict(content, "x")
    assert holds(converted, RAW)
    assert note(converted, "renamed") == f"{prefix} removed"
    if path:
        assert note(converted, "wrapper") == f"the weights are under {'.'.join(path)!r}"


def test_stages_that_were_compiled_alone_lose_their_prefix() -> None:
    content = {key.replace("layer2.", "layer2._orig_mod."): tensor for key, tensor in RAW.items()}
    converted = convert_state_dict(content, "x")
    assert holds(converted, RAW) and note(converted, "renamed") == "_orig_mod. removed"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("fc", nn.Sequential(nn.Dropout(), HEAD)),
        ("fc", nn.Sequential(HEAD, nn.Softmax(1))),
        ("linear", nn.Sequential(nn.Dropout(), nn.Sequential(HEAD))),
        ("classifier", HEAD),
        ("head", nn.ModuleDict({"fc": HEAD})),
    ],
)
@pytest.mark.parametrize(("prefix", "outer"), [("", ""), ("model.", "model."), ("net.backbone.", "net."), ("enc.", "")])
def test_a_head_of_one_linear_layer_is_the_head(name: str, model: nn.Module, prefix: str, outer: str) -> None:
    content = prefixed(prefix, BACKBONE) | {f"{outer}{name}.{key}": value for key, value in model.state_dict().items()}
    converted = convert_state_dict(content, "x", labels=["a", "b"])
    assert torch.equal(converted.weights["fc.weight"], HEAD.weight)
    assert torch.equal(converted.weights["fc.bias"], HEAD.bias)
    assert converted.config.labels == ["a", "b"]


def test_a_head_in_a_mapping_of_its_own_is_the_head() -> None:
    content = {"backbone": BACKBONE, "classifier": OrderedDict(HEAD.state_dict()), "optimizer": OPTIMIZER}
    converted = convert_state_dict(content, "x")
    assert torch.equal(converted.weights["fc.weight"], HEAD.weight)
    assert "classifier" not in note(converted, "ignored")


@pytest.mark.parametrize(
    "extra",
    [
        {"loss.W": torch.ones(2, 4)},
        {"rpn.head.conv.weight": torch.ones(1, 1, 1, 1), "roi_heads.box.fc6.bias": torch.ones(1)},
        {
            "classifier.0.weight": torch.ones(8, 8),
            "classifier.0.bias": torch.ones(8),
            "classifier.2.weight": HEAD.weight,
        },
        {"projector.weight": torch.ones(4, 4), "projector.bias": torch.ones(4)},
        {"train_accuracy.total": torch.zeros(())},
    ],
)
@pytest.mark.parametrize(("prefix", "outer"), [("", ""), ("backbone.", "")])
def test_other_tensors_are_left_out_only_on_request(extra: dict[str, Tensor], prefix: str, outer: str) -> None:
    content = {"state_dict": prefixed(prefix) | {outer + key: tensor for key, tensor in extra.items()}}
    with pytest.raises(ResNetHubError, match=r"^x has \d tensors? \(.*--ignore\.$") as error:
        convert_state_dict(content, "x")
    assert all(key in str(error.value) for key in extra)
    converted = convert_state_dict(content, "x", ignore=True)
    assert holds(converted, RAW) and all(key in note(converted, "left out") for key in extra)


@pytest.mark.parametrize(
    "beside",
    [
        {"metric_fc": {"weight": torch.ones(5, 8)}},
        {"loss": OrderedDict(centers=torch.ones(5, 8), radius=torch.ones(1))},
        {"arcface.weight": torch.ones(5, 8)},
        {"decoder": {"0.weight": torch.ones(4, 4, 3, 3), "0.bias": torch.ones(4)}},
    ],
)
def test_weights_in_a_mapping_beside_the_network_are_left_out_only_on_request(beside: dict[str, Any]) -> None:
    content = {"model": RAW, "optimizer": OPTIMIZER, "rng": {"cpu": torch.get_rng_state()}, "epoch": 3} | beside
    with pytest.raises(ResNetHubError, match=rf"^x has \d tensors? \({next(iter(beside))}.*--ignore\.$"):
        convert_state_dict(content, "x")
    converted = convert_state_dict(content, "x", ignore=True)
    assert holds(converted, RAW) and next(iter(beside)) in note(converted, "left out")
    assert note(converted, "ignored") == "optimizer, rng, epoch: not weights"


@pytest.mark.parametrize(
    ("module", "state"),
    [
        (prune.l1_unstructured(ResNet(CONFIG).conv1, "weight", 0.5), "pruned"),
        (parametrizations.spectral_norm(ResNet(CONFIG).conv1), "parametrized"),
        (parametrizations.orthogonal(nn.Linear(8, 8)), "parametrized"),
    ],
)
def test_weights_that_are_computed_are_called_that(module: nn.Module, state: str) -> None:
    weights = {key: tensor for key, tensor in RAW.items() if not key.startswith("conv1.")}
    with pytest.raises(ResNetHubError, match=rf"x holds a network that is {state} \(conv1\..*Call torch\.nn\.utils\."):
        convert_state_dict(weights | prefixed("conv1.", module.state_dict()), "x")


def test_a_head_of_several_layers_is_left_out_only_on_request() -> None:
    head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    for name in ("fc", "model.fc", "linear"):
        prefix = "model." if name.startswith("model.") else ""
        content = prefixed(prefix, BACKBONE) | {f"{name}.{key}": value for key, value in head.state_dict().items()}
        with pytest.raises(ResNetHubError, match=r"4 tensors \(.*one linear layer is supported.*--ignore"):
            convert_state_dict(content, "x")
        converted = convert_state_dict(content, "x", ignore=True)
        assert holds(converted, BACKBONE) and converted.config.num_classes == 0


PARTS = ["layer1.0.se.fc1.weight", "conv1.bias", "bn1.extra", "layer5.0.conv1.weight", "maxpool.0.weight"]


@pytest.mark.parametrize("key", PARTS)
def test_parts_of_the_network_are_never_left_out(key: str) -> None:
    with pytest.raises(ResNetHubError, match=f"1 unexpected: {key}"):
        convert_state_dict(RAW | {key: torch.ones(4)}, "x", ignore=True)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"state_dict": RAW, "model": AVERAGED}, "state_dict, model"),
        (prefixed("student.") | prefixed("teacher."), "student, teacher"),
        ({"a": {"net": RAW}, "b": {"net": AVERAGED}}, r"a\.net, b\.net"),
    ],
)
def test_several_networks_are_named(content: dict[str, Any], names: str) -> None:
    with pytest.raises(ResNetHubError, match=rf"x holds several networks: {names}\. Choose one, such as --weights "):
        unwrap_state_dict(content, "x")


MLP = {"0.weight": torch.ones(8, 8), "0.bias": torch.ones(8), "2.weight": torch.ones(4, 8)}
MOCO = {
    "state_dict": prefixed("module.encoder_q.")
    | prefixed("module.encoder_k.", AVERAGED)
    | {"module.queue": torch.ones(4, 9), "module.queue_ptr": torch.zeros(1)}
}
DINO = {
    "student": prefixed("module.backbone.", BACKBONE) | prefixed("module.head.mlp.", MLP),
    "teacher": prefixed("backbone.", AVERAGED) | prefixed("head.mlp.", MLP),
}
BYOL = {
    "state_dict": prefixed("online.encoder.")
    | prefixed("online.projector.", MLP)
    | prefixed("target.encoder.", AVERAGED)
    | prefixed("target.projector.", MLP)
}
LIGHTLY = {"state_dict": prefixed("backbone.") | prefixed("backbone_momentum.", AVERAGED)}
STUDENTS = {"state_dict": prefixed("student.") | prefixed("teacher.", AVERAGED)}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (MOCO, ["encoder_k", "module.encoder_k", "state_dict.module.encoder_k"]),
        (DINO, ["teacher", "teacher.backbone"]),
        (BYOL, ["target", "target.encoder"]),
        (LIGHTLY, ["backbone_momentum", "state_dict.backbone_momentum"]),
        (STUDENTS, ["teacher"]),
    ],
)
def test_one_of_several_networks_is_chosen_by_a_part_of_its_name(content: dict[str, Any], names: list[str]) -> None:
    for name in names:
        converted = convert_state_dict(content, "x", choice=name, ignore=True)
        assert holds(converted, AVERAGED)
        assert name in note(converted, "weights") and note(converted, "weights").endswith(", as requested")
    with pytest.raises(ResNetHubError, match=r"x has no network 'b' but these: .*Choose one, such as --weights "):
        unwrap_state_dict(content, "x", choice="b")


def test_heads_of_another_network_are_not_those_of_the_chosen_one() -> None:
    head = nn.Sequential(nn.Dropout(), HEAD).state_dict()
    content = {
        f"{name}.{key}": tensor
        for name in ("model", "ema_model")
        for key, tensor in (BACKBONE | prefixed("fc.", head)).items()
    }
    for choice in (None, "raw", "model", "ema_model"):
        assert torch.equal(convert_state_dict(content, "x", choice=choice).weights["fc.weight"], HEAD.weight)


def test_a_mapping_that_holds_itself_ends() -> None:
    content: dict[str, Any] = {"state_dict": RAW, "copy": RAW}
    content |= {str(number): content for number in range(100)}
    assert holds(convert_state_dict(content, "x"), RAW)


@pytest.mark.parametrize(
    ("settings", "feature"),
    [
        ({"arch": "resnetaa50"}, "anti-aliasing"),
        ({"args": {"model": "timm/resnetblur50.bt_in1k"}}, "blur-pool"),
        ({"hyper_parameters": {"model_name": "resnet50_clip"}}, "CLIP"),
        ({"args": {"model": "resnet50", "model_kwargs": {"output_stride": 8}}}, "dilated"),
        ({"config": {"backbone": {"aa_layer": "blurpc"}}}, "anti-aliasing"),
        ({"hparams": {"replace_stride_with_dilation": [False, True, True]}}, "dilated"),
        ({"cfg": {"act_layer": "silu"}}, "another activation"),
        ({"cfg": {"global_pool": "max"}}, "another global pool"),
    ],
)
def test_settings_of_networks_with_the_same_keys_are_refused(settings: dict[str, Any], feature: str) -> None:
    with pytest.raises(ResNetHubError, match=rf"^x says .*: its network has .*{feature}.*, which is not supported\.$"):
        unwrap_state_dict({"state_dict": RAW} | settings, "x")


def test_settings_of_supported_networks_are_no_obstacle() -> None:
    settings = {
        "model": "resnet50.a1_in1k",
        "aa_layer": "",
        "output_stride": 32,
        "act_layer": "ReLU",
        "global_pool": "avg",
    }
    settings |= {"replace_stride_with_dilation": [False, False, False], "backbone": "resnet18"}
    converted = convert_state_dict({"state_dict": RAW, "args": settings}, "x")
    assert holds(converted, RAW) and "assumed" in note(converted, "stages")
