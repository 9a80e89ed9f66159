"""A visitor's run: its folder, facts and log, its dataset, and the files to download. Imports no gradio."""

import json
import math
import re
import shutil
import time
import zipfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from resnet_hub.atomic import write_atomic
from resnet_hub.datasets.dataset import ImageDataset, Splits
from resnet_hub.datasets.export import export_dataset
from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.remote import HUB_PREFIX
from resnet_hub.datasets.report import DatasetReport, create_report
from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.space import choose_hub_token, is_space
from resnet_hub.errors import TooLargeError, format_bytes
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Event, event_to_json
from resnet_hub.training.run_dir import RunDir

MAX_DATASET_IMAGES = 20_000  # of a dataset
MAX_DATASET_BYTES = 2 * 10**9  # of a dataset, as a ZIP file or on the Hub
MAX_CHECK = 600.0  # seconds that the check of a dataset may take on a Space
FREE_BYTES = 2 * 10**9  # that stay free on the disk

_LABELS_IN_TITLE = 4
_TAIL = 16_384  # bytes at the end of the log; the last status event is in them
# Events that say where a run stands. All others are in the history file too.
_STATUS_EVENTS = {"Started", "Preparing", "Progress", "TimeUp", "Finished", "Stopped", "Waiting", "Failed"}


class Waiting(NamedTuple):
    """An event: training waits because no GPU is available; the training state is saved."""

    reason: str
    seconds_left: int | None  # of the visitor's GPU quota, where the platform reports it


