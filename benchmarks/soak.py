"""A soak test: visitors use the real app, as browsers and programs; it fails if memory or anything else grows.

    python benchmarks/soak.py --minutes 60 [--visitors 8] [--log soak.log]

The app is started as a newcomer starts it, with a home and data folders of its own that are empty. Its visitors
predict, switch models, upload photos and ZIPs, train, stop, resume, delete, download, send invalid requests, leave
during a request, and return later in the same browser. Every few seconds it prints the resources of the app. It fails
if memory has grown by over 5% after the warm-up, if anything else has grown, or if a response was not as expected.

Runs on the disk do grow in number: the runs of visitors who left stay for a day, longer than this test. It checks that
there are no more of them than the visitors have created and not deleted, nor than `MAX_RUNS`, and that none is larger
than a run of these small datasets may be. Together these bound the disk.
"""

import argparse
import html
import json
import os
import random
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from traceback import extract_tb
from typing import Any, NamedTuple

import httpx2 as httpx
import numpy as np
import psutil
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from side_by_side import machine

from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.runs.store import MAX_RUNS

ROOT = Path(__file__).parents[1]
API = "/gradio_api"
SHELF = [path.parent.name for path in sorted((ROOT / "weights").glob("*/config.json"))]
BASE = "resnet20-cifar10"  # of small images: its runs take seconds
EVIL = "<img src=x onerror=alert(1)>"
RUN = 12  # MB that no run of these datasets takes: images, model, training state, and the archives of both
GROWTH = 0.05  # of the memory after the warm-up; less is no leak
_PHOTOS = 12  # of all visitors: the app names an upload by its content, so equal ones are one file


class UnexpectedError(Exception):
    """A response that was not expected."""


class RefusedError(Exception):
    """The page refused a request with a message."""


class GoneError(Exception):
    """The visitor has closed the tab."""


class Sample(NamedTuple):
    """The resources of the app at one moment."""

    minutes: float
    memory: float  # MB resident, of the app's own process
    workers: float  # MB resident, of its children
    files: int  # descriptors
    threads: int
    children: int
    runs: float  # MB on the disk
    num_runs: int  # on the disk
    largest: float  # MB of the largest of them
    excess: int  # runs beyond those that visitors have created and not deleted; each may be at one more
    uploads: float  # MB on the disk; each stays for an hour


