import copy
import io
import json
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import predict_scores
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import CheckpointError, ImageError, MemoryFullError, ResNetHubError
from resnet_hub.images.load import list_images, load_image
from resnet_hub.inference.classifier import Classifier
from resnet_hub.model import ResNet

LABELS = ["daisy", "rose", "tulip"]


def noise(seed, width=40, height=30):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ResNetConfig(id2label=dict(enumerate(LABELS)), depths=(1, 1), width=8, image_size=32, crop_pct=0.8)
    model = ResNet(config)
    model(torch.randn(16, 3, 32, 32))  # statistics of its own for the BatchNorms
    return model.eval()


@pytest.fixture(scope="module")
def classify(model):
    return Classifier(model).prepare_engine()  # one engine for all tests, so that equal pictures have equal scores


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(["b.png", "a/2.png", "a/1.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        noise(index).save(path)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def probabilities(model, image):
    """What torchvision and torch make of it, without any code of ours but the network."""
    config = model.config
    pipeline = transforms.Compose(
        [
            transforms.Resize(config.resize_size),
            transforms.CenterCrop(config.image_size),
            transforms.ToTensor(),
            transforms.Normalize(config.mean, config.std),
        ]
    )
    with torch.no_grad():
        return model(pipeline(image).unsqueeze(0)).softmax(1)[0]


def assert_answers(answers, expected):
    assert [[item["label"] for item in answer] for answer in answers] == [
        [item["label"] for item in answer] for answer in expected
    ]
    scores = [[item["score"] for item in answer] for answer in (*answers, *expected)]
    assert torch.allclose(torch.tensor(scores[: len(answers)]), torch.tensor(scores[len(answers) :]), atol=1e-5)


def test_labels_and_scores_are_those_of_the_network(model, classify):
    expected = probabilities(model, noise(0))
    answer = classify(noise(0))
    assert sorted(answer, key=lambda item: -item["score"]) == answer
    assert [set(item) for item in answer] == [{"label", "score"}] * 3
    assert all(type(item["label"]) is str and type(item["score"]) is float for item in answer)
    for item in answer:
        assert item["score"] == pytest.approx(expected[LABELS.index(item["label"])].item(), abs=1e-6)
    assert json.loads(json.dumps(answer)) == answer


def test_one_image_from_every_kind_of_source(classify, tmp_path):
    expected = classify(noise(0))
    path, file = tmp_path / "photo.png", io.BytesIO()
    noise(0).save(path)
    noise(0).save(file, "PNG")
    with path.open("rb") as opened:
        for source in (path, str(path), path.read_bytes(), np.array(noise(0)), file, opened):
            assert classify(source) == expected


def test_a_list_a_tuple_and_a_folder_give_a_list_of_lists(classify, folder):
    expected = [classify(noise(index)) for index in (2, 1, 0)]
    paths = [folder / name for name in ("a/1.png", "a/2.png", "b.png")]
    assert list_images(folder) == paths
    for many in (paths, tuple(paths), folder, str(folder)):
        answers = classify(many)
        assert isinstance(answers, list)
        assert_answers(answers, expected)
    assert classify([noise(0)], top_k=1) == [classify(noise(0))[:1]]
    assert classify([]) == []


def test_a_generator_is_read_one_batch_ahead(classify):
    taken = []

    def source():
        for index in range(7):
            taken.append(index)
            yield noise(index)

    answers = classify(source(), batch_size=3)
    assert taken == []
    first = next(answers)
    assert taken == [0, 1, 2, 3, 4, 5]
    assert_answers([first, *answers], [classify(noise(index)) for index in range(7)])
    assert len(taken) == 7


def test_an_endless_generator(classify):
    def source():
        while True:
            yield noise(0)

    answers = classify(source(), batch_size=2)
    assert next(answers) == next(answers)


def test_the_batch_changes_nothing(classify):
    pictures = [noise(index, width=20 + index) for index in range(11)]
    expected = [classify(picture) for picture in pictures]
    for batch_size in (1, 2, 4, 11, 100):
        assert_answers(classify(pictures, batch_size=batch_size), expected)


def test_large_inputs_make_small_batches(model, monkeypatch):
    sizes = []
    monkeypatch.setattr("resnet_hub.inference.classifier.MAX_BATCH_PIXELS", 2 * 32 * 32)
    classify = Classifier(model)
    compute_outputs = classify.compute_outputs
    monkeypatch.setattr(
        classify, "compute_outputs", lambda inputs: [sizes.append(len(inputs)), compute_outputs(inputs)][1]
    )
    assert len(classify([noise(index) for index in range(5)], batch_size=100)) == 5
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (5, 3), (10**9, 3), (None, 3)])
def test_top_k(classify, top_k, count):
    assert classify(noise(0), top_k=top_k) == classify(noise(0), top_k=None)[:count]


