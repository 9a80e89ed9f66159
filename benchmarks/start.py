"""Cold start and loading: what the project adds to what its libraries cost by themselves.

    python benchmarks/start.py [--rounds 5]

Every figure is of a fresh process. The app's is the time until its page has answered a first prediction.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import machine

from resnet_hub import ResNet, ResNetConfig

ROOT = Path(__file__).parents[1]
LOAD = """
import resource, time
{imports}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
{load}
seconds = time.perf_counter() - start
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
THEIRS = """
with torch.device("meta"):
    model = resnet50()
model.load_state_dict(load_file(PATH), assign=True)
sum(float(tensor.flatten()[0]) for tensor in model.state_dict().values())
"""
OURS = """
model = ResNet.from_pretrained(FOLDER)
sum(float(tensor.flatten()[0]) for tensor in model.state_dict().values())
"""
FIRST = """
import threading, time, urllib.request
start = time.perf_counter()
from resnet_hub.demo import build, launch
from resnet_hub.included_models import DEFAULT_MODEL_NAME
demo = build("weights")
launch(demo, prevent_thread_lock=True, quiet=True, server_port=7972)
from gradio_client import Client, handle_file
ready = time.perf_counter()
client = Client("http://127.0.0.1:7972", verbose=False)
connected = time.perf_counter()
client.predict(handle_file("resnet_hub/demo/examples/espresso.jpg"), DEFAULT_MODEL_NAME, 5, api_name="/predict")
print(ready - start + time.perf_counter() - connected)
import os; os._exit(0)
"""

# the least that a page around a network can be
PLAIN = """
import time
start = time.perf_counter()
import gradio as gr, torch, torchvision
model = torchvision.models.resnet18().eval()
transform = torchvision.transforms.Compose([torchvision.transforms.Resize((32, 32)), torchvision.transforms.ToTensor()])
def predict(image):
    with torch.inference_mode():
        scores = model(transform(image.convert("RGB"))[None]).softmax(1)[0].topk(5)
    return {f"class {index}": float(score) for score, index in zip(*map(torch.Tensor.tolist, scores))}
page = gr.Interface(predict, gr.Image(type="pil"), "label", api_name="predict")
page.launch(prevent_thread_lock=True, quiet=True, server_port=7972)
from gradio_client import Client, handle_file
ready = time.perf_counter()
client = Client("http://127.0.0.1:7972", verbose=False)
connected = time.perf_counter()
client.predict(handle_file("resnet_hub/demo/examples/espresso.jpg"), api_name="/predict")
print(ready - start + time.perf_counter() - connected)
import os; os._exit(0)
"""


def run(program: str) -> list[float]:
    """The numbers that a fresh interpreter prints at its end, or else the seconds it took."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    last = done.stdout.splitlines()[-1:]  # Gradio prints before it
    return [float(number) for line in last for number in line.split()] or [seconds]


def table(title: str, programs: dict[str, str], rounds: int) -> None:
    results: dict[str, list[list[float]]] = {name: [] for name in programs}
    for program in programs.values():
        run(program)  # into the disk's cache
    for _ in range(rounds):
        for name, program in programs.items():
            results[name].append(run(program))
    first = next(iter(results.values()))
    print(f"\n### {title}\n\n| | ms | of the first row | more memory |\n|---|---:|---:|---:|")
    for name, runs in results.items():
        ratios = sorted(mine[0] / theirs[0] for mine, theirs in zip(runs, first, strict=True))
        extra = f"{statistics.median(one[1] for one in runs):.0f} MB" if len(runs[0]) > 1 else ""
        middle = statistics.median(one[0] for one in runs)
        share = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {middle * 1000:.0f} | {share} | {extra} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(machine("torchvision", "gradio", "safetensors"))
    imports = {
        "import torch": "import torch",
        "import resnet_hub": "import resnet_hub",
        "Classifier, ResNet": "from resnet_hub import Classifier, ResNet",
    }
    table("Imports", imports, rounds)
    info = "from resnet_hub.cli import main; main(['info', 'weights/resnet20-cifar10']); import sys; sys.stdout.flush()"
    table("resnet-hub info", {"python": "pass", "info": f"import io, sys; sys.stdout = io.StringIO(); {info}"}, rounds)
    with tempfile.TemporaryDirectory() as folder:
        ResNet(ResNetConfig.from_name("resnet50", num_classes=1000)).save_pretrained(folder)
        file = str(Path(folder, "model.safetensors"))
        theirs = "import torch\nfrom torchvision.models import resnet50\nfrom safetensors.torch import load_file"
        ours = "import torch\nfrom resnet_hub import ResNet\nimport resnet_hub.checkpoints.load, safetensors.torch"
        load = {
            "safetensors into torchvision": LOAD.format(imports=theirs, load=THEIRS.replace("PATH", repr(file))),
            "ResNet.from_pretrained": LOAD.format(imports=ours, load=OURS.replace("FOLDER", repr(folder))),
        }
        table("A ResNet-50 from a folder, every weight read", load, rounds)
    libraries = "import time; start = time.perf_counter(); import gradio, torch; print(time.perf_counter() - start)"
    app = {
        "import gradio, torch": libraries,
        "a plain Gradio app, its first answer": PLAIN,
        "app, its first answer": FIRST,
    }
    table("The app's first answer", app, min(rounds, 3))


if __name__ == "__main__":
    main()
