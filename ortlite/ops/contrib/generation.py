"""Text from a decoder that is a subgraph: one token after the other until all sequences have ended.

Searches with several sequences at a time are in `beams`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Float, Graph, Int
from ortlite.ops.contrib.other import ngram_repeat_block
from ortlite.ops.helpers import one_of, require_shape
from ortlite.ops.registry import op

MS = "com.microsoft"


def _empty_caches(xp: Namespace, decoder: Graph, batch: int) -> list[Array]:
    """The past of a decoder before its first step. Raises ValueError for one that is not as GPT-2's."""
    caches = []
    for type_ in decoder.input_types[3:]:
        shape = getattr(type_, "shape", None)
        heads, size = (shape[2], shape[4]) if shape is not None and len(shape) == 5 else (None, None)
        if not isinstance(heads, int) or not isinstance(size, int):
            raise ValueError(f"a past of the decoder is (2, batch, heads, length, size), heads and size known: {type_}")
        caches.append(xp.zeros((2, batch, heads, 0, size), dtype=xp.dtype(type_.dtype)))
    if len(decoder.types) != len(caches) + 1:
        raise ValueError(
            f"a decoder takes tokens, positions, a mask and each layer's past, and returns logits and each layer's "
            f"present: not {len(decoder.input_types)} inputs and {len(decoder.types)} outputs"
        )
    return caches


def require_alone(model_type: int, encoder: Graph | None) -> None:
    """Raises ValueError for a model that is more than a decoder."""
    one_of("model_type", model_type, 0)
    if encoder is not None:
        raise ValueError("an encoder belongs to model types that are not implemented")


class Rules:
    """What may come next, and how likely it is then."""

    def __init__(
        self, xp: Namespace, min_length: int, end: int, penalty: float, ngram: int, allowed: Any, first: Any, width: int
    ):
        self.xp, self.min_length, self.end, self.penalty, self.ngram = xp, min_length, end, penalty, ngram
        self.allowed, self.first, self.width = allowed, first, width

    def kept(self, scores: Array, tokens: Array) -> Array:
        """`scores` (batch, vocabulary) of what follows `tokens` (batch, length)."""
        xp = self.xp
        scores = scores[:, : self.width] if 0 < self.width < scores.shape[1] else scores
        width = scores.shape[1]
        vocabulary = xp.arange(width, dtype=xp.int32)
        lowest = xp.asarray(float("-inf"), dtype=scores.dtype)
        if tokens.shape[1] < self.min_length:
            scores = xp.where(vocabulary == self.end, lowest, scores)
        if self.penalty != 1.0:
            there = xp.any(xp.expand_dims(tokens, axis=2) == vocabulary, axis=1)
            weighed = xp.where(scores < 0, scores * self.penalty, scores / self.penalty)
            scores = xp.where(there, weighed, scores)
        if self.ngram > 0:
            scores = ngram_repeat_block(xp, tokens, scores, ngram_size=self.ngram)
        for name, mask, shape in (
            ("vocab_mask", self.allowed, (width,)),
            ("prefix_vocab_mask", self.first, (scores.shape[0], width)),
        ):
            if mask is not None:
                require_shape(name, mask, *shape)
                scores = xp.where(mask == 0, lowest, scores)
        self.first = None
        return scores


class Steps:
    """A decoder, step by step: what it gets next, and its caches."""

    def __init__(
        self,
        xp: Namespace,
        words: Array,
        pad: int,
        mask: Array | None,
        first: Graph | None,
        decoder: Graph,
        max_length: int,
    ):
        batch, length = words.shape
        if max_length <= length:
            raise ValueError(f"max_length {max_length} must be more than the {length} tokens of input_ids")
        self.xp, self.run, self.decoder = xp, first or decoder, decoder
        self.caches: list[Any] = _empty_caches(xp, decoder, batch)
        # positions leave padding out, also where a mask is given
        real = xp.astype(words != pad, xp.int32)
        self.mask = real if mask is None else xp.astype(mask, xp.int32)
        require_shape("attention_mask", self.mask, batch, length)
        places = xp.cumulative_sum(real, axis=1, dtype=xp.int32) - 1
        self.words, self.places = words, xp.where(real == 0, xp.zeros_like(places), places)
        self.next = xp.sum(real, axis=1, keepdims=True, dtype=xp.int32)

    def logits(self) -> Array:
        """The logits of what comes next: (batch, vocabulary) in float32."""
        logits, *self.caches = self.run(self.words, self.places, self.mask, *self.caches)
        self.run = self.decoder
        return self.xp.astype(logits[:, -1, :], self.xp.float32)

    def go_on(self, chosen: Array, origins: Array | None = None) -> None:
        """With the tokens `chosen`, behind the sequences `origins` of the batch."""
        xp = self.xp
        self.words = xp.expand_dims(chosen, axis=1)
        if origins is not None:
            self.caches = [xp.take(cache, origins, axis=1) for cache in self.caches]
        self.mask = xp.concat([self.mask, xp.ones((chosen.shape[0], 1), dtype=xp.int32)], axis=1)
        self.places, self.next = self.next, self.next + 1


