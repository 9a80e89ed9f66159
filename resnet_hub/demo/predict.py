"""The Predict tab: a photo in, the top classes and what speaks for them out."""

import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.demo.i18n import message, translate, translate_error
from resnet_hub.demo.models import Models
from resnet_hub.errors import ResNetHubError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from resnet_hub.inference.classifier import Classifier

TOP = 5
_SHOWN = 768  # pixels of the shorter side that are enough for the heat map; a large photo is not decoded whole
_AT_ONCE = 16  # visitors' pictures; the network takes together those that wait
EXAMPLES = sorted(Path(__file__).with_name("examples").glob("*.jpg"))
_SHOWN_BY_BROWSERS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


class PredictTab:
    """The answers of the tab, over the models that all visitors share."""

    def __init__(self, models: Models):
        self.models = models

    def answer(self, photo: dict[str, Any] | None, model: str, request: gr.Request) -> tuple[Any, ...]:
        """Top classes, a line about them, the heat of the first, and the photo where a browser cannot show it."""
        if photo is None:
            return None, "", None, gr.skip()
        try:
            classifier, image, top, maps, seconds = self._classify(photo, model, TOP)
        except ResNetHubError as error:
            return None, alert(translate_error(request, error)), None, gr.skip()
        took = f"{seconds * 1000:.0f} ms"
        device = f"{classifier.device.type.upper()} ({classifier.engine}, {classifier.precision})"
        line = _status(translate(request, "took", time=took, device=device, model=self._called(model, request)))
        scores = {entry["label"]: entry["score"] for entry in top}
        shown = gr.skip() if Path(photo["path"]).suffix.lower() in _SHOWN_BY_BROWSERS else image
        return scores, line, _heat(classifier, image, top[0]["label"], request, maps), shown

    def example(self, model: str, request: gr.Request, chosen: gr.SelectData) -> tuple[Any, ...]:
        """The answer for one of the example pictures, and that picture as the photo."""
        path = EXAMPLES[chosen.index]
        scores, line, heat, _ = self.answer({"path": str(path), "orig_name": path.name}, model, request)
        return scores, line, heat, str(path)

    def why(self, photo: dict[str, Any] | None, model: str, request: gr.Request, chosen: gr.SelectData) -> Any:
        """The heat of the class that the visitor chose."""
        from resnet_hub.images.load import load_image

        if photo is None:
            return None
        try:
            image = load_image(photo["path"], name=photo["orig_name"], near=_SHOWN)
            return _heat(self.models.get(model), image, chosen.value, request)
        except (ResNetHubError, ValueError):  # the model changed meanwhile, and its answer brings its own heat
            return gr.skip()

    def choose(self, name: str | None, current: str, request: gr.Request) -> tuple[Any, ...]:
        """The model to use from now on and its facts, or a sentence and the model that the page had."""
        name = str(name or "").strip()
        try:
            classifier = self.models.get(name)
        except ResNetHubError as error:
            kept = translate(request, "kept", model=self._called(current, request)) if current else ""
            return current, current, alert(f"{translate_error(request, error)} {kept}"), gr.skip(), gr.skip()
        link = f"https://huggingface.co/{name}" if isinstance(self.models.source(name), str) else None
        card = classifier.model.card or translate(request, "no_card")  # stays plain text: it comes from strangers
        return name, name, "", _facts(classifier, link, request), card

    def suggest(self, current: str, request: gr.Request, typed: gr.KeyUpData) -> Any:
        """The shelf, and models of the Hub that match what is typed."""
        found = self.models.search(typed.input_value.strip())
        return gr.update(choices=self.choices(current, request, *found))

    def choices(self, own: str, request: gr.Request, *others: str) -> list[tuple[str, str]]:
        """Names and values of the picker; among them the visitor's own model, where `own` is one."""
        names = dict.fromkeys([*self.models.names(), *([own] if self.models.title(own) else []), *others])
        return [(self._called(name, request), name) for name in names]

    def _called(self, model: str, request: gr.Request) -> str:
        """What to call a model: the id of a visitor's own is a secret that no screenshot shall show."""
        title = self.models.title(model)
        return model if title is None else translate(request, "my_model", title=title)

    def predict(self, image: dict[str, Any] | None, model: str, top_k: float = TOP) -> list[dict[str, Any]]:
        """Classify an image with a ResNet: its most likely labels with their scores, best first.

        Args:
            image: The picture to classify.
            model: A model of the page's list, or the id of one on the Hugging Face Hub, such as user/name.
            top_k: How many labels to return, from 1 to 1000.
        """
        try:
            if not image:
                raise gr.Error("There is no image; send one.", print_exception=False)
            if top_k not in range(1, 1001):
                raise gr.Error(f"top_k is {top_k!r:.50}; send a whole number from 1 to 1000.", print_exception=False)
            return self._classify(image, str(model), int(top_k))[2]
        except ResNetHubError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def _classify(
        self, photo: dict[str, Any], model: str, top_k: int
    ) -> "tuple[Classifier, Image.Image, list, Tensor, float]":
        """The classifier, the upright picture, its top classes, its last maps, and the seconds that all took."""
        from resnet_hub.images.load import load_image

        classifier = self.models.get(model)
        start = time.perf_counter()
        image = load_image(photo["path"], name=photo["orig_name"], near=max(_SHOWN, classifier.decode_size or 0))
        top, maps = classifier.predict_with_maps(image, top_k)
        return classifier, image, top, maps, time.perf_counter() - start

    def render(self, page: gr.Blocks, default: str) -> None:
        """Add the tab to the page that is being built."""
        current = gr.State(default)
        with gr.Row():
            with gr.Column(min_width=300):
                photo = gr.Image(
                    label=message("photo"),
                    placeholder=message("photo_hint"),
                    sources=["upload", "clipboard", "webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False),
                    buttons=["fullscreen"],
                    height=340,
                    elem_id="photo",
                )
                button = gr.Button(message("classify"))
            with gr.Column(min_width=300):
                classes = gr.Label(label=message("classes"), num_top_classes=TOP, elem_id="classes")
                line = gr.HTML(_status(""), elem_id="line")
            with gr.Column(min_width=300):
                why = gr.Image(
                    label=message("heat"),
                    alt_text=message("heat_alt"),
                    interactive=False,
                    buttons=["fullscreen"],
                    height=340,
                    elem_id="why",
                )
                gr.HTML(message("heat_hint"), elem_id="hint")
        examples = gr.Gallery(
            [(path, path.stem.replace("-", " ")) for path in EXAMPLES],
            label=message("examples"),
            columns=len(EXAMPLES),
            height="auto",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="examples",
        )
        with gr.Row():
            with gr.Column(min_width=300):
                picker = gr.Dropdown(
                    list(self.models.names()),
                    value=default,
                    allow_custom_value=True,
                    label=message("model"),
                    info=message("model_info"),
                    elem_id="model",
                )
                notice = gr.HTML(elem_id="notice")
            with gr.Column(min_width=300, scale=2):
                facts = gr.HTML(elem_id="facts")
                with gr.Accordion(message("card"), open=False):
                    card = gr.Textbox(label=message("card"), show_label=False, interactive=False, lines=4, max_lines=20)

        self.picker = picker
        private: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last"}
        # Without Gradio's preprocessing the file arrives as it came, and every picture goes through load_image.
        predicting = private | {"preprocess": False, "concurrency_limit": _AT_ONCE, "concurrency_id": "predict"}
        loading = private | {"concurrency_limit": 4, "concurrency_id": "load"}
        outcome: dict[str, Any] = {"outputs": [classes, line, why, photo], "show_progress_on": [classes]}
        self.answering: dict[str, Any] = {"fn": self.answer, "inputs": [photo, current]} | outcome | predicting
        self.choosing: dict[str, Any] = {
            "fn": self.choose,
            "inputs": [picker, current],
            "outputs": [current, picker, notice, facts, card],
            "show_progress_on": [notice],
        }
        self.choosing |= loading

        gr.on([photo.input, button.click], **self.answering)
        examples.select(self.example, current, **outcome | predicting)
        classes.select(self.why, [photo, current], why, show_progress="minimal", **predicting)
        picker.input(**self.choosing).success(**self.answering)
        if default:
            page.load(**self.choosing)
        picker.key_up(self.suggest, current, picker, show_progress="hidden", **loading | {"concurrency_id": "suggest"})

        with gr.Row(visible=False):  # an endpoint for programs takes its inputs from components
            gr.Button().click(
                self.predict,
                [gr.Image(label="image"), gr.Textbox(default, label="model"), gr.Number(TOP, label="top_k")],
                gr.JSON(label="classes"),
                api_name="predict",
                preprocess=False,
                concurrency_limit=_AT_ONCE,
                concurrency_id="endpoint",  # a program that waits for a download keeps no visitor waiting
            )


def _heat(
    classifier: "Classifier", image: "Image.Image", label: str, request: gr.Request, maps: "Tensor | None" = None
) -> Any:
    from resnet_hub.inference.gradcam import overlay_heat_map

    picture = overlay_heat_map(classifier, image, classifier.config.labels.index(label), feature_maps=maps)
    return gr.update(value=picture, label=translate(request, "heat_of", label=_short(label)))


def _facts(classifier: "Classifier", link: str | None, request: gr.Request) -> str:
    config = classifier.config
    some = ", ".join(_short(label) for label in config.labels[:5])
    labels = some if config.num_classes <= 5 else translate(request, "more", count=f"{config.num_classes:,}", some=some)
    crop = f"{config.crop_pct * 100:.4g}"
    rows = {
        "architecture": config.architecture,
        "parameters": f"{config.num_parameters:,}",
        "labels": labels,
        "preprocessing": translate(
            request, "pixels", size=config.image_size, crop=crop, interpolation=config.interpolation
        ),
    }
    cells = [f"<dt>{escape(translate(request, key))}</dt><dd>{escape(value)}</dd>" for key, value in rows.items()]
    if link:
        anchor = f'<a href="{escape(link)}" target="_blank" rel="noopener">{escape(link)}</a>'
        cells.append(f"<dt>{escape(translate(request, 'card'))}</dt><dd>{anchor}</dd>")
    return f"<dl>{''.join(cells)}</dl>"


def _short(label: str) -> str:
    return label if len(label) <= 32 else f"{label[:31]}…"


def _status(text: str) -> str:
    return f'<p role="status">{escape(text)}</p>'


def alert(text: str) -> str:
    """A refusal or a failure, for eyes and screen readers."""
    return f'<p role="alert">{escape(text)}</p>'
