"""The first step of the Train tab: photos by class, a ZIP file or a dataset on the Hub become the data of a run."""

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from resnet_hub.datasets.report import DatasetReport
from resnet_hub.demo import corrections, markup
from resnet_hub.demo.i18n import PageError, message, translate_error
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.train_tab import run_markup
from resnet_hub.demo.train_tab.tab_state import SLOW, TabState, Updates, hide
from resnet_hub.demo.visitor import get_address
from resnet_hub.errors import ResNetHubError
from resnet_hub.images.load import SUFFIXES

CAMERA_SCRIPT = Path(__file__).with_name("camera.js").read_text(encoding="utf-8")
MAX_CLASSES = 12  # of photos by class; a ZIP file may have any number
HUB_FIELDS = ("subset", "train_split", "image_column", "label_column")  # of TrainConfig: what to read of a dataset


class DataStep:
    """Handlers and components of the step."""

    def __init__(self, scheduler: Scheduler, state: TabState):
        self.scheduler, self.runs, self.state = scheduler, scheduler.runs, state

    def check_files(self, run_id: str, request: gr.Request, *classes: Any) -> Updates:
        """Create a run from photos by class: `classes` are all names, followed by all lists of photos."""
        names, galleries = classes[:MAX_CLASSES], classes[MAX_CLASSES:]

        def import_photos(run: PageRun) -> DatasetReport:
            photos: dict[str, list[Path]] = {}
            for name, gallery in zip(names, galleries, strict=True):
                label, files = str(name or "").strip(), [Path(path) for path, _ in gallery or [] if path]
                if not files:
                    continue
                if not label:
                    raise PageError("unnamed")
                if label in photos:
                    raise PageError("twice", name=label)
                photos[label] = files
            if len(photos) < 2:
                raise PageError("no_data")
            return run.import_photos(photos)

        return self._check(run_id, request, import_photos)

    def check_zip(self, run_id: str, path: str | None, request: gr.Request) -> Updates:
        """Create a run from a ZIP file of class folders."""

        def import_zip(run: PageRun) -> DatasetReport:
            if not path:
                raise PageError("no_zip")
            return run.import_zip(path, Path(path).name)

        return self._check(run_id, request, import_zip)

    def check_hub(self, run_id: str, name: str, request: gr.Request, *fields: str | None) -> Updates:
        """Create a run from a dataset on the Hub. `fields` are the values of `HUB_FIELDS`."""
        values = {field: str(value or "") for field, value in zip(HUB_FIELDS, fields, strict=True)}
        return self._check(run_id, request, lambda run: run.import_hub_dataset(str(name), **values))

    def correct(self, run_id: str, request: gr.Request, chosen: gr.SelectData) -> Updates:
        """Create a run from the data of this one with the correction of the button that was pressed."""
        fixes = corrections.read_fix(chosen.value)
        return self._check(run_id, request, lambda run: run.import_corrected(self.runs.require(run_id), fixes))

    def _check(self, run_id: str, request: gr.Request, import_data: Callable[[PageRun], DatasetReport]) -> Updates:
        """Create a run, import its data and show the report. The previous run is deleted if it was never started."""
        old, new = self.runs.find(run_id), None
        try:
            if old and self.scheduler.get_status(old).is_active:
                raise PageError("one_run")
            new = self.runs.create(get_address(request.request.scope) if request.request else "")
            report = import_data(new)
            updates = {self.state.run: new.id, self.state.checked: new.id} | self.show_report(report, new, request)
        except Exception as error:
            if new:
                self.scheduler.delete(new)
            return {self.state.checked: ""} | self.clear(markup.render_error(error, request))
        if old and self.scheduler.get_status(old).state == "new":
            self.scheduler.delete(old)
        return updates

    def show_report(self, report: DatasetReport, run: PageRun, request: gr.Request) -> Updates:
        """The report, with the buttons to continue and to download the report and the dataset."""

        def write_report() -> Path:
            path = run.folder / "data-report.json"
            path.write_text(report.to_json(), encoding="utf-8")
            return path

        return {
            self.report: run_markup.render_report(report, request),
            self.duplicates: corrections.render_duplicates(run, request),
            self.report_file: gr.update(value=str(self.runs.files.publish(run, write_report))),
            self.continue_button: gr.update(visible=True),
            self.downloads: gr.update(visible=True),
            self.dataset_file: gr.update(visible=False),
        }

    def clear(self, html: str = "") -> Updates:
        """Show `html`, such as an error, instead of the report."""
        return {self.report: html, self.duplicates: ""} | hide(self.continue_button, self.downloads, self.dataset_file)

    def show_trained(self, run: PageRun | None, progress: str, has_model: bool, request: gr.Request) -> Updates:
        """Beside the classes: the progress of the run, then its model with a camera to try it."""
        return {
            self.trained_panel: gr.update(visible=run is not None),
            self.trained: markup.render("preview.html", request, run=run) if has_model else progress,
            self.try_button: gr.update(visible=has_model),
            self.result_button: gr.update(visible=has_model),
            self.charts_button: gr.update(visible=not has_model),
        }

    def export(self, run_id: str, request: gr.Request) -> Updates:
        """The dataset as a ZIP file of class folders. The image files are unchanged."""
        try:
            run = self.runs.require(run_id)
            path = self.runs.files.publish(run, run.export_dataset)
        except (ResNetHubError, OSError) as error:
            raise gr.Error(escape(translate_error(request, error)), print_exception=False) from None
        return {self.dataset_file: gr.update(value=str(path), visible=True)}

    # -- the page ------------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[Any]:
        """The components that a check may change, beside the run id."""
        shown = [self.report, self.duplicates, self.continue_button, self.downloads, self.report_file]
        return [*shown, self.dataset_file, self.zip_file]

    @property
    def trained_outputs(self) -> list[Any]:
        """The components that `show_trained` may change."""
        return [self.trained_panel, self.trained, self.try_button, self.result_button, self.charts_button]

    def render(self) -> None:
        """Add the step to the page that is being built."""
        with gr.Tabs():
            with gr.Tab(message("by_class")):
                gr.HTML(message("by_class_hint"), elem_classes="hint")
                with gr.Row(elem_id="class-columns"):
                    with gr.Column(scale=3, min_width=280):
                        names, galleries = self._render_classes()
                        with gr.Row():
                            check_files = gr.Button(message("check"))
                            self.train_button = gr.Button(message("train_now"), variant="primary", elem_id="train-now")
                        gr.HTML(message("train_now_hint"), elem_classes="hint")
                    with gr.Column(
                        scale=2, min_width=280, visible=False, elem_id="trained-panel"
                    ) as self.trained_panel:
                        self.trained = gr.HTML(elem_id="trained")
                        self.try_button = gr.Button(message("try_it"), variant="primary", visible=False)
                        self.result_button = gr.Button(message("to_result"), visible=False)
                        self.charts_button = gr.Button(message("charts_and_stop"), visible=False)
            with gr.Tab(message("zip")):
                gr.HTML(message("zip_hint"), elem_classes="hint")
                self.zip_file = gr.File(label=message("zip_file"), file_types=[".zip"], height=140, elem_id="zip")
                check_zip = gr.Button(message("check"), variant="primary", elem_id="check-zip")
            with gr.Tab(message("hub_tab")):
                fields = [self._create_text_field("hub_data", placeholder="user/name")]
                with gr.Accordion(message("hub_names"), open=False, elem_id="hub-names"), gr.Row():
                    fields += map(self._create_text_field, HUB_FIELDS)
                check_hub = gr.Button(message("check"), variant="primary", elem_id="check-hub")
        self._checks: list[tuple[gr.Button, Callable[..., Updates], list[Any]]] = [
            (check_files, self.check_files, [*names, *galleries]),
            (check_zip, self.check_zip, [self.zip_file]),
            (check_hub, self.check_hub, fields),
        ]
        with gr.Column(elem_id="report-panel"):
            self.report = gr.HTML(elem_id="report")
            self.duplicates = gr.HTML(elem_id="duplicates", elem_classes="film", js_on_load=corrections.SCRIPT)
            self.continue_button = gr.Button(message("continue"), variant="primary", visible=False)
            with gr.Row(visible=False) as self.downloads:
                small: dict[str, Any] = {"size": "sm"}
                self._export_button = gr.Button(message("export_data"), **small)
                self.dataset_file = gr.DownloadButton(
                    message("download_data"), visible=False, elem_id="data-file", **small
                )
                self.report_file = gr.DownloadButton(message("download_report"), elem_id="report-file", **small)

    def connect(self) -> None:
        """Attach the handlers, once all components of the tab exist."""
        data = SLOW | {"concurrency_id": "data", "concurrency_limit": 2}  # the lowest limit of an id counts
        outputs = [self.state.run, self.state.checked, *self.outputs]
        for button, check, inputs in self._checks:
            button.click(check, [self.state.run, *inputs], outputs, show_progress_on=[self.report], **data)
        _, check_files, photos = self._checks[0]
        options: dict[str, Any] = {"show_progress_on": [self.report], "api_name": "check_files_to_train"} | data
        self.training_now = self.train_button.click(check_files, [self.state.run, *photos], outputs, **options)
        self._export_button.click(self.export, self.state.run, self.dataset_file, **data)

    def _create_text_field(self, name: str, **options: Any) -> gr.Textbox:
        return gr.Textbox(label=message(name), info=message(f"{name}_info"), max_length=200, **options)

    def _render_classes(self) -> tuple[list[gr.Textbox], list[gr.Gallery]]:
        """Columns for the photos of one class each; the first two are visible, and a button shows one more."""
        names, galleries, columns, remove_buttons = [], [], [], []
        is_visible = gr.State([True, True] + [False] * (MAX_CLASSES - 2))
        gallery: dict[str, Any] = {"sources": ["upload", "webcam", "clipboard"], "object_fit": "cover", "buttons": []}
        gallery |= {"file_types": ["image", *sorted(SUFFIXES)], "columns": 5, "fit_columns": False}
        gr.HTML("", js_on_load=CAMERA_SCRIPT, elem_id="camera-script")
        gr.HTML(message("no_camera"), elem_id="no-camera")
        with gr.Row(elem_id="own-classes"):
            for number in range(MAX_CLASSES):
                with gr.Column(min_width=280, visible=number < 2, elem_classes="class-card") as column:
                    names.append(gr.Textbox(label=message("class_name"), max_length=60))
                    gr.Button(message("record"), elem_classes="record")
                    galleries.append(gr.Gallery(label=message("class_photos"), allow_preview=False, **gallery))
                    remove_buttons.append(gr.Button(message("remove_class"), size="sm"))
                columns.append(column)
        add_button = gr.Button(message("add_class"), size="sm")

        def show(visible: list[bool]) -> list[Any]:
            return [visible, *(gr.update(visible=value) for value in visible)]

        def add(visible: list[bool]) -> list[Any]:
            free = visible.index(False) if False in visible else -1
            return show([value or index == free for index, value in enumerate(visible)])

        def remove(removed: int, visible: list[bool]) -> list[Any]:
            return [*show([value and index != removed for index, value in enumerate(visible)]), "", []]

        add_button.click(add, is_visible, [is_visible, *columns], **self.state.quick)
        for index, (button, *emptied) in enumerate(zip(remove_buttons, names, galleries, strict=True)):
            button.click(partial(remove, index), is_visible, [is_visible, *columns, *emptied], **self.state.quick)
        return names, galleries
