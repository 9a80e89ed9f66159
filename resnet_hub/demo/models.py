"""The models of the page: the names that it accepts, and the loaded models, which all visitors share."""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from huggingface_hub import HfApi
from huggingface_hub import get_token as get_saved_token

from resnet_hub.checkpoints.default_model import Purpose, describe_failure, is_folder, obtain, preferred_model
from resnet_hub.checkpoints.load import read_card
from resnet_hub.checkpoints.model_card import read_heading
from resnet_hub.config import ResNetConfig
from resnet_hub.demo.i18n import PageError, translate_text
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.space import choose_hub_token, is_space, is_zero_gpu, may_use_saved_token
from resnet_hub.errors import ResNetHubError
from resnet_hub.hub_client import timeouts
from resnet_hub.hub_client.errors import hub_errors
from resnet_hub.hub_client.repo_name import is_repo_name
from resnet_hub.hub_client.retry import retry_call

if TYPE_CHECKING:
    from resnet_hub.inference.classifier import Classifier


_BYTES_PER_PARAMETER = 12  # float32: in PyTorch, in ONNX Runtime, and there again while it packs them
_PEAK, _WORK = 2**26, 200e9  # numbers in memory and multiplications for one image; ResNeXt-101: 14e6 and 87e9
_MAX_BYTES = 2**31  # about, of the models in memory
_MAX_LOADED = 8  # models in memory: each takes some megabytes besides its parameters
_SEARCH_PAUSE = 60.0  # seconds without suggestions after the Hub did not respond


