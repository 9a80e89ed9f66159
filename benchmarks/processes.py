"""Input of a training in two processes, each on a core of its own, against one process on one core.

    python benchmarks/processes.py [--images 600] [--rounds 3]

JPEGs of 500 x 375 pixels to crops of 224, decoded in every epoch, and a network of one layer whose gradients the
processes average by gloo, so that the input is what counts. Each process is pinned to a core and loads its share of
each batch in a thread. Rounds alternate. Beside wall times it prints the processor time of the process that used most,
which other programs move less.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from side_by_side import machine, write_images
from torch import distributed, nn
from torch.nn import functional as F

from resnet_hub import ResNetConfig, TrainConfig
from resnet_hub.datasets.dataset import TRAIN
from resnet_hub.datasets.load import load_dataset
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.loader import BatchSampler, open_inputs
from resnet_hub.training.schedule import create_generator
from resnet_hub.training.split import RunImages

BATCH, CLASSES, SIZE, EPOCHS = 50, 10, 224, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.share:
        print(json.dumps(measure_share(Path(arguments.share))))
        return
    print(machine("torchvision", "pillow"))
    results: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch, "images"), arguments.images, CLASSES, coarse=(75, 100), size=(500, 375))
        for _ in range(arguments.rounds):
            for count in results:
                results[count].append(run_processes(Path(scratch, "images"), count))
    print("\n| processes | ms an image | of one | processor ms an image, of the busiest | of one |")
    print("|---:|---:|---:|---:|---:|")
    for count, times in results.items():
        cells = []
        for number in range(2):
            ratios = [one[number] / alone[number] for one, alone in zip(times, results[1], strict=True)]
            milliseconds = 1000 * statistics.median(one[number] for one in times) / arguments.images
            cells += [f"{milliseconds:.2f}", f"{statistics.median(ratios):.2f}"]
        print(f"| {count} | {' | '.join(cells)} |")


def run_processes(folder: Path, count: int) -> tuple[float, float]:
    """Returns the seconds of an epoch, and the processor seconds of the process that used most."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--share", str(folder)]
    children = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    outputs = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    assert sum(output["decoded"] for output in outputs) == len(list(folder.rglob("*.jpg"))) // BATCH * BATCH
    return max(output["wall"] for output in outputs), max(output["processor"] for output in outputs)


def measure_share(folder: Path) -> dict[str, float]:
    """Loads the share of this process for some epochs; returns the median times of an epoch, and what it decodes."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    model = ResNetConfig.from_name("resnet18", num_classes=CLASSES)
    config = TrainConfig(
        data=str(folder), run="run", batch_size=BATCH, augmentation="crop", cache="none", workers=1, epochs=EPOCHS + 1
    ).resolved()
    images = load_dataset(folder)[TRAIN]
    held_out = images.subset(np.arange(1))
    parts = RunImages(images, held_out, held_out, "validation")
    inputs = open_inputs(parts, config, model, folder.parent / "none", keeps_on_disk=False, is_on_gpu=False)
    transform = BatchTransform(config, model)
    sampler = BatchSampler(config, torch.from_numpy(images.targets), CLASSES, SIZE, rank, count)
    network = nn.Sequential(nn.Conv2d(3, CLASSES, 16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.parallel.DistributedDataParallel(network)
    loading = inputs.loader.load(inputs.train, sampler.iterate(0, 0), transform.crop)
    times, decoded = [], 0
    for epoch in range(EPOCHS + 1):
        start, used, decoded = time.perf_counter(), time.process_time(), 0
        for step in range(sampler.steps):
            batch, pixels = next(loading)
            targets = torch.from_numpy(batch.targets)
            one_hot = F.one_hot(targets, CLASSES).float()
            floats, _ = transform(pixels, one_hot, batch, create_generator(0, epoch, step))
            F.cross_entropy(network(floats), targets).backward()
            network.zero_grad()
            decoded += len(targets)
        times.append((time.perf_counter() - start, time.process_time() - used))
    wall, processor = (statistics.median(values) for values in zip(*times[1:], strict=True))  # the first one warms up
    distributed.destroy_process_group()
    return {"wall": wall, "processor": processor, "decoded": decoded}


if __name__ == "__main__":
    main()
