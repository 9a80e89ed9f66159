"""Predictions while a run trains or a live camera is on beside them: how much later they come.

    python benchmarks/beside.py [--requests 150] [--only-camera]

The real app, started as a newcomer starts it. One visitor asks for photo after photo, a moment apart, in turns alone,
while another's camera sends frames as the page does, and while a run trains all layers of the shelf's ResNet-18 on 402
images.
"""

import argparse
import io
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
from PIL import Image
from side_by_side import machine
from soak import Pool, Tab, Tally, serving

from resnet_hub.bundled_models import DEFAULT_MODEL

SHORT_TURN = 10  # requests without and with a camera: whatever else the machine does slows both down
PAUSE = 0.2  # seconds between an answer and the next question
FRAME_INTERVAL = 0.125  # seconds from one frame to the next, or until its answer, as in the page's script


def asked(tab: Tab, photos: list[Path], requests: int) -> list[float]:
    """Seconds of each answer, the upload included."""
    times = []
    for number in range(requests):
        start = time.perf_counter()
        tab.call("answer", *tab.upload(photos[number % len(photos)]))
        times.append(time.perf_counter() - start)
        time.sleep(PAUSE)
    return times


def steps(tab: Tab) -> None:
    """Waits until the run takes steps."""
    while "Epoch" not in str(tab.call("watch")):
        time.sleep(1)


@contextmanager
def camera(address: str, photos: list[Path]) -> Iterator[list[float]]:
    """A live camera, which yields the seconds of each of its answers."""
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
                client.post("/gradio_api/live", params={"model": DEFAULT_MODEL}, content=frame).raise_for_status()
                times.append(time.perf_counter() - start)
                is_off.wait(start + FRAME_INTERVAL - time.perf_counter())

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield times
    finally:
        is_off.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=150, help="of each of six turns")
    parser.add_argument("--only-camera", action="store_true", help="train no runs")
    arguments = parser.parse_args()
    print(machine("gradio", "onnxruntime"))
    found: dict[str, list[float]] = {"alone": [], "beside a live camera": []}
    found |= {} if arguments.only_camera else {"beside a run": []}
    answers, seconds = [], 0.0  # of the camera
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pool").mkdir()
        pool = Pool(folder / "pool", sets=[134])
        with serving(folder) as (_, address):
            visitor, other = (Tab(address, None, Tally()) for _ in range(2))
            other.call("find", None)
            asked(visitor, pool.photos, 20)  # the engine comes up
            for _ in range(2):
                for _ in range(arguments.requests // SHORT_TURN):
                    found["alone"] += asked(visitor, pool.photos, SHORT_TURN)
                    start = time.perf_counter()
                    with camera(address, pool.photos) as times:
                        found["beside a live camera"] += asked(visitor, pool.photos, SHORT_TURN)
                    answers, seconds = answers + times, seconds + time.perf_counter() - start
                if arguments.only_camera:
                    continue
                other.call("check_zip", *other.upload(pool.zips[0]))
                other.call("begin", other.stored, DEFAULT_MODEL, "finetune", 100)
                steps(other)
                found["beside a run"] += asked(visitor, pool.photos, arguments.requests)
                other.call("delete", other.stored)
                time.sleep(2)
            for tab in (visitor, other):
                tab.leave()
    print("\n| | median | 95th percentile |\n|---|---:|---:|")
    for name, times in found.items():
        print(f"| {name} | {statistics.median(times) * 1000:.0f} ms | {percentile(times) * 1000:.0f} ms |")
    for name, times in list(found.items())[1:]:
        ratios = [measure(times) / measure(found["alone"]) for measure in (statistics.median, percentile)]
        print(f"\n{name} over alone: {ratios[0]:.2f} (median), {ratios[1]:.2f} (95th percentile)")
    times = (
        f"{statistics.median(answers) * 1000:.0f} ms (median), {percentile(answers) * 1000:.0f} ms (95th percentile)"
    )
    print(f"\nthe live camera beside the visitor: {len(answers) / seconds:.1f} answers a second, each after {times}")


def percentile(times: list[float]) -> float:
    """The 95th."""
    return sorted(times)[int(0.95 * (len(times) - 1))]


if __name__ == "__main__":
    main()
