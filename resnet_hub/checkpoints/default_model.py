"""Choose the default model: ImageNet weights of the Hub, else a folder on this disk.

The environment variables `RESNET_HUB_MODEL` (for predictions) and `RESNET_HUB_BASE` (to train from) name another
folder or Hub id; an empty value means the embedded folder.
"""

import os
import threading
from pathlib import Path
from typing import Literal, NamedTuple

from resnet_hub.errors import ResNetHubError

PREDICT_MODEL = "timm/resnet50.a1_in1k"  # Apache-2.0, 224 pixels, 1000 labels, 102 MB
BASE_ON_CPU, BASE_ON_GPU = "timm/resnet18.a1_in1k", "timm/resnet50.a1_in1k"
PROBE_SECONDS = 5.0  # to find out whether the Hub has the model

Purpose = Literal["predict", "base"]


class DefaultModel(NamedTuple):
    """The chosen model and, if it is not the preferred one, the reason."""

    source: str | Path  # a folder or a Hub id
    reason: str | None = None  # why the embedded folder is used instead of the preferred model


def preferred_model(purpose: Purpose, *, on_gpu: bool = False) -> str:
    """Return the folder or Hub id that is preferred for a purpose; "" stands for the embedded folder."""
    if purpose == "predict":
        return os.environ.get("RESNET_HUB_MODEL", PREDICT_MODEL).strip()
    return os.environ.get("RESNET_HUB_BASE", BASE_ON_GPU if on_gpu else BASE_ON_CPU).strip()


def choose_default_model(
    purpose: Purpose, embedded: Path, *, on_gpu: bool = False, seconds: float = PROBE_SECONDS
) -> DefaultModel:
    """Choose the preferred model if it is on this disk or the Hub answers in time, else the embedded folder.

    Args:
        purpose: "predict", or "base" for a model to train from.
        embedded: The checkpoint folder to use without a network connection.
        on_gpu: Whether training runs on a GPU, which is fast enough for a larger base model.
        seconds: How long to wait for the Hub.

    Returns:
        The model, with the reason if it is not the preferred one. A failing Hub raises no error.
    """
    preferred = preferred_model(purpose, on_gpu=on_gpu)
    if not preferred:
        return DefaultModel(embedded)
    if Path(preferred).expanduser().exists() or is_cached(preferred):
        return DefaultModel(preferred)
    reason = probe(preferred, seconds)
    return DefaultModel(preferred) if reason is None else DefaultModel(embedded, reason)


def is_cached(repo_id: str) -> bool:
    """Whether config and weights of a Hub repo are in the cache. Sends no request."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from resnet_hub.checkpoints.save import CONFIG_FILE, WEIGHTS_FILE

    try:
        return all(isinstance(try_to_load_from_cache(repo_id, name), str) for name in (CONFIG_FILE, WEIGHTS_FILE))
    except HFValidationError:
        return False


def probe(repo_id: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Check whether the Hub has a supported ResNet of that id.

    Returns:
        None if it has, else the reason in one sentence.
    """
    from huggingface_hub import constants

    from resnet_hub.checkpoints.load import read_config

    if constants.is_offline_mode():
        return f"{repo_id} is not in the cache, and HF_HUB_OFFLINE is set."
    reasons: list[str | None] = []

    def check() -> None:
        try:
            read_config(repo_id)
            reasons.append(None)
        except ResNetHubError as error:
            reasons.append(str(error))

    # The thread also limits waits that no timeout of the client covers, such as for a silent name server.
    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    thread.join(seconds)
    return reasons[0] if reasons else f"The Hub did not answer about {repo_id} within {seconds:g} seconds."
