"""Every figure against scikit-learn, on scores that the classifier gives for the same pictures."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import predict_scores
from PIL import Image
from sklearn import metrics
from sklearn.calibration import calibration_curve
from torchvision.transforms import v2

from resnet_hub import cli
from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import CheckpointError, DataError, ResNetHubError
from resnet_hub.evaluation.evaluate import compute_outputs, evaluate, evaluate_outputs
from resnet_hub.evaluation.metrics import CALIBRATION_BINS, Evaluation, describe_uncertainty
from resnet_hub.inference.classifier import Classifier
from resnet_hub.model import ResNet

LABELS = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu")


def network(labels=LABELS, seed=0):
    torch.manual_seed(seed)
    config = ResNetConfig(id2label=dict(enumerate(labels)), depths=(1, 1), width=8, image_size=16, crop_pct=0.8)
    model = ResNet(config)
    model(torch.randn(32, 3, 16, 16))  # statistics of its own for the BatchNorms
    with torch.no_grad():
        model.fc.weight *= 12  # scores from all over 0..1
    return model.eval()


def pictures(count=150, seed=0, labels=LABELS, classes=None):
    """Noise of many colors and sizes; only the classes below `classes` occur."""
    random = np.random.default_rng(seed)
    shapes = random.integers(16, 40, (count, 2))
    base = random.integers(0, 256, (count, 3))
    sources = [(random.normal(base[i], 60, (*shapes[i], 3))).clip(0, 255).astype(np.uint8) for i in range(count)]
    return ImageDataset(labels, sources, random.integers(0, classes or len(labels), count))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def data():
    return pictures()


def doubled(scores):
    """Rows in float64 that sum to 1: scikit-learn clips small float32 scores, and warns of rounding."""
    scores = scores.astype(np.float64)
    return scores / scores.sum(1, keepdims=True)


def agrees(found: Evaluation, targets: np.ndarray, scores: np.ndarray) -> None:
    """All figures of `found` are those that scikit-learn has for `scores` (N, classes)."""
    classes = range(scores.shape[1])
    scores = doubled(scores)
    predicted = scores.argmax(1)
    assert found.num_images == len(targets)
    assert found.accuracy == metrics.accuracy_score(targets, predicted)
    assert found.macro_f1 == pytest.approx(metrics.f1_score(targets, predicted, average="macro", zero_division=0))
    assert found.loss == pytest.approx(metrics.log_loss(targets, scores, labels=classes), rel=1e-5)
    # of equal scores scikit-learn puts the last class first, `argmax` and the classifier the first: turned round
    top5 = metrics.top_k_accuracy_score(max(classes) - targets, scores[:, ::-1], k=5, labels=classes)
    assert found.top5 == pytest.approx(top5)
    each = metrics.precision_recall_fscore_support(targets, predicted, labels=classes, zero_division=0)
    for name, expected in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert [getattr(score, name) for score in found.classes] == pytest.approx(expected.tolist()), name
    assert (found.confusion == metrics.confusion_matrix(targets, predicted, labels=classes)).all()

    sure, right = scores.max(1), predicted == targets
    right_share, mean_score = calibration_curve(right, sure, n_bins=CALIBRATION_BINS)
    counts, _ = np.histogram(sure, np.linspace(0, 1, CALIBRATION_BINS + 1))
    expected = (np.abs(right_share - mean_score) * counts[counts > 0]).sum() / len(targets)
    assert found.calibration_error == pytest.approx(expected, abs=1e-6)


def test_every_figure_is_scikit_learns(model, data):
    scores = predict_scores(Classifier(model), data.sources).numpy()
    assert scores.max(1).min() < 0.4 and scores.max() > 0.9
    agrees(evaluate(model, data, batch_size=32), data.targets, scores)


def test_classes_that_never_occur_or_are_never_predicted(data):
    model = network()
    with torch.no_grad():
        model.fc.bias[2] = -1e3  # predicted never; the loss of its pictures stays a number
        model.fc.bias[6] = -1e3
    absent = pictures(classes=6)  # and class 6 occurs neither here nor there
    found = evaluate(model, absent)
    scores = np.clip(predict_scores(Classifier(model), absent.sources).numpy().astype(np.float64), 1e-300, None)
    assert found.classes[6].support == 0 and found.classes[6].f1 == 0 and found.confusion[6].sum() == 0
    assert found.classes[2].support > 0 and found.classes[2].precision == 0
    predicted = scores.argmax(1)
    macro = metrics.f1_score(absent.targets, predicted, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(macro)
    assert found.macro_f1 > np.mean([score.f1 for score in found.classes])
    each = metrics.precision_recall_fscore_support(absent.targets, predicted, labels=range(7), zero_division=0)
    assert [score.f1 for score in found.classes] == pytest.approx(each[2].tolist())
    assert 50 < found.loss < 1000  # float32 scores of 0 would make it infinite


def test_a_class_that_is_predicted_but_never_true_counts_into_the_mean_as_in_scikit_learn(model):
    few = pictures(classes=3)
    scores = predict_scores(Classifier(model), few.sources).numpy()
    assert set(scores.argmax(1)) - {0, 1, 2}
    agrees(evaluate(model, few), few.targets, scores)


@pytest.mark.parametrize("tied", [slice(0, 7), slice(1, 5)])
def test_equal_scores_rank_as_the_classifier_does(data, tied):
    model = network()
    with torch.no_grad():
        model.fc.weight[tied], model.fc.bias[tied] = model.fc.weight[1].clone(), model.fc.bias[1].clone()
    classify = Classifier(model)
    found = evaluate(classify, data)
    agrees(found, data.targets, predict_scores(classify, data.sources).numpy())
    best = [
        [LABELS.index(entry["label"]) for entry in row] for row in classify(data.sources, top_k=5, batch_size=len(data))
    ]
    assert found.top5 == np.mean([target in row for target, row in zip(data.targets, best, strict=True)])


def test_two_classes(data):
    two = pictures(40, labels=("no", "yes"))
    found = evaluate(network(("no", "yes")), two)
    scores = predict_scores(Classifier(network(("no", "yes"))), two.sources).numpy()
    assert found.top5 == 1 and "top-5" not in found.to_text()
    assert found.accuracy == metrics.accuracy_score(two.targets, scores.argmax(1))
    assert found.loss == pytest.approx(metrics.log_loss(two.targets, doubled(scores)), rel=1e-5)


def test_test_time_augmentation_is_the_mean_over_the_mirror_image(model, data):
    classify = Classifier(model)
    mirrored = torch.stack([classify.transform(Image.fromarray(source)) for source in data.sources]).flip(3)
    with torch.no_grad():
        scores = (predict_scores(classify, data.sources) + model(mirrored).softmax(1)) / 2
    found = evaluate(model, data, tta=True)
    agrees(found, data.targets, scores.numpy())
    assert found.tta and found.loss != evaluate(model, data).loss


@pytest.mark.parametrize("scales", [(), (16, 21, 33)])
def test_ten_crops_are_those_of_torchvision(model, data, scales):
    normalize = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.config.mean, model.config.std))
    scores = []
    for source in data.sources:
        views = []
        for scale in scales or (20,):
            resized = v2.Resize(scale, v2.InterpolationMode(model.config.interpolation))(Image.fromarray(source))
            views += [(normalize(view) - mean) / std for view in v2.TenCrop(16)(resized)]
        with torch.no_grad():
            scores.append(model(torch.stack(views)).double().softmax(1).mean(0).numpy())
    found = evaluate(model, data, crops=10, scales=scales, batch_size=7)
    agrees(found, data.targets, np.stack(scores).astype(np.float32))
    assert f"averaged over {10 * max(1, len(scales))} crops" in found.to_text()
    assert (found.crops, found.scales) == (10, scales) and found.to_dict()["scales"] == list(scales)


def test_scales_alone_average_the_center(model, data):
    assert evaluate(model, data, scales=(20,)).loss == pytest.approx(evaluate(model, data).loss, rel=1e-6)
    assert "each resized to 20 pixels" in evaluate(model, data, scales=(20,)).to_text()
    assert evaluate(model, data, scales=(16, 20)).loss != evaluate(model, data).loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": 5}, "crops is 5. Choose 1 or 10."),
        ({"scales": (20, 20_000)}, "The scale 20000 is too large. Choose scales up to 4096 pixels."),
        ({"scales": (20, 15)}, "The scale 15 is smaller than the crop. Choose scales from 16 pixels on."),
        ({"crops": 10, "tta": True}, "Ten crops include the mirror image; leave out tta, or the crops."),
    ],
)
def test_crops_that_cannot_be(model, data, options, message):
    with pytest.raises(ResNetHubError, match=re.escape(message)):
        evaluate(model, data, **options)


def test_a_line_is_too_long_for_a_large_scale(model):
    line = np.zeros((1, 9000, 3), np.uint8)
    data = ImageDataset(LABELS, [line, line[:, :2]], np.array([0, 1]))
    found = evaluate(model, data, crops=10, scales=(100,), skip_unreadable=True)
    assert (found.num_images, found.skipped) == (1, 1)


def test_same_answer_twice_and_for_any_batch_size(model, data):
    first = evaluate(model, data)
    assert first.to_json() == evaluate(model, data).to_json()
    other = evaluate(model, data, batch_size=7)
    assert (first.confusion == other.confusion).all()
    assert first.loss == pytest.approx(other.loss, rel=1e-6)


def test_labels_are_matched_by_name(model, data):
    order = np.array([3, 0, 6, 5, 1, 2, 4])
    shuffled = ImageDataset(tuple(np.array(LABELS)[order].tolist()), data.sources, np.argsort(order)[data.targets])
    assert evaluate(model, shuffled).to_json() == evaluate(model, data).to_json()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ("ant", "bee", "cat", "dog", "emu", "fox", "owl"),
            "has no label 'owl'; its labels are 'ant', 'bee', 'cat' and 4 more",
        ),
        ((*LABELS, "Ant"), "has no label 'Ant'; .*Rename those classes or leave them out"),
        (("1", "2", "3", "4", "ant"), "has no label '1', '2', '3' and 1 more; its"),
    ],
)
def test_other_labels_are_named(model, labels, message):
    with pytest.raises(DataError, match=message) as refusal:
        evaluate(model, pictures(4, labels=labels))
    assert len(str(refusal.value).splitlines()) == 1


def test_some_of_the_labels_in_another_order_are_measured_as_scikit_learn_does(model):
    few = pictures(60, labels=("gnu", "bee", "dog"))
    targets = np.array([6, 1, 3])[few.targets]
    found = evaluate(model, few)
    scores = predict_scores(Classifier(model), few.sources).numpy()
    assert set(scores.argmax(1)) - {6, 1, 3}  # which are mistakes, and count into the mean of F1
    agrees(found, targets, scores)
    assert [score.support for score in found.classes] == np.bincount(targets, minlength=7).tolist()
    assert all(score[1:] == (0, 0, 0, 0) for score in found.classes if score.label in ("ant", "cat", "emu", "fox"))
    assert {mistake.label for mistake in found.worst} <= {"gnu", "bee", "dog"}
    text = found.to_text()
    taken = int((~np.isin(scores.argmax(1), (6, 1, 3))).sum())
    assert f"\nno images of ant, cat, emu and 1 more; {taken} were classified as such\n" in text
    table = text[text.index("precision") : text.index("no images")].splitlines()[1:]
    assert [row.split()[0] for row in table] == ["bee", "dog", "gnu"]
    assert "no images of" not in evaluate(model, pictures()).to_text()


def test_a_label_that_names_two_classes_must_stand_in_the_same_place():
    model = network(("crane", "owl", "crane"))  # as in ImageNet: the bird and the machine
    assert evaluate(model, pictures(9, labels=("crane", "owl", "crane"))).num_images == 9
    for labels in (("owl", "crane", "crane"), ("owl", "crane"), ("owl", "owl")):
        with pytest.raises(DataError, match="Several classes have the label"):
            evaluate(model, pictures(9, labels=labels))
    assert evaluate(model, pictures(9, labels=("owl",))).classes[1].support == 9  # which is plain


def test_worst_mistakes_are_the_surest_and_show_their_images(model, data):
    found = evaluate(model, data, worst=5)
    scores = predict_scores(Classifier(model), data.sources)
    sure, predicted = (values.numpy() for values in scores.max(1))
    wrong = [i for i in np.argsort(-sure, kind="stable") if predicted[i] != data.targets[i]]
    assert [mistake.index for mistake in found.worst] == wrong[:5]
    for mistake in found.worst:
        assert mistake.label == LABELS[data.targets[mistake.index]]
        assert mistake.predicted == LABELS[predicted[mistake.index]]
        assert mistake.score == pytest.approx(sure[mistake.index], abs=1e-6)
        assert (np.asarray(mistake.load_image()) == data.sources[mistake.index]).all()
    assert evaluate(model, data, worst=0).worst == ()
    assert len(evaluate(model, data, worst=1000).worst) == len(wrong)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders with a train and a test split."""
    for split, count, seed in (("train", 2, 0), ("test", 3, 1)):
        images = pictures(len(LABELS) * count, seed)
        for index, source in enumerate(images.sources):
            path = tmp_path / "data" / split / LABELS[index % len(LABELS)] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source).save(path)
    return tmp_path / "data"


