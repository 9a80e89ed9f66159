"""The commands, run as from a shell: printed lines, exit codes, and no traceback."""

import csv
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.data import damage_base
from helpers.hub_server import WRITER, Hub, Repo
from helpers.records import create_lesions, create_record, write_lesions
from PIL import Image

from resnet_hub import Classifier, ResNet, ResNetConfig, TrainConfig, cli, train
from resnet_hub.analysis.cifar import write_record
from resnet_hub.analysis.lesion_records import LESIONS, list_lesions
from resnet_hub.checkpoints.model_card import CardContent, render_card
from resnet_hub.config import Reliability
from resnet_hub.evaluation.metrics import describe_uncertainty
from resnet_hub.included_models import INCLUDED_FOLDER
from resnet_hub.inference.novelty import FeatureSubspace
from resnet_hub.training.events import Started
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.run_lock import RunLock
from resnet_hub.version import __version__

COMMAND = [sys.executable, "-m", "resnet_hub"]
NOTHING = FeatureSubspace(torch.zeros(32), torch.zeros(0, 32))  # of the features of the model below
TITLE = "title: ResNet with 3 labels"  # of the model below, on stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    labels = {0: "cat", 1: "dog", 2: "雏菊"}
    config = ResNetConfig.from_name("resnet20", depths=(1, 1, 1), width=8, image_size=16, id2label=labels)
    facts = CardContent(metrics={"accuracy": 0.8125}, dataset_name="Pets", split="test")
    card = render_card(config, facts, weights_sha256="0" * 64)
    return ResNet(config).eval().save_pretrained(tmp_path_factory.mktemp("models") / "tiny", card=card)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name, color in {"a.png": "red", "b.jpg": "green", "more/c.png": "blue"}.items():
        Image.new("RGB", (20, 24), color).save(folder / name)
    return folder


def run(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, list[str], list[str]]:
    """Run a command; return its exit code and the lines of stdout and stderr."""
    try:
        code: Any = cli.main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # raised by argparse
        code = stopped.code
    captured = capfd.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


# predict


def test_predict_gives_one_line_per_image(capfd: pytest.CaptureFixture[str], model: Path, images: Path) -> None:
    names = [images / name for name in ("b.jpg", "a.png", "more/c.png")]
    code, lines, errors = run(capfd, "predict", names[0], images, "--model", model, "--top-k", "2")
    expected = []
    for name in (names[0], names[1], names[0], names[2]):
        first, second = Classifier.from_pretrained(model)(name, top_k=2)
        expected.append(f"{name}  {first['label']} {first['score']:.1%}  {second['label']} {second['score']:.1%}")
    assert (code, lines, errors) == (0, expected, [TITLE])


@pytest.mark.parametrize(
    ("reliability", "verdict", "text"),
    [
        (Reliability(threshold=0.0), "sure", ""),
        (Reliability(threshold=1.0), "not sure", "Not sure:  "),
        (Reliability(subspace=NOTHING.encode(), most_distance=0.0), "none", "None of these, most likely:  "),
    ],
)
def test_predict_prints_the_verdict(
    capfd: pytest.CaptureFixture[str],
    model: Path,
    images: Path,
    tmp_path: Path,
    reliability: Reliability,
    verdict: str,
    text: str,
) -> None:
    changed = ResNet.from_pretrained(model)
    changed.config = replace(changed.config, reliability=reliability)
    folder = changed.save_pretrained(tmp_path / "changed")
    name = images / "a.png"
    best = Classifier.from_pretrained(model)(name, top_k=1)[0]
    _, lines, _ = run(capfd, "predict", name, "--model", folder, "--top-k", "1")
    assert lines == [f"{name}  {text}{best['label']} {best['score']:.1%}"]
    _, lines, _ = run(capfd, "predict", name, "--model", folder, "--json")
    assert json.loads(lines[0])["verdict"] == verdict


def test_predict_gives_json_lines(capfd: pytest.CaptureFixture[str], model: Path, images: Path) -> None:
    code, lines, errors = run(capfd, "predict", images, "--model", model, "--json")
    results = [json.loads(line) for line in lines]
    assert (code, errors) == (0, [TITLE])
    assert [result["file"] for result in results] == [str(images / name) for name in ("a.png", "b.jpg", "more/c.png")]
    for result in results:
        assert {one["label"] for one in result["labels"]} == {"cat", "dog", "雏菊"}
        assert sum(one["score"] for one in result["labels"]) == pytest.approx(1)


def test_predict_reports_unreadable_files_and_labels_the_others(
    capfd: pytest.CaptureFixture[str], model: Path, images: Path
) -> None:
    (images / "bad.png").write_bytes(b"no image")
    (images / "empty").mkdir()
    missing, empty = images / "missing.png", images / "empty"
    code, lines, errors = run(capfd, "predict", missing, empty, images, "--model", model)
    assert code == 1
    assert len(lines) == 3
    assert errors.pop(0) == TITLE
    assert [error.split(": ")[0] for error in errors] == [
        f"skipped {missing}",
        f"skipped {empty}",
        f"skipped {images / 'bad.png'}",
    ]
    assert all(error.endswith(".") for error in errors)


