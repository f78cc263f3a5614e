"""The page, driven in a real Chromium: what people see, by mouse, keyboard and screen reader, without another host."""

from __future__ import annotations

import shutil
import threading
from importlib.resources import files

import pytest

from seresnet.inference.classifier import Classifier
from seresnet.serving.keys import ApiKeys
from tests.serving.conftest import PHOTOGRAPHS
from tests.serving.running import GatedEngine, running

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")

HOSTILE = "<img src=x onerror=alert(1)>"
KEY = "page-key-0123456789"
SIZES = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 900}}


@pytest.fixture(scope="module")
def gated(clf):
    """The classifier with one hostile label, on an engine that runs while the test lets it."""
    found = Classifier(
        GatedEngine(clf.engine), clf.preprocess, [HOSTILE, *clf.labels[1:]], "kinds", network=clf._network
    )
    yield found
    found.engine.gate.set()


@pytest.fixture(scope="module")
def server(gated):
    with running({"kinds": gated, "others": gated}, max_queue=2) as found:
        yield found


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, server):
    """Open the page; in the end nothing was asked of another host, and no script failed."""
    contexts, faults = [], []

    def opened(path: str = "/", port: int | None = None, **options):
        address = f"http://127.0.0.1:{port or server.port}"
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("request", lambda r: None if r.url.startswith((address, "blob:", "data:")) else faults.append(r.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda m: faults.append(m.text) if "Content Security Policy" in m.text else None)
        page.on("dialog", lambda dialog: faults.append("a script of a label ran"))
        page.goto(address + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def choose(page, *names: str) -> None:
    page.set_input_files("#files", [PHOTOGRAPHS / name for name in names])


def labels(page) -> list[str]:
    return page.locator(".bars bdi").all_inner_texts()


def status(page, words: str) -> None:
    """Wait until a screen reader is told this."""
    playwright.expect(page.locator("#status")).to_contain_text(words)


def test_a_picture_is_classified_and_stays_in_the_session(open_page, gated):
    page = open_page()
    playwright.expect(page.locator("#empty")).to_be_visible()
    choose(page, "chelsea.png")
    truth = gated.predict(str(PHOTOGRAPHS / "chelsea.png"))[0]
    status(page, f"chelsea.png: {truth.labels[0]}")
    assert labels(page) == list(truth.labels)
    assert page.locator(".bars .value").first.inner_text() == f"{100 * truth.probabilities[0]:.1f} %"
    assert "in all: decoding" in page.locator(".result .soft").inner_text()
    choose(page, "README.txt")
    status(page, "README.txt: The image cannot be read")
    choose(page, "rocket.jpg", "README.txt")
    playwright.expect(page.locator(".result .note.bad")).to_contain_text("not an image")
    playwright.expect(page.locator(".bars")).to_have_count(1)
    page.get_by_role("button", name="Show chelsea.png").click()
    assert labels(page) == list(truth.labels)
    page.get_by_role("button", name="Clear").click()
    playwright.expect(page.locator("#past")).to_be_hidden()
    playwright.expect(page.locator("#empty")).to_be_visible()


def test_the_card_and_the_classes(open_page, gated):
    page = open_page()
    playwright.expect(page.locator("#classes li")).to_have_count(10)
    assert page.locator("#classes li").all_inner_texts() == gated.labels  # the hostile one as text
    playwright.expect(page.locator("#card")).to_contain_text("center crop of 1")
    page.get_by_label("Find a class").fill("kind 7")
    playwright.expect(page.locator("#classes li")).to_have_count(1)
    page.locator("#models").select_option("others")
    playwright.expect(page.locator("#card dd").first).to_have_text("others")


def test_a_prediction_is_explained_by_its_heat_map_and_its_gates(open_page, clf):
    labels = [f"{HOSTILE}{i}" for i in range(10)]
    hostile = Classifier(clf.engine, clf.preprocess, labels, "hostile", network=clf._network)
    truth = hostile.explain(str(PHOTOGRAPHS / "rocket.jpg"))
    with running(hostile) as server:
        page = open_page(port=server.port)
        choose(page, "rocket.jpg")
        page.get_by_role("button", name="Explain rocket.jpg").click()
        shown = page.locator("#heat-map")
        playwright.expect(shown).to_have_attribute("alt", f"Heat map of {truth.label} over rocket.jpg")
        playwright.expect(page.locator("#heat-text")).to_contain_text(truth.label)  # as text
        assert page.locator("#gates th").all_inner_texts() == list(truth.gates)
        size = shown.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])")
        assert size == list(truth.image.size)
        page.get_by_label("Explained class").select_option(truth.top()[1][0])
        playwright.expect(shown).to_have_attribute("alt", f"Heat map of {truth.top()[1][0]} over rocket.jpg")
        page.get_by_role("button", name="Close").click()
        playwright.expect(page.locator("#explanations")).to_be_hidden()


