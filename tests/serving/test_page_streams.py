"""The page at `/` in Chromium with a streaming model: text while the fake microphone speaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from layerdial.runtime import Recognizer
from tiny_browser import Page, browser_packages, chromium
from tiny_serving import running
from tiny_streaming import sound

pytest_plugins = ["tiny_streaming_export"]
pytestmark = pytest.mark.slow  # a browser

FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def recognizer(streaming_edge: Path) -> Recognizer:
    return Recognizer(streaming_edge, threads=1)


@pytest.fixture(scope="module")
def page(recognizer: Recognizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser_packages()
    voice: Path = tmp_path_factory.mktemp("page") / "voice.wav"
    soundfile.write(voice, sound(20.0), 16_000, subtype="PCM_16")
    with running(recognizer) as server, chromium(None, *FAKE, f"--use-file-for-fake-audio-capture={voice}") as browser:
        yield Page(browser, f"{server.url}/")


def test_text_comes_while_one_speaks_and_stays_when_one_stops(page: Page) -> None:
    button = page.browser.find_element("id", "record")
    button.click()
    page.wait("document.getElementById('state').textContent === 'Recording. Text comes as you speak.'")
    page.wait("document.getElementById('text').textContent.length > 3")  # nobody has stopped
    assert " of 3 blocks" in page.text("blocks") and page.text("delay").endswith(" ms")
    before = page.text("text")
    button.click()
    page.wait("document.getElementById('state').textContent === 'Ready.'")
    assert page.text("error") == "" and page.text("text").startswith(before) and page.text("rest") == ""
    assert page.answers() > 0
