"""Choose the default model: ImageNet weights of the Hub, else the folder that ships with the project.

The environment variables `RESNET_HUB_MODEL` (for predictions) and `RESNET_HUB_BASE` (to train from) name another
folder, included model or Hub id; an empty value means the included model.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from resnet_hub.errors import CheckpointError, ConfigError, ResNetHubError, TrainingError
from resnet_hub.hub_client import timeouts
from resnet_hub.hub_client.repo_name import is_repo_name
from resnet_hub.hub_client.retry import without_retries
from resnet_hub.included_models import find_default_model, find_local_model
from resnet_hub.paths import find_path

PREDICT_MODEL = "timm/resnet50.a1_in1k"  # Apache-2.0, 224 pixels, 1000 labels, 102 MB
BASE_ON_CPU, BASE_ON_GPU = "timm/resnet18.a1_in1k", "timm/resnet50.a1_in1k"

Purpose = Literal["predict", "base"]
_VARIABLES: dict[Purpose, str] = {"predict": "RESNET_HUB_MODEL", "base": "RESNET_HUB_BASE"}


class DefaultModel(NamedTuple):
    """The chosen model, whose files are on this disk, and, if it is not the preferred one, the reason."""

    source: str | Path  # a folder, or the id of a Hub model in the cache
    reason: str | None = None  # why the included model is used instead of the preferred model


def preferred_model(purpose: Purpose, *, on_gpu: bool = False) -> str:
    """Return the folder or Hub id that is preferred for a purpose; "" stands for the included model.

    Raises:
        CheckpointError: The environment variable names a folder that does not exist.
    """
    default = PREDICT_MODEL if purpose == "predict" else BASE_ON_GPU if on_gpu else BASE_ON_CPU
    variable = _VARIABLES[purpose]
    name = os.environ.get(variable, default).strip()
    if folder := find_local_model(name):
        return str(folder)
    if name and not _is_hub_id(name):
        raise CheckpointError(
            f"{variable} is {name}, which is neither a folder that exists, nor a model that is included, nor the name "
            "of a model on the Hub (user/name). Correct or unset it."
        )
    return name


def choose_default_model(
    purpose: Purpose, *, on_gpu: bool = False, check: Callable[[str], object] | None = None
) -> DefaultModel:
    """Choose the preferred model if it is on this disk or the Hub responds in time, else the included model.

    Args:
        purpose: "predict", or "base" for a model to train from.
        on_gpu: Whether training runs on a GPU, which is fast enough for a larger base model.
        check: Called with the preferred model; the included model is chosen too if it raises a `CheckpointError`,
            `ConfigError` or `TrainingError`.

    Returns:
        The model, with the reason if it is not the preferred one. A failing Hub raises no error.

    Raises:
        CheckpointError: An environment variable names a folder that does not exist, or the included model is needed
            and this installation has none.
    """
    preferred = preferred_model(purpose, on_gpu=on_gpu)
    if not preferred:
        return DefaultModel(find_default_model())
    reason = obtain(preferred, asks_again=purpose == "base")
    if reason is None and check is not None:
        try:
            check(preferred)
        except (CheckpointError, ConfigError, TrainingError) as error:
            reason = describe_failure(error, purpose)
    if reason is None:
        return DefaultModel(preferred)
    try:
        included = find_default_model()
    except CheckpointError as error:
        raise CheckpointError(f"{reason} {error}") from None
    if is_folder(preferred) and Path(preferred).expanduser().resolve() == included.resolve():
        raise CheckpointError(reason)
    return DefaultModel(included, reason)


def describe_failure(error: ResNetHubError, purpose: Purpose) -> str:
    """Describe why the preferred model cannot serve; names the environment variable if that has chosen it."""
    variable = _VARIABLES[purpose]
    return f"{error} {variable} names that model." if os.environ.get(variable) else str(error)


def obtain(source: str, *, asks_again: bool = False, **hub: Any) -> str | None:
    """Bring a preferred model onto this disk, unless it is there.

    Args:
        source: A folder that exists, or a Hub id.
        asks_again: Whether to ask a Hub that refuses again, as long as it is waited for. Another base means another
            license for all that is trained from it.
        hub: `token`.

    Returns:
        None if the files of a supported ResNet are on this disk now, else the reason in one sentence.
    """
    from huggingface_hub import constants

    from resnet_hub.checkpoints.load import fetch_checkpoint

    if is_folder(source) or is_cached(source):
        return None
    if constants.is_offline_mode():
        return f"{source} is not in the cache, and HF_HUB_OFFLINE is set."
    reason = _probe(source, asks_again, **hub)
    if reason is None:
        try:
            fetch_checkpoint(source, **hub)
        except ResNetHubError as error:
            return str(error)
    return reason


def is_folder(source: str) -> bool:
    """Whether a source names a folder or file of this disk, which takes precedence over a Hub id."""
    return find_path(source) is not None


def is_cached(repo_id: str) -> bool:
    """Whether config and weights of a supported ResNet are in the cache under this id. Sends no request."""
    from resnet_hub.checkpoints.load import fetch_checkpoint

    try:
        fetch_checkpoint(repo_id, local_files_only=True)
    except ResNetHubError:
        return False
    return True


def _is_hub_id(name: str) -> bool:
    """Whether a name has the form `user/name` and no folder of this disk has room for it, as in `weights/name`."""
    return is_repo_name(name) and not Path(name).parent.is_dir()


def _probe(repo_id: str, asks_again: bool, **hub: Any) -> str | None:
    """Return None if the Hub has a supported ResNet of that id, else the reason in one sentence."""
    from resnet_hub.checkpoints.load import read_config

    reasons: list[str | None] = []

    def check() -> None:
        try:
            with without_retries():
                read_config(repo_id, **hub)
            reasons.append(None)
        except ResNetHubError as error:
            reasons.append(str(error))
            if asks_again:
                with suppress(ResNetHubError):
                    read_config(repo_id, **hub)
                    reasons.append(None)

    # The thread also limits waits that no timeout of the client covers, such as for a silent name server.
    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    thread.join(timeouts.DEFAULT_MODEL_SECONDS)
    if reasons:
        return reasons[-1]
    return f"The Hub did not respond about {repo_id} within {timeouts.DEFAULT_MODEL_SECONDS:g} seconds."
