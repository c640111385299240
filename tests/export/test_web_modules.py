"""The page's modules compute what the runtime computes: features, windows, greedy CTC, a decoder's rules, bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from layerdial.audio.features import Features, LogMel, WhisperMel
from layerdial.audio.windows import pieces, windows
from layerdial.export.onnxruntime_web import onnxruntime_web
from layerdial.export.web_folder import write_web_folder
from layerdial.runtime import Recognizer
from layerdial.text.byte_level import ByteTable
from layerdial.text.ctc import greedy_ctc
from layerdial.text.token_rules import longest_text, looping_phrase, without_loop
from layerdial.text.tokenizer import PieceTable
from tiny_browser import Page, browser_packages, chromium, hosted, npm_package

pytest_plugins = ["tiny_whisper_edge"]
pytestmark = pytest.mark.slow  # a browser

# the same numbers in both languages: an integer sequence, scaled
_SAMPLES = (
    "const sample = (_, i) => ((i * 7919 + i % 977 * 331) % 2003) / 2003 - 0.5;"
    "const samples = Float32Array.from({length: given[0]}, sample);"
)


def samples_of(length: int) -> NDArray[np.float32]:
    i = np.arange(length, dtype=np.int64)
    return (((i * 7919 + i % 977 * 331) % 2003) / 2003 - 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def site(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one site of a tiny Whisper, and one of a tiny Conformer."""
    browser_packages()
    place = tmp_path_factory.mktemp("sites")
    runtime = onnxruntime_web(npm_package())
    write_web_folder(place / "whisper", folders / "edge", runtime)
    write_web_folder(place / "conformer", Path(__file__).parents[1] / "old_artefacts" / "exported", runtime)
    return place


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[tuple[Any, str]]:
    with hosted(site) as host, chromium() as opened:
        yield opened, host.url


@pytest.fixture(scope="module")
def page(browser: tuple[Any, str]) -> Page:
    return Page(browser[0], f"{browser[1]}whisper/")


@pytest.mark.parametrize(("name", "features"), [("conformer", LogMel(4)), ("whisper", WhisperMel(80))])
def test_features_are_the_runtimes(browser: tuple[Any, str], page: Page, name: str, features: Features) -> None:
    for length in (1, 80, 159, 400, 4321, 16000):
        found = page.module(
            _SAMPLES + "const {loadModel} = await import(given[1]);"
            "globalThis.models ??= {}; const {features} = await (globalThis.models[given[1]] ??= loadModel());"
            "const {data, frames} = await features(samples); return {data: Array.from(data), frames};",
            length,
            f"{browser[1]}{name}/model.js",
        )
        own = features(samples_of(length))
        assert found["frames"] == len(own)
        assert np.abs(np.array(found["data"]).reshape(own.shape) - own).max() < 1e-3, (name, length)


def test_long_sound_is_cut_as_in_the_runtime(page: Page) -> None:
    for seconds in (29.9, 30.0, 41.3, 95.0):
        length = round(16000 * seconds)
        found = page.module(
            _SAMPLES + "const {windowsOf, piecesOf} = await import('./windows.js');"
            "return [windowsOf(samples).map((one) => [one.samples.length, one.before, one.kept]),"
            " piecesOf(samples).map((one) => one.length)];",
            length,
        )
        samples = samples_of(length)
        own = [[len(one.samples), one.n_before, one.n_kept] for one in windows(samples)]
        assert found == [own, [len(one) for one in pieces(samples)]]


def test_ctc_is_the_runtimes(page: Page) -> None:
    rng = Random(0)
    tokens = ["<blk>", "\u2581a", "b", "\u2581", "c\u00e9", "<unk>"]
    rows = [[rng.randrange(6) for _ in range(rng.randrange(12))] for _ in range(200)]
    found = page.module(
        "const {greedyCtc, textOfPieces} = await import('./ctc.js');"
        "return given[0].map((ids) => textOfPieces(greedyCtc(ids), given[1], [5]));",
        rows,
        tokens,
    )
    table = PieceTable(tokens, silent=[5])
    assert found == [table.decode(greedy_ctc(ids)) for ids in rows]


def test_loops_are_found_as_in_the_runtime(page: Page) -> None:
    rng = Random(1)
    rows = [[rng.randrange(3) for _ in range(rng.randrange(30))] for _ in range(300)]
    rows += [
        [rng.randrange(9)] * rng.randrange(4) + [1, 2, 3][: rng.randrange(1, 4)] * rng.randrange(3, 10)
        for _ in range(200)
    ]
    found = page.module(
        "const {loopingPhrase, withoutLoop} = await import('./rules.js');"
        "return given[0].map((row) => { const phrase = loopingPhrase(row);"
        " return [phrase, phrase && withoutLoop(row, phrase)]; });",
        rows,
    )
    phrases = [looping_phrase(row) for row in rows]
    assert found == [[p, None if p is None else without_loop(row, p)] for p, row in zip(phrases, rows, strict=True)]
    assert sum(phrase is not None for phrase in phrases) > 50


def test_the_longest_text_is_the_runtimes(page: Page) -> None:
    seconds = [i / 24 for i in range(200)]
    found = page.module(
        "const {longestText} = await import('./rules.js'); return given[0].map((s) => longestText(60, s));", seconds
    )
    assert found == [longest_text(60, s) for s in seconds]


def test_bytes_become_the_text_of_the_runtime(page: Page) -> None:
    tokens = [
        *(chr(256 + i) for i in range(68)),
        *map(chr, range(33, 127)),
        *map(chr, range(161, 256)),
        "\u0120the",
        "\u4e2d",
        "<|end|>",
    ]
    end, rng = len(tokens) - 1, Random(2)
    rows = [[rng.randrange(len(tokens)) for _ in range(rng.randrange(20))] for _ in range(200)]
    found = page.module(
        "const {textOfBytes} = await import('./bytes.js');"
        "return given[0].map((ids) => textOfBytes(ids, given[1], given[2]));",
        rows,
        tokens,
        end,
    )
    table = ByteTable(tokens, end)
    assert found == [table.decode(ids) for ids in rows]


def test_a_decoder_writes_the_runtimes_texts(page: Page, folders: Path) -> None:
    own = Recognizer(folders / "edge", threads=1)
    for depth in range(1, own.n_blocks + 1):
        for length in (16000, 41000):
            found = page.module(
                _SAMPLES + "const {loadModel} = await import('./model.js');"
                "const {transcribe} = await (globalThis.model ??= loadModel()); return transcribe(samples, given[1]);",
                length,
                own.subset(depth).key,
            )
            assert found == own.transcribe(samples_of(length), depth=depth).text