@pytest.mark.parametrize(
    "wrong", [{"top_k": 0}, {"top_k": -1}, {"top_k": 2.5}, {"top_k": "5"}, {"batch_size": 0}, {"batch_size": None}]
)
def test_numbers_that_make_no_sense(classify, wrong):
    ((key, value),) = wrong.items()
    for images in (noise(0), [noise(0)], iter([noise(0)])):
        with pytest.raises(ResNetHubError, match=f"^{key} is {value!r}; expected a whole number, 1 or more.$"):
            classify(images, **wrong)
    with pytest.raises(ResNetHubError, match="errors is 'ignore'"):
        classify(noise(0), errors="ignore")


def test_equal_scores_keep_the_order_of_the_labels(model):
    level = copy.deepcopy(model)
    level.reset_head(num_classes=1000)
    torch.nn.init.zeros_(level.fc.weight)
    torch.nn.init.zeros_(level.fc.bias)
    assert [item["label"] for item in Classifier(level)(noise(0), top_k=None)] == level.config.labels


# Large pictures


def smooth(width, height):
    return Image.effect_noise((width // 150, height // 150), 90).convert("RGB").resize((width, height), Image.BICUBIC)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_large_image_is_decoded_at_a_reduced_size_and_looks_the_same(model, format):
    fast, exact = Classifier(model), Classifier(model, exact=True)
    file = io.BytesIO()
    smooth(1200, 900).save(file, format)
    found, expected = fast.preprocess(file), exact.preprocess(file)
    assert torch.equal(expected, exact.transform(load_image(file)))
    assert not torch.equal(found, expected)
    assert (found - expected).abs().mean() < 2 / 255 / min(model.config.std)
    assert fast(file)[0]["label"] == exact(file)[0]["label"]


def test_an_image_of_less_than_twice_the_size_is_decoded_exactly(model):
    file = io.BytesIO()
    noise(0, 79, 90).save(file, "JPEG")
    assert torch.equal(Classifier(model).preprocess(file), Classifier(model).transform(load_image(file)))


# Engines


def test_the_engine_comes_up_beside_the_first_answers(model):
    classify = Classifier(model)
    assert (classify.engine, classify.precision) == ("PyTorch", "fp32")
    first = classify(noise(0))
    assert not classify._is_prepared  # one picture alone is not worth it
    answers = [classify(noise(0)) for _ in range(3)]
    assert classify.prepare_engine().engine == "ONNX Runtime"
    assert_answers([*answers, classify(noise(0))], [first] * 4)


def test_precision_is_the_requested_one(model):
    assert Classifier(model, precision="fp32").prepare_engine().precision == "fp32"
    with pytest.raises(ResNetHubError, match=r"^precision is 'int4'; choose one of auto, fp32, bf16, int8\.$"):
        Classifier(model, precision="int4")
    with pytest.raises(ResNetHubError, match="no int8 calibration"):
        Classifier(model, precision="int8")


# Pictures that cannot be read


def test_an_unreadable_image_is_named(classify, folder):
    bad = folder / "bad.jpg"
    bad.write_text("no picture")
    for images in (bad, [folder / "b.png", bad], folder, iter([bad])):
        with pytest.raises(ImageError, match=r"^Cannot read bad\.jpg: the file is damaged"):
            list(classify(images))
    with pytest.raises(ImageError, match=r"^Cannot read the image: the file is damaged"):
        classify(b"no picture")
    with pytest.raises(ImageError, match=r"^Cannot read image 2: the file is damaged"):
        classify([noise(0), b"no picture"])
    with pytest.raises(ImageError, match="not downloaded"):
        classify("https://example.com/cat.jpg")
    with pytest.raises(ImageError, match=r"^Cannot read nothing\.jpg: No such file"):
        classify(folder / "nothing.jpg")
    with pytest.raises(ImageError, match="Cannot read "):
        classify("a\0b")
    for source in (None, 3, {"image": noise(0)}, torch.zeros(3, 8, 8)):
        with pytest.raises(ImageError, match=f"has the type {type(source).__name__}"):
            classify(source)


def test_an_unreadable_image_keeps_its_index(classify):
    pictures = [noise(0), b"no picture", noise(1), noise(2), b""]
    for images in (pictures, iter(pictures)):
        answers = list(classify(images, batch_size=2, errors="return"))
        assert [isinstance(answer, ImageError) for answer in answers] == [False, True, False, False, True]
        assert str(answers[1]).startswith("Cannot read image 2: the file is damaged")
        assert_answers([answers[0], *answers[2:4]], [classify(noise(index)) for index in range(3)])
    assert isinstance(classify(b"no picture", errors="return"), ImageError)


def test_a_folder_without_images(classify, tmp_path):
    with pytest.raises(ImageError, match="holds no images"):
        classify(tmp_path)


# The model


def test_a_model_in_evaluation_mode_is_shared_and_left_alone(model):
    before = {name: (value.clone(), value.stride()) for name, value in model.state_dict().items()}
    classify = Classifier(model, device="cpu")
    classify([noise(0), noise(1)])
    assert classify.model is model and classify.config is model.config and classify.device == torch.device("cpu")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name][0]) and value.stride() == before[name][1]
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in model.parameters())