@dataclass(frozen=True)
class PageRun:
    """The folder of one run: the dataset, `page.json` with facts, the worker's log and, in `run`, the run directory.

    The worker starts in this folder and gets relative paths only, so that neither paths of this machine nor the id get
    into the model card.
    """

    id: str
    folder: Path

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.folder / "run")

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    def read_facts(self) -> dict[str, Any]:
        """`data`, `title` and `names` of the dataset; the visitor's `name`; `config`; and the progress so far."""
        return _read_json(self.folder / "page.json") or {}

    @property
    def title(self) -> str:
        """The name that the visitor gave the run, or that of its data."""
        facts = self.read_facts()
        return str(facts.get("name") or facts.get("title", ""))

    def get_file_name(self) -> str:
        """The title as the beginning of a file's name."""
        return re.sub(r"[^\w.-]+", "-", self.title)[:60].strip("-.") or "photos"

    def update_facts(self, **facts: Any) -> None:
        write_atomic(self.folder / "page.json", json.dumps(self.read_facts() | facts))

    def log_event(self, event: Event | Waiting) -> None:
        """Append an event that the worker does not report itself."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(event_to_json(event) + "\n")

    def read_last_event(self) -> dict[str, Any] | None:
        """The last status event in the log, as the worker writes it."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - _TAIL))
                lines = log.read().splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            with suppress(ValueError, TypeError, KeyError):
                event: dict[str, Any] = json.loads(line)
                if event["event"] in _STATUS_EVENTS:
                    return event
        return None

    def last_event_name(self) -> str:
        event = self.read_last_event()
        return str(event["event"]) if event else ""

    def read_report(self) -> DatasetReport | None:
        """The report that the page shows, with the names that the photos were uploaded under."""
        return _read_report(self.folder / "report.json")

    def read_stored_report(self) -> DatasetReport | None:
        """The report with the names that the images have in `load_dataset`."""
        return _read_report(self.run_dir.report)

    def read_evaluation(self) -> dict[str, Any] | None:
        """The metrics of the finished model, as `Evaluation.to_dict` returns them."""
        return _read_json(self.run_dir.evaluation)

    # -- its dataset ---------------------------------------------------------------------------------------------------

    def load_dataset(self) -> Splits:
        facts = self.read_facts()
        source = facts["data"]
        if source.startswith(HUB_PREFIX):
            config = TrainConfig(data=source, run="run", **facts.get("names", {}))
            return load_dataset(source, **config.data_names, token=choose_hub_token(), max_bytes=MAX_DATASET_BYTES)
        return load_dataset(self.folder / source)

    def load_readable_dataset(self) -> Splits:
        """The dataset without the images that the report lists as unreadable."""
        report = self.read_stored_report()
        return report.drop_unreadable(self.load_dataset()) if report else self.load_dataset()

    def load_validation_images(self) -> ImageDataset:
        """The images that the epochs are compared on."""
        split = self.run_dir.read_split()
        return self.load_dataset()[split.validation_split].subset(split.validation)

    def load_evaluation_images(self) -> ImageDataset:
        """The images that the metrics of the finished model are computed on."""
        evaluated = self.run_dir.evaluation_split()
        return self.load_dataset()[evaluated.split].subset(evaluated.indices)

    def import_photos(self, classes: Mapping[str, Sequence[str | Path]]) -> DatasetReport:
        """Pack uploaded photos, by class, into the dataset of this run; raises as `_import` does."""
        files = [Path(path) for paths in classes.values() for path in paths]
        size = sum(path.stat().st_size for path in files)
        _check_size(len(files), size)
        check_free_space(self.folder, size)
        title = ", ".join(list(classes)[:_LABELS_IN_TITLE]) + (" …" if len(classes) > _LABELS_IN_TITLE else "")
        return self._import(load_dataset(classes), "photos.zip", title, pack=True)

    def import_zip(self, path: str | Path, name: str) -> DatasetReport:
        """Copy an uploaded ZIP file; raises as `_import` does."""
        size = Path(path).stat().st_size
        _check_size(0, size)
        check_free_space(self.folder, size)
        title = re.sub(r"[^\w.-]+", "-", Path(name).stem)[:60].strip("-.") or "photos"
        target = self.folder / f"{title}.zip"
        shutil.copyfile(path, target)
        return self._import(load_dataset(target), target.name, title)

    def import_corrected(self, other: "PageRun", corrections: Mapping[tuple[str, str], str | None]) -> DatasetReport:
        """Import the dataset of another run with corrections; raises as `_import` does.

        Args:
            other: The run.
            corrections: By split and name of an image its new class, or None to leave it out.
        """
        corrected = {}
        for split, images in other.load_readable_dataset().items():
            targets, kept = images.targets.copy(), []
            for index in range(len(images)):
                label = corrections.get((split, images.name(index)), images.labels[targets[index]])
                if label in images.labels:
                    targets[index] = images.labels.index(label)
                    kept.append(index)
            corrected[split] = replace(images, targets=targets).subset(kept)
        check_free_space(
            self.folder, sum(row.bytes for row in report.classes) if (report := other.read_report()) else 0
        )
        path = export_dataset(
            {split: images for split, images in corrected.items() if len(images)}, self.folder / "photos.zip"
        )
        return self._import(load_dataset(path), path.name, other.title)

    def import_hub_dataset(self, dataset_id: str, **names: str) -> DatasetReport:
        """Use a dataset of the Hub, pinned to its current commit; a private one for the local user only.

        Args:
            dataset_id: Such as `user/flowers`, or the address of its page.
            names: Fields of `TrainConfig` for the subset, the split and the columns; an empty one is detected.
        """
        name = dataset_id.strip().removeprefix(HUB_PREFIX).removeprefix("https://huggingface.co/datasets/")
        source = HUB_PREFIX + name.strip("/")
        chosen: dict[str, Any] = {field: value.strip() for field, value in names.items() if value.strip()}
        config = TrainConfig(data=source, run="run", **chosen)
        try:
            splits = load_dataset(source, **config.data_names, token=choose_hub_token(), max_bytes=MAX_DATASET_BYTES)
        except TooLargeError as error:
            raise PageError("hub_too_large", size=error.size, most=format_bytes(MAX_DATASET_BYTES)) from None
        return self._import(
            splits, source, source.removeprefix(HUB_PREFIX), names=chosen | {"data_revision": splits.commit}
        )

    def _import(
        self, splits: Any, source: str, title: str, *, pack: bool = False, names: Mapping[str, Any] | None = None
    ) -> DatasetReport:
        """Check a dataset and record it with its report; raises `DataError` if it cannot be trained on."""
        _check_size(sum(map(len, splits.values())), 0)
        start, limit = time.monotonic(), MAX_CHECK if is_space() else math.inf

        def check_time(done: int, total: int) -> None:
            if time.monotonic() - start > limit:
                raise PageError("check_too_long", minutes=f"{limit / 60:g}")

        report = create_report(splits, check_time)
        report.check()
        write_atomic(self.folder / "report.json", report.to_json())
        worker_report: DatasetReport | None = report
        if pack:
            left_out = set[tuple[str, str]]()
            export_dataset(splits, self.folder / source, lambda image: left_out.add((image.split, image.name)))
            worker_report = _rename_images(report, splits, load_dataset(self.folder / source), left_out)
        if worker_report:  # so that the worker does not check the images again
            self.run_dir.folder.mkdir(exist_ok=True)
            write_atomic(self.run_dir.report, worker_report.to_json())
        self.update_facts(data=source, title=title, names=names or {})
        return report

    # -- files made from it --------------------------------------------------------------------------------------------

    def export_dataset(self) -> Path:
        """Write the dataset as a ZIP file of class folders, without unreadable images."""
        report = self.read_report()
        check_free_space(self.folder, sum(row.bytes for row in report.classes) if report else 0)
        return export_dataset(self.load_readable_dataset(), self.folder / "export" / f"{self.get_file_name()}-data.zip")

    def pack_model(self, name: str) -> Path:
        """Write the checkpoint folder as a ZIP file."""
        target = self.folder / f"{name}-model.zip"
        paths = sorted(self.run_dir.model.rglob("*"))
        check_free_space(self.folder, sum(path.stat().st_size for path in paths))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # weights do not compress
            for path in paths:
                archive.write(path, Path(name, path.relative_to(self.run_dir.model)))
        return target

    def export_onnx(self, name: str) -> Path:
        """Write the model as an ONNX file, in float32."""
        from resnet_hub.inference.onnx_graph import build_onnx, fold_batchnorm
        from resnet_hub.model import ResNet

        check_free_space(self.folder, sum(path.stat().st_size for path in self.run_dir.model.rglob("*")))
        target = self.folder / f"{name}.onnx"
        write_atomic(target, build_onnx(fold_batchnorm(ResNet.from_pretrained(self.run_dir.model).eval())))
        return target

    def export_web_page(self, name: str) -> Path:
        """Write a web page that runs the model in the browser, as a ZIP file."""
        from resnet_hub.inference.web_export import export_web

        check_free_space(self.folder, sum(path.stat().st_size for path in self.run_dir.model.rglob("*")))
        return export_web(self.run_dir.model, self.folder / f"{name}-web.zip")


