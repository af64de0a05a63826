"""Text from a subgraph, the likeliest of several sequences at a time: decoders alone, or behind an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Float, Graph, Int
from ortlite.ops.contrib.generation import Rules, Steps, require_alone
from ortlite.ops.helpers import one_of, require_rank, require_shape
from ortlite.ops.registry import op

MS = "com.microsoft"


class _Stepping(Protocol):
    """What gives the logits of the next tokens, and goes on with those that were chosen: see Steps."""

    def logits(self) -> Array: ...

    def go_on(self, chosen: Array, origins: Array) -> None: ...


class _Crossed:
    """A decoder that looks at what an encoder made of the input, step by step.

    The encoder takes `given` and, unless it only makes keys and values, the first `tokens` (batch, length); it returns
    logits, hidden states and each layer's keys and values of these tokens, and in either form those of the input. The
    decoder takes tokens, `given[1:]`, maybe the hidden states, and all these, and returns logits and each layer's
    present. Its tokens are the last one of each sequence where its type says so, else all. Raises ValueError for other
    subgraphs.
    """

    def __init__(
        self, xp: Namespace, given: Sequence[Array], tokens: Array, beams: int, encoder: Graph | None, decoder: Graph
    ):
        if encoder is None:
            raise ValueError("model types 1 and 2 need an encoder")
        layers = (len(decoder.types) - 1) // 2
        hidden = len(decoder.input_types) - len(given) - 4 * layers
        whole = len(encoder.input_types) > len(given)
        if (
            len(decoder.types) != 1 + 2 * layers
            or not layers
            or hidden not in ((0, 1) if whole else (0,))
            or len(encoder.input_types) != len(given) + whole
            or len(encoder.types) != (2 + 4 * layers if whole else 2 * layers)
        ):
            raise ValueError(
                f"an encoder with {len(encoder.input_types)} inputs and {len(encoder.types)} outputs does not fit a "
                f"decoder with {len(decoder.input_types)} and {len(decoder.types)}: caches that past and present "
                "share, and attention as a result, are not implemented"
            )
        made = encoder(*given, *((tokens,) if whole else ()))
        rows = xp.arange(tokens.shape[0] * beams, dtype=xp.int64) // beams

        def repeated(x: Array) -> Array:
            return xp.take(x, rows, axis=0)

        self.xp, self.decoder = xp, decoder
        self.first: Array | None = repeated(made[0]) if whole else None
        self.fixed = [*map(repeated, given[1:]), *map(repeated, made[1 : 1 + hidden])]
        self.crossed = list(map(repeated, made[2 + 2 * layers :] if whole else made))
        self.caches: list[Any] = (
            list(map(repeated, made[2 : 2 + 2 * layers])) if whole else [x[:, :, :0, :] for x in self.crossed]
        )
        shape = getattr(decoder.input_types[0], "shape", None)
        self.last_alone = shape is not None and len(shape) == 2 and shape[1] == 1
        self.words = repeated(tokens)

    def logits(self) -> Array:
        """The logits of what comes next: (sequences, vocabulary) in float32."""
        logits, self.first = self.first, None
        if logits is None:
            words = self.words[:, -1:] if self.last_alone else self.words
            logits, *self.caches = self.decoder(words, *self.fixed, *self.caches, *self.crossed)
        return self.xp.astype(logits[:, -1, :], self.xp.float32)

    def go_on(self, chosen: Array, origins: Array) -> None:
        """With the tokens `chosen`, behind the sequences `origins`, each of the same example."""
        xp = self.xp
        self.caches = [xp.take(cache, origins, axis=0) for cache in self.caches]
        self.words = xp.concat([xp.take(self.words, origins, axis=0), xp.expand_dims(chosen, axis=1)], axis=1)


class _Hypotheses:
    """The best finished sequences of one example: (score, sequence), the worst first."""

    def __init__(self, beams: int, penalty: float, early: int):
        self.beams, self.penalty, self.early = beams, penalty, early
        self.found: list[tuple[float, list[int]]] = []
        self.done = False

    def add(self, sequence: list[int], log_probability: float) -> None:
        """Keep a sequence if it is among the best."""
        score = log_probability / len(sequence) ** self.penalty
        if len(self.found) < self.beams or score > self.found[0][0]:
            self.found.append((score, sequence))
            self.found.sort(key=lambda found: found[0])
            del self.found[: -self.beams]

    def look(self, best: float, length: int) -> None:
        """Whether what goes on can be better than what there is."""
        if len(self.found) == self.beams:
            self.done = self.done or bool(self.early) or self.found[0][0] >= best / length**self.penalty


def _searched(
    xp: Namespace,
    tokens: Array,
    max_length: int,
    beams: int,
    count: int,
    end: int,
    pad: int,
    steps: _Stepping,
    kept: Callable[[Array, Array], Array],
    penalty: float,
    early: int,
) -> tuple[Array, Array, Array]:
    """The best `count` continuations of `tokens` (batch, length), their scores, and those of all tokens at each step.

    `kept` says how likely log probabilities are behind sequences.
    """
    batch, length = tokens.shape
    if max_length <= length:
        raise ValueError(f"max_length {max_length} must be more than the {length} tokens there are")
    lines = [[int(tokens[i, j]) for j in range(length)] for i in range(batch) for _ in range(beams)]
    sums = [0.0 if beam == 0 else -1e9 for beam in range(beams)] * batch
    pools = [_Hypotheses(beams, penalty, early) for _ in range(batch)]
    seen = []
    for place in range(length, max_length):
        scores = kept(xp.log(xp.softmax(steps.logits(), -1)), xp.asarray(lines, dtype=xp.int32))
        scores = scores + xp.expand_dims(xp.asarray(sums, dtype=xp.float32), axis=1)
        width = scores.shape[1]
        seen.append(xp.reshape(scores, (batch, beams, width)))
        values, places = xp.top_k(xp.reshape(scores, (batch, beams * width)), 2 * beams, 1, True, True)
        origins, chosen, sums, before = [], [], [], lines
        for i, pool in enumerate(pools):
            if pool.done:
                origins += [i * beams] * beams
                chosen += [pad] * beams
                sums += [0.0] * beams
                continue
            going = len(chosen) + beams
            for rank in range(2 * beams):
                value, flat = float(values[i, rank]), int(places[i, rank])
                origin, token = i * beams + flat // width, flat % width
                if token == end:
                    if rank < beams:
                        pool.add(before[origin], value)
                    continue
                origins.append(origin)
                chosen.append(token)
                sums.append(value)
                if len(chosen) == going:
                    break
            pool.look(float(values[i, 0]), place)
        lines = [[*before[origin], token] for origin, token in zip(origins, chosen, strict=True)]
        if all(pool.done for pool in pools) or place + 1 == max_length:
            break
        steps.go_on(xp.asarray(chosen, dtype=xp.int32), xp.asarray(origins, dtype=xp.int64))
    results, totals = [], []
    for i, pool in enumerate(pools):
        if not pool.done:
            for beam in range(i * beams, (i + 1) * beams):
                pool.add(lines[beam], sums[beam])
        for score, line in pool.found[::-1][:count]:
            results.append([*line, *[pad] * (max_length - len(line))])
            totals.append(score)
    seen += [xp.zeros_like(seen[0])] * (max_length - length - len(seen))
    return (
        xp.reshape(xp.asarray(results, dtype=xp.int32), (batch, count, max_length)),
        xp.reshape(xp.asarray(totals, dtype=xp.float32), (batch, count)),
        xp.stack(seen),
    )


def _repeated(xp: Namespace, x: Array | None, times: int) -> Array | None:
    """Each row of `x` several times."""
    return None if x is None else xp.take(x, xp.arange(x.shape[0] * times, dtype=xp.int64) // times, axis=0)


def _require_beams(beams: int, count: int) -> None:
    if not 1 <= count <= beams:
        raise ValueError(f"num_return_sequences {count} must lie from 1 to num_beams {beams}")


@op("BeamSearch", domain=MS, data_dependent_shape=True, any_dtype=True, results=("int32", "float32", "float32"))
def beam_search(
    xp: Namespace,
    input_ids: Array,
    max_length: Int,
    min_length: Int = 0,
    num_beams: Int = 1,
    num_return_sequences: Int = 1,
    length_penalty: Float = 1.0,
    repetition_penalty: Float = 1.0,
    vocab_mask: Array | None = None,
    prefix_vocab_mask: Array | None = None,
    attention_mask: Array | None = None,
    decoder_input_ids: Array | None = None,
    logits_processor: Array | None = None,
    *,
    decoder: Graph,
    decoder_start_token_id: Int = -1,
    early_stopping: Int = 0,
    encoder: Graph | None = None,
    eos_token_id: Int,
    init_decoder: Graph | None = None,
    model_type: Int = 0,
    no_repeat_ngram_size: Int = 0,
    pad_token_id: Int,
    vocab_size: Int = -1,
) -> tuple[Array, Array, Array]:
    """`input_ids` (batch, length), continued by the likeliest sequences: (batch, `num_return_sequences`, max_length).

    `num_beams` sequences of each example go on at a time; one that ends counts with its log probability over its length
    to the `length_penalty`. Returns also these scores, and those of all tokens at each step (steps, batch, beams,
    vocabulary). Of decoder and rules see GreedySearch, here for log probabilities. With `model_type` 1, T5's, sequences
    begin with `decoder_start_token_id`, and an encoder reads `input_ids` and their mask. Raises ValueError for others.
    """
    one_of("model_type", model_type, 0, 1)
    _require_beams(num_beams, num_return_sequences)
    rules = Rules(
        xp, min_length, eos_token_id, repetition_penalty, no_repeat_ngram_size, vocab_mask,
        _repeated(xp, prefix_vocab_mask, num_beams), vocab_size,
    )  # fmt: skip
    tokens = xp.astype(input_ids, xp.int32)
    steps: _Stepping
    if model_type == 1:
        if decoder_start_token_id < 0:
            raise ValueError(f"decoder_start_token_id {decoder_start_token_id} must be 0 or more")
        mask = xp.astype(tokens != pad_token_id if attention_mask is None else attention_mask, xp.int32)
        require_shape("attention_mask", mask, *tokens.shape)
        read, tokens = tokens, xp.full((tokens.shape[0], 1), decoder_start_token_id, dtype=xp.int32)
        steps = _Crossed(xp, (read, mask), tokens, num_beams, encoder, decoder)
    else:
        require_alone(model_type, encoder)
        start, mask = _repeated(xp, tokens, num_beams), _repeated(xp, attention_mask, num_beams)
        steps = Steps(xp, start, pad_token_id, mask, init_decoder, decoder, max_length)
    return _searched(
        xp, tokens, max_length, num_beams, num_return_sequences, eos_token_id, pad_token_id, steps, rules.kept,
        length_penalty, early_stopping,
    )  # fmt: skip


MOST_INITIAL = 50  # the last time stamp with which a text may begin


def _timed(
    xp: Namespace, scores: Array, tokens: Array, end: int, stamps: int, never: Sequence[int], once: Sequence[int]
) -> Array:
    """`scores` (sequences, vocabulary) where Whisper's rules for time stamps hold: tokens from `stamps` on.

    They come in pairs, but for the first one, and do not fall; where together they are likelier than any other token,
    one of them comes. `never` are tokens that do not come, `once` those that do not come behind the first time stamp.
    As in onnxruntime.
    """
    width, length = scores.shape[1], tokens.shape[1]
    vocabulary = xp.arange(width, dtype=xp.int32)
    timed = tokens >= stamps
    place = xp.arange(length, dtype=xp.int32)
    any_ = xp.any(timed, axis=1, keepdims=True)
    first = xp.min(xp.where(timed, place, xp.asarray(length - 1, dtype=xp.int32)), axis=1, keepdims=True)
    begun = first + 1 < length  # something stands behind the first of them
    last = timed[:, -1:]
    paired = timed[:, -2:-1] | ~begun if length > 1 else ~begun
    largest = xp.max(xp.where(timed, place, xp.asarray(-1, dtype=xp.int32)), axis=1, keepdims=True)
    latest = xp.take_along_axis(tokens, xp.astype(xp.clip(largest, 0, None), xp.int64), axis=1)
    lowest = latest + xp.astype(~(last & ~paired), xp.int32)
    is_stamp = vocabulary >= stamps
    out = last & paired & is_stamp
    out = out | (last & ~paired & (vocabulary < end))
    out = out | (any_ & is_stamp & (vocabulary < lowest))
    out = out | (~begun & (vocabulary > stamps + MOST_INITIAL))
    for token in never:
        out = out | (vocabulary == token)
    for token in once:
        out = out | (begun & (vocabulary == token))
    nothing = xp.asarray(float("-inf"), dtype=scores.dtype)
    scores = xp.where(out, nothing, scores)
    text = xp.max(xp.where(is_stamp, nothing, scores), axis=1, keepdims=True)
    above = xp.where(is_stamp, scores - xp.where(text == nothing, xp.zeros_like(text), text), nothing)
    together = xp.sum(xp.exp(xp.clip(above, None, 80.0)), axis=1, keepdims=True, dtype=scores.dtype)
    return xp.where((together > 1) & ~is_stamp, nothing, scores)


@op(
    "WhisperBeamSearch", domain=MS, data_dependent_shape=True, any_dtype=True,
    results=("int32", "float32", "float32", "float32", "float32"),
)  # fmt: skip
def whisper_beam_search(
    xp: Namespace,
    input_ids: Array,
    max_length: Int,
    min_length: Int = 0,
    num_beams: Int = 1,
    num_return_sequences: Int = 1,
    length_penalty: Float = 1.0,
    repetition_penalty: Float = 1.0,
    vocab_mask: Array | None = None,
    prefix_vocab_mask: Array | None = None,
    attention_mask: Array | None = None,
    decoder_input_ids: Array | None = None,
    logits_processor: Int = 0,
    cross_qk_layer_head: Array | None = None,
    extra_decoding_ids: Array | None = None,
    temperature: Float = 1.0,
    *,
    beginning_timestamp_token_id: Int = -1,
    decoder: Graph,
    decoder_output_cross_qk: Int = 0,
    decoder_start_token_id: Int = -1,
    early_stopping: Int = 0,
    encoder: Graph | None = None,
    eos_token_id: Int,
    init_decoder: Graph | None = None,
    model_type: Int = 2,
    no_repeat_ngram_size: Int = 0,
    no_speech_token_id: Int = -1,
    no_timestamps_token_id: Int = -1,
    pad_token_id: Int,
    start_of_lm_token_id: Int = -1,
    transcribe_token_id: Int = -1,
    translate_token_id: Int = -1,
    vocab_size: Int = -1,
) -> tuple[Array, Array, Array, None, Array | None]:
    """BeamSearch for what an encoder hears in `input_ids` (batch, features, time), floats.

    Texts begin with `decoder_input_ids` (batch, length), or with `decoder_start_token_id`. Log probabilities are
    divided by a `temperature` above 0. With `logits_processor` 1 the rules for time stamps hold, whose tokens
    attributes name. The last output (batch) is how likely `no_speech_token_id` is as the first token. Raises ValueError
    for attention as an output, which onnxruntime has on GPUs alone.
    """
    one_of("model_type", model_type, 2)
    one_of("decoder_output_cross_qk", decoder_output_cross_qk, 0)
    one_of("logits_processor", logits_processor, 0, 1)
    require_rank(3, input_ids=input_ids)
    require_rank(2, decoder_input_ids=decoder_input_ids)
    _require_beams(num_beams, num_return_sequences)
    batch = input_ids.shape[0]
    if decoder_input_ids is None:
        if decoder_start_token_id < 0:
            raise ValueError("decoder_input_ids or decoder_start_token_id must say with what a text begins")
        tokens = xp.full((batch, 1), decoder_start_token_id, dtype=xp.int32)
    else:
        tokens = xp.astype(decoder_input_ids, xp.int32)
    require_shape("decoder_input_ids", tokens, batch, tokens.shape[1])
    rules = Rules(
        xp, min_length, eos_token_id, repetition_penalty, no_repeat_ngram_size, vocab_mask,
        _repeated(xp, prefix_vocab_mask, num_beams), vocab_size,
    )  # fmt: skip
    never = (no_timestamps_token_id, start_of_lm_token_id)
    once = (decoder_start_token_id, translate_token_id, transcribe_token_id)

    def kept(scores: Array, before: Array) -> Array:
        scores = rules.kept(scores, before)
        scores = scores / temperature if temperature > 0 else scores
        if logits_processor:
            scores = _timed(xp, scores, before, eos_token_id, beginning_timestamp_token_id, never, once)
        return scores

    steps = _Crossed(xp, (input_ids,), tokens, num_beams, encoder, decoder)
    silent = None
    if no_speech_token_id >= 0 and steps.first is not None:
        silent = xp.softmax(xp.astype(steps.first[::num_beams, -1, :], xp.float32), -1)
        if no_speech_token_id >= silent.shape[1]:
            raise ValueError(f"no_speech_token_id {no_speech_token_id} is not below the {silent.shape[1]} tokens")
        silent = silent[:, no_speech_token_id]
    sequences, totals, scores = _searched(
        xp, tokens, max_length, num_beams, num_return_sequences, eos_token_id, pad_token_id, steps, kept,
        length_penalty, early_stopping,
    )  # fmt: skip
    return sequences, totals, scores, None, silent
