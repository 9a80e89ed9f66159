"""The pictures by their pixels: what is where, in which color, and how large."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from resnet_hub.evaluation.metrics import ClassScore, Evaluation
from resnet_hub.evaluation.plots import LABELED_CLASSES, NUMBERED_CLASSES, plot_confusion_matrix, plot_training_curves
from resnet_hub.training.events import Epoch

BLUE, ORANGE, WHITE = (29, 78, 216), (217, 95, 2), (255, 255, 255)


def evaluation(confusion, labels=None, split="test"):
    confusion = np.asarray(confusion)
    labels = labels or [f"class {index}" for index in range(len(confusion))]
    return Evaluation(
        split=split,
        tta=False,
        num_images=int(confusion.sum()),
        skipped=0,
        accuracy=confusion.trace() / confusion.sum(),
        top5=1.0,
        macro_f1=0.5,
        loss=0.5,
        calibration_error=0.1,
        classes=tuple(
            ClassScore(label, 0.5, 0.5, 0.5, int(row.sum())) for label, row in zip(labels, confusion, strict=True)
        ),
        confusion=confusion,
        worst=(),
    )


def share_of(picture: Image.Image, color: tuple[int, int, int]) -> float:
    return float((np.asarray(picture) == color).all(2).mean())


def box_of(picture: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what has this color."""
    rows, columns = np.nonzero((np.asarray(picture) == color).all(2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_cells_are_where_their_classes_are():
    """All of class 0 right, all of class 1 taken for class 2, class 2 never seen: three cells tell it."""
    picture = plot_confusion_matrix(evaluation([[4, 0, 0], [0, 0, 9], [0, 0, 0]]))
    area = picture.crop((0, 0, picture.width, picture.height - 100))  # without the legend
    left, top, right, bottom = box_of(area, BLUE)
    cell = right - left + 2
    assert abs(cell - (bottom - top + 2)) <= 2
    other = box_of(area, ORANGE)
    assert other[0] - left == pytest.approx(2 * cell, abs=2)
    assert other[1] - top == pytest.approx(cell, abs=2)
    for row, column in ((0, 1), (1, 1), (2, 0), (2, 2)):  # white, no number, no division by nothing
        at = (left + column * cell + 3, top + row * cell + 3)
        assert picture.crop((*at, at[0] + cell - 8, at[1] + cell - 8)).getcolors() == [((cell - 8) ** 2, WHITE)]


def test_a_larger_share_is_darker_whatever_the_size_of_the_class():
    def brightness(right, wrong):
        picture = plot_confusion_matrix(evaluation([[right, wrong], [0, 1000]]))
        _, top, right, bottom = box_of(picture.crop((0, 0, picture.width, picture.height - 100)), BLUE)
        return sum(picture.getpixel((right - 8, top - (bottom - top) + 4)))  # the cell above: class 0 taken for 1

    assert brightness(50, 50) < brightness(90, 10) < brightness(99, 1) < 3 * 255
    assert brightness(9, 1) == brightness(900, 100)


@pytest.mark.parametrize("classes", [1, 2, NUMBERED_CLASSES, NUMBERED_CLASSES + 1, LABELED_CLASSES, 51, 200, 2500])
def test_any_number_of_classes_fits(classes):
    picture = plot_confusion_matrix(evaluation(np.eye(classes, dtype=int)))
    assert picture.mode == "RGB"
    assert 500 <= picture.width <= 2500 and picture.height <= 2500
    assert share_of(picture, WHITE) > 0.4


def test_long_labels_are_cut_and_letters_without_a_font_numbered():
    short = plot_confusion_matrix(evaluation([[1, 0], [0, 1]], ["a", "b"]))
    long = plot_confusion_matrix(evaluation([[1, 0], [0, 1]], ["a" * 900, "b"]))
    assert short.width < long.width < short.width + 400
    numbered = plot_confusion_matrix(evaluation([[1, 0], [0, 1]], ["class 0", "b"]))
    assert plot_confusion_matrix(evaluation([[1, 0], [0, 1]], ["\N{EGYPTIAN HIEROGLYPH A001}", "b"])) == numbered
    assert plot_confusion_matrix(evaluation([[1, 0], [0, 1]], ["klas 0", "b"])) != numbered


def epoch(number, train=1.0, validation=1.0, accuracy=0.5, best=False):
    return Epoch(number, train, validation, accuracy, best, 0.1, 1.0)._asdict()


def test_curves_run_from_the_first_epoch_to_the_last():
    """Training loss falls, validation loss rises: the lines cross, and each ends where it should."""
    picture = plot_training_curves([epoch(n, train=2 - n / 5, validation=1 + n / 5) for n in range(6)])
    loss = picture.crop((0, 80, picture.width, picture.height // 2 - 80))  # without title and legend
    pixels = np.asarray(loss)
    train, validation = ((pixels == color).all(2) for color in (BLUE, ORANGE))
    columns = np.flatnonzero(train.any(0))
    first, last = columns[0] + 6, columns[-1] - 6  # the middle of a dot
    assert last - first > loss.width * 0.6
    for column, upper, lower in ((first, train, validation), (last, validation, train)):
        assert np.flatnonzero(upper[:, column]).mean() < np.flatnonzero(lower[:, column]).mean() - 100


def test_the_kept_epoch_has_a_ring_in_both_panels():
    epochs = [epoch(n, accuracy=0.5 + n / 20, best=n in (1, 3)) for n in range(6)]
    ringed, plain = plot_training_curves(epochs), plot_training_curves([entry | {"best": False} for entry in epochs])
    middle = ringed.height // 2
    for top in (80, middle + 80):  # below the titles
        one, other = (np.asarray(picture)[top : top + middle - 80] for picture in (ringed, plain))
        changed = np.nonzero((one != other).any(2))[1]
        assert np.median(changed) == pytest.approx(120 + 3 / 5 * 720, abs=15)  # epoch 3 of 0 to 5, at 60 to 420 units


@pytest.mark.parametrize(
    "history",
    [
        [],
        [epoch(0, train=float("nan"), best=True)],
        [epoch(1, validation=None, accuracy=None)],
        [epoch(n, train=float("inf"), validation=1e9 * n, accuracy=1.0, best=True) for n in range(3)],
        [epoch(n, train=0.0, validation=1e-9, accuracy=0.0) for n in range(300)],
    ],
)
def test_any_history_can_be_drawn(history):
    picture = plot_training_curves(history)
    assert picture.size == (880, 1000)
    assert share_of(picture, WHITE) > 0.8
    known = any(entry["accuracy"] is not None for entry in history)
    below = picture.crop((0, picture.height // 2 + 90, picture.width, picture.height))
    assert (share_of(below, ORANGE) > 0) == known


def test_formulas_and_line_breaks_in_labels_are_plain_text():
    labels = [["a", "b"], ["$\\frac{$", "b"], ["two\nlines", "b"], ["two lines", "b"]]
    plain, formula, broken, joined = (plot_confusion_matrix(evaluation([[1, 0], [0, 1]], each)) for each in labels)
    assert plain.width < formula.width < broken.width
    assert broken == joined


def test_threads_draw_the_same():
    history = [epoch(n, accuracy=0.5 + n / 20, best=n == 3) for n in range(6)]
    expected = [plot_training_curves(history), plot_confusion_matrix(evaluation([[3, 1], [0, 9]]))]
    with ThreadPoolExecutor(4) as pool:
        curves = pool.map(plot_training_curves, [history] * 4)
        matrices = pool.map(plot_confusion_matrix, [evaluation([[3, 1], [0, 9]])] * 4)
        assert all(image == expected[0] for image in curves) and all(image == expected[1] for image in matrices)


def test_drawing_needs_no_torch():
    code = "import sys, resnet_hub.evaluation.plots as p; p.plot_training_curves([]); "
    code += "print({'torch', 'gradio'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
