"""A streaming export on the device: streams in batches, caches, whole files, damage, and wrong arguments."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdial import BlockSubset, UserError
from layerdial.recognizer import collate_features
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.streaming_session import StreamingSession
from layerdial.subset import ChunkSchedule
from layerdial.utils.records import read_record
from tiny import noise, speak
from tiny_runtime import change
from tiny_streaming import results_of, sound
from tiny_streaming_export import N_BLOCKS, load_session

pytest_plugins = ["tiny_streaming_export", "tiny_export"]

FULL, FIRST = BlockSubset.full(N_BLOCKS), BlockSubset.prefix(N_BLOCKS, 1)
DEPTHS = [FULL, FIRST, FULL, BlockSubset(N_BLOCKS, (1, 2))]


def chunk(streams: int = 1, inputs: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x_BTF, lengths_B = noise([inputs] * streams, seed)
    return x_BTF.numpy(), lengths_B.numpy()


# -------------------------------------------------------------------------------------------------------------- streams


def test_a_stream_in_a_batch_equals_the_stream_alone(streaming_session: StreamingSession) -> None:
    """Also where another stream has ended, another is idle, and one joins late."""
    together, alone = streaming_session.begin(3), [streaming_session.begin() for _ in range(3)]
    for i, subset in enumerate(DEPTHS):
        x_BTF, lengths_B = chunk(3, 16, seed=i)
        lengths_B[:] = (16, 0 if i < 2 else 16, 16 if i < 2 else (7 if i == 2 else 0))
        logp_BTV, together = streaming_session.step(x_BTF, lengths_B, subset, together)
        for row, length in enumerate(lengths_B.tolist()):
            if not length:
                continue
            own_BTV, alone[row] = streaming_session.step(
                x_BTF[row : row + 1, :length], lengths_B[row : row + 1], subset, alone[row]
            )
            frames = streaming_session.features.frames(length)
            np.testing.assert_allclose(logp_BTV[row, :frames], own_BTV[0, :frames], atol=1e-5)
    assert together.seen_B.tolist() == [16, 8, 10]


def test_streams_are_joined_and_parted_in_the_middle(streaming_session: StreamingSession) -> None:
    x_BTF, lengths_B = chunk(2)
    _, both = streaming_session.step(x_BTF, lengths_B, FIRST, streaming_session.begin(2))
    first, second = both.parted()
    as_arrays = first.arrays().joined([second])
    expected, *others = (
        streaming_session.step(x_BTF, lengths_B, FULL, kept)[0]
        for kept in (both, first.joined([second]), as_arrays, both.arrays())
    )
    for found in others:
        np.testing.assert_array_equal(found, expected)


def test_an_idle_stream_is_left_as_it_is(streaming_session: StreamingSession) -> None:
    _, before = streaming_session.step(*chunk(), FULL, streaming_session.begin())
    _, after = streaming_session.step(chunk(seed=1)[0], np.array([0]), FULL, before)
    for old, new in zip(before.arrays(), after.arrays(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_caches_have_the_same_size_whatever_came(streaming_session: StreamingSession) -> None:
    caches = begun = streaming_session.begin(2)
    for i in range(60):
        _, caches = streaming_session.step(*chunk(2, 4 * (1 + i % 9), seed=i), DEPTHS[i % 4], caches)
    assert [(part.shape, part.dtype) for part in caches.arrays()] == [
        (part.shape, part.dtype) for part in begun.arrays()
    ]
    assert caches.seen_B.tolist() == [sum(1 + i % 9 for i in range(60))] * 2


def test_what_a_step_was_given_is_not_changed(streaming_session: StreamingSession) -> None:
    x_BTF, lengths_B = chunk()
    _, caches = streaming_session.step(x_BTF, lengths_B, FIRST, streaming_session.begin())
    kept = caches.arrays()
    first, _ = streaming_session.step(x_BTF, lengths_B, FULL, caches)
    second, _ = streaming_session.step(x_BTF, lengths_B, FULL, caches)
    np.testing.assert_array_equal(first, second)
    for part, copy in zip(caches.arrays(), kept, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_what_a_stream_kept_goes_on_twice_in_two_ways(streaming_session: StreamingSession) -> None:
    """Also where the tape of one is full in between, and where blocks catch up."""
    _, begun = streaming_session.step(*chunk(), FIRST, streaming_session.begin())
    as_arrays = begun.arrays()
    for seed, subset in ((1, FULL), (2, FIRST)):  # the second is another continuation, from before the first
        ours: Any = begun
        theirs: Any = as_arrays
        for i in range(12):
            x_BTF, lengths_B = chunk(1, 4 * (1 + i % 3), seed=100 * seed + i)
            found, ours = streaming_session.step(x_BTF, lengths_B, subset if i % 2 else FULL, ours)
            expected, after = streaming_session.step(x_BTF, lengths_B, subset if i % 2 else FULL, theirs)
            theirs = after.arrays()
            np.testing.assert_array_equal(found, expected)
    for old, kept in zip(begun.arrays(), as_arrays, strict=True):
        np.testing.assert_array_equal(old, kept)


def test_a_chunk_longer_than_what_is_kept_leaves_its_last_frames(streaming_session: StreamingSession) -> None:
    _, once = streaming_session.step(*chunk(1, 400), FIRST, streaming_session.begin())
    parts = streaming_session.begin()
    x_BTF, _ = chunk(1, 400)
    kept = once.arrays()
    assert kept.raw_NBP[1:].all() and not kept.raw_NBP[0].any() and kept.seen_B.tolist() == [100]
    np.testing.assert_array_equal(kept.keys_NBLE[1, :, -4:, :16], kept.gated_NBKD[1])
    for start in range(0, 400, 40):
        _, parts = streaming_session.step(x_BTF[:, start : start + 40], np.array([40]), FIRST, parts)
    assert parts.arrays().raw_NBP.tolist() == kept.raw_NBP.tolist()


# ---------------------------------------------------------------------------------------------------------- whole files


def test_files_have_the_texts_of_torch(streaming_folders: Callable[[str], tuple[Path, Path]]) -> None:
    from layerdial import load_model

    model, edge = streaming_folders("plain")
    torchs, ours = load_model(model), Recognizer(edge, threads=1)
    for depth in range(1, N_BLOCKS + 1):
        texts = [recognizer.transcribe(speak("low high middle"), depth).text for recognizer in (torchs, ours)]
        assert texts[0] == texts[1] != ""


def test_batches_in_chunks_have_the_texts_of_torch_and_the_cost_of_their_blocks(
    streaming_folders: Callable[[str], tuple[Path, Path]], edge: Recognizer
) -> None:
    from layerdial.models.torch_recognizer import load_torch_model

    model, folder = streaming_folders("plain")
    ours, schedule = Recognizer(folder, threads=1), ChunkSchedule((4,), (FIRST,))
    batch = collate_features(["a", "b"], [ours.features(sound(seconds)) for seconds in (2.0, 3.0)], ["", ""], 5.0)
    found = ours.recognize(batch, schedule)
    assert found == load_torch_model(model).recognize(batch, schedule) != ours.recognize(batch, FIRST)
    assert ours.cost(schedule) == ours.cost(FIRST)
    with pytest.raises(UserError, match="ask for them one by one"):
        ours.cost(ChunkSchedule((4,), (FIRST, FULL)))
    with pytest.raises(UserError, match="takes whole utterances; for streams"):
        edge.recognize(batch, schedule)


@pytest.mark.parametrize("chunk_ms", [80, 1280])
def test_streams_have_the_results_of_torch(
    streaming_folders: Callable[[str], tuple[Path, Path]], chunk_ms: int
) -> None:
    from layerdial.models.torch_recognizer import load_torch_model

    model, edge = streaming_folders("plain")
    parts = np.array_split(sound(5.0), 23)
    theirs, ours = (
        results_of(recognizer.stream(chunk_ms=chunk_ms, depth=[1, 3, 2]), parts)
        for recognizer in (load_torch_model(model), Recognizer(edge, threads=1))
    )
    assert [result.text for result in ours] == [result.text for result in theirs]
    assert len(ours[-1].text) > 20


def test_files_are_heard_in_chunks_where_the_manifest_says_so(streaming_edge: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(streaming_edge, tmp_path / "edge")
    stored = json.loads((folder / "manifest.json").read_text())
    assert stored["streaming"]["file_chunk_ms"] == "full"
    change(folder / "manifest.json", streaming=stored["streaming"] | {"file_chunk_ms": 160}, checksum=...)
    session = Recognizer(folder, threads=1).session
    x_BTF, lengths_B = chunk(2, 99)
    ours, frames_B = session.posteriors(x_BTF, lengths_B, FULL)
    theirs, _ = session.in_chunks(x_BTF, lengths_B, ChunkSchedule((4,), (FULL,)))
    whole, _ = session.in_chunks(x_BTF, lengths_B, ChunkSchedule((25,), (FULL,)))
    np.testing.assert_array_equal(ours, theirs)
    assert frames_B.tolist() == [25, 25] and not np.allclose(ours, whole, atol=1e-3)


def test_a_recogniser_gives_its_chunk_model_or_says_how_to_get_one(streaming_edge: Path, edge: Recognizer) -> None:
    model = Recognizer(streaming_edge, threads=1).chunk_model()
    assert (model.n_blocks, model.features.per_second) == (N_BLOCKS, 100)
    logp_BTV, _ = model.step(*chunk(2), FULL, model.begin(2))
    assert logp_BTV.shape == (2, 4, 7)
    with pytest.raises(
        UserError, match=r"takes whole utterances; for streams, .*layerdial export MODEL OUT --streaming"
    ):
        edge.chunk_model()


def test_streams_need_no_package_of_training(streaming_edge: Path) -> None:
    code = """