@op("GreedySearch", domain=MS, data_dependent_shape=True, any_dtype=True, results=("int32",))
def greedy_search(
    xp: Namespace,
    input_ids: Array,
    max_length: Int,
    min_length: Int = 0,
    repetition_penalty: Float = 1.0,
    vocab_mask: Array | None = None,
    prefix_vocab_mask: Array | None = None,
    attention_mask: Array | None = None,
    *,
    decoder: Graph,
    decoder_start_token_id: Int = -1,
    encoder: Graph | None = None,
    eos_token_id: Int,
    init_decoder: Graph | None = None,
    model_type: Int = 0,
    no_repeat_ngram_size: Int = 0,
    pad_token_id: Int,
    vocab_size: Int = -1,
) -> Array:
    """`input_ids` (batch, length), continued by the likeliest token each time: (batch, max_length).

    The decoder is GPT-2's: tokens, positions, mask and the past of each layer give logits and the present of each
    layer; `init_decoder` takes the first step. A sequence ends with its end token, which is written as padding like all
    behind it. What may come: where the masks of the vocabulary are not 0, no end below `min_length`, no n-gram of
    `no_repeat_ngram_size` twice; the logits of tokens that are there are divided by `repetition_penalty`, or multiplied
    where they are below 0. Raises ValueError for other kinds of models.
    """
    require_alone(model_type, encoder)
    rules = Rules(
        xp,
        min_length,
        eos_token_id,
        repetition_penalty,
        no_repeat_ngram_size,
        vocab_mask,
        prefix_vocab_mask,
        vocab_size,
    )
    tokens = xp.astype(input_ids, xp.int32)
    steps = Steps(xp, tokens, pad_token_id, attention_mask, init_decoder, decoder, max_length)

    def choose(before: Array) -> Array:
        return xp.argmax(rules.kept(steps.logits(), before), axis=1)

    return _continued(xp, tokens, max_length, eos_token_id, pad_token_id, steps, choose)


def _continued(
    xp: Namespace, tokens: Array, max_length: int, end: int, pad: int, steps: Steps, choose: Callable[[Array], Array]
) -> Array:
    """`tokens` (batch, length) and what `choose` takes behind them until all have ended: (batch, max_length)."""
    batch = tokens.shape[0]
    ended = xp.zeros((batch,), dtype=xp.bool)
    padding = xp.full((batch,), pad, dtype=xp.int32)
    for _ in range(max_length - tokens.shape[1]):
        chosen = xp.astype(choose(tokens), xp.int32)
        ended = ended | (chosen == end)
        chosen = xp.where(ended, padding, chosen)
        tokens = xp.concat([tokens, xp.expand_dims(chosen, axis=1)], axis=1)
        if xp.concrete_value(xp.all(ended)):
            break
        steps.go_on(chosen)
    behind = xp.full((batch, max_length - tokens.shape[1]), pad, dtype=xp.int32)
    return xp.concat([tokens, behind], axis=1)


def _draws(seed: int) -> Iterator[float]:
    """Numbers from 0 to 1: those of C++'s std::minstd_rand0, two of which make one of 53 bits. So onnxruntime draws."""
    most = 2**31 - 2
    state = seed % (most + 1) or 1
    while True:
        low = state * 16807 % (most + 1)
        state = low * 16807 % (most + 1)
        yield min((low - 1 + (state - 1) * most) / most**2, 1 - 2**-53)