def test_folders_of_model_and_data(model, folder, tmp_path):
    model.save_pretrained(tmp_path / "model")
    found = evaluate(tmp_path / "model", folder)
    assert (found.split, found.num_images) == ("test", 21)
    assert found.labels == LABELS
    assert "21 images of the split test" in found.to_text()
    assert evaluate(str(tmp_path / "model"), str(folder), split="train").num_images == 14
    assert evaluate(model, folder, split="Testing").split == "test"  # as a folder may be called
    with pytest.raises(DataError, match=r"no split 'dev'\. Choose one of train, test"):
        evaluate(model, folder, split="dev")
    mistake = found.worst[0]
    assert f"{mistake.label}/" in mistake.name and mistake.name.endswith(".png")
    assert mistake.load_image().mode == "RGB"


def test_a_folder_without_training_images_is_evaluated(model, folder):
    (folder / "train").rename(folder / "val")
    assert evaluate(model, folder).num_images == 14
    assert evaluate(model, folder, split="test").num_images == 21


def test_unreadable_images_are_named_or_skipped(model, folder):
    for path in sorted((folder / "test").rglob("*.png"))[:4]:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"cannot be read: test/ant/0.png, test/ant/7.png, test/ant/14.png and 1 more"):
        evaluate(model, folder)
    found = evaluate(model, folder, skip_unreadable=True)
    assert (found.num_images, found.skipped) == (17, 4)
    assert found.classes[0].support == 0 and found.confusion.sum() == 17
    assert "4 unreadable ones skipped" in found.to_text()
    broken = ImageDataset(("ant",), [b"x", b"y"], np.zeros(2, np.int64))
    with pytest.raises(DataError, match=r"^None of the 2 images \(test\) can be read\. Cannot read image 0: "):
        evaluate(network(("ant",)), broken, split="test", skip_unreadable=True)


