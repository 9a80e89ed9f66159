"""Small datasets, images and models that tests write."""

import json
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from resnet_hub.config import ResNetConfig
from resnet_hub.model import ResNet


def picture(channel: int, number: int) -> bytes:
    noise = np.random.default_rng([channel, number]).integers(0, 100, (24, 24, 3), np.uint8)
    noise[..., channel] += 100
    content = BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    return content.getvalue()


def write_zip(path: Path, labels: tuple[str, ...] = ("red", "green", "blue"), count: int = 12) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for channel, label in enumerate(labels):
            for number in range(count):
                out.writestr(f"{label}/{number}.png", picture(channel, number))
    return path


def write_tables(folder: Path, count: int = 12) -> dict[str, bytes]:
    """The files of a data set with two subsets, and two columns of pictures and of classes each: nothing is plain."""
    import datasets

    kinds = datasets.Features(
        {"photo": datasets.Image(), "mask": datasets.Image()}
        | {"kind": datasets.ClassLabel(names=["red", "green", "blue"]), "size": datasets.ClassLabel(names=["s", "l"])}
    )
    folder.mkdir(exist_ok=True)
    for subset, colours in {"two": (0, 1), "three": (0, 1, 2)}.items():
        pictures = [(colour, {"bytes": picture(colour, n), "path": None}) for colour in colours for n in range(count)]
        rows = {"photo": [one for _, one in pictures], "mask": [{"bytes": b"no picture", "path": None}] * len(pictures)}
        rows |= {"kind": [colour for colour, _ in pictures], "size": [n % 2 for n in range(len(pictures))]}
        datasets.Dataset.from_dict(rows, features=kinds).to_parquet(folder / f"{subset}.parquet")
    configs = [{"config_name": name, "data_files": f"{name}.parquet"} for name in ("two", "three")]
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMED = {"subset": "three", "train_split": "train[:-1]", "image_column": "photo", "label_column": "kind"}


def save_base(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ResNetConfig(depths=(1, 1), width=8, stem="3x3", image_size=16, crop_pct=1.0, id2label={0: "a", 1: "b"})
    model = ResNet(config)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the mean over all it sees, as a trained base has it
    model.train()(torch.randn(64, 3, 16, 16))
    model.eval().save_pretrained(folder)
    return folder


def wait(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "It did not happen."
        time.sleep(0.1)
