"""The page at `/` in Chromium: the runtime's texts, its dials, a key, the microphone, and nobody else is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from layerdial.runtime import Recognizer
from tiny_browser import Page, browser_packages, chromium, requests_of
from tiny_serving import Running, running, voice, wav

pytest_plugins = ["tiny_export"]
pytestmark = pytest.mark.slow  # a browser

KEY = "sk-key-of-the-page-0"
HOME, LEFT, RIGHT = "\ue011", "\ue012", "\ue014"
FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    browser_packages()
    place = tmp_path_factory.mktemp("page")
    (place / "tones.wav").write_bytes(wav())
    (place / "broken.wav").write_bytes(b"RIFF but no sound")
    soundfile.write(place / "voice.wav", voice(), 24000, subtype="PCM_16")
    return place


@pytest.fixture(scope="module")
def server(edge: Recognizer, folder: Path) -> Iterator[Running]:
    with running(edge) as found:
        yield found


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Any]:
    with chromium(None, *FAKE, f"--use-file-for-fake-audio-capture={folder / 'voice.wav'}") as opened:
        yield opened


@pytest.fixture
def page(server: Running, browser: Any) -> Page:
    return Page(browser, f"{server.url}/")


def test_at_each_depth_the_text_is_the_runtimes(page: Page, folder: Path, edge: Recognizer) -> None:
    file = folder / "tones.wav"
    found = [page.open_file(file), page.press(HOME), page.press(RIGHT), page.press(RIGHT)]
    assert found == [edge.transcribe(str(file), depth=depth).text for depth in (3, 1, 2, 3)]


def test_the_dials_say_what_is_asked_for_and_the_answer_what_was_done(page: Page, folder: Path) -> None:
    page.open_file(folder / "tones.wav")
    assert page.text("depth-value") == "auto: what the load allows" and page.text("blocks") == "3 of 3 blocks"
    page.press(HOME)
    assert [page.text("depth-value"), page.text("blocks")] == ["1 of 3 blocks"] * 2
    assert page.browser.find_element("id", "depth").get_attribute("aria-valuetext") == "1 of 3 blocks"
    assert page.browser.execute_script("return document.querySelector('#picture .now .name').textContent") == "1"
    before = page.answers()
    page.browser.find_element("id", "deadline").send_keys(LEFT)  # from the server's own to 10 s
    page.wait(f"Number(document.getElementById('text').dataset.answer) > {before}")
    assert page.text("deadline-value") == "10000 ms" and "Deadline of 10000 ms: kept." in page.text("reason")
    page.wait("Number(document.getElementById('load').textContent) > 0")
    seconds = soundfile.info(folder / "tones.wav").duration
    assert page.text("queued") == "0" and page.text("length") == f"{seconds:.1f} s"


def test_a_dropped_file_is_taken(page: Page, folder: Path) -> None:
    content = (folder / "tones.wav").read_bytes()
    page.drop("tones.wav", content)
    page.wait("document.getElementById('text').dataset.answer")
    assert page.text("text") == page.open_file(folder / "tones.wav")


def test_what_the_server_refuses_is_said_and_the_page_goes_on(page: Page, folder: Path) -> None:
    page.browser.find_element("id", "file").send_keys(str(folder / "broken.wav"))
    page.wait("document.getElementById('error').textContent")
    assert page.text("error").startswith("The server says: broken.wav") and page.text("error").endswith(".")
    page.open_file(folder / "tones.wav")
    assert page.text("error") == ""


def test_a_screen_reader_finds_names_of_what_can_be_used(page: Page) -> None:
    nodes = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names = {(node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in nodes}
    assert {("slider", "Depth"), ("slider", "Deadline"), ("button", "Record"), ("heading", "Text")} <= names
    picture = next(name for role, name in names if role == "image")
    assert picture.startswith("Word error rate on dev") and "Depth 3: 10\N{NO-BREAK SPACE}%" in picture


def test_the_microphone_is_heard_and_answered(page: Page, server: Running) -> None:
    button = page.browser.find_element("id", "record")
    button.click()
    page.wait("document.getElementById('state').textContent.startsWith('Recording.')")
    assert (button.text, button.get_attribute("aria-pressed")) == ("Stop", "true")
    page.browser.find_element("id", "depth").send_keys(HOME)
    page.module("return new Promise((done) => setTimeout(done, 1500));")
    button.click()
    page.wait("document.getElementById('state').textContent === 'Ready.'")
    assert page.text("error") == "" and button.text == "Record"
    assert page.text("blocks") == "1 of 3 blocks" and float(page.text("length").removesuffix(" s")) > 0.3
    page.wait("!document.getElementById('file').disabled")


def test_with_a_key_the_page_asks_for_it(edge: Recognizer, folder: Path, browser: Any) -> None:
    with running(edge, keys=[KEY]) as locked:
        page = Page(browser, f"{locked.url}/", ready=False)
        page.wait("!document.getElementById('key-form').hidden && document.activeElement.id === 'key'")
        browser.find_element("id", "key").send_keys("sk-wrong\n")
        page.wait("document.getElementById('error').textContent")
        assert page.text("error") == "The server says: the key is not known here."
        browser.find_element("id", "key").clear()
        browser.find_element("id", "key").send_keys(f"{KEY}\n")
        page.wait_until_ready()
        assert page.open_file(folder / "tones.wav") == edge.transcribe(str(folder / "tones.wav")).text
        browser.find_element("id", "record").click()
        page.wait("document.getElementById('state').textContent.startsWith('Recording.')")


def test_nobody_but_the_server_is_asked(server: Running, folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "network.json"
    with chromium(log, *FAKE) as browser:
        page = Page(browser, f"{server.url}/")
        page.open_file(folder / "tones.wav")
        browser.find_element("id", "record").click()
        page.wait("document.getElementById('state').textContent.startsWith('Recording.')")
    asked = requests_of(log)
    own = server.url.removeprefix("http://")
    assert {f"{server.url}/page/page.js", f"{server.url}/page/capture.js"} <= asked
    assert any(url.startswith(f"ws://{own}/v1/realtime") for url in asked)
    assert {url for url in asked if not url.startswith((f"{server.url}/", f"ws://{own}/"))} == set()
