"""Lesions, degradation, shortcuts and tables, in sizes of a second: measured, recorded and read again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.data import encode_image
from helpers.networks import network
from helpers.records import create_lesions, create_record, write_lesions
from helpers.reports import is_whole

from resnet_hub.analysis.cifar import list_records
from resnet_hub.analysis.cifar_claims import (
    report_lesions,
    reproduce_degradation,
    reproduce_lesion,
    reproduce_shortcuts,
    reproduce_tables,
)
from resnet_hub.analysis.experiment_report import Report
from resnet_hub.analysis.lesion_records import LESIONS, average_reorder, list_lesions
from resnet_hub.analysis.lesions import ReorderPoint
from resnet_hub.errors import AnalysisError


@pytest.fixture
def colors(tmp_path):
    for split, count in (("train", 8), ("test", 6)):
        for channel, label in enumerate(("red", "green")):
            (folder := tmp_path / "colors" / split / label).mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").write_bytes(encode_image(channel, number))
    return tmp_path / "colors"


def test_lesion(colors):
    labels = {0: "green", 1: "red"}
    models = {
        name: network(stem="3x3", width=8, depths=(3, 1, 1), image_size=16, id2label=labels, shortcut=shortcut)
        for name, shortcut in (("residual", "B"), ("plain", "none"))
    }
    report = reproduce_lesion(models, colors, draws=1)
    assert is_whole(report) and {*report.charts} == {"one-block", "removal", "reorder"}
    assert [finding.expected for finding in report.findings] == ["at most 5 points", "nearly all accuracy"]
    values = report.numbers["plain"]
    assert len(values["lesions"]) == 5 and values["num_images"] == 12
    drops = [values["accuracy"] - lesion["accuracy"] for lesion in values["lesions"]]
    assert values["mean_drop"] == pytest.approx(np.mean(drops))
    fast = reproduce_lesion(models, colors, images=4, curves=False)
    assert {*fast.charts} == {"one-block"} and fast.numbers["residual"]["num_images"] == 4


def test_degradation_and_shortcuts_on_gratings():
    report = reproduce_degradation(layers=(8, 14), width=2, steps=2, seeds=(0, 1))
    assert is_whole(report) and len(report.findings) == 3
    assert report.findings[0].statement == "train error of plain14 and plain8"
    assert report.findings[0].measured.count(" to ") == 2  # the spread over the seeds
    assert {*report.charts["loss"].bands} == {"plain8", "resnet8", "plain14", "resnet14"}
    shortcuts = reproduce_shortcuts(layers=8, width=2, steps=2)
    assert is_whole(shortcuts)
    assert shortcuts.findings[-1].holds and shortcuts.findings[-1].expected == "none = A < B < C"


def test_shortcuts_on_images(colors, tmp_path):
    # With two channels the backward pass of PyTorch corrupts its heap on some CPUs (an AMD EPYC without bfloat16).
    report = reproduce_shortcuts(data=colors, work=tmp_path / "work", layers=8, width=8, epochs=1, command="again")
    assert is_whole(report) and [row["network"] for row in report.numbers["records"]] == [
        *("plain8", "resnet8", "resnet8-B", "resnet8-C")
    ]
    assert {*report.charts} == {"train-error", "test-error"}
    assert {(row["command"], row["data"]) for row in report.numbers["records"]} == {("again", "colors")}
    assert report.findings[0].statement == "test error of plain8 and resnet8"


def test_missing_settings_are_named():
    with pytest.raises(AnalysisError, match="Set work to a folder"):
        reproduce_degradation(data="colors")
    with pytest.raises(AnalysisError, match="give steps"):
        reproduce_shortcuts()


def test_lesions_are_written_and_read(tmp_path: Path) -> None:
    (tmp_path / LESIONS).mkdir()
    record = create_lesions("resnet20-seed0", [0.7, 0.9], accuracy=0.9)
    write_lesions(tmp_path / LESIONS / "resnet20-seed0.json", record)
    assert list_lesions(tmp_path) == [record] and list_lesions(tmp_path / "nowhere") == []
    (tmp_path / LESIONS / "bad.json").write_text(json.dumps({"name": "bad"}))
    with pytest.raises(AnalysisError, match=r"Cannot read the record .*bad\.json.*measure it again"):
        list_lesions(tmp_path)


def test_shipped_lesions_are_whole() -> None:
    trainings = {record.name: record for record in list_records()}
    lesions = list_lesions()
    assert {"plain20-seed0", "plain56-seed0", "resnet20-seed0", "resnet56-seed0"} <= {record.name for record in lesions}
    for record in lesions:
        assert record.command and record.data and record.split == "test" and record.removal and record.reorder
        assert "JPEG" not in record.data or "--jpeg-quality 75" in record.command
        accuracy = 1 - trainings[record.name].test_error  # of all test images; five standard errors of 1,000 of them
        assert record.study.num_images >= 1000 and record.study.accuracy == pytest.approx(accuracy, abs=0.08)


def test_the_recorded_networks_of_56_layers_are_what_the_papers_say() -> None:
    findings = {finding.statement: finding for finding in report_lesions(list_lesions()).findings}
    assert findings["resnet56: a block's removal costs"].holds and findings["plain56: a block's removal costs"].holds
    assert findings["resnet20: a block's removal costs"].holds is None
    assert all(finding.holds for finding in reproduce_degradation(records=list_records()).findings)


def test_recorded_lesions_are_judged_over_their_seeds() -> None:
    records = [
        create_lesions("resnet20-seed0", [0.8, 0.9], accuracy=0.9),
        create_lesions("resnet20-seed1", [0.9, 0.9], accuracy=0.9),
        create_lesions("plain20-seed0", [0.2, 0.1], accuracy=0.9),
        create_lesions("plain56-seed0", [0.8, 0.7], accuracy=0.9),
        create_lesions("resnet8-seed0", [0.1, 0.1], accuracy=0.1),
        create_lesions("resnet56-seed0", [0.8] + [0.9] * 26, accuracy=0.9),
        create_lesions("resnet110-seed0", [0.8] * 54, accuracy=0.9),
    ]
    report = report_lesions(records)
    assert is_whole(report)
    findings = {finding.statement.split(":")[0]: finding for finding in report.findings}
    assert [findings[name].holds for name in ("plain20", "plain56", "resnet8")] == [True, False, None]
    assert [findings[name].holds for name in ("resnet20", "resnet56", "resnet110")] == [None, True, False]
    assert findings["resnet20"].measured == ("2.5 points of 90.0 on average (0.0 to 5.0 over 2 seeds), 10.0 at most")
    assert findings["plain20"].remark == "94% of what is above chance"
    curve = average_reorder(records[:2])
    assert curve.x == [0.4, 0.6, 1.0] and curve.y == pytest.approx([0.9, 0.85, 0.9])
    undone = (ReorderPoint(2, (0.6, 1.0), (0.2, 0.9)), ReorderPoint(4, (1.0, 0.6), (0.9, 0.1)))
    curve = average_reorder([replace(records[0], reorder=undone)])  # the trained order apart; equal taus together
    assert curve == ([0.6, 1.0], pytest.approx([0.15, 0.9]), [0.1, 0.9], [0.2, 0.9])
    assert report.charts["one-block"].bands["resnet20"][0] == pytest.approx([0.8, 0.9])
    assert report.seconds == 7 * records[0].seconds and "CIFAR-10" in report.to_text()
    with pytest.raises(AnalysisError, match="without --recorded"):
        report_lesions([])


def verdicts(report: Report) -> list[tuple[bool | None, str]]:
    return [(finding.holds, finding.remark) for finding in report.findings]


def test_recorded_trainings_are_compared_as_far_as_there_are_any() -> None:
    records = [
        create_record("plain20", 0, 0.8),
        create_record("plain56", 0, 0.9),
        create_record("resnet20", 0, 0.8),
        create_record("resnet20", 1, 0.9),
        replace(create_record("resnet56", 0, 0.7), is_finished=False),
    ]
    report = reproduce_degradation(records=records)
    assert is_whole(report)
    assert verdicts(report) == [(False, "the reverse was measured")] * 2 + [(None, "")] * 2
    assert [finding.measured for finding in report.findings[2:]] == ["no record of resnet56"] * 2
    seeds = [create_record("resnet56", seed, accuracy) for seed, accuracy in ((0, 0.84), (1, 0.9))]
    report = reproduce_degradation(records=[*records[:4], *seeds])
    assert report.findings[3].measured == "15.0% (10.0 to 20.0) and 13.0% (10.0 to 16.0)"
    assert verdicts(report)[3] == (True, "but the seeds overlap")
    chart = report.charts["test-error"]  # a line for each network, not each seed
    assert [*chart.lines] == ["plain20", "plain56", "resnet20", "resnet56"] and "CIFAR-10" in chart.title
    assert chart.lines["resnet56"][1][-1] == pytest.approx(0.13) and "bands their range" in chart.note
    assert [edge[-1] for edge in chart.bands["resnet56"]] == pytest.approx([0.1, 0.16])
    shortcuts = reproduce_shortcuts(records=[*records, create_record("resnet20-B", 0, 0.85)])
    assert verdicts(shortcuts) == [(True, "but the seeds overlap"), (False, "no difference"), (None, "")]
    with pytest.raises(AnalysisError, match="No training of plain20, resnet20"):
        reproduce_shortcuts(records=records[1:2])


def test_the_tables_of_the_paper_beside_ours() -> None:
    report = reproduce_tables([create_record("resnet20", 0, 0.9), create_record("resnet20", 1, 0.92)])
    assert is_whole(report) and not any(finding.holds is False for finding in report.findings)
    measured = {finding.statement: finding.measured for finding in report.findings}
    assert measured["resnet20: test error, table 6"] == "9.00% (8.0 to 10.0 over 2 seeds), 2 minutes"
    assert measured["resnet1202: test error, table 6"] == "not run here"
    expected = {finding.statement: finding.expected for finding in report.findings}
    assert expected["resnet110: test error, table 6"] == "6.43%, best of five runs, 6.61 +- 0.16"
    assert measured["resnet50: multiply-adds, table 1"] == "3.86 billion"
    assert "none recorded" in reproduce_tables([]).to_text()
