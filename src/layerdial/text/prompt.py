"""The tokens before a transcript of Whisper: start, language, task, and whether it has timestamps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.subset import BlockSubset
from layerdial.text.timestamps import Stamps

_log = logging.getLogger(__name__)
Heads = tuple[tuple[int, int], ...]
_MULTILINGUAL = 4  # tokens of a prompt


@dataclass(frozen=True)
class DecoderUse:
    """How the decoder is called: the tokens before a transcript, and which of its blocks run.

    With `stamps` it writes timestamps. `heads` (block, head) are those whose attention says when each token is spoken;
    none where no words are asked for.
    """

    prompt: tuple[int, ...]
    subset: BlockSubset
    stamps: Stamps | None = None
    heads: Heads = ()

    def for_request(self, request: Request, tokens: Sequence[str], trained_here: bool, heads: Heads = ()) -> DecoderUse:
        """Return the use that a request names; `heads` are the model's alignment heads.

        Raises `UserError` where the model has not its language, task or blocks, or no timestamps. It is also raised for
        words where no attention says when they are spoken. Timestamps of a model that was trained here get a warning,
        once a process: no text that it was trained on has any.
        """
        prompt = changed_prompt(tokens, self.prompt, request.language, request.task)
        subset = self.subset
        if request.decoder_depth is not None:
            subset = BlockSubset.even(subset.n_blocks, request.decoder_depth)
        use = replace(self, prompt=prompt, subset=subset)
        if request.words:
            use = replace(use, heads=_heads_that_run(heads, use, tokens))
        if not request.timestamps:
            return use
        if (stamps := Stamps.of(tokens)) is None:
            raise UserError("timestamps: the model's vocabulary has none (no <|0.00|>); leave them out")
        if trained_here:
            _warn_of_timestamps()
        return replace(use, prompt=prompt[:-1], stamps=stamps)


def _heads_that_run(heads: Heads, use: DecoderUse, tokens: Sequence[str]) -> Heads:
    """Return the alignment heads in blocks that run. Raises `UserError` where there are none, and for translations."""
    if "<|translate|>" in (tokens[i] for i in use.prompt):
        raise UserError(
            "words: a translation does not follow the audio, so its words have no times; transcribe instead"
        )
    found = tuple((block, head) for block, head in heads if block in use.subset.kept)
    if not found:
        blocks = ", ".join(map(str, sorted({block for block, _ in heads})))
        raise UserError(
            f"words: their times come from blocks {blocks} of the decoder (counted from 0), none of which runs at "
            f"decoder_depth {use.subset.depth}; give more"
        )
    return found


@cache
def _warn_of_timestamps() -> None:
    _log.warning("timestamps may be wrong: this model was trained on texts without them; times of words are measured")


def prompt_of(tokens: Sequence[str], language: str | None, task: str) -> tuple[int, ...]:
    """Return the prompt in a vocabulary. `language` is None for checkpoints of English alone.

    Raises `UserError` for a language or a task that the vocabulary does not have.
    """
    names = ["<|startoftranscript|>"]
    if language is not None:
        names += [f"<|{language}|>", f"<|{task}|>"]
    names.append("<|notimestamps|>")
    for name in names:
        if name not in tokens:
            raise UserError(f"the model's vocabulary has no {name}; languages are codes such as en")
    return tuple(map(tokens.index, names))


def changed_prompt(
    tokens: Sequence[str], prompt: tuple[int, ...], language: str | None, task: str | None
) -> tuple[int, ...]:
    """Return a prompt with the language and task of a request; `UserError` where the model knows English alone."""
    if language is None and task is None:
        return prompt
    if len(prompt) != _MULTILINGUAL:
        raise UserError("this checkpoint knows English alone; leave language and task out")
    named = [tokens[i].strip("<|>") for i in prompt]
    return prompt_of(tokens, language or named[1], task or named[2])
