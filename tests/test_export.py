"""ONNX files of a checkpoint folder."""

import numpy as np
import onnxruntime
import pytest
import torch
from hub_server import WRITER
from test_graph import network

from resnet_hub import Classifier, ResNet, cli, export
from resnet_hub.errors import CheckpointError, ResNetHubError
from resnet_hub.export import MODEL


@pytest.fixture
def folder(tmp_path):
    return network(depths=(1, 1), width=16).save_pretrained(tmp_path / "model")


def test_the_file_answers_as_the_model_does(folder):
    assert export.export(folder) == [folder / MODEL]
    model, batch = ResNet.from_pretrained(folder), torch.randn(3, 3, 32, 32)
    (logits,) = onnxruntime.InferenceSession(folder / MODEL).run(["logits"], {"pixel_values": batch.numpy()})
    with torch.no_grad():
        assert np.abs(logits - model(batch).numpy()).max() <= 1e-4


def test_from_the_terminal(folder, capsys):
    assert cli.main(["export", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"{folder / MODEL}  0.")
    assert cli.main(["export", str(folder / "nothing")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_new_weights_take_the_old_files_away(folder):
    export.export(folder)
    network(seed=1, depths=(1, 1), width=16).save_pretrained(folder)
    assert not (folder / MODEL).exists()


def test_pushed_with_the_model(hub, folder):
    model = ResNet.from_pretrained(folder)
    model.push_to_hub("user/flowers", onnx=True, token=WRITER)
    assert MODEL in hub.repos["user/flowers"].files()
    assert Classifier.from_pretrained("user/flowers").config == model.config


def test_without_the_packages(folder, monkeypatch):
    monkeypatch.setattr(export.engine, "onnx_is_here", lambda: False)
    with pytest.raises(ResNetHubError, match=r"pip install 'resnet_hub\[onnx\]'"):
        export.export(folder)


def test_a_graph_that_answers_otherwise_is_not_written(folder, monkeypatch):
    other = export.graph.build(export.graph.fold(network(seed=1, depths=(1, 1), width=16)))
    monkeypatch.setattr(export.graph, "build", lambda *_, **__: other)
    with pytest.raises(CheckpointError, match="answers otherwise than PyTorch"):
        export.export(folder)
    assert not (folder / "onnx").exists()


def test_a_disk_that_refuses(folder):
    (folder / "onnx").write_text("a file where the folder has to be")
    with pytest.raises(CheckpointError, match=r"^The ONNX files cannot be saved to "):
        export.export(folder)
