"""Photo files to their five likeliest labels: transformers' pipeline against `Classifier`, with equal weights.

    python benchmarks/photos.py [--rounds 8]

A photo of 12 megapixels with ResNet-18, one of 500 x 375 pixels with ResNet-50, and a folder of the small ones, beside
the engine alone on decoded images. Random weights, and images of smoothed noise as JPEG files.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from int8 import calibrate_on_batch
from PIL import Image
from side_by_side import machine, race, show
from torchvision import transforms
from transformers import pipeline

from resnet_hub import Classifier, ResNet, ResNetConfig


def photo(path: Path, width: int, height: int, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    grain = torch.randn(1, height, width, generator=generator) * 0.02
    pixels = ((smooth * 0.6 + 0.2 + grain).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, "JPEG", quality=92)
    return path


def common(model: torch.nn.Module) -> Callable[[Path], Any]:
    """The way of the tutorials: torchvision's transforms and eager model."""
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transform = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalize]
    )

    def classify(path: Path) -> Any:
        with torch.inference_mode():
            return model(transform(Image.open(path).convert("RGB"))[None]).softmax(1).topk(5)

    return classify


def contestants(name: str, folder: Path) -> dict[str, Callable[[Any], Any]]:
    model = ResNet(ResNetConfig.from_name(name, num_classes=1000)).eval()
    theirs = pipeline("image-classification", model=str(model.save_pretrained(folder / name)), device="cpu")
    eager = getattr(torchvision.models, name)().eval()
    eager.load_state_dict(model.state_dict())
    whole = calibrate_on_batch(model, torch.randn(8, 3, 224, 224))
    return {
        "transformers, pipeline": lambda path: theirs(str(path)),
        "torchvision, eager": common(eager),
        "ours, fp32": Classifier(model, device="cpu", precision="fp32").prepare_engine(),
        "ours, fp32, exact": Classifier(model, device="cpu", precision="fp32", exact=True).prepare_engine(),
        "ours, int8": Classifier(whole, device="cpu", precision="int8").prepare_engine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    print(machine("torchvision", "transformers", "onnxruntime", "pillow"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, width, height in (("resnet18", 4000, 3000), ("resnet50", 500, 375)):
            path = photo(folder / f"{name}.jpg", width, height)
            each = contestants(name, folder)
            title = f"{name}, a JPEG of {width} x {height} ({path.stat().st_size / 1e6:.1f} MB) to its top five labels"
            show(title, race(each, path, rounds=arguments.rounds))

        (folder / "photos").mkdir()
        paths = [photo(folder / "photos" / f"{index}.jpg", 500, 375, index) for index in range(64)]
        small = each["ours, fp32"], each["transformers, pipeline"]
        inputs = torch.stack([small[0].preprocess(path) for path in paths])
        calls = {
            "the engine alone": lambda _: [small[0].compute_outputs(batch) for batch in inputs.split(16)],
            "ours, from files": small[0],
            "transformers, from files": lambda paths: [small[1](path) for path in paths],
        }
        show("resnet50, a folder of 64 JPEG files of 500 x 375", race(calls, paths, rounds=3, each=1), images=64)


if __name__ == "__main__":
    main()
