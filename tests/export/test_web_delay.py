"""The dial of the page changes the delay, and `english` writes in it what it writes in the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.data.synthesis.espeak import Utterance, synthesise
from layerdial.export.for_web import export_web
from layerdial.models.checkpoint import save_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.runtime import Recognizer
from layerdial.text.tokenizer import ListTokenizer
from tiny import tiny_config
from tiny_browser import Page, browser_packages, chromium, hosted, npm_package

pytestmark = pytest.mark.slow  # models of a size at which blocks are what takes the time

SENTENCE = "The old man walked slowly down to the river and looked at the water."
HOME, END = "\ue011", "\ue010"


def test_with_fewer_blocks_the_answer_comes_sooner(tmp_path: Path) -> None:
    browser_packages()
    npm = npm_package()
    tokenizer = ListTokenizer.build(["a b c"], "word")
    config = tiny_config(n_blocks=6, width=192, heads=4, ffn_width=768)
    save_model(tmp_path / "model", ConformerCTC(config, len(tokenizer.tokens)), tokenizer, {})
    export_web(tmp_path / "model", tmp_path / "site", npm)
    samples = np.random.default_rng(0).normal(0.0, 0.1, 10 * 16000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", samples, 16000, subtype="FLOAT")
    delays: dict[str, list[float]] = {"1 of 6 blocks": [], "6 of 6 blocks": []}
    with hosted(tmp_path / "site") as host, chromium() as browser:
        page = Page(browser, host.url)
        page.open_file(tmp_path / "noise.wav")
        for key in (HOME, END) * 4:
            page.press(key)
            delays[page.text("blocks")].append(float(page.text("delay").removesuffix(" ms")))
    # of six blocks one is left, so this is an order that a busy machine does not turn round
    assert min(delays["1 of 6 blocks"]) < min(delays["6 of 6 blocks"])


def test_english_writes_in_the_page_what_it_writes_in_the_runtime(tmp_path: Path) -> None:
    browser_packages()
    export_web(Path("english"), tmp_path / "site", npm_package())
    samples = synthesise(Utterance(SENTENCE, "en-us", speed=140), snr_db=None)
    soundfile.write(tmp_path / "said.wav", samples, 16000, subtype="FLOAT")
    own = Recognizer(tmp_path / "site" / "model", threads=1)
    with hosted(tmp_path / "site") as host, chromium() as browser:
        page = Page(browser, host.url)
        found = [page.open_file(tmp_path / "said.wav"), page.press(HOME)]
    assert "river" in found[0]
    assert found == [own.transcribe(str(tmp_path / "said.wav"), depth=depth).text for depth in (4, 3)]