class Models:
    """Checkpoint folders of the shelf and, by id, of the Hub and of runs: loaded once, shared, never changed.

    Loaded models are limited in bytes and number: the least recently used one goes first.
    """

    def __init__(self, shelf: Path, scheduler: Scheduler | None = None):
        self.shelf, self.scheduler = shelf, scheduler
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, Future[Classifier]] = OrderedDict()  # the least recently used first
        self._bytes: dict[str, int] = {}
        self._search_again = 0.0
        self._added: dict[str, str | Path] = {}
        self._public: set[str] = set()  # models of the Hub that anyone may read

    def names(self) -> list[str]:
        """The models that were added, and the folders on the shelf."""
        shelf = sorted(path.parent.name for path in self.shelf.glob("[!.]*/config.json"))  # a dot: being written
        return list(dict.fromkeys([*self._added, *shelf]))

    def list_choices(self, request: gr.Request | None, *others: str) -> list[tuple[str, str]]:
        """Those names and others for a picker, each after what it shows: the title on the model's card and the name."""
        titles = {name: _read_title(self._added.get(name, self.shelf / name)) for name in self.names()}
        titles = dict.fromkeys(others, "") | {name: translate_text(request, title) for name, title in titles.items()}
        return [(f"{title} · {name}" if title and title not in name else name, name) for name, title in titles.items()]

    def add(self, source: str) -> str:
        """Offer a folder, or a Hub model in the cache, to all visitors; returns its name on the page."""
        if not is_folder(source):
            self._added[source] = source
            return source
        folder = Path(source).expanduser()
        name, number = folder.resolve().name, 1
        while (other := self._find_folder(name)) and other.resolve() != folder.resolve():
            number += 1
            name = f"{folder.resolve().name} ({number})"
        self._added[name] = folder
        return name

    def _find_folder(self, name: str) -> Path | None:
        """The folder that is offered under a name, or None."""
        source = self._added.get(name, self.shelf / name if name in self.names() else None)
        return source if isinstance(source, Path) else None

    def remove(self, name: str) -> None:
        """Offer an added model no longer."""
        self._added.pop(name, None)

    def source(self, name: str) -> str | Path:
        """The folder or the Hub id behind a name.

        Raises:
            PageError: The name is a path, a URL or anything else.
            HubError: The sender of the call may not read the model on the Hub: another may have fetched a private one.
        """
        source = self._find_source(name)
        if self._may_be_private(name, source):
            with hub_errors(name, token=False):
                retry_call(HfApi(token=False).auth_check, name)
            self._public.add(name)
        return source

    def _may_be_private(self, name: str, source: str | Path) -> bool:
        """Whether the local user may be the only one who can read the model, and this is a call of another."""
        is_offered = isinstance(source, Path) or name in self._added or name in self._public
        return not (is_offered or is_space() or may_use_saved_token() or get_saved_token() is None)

    def _find_source(self, name: str) -> str | Path:
        if name in self._added:
            return self._added[name]
        if name in self.names():
            return self.shelf / name
        if self.scheduler and self.scheduler.runs.find(name):
            folder = self.scheduler.find_model(name)
            if folder is None:
                raise PageError("no_model")
            return folder
        if self.title(name) is not None:  # the message must not show the id
            raise PageError("model_gone")
        # The library takes a folder of the working directory for a checkpoint; a visitor must not reach one.
        if not is_repo_name(name) or Path(name).exists():
            raise PageError("not_a_model", name=name[:100])
        return name

    def title(self, name: str) -> str | None:
        """The title of the run if the name is a run id, empty if the run was deleted; else None."""
        if self.scheduler is None or not self.scheduler.runs.is_id(name):
            return None
        run = self.scheduler.runs.find(name)
        return run.title if run else ""

    def command_name(self, name: str) -> str:
        """The model as a command on another machine may name it; MODEL for a run or a folder of this one."""
        if folder := self._find_folder(name):
            return name if folder.resolve().parent == self.shelf.resolve() else "MODEL"
        return name if is_repo_name(name) and self.title(name) is None else "MODEL"

    def forget(self, name: str) -> None:
        """Drop a loaded model, so that its next use loads it again: a resumed run changes its model."""
        with self._lock:
            if (future := self._loaded.get(name)) and future.done():
                del self._loaded[name], self._bytes[name]

    def find_loaded(self, name: str) -> "Classifier | None":
        """The classifier of that name if neither it nor the Hub need be waited for."""
        if self._may_be_private(name, self._find_source(name)):  # raises if the name is not valid, or not any more
            return None
        with self._lock:
            future = self._loaded.get(name)
            return future.result() if future and future.done() and not future.exception() else None

    def get(self, name: str) -> "Classifier":
        """The classifier of that name. The first call loads it, and calls meanwhile wait for that."""
        source = self.source(name)
        with self._lock:
            future = self._loaded.get(name)
            is_first = future is None
            if future is None:
                future = self._loaded[name] = Future()
            self._loaded.move_to_end(name)
        if is_first:
            try:
                future.set_result(self._load(name, source))
            except BaseException as error:
                with self._lock:
                    del self._loaded[name]
                    self._bytes.pop(name, None)
                future.set_exception(error)
        return future.result()

    def _load(self, name: str, source: str | Path) -> "Classifier":
        from resnet_hub.checkpoints.load import read_config
        from resnet_hub.inference.classifier import Classifier

        hub: dict[str, Any] = {"token": choose_hub_token(), "local_files_only": name in self._added}
        config = read_config(source, **hub)  # a few kilobytes, before the weights are fetched
        if not config.num_classes:
            raise PageError("no_head", name=name)
        self._make_room(name, config)
        return Classifier.from_pretrained(source, **hub, device="cpu" if is_zero_gpu() else None)

    def _make_room(self, name: str, config: ResNetConfig) -> None:
        needed = config.num_parameters * _BYTES_PER_PARAMETER
        if needed > _MAX_BYTES:
            raise PageError("too_large", name=name, parameters=f"{config.num_parameters:,}")
        if config.peak_numbers > _PEAK or config.multiply_adds > _WORK:
            raise PageError("too_slow", name=name)
        with self._lock:
            for other in [key for key, future in self._loaded.items() if future.done()]:
                if sum(self._bytes.values()) + needed > _MAX_BYTES or len(self._loaded) > _MAX_LOADED:
                    del self._loaded[other], self._bytes[other]
            if sum(self._bytes.values()) + needed > _MAX_BYTES:
                raise PageError("busy")
            self._bytes[name] = needed

    def warm_up(self, name: str) -> None:
        """Load a model, predict once and start its engine, before a visitor does; errors are left to that visitor."""
        from PIL import Image

        with suppress(ResNetHubError):
            classifier = self.get(name)
            classifier(Image.new("RGB", (64, 64)))
            classifier.prepare_engine()

    def search(self, text: str) -> list[str] | None:
        """Ids of matching image classifiers on the Hub, most used first; None if the Hub does not respond."""
        if not 2 <= len(text) <= 96:  # no id is longer
            return []
        if time.monotonic() < self._search_again:
            return None
        try:
            return _search_hub(text)
        except Exception:  # a suggestion is not worth an error
            self._search_again = time.monotonic() + _SEARCH_PAUSE
            return None


