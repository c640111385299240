"""The page at `/` without a browser: what is served, as what, under which policy, and to whom."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerdial
from layerdial.registry.entries import read_entries
from layerdial.runtime import Recognizer
from layerdial.serving.measured import known_errors
from layerdial.serving.pages import PATHS
from tiny_serving import Running, running

pytest_plugins = ["tiny_export"]

KEY = "sk-key-of-the-page-0"
NOTHING = "default-src 'none'; frame-ancestors 'none'"
TYPES = {"": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
ENGLISH = Path(__file__).parents[2] / "models" / "english"
OUTSIDE = ("", "nothing.js", "index.html", "pages.py", "page.js/", "page.js%00", "/etc/passwd")
OUTSIDE += ("../app.py", "%2e%2e/app.py", "..%2fapp.py", "..%5capp.py")
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, which nothing is fetched from


@pytest.fixture(scope="module")
def server(edge: Recognizer) -> Iterator[Running]:
    with running(edge, keys=[KEY]) as found:
        yield found


@pytest.mark.parametrize("path", PATHS)
def test_a_file_of_the_page_has_its_type_names_no_other_host_and_needs_no_key(server: Running, path: str) -> None:
    found = server.get(path)
    assert found.status == 200 and found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-type"].partition(";")[0] == TYPES[path.rpartition("/")[2].rpartition(".")[2]]
    assert "//" not in re.sub(r"^\s*// .*|\s// .*", "", found.body.decode().replace(NAMESPACE, ""), flags=re.MULTILINE)


def test_what_the_files_name_is_served(server: Running) -> None:
    for path in PATHS:
        text, folder = server.get(path).body.decode(), path.rpartition("/")[0]
        named = re.findall(r"""(?:src|href)="([^"]+)"|from "\./([^"]+)"|new URL\("([\w.]+)", import""", text)
        for name in ("".join(found) for found in named):
            assert f"{folder}/{name}" in PATHS, f"{path} names {name}"


def test_the_page_may_load_its_own_files_alone_and_others_nothing(server: Running) -> None:
    policy = server.get("/").headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
    assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= set(policy)
    assert not any("unsafe" in rule or "*" in rule for rule in policy)
    for path in (*PATHS[1:], "/health", "/v1/models", "/nothing"):
        assert server.get(path, Authorization=f"Bearer {KEY}").headers["content-security-policy"] == NOTHING


def test_nothing_in_the_page_needs_what_the_policy_refuses(server: Running) -> None:
    html = server.get("/").body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", html)
    for path in PATHS[1:]:
        assert not re.search(r"\.style\b|setAttribute\(\"style|innerHTML|eval\(", server.get(path).body.decode()), path


@pytest.mark.parametrize(
    "path",
    [f"/page/{name}" for name in OUTSIDE],
)
def test_what_is_no_file_of_the_page_is_not_there(server: Running, path: str) -> None:
    assert server.get(path).status == 401  # without a key it is a path as any other
    found = server.get(path, Authorization=f"Bearer {KEY}")
    assert found.status in (404, 307) and str(Path(layerdial.__file__).parent) not in found.body.decode()
    assert found.error["code"] == "unknown_path" if found.status == 404 else found.body == b""


def test_only_reading_is_possible(server: Running) -> None:
    assert server.send("HEAD", "/").status == 200
    assert server.send("POST", "/").error["code"] == "method_not_allowed"


def test_the_model_says_what_is_known_of_its_depths(server: Running) -> None:
    [model] = server.get("/v1/models", Authorization=f"Bearer {KEY}").json["data"]
    levels = model["layerdial"]["levels"]
    assert [(level["depth"], level["wer"]) for level in levels] == [(1, 0.3), (2, 0.2), (3, 0.1)]
    assert all(level["ms"] > 0 for level in levels)
    assert model["layerdial"]["measured_on"] == "dev, on which its ladder was measured"


def test_a_model_of_the_registry_has_the_errors_that_the_registry_says() -> None:
    entry = read_entries()["english"]
    rates, measured_on = known_errors(ENGLISH, ladder=None)
    assert rates == {rate.depth: rate.wer for rate in entry.rates} and measured_on == entry.test_set
