"""The documents say what is so: their code blocks run, their links and recipes exist.

Python blocks are executed. Bash blocks are read by bash, so that quotes, braces and continued lines mean what they
mean there, and each command is then run in a workshop: a folder that holds what the documents suppose is there.
Training is shrunk to two steps of a narrow network. What is too heavy, or needs a corpus, is checked instead: the make
target, the extra or the command and its options must exist. What can be neither run nor checked fails.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from transformers import WavLMModel

from layerdial import __version__
from layerdial.cli.app import command_line
from layerdial.config.network import SIZES
from layerdial.export.writer import Traced, trace
from layerdial.models.checkpoint import save_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.registry.entries import write_entries
from layerdial.suites.suite import load_suite
from layerdial.text.tokenizer import load_tokenizer
from layerdial.utils.shipped import find_shipped
from tiny import command, in_child, sentences, speak, tiny_config, write_corpus
from tiny_hf import save_tiny, tiny_model, tiny_processor
from tiny_media import write_media
from tiny_registry import entry_of
from tiny_streaming_export import save_streaming, writing_network
from tiny_whisper import save_like_base

pytest_plugins = ["tiny_export", "tiny_streaming_export"]

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md")),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("recipes/*/README.md"),
        *ROOT.glob("experiments/results/*.md"),
    ]
)
RECIPES = sorted(ROOT.glob("recipes/*/*.yaml"))

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
# Their commands are those of the other recipes with other names, and take as long again as all other documents.
ALIKE = (
    "arctic-kathleen",
    "digits-fsdd",
    "digits-wavlm",
    "librispeech",
    "librispeech-mini",
    "tedlium3",
    "wavlm",
    "reproduce",
    "whisper/README",
    "docs/whisper",  # half a minute
    "docs/dictation",  # what plays in real time is waited for
    "hugging-face/README",
)


def names_of(document: Path) -> set[str]:
    return {document.parent.name, document.stem, f"{document.parent.name}/{document.stem}"}


each_document_to_run = pytest.mark.parametrize(
    "document",
    [pytest.param(path, marks=pytest.mark.slow if names_of(path) & set(ALIKE) else ()) for path in DOCUMENTS],
    ids=lambda path: str(path.relative_to(ROOT)),
)

# words that stand for something of the reader's
PLACEHOLDERS = {"MODEL": "runs/demo/sc_exits/model", "TEST_CUTS": "data/given/test.cuts.jsonl.gz", "AUDIO": "a.flac"}
# what the corpora that only a reader has would give
SPLITS = {
    "demo": ("train", "dev", "test"),
    "tedlium": ("train", "dev", "test"),
    "librispeech": (
        *("train-clean-100", "train-clean-360", "train-other-500"),
        *("dev-clean", "dev-other", "test-clean", "test-other"),
    ),
}
# tiny checkpoints for those that a reader has or that the hub would give
STAND_INS = {
    "my-wavlm": "wavlm-base",
    "facebook/wav2vec2-base-960h": "wav2vec2-base",
    "facebook/hubert-large-ls960-ft": "hubert-large",
    "nvidia/parakeet-ctc-1.1b": "parakeet",
}
WHEEL = rf"\./layerdial-{re.escape(__version__)}-py3-none-any\.whl"
SPEAKERS = ("anna", "bert", "carl")


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text, and the line it begins at."""

    language: str
    text: str
    line: int


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```\s*$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in found]


# ------------------------------------------------------------------------------------------------- the workshop


@pytest.fixture(scope="module")
def furniture(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents suppose is there: the recipes, the demo's models, some audio, a corpus of one's own."""
    place = tmp_path_factory.mktemp("furniture")
    for folder in ("recipes", "src", "experiments"):
        (place / folder).symlink_to(ROOT / folder)
    for method in ("reference", "ld", "sc_exits"):
        save_stand_in(place / "runs" / "demo" / method / "model", learnt)
    save_streaming(place / "runs" / "streaming" / "model", writing_network())
    for hub_id, variant in STAND_INS.items():  # a folder of that name comes before the hub
        save_tiny(place / hub_id, variant, num_hidden_layers=8)
    whisper = save_like_base(place / "openai" / "whisper-base")
    shutil.copytree(whisper, place / "models" / "whisper-base")
    pretrained = place / "microsoft" / "wavlm-base-plus"
    WavLMModel(tiny_model("wavlm-base").config).save_pretrained(pretrained)
    tiny_processor("wavlm-base").feature_extractor.save_pretrained(pretrained)
    for clip in ("a.flac", "my.wav", "talk.flac", "rede.flac", "runs/demo/cuts/audio/test/test-00000.flac"):
        (place / clip).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / clip, speak("low high low", 1), 16000)
    write_corpus(place / "runs" / "demo" / "cuts" / "dev.cuts.jsonl.gz", sentences(4))
    (place / "calls").mkdir()
    sides = np.stack([speak("low high", 1), speak("high low", 2)], axis=1)
    for clip in ("call.wav", "calls/monday.wav"):
        soundfile.write(place / clip, sides, 16000)
    write_media(place / "talk.mp4", speak("low high low", 1)[:, None], 16000, "aac", "mp4", video=True)
    for split in ("train", "dev", "test"):
        write_audio_folder(place / "mine" / split, SPEAKERS)
        write_corpus(place / "data" / "given" / f"{split}.cuts.jsonl.gz", sentences(4))
    return place


@pytest.fixture
def workshop(
    furniture: Path,
    exported: Path,
    traced: Traced,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Path:
    """A copy of it, to work in."""
    place = shutil.copytree(furniture, tmp_path / "workshop", symlinks=True)
    monkeypatch.chdir(place)
    shutil.copytree(exported, place / "models" / "english")
    monkeypatch.setattr("layerdial.registry.places.clone_folder", lambda name: place / "models" / name)
    monkeypatch.setattr("layerdial.registry.entries.FILE", place / "known.json")
    write_entries([entry_of(exported)])

    def again(*given: object) -> Traced:
        """What was traced already, which takes half a minute less than the stand-in's own."""
        if len(given) < 5 or given[4] is None:
            return traced
        with monkeypatch.context() as real:  # what is made now is made by an export
            real.setattr("layerdial.export.export.trace", trace)
            found: Traced = request.getfixturevalue("streaming_traced")
            return found

    monkeypatch.setattr("layerdial.export.export.trace", again)
    return place


def save_stand_in(folder: Path, learnt: Path) -> None:
    """A model of eight blocks, as the demo's are, that has learnt nothing."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(learnt)
    save_model(folder, ConformerCTC(tiny_config(n_blocks=8), len(tokenizer.tokens)), tokenizer, {})


def write_audio_folder(folder: Path, speakers: Sequence[str]) -> None:
    """metadata.csv and, from 0001.flac on, four recordings of each speaker."""
    folder.mkdir(parents=True)
    rows = ["file_name,transcription,speaker_id"]
    for i, text in enumerate(sentences(4 * len(speakers)), start=1):
        soundfile.write(folder / f"{i:04d}.flac", speak(text, i), 16000)
        rows.append(f"{i:04d}.flac,{text},{speakers[i % len(speakers)]}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")


# ----------------------------------------------------------------------------------------- what a document tells


def commands(text: str, scratch: Path) -> list[list[str]]:
    """The commands of a bash block, as bash itself understands them: without a PATH it finds none, and says so."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("this machine has no bash")
    scratch.mkdir(exist_ok=True)
    record = scratch / "record"
    record.unlink(missing_ok=True)
    remember = """
        command_not_found_handle() { printf '%s\\x1f' "$@" >> "$RECORD"; printf '\\x1e' >> "$RECORD"; }
        source() { command_not_found_handle source "$@"; }
        cd() { command_not_found_handle cd "$@"; }
        set -eu
    """
    text = text.replace(" > ", " '>' ")  # nothing is written yet
    environment = {"RECORD": str(record), "PATH": "/nowhere"}
    subprocess.run([bash, "-c", remember + text], check=True, cwd=scratch, env=environment, stdout=subprocess.DEVNULL)
    lines = record.read_text(encoding="utf-8").split("\x1e")[:-1] if record.exists() else []
    return [line.split("\x1f")[:-1] for line in lines]


def follow(arguments: list[str]) -> None:
    """Run or check one command."""
    program, *rest = [PLACEHOLDERS.get(argument, argument) for argument in arguments]
    if program == "layerdial":
        run_layerdial(rest)
    elif program == "make":
        assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in rest)
    elif program == "pip":
        check_pip(rest)
    elif program in ("accelerate", "torchrun"):
        check_options(rest[rest.index("layerdial") + 1 :])
    elif program == "python" and rest[0].endswith(".py"):
        script = (ROOT / rest[0]).read_text()
        assert all(option in script for option in rest[1:] if option.startswith("--"))
    elif program == "lhotse":
        subprocess.run([Path(sys.executable).with_name("lhotse"), *rest], check=True)
    elif program == "mkdir":
        assert rest[0] == "-p"
        for folder in rest[1:]:
            Path(folder).mkdir(parents=True, exist_ok=True)
    elif program == "cat":
        *files, arrow, target = rest
        assert arrow == ">" and all(Path(file).is_file() for file in files)
        Path(target).write_bytes(b"".join(Path(file).read_bytes() for file in files))
    elif program == "source":
        assert rest == [".venv/bin/activate"]
    else:
        pytest.fail(f"cannot run or check {arguments}; teach tests/test_docs.py how")


def check_pip(arguments: list[str]) -> None:
    """What is installed is this package with extras that it has, or torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert arguments[0] == "install", arguments
    for requirement in arguments[1:]:
        if match := re.fullmatch(rf"(?:layerdial|\.|{WHEEL})(?:\[(.+)\])?", requirement):
            assert set((match[1] or "train").split(",")) <= set(project["optional-dependencies"]), requirement
        else:
            assert requirement.startswith(("-", "torch", "https://")), requirement


def check_options(arguments: list[str]) -> None:
    """The command exists and takes these arguments."""
    if arguments[-1] in ("…", "..."):
        arguments = [*arguments[:-1], *(["x.yaml"] if arguments[0] == "train" else [])]
    found: Any = command_line()
    context = found.make_context("layerdial", list(arguments))
    while hasattr(found, "resolve_command") and (arguments or not found.invoke_without_command):
        name, found, arguments = found.resolve_command(context, arguments)
        assert found is not None, name
    found.make_context(name, list(arguments))


def run_layerdial(arguments: list[str]) -> None:
    check_options(arguments)
    match arguments:
        case ["prepare", "librispeech" | "tedlium" | "demo" as corpus, *rest]:
            for split in SPLITS[corpus]:
                write_corpus(Path(rest[-1]) / f"{split}.cuts.jsonl.gz", sentences(4))
            return
        case ["demo" | "serve", *_]:  # tests/serving/ runs the latter
            return
        case ["recipes", "copy", name, *_]:  # the workshop has them, as a clone has
            assert find_shipped(name).copy(Path("copied"), force=True)
            return
        case ["bench", suite, *_]:
            load_suite(ROOT / suite)
            return
        case ["prepare", "folder", source, *rest]:
            if not Path(source).exists():
                assert source.startswith("SOURCE"), f"nothing makes {source}"
                make_source(Path(source), rest)
        case ["pseudo-label", *_]:  # random weights recognise nothing rightly
            arguments = [*arguments, "--max-wer", "1000"]
        case ["train", recipe, *rest]:
            arguments = ["train", recipe, *rest, *shrunk(Path(recipe), rest)]
        case ["sweep", *_] if "--depths" not in arguments:
            arguments = [*arguments, "--depths", "1,2"]
    ended = command(*on_this_machine(arguments))
    assert ended.code == 0, f"layerdial {' '.join(arguments)}\n{ended.err}"


def make_source(folder: Path, options: list[str]) -> None:
    """An audio folder as the rest of the command wants it: one table with the speakers to hold out, or several."""
    held_out = [option.split("=")[1].split(",") for option in options if re.fullmatch(r"[\w-]+=[\w,-]+", option)]
    if held_out:
        write_audio_folder(folder, [*chain(*held_out), *SPEAKERS])
    for split in () if held_out else ("train", "dev", "test", "test-clean-20spk"):
        write_audio_folder(folder / split, SPEAKERS)


def shrunk(recipe: Path, options: list[str]) -> list[str]:
    """Two steps of a narrow network of as many blocks, with a vocabulary that a few sentences suffice for."""
    told = yaml.safe_load(recipe.read_text())
    settings = [option for option in options if "=" in option]
    changes = ["train.steps=2", "train.eval_every=2", "train.accumulate=1", "train.precision=fp32"]
    changes += ["data.workers=0", "data.batch_seconds=6"]
    if told.get("model", {}).get("family") == "hf":
        if "init" not in told:
            narrow = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
            changes += [f"model.config.{name}={value}" for name, value in narrow.items()]
    elif "model" in told:
        narrow = {"width": 16, "heads": 2, "ffn_width": 16, "kernel": 5}
        assert set(narrow) < set(SIZES["xs"])
        changes += [f"model.{name}={value}" for name, value in narrow.items()]
    kinds = [told.get("tokenizer", {}), *(yaml.safe_load(s.split("=", 1)[1]) for s in settings if "tokenizer=" in s)]
    if (
        "kind" in kinds[-1]
        and told.get("model", {}).get("family") != "hf"
        and not any(s.startswith("tokenizer.path=") for s in settings)
    ):
        changes.append("tokenizer={kind: word}")
    return [part for change in changes for part in ("--set", change)]


def on_this_machine(arguments: list[str]) -> list[str]:
    """The same on the CPU, without worker processes, and with the files that a pattern stands for."""
    changed: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before in (here := {"--device": "cpu", "--workers": "0", "--budget": "1"}):
            changed.append(here[before])
        elif "*" in argument:
            changed += sorted(map(str, Path().glob(argument)))
        else:
            changed.append(argument)
    if changed[0] in ("search", "sweep") and "--workers" not in changed:
        changed += ["--workers", "0"]
    return changed


# -------------------------------------------------------------------------------------------------------- facts


@each_document_to_run
def test_code_blocks_run(document: Path, workshop: Path, tmp_path: Path) -> None:
    for block in blocks(document):
        where = f"{document.relative_to(ROOT)}:{block.line}"
        print(where)
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(document), "exec")
            ended = in_child(lambda code=code: exec(code, {"__name__": "__main__"}))
            assert ended.code == 0, f"{where}\n{ended.err}"
        elif block.language in ("bash", "sh"):
            for arguments in commands(block.text, tmp_path / "scratch"):
                follow(arguments)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)
        else:
            assert block.language == "text", f"{where}: a block of {block.language or 'no'} language; call it text?"


@pytest.mark.parametrize(("document", "lines"), [("README.md", 150), ("docs/experiments.md", 200)])
def test_a_page_stays_short(document: str, lines: int) -> None:
    assert len((ROOT / document).read_text(encoding="utf-8").splitlines()) <= lines


@each_document
def test_tests_that_a_document_names_are_there(document: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", document.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_recipe_is_in_the_table_of_recipes() -> None:
    table = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    missing = [f"{file.parent.name}/{file.name}" for file in RECIPES if not _is_in_table(file, table)]
    assert not missing and all(f"demo: {name}.yaml" in table for name in ("reference", "ld", "dld", "sc-exits"))


def _is_in_table(recipe: Path, table: str) -> bool:
    return any(f"| {folder}/{recipe.name} |" in table for folder in (recipe.parent.name, f"[{recipe.parent.name}]"))


@each_document
def test_links_and_pictures_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)", text)]
    missing = [t for t in targets if t and "://" not in t and not (document.parent / t).exists()]
    assert not missing
    anchors = re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", text)
    lost = [anchor for file, anchor in anchors if anchor not in headings(document.parent / file if file else document)]
    assert not lost


def headings(document: Path) -> set[str]:
    """What links call the headings of a document: lower case, dashes for spaces, other signs left out."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_plugins_in_the_documents_are_the_files_that_they_name() -> None:
    document = ROOT / "docs" / "plugins.md"
    shown = [block.text for block in blocks(document) if block.language == "python"]
    names = ("first_block", "confidence_penalty")
    assert shown == [(ROOT / f"experiments/plugins/{name}.py").read_text(encoding="utf-8") for name in names]


@each_document
def test_recipes_that_are_named_exist(document: Path) -> None:
    named = re.findall(r"(?<![\w/])recipes/[\w./-]*\w", document.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_the_commands_at_the_top_of_a_recipe_are_commands(recipe: Path, tmp_path: Path) -> None:
    comments = [line[1:].strip() for line in recipe.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = "\n".join(comments).replace("\\\n", " ")
    told = [line for line in text.splitlines() if line.startswith("layerdial ")]
    found = commands("\n".join(told), tmp_path)
    assert told and len(found) == len(told)
    for _, *arguments in found:
        check_options(arguments)
        if arguments[0] == "train":
            assert (ROOT / arguments[1]).is_file()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("curl x", "cannot run or check"),
        ("layerdial fly", "No such command"),
        ("layerdial sweep m c --fast", "No such option"),
        ("layerdial search runs/no/model data/given/dev.cuts.jsonl.gz", "is not a model folder"),
        ("layerdial prepare folder yours data/yours", "nothing makes yours"),
        ("accelerate launch -m layerdial fly", "No such command"),
        ("make tea", "assert"),
        ("pip install layerdial[tea]", "assert"),
        ("cat no.txt > yes.txt", "assert"),
    ],
)
def test_what_can_be_neither_run_nor_checked_fails(workshop: Path, tmp_path: Path, line: str, problem: str) -> None:
    [arguments] = commands(line, tmp_path / "scratch")
    with pytest.raises(BaseException, match=problem):  # pytest's, click's or assert's
        follow(arguments)


def test_bash_reads_the_blocks(tmp_path: Path) -> None:
    text = "A=1 layerdial x 'y z' \\\n  --b  # note\nfor i in 1 2; do make t$i; done\ncat {p,q}.gz > r"
    assert commands(text, tmp_path) == [
        *(["layerdial", "x", "y z", "--b"], ["make", "t1"], ["make", "t2"], ["cat", "p.gz", "q.gz", ">", "r"]),
    ]
