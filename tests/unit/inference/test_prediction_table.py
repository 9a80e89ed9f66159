"""Predictions as a CSV table."""

import csv
import io

from resnet_hub.errors import ImageError
from resnet_hub.inference.classifier import Prediction
from resnet_hub.inference.prediction_table import write_csv


def test_every_image_has_a_row_and_no_cell_is_a_formula() -> None:
    labels = [{"label": "=1+1", "score": 0.75}, {"label": 'a "b", c', "score": 0.25}]
    results = [
        ("-x,y.jpg", Prediction(labels, "not sure")),
        ("two\nlines.jpg", ImageError("Cannot read it.")),
        ("雏菊.jpg", Prediction(labels[::-1], "sure")),
    ]
    file = io.StringIO()
    write_csv(file, results, top_k=2)
    assert list(csv.reader(io.StringIO(file.getvalue()))) == [
        ["file", "label", "score", "verdict", "label_2", "score_2", "error"],
        ["'-x,y.jpg", "'=1+1", "0.750000", "not sure", 'a "b", c', "0.250000", ""],
        ["two\nlines.jpg", "", "", "", "", "", "Cannot read it."],
        ["雏菊.jpg", 'a "b", c', "0.250000", "sure", "'=1+1", "0.750000", ""],
    ]
