"""An n-gram language model from text: interpolated modified Kneser-Ney (Chen and Goodman 1999), written as ARPA.

Shapes: N n-grams of an order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError
from layerdial.utils.files import write_text

_BEGIN, _END, _UNKNOWN = "<s>", "</s>", "<unk>"
HIGHEST = 6  # that KenLM reads
_Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order: the number of what comes before the last word, that word, and a count.

    `shorter` is the n-gram without its first word, a number of the order below.
    """

    before: _Numbers
    word: _Numbers
    shorter: _Numbers
    count: NDArray[np.float64]


def write_ngram(texts: Iterable[str], out: Path, order: int = 3) -> tuple[int, ...]:
    """Write the language model of texts, one sentence each, as ARPA; return how many n-grams it has of each order.

    Raises `UserError` for an order that is not 2 to 6, and where the texts have no word.
    """
    if not 2 <= order <= HIGHEST:
        raise UserError(f"the order is {order}; give 2 to {HIGHEST}")
    words, stream = _numbered(texts)
    if len(words) == 3:
        raise UserError("the text has no word; give sentences, one a line")
    orders = _counted(stream, len(words), order)
    write_text(out, "".join(_arpa(words, orders)))
    return tuple(len(one.word) for one in orders)


def _numbered(texts: Iterable[str]) -> tuple[list[str], _Numbers]:
    """Return the vocabulary, and all sentences as numbers: begin, words, end."""
    numbers = {_UNKNOWN: 0, _BEGIN: 1, _END: 2}
    stream: list[int] = []
    for text in texts:
        words = [word for word in text.split() if word not in (_BEGIN, _END, _UNKNOWN)]
        if words:
            stream += [1, *(numbers.setdefault(word, len(numbers)) for word in words), 2]
    return list(numbers), np.array(stream, np.int64)


def _counted(stream: _Numbers, n_words: int, order: int) -> list[_Order]:
    """Return the n-grams of each order: counted at the highest, and how many words come before them below it."""
    places = [np.arange(n_words)[stream]]  # of each place of the text, the number of the n-gram that ends there; -1
    orders = [_Order(np.zeros(n_words, np.int64), np.arange(n_words), np.zeros(n_words, np.int64), np.zeros(n_words))]
    for _ in range(2, order + 1):
        longer = np.full(len(stream), -1)
        ends = np.flatnonzero((places[-1][:-1] >= 0) & (stream[1:] != 1)) + 1
        pairs = places[-1][ends - 1] * n_words + stream[ends]
        found, first, inverse, count = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        longer[ends] = inverse
        shorter = places[-1][ends[first]]
        orders.append(_Order(found // n_words, found % n_words, shorter, count.astype(np.float64)))
        places.append(longer)
    for lower, higher in pairwise(orders):
        kept = lower.count.copy()
        lower.count[:] = np.bincount(higher.shorter, minlength=len(lower.word))
        begins = _begins(orders, lower)
        lower.count[begins] = kept[begins]  # nothing comes before the first word, so its n-grams are counted
    return orders


def _begins(orders: list[_Order], one: _Order) -> NDArray[np.bool_]:
    """Return which n-grams of an order begin a sentence."""
    if one is orders[0]:
        return np.zeros(len(one.word), np.bool_)
    level = next(i for i, other in enumerate(orders) if other is one)
    first = one.before
    for lower in reversed(orders[1:level]):
        first = lower.before[first]
    found: NDArray[np.bool_] = first == 1
    return found


def _discounts(count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what is taken of a count of 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (float((count == i).sum()) for i in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):  # too little text to estimate them
        return np.array([0.0, 0.5, 0.75, 0.9])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    clipped: NDArray[np.float64] = np.clip(found, 0.0, [0.0, 0.95, 1.9, 2.85])
    return clipped


def _probabilities(orders: list[_Order]) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Return the probability of each n-gram, interpolated, and what it leaves to shorter ones as a context."""
    uniform = 1.0 / (len(orders[0].word) - 1)  # the begin is never predicted
    lower = np.full(1, uniform)
    found, weights = list[NDArray[np.float64]](), list[NDArray[np.float64]]()
    for level, one in enumerate(orders):
        n_before = 1 if level == 0 else len(orders[level - 1].word)
        taken = _discounts(one.count)[np.minimum(one.count, 3).astype(np.int64)]
        total = np.bincount(one.before, one.count, n_before)
        left = np.bincount(one.before, taken, n_before)
        left = np.divide(left, total, out=np.ones_like(left), where=total > 0)
        part = np.divide(one.count - taken, total[one.before], where=total[one.before] > 0, out=np.zeros(len(taken)))
        lower = part + left[one.before] * lower[one.shorter]
        found.append(lower.astype(np.float64))
        weights.append(left.astype(np.float64))
    return found, [*weights[1:], np.ones(len(orders[-1].word))]


def _arpa(words: list[str], orders: list[_Order]) -> Iterable[str]:
    probabilities, weights = _probabilities(orders)
    yield "\\data\\\n" + "".join(f"ngram {size}={len(one.word)}\n" for size, one in enumerate(orders, 1))
    texts: list[str] = []
    for size, (one, p, weight) in enumerate(zip(orders, probabilities, weights, strict=True), 1):
        last = np.array(words, object)[one.word]
        texts = list(last) if size == 1 else [f"{texts[i]} {word}" for i, word in zip(one.before, last, strict=True)]
        logs = np.log10(np.maximum(p, 1e-99))
        if size == 1:
            logs[1] = -99.0
        yield f"\n\\{size}-grams:\n"
        if size == len(orders):
            yield from (f"{log:.6f}\t{text}\n" for log, text in zip(logs.tolist(), texts, strict=True))
        else:
            backs = np.log10(np.maximum(weight, 1e-99)).tolist()
            yield from (
                f"{log:.6f}\t{text}\t{back:.6f}\n" for log, text, back in zip(logs.tolist(), texts, backs, strict=True)
            )
    yield "\n\\end\\\n"
