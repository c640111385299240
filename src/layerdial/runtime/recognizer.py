"""An exported model, loaded: it transcribes at a given depth, or at the deepest that meets a constraint."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.channels import AudioPath, hold_all
from layerdial.audio.features import Features
from layerdial.audio.files import SAMPLE_RATE, probe
from layerdial.audio.windows import WINDOW_SECONDS, windows
from layerdial.cost import Cost
from layerdial.errors import UserError, needing
from layerdial.ladder import Ladder, depths_of, select
from layerdial.recognition.chunk_model import CHUNK_MS, ChunkModel
from layerdial.recognition.endpointing import DEFAULT_ENDPOINTS, Endpoints
from layerdial.recognizer import Audio, FeatureBatch, collate_features
from layerdial.registry.find import model_folder
from layerdial.request import Request
from layerdial.runtime.controller import CostTable, DepthController, worthwhile
from layerdial.runtime.decoding import CtcDecoding, Decoding
from layerdial.runtime.manifest import Manifest, check_export, read_features
from layerdial.runtime.measure import measure_table
from layerdial.runtime.memory import check_memory
from layerdial.runtime.profile import Profile, ThreadProfile
from layerdial.runtime.scheduler import Constraint, PassResult, RunPass, Scheduler, TimedWindow
from layerdial.runtime.session import default_threads, usable_cpus
from layerdial.subset import Blocks, BlockSubset, ChunkSchedule, SelectorDepth
from layerdial.text.tokenizer import PieceTable
from layerdial.transcript import Chunk, Transcribed, Transcript
from layerdial.utils.forks import renew_after_fork

if TYPE_CHECKING:
    from layerdial.recognition.calibration import Calibration
    from layerdial.recognition.stream_depths import Depths
    from layerdial.recognition.streaming import Stream
    from layerdial.text.byte_level import ByteTable
    from layerdial.text.ctc_beams import Pieces

_log = logging.getLogger(__name__)


class OnnxRecognizer:
    """An exported folder, or a model by its name, loaded.

    Any number of threads may use it at once; as many run as there are CPUs. `threads` are those of one request. The
    default is the fastest number in the profile; without a profile it is as many as the process may use, four at most.
    Raises `UserError` for a folder that is no export, is damaged, or whose parts do not belong together.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UserError(f"threads is {threads}; give 1 or more")
        folder = model_folder(folder)
        self.manifest = Manifest.load(folder)
        with needing("runtime", "exported models need"):
            self._profile = Profile.beside(folder, self.manifest.model_id)
        fastest = self._profile.best_threads() if self._profile else default_threads()
        self.threads = threads or fastest  # of one pass
        check_memory(folder, self.manifest.graphs)
        self.decoding = _decoding_of(folder, self.manifest, self.threads)
        self.folder = folder
        self.features: Features = read_features(self.manifest.features)
        self.ladder = Ladder.beside(folder, self.n_blocks)
        check_export(folder)  # at last: what does not fit is said by its name
        self._controller: DepthController | None = None
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Make the locks anew: threads of the parent may have held them."""
        self._making = threading.Lock()
        self._slots = threading.BoundedSemaphore(max(1, usable_cpus() // self.threads))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the folder and the number of threads; what it has learnt of this device's load stays here."""
        return OnnxRecognizer, (self.folder.resolve(), self.threads)

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def n_blocks(self) -> int:
        return self.manifest.n_blocks

    @property
    def session(self) -> Any:
        """The graphs in ONNX Runtime: a `Session`, or a `TokenSession`."""
        return self.decoding.session

    @property
    def tokenizer(self) -> PieceTable | ByteTable:
        return self.decoding.tokenizer

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def has_loss(self) -> bool:
        return False

    @property
    def writes_apart(self) -> bool:
        return False

    def subset(self, depth: int | None = None) -> BlockSubset:
        """Return the blocks to run at `depth` (None: all): the ladder's, or evenly spaced ones without a ladder."""
        return select(None, self.n_blocks, depth, self.ladder)

    def cost(self, subset: Blocks) -> Cost:
        """Return parameters in use and multiply-accumulates per second of audio, as counted at export."""
        blocks = self._blocks(subset)
        if isinstance(blocks, ChunkSchedule):
            if len(blocks.subsets) > 1:
                raise UserError("a schedule of several subsets costs what each of them does; ask for them one by one")
            blocks = blocks.subsets[0]
        return self.manifest.costs.of(blocks)

    def _blocks(self, blocks: Blocks) -> Any:
        """Return blocks that the graph takes: a subset, or a schedule for a streaming one.

        Raises `UserError` for a number of blocks: the graph takes gates, and has no selector.
        """
        if isinstance(blocks, SelectorDepth):
            raise UserError("an exported model does not choose its blocks itself; give a subset")
        if isinstance(blocks, ChunkSchedule):
            self.chunk_model()  # which a model of whole utterances refuses
        return blocks

    def warm_up(self, seconds: float = 10.0) -> None:
        """Run every block once on so much silence, so that the first request waits for neither memory nor imports."""
        import soundfile  # noqa: F401 - what reads files is imported when first used, which takes as long as a request
        import soxr  # noqa: F401

        silence = self.features(np.zeros(round(seconds * SAMPLE_RATE), np.float32))
        batch = collate_features([""], [silence], [""], seconds)
        self.pass_over(batch, BlockSubset.full(self.n_blocks))()

    @cached_property
    def calibration(self) -> Calibration | None:
        """What makes confidence of words that of the model's share of right ones, if `layerdial calibrate` was run.

        Raises `UserError` where it is damaged or of another model.
        """
        from layerdial.recognition.calibration import Calibration  # which texts do not need

        return Calibration.beside(self.folder, self.manifest.model_id)

    # ------------------------------------------------------------------------------------------------ chunk by chunk

    @property
    def takes_chunks(self) -> bool:
        """Whether the model was exported to take speech in chunks."""
        return self.manifest.streaming is not None

    def chunk_model(self) -> ChunkModel:
        """Return the model as streams use it. Raises `UserError` for a model that takes whole utterances."""
        if self.manifest.streaming is None:
            raise UserError(
                f"{self.name} takes whole utterances; for streams, export a streaming model with layerdial export "
                "MODEL OUT --streaming (docs/streaming.md says how one is trained)"
            )
        return self.session  # type: ignore[no-any-return]

    def stream(
        self,
        request: Request | None = None,
        *,
        depth: Depths | None = None,
        chunk_ms: int = CHUNK_MS,
        endpoints: Endpoints | None = DEFAULT_ENDPOINTS,
    ) -> Stream:
        """Return a stream, which takes samples as they come; see `open_stream`."""
        from layerdial.runtime.streams import open_stream  # much that whole utterances do not need

        return open_stream(self, request, depth, chunk_ms, endpoints)

    # ------------------------------------------------------------------------------------------------ one request

    def transcribe(
        self,
        audio: Audio,
        depth: int | None = None,
        subset: BlockSubset | None = None,
        *,
        deadline_ms: float | None = None,
        target_rtf: float | None = None,
        max_cpu: float | None = None,
        confidence: float | None = None,
        first_depth: int | None = None,
    ) -> Transcript:
        """Return the transcript of a file, or of an array of samples (S,) at 16 kHz within [-1, 1]; see `Request`.

        Raises `UserError` for a file that is not audio or empty, and for samples that are not finite. It is also raised
        for a depth that the model does not have, and for contradictory requests.
        """
        request = Request(depth, subset, deadline_ms, target_rtf, max_cpu, confidence, first_depth)
        return self.answer(audio, request)

    def answer(self, audio: Audio, request: Request) -> Transcript:
        """Return the transcript by the blocks or the constraint of `request`."""
        request = self.settled(request)
        decoding, scheduler = self.decoding.of(request, self.name), None
        if request.constraints:  # may measure where there is no profile; that is not part of the request
            scheduler = Scheduler(decoding.begin, self.controller, self.n_blocks, rows=decoding.rows)
        if request.deadline_ms is not None and isinstance(audio, AudioPath):
            audio = hold_all(audio)  # looked at twice, and a pipe can be read once
        start = time.perf_counter()
        constraint = self._constraint(audio, request, start)

        def transcribe(audio: Audio, begins: float = 0.0, pause: float = 0.0) -> Transcribed:
            within = replace(constraint, begins=begins, pause=pause)

            def recognize(
                samples: NDArray[np.float32], begin: float, end: float, subset: BlockSubset | None
            ) -> tuple[PassResult, Chunk]:
                asked = within if subset is None else replace(within, subset=subset)
                return self._recognize_stretch(samples, begin, end, asked, decoding.run, scheduler)

            return decoding.transcribe(audio, recognize, None if scheduler else constraint.subset)

        if request.vad:
            from layerdial.recognition.speech import transcribe_speech

            made = transcribe_speech(audio, lambda piece: transcribe(piece.samples, piece.begin, piece.pause))
        else:
            made = transcribe(audio)
        asked = constraint.subset or self.subset()
        return Transcript.of(self.calibrated(made), time.perf_counter() - start, asked)

    def calibrated(self, made: Transcribed) -> Transcribed:
        """Return a transcript whose words have the confidence that `layerdial calibrate` found, if it did."""
        return self.calibration.applied(made) if made.words and self.calibration is not None else made

    def _constraint(self, audio: Audio, request: Request, start: float) -> Constraint:
        subset = request.subset
        if request.depth is not None or not (subset or request.constraints):
            subset = self.subset(request.depth)
        deadline_ms = request.deadline_ms
        return Constraint(
            subset=subset,
            deadline=None if deadline_ms is None else start + deadline_ms / 1000.0,
            target_rtf=request.target_rtf,
            max_cpu=request.max_cpu,
            confidence=request.confidence,
            first=None if request.first_depth is None else self.subset(request.first_depth),
            seconds=0.0 if deadline_ms is None else seconds_of(audio),
        )

    def _recognize_stretch(
        self,
        samples: NDArray[np.float32],
        begin: float,
        end: float,
        constraint: Constraint,
        run: RunPass,
        scheduler: Scheduler | None,
    ) -> tuple[PassResult, Chunk]:
        """Recognise a stretch when a CPU is free, with the blocks that the request names or by `scheduler`."""
        asked = time.perf_counter()
        with self._slots:
            start = time.perf_counter()
            if scheduler is None:
                assert constraint.subset is not None
                result = run(self.features(samples), constraint.subset, None)
            else:
                deadline = constraint.window_deadline(asked, begin, end)
                counted = constraint.pause + end - begin
                result = self.run_timed(samples, counted, deadline, constraint, scheduler)
        waited, reason = 1000.0 * (start - asked), result.reason
        if reason and waited > 5:
            reason = f"{reason}, after waiting {waited:.0f} ms for others"
        return result, Chunk(begin, end, result.subset, reason, result.confidence)

    def run_timed(
        self,
        samples: NDArray[np.float32],
        counted: float,
        deadline: float | None,
        constraint: Constraint,
        scheduler: Scheduler,
    ) -> PassResult:
        """Return what `scheduler` makes of samples of which `counted` seconds are new; their features are timed too."""
        start = time.perf_counter()
        inputs = self.features(samples)
        now, seconds = time.perf_counter(), len(samples) / SAMPLE_RATE
        self.controller.observe_features(seconds, 1000.0 * (now - start), now)
        return scheduler.run(TimedWindow(inputs, seconds, counted, deadline), constraint)

    def transcribe_batch(
        self, audios: Sequence[NDArray[np.float32]], depth: int | None = None, subset: BlockSubset | None = None
    ) -> list[str]:
        """Return the texts of several arrays of samples (S,) of at most 30 s, run as one zero-padded batch."""
        request = Request(depth, subset)
        if not audios:
            return []
        rows = [list(windows(samples)) for samples in audios]
        if any(len(row) > 1 for row in rows):
            raise UserError(f"a batch takes audio of at most {WINDOW_SECONDS} s each; transcribe cuts longer audio")
        nothing = [""] * len(rows)
        batch = collate_features(nothing, [self.features(row[0].samples) for row in rows], nothing, 0.0)
        with self._slots:
            return self.recognize(batch, request.subset or self.subset(request.depth))

    # --------------------------------------------------------------------------------------------- one batch, one pass

    def recognize(self, batch: FeatureBatch, subset: Blocks, request: Request | None = None) -> list[str]:
        """Return the text of each utterance of a batch: greedy, or by the search of `request`."""
        asked = None if request is None else self.settled(request, subset)
        decoding = self.decoding if asked is None else self.decoding.of(asked, self.name)
        return decoding.texts(batch, self._blocks(subset))

    def settled(self, request: Request, subset: Blocks | None = None) -> Request:
        """Return a request with the weights that were tuned for its language model at its depth, or at `subset`."""
        if request.lm is None:
            return request
        from layerdial.text.tuned import with_tuned  # much that other requests do not need

        depth = (subset or request.subset or self.subset(request.depth)).depth
        return with_tuned(request, self.folder, lambda: self.manifest.model_id, depth)

    @property
    def pieces(self) -> Pieces:
        """The texts of a CTC model's tokens. Raises `UserError` for other models."""
        return self._ctc.pieces

    def log_probs(self, batch: FeatureBatch, subset: Blocks) -> list[NDArray[np.float32]]:
        """Return a CTC model's log-probabilities (T, V) of each utterance. Raises `UserError` for other models."""
        return self._ctc.log_probs(batch, self._blocks(subset))

    @property
    def _ctc(self) -> CtcDecoding:
        if isinstance(self.decoding, CtcDecoding):
            return self.decoding
        raise UserError(f"{self.name} has a decoder, which is a language model itself; give a CTC model")

    def loss(self, batch: FeatureBatch, subset: Blocks) -> float:
        """Return infinity: an exported model gives texts alone."""
        return math.inf

    def loss_and_text(self, batch: FeatureBatch, subset: Blocks) -> tuple[float, list[str]]:
        """Return no loss (infinity), and the text of each utterance of a batch."""
        return math.inf, self.recognize(batch, subset)

    def pass_over(self, batch: FeatureBatch, subset: Blocks) -> Callable[[], object]:
        """Return a function that runs the graphs alone on a batch."""
        return self.decoding.pass_over(batch, self._blocks(subset))

    # ------------------------------------------------------------------------------------------------ this device

    @property
    def controller(self) -> DepthController:
        """The cost of each depth on this device. The first access may wait for a short measurement."""
        return self._controller or self._make_controller()

    def _make_controller(self) -> DepthController:
        """Return a controller made from the profile, with a warm model, or else from a short measurement now."""
        with self._making:
            if self._controller is None:
                table = self._profile.table(self.threads) if self._profile else None
                if table is None:
                    _log.info("%s: no profile for %d threads here; measuring for a moment", self.folder, self.threads)
                    table = self._measure_costs()
                else:
                    self.warm_up(1.0)
                self._controller = DepthController(table, worthwhile(self.ladder, self.n_blocks))
            return self._controller

    def _measure_costs(self) -> CostTable:
        """Measure for half a second where there is no profile: shallowest and full depth, two lengths, twice each."""
        depths = depths_of(self.ladder, self.n_blocks)
        return self.measure(sorted({depths[0], depths[-1]}), (1.0, 5.0), 0.5, repeats=7).costs()

    def measure(self, depths: Sequence[int], seconds: Sequence[float], budget_s: float, repeats: int) -> ThreadProfile:
        """Return the cost of some depths on this device, for some lengths of audio; see `measure_table`."""
        subsets = {depth: self.subset(depth) for depth in depths}
        run, search = self.decoding.begin, self.decoding.usual_search
        return measure_table(self.features, run, subsets, self.threads, seconds, budget_s, repeats, search)


def _decoding_of(folder: Path, manifest: Manifest, threads: int) -> Decoding:
    """Load the graphs and the tokens of an exported folder. Raises `UserError` where they do not belong together."""
    if manifest.decoder is None:
        return CtcDecoding(folder, manifest, threads)
    from layerdial.runtime.token_decoding import TokenDecoding  # much that a CTC model does not need

    return TokenDecoding(folder, manifest, threads)


def seconds_of(audio: Audio) -> float:
    """Return the length of audio. Raises `UserError` for a file that is none."""
    return probe(audio).seconds if isinstance(audio, AudioPath) else np.size(audio) / SAMPLE_RATE
