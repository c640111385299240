"""Chromium, driven by Selenium, and a host of static files.

Tests are skipped where Chromium, its driver or onnxruntime-web is missing.
"""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from layerdial.export.onnxruntime_web import PLACES, VERSION

ROOT = Path(__file__).parents[1]
OFFLINE_FLAGS = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


def browser_packages() -> tuple[str, str]:
    """Chromium and its driver; the test is skipped where one is missing."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if found[0] is None or found[1] is None:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    return found[0], found[1]


def npm_package() -> Path:
    """onnxruntime-web in the clone; the test is skipped where it is missing."""
    for place in PLACES:
        if (ROOT / place).exists():
            return ROOT / place
    pytest.skip(f"onnxruntime-web is missing: npm pack onnxruntime-web@{VERSION}, in the clone")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


class StaticHost:
    """A host of static files, which can go away."""

    def __init__(self, folder: Path) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def hosted(folder: Path) -> Iterator[StaticHost]:
    host = StaticHost(folder)
    try:
        yield host
    finally:
        host.stop()


@contextmanager
def chromium(log: Path | None = None, *flags: str) -> Iterator[Any]:
    """A browser without a window; `log` gets all that its network does once it is closed."""
    binary, driver = browser_packages()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    more = [] if log is None else [f"--log-net-log={log}"]
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *OFFLINE_FLAGS, *more, *flags):
        options.add_argument(flag)
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    opened.set_script_timeout(60)
    try:
        yield opened
    finally:
        opened.quit()


def requests_of(log: Path) -> set[str]:
    """The URLs that pages and their workers asked for, by the log of a browser's network.

    What the browser asks for itself (is there a newer version?) has no origin; nor has the first page of a visit.
    """
    found = json.loads(log.read_text(encoding="utf-8"))
    start = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event["params"] for event in found["events"] if event["type"] == start and "params" in event]
    return {one["url"] for one in asked if one.get("initiator", "").startswith("http")}


class Page:
    """The exported page in a browser, or that of a server, used as a person does."""

    def __init__(self, browser: Any, url: str, ready: bool = True) -> None:
        self.browser = browser
        browser.get(url)
        if ready:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        self.wait("!document.getElementById('file').disabled || document.getElementById('error').textContent")
        assert self.text("error") == ""

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        script = f"return Boolean({condition})"
        WebDriverWait(self.browser, seconds, poll_frequency=0.02).until(lambda it: it.execute_script(script))

    def text(self, element: str) -> str:
        found: str = self.browser.execute_script("return document.getElementById(arguments[0]).textContent", element)
        return found

    def answers(self) -> int:
        """How many requests were answered so far."""
        return int(self.browser.execute_script("return Number(document.getElementById('text').dataset.answer || 0)"))

    def open_file(self, file: Path) -> str:
        return self._answer(lambda: self.choose(file))

    def choose(self, file: Path) -> None:
        """Choose a file; as a click does, what was chosen before is taken back first."""
        chooser = self.browser.find_element("id", "file")
        self.browser.execute_script("arguments[0].value = ''", chooser)
        chooser.send_keys(str(file))

    def drop(self, name: str, content: bytes) -> None:
        self.module(
            "const bytes = Uint8Array.from(atob(given[1]), (letter) => letter.charCodeAt(0));"
            "const dataTransfer = new DataTransfer();"
            "dataTransfer.items.add(new File([bytes], given[0]));"
            "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}));",
            name,
            base64.b64encode(content).decode(),
        )

    def press(self, key: str) -> str:
        """Press a key on the dial; the answer follows of itself."""
        return self._answer(lambda: self.browser.find_element("id", "depth").send_keys(key))

    def _answer(self, act: Any) -> str:
        before = self.answers()
        act()
        self.wait(
            f"Number(document.getElementById('text').dataset.answer || 0) > {before}"
            " || document.getElementById('error').textContent"
        )
        assert self.text("error") == ""
        return self.text("text")

    def module(self, body: str, *arguments: Any) -> Any:
        """Run the body of an async function in the page, and return what it returns."""
        script = (
            "const done = arguments[arguments.length - 1];"
            f"(async (...given) => {{ {body} }})(...[...arguments].slice(0, -1))"
            ".then((value) => done({value}), (problem) => done({problem: String(problem)}));"
        )
        found = self.browser.execute_async_script(script, *arguments)
        assert "problem" not in found, found
        return found["value"]
