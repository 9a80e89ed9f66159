"""Search for ResNets on the Hub."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from resnet_hub.hub_client.errors import translate_errors
from resnet_hub.hub_client.listing import malformed_response_error
from resnet_hub.hub_client.retry import call_within, retry_call

_REPO_ID = re.compile(r"([\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)
_SUBJECT = "The list of models"  # in messages


class SearchResult(NamedTuple):
    """One result of a search."""

    id: str
    downloads: int
    is_resnet: bool  # by its tags or its name; other models of timm may be anything


def search_models(
    text: str, *, limit: int = 20, token: str | bool | None = None, timeout: float | None = None
) -> list[SearchResult]:
    """Search for image classifiers whose names contain `text`: models tagged as ResNets, and models of timm.

    Args:
        text: A part of the model's name.
        limit: Maximum number of results.
        token: A token of the Hub; False for none, None for the one that is logged in.
        timeout: Seconds without progress after which the search fails, in place of `timeouts.SILENCE`; then a request
            is not repeated.

    Returns:
        The results by downloads, most first.

    Raises:
        HubError: The Hub cannot be reached, or its response is malformed.
    """
    from huggingface_hub import HfApi, ModelInfo, constants, get_session

    def list_models(tag: str) -> list[ModelInfo]:
        api, task = HfApi(token=token), "image-classification"
        return list(api.list_models(filter=tag, search=text, pipeline_tag=task, sort="downloads", limit=limit))

    call: Callable[..., Any] = retry_call if timeout is None else partial(call_within, timeout)
    with translate_errors(_SUBJECT, None, writing=False):  # `list_models` would try for 23 s to reach a dead Hub
        call(get_session().head, f"{constants.ENDPOINT}/api/models")
    results: dict[str, SearchResult] = {}
    for tag in ("resnet", "timm"):
        with translate_errors(_SUBJECT, None, writing=False):
            models: list[ModelInfo] = call(list_models, tag)
        for model in models:
            name, downloads = model.id, model.downloads or 0
            if not isinstance(name, str) or not _REPO_ID.fullmatch(name) or not isinstance(downloads, int):
                raise malformed_response_error("the search", f"{name!r}, downloaded {downloads!r} times")
            is_resnet = tag == "resnet" or re.search("resne[tx]", name, re.IGNORECASE) is not None
            results.setdefault(name, SearchResult(name, downloads, is_resnet))
    return sorted(results.values(), key=lambda model: -model.downloads)[:limit]