def _read_title(source: str | Path) -> str:
    """The title on the card of a model that is on this disk; "" if there is none."""
    with suppress(ResNetHubError):
        card = read_card(source, local_files_only=True) or ""
        return read_heading(card).title.removeprefix("Model card for ")  # as timm's begin
    return ""


@lru_cache(maxsize=1024)
def _search_hub(text: str) -> list[str]:
    from resnet_hub.checkpoints.search import search_models

    return [model.id for model in search_models(text, token=False, timeout=timeouts.SUGGESTIONS) if model.is_resnet]


_INTERVAL = 60.0  # seconds between two questions to the Hub, unless RESNET_HUB_ASK_SECONDS says otherwise
_OFTEN = 10  # questions at that interval; all later ones are ten times as far apart
_PURPOSES: tuple[Purpose, ...] = ("predict", "base")

log = logging.getLogger(__name__)


class DefaultModels:
    """The names of the models to predict with and to train from. They change for new visitors only.

    Raises:
        ResNetHubError: An environment variable names a folder that does not exist, or an interval that is no number.
    """

    def __init__(self, models: Models, included: str):
        for purpose in _PURPOSES:
            preferred_model(purpose)  # a wrong name stops the page now, and not in the background
        self.models, self.included, self.interval = models, included, _read_interval()
        self._names: dict[Purpose, str] = {}

    def get(self, purpose: Purpose) -> str:
        """The name of the model for a purpose; an empty text if the shelf is empty and the Hub has not responded."""
        return self._names.get(purpose, self.included)

    def watch(self, is_running: Callable[[], bool]) -> None:
        """Bring the preferred models onto this disk and load them, and ask again where the Hub does not have them yet.

        Args:
            is_running: Whether the page is up, which never waits for the Hub.
        """
        from huggingface_hub import constants

        while not is_running():
            time.sleep(0.05)
        missing, questions = list(_PURPOSES), 0
        while missing := [purpose for purpose in missing if not self._use_preferred(purpose)]:
            if constants.is_offline_mode():
                return
            questions += 1
            time.sleep(self.interval * (1 if questions < _OFTEN else 10))

    def _use_preferred(self, purpose: Purpose) -> bool:
        """Return whether the preferred model serves now, or is the included one."""
        try:
            source = preferred_model(purpose, on_gpu=purpose == "base" and _has_gpu())
            if not source:
                return True
            reason = obtain(source, token=False if is_space() else None)  # who started the page has chosen it
            if reason is None:
                self._names[purpose] = self._add(source, purpose)
        except ResNetHubError as error:
            reason = describe_failure(error, purpose)
        if reason is None:
            log.info("%s is the default model to %s.", Path(source).name if is_folder(source) else source, purpose)
        else:
            log.info("The included model serves for now: %s", reason)
        return reason is None

    def _add(self, source: str, purpose: Purpose) -> str:
        """Add a model that can serve, and return its name; raises `ResNetHubError` for another."""
        from resnet_hub.training.initial_model import check_base

        if purpose == "base":
            check_base(source)
        name = self.models.add(source)
        if purpose == "predict":
            self.models.warm_up(name)
            try:
                self.models.get(name)
            except ResNetHubError:  # what prevents it from serving
                if name not in self._names.values():  # it may still be a base
                    self.models.remove(name)
                raise
        return name


def _has_gpu() -> bool:
    import torch

    return is_zero_gpu() or torch.cuda.is_available() or torch.backends.mps.is_available()


def _read_interval() -> float:
    text = os.environ.get("RESNET_HUB_ASK_SECONDS") or _INTERVAL
    try:
        if (interval := float(text)) > 0:
            return interval
    except ValueError:
        pass
    raise ResNetHubError(f"RESNET_HUB_ASK_SECONDS is {text!r:.40}; expected a number of seconds above 0.")
