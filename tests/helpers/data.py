"""Small datasets, images and models that tests write."""

import json
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from resnet_hub.config import ResNetConfig
from resnet_hub.model import ResNet


def encode_image(channel: int, number: int) -> bytes:
    """A PNG of 24 x 24 pixels of noise with one bright channel: 0 is red, 1 green, 2 blue."""
    noise = np.random.default_rng([channel, number]).integers(0, 100, (24, 24, 3), np.uint8)
    noise[..., channel] += 100
    content = BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    return content.getvalue()


def write_zip(path: Path, labels: tuple[str, ...] = ("red", "green", "blue"), count: int = 12) -> Path:
    """Write a ZIP of class folders with `count` images in each."""
    with zipfile.ZipFile(path, "w") as out:
        for channel, label in enumerate(labels):
            for number in range(count):
                out.writestr(f"{label}/{number}.png", encode_image(channel, number))
    return path


def write_tables(folder: Path, count: int = 12) -> dict[str, bytes]:
    """Write a dataset of two subsets, each with two columns of images and two of labels; return its files by name."""
    import datasets

    features = datasets.Features(
        {"photo": datasets.Image(), "mask": datasets.Image()}
        | {"kind": datasets.ClassLabel(names=["red", "green", "blue"]), "size": datasets.ClassLabel(names=["s", "l"])}
    )
    folder.mkdir(exist_ok=True)
    for subset, colors in {"two": (0, 1), "three": (0, 1, 2)}.items():
        numbers = [(color, n) for color in colors for n in range(count)]
        images = [(color, {"bytes": encode_image(color, n), "path": None}) for color, n in numbers]
        rows = {
            "photo": [image for _, image in images],
            "mask": [{"bytes": b"not an image", "path": None}] * len(images),
        }
        rows |= {"kind": [color for color, _ in images], "size": [n % 2 for n in range(len(images))]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{subset}.parquet")
    configs = [{"config_name": name, "data_files": f"{name}.parquet"} for name in ("two", "three")]
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMED = {"subset": "three", "train_split": "train[:-1]", "image_column": "photo", "label_column": "kind"}


def save_base(folder: Path) -> Path:
    """Save a tiny untrained base model for 16 x 16 pixels."""
    torch.manual_seed(0)
    config = ResNetConfig(depths=(1, 1), width=8, stem="3x3", image_size=16, crop_pct=1.0, id2label={0: "a", 1: "b"})
    model = ResNet(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # average over all batches, as a trained model does
    model.train()(torch.randn(64, 3, 16, 16))
    model.eval().save_pretrained(folder)
    return folder


def damage_base(folder: Path, damage: str) -> Path:
    """Damage a base: "cut" its weights, make one of them "nan", or give it four input "channels"."""
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "nan":
        tensors = load_file(weights)
        tensors["conv1.weight"][0, 0, 0, 0] = float("nan")
        save_file(tensors, weights)
    else:
        config = ResNet.from_pretrained(folder).config
        four = replace(config, in_channels=4, mean=(0.5,) * 4, std=(0.5,) * 4)
        ResNet(four).save_pretrained(folder)
    return folder


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zip_files(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name, content in files.items():
            out.writestr(name, content)
    return path


def wait(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "The condition did not become true."
        time.sleep(0.1)
