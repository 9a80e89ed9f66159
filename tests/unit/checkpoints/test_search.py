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
