"""The Predict tab: a photo in, its top classes and a heat map out."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.default_models import DefaultModels
from resnet_hub.demo.i18n import message, translate, translate_error
from resnet_hub.demo.models import Models
from resnet_hub.errors import ResNetHubError
from resnet_hub.images.load import load_image

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from resnet_hub.inference.classifier import Classifier, Prediction

TOP = 5
_HEAT_MAP_SIDE = 768  # pixels of the shorter side; a larger photo is decoded at a smaller size
_CONCURRENCY = 16  # photos of visitors at a time; those that wait are computed as one batch
EXAMPLES = sorted(Path(__file__).with_name("examples").glob("*.jpg"))
_VERDICTS = {"not sure": "not_sure", "none": "none_of_these"}  # messages
_BROWSER_FORMATS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


class PredictTab:
    """Handlers and components of the tab, over the models that all visitors share."""

    def __init__(self, models: Models, defaults: DefaultModels):
        self.models, self.defaults = models, defaults

    def answer(self, photo: dict[str, Any] | None, model: str, request: gr.Request) -> tuple[Any, ...]:
        """Scores, a status line, the heat map of the top class, and the photo if a browser cannot show its format."""
        if photo is None:
            return None, "", None, gr.skip()
        try:
            classifier, image, top, maps, seconds = self._classify(photo, model, TOP)
        except ResNetHubError as error:
            return None, markup.render_error(error, request), None, gr.skip()
        device = f"{classifier.device.type.upper()} ({classifier.engine}, {classifier.precision})"
        title = self._get_title(model, request)
        verdict = translate(request, _VERDICTS[top.verdict]) if top.verdict in _VERDICTS else ""
        line = translate(request, "took", time=f"{seconds * 1000:.0f} ms", device=device, model=title)
        scores = {entry["label"]: entry["score"] for entry in top}
        shown = gr.skip() if Path(photo["path"]).suffix.lower() in _BROWSER_FORMATS else image
        heat_map = _draw_heat_map(classifier, image, top[0]["label"], request, maps)
        return scores, markup.render_text(f"{verdict} {line}".strip(), "status"), heat_map, shown

    def example(self, model: str, request: gr.Request, chosen: gr.SelectData) -> tuple[Any, ...]:
        """The answer for one of the examples, and that example as the photo."""
        path = EXAMPLES[chosen.index]
        scores, line, heat_map, _ = self.answer({"path": str(path), "orig_name": path.name}, model, request)
        return scores, line, heat_map, str(path)

    def why(self, photo: dict[str, Any] | None, model: str, request: gr.Request, chosen: gr.SelectData) -> Any:
        """The heat map of the class that the visitor chose."""
        if photo is None:
            return None
        try:
            image = load_image(photo["path"], name=photo["orig_name"], near=_HEAT_MAP_SIDE)
            return _draw_heat_map(self.models.get(model), image, chosen.value, request)
        except (ResNetHubError, ValueError):  # the model was changed meanwhile; its answer brings another heat map
            return gr.skip()

    def choose(self, name: str | None, current: str, request: gr.Request) -> tuple[Any, ...]:
        """The chosen model and its facts, or an error and the model from before."""
        name = str(name or "").strip()
        try:
            classifier = self.models.get(name)
        except ResNetHubError as error:
            still_using = translate(request, "kept", model=self._get_title(current, request)) if current else ""
            alert = markup.render_text(f"{translate_error(request, error)} {still_using}", "alert")
            return current, current, alert, gr.skip(), gr.skip()
        url = f"https://huggingface.co/{name}" if isinstance(self.models.source(name), str) else None
        card = classifier.model.card or translate(request, "no_card")  # shown as plain text: strangers wrote it
        return name, name, "", markup.render_model(classifier.config, url, request), card

    def open(self, name: str, current: str, request: gr.Request) -> tuple[Any, ...]:
        """The default model for a visitor who has just opened the page, with its facts, as `choose`."""
        if (name or "") == self.defaults.embedded:  # else the visitor has chosen one while the page loaded
            name = self.defaults.get("predict")
        if not name:
            return tuple(gr.skip() for _ in self.choosing["outputs"])
        current, _, *shown = self.choose(name, current, request)
        return current, gr.update(choices=self.list_choices(current, request), value=current), *shown

    def suggest(self, current: str, request: gr.Request, typed: gr.KeyUpData) -> Any:
        """The models of the page, and models on the Hub whose names match what is typed."""
        matches = self.models.search(typed.input_value.strip())
        return gr.update(choices=self.list_choices(current, request, *matches))

    def list_choices(self, current: str, request: gr.Request, *others: str) -> list[tuple[str, str]]:
        """Titles and values for the picker. `current` is among them if it is a run of the visitor."""
        own_runs = [current] if self.models.title(current) else []
        names = dict.fromkeys([*self.models.names(), *own_runs, *others])
        return [(self._get_title(name, request), name) for name in names]

    def _get_title(self, model: str, request: gr.Request) -> str:
        """The model's name to show. The id of a visitor's run is a secret that no screenshot must show."""
        title = self.models.title(model)
        return model if title is None else translate(request, "my_model", title=title)

    def predict(self, image: dict[str, Any] | None, model: str = "", top_k: float = TOP) -> list[dict[str, Any]]:
        """Classify an image with a ResNet: its most likely labels with their scores, best first.

        Args:
            image: The image to classify.
            model: A model of the page's list, or the id of one on the Hugging Face Hub, such as user/name; by default
                the model that new visitors get.
            top_k: How many labels to return, from 1 to 1000.
        """
        try:
            if not image:
                raise gr.Error("There is no image; send one.", print_exception=False)
            if top_k not in range(1, 1001):
                raise gr.Error(f"top_k is {top_k!r:.50}; send a whole number from 1 to 1000.", print_exception=False)
            return self._classify(image, str(model or self.defaults.get("predict")), int(top_k))[2]
        except ResNetHubError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def _classify(
        self, photo: dict[str, Any], model: str, top_k: int
    ) -> "tuple[Classifier, Image.Image, Prediction, Tensor, float]":
        """The classifier, the upright image, its top classes, its last feature maps, and the seconds that this took."""
        classifier = self.models.get(model)
        start = time.perf_counter()
        side = max(_HEAT_MAP_SIDE, classifier.decode_size or 0)
        image = load_image(photo["path"], name=photo["orig_name"], near=side)
        top, maps = classifier.predict_with_maps(image, top_k)
        return classifier, image, top, maps, time.perf_counter() - start

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self, page: gr.Blocks) -> None:
        """Add the tab to the page that is being built."""
        self._render_photo()
        self._render_model(self.defaults.embedded)
        self._connect(page)
        with gr.Row(visible=False):  # an endpoint for programs takes its inputs from components
            gr.Button().click(
                self.predict,
                # With an initial value, programs may leave an input out.
                [gr.Image(label="image"), gr.Textbox("", label="model"), gr.Number(TOP, label="top_k")],
                gr.JSON(label="classes"),
                api_name="predict",
                preprocess=False,
                concurrency_limit=_CONCURRENCY,
                concurrency_id="endpoint",  # a program that waits for a download keeps no visitor waiting
            )

    def _render_photo(self) -> None:
        image: dict[str, Any] = {"buttons": ["fullscreen"], "height": 340}
        with gr.Row():
            with gr.Column(min_width=300):
                self._photo = gr.Image(
                    label=message("photo"),
                    placeholder=message("photo_hint"),
                    sources=["upload", "clipboard", "webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_id="photo",
                    **image,
                )
                self._button = gr.Button(message("classify"))
            with gr.Column(min_width=300):
                self._classes = gr.Label(label=message("classes"), num_top_classes=TOP, elem_id="classes")
                self._line = gr.HTML(markup.render_text("", "status"), elem_id="line")
            with gr.Column(min_width=300):
                self._heat_map = gr.Image(
                    label=message("heat"), alt_text=message("heat_alt"), interactive=False, elem_id="why", **image
                )
                gr.HTML(message("heat_hint"), elem_id="hint")
        self._examples = gr.Gallery(
            [(path, path.stem.replace("-", " ")) for path in EXAMPLES],
            label=message("examples"),
            columns=len(EXAMPLES),
            height="auto",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="examples",
        )

    def _render_model(self, default: str) -> None:
        self._current = gr.State(default)
        with gr.Row():
            with gr.Column(min_width=300):
                self.picker = gr.Dropdown(
                    list(self.models.names()),
                    value=default,
                    allow_custom_value=True,
                    label=message("model"),
                    info=message("model_info"),
                    elem_id="model",
                )
                self._notice = gr.HTML(elem_id="notice")
            with gr.Column(min_width=300, scale=2):
                self._facts = gr.HTML(elem_id="facts")
                with gr.Accordion(message("card"), open=False):
                    self._card = gr.Textbox(
                        label=message("card"), show_label=False, interactive=False, lines=4, max_lines=20
                    )

    def _connect(self, page: gr.Blocks) -> None:
        private: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last"}
        # Without Gradio's preprocessing the file arrives unchanged, and every image is read by load_image.
        predicting = private | {"preprocess": False, "concurrency_limit": _CONCURRENCY, "concurrency_id": "predict"}
        loading = private | {"concurrency_limit": 4, "concurrency_id": "load"}
        photo, current, picker = self._photo, self._current, self.picker
        shown: dict[str, Any] = {
            "outputs": [self._classes, self._line, self._heat_map, photo],
            "show_progress_on": [self._classes],
        }
        self.answering: dict[str, Any] = {"fn": self.answer, "inputs": [photo, current]} | shown | predicting
        self.choosing: dict[str, Any] = {
            "fn": self.choose,
            "inputs": [picker, current],
            "outputs": [current, picker, self._notice, self._facts, self._card],
            "show_progress_on": [self._notice],
        }
        self.choosing |= loading
        gr.on([photo.input, self._button.click], **self.answering)
        self._examples.select(self.example, current, **shown | predicting)
        self._classes.select(self.why, [photo, current], self._heat_map, show_progress="minimal", **predicting)
        picker.input(**self.choosing).success(**self.answering)
        page.load(**self.choosing | {"fn": self.open})
        picker.key_up(self.suggest, current, picker, show_progress="hidden", **loading | {"concurrency_id": "suggest"})


def _draw_heat_map(
    classifier: "Classifier", image: "Image.Image", label: str, request: gr.Request, maps: "Tensor | None" = None
) -> Any:
    from resnet_hub.inference.gradcam import overlay_heat_map

    overlay = overlay_heat_map(classifier, image, classifier.config.labels.index(label), feature_maps=maps)
    return gr.update(value=overlay, label=translate(request, "heat_of", label=markup.shorten_label(label)))
