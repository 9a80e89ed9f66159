"""Networks with statistics of their own, and calibrations of them."""

import onnx
import torch
from torch import nn

from resnet_hub.config import ResNetConfig
from resnet_hub.inference.engines import create_session
from resnet_hub.inference.onnx_graph import build_onnx, fold_batchnorm
from resnet_hub.int8_calibration import CalibrationRecord
from resnet_hub.model import ResNet


def network(seed=0, **config):
    """A model whose BatchNorms have statistics of their own."""
    torch.manual_seed(seed)
    model = ResNet(ResNetConfig(**{"id2label": dict(enumerate("abcde")), "image_size": 32} | config))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def predict_scores(classifier, images):
    """The scores (N, num_classes) of images, which are read, preprocessed and computed as for a prediction."""
    inputs = torch.stack([classifier.preprocess(image) for image in images])
    return classifier.compute_outputs(inputs).logits.softmax(1).clone()


def run(graph, batch):
    return create_session(graph).run(None, {"pixel_values": batch.numpy()})


def ranges(model, batch):
    folded = fold_batchnorm(model)
    graph = build_onnx(folded, extra="all")
    names = [value.name for value in onnx.load_from_string(graph).graph.output]
    found = dict(zip(names, run(graph, batch), strict=True)) | {"pixel_values": batch.numpy()}
    return {
        name: (min(0.0, float(values.min())), float(values.max())) for name, values in found.items() if name != "logits"
    }


def calibration(**changes):
    facts = {"weights": "0" * 64, "ranges": {"pixel_values": (-1.0, 2.0)}, "data": "some", "num_images": 3}
    return CalibrationRecord(**facts | {"accuracy": 0.9, "accuracy_int8": 0.9, "passed": True} | changes)
