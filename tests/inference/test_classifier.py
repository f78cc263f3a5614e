import threading
import weakref
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

import seresnet
from seresnet.data.parallel import default_workers
from seresnet.errors import ConfigError, ImageError
from seresnet.inference.classifier import Classifier, load
from seresnet.inference.prediction import NOT_FINITE, Prediction, softmax
from seresnet.models.variants import build
from tests.networks import ANIMALS, seresnet20, tiny

SKIMAGE = Path(skimage.__file__).parent / "data"
PHOTOS = [SKIMAGE / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg")]


@pytest.fixture(scope="module")
def clf() -> Classifier:
    return load(seresnet20(), device="cpu", precision="float32")  # to compare with torch


def by_hand(path: Path, topk: int) -> list[tuple[str, int, float]]:
    """Label, index and probability as the network itself gives them, one image at a time, in float64 softmax."""
    model = seresnet20()
    with torch.no_grad():
        logits = model(model.preprocess(Image.open(path).convert("RGB"))[None])[0]
    values, indices = torch.softmax(logits.double(), 0).topk(topk)
    return [(model.labels[i], i, p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]


def same(predictions: list[Prediction], others: list[Prediction]) -> bool:
    """Whether two lists say the same, but for the paths and the last digits."""
    return all(
        a.indices == b.indices and a.error == b.error and np.allclose(a.probabilities, b.probabilities, atol=1e-5)
        for a, b in zip(predictions, others, strict=True)
    )


def test_predictions_are_what_the_network_says_of_each_image(clf):
    predictions = clf.predict(PHOTOS, topk=4, batch_size=2)
    assert [p.path for p in predictions] == [str(path) for path in PHOTOS]
    assert len({p.indices for p in predictions}) > 1  # or the order could not be told
    for path, prediction in zip(PHOTOS, predictions, strict=True):
        expected = by_hand(path, 4)
        assert list(zip(prediction.labels, prediction.indices, strict=True)) == [row[:2] for row in expected]
        np.testing.assert_allclose(prediction.probabilities, [row[2] for row in expected], rtol=1e-4, atol=1e-6)
        assert prediction.error is None


def test_every_kind_of_source_gives_the_same(clf):
    paths = clf.predict(PHOTOS)
    images = [Image.open(path).convert("RGB") for path in PHOTOS]
    assert same(clf.predict(images), paths)
    assert same(clf.predict([np.asarray(image) for image in images]), paths)
    assert same(clf.predict([path.read_bytes() for path in PHOTOS]), paths)
    assert same(clf.predict([BytesIO(path.read_bytes()) for path in PHOTOS]), paths)
    assert same(clf.predict(str(path) for path in PHOTOS), paths)
    assert clf.predict(images)[0].path is None


def test_a_single_source_is_one_image(clf):
    image = Image.open(PHOTOS[0]).convert("RGB")
    for source in (PHOTOS[0], str(PHOTOS[0]), image, np.asarray(image), PHOTOS[0].read_bytes()):
        assert same(clf.predict(source), clf.predict([PHOTOS[0]]))
    stack = np.stack([np.asarray(image), np.asarray(image)[::-1]])
    assert same(clf.predict(stack), clf.predict(list(stack)))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_and_threads_change_nothing(clf, batch_size, workers):
    assert same(clf.predict(PHOTOS, batch_size=batch_size, workers=workers), clf.predict(PHOTOS, batch_size=5))


def test_an_image_that_cannot_be_read_is_named_and_never_replaced(clf, tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(PHOTOS[0].read_bytes()[:5000])
    bad = [tmp_path / "text.jpg", tmp_path / "missing.jpg", tmp_path / "cut.png"]
    sources = [PHOTOS[0], bad[0], PHOTOS[1], bad[1], bad[2], PHOTOS[2]]
    predictions = clf.predict(sources, batch_size=2)
    assert [p.path for p in predictions] == [str(path) for path in sources]
    assert [p.error is None for p in predictions] == [True, False, True, False, False, True]
    assert same([p for p in predictions if p.error is None], clf.predict(PHOTOS[:3]))
    for prediction in (p for p in predictions if p.error is not None):
        assert (prediction.labels, prediction.indices, prediction.probabilities) == ((), (), ())
        assert prediction.error and "\n" not in prediction.error
    assert "no such file" in predictions[3].error
    assert "truncated" in predictions[4].error
    assert predictions[1].to_dict() == {"path": str(bad[0]), "predictions": [], "error": predictions[1].error}


def test_a_batch_of_nothing_but_unreadable_images_and_no_images_at_all(clf, tmp_path):
    assert [bool(p.error) for p in clf.predict([tmp_path / "a", tmp_path / "b"], batch_size=1)] == [True, True]
    assert clf.predict([]) == []


def test_topk_is_cut_to_the_number_of_classes(clf):
    prediction = clf.predict(PHOTOS[0], topk=99)[0]
    assert sorted(prediction.indices) == list(range(10))
    assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
    assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)
    assert clf.predict(PHOTOS[0], topk=1)[0].indices == prediction.indices[:1]


@pytest.mark.parametrize(
    "settings", [{"topk": 0}, {"topk": -1}, {"topk": 2.5}, {"topk": True}, {"batch_size": 0}, {"workers": -1}]
)
def test_numbers_out_of_range_are_refused_before_any_work(clf, settings):
    name = next(iter(settings))
    with pytest.raises(ConfigError, match=f"^{name} must be a whole number, [01] or more, not "):
        clf.stream(iter(()), **settings)


def test_a_model_without_labels_says_class_17():
    model = build("seresnet20", num_classes=25).eval()
    model.preprocess = seresnet20().preprocess
    prediction = load(model, device="cpu").predict(PHOTOS[0], topk=25)[0]
    assert prediction.labels[prediction.indices.index(17)] == "class 17"


def test_a_model_without_preprocessing_says_how_to_set_it():
    with pytest.raises(ConfigError, match=r"set model\.preprocess to a seresnet\.Preprocess"):
        load(build("seresnet20"), device="cpu").predict(PHOTOS[0])


def test_a_model_without_classifier_embeds_and_does_not_predict():
    model = seresnet20()
    model.reset_classifier(0)
    clf = load(model, device="cpu")
    assert clf.embed(PHOTOS[0]).shape == (1, 64)
    with pytest.raises(ConfigError, match="no classifier"):
        clf.predict(PHOTOS[0])


def test_a_network_of_one_channel_takes_photographs():
    model = build("seresnet20", in_chans=1).eval()
    model.preprocess = seresnet20().preprocess.with_channels(1)
    grey = Image.open(PHOTOS[0]).convert("RGB")
    with torch.no_grad():
        expected = model(model.preprocess(grey)[None])[0].argmax().item()
    clf = load(model, device="cpu", precision="float32")
    assert clf.predict(PHOTOS[0], topk=1)[0].indices == (expected,)


def test_embeddings_are_the_pooled_features(clf):
    model = seresnet20()
    batch = torch.stack([model.preprocess(Image.open(path).convert("RGB")) for path in PHOTOS])
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True).numpy()
    features = clf.embed(PHOTOS, batch_size=2)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert clf.embed([]).shape == (0, 64)


def test_embedding_an_unreadable_image_raises_with_its_path(clf, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        clf.embed([PHOTOS[0], tmp_path / "gone.jpg"])


def test_a_network_handed_over_stays_as_it_is():
    model = seresnet20().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load(model, device="cpu", engine="torch", precision="bfloat16").predict(PHOTOS[:2])
    assert model.training and all(p.requires_grad for p in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())


def test_load_is_a_public_name_and_knows_its_labels(clf):
    assert seresnet.load is load
    assert load(tiny(), device="cpu").labels == ANIMALS
    assert (clf.num_classes, clf.model_name, clf.preprocess.input_size) == (10, "SEResNet", (3, 32, 32))


def test_softmax_of_large_logits_is_finite():
    rows = softmax(np.array([[1e4, 0, -1e4], [2.0, 2.0, 2.0]], np.float32))
    np.testing.assert_allclose(rows, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], atol=1e-6)


class Gate(BytesIO):
    """A file whose reading waits for an event, and sets another one."""

    def __init__(self, data: bytes, wait: threading.Event | None = None, tell: threading.Event | None = None) -> None:
        super().__init__(data)
        self.wait, self.tell_event = wait, tell

    def read(self, size: int | None = -1) -> bytes:
        assert self.wait is None or self.wait.wait(30), "nobody else was at work meanwhile"
        if self.tell_event:
            self.tell_event.set()
        return super().read(size)


def test_order_holds_where_later_images_are_decoded_first(clf):
    second_was_read = threading.Event()
    sources = [
        Gate(PHOTOS[0].read_bytes(), wait=second_was_read),
        Gate(PHOTOS[1].read_bytes(), tell=second_was_read),
        *PHOTOS[2:],
    ]
    assert same(clf.predict(sources, workers=2, batch_size=8), clf.predict(PHOTOS))


def test_the_next_batch_is_decoded_while_the_network_runs(clf):
    next_was_read = threading.Event()
    engine = clf.engine

    class Waiting:
        """The engine, which does not start on the first batch before the second one is being decoded."""

        preferred_batch = 2

        def map(self, batches):
            for batch in batches:
                assert next_was_read.wait(30), "decoding waited for the network"
                yield engine.logits(batch)

    overlapping = Classifier(Waiting(), clf.preprocess, clf.labels, "overlapping")  # type: ignore[arg-type]
    sources = [*PHOTOS[:3], Gate(PHOTOS[3].read_bytes(), tell=next_was_read), PHOTOS[4]]
    assert same(overlapping.predict(sources, workers=1), clf.predict(PHOTOS))


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_memory_stays_flat_over_a_long_stream(engine):
    clf = load(tiny(), device="cpu", engine=engine)
    held = 3 + (2 * default_workers() + 1 if engine == "openvino" else 0)  # batches: being read, and in the engine
    batch_size, count = 64, 20_000 if held * 64 < 10_000 else 2 * held * 64
    pulled = 0
    alive: set[int] = set()

    def images():
        nonlocal pulled
        for i in range(count):
            pulled += 1
            image = np.full((8, 8, 3), i % 251, np.uint8)
            alive.add(i)
            weakref.finalize(image, alive.discard, i)
            yield image

    ahead = most_alive = done = 0
    for prediction in clf.stream(images(), topk=1, batch_size=batch_size, workers=1):
        done += 1
        assert prediction.error is None
        ahead, most_alive = max(ahead, pulled - done), max(most_alive, len(alive))
    assert done == count
    assert batch_size <= ahead <= held * batch_size
    assert most_alive <= held * batch_size + 2


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_stream_that_is_left_early_reads_no_further(engine):
    clf = load(tiny(), device="cpu", engine=engine)
    pulled = 0

    def images():
        nonlocal pulled
        while True:
            pulled += 1
            yield np.zeros((8, 8, 3), np.uint8)

    stream = clf.stream(images(), batch_size=4)
    next(stream)
    stream.close()
    assert pulled <= 4 * (3 + (2 * default_workers() + 1 if engine == "openvino" else 0))
    assert not [t for t in threading.enumerate() if t.name.startswith("seresnet")]


def test_scored_batches_hold_the_logits_that_predictions_rest_on(clf, tmp_path):
    sources = [PHOTOS[0], tmp_path / "gone.jpg", PHOTOS[1]]
    batches = list(clf.scored(sources, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 1]
    items = [item for batch in batches for item in batch]
    assert [item.path for item in items] == [str(path) for path in sources]
    assert items[1].logits is None and items[1].error == "no such file"
    for item, prediction in zip((items[0], items[2]), clf.predict(PHOTOS[:2], topk=10), strict=True):
        np.testing.assert_allclose(softmax(item.logits)[list(prediction.indices)], prediction.probabilities, atol=1e-5)


def test_label_ids_come_with_the_model():
    model = tiny()
    model.label_ids = ["n1", "n2", "n3"]
    assert load(model, device="cpu").label_ids == ["n1", "n2", "n3"]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch"])
def test_an_output_that_is_not_finite_is_an_error_on_every_engine(engine):
    model = tiny()
    with torch.no_grad():
        model.fc.weight.fill_(3e38)
    clf = load(model, device="cpu", engine=engine, precision="float32")
    predictions = clf.predict([np.full((8, 8, 3), 255, np.uint8), PHOTOS[0].parent / "gone.png"])
    assert [p.error for p in predictions] == [NOT_FINITE, "no such file"]
    assert all(p.probabilities == () for p in predictions)
    model = tiny()
    with torch.no_grad():
        model.layer2[0].bn2.bias.fill_(3e38)
    clf = load(model, device="cpu", engine=engine, precision="float32")
    with pytest.raises(ImageError, match="not finite"):
        clf.embed([np.full((8, 8, 3), 255, np.uint8)])


def test_folders_globs_and_lists_of_them_are_taken_as_by_the_command(clf, tmp_path):
    folder = tmp_path / "photos" / "below"
    folder.mkdir(parents=True)
    for path in PHOTOS[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    expected = clf.predict(sorted(folder.iterdir()))
    for source in (tmp_path / "photos", str(folder / "*.png"), [str(folder)], iter([folder])):
        assert clf.predict(source) == expected
    np.testing.assert_array_equal(clf.embed(folder), clf.embed(sorted(folder.iterdir())))


def test_tensors_are_images_as_torch_has_them(clf):
    array = np.asarray(Image.open(PHOTOS[0]).convert("RGB"))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)  # (3, H, W)
    expected = clf.predict(array)
    for source in (tensor, [tensor], tensor[None], tensor.float() / 255):
        assert same(clf.predict(source), expected)
    assert len(clf.predict(torch.stack([tensor, tensor.flip(2)]))) == 2
    (wrong,) = clf.predict([tensor.permute(1, 2, 0)])
    assert "give (3, H, W)" in wrong.error


@pytest.mark.parametrize("wrong", [3, None, {"a.jpg": 1}, object()])
def test_a_wrong_type_says_what_it_should_have_been(clf, wrong):
    with pytest.raises(ConfigError, match=f"no images can be read from {type(wrong).__name__}: give a path, folder"):
        clf.predict(wrong)


def test_one_output_is_a_sigmoid():
    model = build("seresnet20", num_classes=1).eval()
    model.preprocess, model.labels = seresnet20().preprocess, ["cat"]
    clf = load(model, device="cpu", precision="float32")
    (prediction,) = clf.predict(PHOTOS[0])
    logit = clf.logits(clf.preprocess.array(Image.open(PHOTOS[0]).convert("RGB"))[None])[0, 0]
    assert prediction.labels == ("cat",)
    assert prediction.probabilities[0] == pytest.approx(1 / (1 + np.exp(-float(logit))), rel=1e-5)


def test_how_classifiers_and_predictions_look(clf):
    assert repr(clf).startswith("Classifier('SEResNet', 10 classes, 3 x 32 x 32, openvino ")
    prediction = Prediction("a/<b>.jpg", ("cat", "<i>dog"), (3, 5), (0.75, 0.25))
    assert str(prediction) == "a/<b>.jpg: cat 75.0 %, <i>dog 25.0 %"
    assert str(Prediction("x\x1b.jpg", error="no such file")) == "x\\x1b.jpg: error: no such file"
    html = prediction._repr_html_()
    assert "&lt;i&gt;dog" in html and "a/&lt;b&gt;.jpg" in html and "<i>" not in html
    assert "no such file" in Prediction(None, error="no such file")._repr_html_()