def test_outputs_are_evaluated_as_the_images_are_with_the_present_head(model, folder):
    next((folder / "test").rglob("*.png")).write_bytes(b"broken")
    data = load_dataset(folder)["test"]
    outputs, changed = compute_outputs(model, data), copy.deepcopy(model)
    with torch.no_grad():
        changed.fc.weight /= 2
    found = evaluate_outputs(changed, data, outputs, split="test")
    expected = evaluate(changed, data, split="test", skip_unreadable=True)
    assert found.skipped == 1
    exact = {"accuracy", "top5", "num_images", "skipped", "split", "classes"}
    assert {name: getattr(found, name) for name in exact} == {name: getattr(expected, name) for name in exact}
    assert (found.confusion == expected.confusion).all()
    assert [found.loss, found.calibration_error] == pytest.approx([expected.loss, expected.calibration_error], rel=1e-5)
    assert [mistake.name for mistake in found.worst] == [mistake.name for mistake in expected.worst]
    with torch.no_grad():
        changed.fc.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite numbers: its weights are damaged"):
        evaluate_outputs(changed, data, outputs, split="test")


def test_names_of_files_send_no_codes_to_the_terminal(model, data):
    names = [f"\x1b[31m{index}.png" for index in range(len(data))]
    found = evaluate(model, ImageDataset(LABELS, data.sources, data.targets, names))
    assert found.worst[0].name.startswith("\x1b[31m") and "\x1b" not in found.to_text()
    with pytest.raises(DataError, match=r"cannot be read: \?\[31m0.png; remove"):
        evaluate(network(("ant",)), ImageDataset(("ant",), [b"x"], np.zeros(1, np.int64), names[:1]))


