"""Latency of predictions while a run trains or a live camera is on.

    python benchmarks/beside.py [--requests 150] [--only-camera]
    python benchmarks/beside.py --inside [--rounds 5]

Starts the real app with empty home and data folders. One visitor classifies photo after photo with short pauses:
alone, while the camera of another visitor sends frames as the page does, and while a run trains all layers of the
included ResNet-18 on 402 images.

With --inside: eight visitors classify photos, alone and while a ninth opens the panels of the Inside tab one after the
other. For each panel it measures the seconds until the first output, in the race the first curve.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
from PIL import Image
from side_by_side import machine
from soak import API, Pool, Tab, Tally, UnexpectedError, serving

from resnet_hub.included_models import DEFAULT_MODEL_NAME

ALTERNATE_AFTER = 10  # requests, without and with a camera: other load of the machine then slows both
VISITORS = 8  # who predict beside the Inside tab
ALONE = 20.0  # seconds of a round without the Inside tab
PAUSE = 0.2  # seconds between a response and the next request
FRAME_INTERVAL = 0.125  # seconds from one frame to the next, or until its labels, as in the page's script


def time_predictions(tab: Tab, photos: list[Path], requests: int) -> list[float]:
    """Seconds of each prediction, with the upload."""
    times = []
    for number in range(requests):
        start = time.perf_counter()
        tab.call("classify", *tab.upload(photos[number % len(photos)]))
        times.append(time.perf_counter() - start)
        time.sleep(PAUSE)
    return times


def steps(tab: Tab) -> None:
    """Waits until the run takes steps."""
    while "Epoch" not in str(tab.call("watch")):
        time.sleep(1)


@contextmanager
def camera(address: str, photos: list[Path]) -> Iterator[list[float]]:
    """A live camera, which yields the seconds of each of its frames."""
    frames, times, is_off = [], [], threading.Event()
    for path in photos[:20]:
        content = io.BytesIO()
        Image.open(path).convert("RGB").resize((341, 256)).save(content, "JPEG", quality=80)
        frames.append(content.getvalue())

    def send() -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            while not is_off.is_set():
                start = time.perf_counter()
                frame = frames[len(times) % len(frames)]
                client.post("/gradio_api/live", params={"model": DEFAULT_MODEL_NAME}, content=frame).raise_for_status()
                times.append(time.perf_counter() - start)
                is_off.wait(start + FRAME_INTERVAL - time.perf_counter())

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield times
    finally:
        is_off.set()
        thread.join()


def time_first_output(tab: Tab, name: str, *values: Any, event: Any = None, sign: str = "<figure") -> float:
    """Seconds until an output contains `sign`; the call then runs to its end."""
    start = time.perf_counter()
    event_id, seconds = tab.join_queue(name, *values, event=event), None
    with tab.http.stream("GET", f"{API}/queue/data", params={"session_hash": tab.session}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {}
            if message.get("event_id") != event_id:
                continue
            if seconds is None and sign in line:
                seconds = time.perf_counter() - start
            if message.get("msg") == "process_completed":
                break
    if seconds is None:
        raise UnexpectedError(f"{name} never showed {sign}: {line[:300]}")
    return seconds


def chosen(*names: str) -> dict[str, Any]:
    """The event of blocks that are pressed."""
    return {"index": 0, "value": list(names)}


@contextmanager
def predicting(address: str, photos: list[Path], visitors: int) -> Iterator[list[float]]:
    """Visitors who classify photo after photo; yields the seconds of their predictions."""
    times: list[float] = []
    is_over = threading.Event()

    def predict() -> None:
        tab = Tab(address, None, Tally())
        while not is_over.is_set():
            times.extend(time_predictions(tab, photos, 1))
        tab.leave()

    threads = [threading.Thread(target=predict) for _ in range(visitors)]
    for thread in threads:
        thread.start()
    try:
        yield times
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def measure_inside(address: str, photos: list[Path], rounds: int) -> None:
    """Prints the seconds of each panel, and of the predictions without and with the Inside tab."""
    visitor = Tab(address, None, Tally())
    opening = [name for name in visitor.calls if name.startswith("open")][-1]  # Gradio numbers equal names
    block, blocks = chosen("layer3.1"), chosen("layer2.1", "layer4.1")
    panels: dict[str, Callable[[], float]] = {
        "anatomy: drawing": lambda: time_first_output(visitor, opening, None, sign="<svg"),
        "anatomy: feature maps": lambda: time_first_output(visitor, "show_block", None, event=block, sign="<img"),
        "lesion: labels": lambda: time_first_output(visitor, "switch_blocks", None, event=blocks, sign="<table"),
        "paths": lambda: time_first_output(visitor, "show_paths", None),
        "shattered gradients, 24 layers": lambda: time_first_output(visitor, "show_gradients", 24, True),
        "shattered gradients, 100 layers": lambda: time_first_output(visitor, "show_gradients", 100, True),
        "identity, 12 blocks": lambda: time_first_output(visitor, "show_identity", 12, False),
        "race, 32 layers": lambda: time_first_output(visitor, "show_race", 32),
        "race, 56 layers": lambda: time_first_output(visitor, "show_race", 56),
    }
    for open_panel in list(panels.values())[4:5]:
        open_panel()  # the process of the live experiments starts, as when a visitor opens their panel
    seconds: dict[str, list[float]] = {name: [] for name in panels}
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(rounds):
        with predicting(address, photos, VISITORS) as times:
            time.sleep(ALONE)
        alone += times
        with predicting(address, photos, VISITORS) as times:
            for name, open_panel in panels.items():
                seconds[name].append(open_panel())
        beside += times
    visitor.leave()
    print(f"\n| panel, beside {VISITORS} visitors | median | worst |\n|---|---:|---:|")
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values):.1f} s | {max(values):.1f} s |")
    print(f"\n| predictions of {VISITORS} visitors | median | 95th percentile |\n|---|---:|---:|")
    for name, times in (("alone", alone), ("beside the Inside tab", beside)):
        print(f"| {name} | {statistics.median(times) * 1000:.0f} ms | {percentile(times) * 1000:.0f} ms |")
    ratio = percentile(beside) / percentile(alone)
    print(
        f"\nbeside over alone: {statistics.median(beside) / statistics.median(alone):.2f} (median), {ratio:.2f} (95th)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=150, help="of each of six rounds")
    parser.add_argument("--only-camera", action="store_true", help="train no runs")
    parser.add_argument("--inside", action="store_true", help="measure the panels of the Inside tab")
    parser.add_argument("--rounds", type=int, default=5, help="with --inside: how often each panel is opened")
    arguments = parser.parse_args()
    print(machine("gradio", "onnxruntime"))
    if hasattr(os, "getloadavg"):
        print(f"load before: {os.getloadavg()[0]:.1f}")
    if arguments.inside:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "pool").mkdir()
            pool = Pool(folder / "pool", sets=[])
            with serving(folder) as (_, address):
                time_predictions(visitor := Tab(address, None, Tally()), pool.photos, 10)  # starts the engine
                visitor.leave()
                measure_inside(address, pool.photos, arguments.rounds)
        return
    results: dict[str, list[float]] = {"alone": [], "beside a live camera": []}
    results |= {} if arguments.only_camera else {"beside a run": []}
    frame_times, seconds = [], 0.0  # of the camera
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pool").mkdir()
        pool = Pool(folder / "pool", sets=[134])
        with serving(folder) as (_, address):
            visitor, other = (Tab(address, None, Tally()) for _ in range(2))
            other.call("find", None)
            time_predictions(visitor, pool.photos, 20)  # starts the engine
            for _ in range(2):
                for _ in range(arguments.requests // ALTERNATE_AFTER):
                    results["alone"] += time_predictions(visitor, pool.photos, ALTERNATE_AFTER)
                    start = time.perf_counter()
                    with camera(address, pool.photos) as times:
                        results["beside a live camera"] += time_predictions(visitor, pool.photos, ALTERNATE_AFTER)
                    frame_times, seconds = frame_times + times, seconds + time.perf_counter() - start
                if arguments.only_camera:
                    continue
                other.call("check_zip", *other.upload(pool.zips[0]))
                other.call("begin", other.stored, DEFAULT_MODEL_NAME, "finetune", 100)
                steps(other)
                results["beside a run"] += time_predictions(visitor, pool.photos, arguments.requests)
                other.call("delete", other.stored)
                time.sleep(2)
            for tab in (visitor, other):
                tab.leave()
    print("\n| | median | 95th percentile |\n|---|---:|---:|")
    for name, times in results.items():
        print(f"| {name} | {statistics.median(times) * 1000:.0f} ms | {percentile(times) * 1000:.0f} ms |")
    for name, times in list(results.items())[1:]:
        ratios = [measure(times) / measure(results["alone"]) for measure in (statistics.median, percentile)]
        print(f"\n{name} over alone: {ratios[0]:.2f} (median), {ratios[1]:.2f} (95th percentile)")
    median, slow = (1000 * measure(frame_times) for measure in (statistics.median, percentile))
    rate = f"{len(frame_times) / seconds:.1f} frames a second"
    print(f"\nthe live camera: {rate}, each after {median:.0f} ms (median), {slow:.0f} ms (95th percentile)")


def percentile(times: list[float]) -> float:
    """The 95th."""
    return sorted(times)[int(0.95 * (len(times) - 1))]


if __name__ == "__main__":
    main()
