"""Saving checkpoint folders: their files, dtypes and errors."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.utils.prune
from helpers.checkpoints import TINY, compute_logits, is_one_sentence, make_model, rewrite_weights
from helpers.hub_server import WRITER, Hub
from huggingface_hub import ModelCard
from safetensors.torch import load_file, safe_open

from resnet_hub.checkpoints.model_card import CardContent
from resnet_hub.checkpoints.push import push_folder
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import CheckpointError
from resnet_hub.model import ResNet


def test_a_saved_folder_loads_unchanged(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "deep" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    loaded = ResNet.from_pretrained(str(folder))
    assert torch.equal(compute_logits(loaded), compute_logits(model))
    assert loaded.config == TINY
    assert loaded.card == (folder / "README.md").read_text(encoding="utf-8")
    assert not loaded.training
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_halves_the_file_and_computes_in_float32(dtype: str, model: ResNet, tmp_path: Path) -> None:
    full, half = (model.save_pretrained(tmp_path / str(name), dtype=name) for name in (None, dtype))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (full, half)]
    headers = 15_000
    assert sizes[1] - headers < sizes[0] / 2 < sizes[1]
    stored = load_file(half / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {f"torch.{dtype}", "torch.int64"}
    assert f"The weights are stored as {dtype}" in (half / "README.md").read_text(encoding="utf-8")
    assert "## Precision" not in (full / "README.md").read_text(encoding="utf-8")

    loaded = ResNet.from_pretrained(half)
    assert (loaded.dtype, loaded.stored_as) == (torch.float32, dtype)
    assert ResNet.from_pretrained(full).stored_as == "float32"
    assert torch.allclose(compute_logits(loaded), compute_logits(model), atol=0.05)
    assert not torch.equal(compute_logits(loaded), compute_logits(model))
    kept = ResNet.from_pretrained(half, dtype="auto")
    assert kept.dtype == getattr(torch, dtype)
    assert torch.equal(kept.float().conv1.weight, loaded.conv1.weight)


def test_half_precision_is_kept_as_long_as_it_is_lossless(model: ResNet, tmp_path: Path) -> None:
    first = model.save_pretrained(tmp_path / "1", dtype="float16", card=CardContent(metrics={"accuracy": 0.9}))
    loaded = ResNet.from_pretrained(first)
    again = loaded.save_pretrained(tmp_path / "2")
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (again / name).read_bytes() == (first / name).read_bytes()
    with torch.no_grad():
        loaded.fc.bias += 1e-5  # a step of training
    trained = loaded.save_pretrained(tmp_path / "3")
    assert torch.equal(ResNet.from_pretrained(trained).fc.bias, loaded.fc.bias)
    assert "90.00 %" not in (trained / "README.md").read_text(encoding="utf-8")
    assert ResNet.from_pretrained(model.half().save_pretrained(tmp_path / "4")).stored_as == "float16"


def save_and_read(model: ResNet, folder: Path, card: str | None) -> str:
    return (model.save_pretrained(folder, card=card) / "README.md").read_text(encoding="utf-8")


def test_a_card_shows_only_images_that_are_saved_with_it(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    facts = CardContent(image_files=["curves.png", "confusion matrix.png"], metrics={"accuracy": 0.9})
    folder = model.save_pretrained(tmp_path / "run", card=facts)
    for name in facts.image_files:
        (folder / name).write_bytes(b"PNG")
    loaded = ResNet.from_pretrained(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "curves.png").write_bytes(b"PNG")
    loaded.save_pretrained(other)
    card = (other / "README.md").read_text(encoding="utf-8")
    assert "![" not in card and "90.00 %" in card  # the file there is of another model
    assert ResNet.from_pretrained(loaded.save_pretrained(folder)).card == loaded.card
    loaded.push_to_hub("user/flowers", token=WRITER)
    pushed = hub.repos["user/flowers"].files()["README.md"].decode()
    assert "![" not in pushed and "90.00 %" in pushed and "user/flowers" in pushed

    push_folder(folder, "user/flowers", token=WRITER)
    assert hub.repos["user/flowers"].files()["curves.png"] == b"PNG"
    ResNet.from_pretrained("user/flowers").push_to_hub("user/flowers", token=WRITER)
    again = hub.repos["user/flowers"].files()
    assert again["README.md"].decode().count("![") == 2 and "curves.png" in again  # its files are in the repo

    written = "Mine\n\n![arch](arch.png)"
    assert "arch.png" in save_and_read(loaded, tmp_path / "written", written)
    assert "arch.png" in save_and_read(ResNet.from_pretrained(tmp_path / "written"), tmp_path / "again", None)
    (folder / "README.md").write_text(f"My words\n\n{card}", encoding="utf-8")
    edited = ResNet.from_pretrained(folder).save_pretrained(tmp_path / "edited") / "README.md"
    assert edited.read_text(encoding="utf-8") == f"My words\n\n{card}"


def test_a_weight_that_overflows_in_float16_raises(model: ResNet, tmp_path: Path) -> None:
    with torch.no_grad():
        model.bn1.running_var[0] = 1e5
    with pytest.raises(CheckpointError, match=r"^bn1.running_var holds values above 65504.*bfloat16\.$"):
        model.save_pretrained(tmp_path / "m", dtype="float16")
    with pytest.raises(CheckpointError, match=r"^dtype is 'int8'; choose one of float32, bfloat16, float16\.$"):
        model.save_pretrained(tmp_path / "m", dtype="int8")
    assert not (tmp_path / "m").exists()
    assert ResNet.from_pretrained(model.save_pretrained(tmp_path / "m", dtype="bfloat16")).dtype == torch.float32


def test_a_swapped_head_saves_and_loads(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m", card=CardContent(metrics={"accuracy": 0.9}))
    swapped = ResNet.from_pretrained(folder, id2label=["a", "b", "c", "d", "e"])
    swapped.save_pretrained(folder)  # over the folder that its own weights came from
    again = ResNet.from_pretrained(folder)
    assert again.config.labels == ["a", "b", "c", "d", "e"]
    assert torch.equal(again.fc.weight, swapped.fc.weight)
    assert torch.equal(again.conv1.weight, model.conv1.weight)
    assert again.card is not None
    assert "90.00 %" not in again.card


def test_a_network_without_a_head_saves_and_loads(tmp_path: Path) -> None:
    body = make_model(ResNetConfig(depths=(1, 1), width=8))
    assert torch.equal(
        compute_logits(ResNet.from_pretrained(body.save_pretrained(tmp_path / "m"))), compute_logits(body)
    )


def test_files_of_the_old_weights_are_deleted_and_other_files_stay(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    (folder / "onnx").mkdir()
    for name in ("onnx/model.onnx", "preprocessor_config.json", "notes.txt", "confusion.png"):
        (folder / name).write_text("old")
    model.save_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", "notes.txt", "confusion.png"}


@pytest.mark.parametrize("own", ["onnx/notes.md", "onnx/model_fp16.onnx", "onnx/mine/model.onnx", "plots/a/b.png"])
def test_a_users_files_in_subfolders_stay(own: str, model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    old = ("onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/int8.json")
    for name in (own, *old):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    model.save_pretrained(folder)
    assert (folder / own).read_text() == own
    assert not any((folder / name).exists() for name in old)


def prune(model: ResNet) -> None:
    torch.nn.utils.prune.l1_unstructured(model.layer1[0].conv1, "weight", 0.5)


def normalize(model: ResNet) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.layer1[0].conv1)


def widen(model: ResNet) -> None:
    model.conv1 = torch.nn.Conv2d(3, 5, 7, 2, 3, bias=False)


def add_dropout(model: ResNet) -> None:
    model.fc = torch.nn.Sequential(torch.nn.Dropout(), model.fc)


def remove_head(model: ResNet) -> None:
    model.fc = torch.nn.Identity()


def add_layer(model: ResNet) -> None:
    model.attention = torch.nn.Linear(2, 2)


def move_to_meta(model: ResNet) -> None:
    model.to("meta")


def make_integer(model: ResNet) -> None:
    model.bn1.running_mean = torch.ones(8, dtype=torch.int32)


def quantize_head(model: ResNet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        model.fc = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(model.fc), {torch.nn.Linear})[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (quantize_head, r"fc._packed_params.dtype.* hold no tensors. Save it before you quantize it"),
        (prune, r"it is pruned \(layer1.0.conv1.weight_orig.*torch.nn.utils.prune.remove"),
        (normalize, r"it is parametrized \(layer1.0.conv1.parametrizations.*remove_parametrizations"),
        (widen, r"1 misshapen: conv1.weight \(5x3x7x7 for 8x3x7x7\)"),
        (
            add_dropout,
            r"2 missing: fc.weight, fc.bias; 2 unexpected: fc.1.weight, fc.1.bias\. Make `model.fc` one linear",
        ),
        (remove_head, r"2 missing: fc.weight, fc.bias"),
        (add_layer, r"2 unexpected: attention.weight, attention.bias"),
        (move_to_meta, r"of an unsupported type: conv1.weight"),
        (make_integer, r"1 of an unsupported type: bn1.running_mean"),
        (lambda model: model.fc.weight.data[0, 0].fill_(torch.nan), r"NaN in fc.weight"),
        (lambda model: model.bn1.bias.data[0].fill_(-torch.inf), r"infinite values in bn1.bias"),
        (lambda model: model.bn1.running_var[0].fill_(-1e-3), r"negative variances in bn1.running_var"),
    ],
)
def test_a_network_that_its_config_does_not_describe_changes_nothing(
    change: Callable[[ResNet], object], message: str, model: ResNet, tmp_path: Path
) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    change(model)
    for dtype in (None, "float16"):
        with pytest.raises(CheckpointError, match=message) as error:
            model.save_pretrained(folder, dtype=dtype)
        assert is_one_sentence(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def tie_weights(model: ResNet) -> None:
    model.layer1[0].conv2.weight = model.layer1[0].conv1.weight


def tie_buffers(model: ResNet) -> None:
    model.layer1[0].bn1.running_mean = model.layer1[0].bn2.running_mean


def share_storage(model: ResNet) -> None:
    both = torch.rand(2, 8)
    model.bn1.weight.data, model.bn1.bias.data = both[0], both[1]


@pytest.mark.parametrize("tie", [tie_weights, tie_buffers, share_storage])
def test_tied_weights_are_stored_separately(tie: Callable[[ResNet], None], model: ResNet, tmp_path: Path) -> None:
    tie(model)
    loaded = ResNet.from_pretrained(model.save_pretrained(tmp_path / "m")).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


def test_a_missing_head_is_called_missing(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    rewrite_weights(folder, fc__weight=None)
    with pytest.raises(CheckpointError, match=r"3 labels, but the head is missing: .* has no fc\.weight\.$"):
        ResNet.from_pretrained(folder)


def test_labels_and_head_that_disagree_fail_with_both_values(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    rewrite_weights(folder, fc__weight=torch.zeros(7, 16), fc__bias=torch.zeros(7))
    with pytest.raises(CheckpointError, match=r"3 labels.* 7 outputs"):
        ResNet.from_pretrained(folder)
    model.fc = torch.nn.Linear(16, 4)
    with pytest.raises(CheckpointError, match=r"3 labels.* 4 outputs"):
        model.save_pretrained(folder)


def test_a_folder_that_cannot_be_written_raises(model: ResNet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (
        tmp_path / "file",
        tmp_path / "file" / "m",
        "/proc/m",
        "a\0b",
        tmp_path / ("x" * 300),
        "~nobody-here/m",
    ):
        with pytest.raises(CheckpointError) as error:
            model.save_pretrained(target)
        assert is_one_sentence(error.value)


def test_the_card_of_unchanged_weights_is_kept(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    model.push_to_hub(
        "user/tiny",
        token=WRITER,
        card=CardContent(metrics={"accuracy": 0.5}, license="mit", base_model="a/b", datasets=["c/d"]),
    )
    loaded = ResNet.from_pretrained("user/tiny")
    folder = loaded.save_pretrained(tmp_path / "m")
    assert (folder / "README.md").read_text(encoding="utf-8") == loaded.card
    torch.nn.init.ones_(loaded.fc.bias)
    loaded.save_pretrained(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    data = ModelCard(card).data  # of the weights that these were made from
    assert "50.00 %" not in card and (data.license, data.base_model, data.datasets) == ("mit", "a/b", ["c/d"])
