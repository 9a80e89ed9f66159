"""Peak memory of a training on very many images against one on few.

    python benchmarks/memory.py [--images 10000 1000000] [--stream]

Writes distinct PNGs of 8 x 8 pixels into parquet files and trains a small network for 50 steps without an evaluation,
in a process of its own. Anonymous memory leaves out the pages of mapped files, which the system may take back.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resnet_hub import TrainConfig, train

CLASSES, SIDE, SHARD = 10, 8, 50_000
_HEADER = b"\x89PNG\r\n\x1a\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cache", choices=("auto", "memory", "disk", "none"), default="auto")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        train_once(Path(arguments.run), arguments.steps, arguments.cache, arguments.stream)
        return
    print("| images | peak of anonymous memory, MB | of the first | peak of resident memory, MB | seconds |")
    print("|---:|---:|---:|---:|---:|")
    first = 0.0
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as scratch:
            write_images(Path(scratch, "data"), count)
            command = [sys.executable, __file__, "--run", scratch, "--steps", str(arguments.steps)]
            command += ["--cache", arguments.cache, *(["--stream"] if arguments.stream else [])]
            output = subprocess.run(command, check=True, capture_output=True, text=True)
        measured = json.loads(output.stdout.splitlines()[-1])
        first = first or measured["anonymous"]
        cells = [f"{measured['anonymous']:.0f}", f"{measured['anonymous'] / first:.2f}", f"{measured['resident']:.0f}"]
        print(f"| {count:,} | {' | '.join(cells)} | {measured['seconds']:.0f} |")


def write_images(folder: Path, count: int) -> None:
    """Writes distinct images, each with its number in its first pixels, and the labels in rotation."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number, start in enumerate(range(0, count, SHARD)):
        stop = min(start + SHARD, count)
        pixels = noise.integers(0, 256, (stop - start, SIDE, SIDE, 3), np.uint8)
        images = [{"bytes": encode_png(image), "path": None} for image in pixels]
        table = pa.table({"image": images, "label": [f"class {index % CLASSES}" for index in range(start, stop)]})
        pq.write_table(table, folder / f"train-{number:05d}.parquet", row_group_size=1000)


def encode_png(image: np.ndarray) -> bytes:
    rows = np.concatenate([np.zeros((SIDE, 1), np.uint8), image.reshape(SIDE, -1)], 1).tobytes()
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = []
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")):
        chunks.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return _HEADER + b"".join(chunks)


def train_once(scratch: Path, steps: int, cache: str, stream: bool) -> None:
    start = time.monotonic()
    config = TrainConfig(
        data=str(scratch / "data"),
        run=str(scratch / "run"),
        architecture="resnet20",
        image_size=SIDE,
        batch_size=64,
        epochs=1,
        cache=cache,  # type: ignore[arg-type]
        stream=stream,
    )
    anonymous = resident = 0
    for _ in train(config, max_steps=steps):
        anonymous, resident = max(anonymous, read_status("RssAnon")), read_status("VmHWM")
    measured = {"anonymous": anonymous / 1024, "resident": resident / 1024, "seconds": time.monotonic() - start}
    print(json.dumps(measured))


def read_status(name: str) -> int:
    """Returns a size of this process, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