def test_evaluate_refuses_unusable_models_and_data(model, data):
    with pytest.raises(DataError, match="no images"):
        evaluate(model, data.subset(np.array([], np.int64)))
    unlabeled = data.targets.copy()
    unlabeled[:2] = -1  # as test sets on the Hub have it
    with pytest.raises(DataError, match="2 of 150 images have no label"):
        evaluate(model, ImageDataset(LABELS, data.sources, unlabeled))
    with pytest.raises(DataError, match="batch_size is 0"):
        evaluate(model, data, batch_size=0)
    with pytest.raises(ResNetHubError, match="no head"):
        evaluate(ResNet(ResNetConfig(depths=(1,), width=8)), data)
    damaged = network()
    with torch.no_grad():
        damaged.fc.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="damaged"):
        evaluate(damaged, data)


def test_the_model_is_left_as_it_was_and_scored_in_float32_and_evaluation_mode(data):
    model = network()
    expected = evaluate(model, data)
    training = network().train()
    before = {key: value.clone() for key, value in training.state_dict().items()}
    assert evaluate(training, data).to_json() == expected.to_json()
    assert training.training and all(torch.equal(before[key], value) for key, value in training.state_dict().items())
    half = network().half()
    found = evaluate(half, data)
    assert half.conv1.weight.dtype == torch.float16
    assert found.to_json() == evaluate(network().half().float(), data).to_json()