def _filtered(xp: Namespace, scores: Array, top_p: float, least: int, value: float, largest_first: int) -> Array:
    """`scores` (batch, vocabulary), and `value` in place of what is left out.

    Left out are the least likely tokens whose probabilities add up to 1 - `top_p` at most, but none of the `least` most
    likely; or, `largest_first`, the tokens behind those whose probabilities add up to more than `top_p`.
    """
    width = scores.shape[1]
    values, places = xp.top_k(scores, width, 1, bool(largest_first), True)
    sums = xp.cumulative_sum(xp.softmax(values, -1), axis=1)
    if largest_first:
        out = xp.concat([xp.zeros((scores.shape[0], 1), dtype=xp.bool), sums[:, :-1] > top_p], axis=1)
    else:
        out = (sums <= 1 - top_p) & (xp.arange(width, dtype=xp.int64) < width - least)
    ranks = xp.astype(xp.argsort(places, axis=1), xp.int64)
    out = xp.take_along_axis(xp.astype(out, xp.int32), ranks, axis=1) > 0
    return xp.where(out, xp.asarray(value, dtype=scores.dtype), scores)


@op("Sampling", domain=MS, data_dependent_shape=True, any_dtype=True, needs=("float64",), results=("int32", "float32"))
def sampling(
    xp: Namespace,
    input_ids: Array,
    max_length: Int,
    min_length: Int = 0,
    repetition_penalty: Float = 1.0,
    vocab_mask: Array | None = None,
    prefix_vocab_mask: Array | None = None,
    attention_mask: Array | None = None,
    presence_mask: Array | None = None,
    seed: Int | None = None,
    *,
    custom: Flag = 0,
    decoder: Graph,
    decoder_start_token_id: Int = -1,
    encoder: Graph | None = None,
    eos_token_id: Int,
    filter_value: Float = -1e20,
    init_decoder: Graph | None = None,
    min_tokens_to_keep: Int = 0,
    model_type: Int = 0,
    no_repeat_ngram_size: Int = 0,
    pad_token_id: Int,
    presence_penalty: Float = 0.0,
    temperature: Float = 1.0,
    top_p: Float = 0.0,
    vocab_size: Int = -1,
    rng: Int = 0,
) -> tuple[Array, Array]:
    """`input_ids` (batch, length), continued by tokens drawn by their probabilities: (batch, max_length).

    Of decoder and rules see GreedySearch. Logits are divided by a `temperature` above 0, and those of tokens in
    `presence_mask` (batch, vocabulary) lowered by `presence_penalty`. The unlikeliest tokens, whose probabilities add
    up to 1 - `top_p` at most, get the `filter_value` as logit, though never the `min_tokens_to_keep` likeliest; with
    `custom` those behind the likeliest that add up to more than `top_p`. A `seed` of 0 or more says what is drawn, the
    same as in onnxruntime on Linux; without one the session's does. (onnxruntime 1.32 subtracts the penalties of all
    tokens from the first row's first logit.) The second output, which onnxruntime leaves out, are the logits of the
    last step. Raises ValueError for other kinds of models.
    """
    require_alone(model_type, encoder)
    if seed is not None and seed < 0:
        raise ValueError(f"seed {seed} must be 0 or more")
    rules = Rules(
        xp, min_length, eos_token_id, repetition_penalty, no_repeat_ngram_size, vocab_mask, prefix_vocab_mask,
        vocab_size,
    )  # fmt: skip
    draws = _draws(rng if seed is None else seed)
    batch = input_ids.shape[0]
    tokens = xp.astype(input_ids, xp.int32)
    steps = Steps(xp, tokens, pad_token_id, attention_mask, init_decoder, decoder, max_length)
    scores = xp.zeros((batch, 0), dtype=xp.float32)

    def choose(before: Array) -> Array:
        nonlocal scores
        scores = rules.kept(steps.logits(), before)
        scores = scores / temperature if temperature > 0 else scores
        width = scores.shape[1]
        if not 0 <= min_tokens_to_keep < width:
            raise ValueError(f"min_tokens_to_keep {min_tokens_to_keep} must lie from 0 to below the {width} tokens")
        if presence_mask is not None and presence_penalty:
            require_shape("presence_mask", presence_mask, batch, width)
            scores = scores - xp.astype(presence_mask, scores.dtype) * presence_penalty
        scores = _filtered(xp, scores, top_p, min_tokens_to_keep, filter_value, custom)
        exact = xp.astype(scores, xp.float64)
        sums = xp.cumulative_sum(xp.exp(exact - xp.max(exact, axis=1, keepdims=True)), axis=1)
        drawn = xp.asarray([[next(draws)] for _ in range(batch)], dtype=xp.float64)
        behind = xp.astype(sums <= xp.reshape(drawn, (batch, 1)) * sums[:, -1:], xp.int32)
        return xp.clip(xp.sum(behind, axis=1, dtype=xp.int32), None, width - 1)

    y = _continued(xp, tokens, max_length, eos_token_id, pad_token_id, steps, choose)
    return y, scores
