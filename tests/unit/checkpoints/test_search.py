"""The search for models on the Hub."""

import pytest
from helpers.checkpoints import is_one_sentence
from helpers.hub_server import Hub, Repo

from resnet_hub.checkpoints.search import search_models
from resnet_hub.errors import HubError
from resnet_hub.model import ResNet


def test_a_search_finds_resnets_of_all_libraries(model: ResNet, hub: Hub) -> None:
    front = "---\nlibrary_name: {}\npipeline_tag: image-classification\ntags: [{}]\n---\n"
    cards = {
        "user/flowers-ours": front.format("resnet_hub", "resnet"),
        "lab/flowers-theirs": front.format("transformers", "resnet"),
        "timm/resnet18.flowers": front.format("timm", "timm"),
        "lab/flowers-of-timm": front.format("timm", "timm"),
        "lab/flowers-vit": front.format("transformers", "vit"),
        "lab/pets": front.format("transformers", "resnet"),
    }
    for number, (name, card) in enumerate(cards.items()):
        hub.repos[name] = Repo(downloads=number)
        hub.repos[name].commit("main", {"README.md": card.encode()}, "x")
    results = search_models("flowers")
    assert [(model.id, model.downloads, model.is_resnet) for model in results] == [
        ("lab/flowers-of-timm", 3, False),
        ("timm/resnet18.flowers", 2, True),
        ("lab/flowers-theirs", 1, True),
        ("user/flowers-ours", 0, True),
    ]
    assert [model.id for model in search_models("flowers", limit=1)] == ["lab/flowers-of-timm"]
    assert search_models("nothing like it") == []
    hub.fail("GET /api/models$", 503)
    with pytest.raises(HubError, match=r"^The list of models cannot be fetched: the Hub has a server error") as error:
        search_models("flowers")
    assert is_one_sentence(error.value)


@pytest.mark.parametrize("status", [429, 503])
def test_a_search_is_retried_after_the_delay_of_a_busy_hub(status: int, hub: Hub) -> None:
    hub.fail("/api/models$", status, headers={"Retry-After": "1"}, times=2)
    assert search_models("flowers") == []
    assert sum(request == "GET /api/models" for request in hub.requests) == 3  # two tags, the first of them twice


def test_a_search_of_a_silent_hub_is_one_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", 0.5)
    hub.fail("/api/models$", seconds=60)
    with pytest.raises(
        HubError, match=r"^The list of models cannot be fetched: the Hub at .* cannot be reached"
    ) as error:
        search_models("flowers")
    assert is_one_sentence(error.value)