def test_waiting_and_overload_are_shown_and_retried(open_page, server, gated, pngs):
    page = open_page()
    gated.engine.gate.clear()
    blocked = [threading.Thread(target=server.post, args=("/predict", pngs[i])) for i in range(2)]
    for thread in blocked:
        thread.start()
    while server.state.models["kinds"].pending < 2:
        page.wait_for_timeout(5)
    choose(page, "rocket.jpg")
    playwright.expect(page.locator(".note.busy")).to_contain_text("The server is busy. Trying again in")
    gated.engine.gate.set()
    for thread in blocked:
        thread.join(20)
    playwright.expect(page.locator(".bars")).to_be_visible()
    gated.engine.gate.clear()
    choose(page, "chelsea.png")
    playwright.expect(page.locator(".wait")).to_contain_text("Classifying")
    assert page.locator("#results").get_attribute("aria-busy") == "true"
    gated.engine.gate.set()
    playwright.expect(page.locator(".bars")).to_be_visible()
    assert page.locator("#results").get_attribute("aria-busy") == "false"


def test_dropped_and_pasted_pictures(open_page, pngs):
    page = open_page()
    for kind, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([kind, holder, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], kind + "ed.png", { type: "image/png" }));
                const event = kind === "drop" ? new DragEvent(kind, { [holder]: data, cancelable: true })
                                              : new ClipboardEvent(kind, { [holder]: data, cancelable: true });
                window.dispatchEvent(event);
            }""",
            [kind, holder, list(pngs[0])],
        )
        status(page, f"{kind}ed.png: ")
    playwright.expect(page.locator("#history li")).to_have_count(2)


def test_the_camera_takes_a_picture(open_page):
    page = open_page()
    page.get_by_role("button", name="Use the camera").click()
    take = page.get_by_role("button", name="Take a picture")
    playwright.expect(take).to_be_focused()
    take.click()
    status(page, "camera.png: ")
    page.get_by_role("button", name="Close the camera").click()
    playwright.expect(page.locator("#camera")).to_be_hidden()


def test_the_keyboard_reaches_everything(open_page):
    page = open_page()
    choose(page, "rocket.jpg")
    status(page, "rocket.jpg: ")
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.slice(0, 20)"))
    for wanted in ("Skip to the content", "models", "API", "files", "camera-open", "clear", "filter", "classes"):
        assert wanted in seen, (wanted, seen)


def test_a_server_that_is_gone_and_a_key_that_is_needed(open_page, gated, tmp_path):
    (tmp_path / "keys").write_text(KEY)
    with running(gated, ApiKeys(tmp_path / "keys")) as locked:
        page = open_page(port=locked.port)
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        playwright.expect(page.locator("#classes li")).to_have_count(10)
        choose(page, "rocket.jpg")
        status(page, "rocket.jpg: ")
    choose(page, "chelsea.png")
    playwright.expect(page.locator(".result .note.bad")).to_contain_text("The server cannot be reached")


def test_the_examples_of_the_api_can_be_sent(open_page):
    page = open_page("/docs")
    page.get_by_role("button", name="Send the example of POST /predict").click()
    playwright.expect(page.get_by_label("Answer of /predict")).to_contain_text('"predictions"')


@pytest.mark.parametrize(("size", "scheme"), [("phone", "dark"), ("desktop", "light")])
def test_axe_finds_no_violation(size, scheme, open_page):
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page = open_page(viewport=SIZES[size], color_scheme=scheme, reduced_motion="reduce")
    choose(page, "rocket.jpg", "README.txt")
    playwright.expect(page.locator(".result .note.bad")).to_be_visible()
    page.get_by_role("button", name="Explain rocket.jpg").click()
    playwright.expect(page.locator("#heat-map")).to_be_visible()
    for path in ("/", "/docs"):
        if path != "/":
            page.get_by_role("link", name="API").click()
            playwright.expect(page.locator("section").first).to_be_visible()
        page.evaluate(axe)
        found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
        assert len(found["passes"]) > 15
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"]


def test_the_pages_allow_their_own_script_alone(server):
    for path in ("/", "/docs"):
        rules = server.ask("GET", path).headers["content-security-policy"]
        assert "default-src 'none'" in rules and "unsafe" not in rules and "http" not in rules