def configure(run: PageRun, base: str | Path | None, **choices: Any) -> TrainConfig:
    """The config of a run's worker, checked.

    Args:
        base: A Hub id, or a checkpoint folder, which is linked into the run's folder so that the config has no path of
            this machine; None trains from scratch.
        choices: Other fields of `TrainConfig`.
    """
    if isinstance(base, Path):
        link = run.folder / "weights" / base.name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)  # of an earlier choice: another folder of the same name
        link.symlink_to(base.resolve(), target_is_directory=True)
        base = f"weights/{base.name}"
    facts = run.read_facts()
    config = TrainConfig(data=facts["data"], run="run", base=base, **facts.get("names", {}), **choices)
    config.resolved()  # raises if the values do not fit together
    return config


def check_free_space(folder: Path, size: int = 0) -> None:
    """Raise if writing `size` bytes would leave less than `FREE_BYTES` on the disk."""
    if shutil.disk_usage(folder).free - size < FREE_BYTES:
        raise PageError("disk_full")


def _check_size(images: int, size: int) -> None:
    if images > MAX_DATASET_IMAGES or size > MAX_DATASET_BYTES:
        raise PageError("data_too_large", images=f"{MAX_DATASET_IMAGES:,}", size=format_bytes(MAX_DATASET_BYTES))


def _read_json(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    return None


def _read_report(path: Path) -> DatasetReport | None:
    return DatasetReport.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def _rename_images(
    report: DatasetReport, splits: Splits, packed: Splits, left_out: Collection[tuple[str, str]]
) -> DatasetReport | None:
    """The report with the names that the images have in the packed dataset; None if that has other images."""
    names = dict[tuple[str, str], str]()
    for split, images in splits.items():
        keys = [key for index in range(len(images)) if (key := (split, images.name(index))) not in left_out]
        if len(keys) != len(packed.get(split, ())):
            return None
        names |= {key: packed[split].name(index) for index, key in enumerate(keys)}
    return report.rename_images(names)
