"""Recorded trainings and lesions on the page: without records, with some and with all, in both languages."""

import re
from dataclasses import replace

import pytest
from helpers.page import from_browser
from helpers.records import create_lesions, create_record

from resnet_hub.analysis.cifar import TrainingRecord
from resnet_hub.analysis.lesion_records import LesionRecord
from resnet_hub.demo.inside_tab import recorded


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[TrainingRecord]:
    records: list[TrainingRecord] = []
    monkeypatch.setattr(recorded, "list_records", lambda: records)
    return records


def test_without_records_there_is_the_command(trainings: list[TrainingRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "list_lesions", list)
    request = from_browser()
    assert "resnet-hub reproduce degradation" in recorded.render_degradation(request)
    assert "resnet-hub reproduce lesion" in recorded.render_lesions(request)
    shortcuts = recorded.render_shortcuts(request)
    assert "resnet-hub reproduce shortcuts" in shortcuts and shortcuts.count("not run here") == 12
    assert re.findall(r"<td>([\d,]{7})</td>", shortcuts) == ["269,722", "269,722", "272,474", "283,962"]


def test_trainings_are_curves_to_play_with_their_spread(trainings: list[TrainingRecord]) -> None:
    trainings += [create_record("plain20", 0, 0.5), create_record("resnet20", 0, 0.75)]
    trainings.append(create_record("resnet20", 1, 0.875))
    for html in (recorded.render_degradation(from_browser()), recorded.render_shortcuts(from_browser())):
        assert html.count("<figure") == 2 and html.count("<polyline") == 4 and html.count("<polygon") == 2
        assert 'type="range" min="0" max="2" value="2"' in html and "data-play" in html
        assert '<tr data-name="resnet20"><td>resnet20</td><td>18.8%</td><td>18.8%</td></tr>' in html
        assert 'data-x="0 1 2" data-y="50.0% 50.0% 50.0%"' in html
        assert "Data: CIFAR-10, as JPEG" in html
        assert re.search(r"The trainings:</p>\n<ul [^>]*>\n<li><code>resnet-hub reproduce", html)
    assert "<td>18.8% (12.5 to 25.0, 2 seeds)</td>" in html and html.count("not run here") == 6
    assert "训练误差" in recorded.render_degradation(from_browser("zh"))


def test_lesions_are_a_table_and_three_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[LesionRecord] = [
        create_lesions("resnet20-seed0", [0.8, 0.9], accuracy=0.9),
        create_lesions("resnet20-seed1", [0.9, 0.9], accuracy=0.9),
        create_lesions("plain20-seed0", [0.2, 0.1], accuracy=0.9),
        create_lesions("resnet20-B-seed0", [0.2, 0.1], accuracy=0.9),
    ]
    monkeypatch.setattr(recorded, "list_lesions", lambda: records)
    html = recorded.render_lesions(from_browser())
    assert html.count("<figure") == 3 and html.count("<polyline") == 6 and "resnet20-B" not in html
    assert "<td>2.5% (0.0 to 5.0, 2 seeds)</td><td>10.0%</td>" in html and "<td>75.0%</td><td>80.0%</td>" in html
    assert "Data: CIFAR-10, as JPEG, 1,000 images of the split test" in html


def test_the_tables_of_the_paper_stand_beside_ours(trainings: list[TrainingRecord]) -> None:
    trainings.append(create_record("resnet20", 0, 0.9125))
    html = recorded.render_tables(from_browser())
    row = "<td>0.27M</td><td>269,722</td><td>8.75%</td><td>8.75%</td>"
    row += '<td class="text">CIFAR-10, as JPEG</td><td class="text">2 minutes, CPU</td><td class="text"><details>'
    assert row in html and re.search(r"<summary>Command</summary><p><code>resnet-hub reproduce</code></p></det", html)
    assert html.count("<td>not run here</td>") == 7
    assert "<td>resnet152</td><td>11.3 × 10⁹</td><td>11.28 × 10⁹</td>" in html


def test_degradation_says_what_came_out_and_names_every_training(trainings: list[TrainingRecord]) -> None:
    for name, accuracy in (("plain20", 0.8), ("plain56", 0.5), ("resnet20", 0.85), ("resnet56", 0.875)):
        training = replace(
            create_record(name, 0, accuracy), command=f"python scripts/cifar_runs.py --only {name}-seed0 --images 10"
        )
        trainings.append(training)
    html = recorded.render_degradation(from_browser())
    assert "worse, on its training images too: test error 20.0% with 20 layers and 50.0% with 56" in html
    assert "it is 15.0% and 12.5%" in html and "One training each" in html
    assert "cifar_runs.py --only plain20-seed0 plain56-seed0 resnet20-seed0 resnet56-seed0 --images 10<" in html
    trainings.append(create_record("plain56", 1, 0.95))
    html = recorded.render_degradation(from_browser())
    assert "20.0% with 20 layers and 27.5% with 56" in html and "Lines are means over the seeds" in html
    trainings[1] = create_record("plain56", 0, 0.875)
    html = recorded.render_degradation(from_browser())
    assert "worse" not in html and "Test error of the plain networks: 20.0% with 20 layers and 8.8% with 56" in html
