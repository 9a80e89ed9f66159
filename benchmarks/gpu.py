"""Pictures to logits on a GPU: torchvision, eager and in half precision, against `Classifier`.

python benchmarks/gpu.py [--names resnet50 resnet18] [--batch 1 32]
"""

import argparse
from collections.abc import Callable

import torch
import torchvision
from side_by_side import machine, race, show

from resnet_hub import Classifier, ResNet, ResNetConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=["resnet50", "resnet18"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("There is no GPU here; run this where torch.cuda.is_available().")
    print(machine("torchvision"), torch.cuda.get_device_name())
    for name in arguments.names:
        model = ResNet(ResNetConfig.from_name(name, num_classes=1000)).eval()
        for batch in arguments.batch:
            with torch.inference_mode():
                seconds = race(contestants(name, model), torch.randn(batch, 3, 224, 224))
            show(f"{name}, batch {batch}, copies included", seconds, images=batch)


def contestants(name: str, model: ResNet) -> dict[str, Callable[[torch.Tensor], object]]:
    eager = getattr(torchvision.models, name)().eval().cuda()
    eager.load_state_dict(model.state_dict())

    def halved(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.float16):
            return eager(pixels.cuda()).cpu()

    fast, exact = Classifier(model, device="cuda"), Classifier(model, device="cuda", precision="fp32")
    return {
        "torchvision, eager": lambda pixels: eager(pixels.cuda()).cpu(),
        "torchvision, fp16": halved,
        "ours, fp32": exact.answer,
        f"ours, {fast.precision}": fast.answer,
    }


if __name__ == "__main__":
    main()
