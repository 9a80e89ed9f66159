"""Images to logits on a CPU: torchvision, timm and bare ONNX Runtime against `Classifier`, in float32, bf16 and int8.

    python benchmarks/engine.py [--names resnet50 resnet18] [--batch 1] [--rounds 10]

Random weights: no result here depends on them. The bare session runs the `onnx/model.onnx` that `export` writes, with
ONNX Runtime's own options. int8 is calibrated on noise, which costs accuracy and not time.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import timm
import torch
import torchvision
from int8 import calibrate_on_batch
from side_by_side import machine, race, show

from resnet_hub import Classifier, ResNet, ResNetConfig
from resnet_hub.inference.onnx_export import EXPORTED_FILE, export_onnx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", nargs="+", default=["resnet50", "resnet18"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    print(machine("torchvision", "timm", "onnxruntime"), f"{torch.get_num_threads()} threads")
    for name in arguments.names:
        torch.manual_seed(0)
        model = ResNet(ResNetConfig.from_name(name, num_classes=1000, image_size=arguments.size)).eval()
        contestants = peers(name, model)
        shape = (3, arguments.size, arguments.size)
        whole = calibrate_on_batch(model, torch.randn(8, *shape))
        for one in (
            Classifier(model, device="cpu", precision="fp32").prepare_engine(),
            Classifier(model, device="cpu", precision="bf16"),
            Classifier(whole, device="cpu", precision="int8").prepare_engine(),
        ):
            contestants[f"ours, {one.engine}, {one.precision}"] = one.compute_outputs
        for batch in arguments.batch:
            few = {"rounds": arguments.rounds} if batch == 1 else {"rounds": 4, "each": 1}
            with torch.inference_mode():
                seconds = race(contestants, torch.randn(batch, *shape), **few)
            show(f"{name}, {arguments.size} pixels, batch {batch}", seconds, images=batch)


def peers(name: str, model: ResNet) -> dict[str, Callable[[torch.Tensor], object]]:
    eager, theirs = getattr(torchvision.models, name)(), timm.create_model(name)
    for peer in (eager, theirs):
        peer.load_state_dict(model.state_dict())
        peer.eval()
    last = copy.deepcopy(eager).to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(model.save_pretrained(folder))
        bare = onnxruntime.InferenceSession(Path(folder, EXPORTED_FILE), providers=["CPUExecutionProvider"])
    return {
        "torchvision, eager": eager,
        "timm, eager": theirs,
        "torchvision, channels last": lambda pixels: last(pixels.to(memory_format=torch.channels_last)),
        "bare ONNX Runtime": lambda pixels: bare.run(None, {"pixel_values": pixels.numpy()}),
    }


if __name__ == "__main__":
    main()
