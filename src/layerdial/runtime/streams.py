"""Opening a stream on a loaded model: what a request asks of it, and which blocks run in each chunk."""

from __future__ import annotations

from layerdial.errors import UserError
from layerdial.recognition.chunk_model import CHUNK_MS, LONGEST_CHUNK_MS, ChunkModel
from layerdial.recognition.ctc import CtcUse
from layerdial.recognition.endpointing import DEFAULT_ENDPOINTS, Endpoints
from layerdial.recognition.stream_depths import Depth, DepthRule, Depths, depth_rule
from layerdial.recognition.stream_results import ResultPlan
from layerdial.recognition.streaming import Stream, StreamingRecognizer, StreamPlan
from layerdial.request import Request
from layerdial.runtime.chunk_controller import SHARE, ChunkController, measured_costs
from layerdial.runtime.controller import worthwhile
from layerdial.subset import BlockSubset


def open_stream(
    recognizer: StreamingRecognizer,
    request: Request | None = None,
    depth: Depths | None = None,
    chunk_ms: int = CHUNK_MS,
    endpoints: Endpoints | None = DEFAULT_ENDPOINTS,
) -> Stream:
    """Return a stream of chunks of `chunk_ms`, whose texts end as `endpoints` say; without them at its end alone.

    The blocks are those of `depth`: one for all chunks, a sequence, a function of the chunk's number, or a rule such as
    a `ChunkController` that streams share. Or they are those of `request`: with `target_rtf` the deepest that compute
    for at most that share of a chunk's duration, with `deadline_ms` the deepest that are done so soon behind the chunk.
    With neither all run. Raises `UserError` for a model that takes whole utterances, and for what a stream cannot do.
    """
    request = recognizer.settled(request or Request())
    model = recognizer.chunk_model()
    _check(request)
    use = CtcUse.of(request, lambda: recognizer.pieces, recognizer.name)
    chunk_inputs = _chunk_inputs(model, chunk_ms)
    results = ResultPlan(
        recognizer.pieces,
        model.features.samples_per_frame,
        endpoints,
        use.decoder,
        words=use.words,
        segments=use.segments,
        calibrated=recognizer.calibrated,
    )
    depths = _depths(recognizer, model, request, depth, chunk_inputs)
    return Stream(StreamPlan(model, chunk_inputs, depths, results))


def _check(request: Request) -> None:
    """Raise `UserError` for what needs whole utterances."""
    for field in ("confidence", "max_cpu", "vad"):
        if getattr(request, field) not in (None, False):
            raise UserError(f"{field} is for whole recordings; for a stream give depth, target_rtf or deadline_ms")


def _chunk_inputs(model: ChunkModel, chunk_ms: int) -> int:
    """Return the inputs of a chunk. Raises `UserError` for one that is no whole number of the network's frames."""
    frame_ms = 1000 * model.features.samples_per_frame // 16_000
    if not (frame_ms <= chunk_ms <= LONGEST_CHUNK_MS and chunk_ms % frame_ms == 0):
        raise UserError(f"chunks are of {chunk_ms} ms; give a multiple of {frame_ms}, up to {LONGEST_CHUNK_MS}")
    return chunk_ms * model.features.per_second // 1000


def _depths(
    recognizer: StreamingRecognizer, model: ChunkModel, request: Request, depth: Depths | None, chunk_inputs: int
) -> DepthRule:
    """Return the rule that chooses the blocks of each chunk."""

    def blocks_of(given: Depth) -> BlockSubset:
        subset = given if isinstance(given, BlockSubset) else recognizer.subset(given)
        if subset.n_blocks != model.n_blocks:
            raise UserError(f"subset {subset.key} is for {subset.n_blocks} blocks, this model has {model.n_blocks}")
        return subset

    asked = request.depth if request.subset is None else request.subset
    if depth is not None and (asked is not None or request.constraints):
        raise UserError("the request names its blocks; leave depth out")
    if request.constraints:
        options = worthwhile(recognizer.ladder, model.n_blocks)
        ends = {one.depth: one.subset for one in (options[0], options[-1])}
        costs = measured_costs(model, ends, chunk_inputs, recognizer.threads)
        return ChunkController(costs, options, request.target_rtf or SHARE, request.deadline_ms)
    given = asked if depth is None else depth
    return depth_rule(recognizer.subset() if given is None else given, blocks_of)
