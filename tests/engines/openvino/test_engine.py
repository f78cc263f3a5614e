"""OpenVINO as an engine: torch's numbers, whatever comes; and what it says of what it cannot do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch

from seresnet.common import machine
from seresnet.engines.openvino.engine import OpenVINOEngine, images_per_request
from seresnet.engines.openvino.graph import openvino_graph
from seresnet.engines.openvino.package import openvino_core
from seresnet.errors import ConfigError
from seresnet.models.fuse import fuse_network
from seresnet.models.variants import build
from tests.networks import randomized, seresnet20

BF16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") and machine.has_bfloat16()


def batch(count: int = 5, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, height, width), dtype=np.float32)


@torch.no_grad()
def expected(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model = seresnet20()
    features = model.forward_head(model.forward_features(torch.from_numpy(x)), pre_logits=True)
    return model.fc(features).numpy(), features.numpy()


def assert_near(got: np.ndarray, want: np.ndarray, bound: float = 1e-5) -> None:
    assert got.dtype == np.float32 and got.shape == want.shape
    assert want.size == 0 or np.abs(got - want).max() <= bound * np.abs(want).max()


@pytest.fixture(scope="module")
def engine() -> OpenVINOEngine:
    return OpenVINOEngine(seresnet20(), "cpu", "float32")


@pytest.mark.parametrize("count", [1, 2, 16, 17, 37])
def test_any_number_of_images(engine: OpenVINOEngine, count: int) -> None:
    """Single images, full requests of sixteen, and what is left over."""
    x = batch(count)
    logits, features = expected(x)
    assert_near(engine.logits(x), logits)
    assert_near(engine.embed(x), features)


def test_any_size_and_never_more_than_four_graphs(engine: OpenVINOEngine) -> None:
    for height, width in [(1, 1), (1, 7), (5, 2), (31, 33), (64, 48), (200, 16), (320, 320), (32, 32)]:
        for count in (1, 3):
            x = batch(count, height, width)
            assert_near(engine.logits(x), expected(x)[0])
    assert len(engine._runners) <= 4


def test_takes_tensors_and_arrays_of_any_layout(engine: OpenVINOEngine) -> None:
    x = batch()
    want = engine.logits(x)
    np.testing.assert_array_equal(engine.logits(torch.from_numpy(x)), want)
    np.testing.assert_array_equal(engine.logits(torch.from_numpy(x).to(memory_format=torch.channels_last)), want)
    np.testing.assert_array_equal(engine.logits(x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)), want)
    np.testing.assert_array_equal(engine.logits(x.astype(np.float64)), want)


def test_an_empty_batch_gives_empty_results(engine: OpenVINOEngine) -> None:
    assert engine.logits(batch(0)).shape == (0, 10)
    assert engine.embed(batch(0)).shape == (0, 64)


def test_map_answers_in_order_whatever_the_batches() -> None:
    engine = OpenVINOEngine(seresnet20(), "cpu", "float32", threads=2)
    batches = [batch(n, size, size) for n, size in [(33, 32), (1, 32), (0, 32), (5, 40), (1, 8), (16, 32), (2, 32)]]
    answers = list(engine.map(iter(batches)))
    assert len(answers) == len(batches)
    for answer, x in zip(answers, batches, strict=True):
        assert_near(answer, expected(x)[0])
    assert list(engine.map([])) == []
    (alone,) = engine.map([batch(1)])
    assert_near(alone, expected(batch(1))[0])


def test_map_takes_few_batches_ahead() -> None:
    """Memory stays flat: of a thousand batches few have been asked for when the first is answered."""
    engine = OpenVINOEngine(seresnet20(), "cpu", "float32", threads=2)
    taken = []
    answers = engine.map(taken.append(i) or batch(2) for i in range(1000))
    next(answers)
    assert len(taken) <= 2 + 2 * 2  # two requests for each of two streams
    next(answers)
    answers.close()  # waits for what reads the batches' memory
    assert engine.logits(batch(2)).shape == (2, 10)


def test_an_error_in_the_middle_of_map_reaches_the_caller(engine: OpenVINOEngine) -> None:
    answers = engine.map([batch(2), batch(2)[:, :1], batch(2)])
    with pytest.raises(ConfigError, match=r"must be \(N, 3, H, W\)"):
        list(answers)
    assert_near(engine.logits(batch(2)), expected(batch(2))[0])


def test_several_threads_may_ask_at_once(engine: OpenVINOEngine) -> None:
    batches = [batch(n) for n in (1, 3, 20, 2, 1, 18)]
    answers: dict[int, np.ndarray] = {}

    def ask(i: int) -> None:
        for _ in range(3):
            answers[i] = engine.logits(batches[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, x in enumerate(batches):
        assert_near(answers[i], expected(x)[0])


@pytest.mark.skipif(not BF16, reason="the processor does not compute in bfloat16")
def test_bfloat16_is_near_and_really_another_format() -> None:
    engine = OpenVINOEngine(seresnet20(), "cpu", "bfloat16")
    assert engine.precision == "bfloat16"
    for count in (1, 20):
        got, want = engine.logits(batch(count)), expected(batch(count))[0]
        difference = np.abs(got - want).max() / np.abs(want).max()
        assert 1e-5 < difference < 0.03  # 8 bits of mantissa, 19 layers


@pytest.mark.parametrize(
    ("capabilities", "flags", "precision"),
    [
        (["FP32", "BF16"], "avx512f avx512_bf16", "bfloat16"),
        (["FP32", "BF16"], "avx512f", "float32"),  # only converts to it and back
        (["FP32"], "avx2", "float32"),
        (["FP32", "BF16"], None, "bfloat16"),  # no /proc/cpuinfo: OpenVINO's word counts
    ],
)
def test_auto_is_the_fastest_that_the_processor_has(
    capabilities: list[str], flags: str | None, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if flags:
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(ov.Core, "get_property", lambda *_: capabilities)
    assert OpenVINOEngine.resolve("auto") == OpenVINOEngine(seresnet20()).precision == precision
    if precision == "float32":
        with pytest.raises(ConfigError, match="does not compute in bfloat16 natively: use float32"):
            OpenVINOEngine(seresnet20(), "cpu", "bfloat16")


def test_a_saved_graph_opens_without_torch_and_gives_the_same_numbers(tmp_path: Path) -> None:
    engine = OpenVINOEngine(seresnet20(), "cpu", "float32")
    engine.save(tmp_path / "model.xml")
    x = batch(3)
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys, numpy
from seresnet.engines.openvino.engine import OpenVINOEngine
engine = OpenVINOEngine({str(tmp_path / "model.xml")!r}, precision="float32")
numpy.save({str(tmp_path / "y.npy")!r}, engine.logits(numpy.load({str(tmp_path / "x.npy")!r})))
assert engine._size == (32, 32)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), engine.logits(x))


def test_takes_a_form_and_a_graph_too() -> None:
    form = fuse_network(seresnet20())
    for model in (form, openvino_graph(form)):
        assert_near(OpenVINOEngine(model, "cpu", "float32").logits(batch(2)), expected(batch(2))[0])


def test_describes_itself() -> None:
    engine = OpenVINOEngine(seresnet20(), None, "float32", threads=1)
    assert (engine.name, engine.device, engine.precision) == ("openvino", "cpu", "float32")
    assert engine.describe() == f"openvino {ov.__version__.partition('-')[0]}, cpu (1 thread), float32"


def test_small_images_go_several_at_once() -> None:
    assert [images_per_request((9, 3, size, size)) for size in (8, 32, 128, 224, 1000)] == [256, 16, 1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda"}, "openvino runs on the cpu, not on 'cuda': use engine torch"),
        ({"precision": "int8"}, "int8 needs a quantized model"),
        ({"precision": "int3"}, "precision 'int3' is unknown: use auto, float32, bfloat16, float16"),
        ({"model": "nowhere.pt"}, "nowhere.pt: not an OpenVINO model"),
        ({"model": "nowhere.xml"}, "nowhere.xml: not an OpenVINO model"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        OpenVINOEngine(**{"model": seresnet20(), **settings})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_graph_of_another_kind_is_refused() -> None:
    x = ov.opset13.parameter([1, 3], np.float32)
    with pytest.raises(ConfigError, match="not made by seresnet"):
        OpenVINOEngine(ov.Model([ov.opset13.relu(x)], [x], "other"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 32, 32), r"must be \(N, 3, H, W\), not \(3, 32, 32\)"),
        ((2, 4, 32, 32), r"must be \(N, 3, H, W\), not \(2, 4, 32, 32\)"),
        ((2, 3, 0, 32), "images of 0 x 32 pixels are too small for this network: use 1 or more"),
    ],
)
def test_a_batch_of_another_shape_is_refused(engine: OpenVINOEngine, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.logits(np.zeros(shape, np.float32))


def test_too_small_an_image_is_refused_where_pooling_leaves_nothing() -> None:
    network = randomized(build("legacy_seresnet50", layers=(1, 1), channels=(16, 32), num_classes=5))
    engine = OpenVINOEngine(network, "cpu", "float32")
    with pytest.raises(ConfigError, match="images of 2 x 9 pixels are too small for this network: use 3 or more"):
        engine.logits(batch(1, 2, 9))
    assert engine.logits(batch(1, 3, 9)).shape == (1, 5)


@pytest.mark.skipif(not hasattr(signal, "raise_signal") or sys.platform == "win32", reason="POSIX signals")
def test_signals_are_handled_after_engines_have_gone():
    """Two engines that come and go must leave the thread a valid alternate signal stack."""
    program = """
import faulthandler, signal
import numpy as np
import seresnet
faulthandler.enable()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
first, second = seresnet.load(engine="openvino"), seresnet.load(engine="openvino")
for classifier in (first, second):
    classifier.logits(np.zeros((1, 3, 32, 32), np.float32))
del classifier, first
del second
signal.raise_signal(signal.SIGTERM)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "alive"]), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_first_use_may_be_by_several_threads_at_once() -> None:
    """OpenVINO's table of NumPy's types, first used by two threads, would hang both; each fork is a first use."""
    program = """
import os, signal, sys, threading
from seresnet.engines.openvino.package import import_openvino, openvino_core
ov = import_openvino()
sys.setswitchinterval(1e-6)
def use():
    barrier.wait()
    openvino_core()
    ov.Type.f32.to_dtype()
hung = 0
for _ in range(10):
    if not (child := os.fork()):
        signal.alarm(20)  # the interpreter's lock is held: nothing in Python could end the wait
        barrier = threading.Barrier(8)
        threads = [threading.Thread(target=use, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    hung += os.waitpid(child, 0)[1] != 0
print(hung)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "0", done.stderr