import sys, numpy as np
from layerdial.runtime import Recognizer
from layerdial.subset import BlockSubset
model = Recognizer(sys.argv[1]).chunk_model()
model.step(np.zeros((1, 8, 80), np.float32), np.array([8]), BlockSubset.full(model.n_blocks), model.begin())
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "lhotse", "onnx", "pydantic", "yaml"}))
"""
    done = subprocess.run([sys.executable, "-c", code, str(streaming_edge)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


# ------------------------------------------------------------------------------------------------------ wrong arguments


def wrong(**changes: Any) -> Callable[[StreamingSession], dict[str, Any]]:
    """The arguments of a step but for some; a function makes one of the session."""

    def arguments(session: StreamingSession) -> dict[str, Any]:
        x_BTF, lengths_B = chunk(2)
        right = {"inputs_BTF": x_BTF, "lengths_B": lengths_B, "subset": FULL, "caches": session.begin(2)}
        return right | {name: made(session) if callable(made) else made for name, made in changes.items()}

    return arguments


def with_nan(_: StreamingSession) -> np.ndarray:
    x_BTF, _lengths = chunk(2)
    x_BTF[1, 3, 7] = np.nan
    return x_BTF


def of_wider_model(session: StreamingSession) -> Any:
    return session.begin(2).arrays()._replace(keys_NBLE=np.zeros((N_BLOCKS, 2, 10, 64), np.float32))


WRONG = {
    "caches of another batch": (wrong(caches=lambda session: session.begin(3)), "are of 3 streams, the chunk is of 2"),
    "caches of another model": (wrong(caches=of_wider_model), "caches are of another model; begin"),
    "caches of another type": (
        wrong(
            caches=lambda session: session.begin(2).arrays()._replace(raw_NBP=np.zeros((N_BLOCKS, 2, 10), np.float32))
        ),
        "caches are of another model; begin",
    ),
    "NaN": (wrong(inputs_BTF=with_nan), "numbers that are not finite"),
    "double precision": (wrong(inputs_BTF=np.zeros((2, 16, 80))), "a chunk is float32 of shape .* found float64"),
    "other features": (wrong(inputs_BTF=np.zeros((2, 16, 40), np.float32)), r"\(streams, inputs, 80\)"),
    "no input": (wrong(inputs_BTF=np.zeros((2, 0, 80), np.float32)), "a chunk has one input or more"),
    "lengths of another batch": (wrong(lengths_B=np.array([16])), "one for each of 2 streams"),
    "lengths of 32 bits": (wrong(lengths_B=np.array([16, 16], np.int32)), "lengths are int64"),
    "lengths beyond the chunk": (wrong(lengths_B=np.array([16, 17])), "not all within a chunk of 16 inputs"),
    "lengths below nothing": (wrong(lengths_B=np.array([16, -1])), "not all within a chunk of 16 inputs"),
    "blocks of another model": (wrong(subset=BlockSubset.full(4)), "subset is for 4 blocks, this encoder has 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_said_in_one_line(streaming_session: StreamingSession, case: str) -> None:
    arguments, message = WRONG[case]
    with pytest.raises(UserError, match=message) as problem:
        streaming_session.step(**arguments(streaming_session))
    assert "\n" not in str(problem.value)


# --------------------------------------------------------------------------------------------------------------- damage


def streaming_with(folder: Path, **values: Any) -> None:
    """The streaming section with other values; `...` takes one out."""
    section = json.loads((folder / "manifest.json").read_text())["streaming"] | values
    section = {key: value for key, value in section.items() if value is not ...}
    change(folder / "manifest.json", streaming=section)


def caches_with(folder: Path, **values: Any) -> None:
    caches = json.loads((folder / "manifest.json").read_text())["streaming"]["caches"] | values
    streaming_with(folder, caches={key: value for key, value in caches.items() if value is not ...})


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no streaming": lambda f: change(f / "manifest.json", streaming=...),
    "streaming of an earlier version": lambda f: change(f / "manifest.json", format=1),
    "streaming a list": lambda f: change(f / "manifest.json", streaming=[]),
    "no sizes": lambda f: streaming_with(f, chunk_ms=[]),
    "sizes missing": lambda f: streaming_with(f, chunk_ms=...),
    "odd sizes": lambda f: streaming_with(f, chunk_ms=[90]),
    "words for sizes": lambda f: streaming_with(f, chunk_ms=["80"]),
    "no size for files": lambda f: streaming_with(f, file_chunk_ms=0),
    "a size for files in words": lambda f: streaming_with(f, file_chunk_ms="half"),
    "another frame": lambda f: streaming_with(f, frame_ms=80),
    "no frame": lambda f: streaming_with(f, frame_ms=None),
    "another left context": lambda f: streaming_with(f, left_context_ms=800),
    "an unknown key": lambda f: streaming_with(f, colour="red"),
    "a cache missing": lambda f: caches_with(f, raw=...),
    "a cache too many": lambda f: caches_with(f, more=[None]),
    "a cache without streams": lambda f: caches_with(f, seen=[1]),
    "a cache of fewer axes": lambda f: caches_with(f, middle=[None, 16]),
    "a cache of words": lambda f: caches_with(f, middle=[None, 1, "16"]),
    "a cache of more blocks": lambda f: caches_with(f, gated=[4, None, 4, 16]),
    "caches null": lambda f: streaming_with(f, caches=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_refused_by_one_line(streaming_edge: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(streaming_edge, tmp_path / "edge")
    DAMAGES[damage](folder)
    with pytest.raises(UserError, match=r"manifest\.json is damaged .*; export the model again") as problem:
        Recognizer(folder, threads=1)
    assert "\n" not in str(problem.value) and str(folder) in str(problem.value)


def test_a_graph_with_other_caches_than_its_manifest_is_refused(streaming_edge: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(streaming_edge, tmp_path / "edge")
    caches_with(folder, middle=[None, 1, 32])
    with pytest.raises(UserError, match=r"model\.onnx has another cache middle than its manifest\.json"):
        Recognizer(folder, threads=1)


def test_runtimes_from_before_streaming_refuse_the_folder(streaming_edge: Path) -> None:
    """They asked for format 1, with this function."""
    with pytest.raises(UserError, match=r"manifest\.json has format 2; this layerdial reads format 1"):
        read_record(streaming_edge / "manifest.json", "export the model again", format=1)
    assert Manifest.load(streaming_edge).graph_metadata()["layerdial.format"] == "2"


def test_a_graph_of_streams_under_the_manifest_of_whole_utterances_is_refused(
    streaming_edge: Path, exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "edge")
    shutil.copy(streaming_edge / "model.onnx", folder / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx is no graph of layerdial: its inputs are x, x_lens, gates, seen"):
        Recognizer(folder, threads=1)


def test_an_export_whose_caches_come_out_whole_is_to_be_made_again(streaming_edge: Path, tmp_path: Path) -> None:
    import onnx

    folder = shutil.copytree(streaming_edge, tmp_path / "edge")
    model = onnx.load(folder / "model.onnx")
    for name in ("seen", "keys", "gated", "raw"):
        given = next(value for value in model.graph.input if value.name == name)
        model.graph.output.add().CopyFrom(given)
        model.graph.output[-1].name = f"next_{name}"
        model.graph.node.add(op_type="Identity", input=[name], output=[f"next_{name}"], name=f"next_{name}")
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(
        UserError, match=r"model\.onnx is of an earlier layerdial, .*; export the model again"
    ) as problem:
        Recognizer(folder, threads=1)
    assert "\n" not in str(problem.value)


def test_both_loaders_are_one_session(streaming_edge: Path, streaming_session: StreamingSession) -> None:
    again = load_session(streaming_edge)
    ours, theirs = (session.step(*chunk(), FULL, session.begin())[0] for session in (again, streaming_session))
    np.testing.assert_array_equal(ours, theirs)
