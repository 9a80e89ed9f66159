"""The Predict tab: a photo in, its top classes and a heat map out."""

import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.i18n import message, translate
from resnet_hub.demo.models import DefaultModels, Models
from resnet_hub.demo.predict_tab import prediction_markup
from resnet_hub.demo.predict_tab.compare_models import ModelComparison
from resnet_hub.demo.predict_tab.live_camera import LiveCamera
from resnet_hub.demo.predict_tab.model_picker import ModelPicker
from resnet_hub.demo.predict_tab.several_photos import SeveralPhotos
from resnet_hub.errors import ImageError, ResNetHubError
from resnet_hub.images.load import load_image

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from resnet_hub.inference.classifier import Classifier, Prediction

TOP = 5
_HEAT_MAP_SIDE = 768  # pixels of the shorter side; a larger photo is decoded at a smaller size
_CONCURRENCY = 16  # photos of visitors at a time; those that wait are computed as one batch
_EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLES = [_EXAMPLES / f"{name}.jpg" for name in ("cat", "espresso", "rocket", "goldfish", "school_bus")]
_EXAMPLE_URL = (  # of the endpoint: a gray pixel
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_BROWSER_FORMATS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


class PredictTab:
    """Handlers and components of the tab, over the models that all visitors share."""

    def __init__(self, models: Models, defaults: DefaultModels):
        self.models, self.defaults = models, defaults
        self.model = ModelPicker(models, defaults)
        self.several, self.comparison = SeveralPhotos(self.model), ModelComparison(self.model)
        self.live = LiveCamera(self.model)

    def classify(self, photo: dict[str, Any] | None, model: str, request: gr.Request) -> tuple[Any, ...]:
        """The top classes, the photo under the heat map of the first, an error, and the photo itself.

        The photo is returned where a browser cannot show its format, and removed if it cannot be read. Without a photo,
        everything is cleared.
        """
        if photo is None:
            return "", "", "", gr.skip()
        try:
            classifier, image, top, feature_maps, seconds = self._classify(photo, model, TOP)
        except ResNetHubError as error:
            # The preview of a photo that cannot be read would be an empty box.
            shown = None if isinstance(error, ImageError) else gr.skip()
            return "", "", markup.render_error(error, request), shown
        took = prediction_markup.describe_time(seconds, classifier, self.model.get_title(model, request), request)
        shown = gr.skip() if Path(photo["path"]).suffix.lower() in _BROWSER_FORMATS else image
        why = _render_heat_map(classifier, image, top[0]["label"], request, feature_maps)
        return prediction_markup.render_prediction(top, took, request), why, "", shown

    def classify_or_ask(self, photo: dict[str, Any] | None, model: str, request: gr.Request) -> tuple[Any, ...]:
        """As `classify`; without a photo, ask for one."""
        if photo is None:
            return "", "", markup.render_text(translate(request, "no_photo"), "alert"), gr.skip()
        return self.classify(photo, model, request)

    def make_example(self, path: Path) -> Callable[..., tuple[Any, ...]]:
        """The handler of an example's button. Gradio finds no request in the signature of a `functools.partial`."""

        def show_example(model: str, request: gr.Request) -> tuple[Any, ...]:
            *shown, _ = self.classify({"path": str(path), "orig_name": path.name}, model, request)
            return *shown, str(path)

        return show_example

    def why(self, photo: dict[str, Any] | None, model: str, request: gr.Request, chosen: gr.SelectData) -> Any:
        """The heat map of the class that the visitor chose."""
        if photo is None:
            return ""
        try:
            image = load_image(photo["path"], name=photo["orig_name"], near=_HEAT_MAP_SIDE)
            return _render_heat_map(self.models.get(model), image, chosen.value, request)
        except (ResNetHubError, ValueError):  # the model was changed meanwhile; its labels bring another heat map
            return gr.skip()

    def predict(self, image: dict[str, Any] | None, model: str = "", top_k: float = TOP) -> list[dict[str, Any]]:
        """Classify an image with a ResNet: its most likely labels with their scores, best first.

        Args:
            image: The image to classify: an upload, or a data URL (data:image/jpeg;base64,...).
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
        source, name = _get_source(photo)
        image = load_image(source, name=name, near=side)
        top, feature_maps = classifier.predict_with_feature_maps(image, top_k)
        return classifier, image, top, feature_maps, time.perf_counter() - start

    # -- the page ------------------------------------------------------------------------------------------------------

    def render(self, page: gr.Blocks) -> None:
        """Add the tab to the page that is being built."""
        self.model.render()
        self._render_photo()
        self.several.render_panel()
        self.comparison.render()
        self._connect(page)
        with gr.Row(visible=False):  # an endpoint for programs takes its inputs from components
            gr.Button().click(
                self.predict,
                # With an initial value, programs may leave an input out.
                [_create_endpoint_image(), gr.Textbox("", label="model"), gr.Number(TOP, label="top_k")],
                gr.JSON(label="classes"),
                api_name="predict",
                preprocess=False,
                concurrency_limit=_CONCURRENCY,
                concurrency_id="endpoint",  # a program that waits for a download keeps no visitor waiting
            )

    def _render_photo(self) -> None:
        with gr.Row(elem_id="photo-columns"):
            with gr.Column(min_width=280, elem_id="photo-panel"):
                gr.HTML(message("photo_head"), elem_classes="panel-head")
                self._camera_button = gr.Button(message("take_photo"), variant="primary", elem_id="take-photo")
                self.own_photos = gr.HTML(
                    elem_id="own-photos", elem_classes="film", js_on_load="resnetHub.tap(element, trigger)"
                )
                self._photo = gr.Image(
                    label=message("photo"),
                    show_label=False,
                    container=False,
                    alt_text=message("photo"),
                    placeholder=message("photo_hint"),
                    sources=["upload"],  # a paste is taken by the script, anywhere on the page
                    buttons=["fullscreen"],
                    height=300,
                    elem_id="photo",
                )
                self._alert = gr.HTML(elem_id="photo-notice")
                gr.HTML(message("no_camera"), elem_id="no-live-camera")
                self._render_live()
                with gr.Row(elem_id="photo-buttons"):
                    self._live_button = gr.Button(message("live_camera"), elem_id="live-camera", min_width=0)
                    self.several.render_button()
                self._button = gr.Button(message("classify"), elem_id="classify")
                gr.HTML(message("examples_head"), elem_classes="panel-head")
                with gr.Row(elem_id="examples"):
                    self._examples = [
                        gr.Button(message(f"example_{path.stem}"), icon=path, min_width=0) for path in EXAMPLES
                    ]
            with gr.Column(min_width=280, elem_id="prediction-panel"):
                gr.HTML(message("prediction_head"), elem_classes="panel-head")
                gr.HTML(message("prediction_hint"), elem_classes="placeholder")
                self._classes = gr.HTML(
                    elem_id="classes", elem_classes="labels", js_on_load="resnetHub.rows(element, trigger)"
                )
                self._save_button = gr.Button(message("save_image"), elem_id="save-image", elem_classes="as-link")
                gr.HTML('<div class="labels" id="live-labels"></div>', elem_id="live-prediction")
            with gr.Column(min_width=280, elem_id="why-panel"):
                gr.HTML(message("why_head"), elem_classes="panel-head")
                gr.HTML(message("why_hint"), elem_classes="placeholder")
                self._why = gr.HTML(elem_id="why")

    def _render_live(self) -> None:
        with gr.Column(elem_id="live"):
            gr.HTML("<video muted playsinline></video>")
            with gr.Row():
                self._live_actions = {
                    "keepFrame": gr.Button(message("keep_frame"), variant="primary", elem_id="keep-frame", min_width=0),
                    "stopLive": gr.Button(message("camera_off"), elem_id="camera-off", min_width=0),
                    "switchCamera": gr.Button(message("other_camera"), elem_id="other-camera", min_width=0),
                }

    def _connect(self, page: gr.Blocks) -> None:
        private: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last"}
        # Without Gradio's preprocessing the file arrives unchanged, and every image is read by load_image.
        predicting = private | {"preprocess": False, "concurrency_limit": _CONCURRENCY, "concurrency_id": "predict"}
        photo, current = self._photo, self.model.current
        shown: dict[str, Any] = {
            "outputs": [self._classes, self._why, self._alert, photo],
            "show_progress_on": [self._classes],
            "show_progress": "minimal",
        }
        self.photo = photo
        self.classifying: dict[str, Any] = shown | predicting
        self.classifying |= {"fn": self.classify, "inputs": [photo, current]}
        asking: dict[str, Any] = self.classifying | {"fn": self.classify_or_ask}
        photo.upload(**self.classifying)
        self._button.click(**asking)
        showing_example: dict[str, Any] = shown | predicting
        for path, button in zip(EXAMPLES, self._examples, strict=True):
            button.click(self.make_example(path), current, **showing_example)
        self._classes.select(self.why, [photo, current], self._why, show_progress="minimal", **predicting)
        cleared = [self._classes, self._why, self._alert, self.comparison.result]
        photo.clear(lambda: ("", "", "", ""), None, cleared, **private)  # Gradio still sends the photo
        clear_all = gr.Button(elem_id="clear-photo", elem_classes="only-for-scripts")
        clear_all.click(lambda: (None, "", "", "", ""), None, [photo, *cleared], **private)
        scripts = {"takePhoto": self._camera_button, "startLive": self._live_button, "saveImage": self._save_button}
        scripts |= self._live_actions
        for script, button in scripts.items():
            button.click(None, js=f"() => resnetHub.{script}()", api_visibility="private")
        self.several.connect(photo, self.classifying)
        self.comparison.connect(photo)
        photo.change(lambda: "", None, self.comparison.result, **private)  # it was of another photo, or asked for one
        gr.on([self.comparison.asked, self.several.button.upload], lambda: "", None, self._alert, **private)
        self.model.connect(page, self.classifying, self.several.classifying)


def _render_heat_map(
    classifier: "Classifier",
    image: "Image.Image",
    label: str,
    request: gr.Request,
    feature_maps: "Tensor | None" = None,
) -> str:
    from resnet_hub.inference.gradcam import overlay_heat_map

    overlay = overlay_heat_map(classifier, image, classifier.config.labels.index(label), feature_maps=feature_maps)
    return prediction_markup.render_why(image, overlay, label, request)


def _get_source(photo: dict[str, Any]) -> tuple[str | bytes, str]:
    """The path of an uploaded image, or the content of one in a data URL, and its name in messages."""
    if photo["path"]:
        return photo["path"], photo["orig_name"]
    kind, _, data = (photo["url"] or "").partition(",")
    if not (kind.startswith("data:") and kind.endswith(";base64")):
        text = "Send the image as data (data:image/jpeg;base64,...), or upload it first."
        raise gr.Error(text, print_exception=False)
    try:
        return b64decode("".join(data.split()), validate=True), "the image"
    except ValueError:
        raise gr.Error("The image is not valid base64; encode its bytes again.", print_exception=False) from None


def _create_endpoint_image() -> gr.Image:
    """The image that a program sends. Its description offers what the page accepts: no addresses, which Gradio's does.

    It is changed on the object: Gradio writes a file beside the module of a subclass.
    """
    image = gr.Image(label="image")
    info: dict[str, Any] = image.api_info()  # Gradio keeps it
    url = "Image as data URL (data:image/jpeg;base64,...); upload an image of over 700 kB. Addresses are not fetched."
    info["properties"]["url"]["description"] = url
    info["properties"]["path"]["description"] = "Path of an uploaded image, as the upload returned it"
    info["additional_description"] = "An uploaded image, or a data URL, alone or as `url`."
    payload = {"path": None, "url": _EXAMPLE_URL, "meta": {"_type": "gradio.FileData"}}
    image.example_payload = lambda: payload  # type: ignore[method-assign]
    return image