def test_a_model_in_training_mode_is_copied(model):
    training = copy.deepcopy(model).train()
    statistics = training.bn1.running_mean.clone()
    assert_answers([Classifier(training)(noise(0))], [Classifier(model)(noise(0))])
    assert training.training and training.bn1.training
    assert torch.equal(training.bn1.running_mean, statistics)


def test_half_precision(model, classify):
    half = Classifier(copy.deepcopy(model).bfloat16())
    scores = predict_scores(half, [noise(0)])
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, predict_scores(classify, [noise(0)]), atol=0.02)


def test_gray_input():
    torch.manual_seed(0)
    config = ResNetConfig.from_name("resnet20", num_classes=10, in_channels=1, mean=(0.5,), std=(0.5,))
    classify = Classifier(ResNet(config))
    assert_answers([classify(noise(0))], [classify(noise(0).convert("L"))])


def test_models_and_devices_that_cannot_classify_are_refused(model):
    with pytest.raises(ResNetHubError, match="has no head"):
        Classifier(ResNet(ResNetConfig(depths=(1,), width=8)))
    with pytest.raises(ResNetHubError, match="no device 'quantum'"):
        Classifier(model, device="quantum")
    with pytest.raises(ResNetHubError, match=r"^The model cannot run on .*\.$"):
        Classifier(model, device="cuda:99")
    broken = copy.deepcopy(model)
    torch.nn.init.constant_(broken.fc.weight, torch.nan)
    with pytest.raises(CheckpointError, match="weights are damaged"):
        Classifier(broken)(noise(0))


