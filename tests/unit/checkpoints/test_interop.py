"""Other libraries and the `hf` command open, upload and download the same folders and repos."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import LABELS, compute_logits, make_model
from helpers.hub_server import WRITER, Hub
from PIL import Image
from safetensors.torch import load_file

from resnet_hub.checkpoints.push import push_folder
from resnet_hub.config import ResNetConfig
from resnet_hub.images.load import load_image
from resnet_hub.images.transforms import eval_transform
from resnet_hub.inference.onnx_export import export_onnx
from resnet_hub.model import ResNet


def run_hf(*arguments: str | Path) -> str:
    environment = os.environ | {"HF_TOKEN": WRITER}
    command = [shutil.which("hf", path=str(Path(sys.executable).parent)) or "hf", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_hf_command_uploads_and_downloads_folders(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    assert "user" in run_hf("auth", "whoami")
    run_hf("repos", "create", "user/by-hand", "--private")
    assert hub.repos["user/by-hand"].private
    run_hf("upload", "user/by-hand", folder, ".")
    loaded = ResNet.from_pretrained("user/by-hand", token=WRITER)
    assert torch.equal(compute_logits(loaded), compute_logits(model))
    assert loaded.card == (folder / "README.md").read_text(encoding="utf-8")
    model.push_to_hub("user/ours", token=WRITER)
    run_hf("download", "user/ours", "--local-dir", tmp_path / "down")
    assert torch.equal(compute_logits(ResNet.from_pretrained(tmp_path / "down")), compute_logits(model))


@pytest.fixture(scope="module")
def full_precision(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResNet, Path]:
    """A network that other libraries have too, and its folder."""
    model = make_model(ResNetConfig.from_name("resnet18", id2label=LABELS, image_size=64))
    return model, model.save_pretrained(tmp_path_factory.mktemp("shared") / "resnet18")


@pytest.fixture(scope="module")
def half_precision(full_precision: tuple[ResNet, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_precision[0].save_pretrained(tmp_path_factory.mktemp("shared") / "half", dtype="float16")


def test_half_precision_opens_everywhere_and_computes_in_float32(half_precision: Path) -> None:
    import timm
    from torchvision.models import resnet18
    from transformers import AutoModelForImageClassification

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = resnet18(num_classes=3).eval()
    theirs.load_state_dict(load_file(half_precision / "model.safetensors"))
    with torch.inference_mode():
        ours = ResNet.from_pretrained(half_precision)(images)
        assert is_close(ours, theirs(images))
        assert is_close(ours, timm.create_model(f"local-dir:{half_precision}", pretrained=True).eval()(images))
        assert is_close(ours, AutoModelForImageClassification.from_pretrained(half_precision)(images).logits)


@pytest.fixture
def image() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((120, 90), Image.Resampling.BICUBIC)


def is_close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=1e-5)


def test_torchvision_opens_the_folder(full_precision: tuple[ResNet, Path]) -> None:
    from torchvision.models import resnet18

    model, folder = full_precision
    theirs = resnet18(num_classes=3).eval()
    theirs.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 64)
        assert is_close(model(images), theirs(images))


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_timm_opens_it(where: str, full_precision: tuple[ResNet, Path], hub: Hub, image: Image.Image) -> None:
    import timm

    from resnet_hub.images.transforms import eval_transform

    model, folder = full_precision
    if where == "hub":
        push_folder(folder, "user/resnet18", token=WRITER)
    name = f"local-dir:{folder}" if where == "folder" else "hf-hub:user/resnet18"
    theirs = timm.create_model(name, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    assert theirs.pretrained_cfg["label_names"] == list(LABELS.values())
    with torch.inference_mode():
        ours = model(eval_transform(model.config)(image)[None])
        assert is_close(ours, theirs(transform(image)[None]))


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_transformers_opens_it(where: str, full_precision: tuple[ResNet, Path], hub: Hub, image: Image.Image) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    from resnet_hub.inference.classifier import Classifier

    model, folder = full_precision
    if where == "hub":
        push_folder(folder, "user/resnet18", token=WRITER)
    name = str(folder) if where == "folder" else "user/resnet18"
    theirs = AutoModelForImageClassification.from_pretrained(name)
    processor = AutoImageProcessor.from_pretrained(name)
    assert theirs.config.id2label == LABELS
    with torch.inference_mode():
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        assert is_close(model(pixels), theirs(pixels).logits)
    classify = pipeline("image-classification", model=name) if where == "folder" else pipeline(model=name)
    ours = Classifier.from_pretrained(name)(image, top_k=3)
    for mine, other in zip(ours, classify(image, top_k=3), strict=True):
        assert mine["label"] == other["label"]
        assert mine["score"] == pytest.approx(other["score"], abs=1e-5)


def run_samples(card: str) -> dict[str, Any]:
    """Run the code samples of a card; the value of the last line of each, by library."""
    results = {}
    for title, code in re.findall(r"### ([^\n]+)\n\n```python\n(.*?)```", card, re.DOTALL):
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        names: dict[str, Any] = {}
        exec(compile(tree, title, "exec"), names)
        results[title] = eval(compile(ast.Expression(last.value), title, "eval"), names) if last else names
    return results


NETWORKS = [
    ({"name": "resnet18", "id2label": LABELS, "image_size": 64}, "float32"),
    ({"name": "resnet26t", "id2label": LABELS, "image_size": 96, "crop_mode": "squash", "crop_pct": 1.0}, "float32"),
    ({"name": "resnet18", "id2label": LABELS, "image_size": 64, "interpolation": "bicubic"}, "float16"),
    ({"name": "resnet20", "id2label": LABELS}, "float32"),
]


@pytest.mark.parametrize(("about", "dtype"), NETWORKS)
def test_the_code_on_a_card_runs_and_gives_the_same_scores(
    about: dict[str, Any], dtype: str, hub: Hub, image: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image.save("photo.jpg", quality=95)
    model = make_model(ResNetConfig.from_name(**about))
    model.save_pretrained("printed", dtype=dtype)
    export_onnx("printed")
    push_folder("printed", "user/printed", token=WRITER)
    answers = run_samples(hub.repos["user/printed"].files()["README.md"].decode())
    loaders = {"resnet18": {"timm", "transformers", "torchvision"}, "resnet26t": {"timm", "transformers"}}
    assert set(answers) == {"resnet_hub", "ONNX Runtime"} | loaders.get(about["name"], set())

    scores = {answer["label"]: answer["score"] for answer in answers["resnet_hub"]}
    expected = [scores[label] for label in LABELS.values()]
    if "transformers" in answers:
        assert {answer["label"]: answer["score"] for answer in answers["transformers"]} == pytest.approx(
            scores, abs=1e-4
        )
    for library in {"timm", "torchvision"} & answers.keys():
        assert answers[library][0].tolist() == pytest.approx(expected, abs=1e-4)
    session = answers["ONNX Runtime"]["session"]
    pixels = eval_transform(model.config)(load_image("photo.jpg"))[None].numpy()
    graph = torch.tensor(session.run(None, {"pixel_values": pixels})[0]).softmax(1)[0]
    assert graph.tolist() == pytest.approx(expected, abs=1e-4)
    print(f"\n{about['name']} as {dtype}: one repo, {len(answers)} loaders agree")  # noqa: T201

    ResNet.from_pretrained("user/printed").push_to_hub("user/printed", token=WRITER)
    assert "ONNX" not in hub.repos["user/printed"].files()["README.md"].decode().replace("as ONNX (`", "")
