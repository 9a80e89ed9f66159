"""Predictions while a run trains beside them: how much later they come.

    python benchmarks/beside.py [--requests 150]

The real app, started as a newcomer starts it. One visitor asks for photo after photo, a moment apart, in turns alone
and while another's run trains all layers of the shelf's ResNet-18 on 402 pictures.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from side_by_side import machine
from soak import Pool, Tab, Tally, serving

from resnet_hub.bundled_models import DEFAULT_MODEL

PAUSE = 0.2  # seconds between an answer and the next question


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=150, help="of each of four turns")
    arguments = parser.parse_args()
    print(machine("gradio", "onnxruntime"))
    found: dict[str, list[float]] = {"alone": [], "beside a run": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pool").mkdir()
        pool = Pool(folder / "pool", sets=[134])
        with serving(folder) as (_, address):
            visitor, other = (Tab(address, None, Tally()) for _ in range(2))
            other.call("find", None)
            asked(visitor, pool.photos, 20)  # the engine comes up
            for _ in range(2):
                found["alone"] += asked(visitor, pool.photos, arguments.requests)
                other.call("check_zip", *other.upload(pool.zips[0]))
                other.call("begin", other.stored, DEFAULT_MODEL, "finetune", 100)
                steps(other)
                found["beside a run"] += asked(visitor, pool.photos, arguments.requests)
                other.call("delete", other.stored)
                time.sleep(2)
            for tab in (visitor, other):
                tab.leave()
    print("\n| | median | 95th percentile |\n|---|---:|---:|")
    late = {}
    for name, times in found.items():
        late[name] = sorted(times)[int(0.95 * (len(times) - 1))]
        print(f"| {name} | {statistics.median(times) * 1000:.0f} ms | {late[name] * 1000:.0f} ms |")
    print(f"\n95th percentile beside a run over alone: {late['beside a run'] / late['alone']:.2f}")


if __name__ == "__main__":
    main()