class Tally:
    """Durations and outcomes of all requests, from all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.created: list[str] = []  # sessions, one for each dataset that the app accepted, which becomes a run
        self.deleted: list[str] = []  # the same for each run that was deleted

    @contextmanager
    def timing(self, request: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[request].append(time.perf_counter() - start)


class Pool:
    """The files of the visitors: photos, datasets, and an invalid file."""

    def __init__(self, folder: Path, sets: Sequence[int] = (12, 16, 20, 24)):
        """Creates them; `sets` has the number of images of a class for each dataset."""
        noise = np.random.default_rng(0)
        self.photos, self.zips = [], []
        for number in range(_PHOTOS):
            coarse = noise.integers(0, 255, (6, 8, 3), np.uint8)
            path = folder / f"photo{number}.jpg"
            Image.fromarray(coarse).resize((400 + 40 * number, 300), Image.Resampling.BICUBIC).save(path)
            self.photos.append(path)
        for number, num_images in enumerate(sets):
            path = folder / f"set{number}.zip"
            with zipfile.ZipFile(path, "w") as out:
                for channel, label in enumerate(("red", "green", "blue")):
                    for index in range(num_images):
                        out.writestr(f"{label}/{index}.png", _colored(noise, channel))
            self.zips.append(path)
        self.classes = []
        for channel in range(2):
            for index in range(4):
                path = folder / f"own{channel}-{index}.png"
                path.write_bytes(_colored(noise, channel))
                self.classes.append(path)
        self.invalid = folder / "invalid.jpg"
        self.invalid.write_bytes(b"not an image")


def _colored(noise: np.random.Generator, channel: int) -> bytes:
    pixels = noise.integers(0, 100, (32, 32, 3), np.uint8)
    pixels[..., channel] += 100
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


class Tab:
    """The page in a browser's tab, with the requests of its script; `stored` is what the browser stores for it."""

    def __init__(self, address: str, stored: Any, tally: Tally):
        self.address, self.stored, self.tally = address, stored, tally
        self.session = secrets.token_hex(6)
        self.http = httpx.Client(base_url=address, timeout=120)
        with tally.timing("page"):
            self.http.get("/").raise_for_status()
            config = self.http.get("/config").raise_for_status().json()
        components = {component["id"]: component for component in config["components"]}
        self.calls = {
            call["api_name"]: (call["id"], *([components[key] for key in call[side]] for side in ("inputs", "outputs")))
            for call in config["dependencies"]
        }
        host, port = address.removeprefix("http://").split(":")
        self.heart = socket.create_connection((host, int(port)))  # open as long as the tab is
        self.heart.sendall(f"GET {API}/heartbeat/{self.session} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    def upload(self, *paths: Path) -> list[dict[str, Any]]:
        with self.tally.timing("upload"):
            files = [("files", (path.name, path.read_bytes())) for path in paths]
            stored = self.http.post(f"{API}/upload", files=files).raise_for_status().json()
        meta = {"_type": "gradio.FileData"}
        return [{"path": at, "orig_name": path.name, "meta": meta} for at, path in zip(stored, paths, strict=True)]

    def join_queue(self, name: str, *values: Any, event: Any = None) -> str:
        """Puts a call into the queue and returns its event id.

        `values` are those of all inputs but states; after the last of them, inputs have their initial values.
        """
        index, inputs, _ = self.calls[name]
        remaining, data = list(values), []
        for component in inputs:
            initial = None if component["type"] == "state" else component["props"].get("value")
            data.append(remaining.pop(0) if remaining and component["type"] != "state" else initial)
        body = {"data": data, "fn_index": index, "session_hash": self.session, "event_data": event, "trigger_id": None}
        response = self.http.post(f"{API}/queue/join", json=body)
        if response.status_code != 200:
            raise UnexpectedError(f"{name}: {response.status_code} {response.text[:200]}")
        return response.json()["event_id"]

    def call(self, name: str, *values: Any, event: Any = None) -> list[tuple[str, Any]]:
        """Returns the types of the output components with their values."""
        with self.tally.timing(name.partition("_1")[0]):
            event_id, output = self.join_queue(name, *values, event=event), None
            with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as stream:
                for line in stream.iter_lines():
                    message = json.loads(line[5:]) if line.startswith("data:") else {}
                    if message.get("msg") == "process_completed" and message.get("event_id") == event_id:
                        output = message
                        break
        if not output or not output.get("success"):
            error = str(((output or {}).get("output") or {}).get("error") or "")
            if not error or error == MESSAGES["en"]["no_answer"]:
                raise UnexpectedError(f"{name}: {json.dumps(output)[:300]}")
            raise RefusedError(error)
        types = [component["type"] for component in self.calls[name][2]]
        outputs = list(zip(types, output["output"]["data"], strict=True))
        for component, value in outputs:
            if component == "browserstate" and isinstance(value, dict) and "visitor" in value:
                self.stored = value
        if alert := re.search(r'role="alert">([^<]*)', " ".join(v for k, v in outputs if k == "html" and str(v) == v)):
            raise RefusedError(alert[1])
        return outputs

    def leave(self) -> None:
        self.heart.close()
        self.http.close()


class Visitor(threading.Thread):
    """One browser, in which the page is opened, used and closed repeatedly."""

    def __init__(self, number: int, address: str, pool: Pool, tally: Tally, until: float):
        super().__init__(daemon=True)
        self.address, self.pool, self.tally, self.until = address, pool, tally, until
        self.random = random.Random(number)
        self.stored: Any = None

    def run(self) -> None:
        actions: dict[Callable[[Tab], None], int] = {
            self.predict: 8,
            self.switch_model: 4,
            self.use_client: 3,
            self.train: 3,
            self.stop_and_resume: 2,
            self.upload_by_class: 1,
            self.send_invalid: 2,
            self.leave_early: 2,
        }
        while time.monotonic() < self.until:
            tab: Tab | None = None
            try:
                tab = Tab(self.address, self.stored, self.tally)
                tab.call("choose_1")
                tab.call("find", self.stored)
                self.clear(tab)
                for _ in range(self.random.randint(2, 6)):
                    (action,) = self.random.choices([*actions], [*actions.values()])
                    action(tab)
                    if time.monotonic() > self.until:
                        break
                    time.sleep(self.random.uniform(1, 8))
            except Exception as error:  # any error fails the test
                if not isinstance(error, GoneError):
                    frame = next(one for one in extract_tb(error.__traceback__)[::-1] if one.filename == __file__)
                    text = f"{type(error).__name__} in line {frame.lineno}: {str(error)[:300]}"
                    self.tally.errors[text] += 1
                    print(f"error: {text}", flush=True)
                    time.sleep(1)
            if tab:
                self.stored = tab.stored
                tab.leave()
        with suppress(Exception):  # the last visit deletes the run
            tab = Tab(self.address, self.stored, self.tally)
            tab.call("find", self.stored)
            self.clear(tab)
            tab.leave()

    def clear(self, tab: Tab) -> None:
        """Deletes the run of the previous visit, if there is one."""
        if isinstance(tab.stored, dict) and tab.stored.get("run"):
            self.delete(tab)

    def delete(self, tab: Tab) -> None:
        tab.call("delete", tab.stored)
        self.tally.deleted.append(tab.session)

    def predict(self, tab: Tab) -> None:
        for photo in tab.upload(*self.random.sample(self.pool.photos, self.random.randint(1, 3))):
            outputs = tab.call("classify", photo)
            labels = re.findall(r'data-label="([^"]+)"', outputs[0][1])
            if len(labels) < 2:
                raise UnexpectedError(f"classify: {outputs[0][1][:300]}")
            tab.call("why", photo, event={"index": 1, "value": html.unescape(labels[1])})

    def switch_model(self, tab: Tab) -> None:
        tab.call("choose", self.random.choice(SHELF))
        tab.call("classify", *tab.upload(self.random.choice(self.pool.photos)))

    def use_client(self, tab: Tab) -> None:
        photo = self.random.choice(self.pool.photos)
        with self.tally.timing("gradio_client"):
            client = Client(self.address, verbose=False, httpx_kwargs={"timeout": 120})
            try:
                scores = client.predict(handle_file(photo), self.random.choice(SHELF), 3, api_name="/predict")
                if len(scores) != 3:
                    raise UnexpectedError(f"/predict: {scores}")
                with suppress(AppError):
                    client.predict(handle_file(photo), "/etc/passwd", 3, api_name="/predict")
                    raise UnexpectedError("A path was accepted as a model.")
                self.tally.refused["/predict with a path for a model"] += 1
            finally:
                client.close()

    def begin(self, tab: Tab, *choices: Any) -> None:
        tab.call("check_zip", *tab.upload(self.random.choice(self.pool.zips)))
        self.tally.created.append(tab.session)
        tab.call("begin", tab.stored, BASE, *choices)

    def watch(self, tab: Tab, until: Callable[[str], bool]) -> str:
        """Polls the run until the first HTML output fulfils the condition, and returns that HTML."""
        while True:
            shown = str(dict(reversed(tab.call("watch")))["html"])
            if until(shown):
                return shown
            if time.monotonic() > self.until + 300:
                raise UnexpectedError(f"watch: {shown[:200]}")
            time.sleep(1)

    def train(self, tab: Tab) -> None:
        """Trains the head on a small dataset to the end, downloads the model and uses it."""
        self.begin(tab, "head")
        self.watch(tab, lambda shown: "Finished" in shown)
        result = dict(tab.call("result"))
        packed = result["downloadbutton"]["value"]["path"]
        with self.tally.timing("download"):
            content = tab.http.get(f"{API}/file={packed}").raise_for_status().content
        if not zipfile.is_zipfile(BytesIO(content)):
            raise UnexpectedError("The model is no ZIP.")
        tab.call("choose", tab.stored["run"])
        tab.call("classify", *tab.upload(self.random.choice(self.pool.photos)))
        tab.call("choose", BASE)
        if self.random.random() < 0.7:  # else at the next visit
            self.delete(tab)

    def stop_and_resume(self, tab: Tab) -> None:
        """Trains all layers, stops the run as soon as it trains, resumes it and stops it again."""
        self.begin(tab, "finetune", 20)
        self.watch(tab, lambda shown: "Epoch" in shown or "Finished" in shown)
        tab.call("stop")
        shown = self.watch(tab, lambda shown: "Stopped" in shown or "Finished" in shown)
        if "Stopped" in shown:
            tab.call("resume", tab.stored)
            self.watch(tab, lambda shown: "Epoch" in shown or "Finished" in shown)
            tab.call("stop")
        self.delete(tab)

    def upload_by_class(self, tab: Tab) -> None:
        files = tab.upload(*self.pool.classes)
        galleries = [[{"image": file, "caption": None} for file in uploads] for uploads in (files[:4], files[4:])]
        tab.call("check_files", "a", "b", *[""] * 10, *galleries, *[[] for _ in range(10)])
        self.tally.created.append(tab.session)
        tab.call("export")
        tab.call("begin", tab.stored, BASE, "head")
        self.delete(tab)

    def send_invalid(self, tab: Tab) -> None:
        (invalid,) = tab.upload(self.pool.invalid)
        for name, values in (
            ("classify", [invalid]),
            ("choose", ["../../etc"]),
            ("choose", [EVIL]),
            ("check_zip", [invalid]),
            ("check_files", []),
        ):
            try:
                tab.call(name, *values)
                raise UnexpectedError(f"{name} accepted {values}")
            except RefusedError as refusal:
                self.tally.refused[str(refusal)[:60]] += 1
        body = {"session_hash": tab.session, "fn_index": 10**6, "data": []}
        for path, sent, statuses in (
            ("queue/join", b"{", {400}),
            ("queue/join", b"x" * 2_000_000, {413}),
            ("queue/join", json.dumps(body).encode(), {400, 404, 422}),
            ("run/predict", b"{}", {404}),
            ("component_server", b"{}", {404}),
        ):
            response = tab.http.post(f"{API}/{path}", content=sent)
            if response.status_code not in statuses:
                raise UnexpectedError(f"{path}: {response.status_code} {response.text[:200]}")
            self.tally.refused[f"{path}: {response.status_code}"] += 1
        for path in ("/etc/passwd", "../../etc/passwd", "http://127.0.0.1/"):
            response = tab.http.get(f"{API}/file={path}")
            if response.status_code not in (403, 404):
                raise UnexpectedError(f"file={path}: {response.status_code}")
            self.tally.refused[f"file: {response.status_code}"] += 1

    def leave_early(self, tab: Tab) -> None:
        """Closes the tab during a request, of a prediction or of a run."""
        if self.random.random() < 0.5:
            tab.join_queue("classify", *tab.upload(self.random.choice(self.pool.photos)))
        else:
            self.begin(tab, "head")
            tab.join_queue("watch")
        with tab.http.stream("GET", f"{API}/queue/data", params={"session_hash": tab.session}) as stream:
            next(stream.iter_raw(1), None)
            self.tally.seconds["left early"].append(0)
            raise GoneError


@contextmanager
def serving(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The app in a process of its own, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "HOME": str(folder / "home"),
        "HF_HOME": str(folder / "home" / "hub"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # no server: the Hub is unreachable
        "TMPDIR": str(folder / "tmp"),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "RESNET_HUB_RUNS": str(folder / "runs"),
    }
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    with (folder / "log").open("wb") as log:
        app = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log, process_group=0
        )
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(1200):
                with suppress(httpx.TransportError):
                    if httpx.get(f"{address}/health").status_code == 200:
                        break
                if app.poll() is not None:
                    raise SystemExit(f"The app did not start.\n{(folder / 'log').read_text()}")
                time.sleep(0.1)
            yield psutil.Process(app.pid), address
        finally:
            app.send_signal(signal.SIGTERM)
            app.wait(30)


def _size(folder: Path) -> float:
    """Megabytes on the disk."""
    size = 0
    for parent, _, files in os.walk(folder):  # ignores folders that are deleted meanwhile
        for file in files:
            with suppress(OSError):
                size += Path(parent, file).lstat().st_blocks * 512
    return size / 2**20


def sample(app: psutil.Process, folder: Path, start: float, tally: Tally) -> Sample:
    memory_of_workers, num_workers = 0, 0
    for child in app.children(recursive=True):
        with suppress(psutil.Error):
            memory_of_workers, num_workers = memory_of_workers + child.memory_info().rss, num_workers + 1
    runs = [_size(run) for run in (folder / "runs").glob("*/")]
    excess = len(runs) - len(tally.created) + len(tally.deleted)
    sizes = [sum(runs), len(runs), max(runs, default=0.0), excess, _size(folder / "uploads")]
    minutes = (time.monotonic() - start) / 60
    memory = app.memory_info().rss / 2**20
    return Sample(minutes, memory, memory_of_workers / 2**20, app.num_fds(), app.num_threads(), num_workers, *sizes)


def verdict(samples: list[Sample], warm: float, visitors: int) -> tuple[list[str], list[str]]:
    """Returns the rows of the table and what has grown: medians of a tenth of the time, since workers start and end."""
    measured = [one for one in samples if one.minutes >= warm]
    tenth = max(1, len(measured) // 10)
    middle = len(measured) // 2 - tenth // 2
    spans = [measured[:tenth], measured[middle : middle + tenth], measured[-tenth:]]
    rows, grown = [], []
    for name, unit, slack in (
        *(("memory", "MB", 0), ("workers", "MB", None), ("files", "", 8), ("threads", "", 4)),
        *(("children", "", 1), ("runs", "MB", None), ("num_runs", "", None)),
        *(("largest", "MB", None), ("excess", "", None), ("uploads", "MB", None)),
    ):
        first, half, last = (statistics.median(getattr(one, name) for one in span) for span in spans)
        slope = np.polyfit([one.minutes for one in measured], [getattr(one, name) for one in measured], 1)[0] * 60
        most = max(getattr(one, name) for one in measured)
        cells = (first, half, last, most, slope)
        rows.append(f"| {name}{f', {unit}' if unit else ''} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
        if slack is not None and last > first * (1 + GROWTH) + slack:
            grown.append(f"{name} grew from {first:.1f} to {last:.1f} {unit}".strip())
    if (most := max(one.num_runs for one in samples)) > MAX_RUNS:
        grown.append(f"{most} runs on the disk, of at most {MAX_RUNS}")
    if (size := max(one.largest for one in samples)) > RUN:
        grown.append(f"a run has {size:.1f} MB, of at most {RUN}")
    if (most := max(one.excess for one in samples)) > visitors:
        grown.append(f"{most} runs more than visitors have made and not deleted")
    return rows, grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--every", type=float, default=15, metavar="SECONDS", help="between two samples")
    parser.add_argument("--warm", type=float, metavar="MINUTES", help="of warm-up; by default a sixth of the time")
    parser.add_argument("--log", type=Path, help="file for the log of the app")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated."))  # and the app with it
    warm = arguments.minutes / 6 if arguments.warm is None else arguments.warm
    print(machine("gradio", "onnxruntime"), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pool").mkdir()
        pool, tally, samples = Pool(folder / "pool"), Tally(), []
        with serving(folder) as (app, address):
            time.sleep(5)
            start = time.monotonic()
            fresh = sample(app, folder, start, tally)
            print(fresh, flush=True)
            until = start + arguments.minutes * 60
            visitors = [Visitor(n, address, pool, tally, until) for n in range(arguments.visitors)]
            for visitor in visitors:
                visitor.start()
            while any(visitor.is_alive() for visitor in visitors):
                time.sleep(arguments.every)
                one = sample(app, folder, start, tally)
                if time.monotonic() < until:
                    samples.append(one)
                print(one, flush=True)
            time.sleep(20)
            gone = sample(app, folder, start, tally)
        log = (folder / "log").read_text()
    if arguments.log:
        arguments.log.write_text(log)
    show(samples, fresh, gone, warm, tally, log, arguments.visitors)


def show(
    samples: list[Sample], fresh: Sample, gone: Sample, warm: float, tally: Tally, log: str, visitors: int
) -> None:
    rows, wrong = verdict(samples, warm, visitors)
    print(f"\n### {samples[-1].minutes:.0f} minutes, the first {warm:.0f} of them warm-up\n")
    print("| | warm-up's end | middle | end | most | slope per hour |\n|---|---:|---:|---:|---:|---:|")
    print("\n".join(rows))
    print(f"\nBefore the first visitor: {fresh}\nAfter the last one: {gone}")
    print("\n| request | times | median | 95th percentile |\n|---|---:|---:|---:|")
    for request, seconds in sorted(tally.seconds.items(), key=lambda item: -len(item[1])):
        late = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
        print(f"| {request} | {len(seconds):,} | {statistics.median(seconds):.2f} s | {late:.2f} s |")
    print(f"\nRefused as expected: {sum(tally.refused.values()):,}")
    for message, times in tally.refused.most_common():
        print(f"  {times:,} x {message}")
    wrong += [f"{times} x {message}" for message, times in tally.errors.items()]
    if gone.children:
        wrong.append(f"{gone.children} processes remain")
    if "Traceback" in log:
        wrong.append(f"{log.count('Traceback')} tracebacks in the log")
    print("\n" + ("\n".join(f"WRONG: {one}" for one in wrong) or "Nothing grew, and all responses were as expected."))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
