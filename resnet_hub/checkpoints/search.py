"""Searches the Hub for ResNets."""

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.checkpoints.source import REQUEST_TIMEOUT
from resnet_hub.hub_client.errors import translate_errors
from resnet_hub.hub_client.listing import nonsense_error
from resnet_hub.hub_client.retry import call_once

if TYPE_CHECKING:
    pass

_ID = re.compile(r"([\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)  # of a model


class SearchResult(NamedTuple):
    """A model that a search found."""

    id: str
    downloads: int
    sure: bool  # that it is a ResNet, by its tags or its name


def search_models(
    text: str, *, limit: int = 20, token: str | bool | None = None, timeout: float = REQUEST_TIMEOUT
) -> list[SearchResult]:
    """Image classifiers on the Hub whose names match, most used first: those tagged as ResNets, and timm's.

    Raises `HubError` where the Hub does not answer.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    def answer(tag: str) -> list[dict[str, Any]]:
        reply = get_session().get(
            f"{constants.ENDPOINT}/api/models",
            params=asked | {"filter": tag, "limit": limit},
            headers=build_hf_headers(token=token),
            timeout=timeout,
        )
        hf_raise_for_status(reply)
        return [{"id": model["id"], "downloads": model.get("downloads") or 0} for model in reply.json()]

    asked: dict[str, Any] = {"search": text, "pipeline_tag": "image-classification", "sort": "downloads"}
    found: dict[str, SearchResult] = {}
    for tag in ("resnet", "timm"):
        with translate_errors("The search", None, writing=False):
            answers = call_once(answer, tag)
        for model in answers:
            name, downloads = model["id"], model["downloads"]
            if not isinstance(name, str) or not _ID.fullmatch(name) or not isinstance(downloads, int):
                raise nonsense_error("the search", f"{name!r}, downloaded {downloads!r} times")
            sure = tag == "resnet" or re.search("resne[tx]", name, re.IGNORECASE) is not None
            found.setdefault(name, SearchResult(name, downloads, sure))
    return sorted(found.values(), key=lambda model: -model.downloads)[:limit]
