"""The models that new visitors get: the embedded one at once, the preferred ones as soon as they are on this disk."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from resnet_hub.checkpoints.default_model import Purpose, is_folder, obtain, preferred_model
from resnet_hub.demo.models import Models
from resnet_hub.demo.space import get_token, is_zero_gpu
from resnet_hub.errors import ResNetHubError

_INTERVAL = 60.0  # seconds between two questions to the Hub, unless RESNET_HUB_ASK_SECONDS says otherwise
_OFTEN = 10  # questions at that interval; all later ones are ten times as far apart
_PURPOSES: tuple[Purpose, ...] = ("predict", "base")

log = logging.getLogger(__name__)


class DefaultModels:
    """The names of the models to predict with and to train from. They change for new visitors only.

    Raises:
        ResNetHubError: An environment variable names a folder that does not exist, or an interval that is no number.
    """

    def __init__(self, models: Models, embedded: str):
        for purpose in _PURPOSES:
            preferred_model(purpose)  # a wrong name stops the page now, and not in the background
        self.models, self.embedded, self.interval = models, embedded, _read_interval()
        self._names: dict[Purpose, str] = {}

    def get(self, purpose: Purpose) -> str:
        """The name of the model for a purpose; an empty text if the shelf is empty and the Hub has not answered."""
        return self._names.get(purpose, self.embedded)

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
        """Return whether the preferred model serves now, or is the embedded one."""
        try:
            source = preferred_model(purpose, on_gpu=purpose == "base" and _has_gpu())
            if not source:
                return True
            reason = obtain(source, token=get_token())
            if reason is None:
                name = self.models.add(source)
                if purpose == "predict":
                    self.models.warm_up(name)
                    self.models.get(name)  # raises what prevents it from serving
                self._names[purpose] = name
        except ResNetHubError as error:
            reason = str(error)
        if reason is None:
            log.info("%s is the default model to %s.", Path(source).name if is_folder(source) else source, purpose)
        else:
            log.info("The included model serves for now: %s", reason)
        return reason is None


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
