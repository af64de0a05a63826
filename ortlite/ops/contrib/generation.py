"""Text from a decoder that is a subgraph: one token after the other until all sequences have ended."""

from __future__ import annotations

from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Float, Graph, Int
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
    one_of("model_type", model_type, 0)
    if encoder is not None:
        raise ValueError("an encoder belongs to model types that are not implemented")
    batch, length = input_ids.shape
    if max_length <= length:
        raise ValueError(f"max_length {max_length} must be more than the {length} tokens of input_ids")
    lowest = float("-inf")
    caches: list[Any] = _empty_caches(xp, decoder, batch)
    # positions leave padding out, also where a mask is given
    real = xp.astype(input_ids != pad_token_id, xp.int32)
    mask = real if attention_mask is None else xp.astype(attention_mask, xp.int32)
    require_shape("attention_mask", mask, batch, length)
    places = xp.cumulative_sum(real, axis=1, dtype=xp.int32) - 1
    places = xp.where(real == 0, xp.zeros_like(places), places)
    tokens, words = xp.astype(input_ids, xp.int32), xp.astype(input_ids, xp.int32)
    ended = xp.zeros((batch,), dtype=xp.bool)
    pad = xp.full((batch,), pad_token_id, dtype=xp.int32)
    run = init_decoder or decoder
    for step in range(max_length - length):
        logits, *caches = run(words, places, mask, *caches)
        run = decoder
        scores = xp.astype(logits[:, -1, :], xp.float32)
        scores = scores[:, :vocab_size] if vocab_size > 0 else scores
        width = scores.shape[1]
        vocabulary = xp.arange(width, dtype=xp.int32)
        if length + step < min_length:
            scores = xp.where(vocabulary == eos_token_id, xp.asarray(lowest, dtype=xp.float32), scores)
        if repetition_penalty != 1.0:
            there = xp.any(xp.expand_dims(tokens, axis=2) == vocabulary, axis=1)
            weighed = xp.where(scores < 0, scores * repetition_penalty, scores / repetition_penalty)
            scores = xp.where(there, weighed, scores)
        if no_repeat_ngram_size > 0:
            scores = ngram_repeat_block(xp, tokens, scores, ngram_size=no_repeat_ngram_size)
        for name, allowed, shape in (
            ("vocab_mask", vocab_mask, (width,)),
            ("prefix_vocab_mask", prefix_vocab_mask if step == 0 else None, (batch, width)),
        ):
            if allowed is not None:
                require_shape(name, allowed, *shape)
                scores = xp.where(allowed == 0, xp.asarray(lowest, dtype=xp.float32), scores)
        chosen = xp.astype(xp.argmax(scores, axis=1), xp.int32)
        ended = ended | (chosen == eos_token_id)
        chosen = xp.where(ended, pad, chosen)
        words = xp.expand_dims(chosen, axis=1)
        tokens = xp.concat([tokens, words], axis=1)
        if xp.concrete_value(xp.all(ended)):
            break
        mask = xp.concat([mask, xp.ones((batch, 1), dtype=xp.int32)], axis=1)
        places = xp.sum(real, axis=1, keepdims=True, dtype=xp.int32) + step
    behind = xp.full((batch, max_length - tokens.shape[1]), pad_token_id, dtype=xp.int32)
    return xp.concat([tokens, behind], axis=1)
