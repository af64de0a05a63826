"""Strings: object arrays of str, on the host. No other array library has text, so these kernels use NumPy itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Floats, Int, Ints, Text, Texts
from ortlite.ops.helpers import one_of
from ortlite.ops.memo import Memo, once
from ortlite.ops.registry import op

WIDEST = 1 << 24  # places, at most, of a row of n-gram counts


def strings(words: Sequence[str], shape: Sequence[int]) -> np.ndarray:
    """An object array of str. (np.array would take a list of equal-length texts for anything but that.)"""
    result = np.empty(len(words), object)
    result[:] = words
    return result.reshape(tuple(shape))


@op("StringConcat", since=20, python_objects=True)
def string_concat(xp: Namespace, X: Array, Y: Array) -> Array:
    """Each text of `X` followed by that of `Y`, with broadcasting."""
    return np.asarray(np.add(X, Y), object)


@op("StringSplit", since=20, python_objects=True, data_dependent_shape=True)
def string_split(xp: Namespace, X: Array, *, delimiter: Text = "", maxsplit: Int | None = None) -> tuple[Array, Array]:
    """Texts cut at `delimiter` (at white space, when it is empty), at most `maxsplit` times; and the numbers of pieces.

    Pieces stand along a new last axis, with empty texts behind where there are fewer.
    """
    pieces = [word.split(delimiter or None, -1 if maxsplit is None else maxsplit) for word in X.reshape(-1).tolist()]
    counts = np.asarray([len(p) for p in pieces], np.int64)
    width = int(counts.max(initial=0))
    padded = [word for p in pieces for word in [*p, *[""] * (width - len(p))]]
    return strings(padded, (*X.shape, width)), counts.reshape(X.shape)


@op("StringNormalizer", since=10, python_objects=True, data_dependent_shape=True)
def string_normalizer(
    xp: Namespace,
    X: Array,
    *,
    case_change_action: Text = "NONE",
    is_case_sensitive: Flag = 0,
    locale: Text = "",
    stopwords: Texts | None = None,
) -> Array:
    """A row of texts without the stop words, in lower or upper case: Unicode's, whatever the locale is.

    When nothing is left, one empty text. Raises ValueError for an unknown `case_change_action` or a shape that is
    neither (C) nor (1, C).
    """
    if X.ndim not in {1, 2} or (X.ndim == 2 and X.shape[0] != 1):
        raise ValueError(f"X must be (C) or (1, C), not {tuple(X.shape)}")
    changes: dict[str, Any] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}
    one_of("case_change_action", case_change_action, *changes)
    change = changes[case_change_action]
    fold: Any = str if is_case_sensitive else str.lower
    stop = {fold(word) for word in stopwords or ()}
    kept = [change(word) for word in X.reshape(-1).tolist() if fold(word) not in stop] or [""]
    return strings(kept, (len(kept),) if X.ndim == 1 else (1, len(kept)))


@op("RegexFullMatch", since=20, python_objects=True)
def regex_full_match(xp: Namespace, X: Array, *, pattern: Text = "") -> Array:
    """Whether each text matches `pattern` from end to end, in linear time (RE2). Raises ValueError for a bad one."""
    try:
        import re2
    except ImportError:
        raise ValueError("RegexFullMatch needs google-re2: pip install 'ortlite[text]'") from None
    try:
        compiled = re2.compile(pattern)
    except re2.error as error:
        raise ValueError(f"{pattern!r} is not a pattern of RE2: {error}") from None
    words = X.reshape(-1).tolist()
    matches = {word: compiled.fullmatch(word) is not None for word in set(words)}
    found = [matches[word] for word in words]
    return np.asarray(found, bool).reshape(X.shape)


class _Trie:
    """N-grams as a tree over token numbers, flat: (node, token) pairs in order, and where each leads.

    Of n-grams that are in the pool twice, the first counts.
    """

    def __init__(self, pool: Sequence[Any], counts: Sequence[int]):
        order = sorted(set(pool))
        self.tokens = strings(order, (len(order),)) if order and isinstance(order[0], str) else np.asarray(order)
        number = {token: i for i, token in enumerate(order)}
        children: dict[int, int] = {}
        grams: dict[int, int] = {}  # node -> number of the n-gram that ends there
        self.grams = 0
        for length, (start, end) in enumerate(_sections(len(pool), counts), 1):
            for first in range(start, end, length):
                node = 0
                for token in pool[first : first + length]:
                    node = children.setdefault(node * (len(order) + 1) + number[token], len(children) + 1)
                grams.setdefault(node, self.grams)
                self.grams += 1
        self.keys = np.asarray(sorted(children), np.int64)
        self.targets = np.asarray([children[key] for key in sorted(children)], np.int64)
        self.gram_of = np.full(len(children) + 1, -1, np.int64)
        self.gram_of[list(grams)] = list(grams.values())

    def number(self, x: np.ndarray) -> np.ndarray:
        """Each token's number; one that no n-gram has gets a number of its own."""
        if not len(self.tokens):
            return np.zeros(x.shape, np.int64)
        place = np.minimum(np.searchsorted(self.tokens, x), len(self.tokens) - 1)
        return np.where(self.tokens[place] == x, place, len(self.tokens))

    def step(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """From nodes (-1: nowhere) along tokens."""
        if not len(self.keys):
            return np.full(nodes.shape, -1)
        key = nodes * (len(self.tokens) + 1) + tokens
        place = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        return np.where((nodes >= 0) & (self.keys[place] == key), self.targets[place], -1)


def _sections(size: int, counts: Sequence[int]) -> list[tuple[int, int]]:
    """Where the 1-grams, 2-grams, … start and end in a pool of `size`. Raises ValueError when they do not fit."""
    sections = list(pairwise([*counts, size]))
    for length, (start, end) in enumerate(sections, 1):
        if not 0 <= start <= end <= size or (end - start) % length:
            raise ValueError(
                f"ngram_counts says that the {length}-grams are elements {start} to {end} of a pool of {size}"
            )
    return sections


def _places(indexes: Sequence[int], grams: int) -> np.ndarray:
    """Where in the output each n-gram counts. Raises ValueError for too few places, and for absurd ones."""
    if len(indexes) < grams:
        raise ValueError(f"ngram_indexes has {len(indexes)} places for {grams} n-grams")
    if indexes and not 0 <= min(indexes) <= max(indexes) < WIDEST:
        raise ValueError(f"ngram_indexes are {min(indexes)} to {max(indexes)}, not 0 to {WIDEST - 1} at most")
    return np.asarray(indexes, np.int64)


@op("TfIdfVectorizer", since=9, python_objects=True)
def tf_idf_vectorizer(
    xp: Namespace,
    X: Array,
    *,
    max_gram_length: Int,
    max_skip_count: Int,
    min_gram_length: Int,
    mode: Text,
    ngram_counts: Ints,
    ngram_indexes: Ints,
    pool_int64s: Ints | None = None,
    pool_strings: Texts | None = None,
    weights: Floats | None = None,
    memo: Memo = None,
) -> Array:
    """How often each n-gram of the pool occurs in a row (C) or in rows (N, C), float32 (..., largest index + 1).

    Up to `max_skip_count` tokens may be left out between neighbours, the same number between all. `mode` TF counts, IDF
    gives the weight of what occurs, TFIDF counts times weight. Raises ValueError for another mode or shape, and for
    attributes that do not fit together.
    """
    if X.ndim > 2:
        raise ValueError(f"X must be (C) or (N, C), not {tuple(X.shape)}")
    one_of("mode", mode, "TF", "IDF", "TFIDF")
    if not 1 <= min_gram_length <= max_gram_length <= len(ngram_counts) or max_skip_count < 0:
        raise ValueError(
            f"n-grams of {min_gram_length} to {max_gram_length} tokens with up to {max_skip_count} left out, where "
            f"ngram_counts has {len(ngram_counts)} lengths"
        )
    pool: Sequence[Any] = pool_strings or pool_int64s or ()
    if pool_strings and pool_int64s:
        raise ValueError(f"{len(pool_strings)} pool_strings beside {len(pool_int64s)} pool_int64s, not one of them")
    if pool and (X.dtype == object) != bool(pool_strings):
        raise ValueError(f"X is {xp.dtype_name(X.dtype)}, the pool is {'text' if pool_strings else 'int64'}")
    trie = once(memo, "trie", _Trie, pool, ngram_counts)
    indexes = once(memo, "indexes", _places, ngram_indexes, trie.grams)
    if weights and len(weights) != len(indexes):
        raise ValueError(f"there are {len(weights)} weights for {len(indexes)} ngram_indexes")
    width = int(indexes.max(initial=-1)) + 1
    shape = (1, 1, *X.shape)[-2:]
    tokens = trie.number(X.reshape(shape))
    rows, length = shape
    counts = np.zeros((rows, trie.grams), np.float32)
    for skip in range(1, max(1, min(max_skip_count + 1, length - 1)) + 1):
        nodes = np.zeros((rows, length), np.int64)
        for size in range(1, max_gram_length + 1):
            reach = (size - 1) * skip
            if reach >= length or not np.any(nodes >= 0):
                break
            nodes = trie.step(nodes[:, : length - reach], tokens[:, reach:])
            if size < min_gram_length or (size == 1 and skip > 1):  # single tokens have nothing to skip
                continue
            grams = np.where(nodes >= 0, trie.gram_of[nodes], -1)
            row, column = np.nonzero(grams >= 0)
            np.add.at(counts, (row, grams[row, column]), 1)
    if mode != "TF":
        factor = np.asarray(weights, np.float32)[: trie.grams] if weights else np.ones(trie.grams, np.float32)
        counts = (counts if mode == "TFIDF" else np.minimum(counts, 1)) * factor
    result = np.zeros((rows, width), np.float32)
    np.add.at(result.T, indexes[: trie.grams], counts.T)
    return result.reshape(width) if X.ndim < 2 else result
