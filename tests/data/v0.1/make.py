"""Made the files beside it, with the code of version 0.1 (commit c3c7867), in about ten seconds:

git worktree add ../v0.1 c3c7867
cd tests/data/v0.1 && PYTHONPATH=../../../../v0.1 python make.py

Do not make them again with newer code: they show that what version 0.1 wrote still opens.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from resnet_hub.card import CardFacts
from resnet_hub.export import export, quantize

from resnet_hub import ResNet, ResNetConfig, TrainConfig, train

LABELS = ["red", "green", "blue"]


def write_images() -> None:
    with zipfile.ZipFile("colours.zip", "w") as archive:
        for channel, label in enumerate(LABELS):
            for number in range(10):
                values = np.random.default_rng([channel, number]).integers(0, 4, (20, 16, 3), np.uint8) * 40
                values[..., channel] += 15
                content = io.BytesIO()
                Image.fromarray(values).save(content, "PNG", optimize=True)
                archive.writestr(f"{label}/{number}.png", content.getvalue())


def save_checkpoint() -> None:
    torch.manual_seed(0)
    config = ResNetConfig(depths=(1, 1), width=8, stem="3x3", image_size=16, id2label=dict(enumerate(LABELS)))
    model = ResNet(config)
    model.train()(torch.randn(64, 3, 16, 16))
    facts = CardFacts(
        title="Colours", license="cc0-1.0", dataset_name="colours", metrics={"accuracy": 0.5}, split="test"
    )
    model.eval().save_pretrained("checkpoint", card=facts)
    quantize("checkpoint", "colours.zip", force=True)
    export("checkpoint")


def start_run(folder: str) -> "list[object]":
    config = TrainConfig(
        data="colours.zip",
        base="checkpoint",
        run=folder,
        epochs=3,
        batch_size=4,
        learning_rate=1e-3,
        precision="no",
        seed=1,
    )
    events = []
    for event in train(config):
        events.append(event)
        if type(event).__name__ == "Epoch" and event.epoch == 1 and folder == "run":
            Path(folder, "stop").touch()  # it stops in the second epoch
    return events


if __name__ == "__main__":
    write_images()
    save_checkpoint()
    images = torch.linspace(-2, 2, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    with torch.inference_mode():
        logits = ResNet.from_pretrained("checkpoint")(images).tolist()
    start_run("run")
    Path("run/stop").unlink()
    whole = [event for event in start_run("/tmp/whole") if type(event).__name__ == "Epoch"]
    history = [
        {"epoch": epoch.epoch, "validation_loss": epoch.validation_loss, "accuracy": epoch.accuracy} for epoch in whole
    ]
    Path("expected.json").write_text(json.dumps({"logits": logits, "history": history}, indent=1) + "\n")
