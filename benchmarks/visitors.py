"""Many visitors at once: a plain Gradio app around torchvision's eager ResNet-50 against this project's page.

    python benchmarks/visitors.py [--visitors 32] [--requests 320] [--rounds 2]

Each server is a process of its own and serves the endpoint `/predict` over HTTP; visitors are threads that each upload
the same photo once and then ask again and again. The machine also runs the visitors. With `--memory 2000` the page
alone answers as many requests, and its memory is read before and after.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import torch
from photos import photo
from side_by_side import machine

from resnet_hub import ResNet, ResNetConfig

PLAIN = """
import sys
import gradio as gr, torch, torchvision
from torchvision import transforms
model = torchvision.models.resnet50().eval()
normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
transform = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalize])
def predict(image, model_name, top_k):
    with torch.inference_mode():
        scores = model(transform(image.convert("RGB"))[None]).softmax(1)[0].topk(int(top_k))
    return {f"class {index}": float(score) for score, index in zip(*map(torch.Tensor.tolist, scores))}
gr.Interface(predict, [gr.Image(type="pil"), "text", "number"], "json", api_name="predict").launch(server_port=PORT)
"""
OURS = """
from resnet_hub.demo import build, launch
launch(build(SHELF), server_port=PORT)
"""
# the other way to take visitors together: Gradio collects their calls, around the same classifier
COLLECTED = """
import gradio as gr
from resnet_hub import Classifier
classify = Classifier.from_pretrained(MODEL, precision="fp32").prepare_engine()
def predict(images, names, top_k):
    ranked = classify(images, top_k=int(top_k[0]))
    return [[{answer["label"]: answer["score"] for answer in each} for each in ranked]]
gr.Interface(
    predict, [gr.Image(type="filepath"), "text", "number"], "json", api_name="predict", batch=True, max_batch_size=16
).launch(server_port=PORT)
"""


def serve(program: str, port: int) -> subprocess.Popen:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    program = program.replace("PORT", str(port))
    server = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/config", timeout=5).raise_for_status()
            return server
        except httpx.HTTPError:
            time.sleep(0.2)
            if server.poll() is not None:
                break
    server.kill()
    raise SystemExit("A server did not start.")


def predict(client: httpx.Client, uploaded: str) -> Any:
    image = {"path": uploaded, "orig_name": "photo.jpg", "meta": {"_type": "gradio.FileData"}}
    response = client.post("/gradio_api/call/predict", json={"data": [image, "model", 5]})
    response.raise_for_status()
    events = client.get(f"/gradio_api/call/predict/{response.json()['event_id']}").text
    complete = re.search(r"event: complete\ndata: (.*)", events)
    if not complete:
        raise ValueError(events[:200])
    return json.loads(complete[1])


def visit(port: int, path: Path, visitors: int, requests: int) -> tuple[float, list[float], int]:
    """Wall seconds, the seconds of each request, and how many failed."""
    each = requests // visitors

    def visitor(_: int) -> tuple[list[float], int]:
        times, failed = [], 0
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            (uploaded,) = client.post("/gradio_api/upload", files={"files": path.read_bytes()}).json()
            for _ in range(each):
                start = time.perf_counter()
                try:
                    predict(client, uploaded)
                    times.append(time.perf_counter() - start)
                except (httpx.HTTPError, ValueError):
                    failed += 1
        return times, failed

    with ThreadPoolExecutor(visitors) as pool:
        start = time.perf_counter()
        results = list(pool.map(visitor, range(visitors)))
        wall = time.perf_counter() - start
    return wall, [one for times, _ in results for one in times], sum(failed for _, failed in results)


def memory(server: subprocess.Popen) -> float:
    """Resident megabytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--visitors", type=int, default=32)
    parser.add_argument("--requests", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", type=int, metavar="REQUESTS", help="the page alone, and whether its memory grows")
    arguments = parser.parse_args()
    print(machine("gradio", "onnxruntime", "torchvision"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = photo(folder / "photo.jpg", 500, 375)
        model = ResNet(ResNetConfig.from_name("resnet50", num_classes=1000)).eval()
        whole = model.save_pretrained(folder / "int8" / "model")
        model.save_pretrained(folder / "fp32" / "model")
        calibrate(whole, model)
        page = {name: OURS.replace("SHELF", repr(str(folder / name))) for name in ("fp32", "int8")}
        collected = COLLECTED.replace("MODEL", repr(str(folder / "fp32" / "model")))
        programs = {"plain Gradio, eager": PLAIN, "Gradio's batch=True, our classifier": collected}
        programs |= {"ours, fp32": page["fp32"], "ours, int8": page["int8"]}
        if arguments.memory:
            leak(page["fp32"], path, arguments)
            return
        results: dict[str, list[tuple[float, list[float], int]]] = {name: [] for name in programs}
        for _ in range(arguments.rounds):
            for name, program in programs.items():
                server = serve(program, 7971)
                try:
                    visit(7971, path, 4, 24)  # warm; the engine comes up
                    time.sleep(3)
                    results[name].append(visit(7971, path, arguments.visitors, arguments.requests))
                finally:
                    server.terminate()
                    server.wait()
    print(f"\n### {arguments.visitors} visitors, a JPEG of 500 x 375, ResNet-50\n")
    print("| | requests/s (rounds) | median | 95th percentile | failed |\n|---|---:|---:|---:|---:|")
    for name, runs in results.items():
        times = sorted(one for _, each, _ in runs for one in each)
        rates = [len(each) / wall for wall, each, _ in runs]
        late = times[int(0.95 * (len(times) - 1))]
        rate = f"{statistics.median(rates):.1f} ({', '.join(f'{one:.1f}' for one in rates)})"
        print(f"| {name} | {rate} | {statistics.median(times):.2f} s | {late:.2f} s | {sum(run[2] for run in runs)} |")


def calibrate(folder: Path, model: ResNet) -> None:
    from int8 import calibrate_on_batch

    from resnet_hub.checkpoints.save import CALIBRATION_FILE

    content = json.loads(calibrate_on_batch(model, torch.randn(8, 3, 224, 224)).calibration or b"")
    (folder / CALIBRATION_FILE).parent.mkdir()
    (folder / CALIBRATION_FILE).write_text(json.dumps(content | {"passed": True}))


def leak(program: str, path: Path, arguments: argparse.Namespace) -> None:
    server = serve(program, 7971)
    try:
        visit(7971, path, arguments.visitors, 200)
        before = memory(server)
        _, times, failed = visit(7971, path, arguments.visitors, arguments.memory)
        print(f"memory {before:.0f} MB, after {len(times):,} requests {memory(server):.0f} MB; {failed} failed")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