def test_predict_writes_a_table(capfd: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path) -> None:
    (images / "bad.png").write_bytes(b"no image")
    table = tmp_path / "new" / "table.csv"
    code, lines, errors = run(capfd, "predict", images, "--model", model, "--top-k", "9", "--csv", table)
    assert (code, lines, len(errors)) == (1, [], 2)
    with table.open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    columns = ["file", "label", "score", "verdict", "label_2", "score_2", "label_3", "score_3", "error"]  # of 3 classes
    names = [str(images / name) for name in ("a.png", "b.jpg", "bad.png", "more/c.png")]
    assert list(rows) == names and list(rows[names[0]]) == columns
    best, second, _ = Classifier.from_pretrained(model)(names[0])
    assert rows[names[0]]["label"] == best["label"] and float(rows[names[0]]["score"]) == pytest.approx(best["score"])
    assert rows[names[0]]["label_2"] == second["label"]
    assert rows[names[2]]["error"].startswith("Cannot read bad.png") and rows[names[2]]["label"] == ""
    code, _, errors = run(capfd, "predict", images, "--model", "no/such/model", "--csv", table)
    assert code == 2 and len(table.read_text(encoding="utf-8").splitlines()) == 5  # the old table stays


def test_control_characters_in_names_are_escaped(
    capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    good = tmp_path / "two\nlines \x1b[31m.png"
    Image.new("RGB", (20, 24)).save(good)
    code, lines, errors = run(capfd, "predict", good, tmp_path / "\x1b[2J.png", "--model", model)
    assert code == 1
    assert (len(lines), len(errors)) == (1, 2)
    assert "\x1b" not in lines[0] + errors[1]
    assert lines[0].startswith(ascii(str(good)) + "  ")


def test_any_file_name_and_label_are_printed_in_any_encoding(
    capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/na\xefve.png")
    Image.new("RGB", (20, 24)).save(name)
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [*COMMAND, "predict", name, "--model", str(model)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, TITLE + "\n")
    assert b"\\u96cf\\u83ca" in done.stdout
    assert b"na\\udcefve.png" in done.stdout
    _, lines, _ = run(capfd, "predict", name, "--model", model, "--json")
    assert json.loads(lines[0])["file"] == name


def test_results_are_streamed_and_ctrl_c_exits_without_a_traceback(model: Path, images: Path) -> None:
    command = [*COMMAND, "predict", *[str(images)] * 5000, "--model", str(model)]
    # If the tests run as a background job of a shell, their processes would ignore Ctrl-C.
    with_sigint: Any = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **with_sigint) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(bytes(images / "a.png"))
        process.send_signal(signal.SIGINT)
        lines = process.stdout.readlines()
        errors = process.stderr.readlines()
        assert len(errors) == 1 and errors[0].startswith(b"title: "), errors
        assert process.wait() == 130
    assert len(lines) < 14_000


def test_a_closed_pipe_exits_without_a_traceback(model: Path, images: Path) -> None:
    command = [*COMMAND, "predict", *[str(images)] * 5000, "--model", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        (title,) = process.stderr.readlines()
        assert title.startswith(b"title: ")
        assert process.wait() == 141


def test_progress_is_shown_on_a_terminal(model: Path, images: Path) -> None:
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [*COMMAND, "predict", str(images), "--model", str(model)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    assert b" 0/3 " in os.read(screen, 4096)
    os.close(screen)
    assert len(done.stdout.splitlines()) == 3


def test_predict_uses_the_preferred_model_if_the_hub_has_it(
    capfd: pytest.CaptureFixture[str], model: Path, images: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = hub.repos["user/preferred"] = Repo()
    repo.commit("main", {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}, "A model")
    monkeypatch.setenv("RESNET_HUB_MODEL", "user/preferred")
    code, lines, errors = run(capfd, "predict", images)
    assert (code, errors) == (0, ["model: user/preferred", TITLE])
    assert lines == run(capfd, "predict", images, "--model", model)[1]


@pytest.mark.parametrize("damage", ["no head", "cut", "channels"])
def test_predict_uses_the_included_model_if_the_preferred_one_cannot_serve(
    capfd: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path, monkeypatch: Any, damage: str
) -> None:
    preferred = ResNet.from_pretrained(model)
    if damage == "no head":
        preferred.reset_head()
    folder = preferred.save_pretrained(tmp_path / "preferred")
    if damage != "no head":
        damage_base(folder, damage)
    monkeypatch.setenv("RESNET_HUB_MODEL", str(folder))
    monkeypatch.setattr("resnet_hub.included_models.INCLUDED_FOLDER", model.parent)
    monkeypatch.setattr("resnet_hub.included_models.DEFAULT_MODEL_NAME", model.name)
    code, lines, errors = run(capfd, "predict", images)
    assert code == 0 and errors[0].startswith(f"using the included model {model.name}: ")
    assert errors[0].endswith("RESNET_HUB_MODEL names that model.")
    assert lines == run(capfd, "predict", images, "--model", model)[1]
    monkeypatch.setattr("resnet_hub.included_models.DEFAULT_MODEL_NAME", "missing")
    code, _, errors = run(capfd, "predict", images)
    assert code == 2 and "RESNET_HUB_MODEL names that model. This installation has no default model." in errors[0]
    monkeypatch.setattr("resnet_hub.included_models.INCLUDED_FOLDER", folder.parent)
    monkeypatch.setattr("resnet_hub.included_models.DEFAULT_MODEL_NAME", folder.name)
    code, _, errors = run(capfd, "predict", images)
    assert code == 2 and errors[0].endswith("RESNET_HUB_MODEL names that model.")  # there is no other


def test_the_terms_of_a_license_are_said_before_a_push(
    capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    network = ResNet.from_pretrained(model)
    network.card = None
    folder = network.save_pretrained(tmp_path / "bound", card=CardContent(license="cc-by-nc-4.0"))
    said = "The license cc-by-nc-4.0 does not allow commercial use of the model, nor of models trained from it"
    assert said in (folder / "README.md").read_text(encoding="utf-8")
    code, _, errors = run(capfd, "push", folder, "user/bound", "--dry-run")
    assert code == 0 and errors[0].startswith(said)
    free = network.save_pretrained(tmp_path / "free", card=CardContent(license="apache-2.0"))
    assert "commercial" not in (free / "README.md").read_text(encoding="utf-8")
    assert run(capfd, "push", free, "user/free", "--dry-run")[2] == []


def test_the_default_model_is_on_the_shelf(
    capfd: pytest.CaptureFixture[str], model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_hub.included_models.INCLUDED_FOLDER", model.parent)
    monkeypatch.setattr("resnet_hub.included_models.DEFAULT_MODEL_NAME", model.name)
    code, _, errors = run(capfd, "predict", images)
    assert code == 0 and errors[0].startswith(
        f"using the included model {model.name}: There is no folder and no model on the Hub named timm/"
    )
    assert run(capfd, "info")[1][0].endswith(str(model))
    monkeypatch.setattr("resnet_hub.included_models.INCLUDED_FOLDER", model / "nowhere")
    missing = "This installation has no default model. Name a checkpoint folder or a Hub model (user/name)."
    assert run(capfd, "info") == (2, [], [f"error: {missing}"])
    code, lines, errors = run(capfd, "predict", images)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert errors[0].startswith("error: There is no folder and no model on the Hub named timm/")
    assert errors[0].endswith(missing)


# info


def test_info_in_text(capfd: pytest.CaptureFixture[str], model: Path) -> None:
    code, lines, errors = run(capfd, "info", model)
    config = ResNet.from_pretrained(model).config
    assert (code, errors) == (0, [])
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert rows == {
        "model": str(model),
        "title": "ResNet with 3 labels",
        "purpose": "A residual network (He et al. 2015, resnet_custom) that classifies images into one of 3 labels: "
        f"{config.num_parameters:,} parameters, 0.00079 billion multiply-adds per image.",
        "architecture": "resnet_custom",
        "blocks": "1 + 1 + 1 basic, shortcut A",
        "weights": "77 kB of float32",
        "parameters": f"{config.num_parameters:,}",
        "multiply-adds": f"{config.multiply_adds:,} per image",
        "labels": "3: cat, dog, 雏菊",
        "resize": "short side to 16 pixels, bilinear",
        "crop": "16 x 16 pixels from the center",
        "mean": "0.4914, 0.4822, 0.4465",
        "std": "0.247, 0.2435, 0.2616",
        "accuracy": "0.8125 on Pets, test",
    }


def test_info_in_json(capfd: pytest.CaptureFixture[str], model: Path) -> None:
    code, lines, errors = run(capfd, "info", model, "--json")
    facts = json.loads("\n".join(lines))
    assert (code, errors) == (0, [])
    assert ResNetConfig.from_dict(facts["config"]) == ResNet.from_pretrained(model).config
    assert facts["metrics"] == [{"name": "accuracy", "value": 0.8125, "dataset": "Pets", "split": "test"}]


def test_info_of_timm_models(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet50", "num_classes": 1000}')
    code, lines, _ = run(capfd, "info", tmp_path)
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert (code, rows["architecture"], rows["parameters"]) == (0, "resnet50", "25,557,032")
    assert rows["labels"].startswith("1000: tench, Tinca tinca, goldfish")  # as timm and transformers take them
    (tmp_path / "config.json").write_text('{"architecture": "resnet50"}')
    for card in (
        "---\nmodel-index: [1, {results: 2}]\n---\n",
        "---\na: 2023-99-99\n---",
        "---\n" + "[" * 9999 + "\n---\n",
    ):
        (tmp_path / "README.md").write_text(card)
        code, lines, errors = run(capfd, "info", tmp_path)
        assert (code, errors) == (0, [])
        assert dict(line.split(maxsplit=1) for line in lines)["labels"].startswith("1000: tench")


def test_info_reads_no_weights_and_imports_no_torch(model: Path) -> None:
    program = (
        f"import sys; from resnet_hub.cli import main; main(['info', {str(model)!r}]); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_info_of_a_model_on_the_hub(capfd: pytest.CaptureFixture[str], model: Path, hub: Hub) -> None:
    ResNet.from_pretrained(model).push_to_hub("user/tiny", token=WRITER)
    code, lines, errors = run(capfd, "info", "user/tiny")
    assert (code, errors) == (0, [])
    assert lines[0].split() == ["model", "user/tiny"]
    assert lines[-1].split(maxsplit=1) == ["accuracy", "0.8125 on Pets, test"]
    code, lines, errors = run(capfd, "info", "user/other")
    assert (code, lines, len(errors)) == (2, [], 1)


# train and push


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """Two classes of sixteen plain images each."""
    for label, color in {"blue": (30, 40, 200), "red": (200, 40, 30)}.items():
        (tmp_path / "colors" / label).mkdir(parents=True)
        for number in range(16):
            shade = tuple(channel + 3 * number for channel in color)
            Image.new("RGB", (16, 16), shade).save(tmp_path / "colors" / label / f"{number}.png")
    return tmp_path / "colors"


def test_data_report_and_export(capfd: pytest.CaptureFixture[str], colors: Path, tmp_path: Path) -> None:
    (colors / "red" / "16.png").write_bytes(b"no image")
    code, lines, errors = run(capfd, "data", "report", colors)
    assert (code, errors) == (1, []) and any("red/16.png" in line for line in lines)
    code, lines, errors = run(capfd, "data", "report", colors, "--json")
    classes = json.loads("\n".join(lines))["classes"]
    assert (code, errors) == (1, []) and sum(row["images"] for row in classes) == 32  # without the unreadable one
    code, lines, errors = run(capfd, "data", "export", colors, tmp_path / "packed.zip")
    assert (code, lines, errors) == (0, [str(tmp_path / "packed.zip")], [])
    code, lines, errors = run(capfd, "data", "export", tmp_path / "packed.zip", tmp_path / "again.zip", "--json")
    facts = json.loads(lines[0])
    assert (code, facts["images"], errors) == (0, {"train": 33}, [])
    (colors / "red" / "17.png").touch()
    code, lines, errors = run(capfd, "data", "export", colors, tmp_path / "without.zip", "--json")
    assert (code, json.loads(lines[0])["images"]) == (0, {"train": 33})
    assert errors == ["left out 1 image: Cannot read red/17.png: the file is empty. Save it again"]
    assert facts["bytes"] == (tmp_path / "again.zip").stat().st_size == (tmp_path / "packed.zip").stat().st_size
    code, lines, errors = run(capfd, "data", "report", tmp_path / "absent", "--json")
    assert (code, lines, len(errors)) == (2, [], 1)


def test_train_prints_each_epoch_and_the_same_command_resumes(
    capfd: pytest.CaptureFixture[str], model: Path, colors: Path, tmp_path: Path
) -> None:
    settings = ["--run", tmp_path / "run", "--data", colors, "--base", model, "--epochs", "1", "--precision", "fp32"]
    settings += ["--seed", "5"]
    code, lines, errors = run(capfd, "train", *settings)
    assert (code, errors) == (0, [])
    assert lines[0].startswith("26 images of 2 classes, 6 to evaluate on (20% held out)")
    assert lines[1].startswith("Warning: Fewer than 20 training images: blue (16)")
    assert [line.split()[:2] for line in lines[-3:-1]] == [["epoch", "0"], ["epoch", "1"]]
    assert re.match(r"accuracy .*% \(\d of 6, 95% interval \d+ to \d+%\) on 20% held out after ", lines[-1])
    assert lines[-1].endswith(str(tmp_path / "run" / "model"))
    assert ResNet.from_pretrained(tmp_path / "run" / "model").config.labels == ["blue", "red"]

    code, lines, errors = run(capfd, "train", "--run", tmp_path / "run", "--json")
    events = [json.loads(line) for line in lines]
    assert (code, errors) == (0, [])
    assert (events[0]["event"], events[0]["epoch"], events[-1]["event"]) == ("Started", 1, "Finished")

    code, lines, errors = run(capfd, "train", *settings, "--seed", "7")
    assert (code, lines, len(errors)) == (2, [], 1)
    assert "has seed 5, not 7" in errors[0]
    code, lines, errors = run(capfd, "train", "--run", tmp_path / "run", "--seed", "0")  # the default, but set
    assert (code, len(errors)) == (2, 1) and "has seed 5, not 0" in errors[0]


QUICK = ("--recipe", "head", "--precision", "fp32")


def test_the_card_of_a_run_has_its_command_and_no_local_path(
    capfd: pytest.CaptureFixture[str], model: Path, colors: Path, tmp_path: Path
) -> None:
    arguments = ["--recipe", "head", "--balance", "loss", "--no-nesterov"]
    assert run(capfd, "train", "--out", tmp_path / "run", "--data", colors, "--base", model, *arguments)[0] == 0
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "resnet-hub train --data colors --run run --base tiny --recipe head --balance loss\n" in card
    assert str(tmp_path) not in card
    included = ["train", "--out", tmp_path / "of-included", "--base", "resnet20-cifar10", *QUICK]
    assert run(capfd, *included, "--data", colors)[0] == 0
    of_included = (tmp_path / "of-included" / "model" / "README.md").read_text(encoding="utf-8")
    assert "--base resnet20-cifar10 " in of_included and str(INCLUDED_FOLDER) not in of_included
    path = str(INCLUDED_FOLDER / "resnet20-cifar10")
    assert run(capfd, *included[:4], path, *QUICK)[0] == 0  # resumed under the same model's path
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    uncertainty = describe_uncertainty(evaluation["accuracy"], evaluation["num_images"])
    assert uncertainty.endswith("%")
    assert f"| accuracy | {evaluation['accuracy']:.2%} ({uncertainty}) |".replace("%", " %") in card


def test_without_a_run_directory_one_is_named_after_the_data(
    capfd: pytest.CaptureFixture[str], model: Path, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(colors)
    archive = shutil.make_archive(str(tmp_path / "My colors"), "zip", colors)
    for data, name in ((colors, "colors"), (".", "colors-2"), (archive, "My-colors")):
        code, lines, errors = run(capfd, "train", "--data", data, "--base", model, *QUICK)
        assert (code, errors) == (0, [f"run: {Path('runs', name)}"])
        assert lines[-1].endswith(str(Path("runs", name, "model"))) and Path("runs", name, "run.json").is_file()
    code, _, errors = run(capfd, "train", "--data", tmp_path / "nowhere", "--base", model)
    assert code == 2 and errors[0] == f"run: {Path('runs', 'nowhere')}" and not Path("runs", "nowhere").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "share with --run" in run(capfd, "train", "--data", colors)[2][0]


def test_training_starts_from_the_default_base(
    capfd: pytest.CaptureFixture[str],
    model: Path,
    colors: Path,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resnet_hub.included_models.INCLUDED_FOLDER", model.parent)
    monkeypatch.setattr("resnet_hub.included_models.DEFAULT_MODEL_NAME", model.name)
    monkeypatch.setenv("RESNET_HUB_BASE", "user/base")
    words = ["train", "--data", colors, *QUICK]
    code, lines, errors = run(capfd, *words, "--run", tmp_path / "offline")
    assert code == 0 and errors[0].startswith(f"using the included base {model.name}: There is no folder and no model")
    assert lines[0].endswith(f", from {model}")
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    hub.repos["user/base"] = repo = Repo()
    repo.commit("main", files, "A base")
    code, lines, errors = run(capfd, *words, "--run", tmp_path / "online")
    assert (code, errors) == (0, []) and lines[0].endswith(", from user/base")
    card = (tmp_path / "online" / "model" / "README.md").read_text(encoding="utf-8")
    assert "--base user/base" in card and "base_model: user/base" in card
    # a resumed run keeps its base, whatever the Hub has by now
    code, lines, errors = run(capfd, *words, "--run", tmp_path / "offline", "--base", "auto")
    assert (code, errors) == (0, []) and lines[0].endswith(f", from {model}")
    monkeypatch.setenv("RESNET_HUB_BASE", str(tmp_path / "nowhere"))
    code, lines, errors = run(capfd, *words, "--run", tmp_path / "none")
    assert (code, lines) == (2, []) and errors[0].startswith("error: RESNET_HUB_BASE is")


@pytest.mark.parametrize("damage", ["cut", "nan", "channels"])
def test_training_uses_the_included_base_if_the_preferred_one_cannot_serve(
    capfd: pytest.CaptureFixture[str], model: Path, colors: Path, tmp_path: Path, monkeypatch: Any, damage: str
) -> None:
    monkeypatch.setattr("resnet_hub.included_models.INCLUDED_FOLDER", model.parent)
    monkeypatch.setattr("resnet_hub.included_models.DEFAULT_MODEL_NAME", model.name)
    folder = damage_base(ResNet.from_pretrained(model).save_pretrained(tmp_path / "preferred"), damage)
    monkeypatch.setenv("RESNET_HUB_BASE", str(folder))
    code, lines, errors = run(capfd, "train", "--data", colors, *QUICK, "--run", tmp_path / "run")
    assert code == 0 and lines[0].endswith(f", from {model}")
    assert errors[0].startswith(f"using the included base {model.name}: ") and str(folder) in errors[0]
    assert errors[0].endswith("RESNET_HUB_BASE names that model.")


@pytest.mark.parametrize("words", [["--base", "none"], ["--architecture", "resnet20"], ["--recipe", "paper"]])
def test_training_from_random_weights(
    capfd: pytest.CaptureFixture[str], colors: Path, hub: Hub, tmp_path: Path, words: list[str]
) -> None:
    words = [*words, "--image-size", "16", "--epochs", "1", "--precision", "fp32", "--data", str(colors)]
    code, lines, errors = run(capfd, "train", *words, "--run", tmp_path / "run")
    assert (code, errors) == (0, []) and lines[0].endswith(", from random weights")
    assert "--base none" in (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert not any("timm" in request for request in hub.requests)


def test_python_takes_the_default_base_too(
    colors: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_HUB_BASE", str(model))
    for base, expected in (("auto", str(model)), (None, None)):
        config = TrainConfig(data=str(colors), run=str(tmp_path / str(base)), base=base, precision="fp32", epochs=1)
        started = next(event for event in train(replace(config, image_size=16)) if isinstance(event, Started))
        assert (started.base, started.base_note) == (expected, None)
        assert RunDir(config.run).config.base == expected


def test_ctrl_c_saves_the_run_and_the_same_command_resumes_it(model: Path, colors: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "train", "--run", str(tmp_path / "run"), "--json"]
    settings = ["--data", str(colors), "--base", str(model), "--epochs", "60", "--batch-size", "4"]
    with subprocess.Popen(
        [*command, *settings, "--precision", "fp32"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None and training.stderr is not None
        for line in training.stdout:
            if json.loads(line)["event"] == "Progress":
                training.send_signal(signal.SIGINT)
                break
        events = [json.loads(line)["event"] for line in training.stdout]
        assert training.stderr.read() == "stopping after this step; press Ctrl-C again to exit at once\n"
    assert (training.returncode, events[-1]) == (130, "Stopped")
    done = subprocess.run([*command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "Finished"


def test_ctrl_c_before_a_run_begins_stops_no_other(
    capfd: pytest.CaptureFixture[str], model: Path, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = RunLock.hold

    def interrupt(lock: RunLock, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return hold(lock, **options)

    monkeypatch.setattr(RunLock, "hold", interrupt)
    settings = ["--data", colors, "--base", model, "--run", tmp_path / "run"]
    assert run(capfd, "train", *settings) == (130, [], [])
    assert not (tmp_path / "run").exists()


def test_an_included_model_is_named_without_its_folder(
    capfd: pytest.CaptureFixture[str], images: Path, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert json.loads("".join(run(capfd, "info", "resnet20-cifar10", "--json")[1]))["architecture"] == "resnet20"
    code, lines, errors = run(capfd, "predict", images / "a.png", "--model", "resnet20-cifar10")
    assert (code, errors, len(lines)) == (0, ["title: ResNet-20 for 10 kinds of vehicles and animals, 32 pixels"], 1)
    plan = run(capfd, "train", "--data", colors, "--base", "resnet20-cifar10", "--dry-run")[1]
    assert plan[0] == "base: resnet20-cifar10"
    (tmp_path / "resnet20-cifar10").mkdir()  # a folder here has that name
    assert "resnet20-cifar10 has no config.json" in run(capfd, "info", "resnet20-cifar10")[2][0]


@pytest.mark.parametrize("name", ["nosuchfolder", "resnet20-cifar100", "weights/no/such", "a" * 300])
def test_a_model_that_is_not_there(name: str, capfd: pytest.CaptureFixture[str], hub: Hub) -> None:
    for command in (["info", name], ["predict", "a.png", "--model", name]):
        error = f"error: There is no folder {name}. A model on the Hub is named user/name."
        assert run(capfd, *command) == (2, [], [error])
    assert not hub.requests


def test_a_run_that_cannot_start_prints_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (["--data", tmp_path / "empty"], ["--data", tmp_path / "nowhere"], []):
        code, lines, errors = run(capfd, "train", "--run", tmp_path / "run", *arguments)
        assert (code, lines, len(errors)) == (2, [], 1)
        assert errors[0].startswith("error: ")
    assert not (tmp_path / "run" / "run.json").exists()


def test_search_lists_models_that_open(capfd: pytest.CaptureFixture[str], model: Path, hub: Hub) -> None:
    ours = ResNet.from_pretrained(model)
    for name, dtype in (("user/pets-small", "float16"), ("user/pets-large", None)):
        ours.push_to_hub(name, token=WRITER, dtype=dtype)
    hub.repos["user/pets-large"].downloads = 12
    hub.edit("user/pets-large", "notes.txt", "x")
    code, lines, errors = run(capfd, "search", "pets")
    assert (code, errors) == (0, [])
    assert lines == [
        "user/pets-large  resnet_custom, 3 labels, 12 downloads",
        "user/pets-small  resnet_custom, 3 labels, 0 downloads",
    ]
    hub.edit("user/pets-large", "config.json", '{"architecture": "seresnet18", "num_classes": 3}')
    code, lines, errors = run(capfd, "search", "pets", "--json")
    assert [json.loads(line)["model"] for line in lines] == ["user/pets-small"]
    assert (code, errors) == (0, ["1 more match but do not open here; `resnet-hub info` prints the reason."])
    assert run(capfd, "search", "nothing")[0] == 2
    _, lines, _ = run(capfd, "info", "user/pets-small")
    assert dict(line.split(maxsplit=1) for line in lines)["weights"] == "38.5 kB of float16"


def test_push_prints_the_url_of_the_model(
    capfd: pytest.CaptureFixture[str], hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    code, lines, errors = run(capfd, "push", model, "user/pets", "--private")
    assert (code, errors) == (0, [])
    assert lines[0].startswith(hub.url) and "user/pets" in lines[0]
    assert hub.repos["user/pets"].private
    code, lines, errors = run(capfd, "push", model, "stranger/pets")
    assert (code, lines, len(errors)) == (2, [], 1)


# convert


def test_convert_prints_detected_settings_and_replaces_the_folder(
    capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    net = ResNet.from_pretrained(model)
    weights = {f"module.{key}".replace("fc", "linear"): tensor for key, tensor in net.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, file := tmp_path / "net.pth.tar")
    (folder := tmp_path / "converted").mkdir()
    (folder / "README.md").write_text("My own words.")
    code, lines, errors = run(capfd, "convert", file, folder, "--labels", "cat,dog,雏菊", "--image-size", "16")
    assert (code, errors) == (0, [])
    topics = {line.split()[0] for line in lines}
    assert topics >= {"library", "block", "shortcut", "head", "preprocessing", "network", "saved"}
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("ignored")] == ["epoch: not weights"]
    converted = ResNet.from_pretrained(folder)
    assert (converted.config.labels, converted.config.image_size) == (["cat", "dog", "雏菊"], 16)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(converted(images), net(images))
    assert "My own words." in (folder / "README.md").read_text()

    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights.pop("module.layer1.0.bn1.bias")
    torch.save(weights, file)
    code, lines, errors = run(capfd, "convert", file, folder)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert errors[0].endswith("but does not match it: 1 missing: layer1.0.bn1.bias.")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files

    cards = {}
    for target, value in ((folder, "3"), (tmp_path / "new", "4"), (tmp_path / "new", "5")):
        three = ",".join(value * 3)
        code, _, errors = run(capfd, "convert", model / "model.safetensors", target, "--mean", three, "--std", three)
        assert (code, errors) == (0, [])
        assert ResNet.from_pretrained(target).config.std == (float(value),) * 3
        cards[value] = (target / "README.md").read_text()
    assert "My own words." in cards["3"]
    assert "deviation 4, 4, 4" in cards["4"] and "deviation 5, 5, 5" in cards["5"]


class Payload:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_convert_reads_the_settings_beside_the_weights(
    capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    shutil.copy(model / "model.safetensors", tmp_path)
    for content, feature in (
        ('{"architecture": "resnetblur50", "num_classes": 3}', "blur-pool"),
        ('{"architecture": "resnet50", "model_args": {"output_stride": 16}}', "dilated convolutions"),
        ('{"architecture": "resnet50", "model_args": {"aa_layer": "avg"}}', "anti-aliasing"),
    ):
        (tmp_path / "config.json").write_text(content)
        code, _, [error] = run(capfd, "convert", tmp_path / "model.safetensors", tmp_path / "out")
        assert code == 2 and feature in error and "config.json says" in error
    for content in ('{"architecture": "resnet50.a1_in1k"}', "[1]", "{"):
        (tmp_path / "config.json").write_text(content)
        assert run(capfd, "convert", tmp_path / "model.safetensors", tmp_path / "out")[0] == 0


def test_convert_never_executes_a_pickle(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "args": Payload(tmp_path / "marker")}, file := tmp_path / "bad.pt")
    code, lines, errors = run(capfd, "convert", file, tmp_path / "out")
    assert (code, lines, len(errors)) == (2, [], 1)
    assert "mkdir. It was not opened, and nothing was run" in errors[0]
    assert list(tmp_path.iterdir()) == [file]


# Errors


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["prognosticate"],
        ["predict"],
        ["predict", "a.png", "--top-k", "0"],
        ["predict", "a.png", "--csv", "a.csv", "--json"],
        ["predict", "a.png", "--top-k", "many"],
        ["info", "one", "two"],
        ["convert", "a.pth"],
        ["convert", "a.pth", "out", "--mean", "gray"],
        ["convert", "a.pth", "out", "--labels", "a,b", "--labels-from", "cifar10"],
    ],
)
def test_wrong_arguments(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, lines, errors = run(capfd, *arguments)
    assert (code, lines) == (2, [])
    assert errors[0].startswith("usage: resnet-hub")
    assert "error: " in errors[-1]


@pytest.mark.parametrize("command", ["predict", "info"])
def test_a_model_that_cannot_be_loaded_prints_one_line(
    capfd: pytest.CaptureFixture[str], images: Path, command: str
) -> None:
    for wrong in (images, images / "nowhere", images / "a.png", "no model"):
        arguments = ["predict", images, "--model", wrong] if command == "predict" else ["info", wrong]
        code, lines, errors = run(capfd, *arguments)
        assert (code, lines, len(errors)) == (2, [], 1)
        assert errors[0].startswith("error: ")


def test_an_unknown_device_prints_one_line(capfd: pytest.CaptureFixture[str], model: Path, images: Path) -> None:
    code, lines, errors = run(capfd, "predict", images, "--model", model, "--device", "abacus")
    assert (code, lines) == (2, [])
    assert errors == ["error: There is no device 'abacus'; use cpu, cuda, cuda:1 or mps."]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_prints_one_line(model: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "info", str(model)], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_version_and_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(capfd, "--version") == (0, [f"resnet-hub {__version__}"], [])
    code, lines, _ = run(capfd, "predict", "--help")
    assert code == 0
    assert "exit codes:" in lines and any(line.startswith("  1  ") for line in lines)
    assert not any(line.startswith("  1  ") for line in run(capfd, "info", "--help")[1])  # it reads no list of images
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert {"predict", "info"} <= set(done.stdout.split())


# reproduce, and the analysis of info


def test_info_with_an_image_adds_anatomy_and_residual_ratios(
    capfd: pytest.CaptureFixture[str], model: Path, images: Path
) -> None:
    code, lines, errors = run(capfd, "info", model, "--image", images / "a.png")
    assert (code, errors) == (0, [])
    first, second = (index for index, line in enumerate(lines) if not line)
    table, equations = lines[first + 1 : second], lines[second + 1 :]
    assert equations[0].split() == ["modules", "equation", "section"]
    assert re.fullmatch(
        r"layer2\.0, layer3\.0 +y = relu\(F\(x\) \+ pad\(x\)\), F.* +section 3\.3, option A.*", equations[3]
    )
    assert table[0].endswith("residual / shortcut")
    assert [line.split()[0] for line in table] == ["module", "stem", "layer1.0", "layer2.0", "layer3.0", "head"]
    assert re.fullmatch(r"layer2\.0 +16 x 8 x 8 +3,520 +221,184 +zero padding \(A\) +\d+\.\d\d", table[3])
    _, lines, _ = run(capfd, "info", model, "--image", images / "a.png", "--json")
    parts = json.loads("\n".join(lines))["anatomy"]
    assert [part["residual_ratio"] is not None for part in parts] == [False, True, True, True, False]
    assert sum(part["num_parameters"] for part in parts) == ResNet.from_pretrained(model).config.num_parameters
    _, lines, _ = run(capfd, "info", "plain20-cifar10", "--image", images / "a.png")  # whose blocks have no residual
    assert lines[lines.index("") + 1].endswith("|y - x| / |x|")
    code, _, errors = run(capfd, "info", model, "--image", images / "none.png")
    assert code == 2 and "none.png" in errors[0]


def test_reproduce_lesion_of_named_models(capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    for number, label in enumerate(("cat", "dog")):
        (folder := tmp_path / "data" / "test" / label).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (20, 24), (90 * i, 100 * number, 0)).save(folder / f"{i}.png")
    command = ("reproduce", "lesion", "--model", model, "--data", tmp_path / "data", "--fast")
    code, lines, errors = run(capfd, *command, "--plots", tmp_path / "plots")
    assert (code, errors) == (0, [])
    assert lines[1].startswith("tiny: a block's removal costs") and "at most 5 points" in lines[1]
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["lesion-one-block.png"]
    _, lines, _ = run(capfd, *command, "--json")
    assert len(json.loads("\n".join(lines))["numbers"]["tiny"]["lesions"]) == 3
    words = ("--images", 4, "--draws", 2, "--jpeg-quality", 75)  # as the recorded networks
    _, lines, errors = run(capfd, *command[:-1], "--json", *words)
    assert errors == []
    record = json.loads("\n".join(lines))["numbers"]["tiny"]
    assert record["data"] == "data encoded again as JPEG, quality 75" and record["num_images"] == 4
    assert [len(point["accuracies"]) for point in record["removal"]] == [2] * len(record["removal"])
    twins = tmp_path / "twins" / "tiny"
    shutil.copytree(model, twins)
    _, lines, errors = run(capfd, *command[:-1], "--fast", "--json", "--model", model, twins)
    assert errors == [] and set(json.loads("\n".join(lines))["numbers"]) >= {str(model), str(twins)}
    code, _, errors = run(capfd, "reproduce", "lesion", "--model", model, "--data", tmp_path / "nowhere")
    assert code == 2 and len(errors) == 1


def test_reproduce_paths(capfd: pytest.CaptureFixture[str], model: Path, images: Path, tmp_path: Path) -> None:
    command = ("reproduce", "paths", "--model", model, "--fast")
    code, lines, errors = run(capfd, *command, "--image", images / "a.png", "--plots", tmp_path / "plots")
    assert (code, errors) == (0, []) and "of 3 blocks" in lines[1] and "images a.png" in lines[-2]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"paths-shares.png", "paths-norms.png"}
    content = json.loads("\n".join(run(capfd, *command, "--json")[1]))
    assert content["numbers"]["share of paths"] == [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    assert sum(content["numbers"]["share of gradient"]) == pytest.approx(1)
    code, _, errors = run(capfd, "reproduce", "paths", "--model", "plain20-cifar10")
    assert code == 2 and "is plain: it has one path" in errors[0]


def test_the_commands_of_records_are_commands() -> None:
    from resnet_hub.cli import reproduce

    parse = cli.create_parser().parse_args
    for record in list_lesions():
        program, *words = record.command.split()
        if program == "resnet-hub":
            arguments = parse(words)
            assert arguments.model == [f"{record.network}-cifar10"] and (INCLUDED_FOLDER / arguments.model[0]).is_dir()
            assert (arguments.images, arguments.jpeg_quality) == (record.study.num_images, 75)
            assert arguments.draws == len(record.removal[0].accuracies)
    words = ["reproduce", "shortcuts", "--data", "a b", "--work", "runs/cifar", "--seeds", "2", "--seed", "0"]
    assert reproduce._format_command(parse(words)) == shlex.join(["resnet-hub", *words])


def test_recorded_experiments_are_printed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", create_record("plain20", 0, 0.5))
    (tmp_path / LESIONS).mkdir()
    write_lesions(tmp_path / LESIONS / "a.json", create_lesions("plain20-seed0", [0.2, 0.1], accuracy=0.9))
    code, lines, errors = run(capfd, "reproduce", "lesion", "--recorded", tmp_path)
    assert (code, errors) == (0, []) and lines[1].startswith("plain20: a block's removal costs")
    _, lines, _ = run(capfd, "reproduce", "degradation", "--recorded", tmp_path)
    assert "no record of plain56" in lines[1] and "recorded plain20-seed0" in lines[-2]
    _, lines, _ = run(capfd, "reproduce", "tables", "--recorded", tmp_path, "--json")
    assert json.loads("\n".join(lines))["numbers"]["commands"] == {"plain20-seed0": "resnet-hub reproduce"}
    code, _, errors = run(capfd, "reproduce", "shortcuts", "--recorded", tmp_path / "nowhere")
    assert code == 2 and "There is no folder" in errors[0]
    for words in (("lesion", "--model", "a/b"), ("lesion", "--data", "x"), ("degradation", "--fast")):
        code, _, errors = run(capfd, "reproduce", *words, "--recorded")
        assert code == 2 and f"{words[1]} has no effect with --recorded" in errors[0]
    assert run(capfd, "reproduce", "tables")[0] == 0


def test_reproduce_identity_repeats_with_its_seed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnet_hub.cli import reproduce

    monkeypatch.setattr(reproduce, "_FAST_IDENTITY", {"blocks": 1, "steps": 5})
    results = []
    for seed in ("3", "3", "4"):
        code, lines, _ = run(capfd, "reproduce", "identity", "--fast", "--json", "--seed", seed)
        assert code == 0
        results.append(json.loads("\n".join(lines))["numbers"])
    assert results[0] == results[1] != results[2]
    assert run(capfd, "reproduce", "identity", "--seed", "-1")[0] == 2
    assert run(capfd, "reproduce", "perpetuum-mobile")[0] == 2
