"""A long day in short: visitors of the real app, as browsers and programs, and whether anything of it grows.

    python benchmarks/soak.py --minutes 60 [--visitors 8] [--log soak.log]

The app is started as a newcomer starts it, with a home and data folders of its own that are empty. Its visitors
predict, switch models, upload pictures and ZIPs, train, stop, resume, delete, download, send junk, and go away in the
midst of an answer, to come back later as the browser they are. Every few seconds a line tells what the app holds. Fails
where memory has grown by over 5% after the warm-up, where anything else has risen, or where an answer came that should
not.

Runs on the disk do rise, since those of visitors who left stay for a day, which no soak is long enough to see. So of
them is checked that there are no more than these visitors have made and not deleted, nor than the app keeps, and that
none takes more megabytes than a run of these small sets needs: the disk has a bound then, of `MAX_KEPT` times that.
"""

import argparse
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
from resnet_hub.demo.runs.store import MAX_KEPT

ROOT = Path(__file__).parents[1]
API = "/gradio_api"
SHELF = [path.parent.name for path in sorted((ROOT / "weights").glob("*/config.json"))]
BASE = "resnet20-cifar10"  # of small pictures: its runs take seconds
EVIL = "<img src=x onerror=alert(1)>"
RUN = 12  # MB that no run of these sets takes: pictures, model, what it resumes from, and both packed
GROWTH = 0.05  # of the memory after the warm-up that is no leak
_PICTURES = 12  # that visitors have: the app names an upload by its content, so equal ones are one file


class UnexpectedError(Exception):
    """An answer that should not have come."""


class RefusedError(Exception):
    """A sentence of the page in place of an answer."""


class GoneError(Exception):
    """The visitor has closed the tab."""


class Sample(NamedTuple):
    """What the app holds at one moment."""

    minutes: float
    memory: float  # MB resident, of the app's own process
    workers: float  # MB resident, of its children
    files: int  # descriptors
    threads: int
    children: int
    runs: float  # MB on the disk
    kept: int  # runs there
    largest: float  # MB of the largest of them
    excess: int  # runs beyond those that visitors have made and not deleted; each may be at one more
    uploads: float  # MB on the disk; each stays for an hour


