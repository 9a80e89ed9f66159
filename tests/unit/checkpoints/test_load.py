"""Loading checkpoints from folders and from repos of the loopback Hub: weights, configs and errors."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import (
    TINY,
    compute_logits,
    is_one_sentence,
    make_model,
    rewrite_weights,
    split_weights,
    upload_by_hand,
)
from helpers.hub_server import WRITER, Hub, Repo
from safetensors.torch import load_file, save_file

from resnet_hub.checkpoints.load import count_parameters_by_dtype, load_checkpoint, read_config
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import CheckpointError, ConfigError
from resnet_hub.included_models import INCLUDED_FOLDER
from resnet_hub.inference.classifier import Classifier
from resnet_hub.model import ResNet


def test_loading_draws_no_random_numbers(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    state = torch.get_rng_state()
    loaded = ResNet.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in loaded.parameters())


def test_an_included_model_is_loaded_by_its_name_unless_a_folder_here_has_it(
    model: ResNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    included = read_config("resnet20-cifar10")
    assert included == read_config(INCLUDED_FOLDER / "resnet20-cifar10")
    with pytest.raises(CheckpointError, match=r"^There is no folder resnet20-cifar10\."):
        read_config(Path("resnet20-cifar10"))
    with pytest.raises(CheckpointError, match=r"^There is no folder a"):
        read_config("a" * 300)
    model.save_pretrained("resnet20-cifar10")
    assert read_config("resnet20-cifar10") == model.config != included


def test_an_argument_that_does_not_exist_is_an_error_of_the_method_that_was_called(
    model: ResNet, tmp_path: Path
) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    for method in (ResNet.from_pretrained, Classifier.from_pretrained):
        with pytest.raises(
            TypeError, match=rf"^{method.__qualname__}\(\) got an unexpected keyword argument 'revison'"
        ):
            method(folder, revison="x")
    with pytest.raises(TypeError, match=r"^ResNet.push_to_hub\(\) got an unexpected keyword argument 'privat'"):
        model.push_to_hub("user/tiny", privat=True)
    loaded = Classifier.from_pretrained(folder, id2label=["a", "b"], dtype="float16")
    assert list(loaded.config.labels) == ["a", "b"]


LOAD = """
import resource, sys
from resnet_hub.model import ResNet
ResNet.from_pretrained(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = ResNet.from_pretrained(sys.argv[2])
total = sum(float(value.sum()) for value in model.state_dict().values())  # every page is read
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "sympy" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_loading_holds_one_copy_of_the_weights(model: ResNet, tmp_path: Path) -> None:
    small = model.save_pretrained(tmp_path / "small")
    large = ResNet(ResNetConfig.from_name("resnet34", num_classes=3)).save_pretrained(tmp_path / "large")
    run = subprocess.run([sys.executable, "-c", LOAD, small, large], capture_output=True, text=True, check=True)
    kilobytes, symbolic = run.stdout.split()
    assert int(kilobytes) * 1024 < 1.5 * (large / "model.safetensors").stat().st_size
    assert symbolic == "False"  # a meta tensor that is initialized costs a second of imports


def test_reading_a_config_needs_no_torch_and_no_weights(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    program = (
        "import sys; from resnet_hub.checkpoints.load import read_config; config = read_config(sys.argv[1]);"
        "assert 'torch' not in sys.modules and 'huggingface_hub' not in sys.modules; print(config.num_classes)"
    )
    run = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert run.stdout == "3\n"


def test_a_config_is_read_without_fetching_weights(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.requests.clear()
    assert read_config("user/tiny") == TINY
    assert not any("safetensors" in request for request in hub.requests)


def test_strict_loading_names_the_keys_that_do_not_fit(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    rewrite_weights(folder, bn1__weight=None, extra=torch.zeros(1), conv1__weight=torch.zeros(8, 3, 3, 3))
    with pytest.raises(CheckpointError) as error:
        ResNet.from_pretrained(folder)
    assert is_one_sentence(error.value)
    for part in ("1 missing: bn1.weight", "1 unexpected: extra", "1 misshapen: conv1.weight (8x3x3x3 for 8x3x7x7)"):
        assert part in str(error.value)


def test_integer_weights_raise(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    rewrite_weights(folder, bn1__weight=torch.zeros(8, dtype=torch.int64))
    with pytest.raises(CheckpointError, match=r"bn1\.weight"):
        ResNet.from_pretrained(folder)


def test_only_the_counters_of_batchnorm_may_be_missing(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    names = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    rewrite_weights(folder, **dict.fromkeys(names))
    loaded = ResNet.from_pretrained(folder)
    assert loaded.bn1.num_batches_tracked == 0
    assert torch.equal(compute_logits(loaded), compute_logits(model))


@pytest.mark.parametrize("damage", ["cut", "lying header", "endless header", "text", "empty"])
def test_damaged_weights_raise(damage: str, model: ResNet, tmp_path: Path) -> None:
    path = model.save_pretrained(tmp_path / "m") / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "lying header": re.sub(rb'"shape":\[8\]', rb'"shape":[9]', content, count=1),
            "endless header": (2**60).to_bytes(8, "little") + content[8:],
            "text": b"These are no weights.\n",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"model.safetensors of .* is damaged") as error:
        load_checkpoint(path.parent)
    assert is_one_sentence(error.value)


def test_a_pickle_is_not_opened_and_the_error_names_convert(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(TINY.to_json())
    marker = tmp_path / "executed"
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin, a pickle.*resnet-hub convert"):
        ResNet.from_pretrained(tmp_path)
    assert not marker.exists()


def test_errors_of_a_folder_name_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"no config.json.*notes.txt"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a file\. Name the folder"):
        load_checkpoint(tmp_path / "notes.txt")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(TINY.to_json())
    with pytest.raises(CheckpointError, match=r"no model.safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_sharded_weights(where: str, model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    split_weights(folder)
    if where == "hub":
        upload_by_hand(hub, "user/parts", folder)
    loaded = ResNet.from_pretrained(folder if where == "folder" else "user/parts")
    assert torch.equal(compute_logits(loaded), compute_logits(model))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"weight_map": {"a": "../m/model.safetensors"}},
            r"names '../m/model.safetensors', which is not a weights file",
        ),
        ({"weight_map": {"a": "/etc/passwd"}}, "names '/etc/passwd', which is not a weights"),
        ({"weight_map": {"a": "..\\secret.safetensors"}}, "which is not a weights file beside it"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "names 'pytorch_model.bin', which is not a weights file"),
        ({"weight_map": {"a": "gone.safetensors"}}, "has no gone.safetensors, which its"),
        ({"weight_map": {"a": 1}}, "names 1, which is not a weights"),
        ({"weight_map": {"a": ["b"]}}, "is damaged"),
        ({"weight_map": {}}, "names 0 files"),
        ({"weight_map": []}, "is damaged"),
        ([], "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_an_index_cannot_name_files_elsewhere(index: object, message: str, model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(message)) as error:
        ResNet.from_pretrained(folder)
    assert is_one_sentence(error.value)


def test_a_tensor_in_two_shards_raises(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    names = list(model.state_dict())
    split_weights(folder, {"a.safetensors": names[:10], "b.safetensors": names[9:]})
    with pytest.raises(CheckpointError, match=f"have {re.escape(names[9])} twice, the second time in b.safetensors"):
        ResNet.from_pretrained(folder)


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_one_of_several_weights_files_is_chosen_by_name(where: str, model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "best.safetensors")
    if where == "hub":
        upload_by_hand(hub, "user/one", folder)
    source = folder if where == "folder" else "user/one"
    assert torch.equal(compute_logits(ResNet.from_pretrained(source)), compute_logits(model))  # the only one

    save_file({key: tensor * 2 for key, tensor in weights.items()}, folder / "last.safetensors")
    if where == "hub":
        upload_by_hand(hub, "user/one", folder)
    with pytest.raises(CheckpointError, match=r'several weights files\. .* weights="best.safetensors"\.$'):
        ResNet.from_pretrained(source)
    last = ResNet.from_pretrained(source, weights="last.safetensors")
    assert torch.equal(last.conv1.weight, 2 * model.conv1.weight)
    for wrong in ("gone.safetensors", "config.json", "../m/best.safetensors"):
        with pytest.raises(CheckpointError, match="has no weights"):
            ResNet.from_pretrained(source, weights=wrong)


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_a_model_in_a_subfolder(where: str, model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "repo" / "models" / "tiny").parent.parent
    if where == "hub":
        upload_by_hand(hub, "user/many", folder)
    source = folder if where == "folder" else "user/many"
    loaded = ResNet.from_pretrained(source, subfolder="models/tiny")
    assert torch.equal(compute_logits(loaded), compute_logits(model))
    assert loaded.card is not None
    assert read_config(source, subfolder="models/tiny/") == TINY
    parent = folder / "models" if where == "folder" else "user/many"
    choice = re.escape(f"Name that folder: {parent}/tiny.") if where == "folder" else 'such as subfolder="models/tiny".'
    with pytest.raises(CheckpointError, match=choice):
        ResNet.from_pretrained(parent)
    for wrong in ("../repo/models/tiny", "models/../models/tiny", "models/gone"):
        with pytest.raises(CheckpointError) as error:
            ResNet.from_pretrained(source, subfolder=wrong)
        assert is_one_sentence(error.value)


def test_a_run_directory_names_its_model_and_not_its_base(model: ResNet, tmp_path: Path) -> None:
    for name in ("base", "model"):
        model.save_pretrained(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"Name that folder: {re.escape(str(tmp_path / 'model'))}\.$"):
        read_config(tmp_path)


def test_names_of_wrappers_and_of_the_cifar_repositories_open(tmp_path: Path) -> None:
    model = make_model(ResNetConfig.from_name("resnet20", num_classes=10, shortcut="B"))
    folder = model.save_pretrained(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    theirs = {
        "module." + key.replace("fc.", "linear.").replace("downsample", "shortcut"): tensor
        for key, tensor in weights.items()
    }
    save_file(theirs, folder / "model.safetensors")
    assert torch.equal(compute_logits(ResNet.from_pretrained(folder)), compute_logits(model))


def test_weights_of_an_unsupported_network_are_not_fetched(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    (folder / "config.json").write_text('{"architecture": "seresnet50.a1_in1k", "num_classes": 3}')
    upload_by_hand(hub, "user/se", folder)
    with pytest.raises(ConfigError, match=r"user/se: .* seresnet50, which is not supported: it has squeeze-excitation"):
        ResNet.from_pretrained("user/se")
    assert not any("safetensors" in request for request in hub.requests)


def test_files_larger_than_the_network_are_not_fetched(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/large", token=WRITER)
    files = hub.repos["user/large"].files()
    for name, size, sentence in (
        (
            "model.safetensors",
            20,
            "The weights of user/large have 21 MB, but those of the network in its config.json",
        ),
        ("README.md", 17, "README.md of user/large has 17.8 MB; at most 16 MB are read."),
        ("config.json", 17, "config.json of user/large has 17.8 MB; at most 16 MB are read."),
    ):
        hub.repos["user/large"].commit("main", {**files, name: bytes(size * 2**20)}, name)
        hub.requests.clear()
        with pytest.raises(CheckpointError) as error:
            ResNet.from_pretrained("user/large")
        assert str(error.value).startswith(sentence)
        assert not any(name in request for request in hub.requests)


def test_the_size_limit_applies_to_files_in_the_subfolder(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    files = hub.repos["user/tiny"].files()
    inner = {f"inner/{name}": content for name, content in files.items() if name != "model.safetensors"}
    hub.repos["user/tiny"].commit("main", inner | {"inner/model.safetensors": bytes(2**25)} | files, "x")
    with pytest.raises(CheckpointError, match="They are not fetched"):
        load_checkpoint("user/tiny", subfolder="inner")


def test_the_error_for_a_missing_file_lists_the_files(hub: Hub) -> None:
    hub.repos["user/pickle"] = Repo()
    hub.repos["user/pickle"].commit("main", {"config.json": TINY.to_json().encode(), "pytorch_model.bin": b""}, "x")
    with pytest.raises(CheckpointError, match=r"user/pickle has no model.safetensors but pytorch_model.bin"):
        load_checkpoint("user/pickle")
    hub.repos["user/text"] = Repo()
    hub.repos["user/text"].commit("main", {"book.txt": b""}, "x")
    with pytest.raises(CheckpointError, match=r"user/text has no config.json.*book.txt"):
        load_checkpoint("user/text")


def test_files_with_unprintable_names_are_ignored(model: ResNet, hub: Hub) -> None:
    hub.repos["user/odd"] = Repo()
    names = ["\x1b[31m\nx/config.json", "a" * 5000 + ".bin", "\u202eevil.pkl", "plain.txt"]
    hub.repos["user/odd"].commit("main", dict.fromkeys(names, b"x"), "x")
    with pytest.raises(CheckpointError, match=r"^user/odd has no config\.json.* It has plain\.txt\.$"):
        load_checkpoint("user/odd")


def test_parameters_are_counted_from_the_header(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m", dtype="float16")
    tensors = load_file(folder / "model.safetensors").values()
    floats = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
    expected = {"F16": floats, "I64": len([tensor for tensor in tensors if not tensor.is_floating_point()])}
    program = "import sys; from resnet_hub.checkpoints.load import count_parameters_by_dtype as read; "
    program += "print(read(sys.argv[1]), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert ast.literal_eval(run.stdout.replace(" False", "")) == expected

    upload_by_hand(hub, "user/half", folder)
    assert count_parameters_by_dtype("user/half") == expected
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    split_weights(folder)
    upload_by_hand(hub, "user/parts", folder)
    assert count_parameters_by_dtype(folder) == count_parameters_by_dtype("user/parts") == expected
    hub.edit("user/half", "model.safetensors", b"text that is no header of weights")
    (folder / "model-1-of-2.safetensors").write_bytes(b"text that is no header of weights")
    for damaged in ("user/half", folder):
        with pytest.raises(CheckpointError, match="is damaged") as error:
            count_parameters_by_dtype(damaged)
        assert is_one_sentence(error.value)
