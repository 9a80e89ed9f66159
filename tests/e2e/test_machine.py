"""After a full disk, too little memory or kill -9 the old folder is complete, and the message is one sentence."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.hub_server import Hub, Repo
from PIL import Image

from resnet_hub.checkpoints.load import load_checkpoint
from resnet_hub.config import ResNetConfig
from resnet_hub.model import ResNet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")

KILLS = int(os.environ.get("RESNET_HUB_KILLS", "4"))  # of each kind of writing
LARGE = ResNetConfig(depths=(1, 1, 1, 2), width=48, id2label={0: "cat", 1: "dog"}, image_size=64)  # 18 MB

# Performs one task per line of standard input in a forked process, which has all libraries loaded, and prints the
# messages. A limit on the file size simulates a full disk, one on the address space a lack of memory.
RUNNER = """
import json, os, resource, signal, sys
from pathlib import Path
import torch, onnxruntime, accelerate.state
import resnet_hub.training.loop  # so that the fork has loaded all modules
from resnet_hub import cli
from resnet_hub.checkpoints.load import load_checkpoint
from resnet_hub.datasets.export import export_dataset
from resnet_hub.datasets.load import load_dataset
from resnet_hub.inference.onnx_export import export_onnx
from resnet_hub.inference.quantize import quantize
from resnet_hub.model import ResNet

def save(folder, target):
    model = ResNet.from_pretrained(folder)
    for parameter in model.parameters():
        parameter.data += 1
    return lambda: model.save_pretrained(target)

def pack(images, target):
    splits = load_dataset(images)
    return lambda: export_dataset(splits, target)

ACTS = {
    "save": save,
    "export": lambda folder: lambda: export_onnx(folder),
    "quantize": lambda folder, images: lambda: quantize(folder, images, force=True),
    "pack": pack,
    "download": lambda repo, cache: lambda: load_checkpoint(repo, cache_dir=cache),
    "command": lambda *arguments: lambda: sys.exit(cli.main(list(arguments))),
}

def limit(kind, amount):
    if kind == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (amount, amount))
    if kind == "memory":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + amount, used + amount))

for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if not child:
        code = 0
        try:
            torch.set_num_threads(1)
            act = ACTS[task["act"]](*task["arguments"])
            print("ready", flush=True)
            limit(task["kind"], task["amount"])
            act()
        except BaseException as error:
            code = error.code if isinstance(error, SystemExit) else 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(code)
    if task["kind"] == "kill":
        os.set_blocking(0, True)
        import time; time.sleep(task["amount"]); os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Runner:
    def __init__(self, process: Any, errors: Path):
        self.process, self.errors = process, errors

    def __call__(self, act: str, *arguments: object, kind: str = "", amount: float = 0) -> tuple[int, str]:
        """Returns the exit code and what was written to standard error."""
        before = self.errors.stat().st_size
        task = {"act": act, "arguments": [str(word) for word in arguments], "kind": kind, "amount": amount}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.strip().removeprefix("-").isdecimal():
                return int(line), self.errors.read_text()[before:].strip()
        raise AssertionError(self.errors.read_text())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    errors = tmp_path_factory.mktemp("machine") / "errors"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        errors.open("w") as file,
        subprocess.Popen([sys.executable, "-c", RUNNER], env=environment, stderr=file, **pipes) as process,
    ):
        yield Runner(process, errors)
        process.stdin.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(6):
            pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return ResNet(LARGE).save_pretrained(tmp_path / "model")


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_one_sentence(output: str, kind: str = "") -> bool:
    return output.startswith(kind) and output.count("\n") == 0 and output.endswith(".") and "Traceback" not in output


@pytest.mark.parametrize("act", ["save", "save anew", "export", "quantize"])
def test_a_full_disk_leaves_the_old_folder(act: str, machine: Runner, folder: Path, images: Path) -> None:
    machine("export", folder)
    before = contents(folder.parent)
    arguments: dict[str, list[object]] = {
        "save": [folder, folder], "save anew": [folder, folder.parent / "new"], "export": [folder],
        "quantize": [folder, images],
    }  # fmt: skip
    code, output = machine(act.split()[0], *arguments[act], kind="disk", amount=1_000_000)
    assert code == 1
    assert is_one_sentence(output, "CheckpointError: ") and "the disk is full" in output
    assert contents(folder.parent) == before
    load_checkpoint(folder)


def test_a_full_disk_leaves_the_old_zip(machine: Runner, images: Path, tmp_path: Path) -> None:
    assert machine("pack", images, tmp_path / "all.zip")[0] == 0
    before = contents(tmp_path)
    code, output = machine("pack", images, tmp_path / "all.zip", kind="disk", amount=50_000)
    assert code == 1
    assert is_one_sentence(output, "DataError: ") and "the disk is full" in output
    assert contents(tmp_path) == before


def test_a_full_disk_ends_a_download_and_the_next_one_is_whole(
    machine: Runner, folder: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.repos["user/large"] = Repo()
    hub.repos["user/large"].commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "Upload")
    code, output = machine("download", "user/large", tmp_path / "cache", kind="disk", amount=1_000_000)
    assert code == 1
    assert "HubError: user/large cannot be fetched: the disk of the Hub's cache" in output
    assert machine("download", "user/large", tmp_path / "cache")[0] == 0


@pytest.mark.parametrize("act", ["predict", "convert", "export", "train"])
def test_too_little_memory_is_one_sentence(act: str, machine: Runner, folder: Path, images: Path) -> None:
    before, new = contents(folder), folder.parent / "new"
    arguments: dict[str, list[object]] = {
        "predict": [images, "--model", folder],
        "convert": [folder / "model.safetensors", new],
        "export": [folder],
        "train": ["--data", images, "--base", folder, "--run", new, "--epochs", 1, "--batch-size", 8],
    }
    code, output = machine(
        "command", act, *arguments[act], kind="memory", amount=40_000_000 if act == "train" else 10_000_000
    )
    assert code == 2, output
    sentence = [line for line in output.splitlines() if "SystemExit" not in line]
    assert len(sentence) == 1, output
    assert "memory" in sentence[0] and sentence[0].endswith(".")
    assert contents(folder) == before
    assert not (new / "config.json").exists()


@pytest.mark.parametrize("act", ["save", "export", "quantize", "download"])
def test_a_kill_at_any_moment_leaves_a_folder_that_loads(
    act: str, machine: Runner, folder: Path, images: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.repos["user/large"] = Repo()
    hub.repos["user/large"].commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "Upload")
    weights = contents(folder)["model.safetensors"]
    arguments: dict[str, list[object]] = {
        "save": [folder, folder], "export": [folder], "quantize": [folder, images],
        "download": ["user/large", tmp_path / "cache"],
    }  # fmt: skip
    hub.fail("(GET|HEAD) .*/resolve/", seconds=0.15)  # in which a kill may come
    start = time.monotonic()
    assert machine(act, *arguments[act])[0] == 0
    length = time.monotonic() - start
    moments, killed = random.Random(0), 0
    for _ in range(KILLS):
        if act == "download":
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        killed += machine(act, *arguments[act], kind="kill", amount=moments.uniform(0.1, 0.95) * length)[0] == -9
        load_checkpoint(folder)
    assert killed
    if act == "download":
        checkpoint = load_checkpoint("user/large", cache_dir=tmp_path / "cache")
        loaded = ResNet.from_pretrained(folder).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in checkpoint.weights.items())
    elif act != "save":
        assert contents(folder)["model.safetensors"] == weights