class Tally:
    """Times and ends of everything that was asked, from all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.made: list[str] = []  # sessions, one for each data set that the app took in, which becomes a run
        self.deleted: list[str] = []  # the same for each run that was deleted

    @contextmanager
    def timing(self, kind: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[kind].append(time.perf_counter() - start)


class Pool:
    """What visitors have on their disks: photos, data sets, and what is neither."""

    def __init__(self, folder: Path, sets: Sequence[int] = (12, 16, 20, 24)):
        """Makes them; `sets` is how many pictures a class of each data set has."""
        noise = np.random.default_rng(0)
        self.photos, self.zips = [], []
        for number in range(_PICTURES):
            coarse = noise.integers(0, 255, (6, 8, 3), np.uint8)
            path = folder / f"photo{number}.jpg"
            Image.fromarray(coarse).resize((400 + 40 * number, 300), Image.Resampling.BICUBIC).save(path)
            self.photos.append(path)
        for number, pictures in enumerate(sets):
            path = folder / f"set{number}.zip"
            with zipfile.ZipFile(path, "w") as out:
                for channel, label in enumerate(("red", "green", "blue")):
                    for place in range(pictures):
                        out.writestr(f"{label}/{place}.png", _coloured(noise, channel))
            self.zips.append(path)
        self.classes = []
        for channel in range(2):
            for place in range(4):
                path = folder / f"own{channel}-{place}.png"
                path.write_bytes(_coloured(noise, channel))
                self.classes.append(path)
        self.junk = folder / "junk.jpg"
        self.junk.write_bytes(b"no picture at all")


def _coloured(noise: np.random.Generator, channel: int) -> bytes:
    pixels = noise.integers(0, 100, (32, 32, 3), np.uint8)
    pixels[..., channel] += 100
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


class Tab:
    """The page in a browser's tab, as its script talks to the app; the browser keeps `stored` for it."""

    def __init__(self, address: str, stored: Any, tally: Tally):
        self.address, self.stored, self.tally = address, stored, tally
        self.session = secrets.token_hex(6)
        self.http = httpx.Client(base_url=address, timeout=120)
        with tally.timing("page"):
            self.http.get("/").raise_for_status()
            config = self.http.get("/config").raise_for_status().json()
        parts = {part["id"]: part for part in config["components"]}
        self.calls = {
            call["api_name"]: (call["id"], *([parts[part] for part in call[side]] for side in ("inputs", "outputs")))
            for call in config["dependencies"]
        }
        host, port = address.removeprefix("http://").split(":")
        self.heart = socket.create_connection((host, int(port)))  # open as long as the tab is
        self.heart.sendall(f"GET {API}/heartbeat/{self.session} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    def upload(self, *paths: Path) -> list[dict[str, Any]]:
        with self.tally.timing("upload"):
            files = [("files", (path.name, path.read_bytes())) for path in paths]
            kept = self.http.post(f"{API}/upload", files=files).raise_for_status().json()
        meta = {"_type": "gradio.FileData"}
        return [{"path": at, "orig_name": path.name, "meta": meta} for at, path in zip(kept, paths, strict=True)]

    def ask(self, name: str, *values: Any, event: Any = None) -> str:
        """Puts a call into the queue; `values` are of all but the states, and where they end the page's own follow."""
        place, inputs, _ = self.calls[name]
        given, data = list(values), []
        for part in inputs:
            own = None if part["type"] == "state" else part["props"].get("value")
            data.append(given.pop(0) if given and part["type"] != "state" else own)
        body = {"data": data, "fn_index": place, "session_hash": self.session, "event_data": event, "trigger_id": None}
        reply = self.http.post(f"{API}/queue/join", json=body)
        if reply.status_code != 200:
            raise UnexpectedError(f"{name}: {reply.status_code} {reply.text[:200]}")
        return reply.json()["event_id"]

    def call(self, name: str, *values: Any, event: Any = None) -> list[tuple[str, Any]]:
        """The kinds of the components that the answer is for, and their values."""
        with self.tally.timing(name.partition("_1")[0]):
            asked, output = self.ask(name, *values, event=event), None
            with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as stream:
                for line in stream.iter_lines():
                    message = json.loads(line[5:]) if line.startswith("data:") else {}
                    if message.get("msg") == "process_completed" and message.get("event_id") == asked:
                        output = message
                        break
        if not output or not output.get("success"):
            sentence = str(((output or {}).get("output") or {}).get("error") or "")
            if not sentence or sentence == MESSAGES["en"]["no_answer"]:
                raise UnexpectedError(f"{name}: {json.dumps(output)[:300]}")
            raise RefusedError(sentence)
        kinds = [part["type"] for part in self.calls[name][2]]
        answer = list(zip(kinds, output["output"]["data"], strict=True))
        for kind, value in answer:
            if kind == "browserstate" and isinstance(value, dict) and "visitor" in value:
                self.stored = value
        if found := re.search(r'role="alert">([^<]*)', " ".join(v for k, v in answer if k == "html" and str(v) == v)):
            raise RefusedError(found[1])
        return answer

    def leave(self) -> None:
        self.heart.close()
        self.http.close()


class Visitor(threading.Thread):
    """One browser, whose user opens the page, does a few things and goes, again and again."""

    def __init__(self, number: int, address: str, pool: Pool, tally: Tally, until: float):
        super().__init__(daemon=True)
        self.address, self.pool, self.tally, self.until = address, pool, tally, until
        self.chance = random.Random(number)
        self.stored: Any = None

    def run(self) -> None:
        acts: list[tuple[Callable[[Tab], None], int]] = [
            *((self.predict, 8), (self.switch, 4), (self.program, 3), (self.train, 3), (self.stop_and_go, 2)),
            *((self.by_class, 1), (self.junk, 2), (self.go_midway, 2)),
        ]
        while time.monotonic() < self.until:
            tab: Tab | None = None
            try:
                tab = Tab(self.address, self.stored, self.tally)
                tab.call("choose_1")
                tab.call("find", self.stored)
                self.clear(tab)
                for _ in range(self.chance.randint(2, 6)):
                    (act,) = self.chance.choices([act for act, _ in acts], [weight for _, weight in acts])
                    act(tab)
                    if time.monotonic() > self.until:
                        break
                    time.sleep(self.chance.uniform(1, 8))
            except Exception as error:  # whatever it is, it is what we look for
                if not isinstance(error, GoneError):
                    place = next(one for one in extract_tb(error.__traceback__)[::-1] if one.filename == __file__)
                    text = f"{type(error).__name__} in line {place.lineno}: {str(error)[:300]}"
                    self.tally.errors[text] += 1
                    print(f"error: {text}", flush=True)
                    time.sleep(1)
            if tab:
                self.stored = tab.stored
                tab.leave()
        with suppress(Exception):  # the last one cleans up
            tab = Tab(self.address, self.stored, self.tally)
            tab.call("find", self.stored)
            self.clear(tab)
            tab.leave()

    def clear(self, tab: Tab) -> None:
        """Deletes the run of the visit before, if there is one."""
        if isinstance(tab.stored, dict) and tab.stored.get("run"):
            self.delete(tab)

    def delete(self, tab: Tab) -> None:
        tab.call("delete", tab.stored)
        self.tally.deleted.append(tab.session)

    def predict(self, tab: Tab) -> None:
        for photo in tab.upload(*self.chance.sample(self.pool.photos, self.chance.randint(1, 3))):
            answer = tab.call("answer", photo)
            scores = dict(answer)["label"]
            if len(scores["confidences"]) < 2:
                raise UnexpectedError(f"answer: {scores}")
            label = scores["confidences"][1]["label"]
            tab.call("why", photo, event={"index": 1, "value": label})

    def switch(self, tab: Tab) -> None:
        tab.call("choose", self.chance.choice(SHELF))
        tab.call("answer", *tab.upload(self.chance.choice(self.pool.photos)))

    def program(self, tab: Tab) -> None:
        photo = self.chance.choice(self.pool.photos)
        with self.tally.timing("gradio_client"):
            client = Client(self.address, verbose=False, httpx_kwargs={"timeout": 120})
            try:
                found = client.predict(handle_file(photo), self.chance.choice(SHELF), 3, api_name="/predict")
                if len(found) != 3:
                    raise UnexpectedError(f"/predict: {found}")
                with suppress(AppError):
                    client.predict(handle_file(photo), "/etc/passwd", 3, api_name="/predict")
                    raise UnexpectedError("A path was taken for a model.")
                self.tally.refused["/predict with a path for a model"] += 1
            finally:
                client.close()

    def begin(self, tab: Tab, *choices: Any) -> None:
        tab.call("check_zip", *tab.upload(self.chance.choice(self.pool.zips)))
        self.tally.made.append(tab.session)
        tab.call("begin", tab.stored, BASE, *choices)

    def watch(self, tab: Tab, until: Callable[[str], bool]) -> str:
        """What the page says of the run once it says what is waited for."""
        while True:
            told = str(dict(reversed(tab.call("watch")))["html"])  # the first of them
            if until(told):
                return told
            if time.monotonic() > self.until + 300:
                raise UnexpectedError(f"watch: {told[:200]}")
            time.sleep(1)

    def train(self, tab: Tab) -> None:
        """The head of a small data set, to the end, and what can be done with it."""
        self.begin(tab, "head")
        self.watch(tab, lambda told: "Finished" in told)
        result = dict(tab.call("result"))
        packed = result["downloadbutton"]["value"]["path"]
        with self.tally.timing("download"):
            content = tab.http.get(f"{API}/file={packed}").raise_for_status().content
        if not zipfile.is_zipfile(BytesIO(content)):
            raise UnexpectedError("The model is no ZIP.")
        tab.call("choose", tab.stored["run"])
        tab.call("answer", *tab.upload(self.chance.choice(self.pool.photos)))
        tab.call("choose", BASE)
        if self.chance.random() < 0.7:  # else at the next visit
            self.delete(tab)

    def stop_and_go(self, tab: Tab) -> None:
        """A run of all layers that is stopped as soon as it trains, goes on, and is stopped again."""
        self.begin(tab, "finetune", 20)
        self.watch(tab, lambda told: "Epoch" in told or "Finished" in told)
        tab.call("stop")
        told = self.watch(tab, lambda told: "Stopped" in told or "Finished" in told)
        if "Stopped" in told:
            tab.call("resume", tab.stored)
            self.watch(tab, lambda told: "Epoch" in told or "Finished" in told)
            tab.call("stop")
        self.delete(tab)

    def by_class(self, tab: Tab) -> None:
        files = tab.upload(*self.pool.classes)
        galleries = [[{"image": file, "caption": None} for file in part] for part in (files[:4], files[4:])]
        tab.call("check_files", "a", "b", *[""] * 10, *galleries, *[[] for _ in range(10)])
        self.tally.made.append(tab.session)
        tab.call("export")
        tab.call("begin", tab.stored, BASE, "head")
        self.delete(tab)

    def junk(self, tab: Tab) -> None:
        (junk,) = tab.upload(self.pool.junk)
        for name, values in (
            ("answer", [junk]),
            ("choose", ["../../etc"]),
            ("choose", [EVIL]),
            ("check_zip", [junk]),
            ("check_files", []),
        ):
            try:
                tab.call(name, *values)
                raise UnexpectedError(f"{name} took {values}")
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
            reply = tab.http.post(f"{API}/{path}", content=sent)
            if reply.status_code not in statuses:
                raise UnexpectedError(f"{path}: {reply.status_code} {reply.text[:200]}")
            self.tally.refused[f"{path}: {reply.status_code}"] += 1
        for path in ("/etc/passwd", "../../etc/passwd", "http://127.0.0.1/"):
            reply = tab.http.get(f"{API}/file={path}")
            if reply.status_code not in (403, 404):
                raise UnexpectedError(f"file={path}: {reply.status_code}")
            self.tally.refused[f"file: {reply.status_code}"] += 1

    def go_midway(self, tab: Tab) -> None:
        """The tab is closed while an answer is on its way: of the model, or of the data."""
        if self.chance.random() < 0.5:
            tab.ask("answer", *tab.upload(self.chance.choice(self.pool.photos)))
        else:
            self.begin(tab, "head")
            tab.ask("watch")
        with tab.http.stream("GET", f"{API}/queue/data", params={"session_hash": tab.session}) as stream:
            next(stream.iter_raw(1), None)
            self.tally.seconds["left midway"].append(0)
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
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody is there: the Hub is away for the whole day
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
    for parent, _, files in os.walk(folder):  # which minds no folder that goes meanwhile
        for file in files:
            with suppress(OSError):
                size += Path(parent, file).lstat().st_blocks * 512
    return size / 2**20


def sample(app: psutil.Process, folder: Path, start: float, tally: Tally) -> Sample:
    held, living = 0, 0
    for child in app.children(recursive=True):
        with suppress(psutil.Error):
            held, living = held + child.memory_info().rss, living + 1
    runs = [_size(run) for run in (folder / "runs").glob("*/")]
    excess = len(runs) - len(tally.made) + len(tally.deleted)
    sizes = [sum(runs), len(runs), max(runs, default=0.0), excess, _size(folder / "uploads")]
    minutes = (time.monotonic() - start) / 60
    memory = app.memory_info().rss / 2**20
    return Sample(minutes, memory, held / 2**20, app.num_fds(), app.num_threads(), living, *sizes)


def verdict(samples: list[Sample], warm: float, visitors: int) -> tuple[list[str], list[str]]:
    """The table's rows, and what has risen: medians of a tenth of the time each, since workers come and go."""
    rest = [one for one in samples if one.minutes >= warm]
    tenth = max(1, len(rest) // 10)
    middle = len(rest) // 2 - tenth // 2
    spans = [rest[:tenth], rest[middle : middle + tenth], rest[-tenth:]]
    rows, risen = [], []
    for name, unit, slack in (
        *(("memory", "MB", 0), ("workers", "MB", None), ("files", "", 8), ("threads", "", 4)),
        *(("children", "", 1), ("runs", "MB", None), ("kept", "", None)),
        *(("largest", "MB", None), ("excess", "", None), ("uploads", "MB", None)),
    ):
        first, half, last = (statistics.median(getattr(one, name) for one in span) for span in spans)
        slope = np.polyfit([one.minutes for one in rest], [getattr(one, name) for one in rest], 1)[0] * 60
        most = max(getattr(one, name) for one in rest)
        cells = (first, half, last, most, slope)
        rows.append(f"| {name}{f', {unit}' if unit else ''} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
        if slack is not None and last > first * (1 + GROWTH) + slack:
            risen.append(f"{name} rose from {first:.1f} to {last:.1f} {unit}".strip())
    if (most := max(one.kept for one in samples)) > MAX_KEPT:
        risen.append(f"{most} runs are kept, of at most {MAX_KEPT}")
    if (size := max(one.largest for one in samples)) > RUN:
        risen.append(f"a run has {size:.1f} MB, of at most {RUN}")
    if (most := max(one.excess for one in samples)) > visitors:
        risen.append(f"{most} runs more than visitors have made and not deleted")
    return rows, risen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--every", type=float, default=15, metavar="SECONDS", help="between two looks at the app")
    parser.add_argument("--warm", type=float, metavar="MINUTES", help="of warm-up; else a sixth of the time")
    parser.add_argument("--log", type=Path, help="what the app wrote goes here at the end")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended before its time."))  # and the app with it
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
        said = (folder / "log").read_text()
    if arguments.log:
        arguments.log.write_text(said)
    show(samples, fresh, gone, warm, tally, said, arguments.visitors)


def show(
    samples: list[Sample], fresh: Sample, gone: Sample, warm: float, tally: Tally, said: str, visitors: int
) -> None:
    rows, wrong = verdict(samples, warm, visitors)
    print(f"\n### {samples[-1].minutes:.0f} minutes, the first {warm:.0f} of them warm-up\n")
    print("| | warm-up's end | middle | end | most | slope per hour |\n|---|---:|---:|---:|---:|---:|")
    print("\n".join(rows))
    print(f"\nBefore the first visitor: {fresh}\nAfter the last one: {gone}")
    print("\n| asked | times | median | 95th percentile |\n|---|---:|---:|---:|")
    for kind, seconds in sorted(tally.seconds.items(), key=lambda item: -len(item[1])):
        late = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
        print(f"| {kind} | {len(seconds):,} | {statistics.median(seconds):.2f} s | {late:.2f} s |")
    print(f"\nRefused as expected: {sum(tally.refused.values()):,}")
    for what, times in tally.refused.most_common():
        print(f"  {times:,} x {what}")
    wrong += [f"{times} x {what}" for what, times in tally.errors.items()]
    if gone.children:
        wrong.append(f"{gone.children} processes are left")
    if "Traceback" in said:
        wrong.append(f"{said.count('Traceback')} tracebacks in the log")
    print("\n" + ("\n".join(f"WRONG: {one}" for one in wrong) or "Nothing grew, and no answer was wrong."))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
