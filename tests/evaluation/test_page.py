"""The report as one page: what it says, and what its pictures show."""

import base64
import html
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from seresnet.data.preprocess import Preprocess
from seresnet.evaluation.compare import compare
from seresnet.evaluation.coverage import coverage_at, coverage_curve
from seresnet.evaluation.report import write_report
from seresnet.explanation.explain import Explainer
from seresnet.weights.create import create_model
from tests.evaluation.made import evaluation_of
from tests.evaluation.test_report import made, with_photos


def test_coverage_is_what_counting_says():
    logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]]))
    e = evaluation_of(logits, np.array([0, 0, 1, 1]), ["a", "b"])
    curve = coverage_curve(e)
    np.testing.assert_allclose(curve.confidence, [0.9, 0.8, 0.6])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.75, 1])  # equal confidences count together
    np.testing.assert_allclose(curve.accuracy, [1, 2 / 3, 0.5])
    places = coverage_at(curve, (0.0, 0.7, 0.85, 0.95))
    assert [row.coverage for row in places] == [1, 0.75, 0.25, 0]
    assert [row.accuracy for row in places] == [0.5, pytest.approx(2 / 3), 1, None]


def test_the_page_needs_no_other_file_and_says_what_was_measured(tmp_path):
    e = replace(with_photos(made(6, 60)), model="<b>m", data="d", unreadable=(("<i>.jpg", "truncated JPEG"),))
    page = (write_report(e, tmp_path / "r") / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<b>m" not in page and "<i>.jpg" not in page
    words = html.unescape(re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]+>", " ", page, flags=re.DOTALL))
    words = " ".join(words.split())
    top1 = 100 * e.metrics.top1
    found = re.search(r"top-1 accuracy ([\d.]+) % ([\d.]+) to ([\d.]+)", words)
    value, low, high = map(float, found.groups())
    assert value == pytest.approx(top1, abs=0.005) and low < top1 < high
    assert re.search(r"macro F1 [\d.]+ % [\d.]+ to [\d.]+", words)
    row = coverage_at(coverage_curve(e), (0.8,))[0]
    assert f"confidence is 0.8 or more: {100 * row.coverage:.1f} % of the images, of which" in words
    wrong = e.mistakes()
    assert f"{min(24, len(wrong))} of {len(wrong)}, the most confident first" in words
    assert f"true: {wrong[0][1].true}" in words and "<i>.jpg truncated JPEG" in words
    assert page.count("<tr><td>class no.") == 6 and page.count("data-value") == 6 * 4


def test_mistakes_have_their_heat_maps(tmp_path):
    e = with_photos(made(6, 12))
    network = create_model("seresnet20", num_classes=6)
    explainer = Explainer(network, Preprocess(input_size=(3, 32, 32)), [f"class no. {i}" for i in range(6)])
    page = (write_report(e, tmp_path / "r", explainer=explainer) / "report.html").read_text()
    wrong = len(e.mistakes())
    assert page.count('alt="heat map of') == wrong > 0
    heat = re.search(r'base64,([^"]+)" alt="heat map of', page)[1]
    with Image.open(io.BytesIO(base64.b64decode(heat))) as image:
        assert max(image.size) == 224 and len(image.getcolors(10**6)) > 100


def test_a_comparison_is_in_the_page_and_beside_it(tmp_path):
    first, second = with_photos(made(6, 60)), with_photos(made(6, 60))
    logits = np.eye(6)[[r.target for r in first.results]]
    logits[::7] = np.roll(logits[::7], 1, axis=1)
    second = with_photos(evaluation_of(logits, np.array([r.target for r in first.results]), list(first.labels)))
    c = compare(replace(first, model="one"), replace(second, model="two"))
    folder = write_report(c.first, tmp_path / "r", comparison=c)
    page = (folder / "report.html").read_text()
    assert f"{100 * c.difference:+.2f} points" in page and f"p = {c.p_value:.2g}" in page
    assert len((folder / "differences.csv").read_text().splitlines()) == 1 + c.only_first + c.only_second
    write_report(c.first, folder, exist_ok=True)  # without: the old comparison goes
    assert not (folder / "differences.csv").exists() and "Comparison" not in (folder / "report.html").read_text()