def test_eight_threads_answer_as_one(classify):
    pictures = [noise(index, width=30 + index) for index in range(48)]
    expected = [classify(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        assert_answers(list(pool.map(classify, pictures)), expected)
        many = list(pool.map(classify, [pictures] * 8))
    for answers in many:
        assert_answers(answers, expected)


def test_from_a_checkpoint_folder(model, classify, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = Classifier.from_pretrained(tmp_path / "model", device="cpu").prepare_engine()
    assert loaded.config == model.config
    assert loaded(noise(0)) == classify(noise(0))
    assert Classifier.from_pretrained(str(tmp_path / "model")).prepare_engine()(noise(0)) == classify(noise(0))


def test_the_answer_is_that_of_the_pipeline_of_transformers(tmp_path: Path):
    from transformers import pipeline

    torch.manual_seed(0)
    labels = {index: f"label {index}" for index in range(7)}
    model = ResNet(ResNetConfig.from_name("resnet18", id2label=labels, image_size=64)).eval()
    (tmp_path / "config.json").write_text(model.config.to_json())
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    theirs = pipeline("image-classification", model=str(tmp_path))
    pictures, ours = [noise(0, 100, 80), noise(1, 50, 90)], Classifier(model)
    for top_k in (3, 100):
        assert_answers([ours(pictures[0], top_k=top_k)], [theirs(pictures[0], top_k=top_k)])
        assert_answers(ours(pictures, top_k=top_k), theirs(pictures, top_k=top_k))


FULL = [
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("uint8")),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ...\n(a)"),
    RuntimeError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9"
    ),
    RuntimeError("can't start new thread"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:30])
def test_memory_that_is_full_is_one_sentence_in_code_and_on_the_page(error, model, monkeypatch, tmp_path):
    from unittest.mock import Mock

    from resnet_hub.demo.i18n import MESSAGES
    from resnet_hub.demo.predict_tab.tab import PredictTab

    classify = Classifier(model).prepare_engine()  # or the second batch would bring another engine up
    monkeypatch.setattr(classify._engine, "engine", Mock(side_effect=error))
    for images in (noise(0), [noise(0), noise(1)]):
        with pytest.raises(MemoryFullError) as caught:
            classify(images)
        assert str(caught.value) == (
            "There is too little memory for a prediction of this model. Free some, or use a smaller model."
        )
    noise(0).save(tmp_path / "a.png")
    photo = {"path": str(tmp_path / "a.png"), "orig_name": "a.png"}
    tab = PredictTab(Mock(get=lambda name: classify), Mock())
    for language in ("en", "zh"):
        _, _, said, _ = tab.classify(photo, "any", Mock(headers={"accept-language": language}))
        assert MESSAGES[language]["no_memory"] in said and 'role="alert"' in said


def test_other_failures_of_an_engine_stay_as_they_are(model, monkeypatch):
    from unittest.mock import Mock

    classify = Classifier(model)
    monkeypatch.setattr(classify._engine, "engine", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        classify(noise(0))


# Copies and other processes


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda classify: pickle.loads(pickle.dumps(classify))])
def test_a_copy_predicts_as_the_original_and_has_its_options(model, duplicate):
    exact = Classifier(model, precision="fp32", exact=True, device="cpu").prepare_engine()
    copied = duplicate(exact)
    assert copied.engine == "PyTorch" and copied.prepare_engine().engine == "ONNX Runtime"
    assert copied.decode_size is None and copied.device == torch.device("cpu")
    assert copied._engine_lock is not exact._engine_lock and copied._engine is not exact._engine
    assert (copied.model is model) == (duplicate is copy.copy)
    images = [noise(0), noise(1, 90, 80)]
    assert_answers(copied(images), exact(images))


def test_a_deep_copy_keeps_its_weights_when_those_of_the_original_change(model):
    original = Classifier(copy.deepcopy(model))
    copied, expected = copy.deepcopy(original), original(noise(0))
    torch.nn.init.zeros_(original.model.fc.weight)
    assert_answers([copied(noise(0))], [expected])


@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # of fork, which works all the same here
def test_another_process_classifies(start_method, classify):
    expected = classify(noise(0))  # its engine has threads by now, which a fork does not copy
    with multiprocessing.get_context(start_method).Pool(1) as pool:
        (answer,) = pool.map_async(classify, [noise(0)]).get(timeout=120)
    assert_answers([answer], [expected])


inherited: dict[str, Classifier] = {}  # by the processes that a test forks


def classify_inherited(name):
    return inherited[name](noise(0)), inherited[name](noise(1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_classifies_with_an_inherited_classifier(monkeypatch):
    """The threads of PyTorch and of ONNX Runtime do not exist there: predictions waited for them for ever."""
    model = ResNet(ResNetConfig(depths=(1, 1), width=32, image_size=64, id2label={0: "cat", 1: "dog"})).eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setitem(inherited, "PyTorch", Classifier(model))
        monkeypatch.setitem(inherited, "ONNX Runtime", Classifier(model).prepare_engine())
        expected = {name: classify_inherited(name) for name in inherited}
        with multiprocessing.get_context("fork").Pool(2) as pool:
            answers = [pool.apply_async(classify_inherited, [name]).get(timeout=60) for name in inherited]
    finally:
        torch.set_num_threads(threads)
    for answer, name in zip(answers, inherited, strict=True):
        assert_answers([*answer], [*expected[name]])


def test_datasets_map_caches_by_the_weights(model, classify):
    """An object that cannot be pickled gets a random fingerprint, so that nothing is found in the cache again."""
    from datasets import Dataset
    from datasets.fingerprint import Hasher

    assert Hasher.hash(classify) == Hasher.hash(Classifier(model))
    other = copy.deepcopy(model)
    torch.nn.init.zeros_(other.fc.weight)
    assert Hasher.hash(classify) != Hasher.hash(Classifier(other))

    data = Dataset.from_list([{"pixels": np.array(noise(index)).tolist()} for index in range(2)])
    labeled = data.map(lambda row: {"label": classify(np.array(row["pixels"], np.uint8), top_k=1)[0]["label"]})
    assert labeled["label"] == [classify(noise(index), top_k=1)[0]["label"] for index in range(2)]
