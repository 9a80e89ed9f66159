"""Several photos at once on the Predict tab: a gallery of their labels, and a table of them to download.

Only the uploads are stored, whose paths only the visitor's page has.
"""

import io
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.i18n import PageError, message, translate_error
from resnet_hub.demo.predict_tab import prediction_markup
from resnet_hub.demo.predict_tab.model_picker import ModelPicker
from resnet_hub.errors import ImageError, ResNetHubError, format_bytes
from resnet_hub.images.load import SUFFIXES

if TYPE_CHECKING:
    from resnet_hub.inference.classifier import Prediction

MAX_PHOTOS, MAX_TOTAL_BYTES = 100, 250 * 10**6
_TOP = 5  # labels of a photo in the table
_BATCH = 8  # photos that the model computes at once; other visitors wait for no more
_THUMBNAIL_SIDE = 192
_ON_LOAD = f"resnetHub.limits = {{ photos: {MAX_PHOTOS}, bytes: {MAX_TOTAL_BYTES} }}; resnetHub.tap(element, trigger);"

Result = tuple[str, "Prediction | ImageError"]  # the name of a photo, and its labels or the error


class SeveralPhotos:
    """Handlers and components: a button, and a panel that appears with the first photos."""

    def __init__(self, picker: ModelPicker):
        self.picker = picker

    def classify_several(
        self, photos: list[dict[str, Any]] | None, model: str, request: gr.Request
    ) -> Iterator[tuple[str, str]]:
        """The gallery, which grows, and above it the progress; at the end the table."""
        gallery = ""
        results: list[Result] = []
        start = time.perf_counter()
        try:
            if not photos:
                yield "", ""
                return
            _check_size(photos)
            classifier = self.picker.models.get(model)
            stream = classifier(iter([photo["path"] for photo in photos]), _TOP, _BATCH, errors="return")
            for photo, result in zip(photos, stream, strict=True):
                if len(results) % _BATCH == 0:
                    yield gallery, markup.render("several.html", request, done=len(results), total=len(photos))
                gallery += _render_frame(photo, result, len(results), request)
                results.append((photo["orig_name"], result))
        except (ResNetHubError, OSError) as error:
            yield gallery, markup.render_error(error, request)
            return
        yield (
            gallery,
            markup.render(
                "several.html",
                request,
                done=len(results),
                total=len(results),
                bad=sum(isinstance(result, ImageError) for _, result in results),
                seconds=f"{time.perf_counter() - start:.1f}",
                model=self.picker.get_title(model, request),
                table=_encode_table(results, min(_TOP, classifier.config.num_classes)),
            ),
        )

    def refuse(self, request: gr.Request) -> tuple[str, str]:
        """The message for photos that the page does not send."""
        return "", markup.render_error(_create_size_error(), request)

    def open_photo(self, photos: list[dict[str, Any]] | None, chosen: gr.SelectData) -> Any:
        """The photo that was tapped in the gallery."""
        if not photos or chosen.index not in range(len(photos)):
            return gr.skip()
        return photos[chosen.index]["path"]

    # -- the page ------------------------------------------------------------------------------------------------------

    def render_button(self) -> None:
        """Add the button to the page that is being built."""
        self.button = gr.UploadButton(
            message("several_photos"),
            file_count="multiple",
            file_types=["image", *sorted(SUFFIXES)],  # a browser may not know the type of HEIC
            elem_id="several-photos",
        )

    def render_panel(self) -> None:
        """Add the panel to the page that is being built."""
        with gr.Column(elem_id="several-panel"):
            gr.HTML(message("several_head"), elem_classes="panel-head")
            gr.HTML(message("uploading"), elem_classes="hint uploading")
            self._summary = gr.HTML(elem_id="several-summary")
            self._gallery = gr.HTML(elem_id="several-gallery", elem_classes="film", js_on_load=_ON_LOAD)
            self._clear = gr.Button(message("several_clear"), elem_id="several-clear")
        self._refused = gr.Button(elem_id="several-refused", elem_classes="only-for-scripts")

    def connect(self, photo: gr.Image, classifying_one: dict[str, Any]) -> None:
        """Attach the handlers. A tapped photo becomes `photo`, and is classified as `classifying_one` says."""
        private: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last"}
        shown = [self._gallery, self._summary]
        self.classifying: dict[str, Any] = private | {
            "fn": self.classify_several,
            "inputs": [self.button, self.picker.current],
            "outputs": shown,
            "show_progress": "hidden",
            "show_progress_on": [self._summary],
            "preprocess": False,
            "concurrency_limit": 2,
            "concurrency_id": "several",
        }
        classified = self.button.upload(**self.classifying)
        # At a clearing no labels of a batch may follow.
        self._clear.click(lambda: (None, "", ""), None, [self.button, *shown], cancels=[classified], **private)
        self._refused.click(self.refuse, None, shown, **private)
        opening: dict[str, Any] = private | {"preprocess": False, "show_progress": "hidden"}
        opening["show_progress_on"] = [self._summary]
        self._gallery.select(self.open_photo, self.button, photo, **opening).success(**classifying_one)


def _create_size_error() -> PageError:
    return PageError("too_many_photos", photos=MAX_PHOTOS, size=format_bytes(MAX_TOTAL_BYTES))


def _check_size(photos: list[dict[str, Any]]) -> None:
    if len(photos) > MAX_PHOTOS or sum(Path(photo["path"]).stat().st_size for photo in photos) > MAX_TOTAL_BYTES:
        raise _create_size_error()


def _render_frame(photo: dict[str, Any], result: "Prediction | ImageError", index: int, request: gr.Request) -> str:
    values: dict[str, Any] = {"file": photo["orig_name"], "index": index}
    if isinstance(result, ImageError):
        return markup.render("several_frame.html", request, error=translate_error(request, result), **values)
    source = markup.encode_jpeg(markup.load_thumbnail(photo["path"], _THUMBNAIL_SIDE))
    values |= {"source": source, "score": f"{result[0]['score']:.0%}"}
    label = prediction_markup.name_label(result[0]["label"], request)
    verdict = prediction_markup.describe_verdict(result.verdict, request)
    return markup.render("several_frame.html", request, error="", label=label, verdict=verdict, **values)


def _encode_table(results: list[Result], top_k: int) -> str:
    """The table as the address of a link."""
    from resnet_hub.inference.prediction_table import write_csv

    file = io.StringIO()
    write_csv(file, results, top_k)
    # A spreadsheet takes the file for UTF-8 by its first bytes only.
    return f"data:text/csv;charset=utf-8;base64,{b64encode(file.getvalue().encode('utf-8-sig')).decode()}"