def test_memory_stays_bounded_and_progress_is_reported(model, data):
    """No more pictures are read ahead than two batches hold."""

    class Watched(list):
        read = 0

        def __getitem__(self, index):
            Watched.read += 1
            return super().__getitem__(index)

    told, ahead = [], []

    def progress(done, total):
        told.append((done, total))
        ahead.append(Watched.read - done)

    evaluate(
        model, ImageDataset(LABELS, Watched(data.sources), data.targets), batch_size=20, progress=progress, worst=0
    )
    assert told == [*((done, 150) for done in range(20, 150, 20)), (150, 150)]
    assert max(ahead) <= 20


def test_an_accuracy_of_few_images_has_its_counts_and_interval():
    assert describe_uncertainty(2 / 3, 6) == "4 of 6, 95% interval 30 to 90%"
    assert describe_uncertainty(0.9, 1000) == describe_uncertainty(0.9, 0) == ""


def test_json_and_text(model, data):
    found = evaluate(model, data, split="validation")
    content = json.loads(found.to_json())
    assert content == found.to_dict()
    assert content["accuracy"] == found.accuracy and content["split"] == "validation"
    assert np.array_equal(content["confusion"], found.confusion)
    assert content["classes"][0] == found.classes[0]._asdict()
    assert content["worst"][0].keys() == {"index", "name", "label", "predicted", "score"}
    text = found.to_text()
    assert f"{found.accuracy:.2%}" in text and "150 images of the split validation" in text
    assert re.search(rf"accuracy +{found.accuracy:.2%}  {describe_uncertainty(found.accuracy, 150)}\n", text)
    rows = [line for line in text.splitlines() if line.startswith(LABELS)]
    assert len(rows) == 7 and len({len(row) for row in rows}) == 1


def test_many_or_long_or_wide_labels_stay_a_table():
    labels = ("a label of more than thirty-two letters", "猫", *(f"class {number}" for number in range(60)))
    text = evaluate(network(labels), pictures(600, labels=labels)).to_text()
    assert "... and 12 classes with a higher F1" in text
    few = evaluate(network(labels[:2]), pictures(20, labels=labels[:2])).to_text()
    assert "\na label of more than thirty-two…  " in few
    assert "\n猫" + " " * 32 in few  # two columns wide


def test_the_terminal_prints_the_metrics_of_the_library(model, folder, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), "--data", str(folder)]
    assert cli.main(command) == 0
    assert capsys.readouterr() == (evaluate(model, folder).to_text(), "")
    assert cli.main([*command, "--json", "--crops", "10", "--scales", "20,24", "--split", "train"]) == 0
    assert capsys.readouterr().out == evaluate(model, folder, split="train", crops=10, scales=(20, 24)).to_json()
    with pytest.raises(SystemExit):
        cli.main([*command, "--scales", "20,x"])
    assert "'20,x' is no list of lengths" in capsys.readouterr().err
    assert cli.main([*command, "--json", "--tta", "--split", "train"]) == 0
    assert capsys.readouterr().out == evaluate(model, folder, split="train", tta=True).to_json()

    assert cli.main([*command, "--subset", "small"]) == 2
    assert "data has no subset 'small': only parquet files and datasets on the Hub" in capsys.readouterr().err

    (folder / "test" / "ant" / "0.png").write_bytes(b"no picture")
    assert cli.main(command) == 2
    assert capsys.readouterr().err.startswith("error: Some images cannot be read: test/ant/0.png")
    assert cli.main([*command, "--skip-unreadable"]) == 1
    assert "20 images of the split test, 1 unreadable" in capsys.readouterr().out
    assert cli.main(["evaluate", str(tmp_path / "none"), "--data", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
