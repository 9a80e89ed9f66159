"""Functions that the benchmarks share. Contestants alternate, so that other load of the machine slows all of them."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def machine(*packages: str) -> str:
    """Processor, cores and versions, on one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    supported = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8") if flag in flags
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = []
    for package in ("torch", *packages):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    return f"{cores} x {names[0] if names else platform.processor()} ({', '.join(supported)}); {', '.join(versions)}"


def write_images(folder: Path, count: int, classes: int, *, coarse: tuple[int, int], size: tuple[int, int]) -> None:
    """Write class folders of JPEGs, at quality 90, of noise of (rows, columns) enlarged to (width, height) pixels."""
    noise = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % classes) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        pixels = Image.fromarray(noise.integers(0, 256, (*coarse, 3), np.uint8))
        pixels.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


_PAUSE = 0.3  # seconds before a measurement: the idle threads of the previous contestant spin on a core until then


def race(
    contestants: Mapping[str, Callable[[Any], object]], inputs: Any, *, rounds: int = 8, each: int = 3
) -> dict[str, list[float]]:
    """Seconds of each contestant's call with `inputs`: the median of `each` calls, for every round."""
    for call in contestants.values():
        call(inputs), call(inputs)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            time.sleep(_PAUSE)
            times = []
            for _ in range(each):
                start = time.perf_counter()
                call(inputs)
                times.append(time.perf_counter() - start)
            seconds[name].append(statistics.median(times))
    return seconds


def show(title: str, seconds: Mapping[str, list[float]], *, images: int = 1, unit: str = "ms") -> None:
    """A table: the median, images a second, and the speed over that of the first row, with its range over rounds."""
    first = next(iter(seconds.values()))
    print(f"\n### {title}\n\n| | {unit} | images/s | times the first row's speed |\n|---|---:|---:|---:|")
    for name, times in seconds.items():
        ratios = sorted(a / b for a, b in zip(first, times, strict=True))
        middle = statistics.median(times)
        span = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {middle * 1000:.1f} | {images / middle:.1f} | {span} |", flush=True)
