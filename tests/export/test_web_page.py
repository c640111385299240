"""The exported page in Chromium: the runtime's texts, a dial, no request to anybody else, and no network needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from layerdial.export.onnxruntime_web import onnxruntime_web
from layerdial.export.web_folder import write_web_folder
from layerdial.runtime import Recognizer
from tiny_browser import Page, browser_packages, chromium, hosted, npm_package, requests_of
from tiny_golden import noisy

pytestmark = pytest.mark.slow  # a browser, which compiles 14 MB of WebAssembly

OLD = Path(__file__).parents[1] / "old_artefacts"
TEXTS = json.loads((OLD / "texts.json").read_text(encoding="utf-8"))
HOME, RIGHT = "\ue011", "\ue014"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    browser_packages()
    place = tmp_path_factory.mktemp("page")
    write_web_folder(place / "site", OLD / "exported", onnxruntime_web(npm_package()))
    samples = noisy(TEXTS["sentence"], TEXTS["seed"])
    soundfile.write(place / "tones.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(place / "stereo.wav", [[x, x] for x in samples], 16000, subtype="FLOAT")
    (place / "broken.wav").write_bytes(b"RIFF but no sound")
    return place


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(folder: Path, browser: Any) -> Iterator[Page]:
    with hosted(folder / "site") as host:
        yield Page(browser, host.url)


def test_at_each_depth_the_text_is_the_runtimes(page: Page, folder: Path) -> None:
    own = Recognizer(OLD / "exported", threads=1)
    found = [page.open_file(folder / "tones.wav"), page.press(HOME), page.press(RIGHT)]
    assert found == [own.transcribe(str(folder / "tones.wav"), depth=depth).text for depth in (3, 1, 2)]
    assert found == [TEXTS["texts"]["exported"][depth] for depth in "312"]


def test_the_dial_says_how_many_blocks_run_and_the_answer_which_did(page: Page, folder: Path) -> None:
    page.open_file(folder / "tones.wav")
    page.press(HOME)
    for expected in ("1 of 3 blocks", "2 of 3 blocks", "3 of 3 blocks"):
        assert [page.text("depth-value"), page.text("blocks")] == [expected] * 2
        assert page.browser.find_element("id", "depth").get_attribute("aria-valuetext") == expected
        if expected != "3 of 3 blocks":
            page.press(RIGHT)


def test_channels_are_mixed_and_a_dropped_file_is_taken(page: Page, folder: Path) -> None:
    text = page.open_file(folder / "tones.wav")
    assert page.open_file(folder / "stereo.wav") == text
    before = page.answers()
    page.drop("tones.wav", (folder / "tones.wav").read_bytes())
    page.wait(f"Number(document.getElementById('text').dataset.answer) > {before}")
    assert page.text("text") == text


def test_a_file_that_is_no_sound_is_said_and_the_page_goes_on(page: Page, folder: Path) -> None:
    page.choose(folder / "broken.wav")
    page.wait("document.getElementById('error').textContent")
    assert page.text("error") == "broken.wav is no sound that this browser can read; WAV, MP3 and FLAC mostly are."
    page.open_file(folder / "tones.wav")
    assert page.text("error") == ""


def test_a_screen_reader_finds_names_of_what_can_be_used(page: Page) -> None:
    nodes = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names = {(node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in nodes}
    assert {("slider", "Depth"), ("button", "Record"), ("heading", "Text")} <= names
    assert any(name and name.startswith("Choose a file, or drop one here") for _, name in names)
    assert any(role == "status" for role, _ in names)


def test_a_policy_refuses_other_hosts_and_scripts_in_texts(page: Page) -> None:
    refused = (
        "const refused = new Promise((done) => {{ document.addEventListener("
        "'securitypolicyviolation', (event) => done(event.effectiveDirective), {{once: true}}); }});"
        "{} return refused;"
    )
    assert page.module(refused.format("fetch('https://example.org/').catch(() => 0);")) == "connect-src"
    script = "const made = document.createElement('script'); made.textContent = 'ran = 1'; document.head.append(made);"
    assert page.module(refused.format(script)) == "script-src-elem"


def test_nothing_is_asked_of_others_and_without_its_host_the_page_still_works(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "network.json"
    with hosted(folder / "site") as host, chromium(log) as browser:
        text = Page(browser, host.url).open_file(folder / "tones.wav")
        host.stop()
        for address in (host.url, f"{host.url}index.html"):
            again = Page(browser, address)
            assert again.open_file(folder / "tones.wav") == text
    asked = requests_of(log)
    assert len(asked) > 20 and {url for url in asked if not url.startswith(host.url)} == set()


def test_the_microphone_is_heard(folder: Path) -> None:
    said = folder / "said.wav"
    soundfile.write(said, noisy(TEXTS["sentence"], TEXTS["seed"]), 16000, subtype="PCM_16")
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with (
        hosted(folder / "site") as host,
        chromium(None, *flags, f"--use-file-for-fake-audio-capture={said}") as browser,
    ):
        page = Page(browser, host.url)
        button = browser.find_element("id", "record")
        button.click()
        page.wait("document.getElementById('state').textContent === 'Recording.'")
        assert (button.text, button.get_attribute("aria-pressed")) == ("Stop", "true")
        page.module("return new Promise((done) => setTimeout(done, 2500));")
        button.click()
        page.wait("document.getElementById('text').dataset.answer")
        assert float(page.text("length").removesuffix(" s")) > 1.0
        assert set(page.text("text").split()) & {"low", "middle", "high"}
