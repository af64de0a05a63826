"""Operators that carry the last tokens from call to call: causal convolutions, hashes of n-grams.

Several of them take requests of different lengths behind one another: the tokens of request `r` are those from
`cumulative_sequence_length[r]` up to the next.
"""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Int, Text
from ortlite.ops.attention import convolution_activated
from ortlite.ops.helpers import one_of, require_rank, require_shape
from ortlite.ops.registry import op

MS = "com.microsoft"


def requests(xp: Namespace, ends: Array, tokens: int) -> tuple[Array, Array, Array, Array]:
    """Where each request begins, how long it is, to which one each token belongs, and its place there."""
    bounds = xp.astype(ends, xp.int64)
    starts, lengths = bounds[:-1], bounds[1:] - bounds[:-1]
    if xp.readable(bounds) and bounds.shape[0]:
        first, last = int(bounds[0]), int(bounds[-1])
        if first != 0 or last != tokens or (lengths.shape[0] and int(xp.min(lengths)) < 0):
            raise ValueError(f"the cumulative lengths must rise from 0 to {tokens}, the number of tokens")
    token = xp.arange(tokens, dtype=xp.int64)
    behind = xp.expand_dims(token, axis=1) >= xp.expand_dims(bounds[1:], axis=0)
    request = xp.clip(xp.sum(xp.astype(behind, xp.int64), axis=1, dtype=xp.int64), None, max(starts.shape[0] - 1, 0))
    return starts, lengths, request, token - xp.take(starts, request, axis=0)


def picked(xp: Namespace, x: Array, history: Array, starts: Array, request: Array, local: Array) -> Array:
    """What stands at the place `local` of a request, all of one shape: in `history` (requests, held, …) below 0."""
    held = history.shape[1]
    past = xp.reshape(history, (history.shape[0] * held, *history.shape[2:]))
    both = xp.concat([past, x], axis=0)
    behind = request * held + held + local
    ahead = xp.reshape(xp.take(starts, xp.reshape(request, (-1,)), axis=0), request.shape) + local + past.shape[0]
    places = xp.reshape(xp.clip(xp.where(local < 0, behind, ahead), 0, max(both.shape[0] - 1, 0)), (-1,))
    return xp.reshape(xp.take(both, places, axis=0), (*request.shape, *x.shape[1:]))


def _held(xp: Namespace, x: Array, history: Array, starts: Array, counts: Array) -> Array:
    """The history of each request after `counts` of its tokens."""
    held = history.shape[1]
    local = xp.expand_dims(counts, axis=1) - held + xp.expand_dims(xp.arange(held, dtype=xp.int64), axis=0)
    request = xp.broadcast_to(xp.expand_dims(xp.arange(counts.shape[0], dtype=xp.int64), axis=1), local.shape)
    return picked(xp, x, history, starts, request, local) if held else history


def captured(xp: Namespace, counts: Array | None, capacity: int, lengths: Array) -> Array:
    """Which of the first `capacity` tokens of each request are asked for: (requests, capacity)."""
    if (counts is not None) != (capacity > 0) or not 0 <= capacity <= 8:
        raise ValueError(f"state_update_capacity {capacity} is 0, or with capture_count from 1 to 8")
    require_shape("capture_count", counts, lengths.shape[0])
    place = xp.expand_dims(xp.arange(capacity, dtype=xp.int64), axis=0)
    if counts is None:
        return xp.zeros((lengths.shape[0], 0), dtype=xp.bool)
    return place < xp.expand_dims(xp.minimum(xp.astype(counts, xp.int64), lengths), axis=1)


@op("CausalConvWithState", domain=MS)
def causal_conv_with_state(
    xp: Namespace,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    past_state: Array | None = None,
    *,
    activation: Text = "none",
    channels_last: Flag = 0,
    dilation: Int = 1,
    input_channel_offset: Int = 0,
    input_channels: Int = 0,
    ndim: Int = 1,
    state_channels_last: Int = -1,
    state_length: Int = 0,
    state_update_capacity: Int = 0,
    state_window: Int = 0,
) -> tuple[Array, Array]:
    """Each channel of (batch, channels, time) convolved with its kernel (channels, 1, size) over what came before.

    `past_state` is what lies ahead of the first step, zeros by default: as many as the kernel reaches back. Returns
    also that of the next call; with `state_window` after each of the last steps, along a new first axis. With
    `channels_last`, (batch, time, …) with channels over the last axes, states alike. Raises ValueError for more axes
    and for slices of channels, which onnxruntime has on GPUs alone.
    """
    one_of("ndim", ndim, 1)
    one_of("state_channels_last", state_channels_last, -1)
    for name, given in (
        ("input_channel_offset", input_channel_offset), ("input_channels", input_channels),
        ("state_length", state_length), ("state_update_capacity", state_update_capacity),
    ):  # fmt: skip
        one_of(name, given, 0)
    require_rank(3, weight=weight, **({} if channels_last else {"input": input}))
    channels, _, taps = weight.shape
    require_shape("weight", weight, channels, 1, taps)
    require_shape("bias", bias, channels)
    if dilation < 1 or not 0 <= state_window <= 8:
        raise ValueError(f"dilation {dilation} must be 1 or more, and state_window {state_window} lie from 0 to 8")
    batch = input.shape[0]
    rest = input.shape[2:]
    x = input
    if channels_last:
        x = xp.permute_dims(xp.reshape(input, (batch, input.shape[1], channels)), (0, 2, 1))
    require_shape("input", x, batch, channels, x.shape[2])
    held, length = (taps - 1) * dilation, x.shape[2]
    before = xp.zeros((batch, channels, held), dtype=x.dtype)
    if past_state is not None:
        before = past_state[state_window - 1, ...] if state_window else past_state
        if channels_last:
            before = xp.permute_dims(xp.reshape(before, (batch, held, channels)), (0, 2, 1))
        require_shape("past_state", before, batch, channels, held)
    x = xp.concat([before, x], axis=2)
    y = xp.zeros((), dtype=x.dtype) if bias is None else xp.expand_dims(bias, axis=1)
    for tap in range(taps):
        y = y + xp.expand_dims(weight[:, 0, tap], axis=1) * x[:, :, tap * dilation : tap * dilation + length]

    def laid_out(v: Array) -> Array:
        return xp.reshape(xp.permute_dims(v, (0, 2, 1)), (batch, v.shape[2], *rest)) if channels_last else v

    y = laid_out(convolution_activated(xp, y, activation))
    if not state_window:
        return y, laid_out(x[:, :, length : length + held])
    starts = range(length - state_window + 1, length + 1)
    return y, xp.stack([laid_out(x[:, :, s : s + held] if s > 0 else xp.zeros_like(before)) for s in starts])


@op("VarlenCausalConvWithState", domain=MS, results=("input", "input", "input"))
def varlen_causal_conv_with_state(
    xp: Namespace,
    input: Array,
    weight: Array,
    cumulative_sequence_length: Array,
    bias: Array | None,
    initial_state: Array,
    capture_count: Array | None = None,
    kernel_delta: Array | None = None,
    previous_mask: Array | None = None,
    *,
    activation: Text = "none",
    delta_offset: Int = 0,
    dilation: Int = 1,
    group_size: Int = 1,
    state_update_capacity: Int = 0,
) -> tuple[Array, Array, Array]:
    """CausalConvWithState of requests behind one another.

    `input` is (tokens, channels), `initial_state` (requests, channels, places that the kernel reaches back). Returns
    also the first tokens of each request, as many as `capture_count` says, then zeros: (requests, capacity, channels).
    Raises ValueError for kernels that differ from token to token, which onnxruntime has on GPUs alone.
    """
    if kernel_delta is not None or previous_mask is not None:
        raise ValueError("kernel_delta and previous_mask exist on onnxruntime's GPUs alone")
    require_rank(3, weight=weight, initial_state=initial_state)
    require_rank(1, cumulative_sequence_length=cumulative_sequence_length)
    channels, _, taps = weight.shape
    tokens = input.shape[0]
    require_shape("input", input, tokens, channels)
    require_shape("weight", weight, channels, 1, taps)
    require_shape("bias", bias, channels)
    if dilation < 1:
        raise ValueError(f"dilation {dilation} must be 1 or more")
    starts, lengths, request, local = requests(xp, cumulative_sequence_length, tokens)
    require_shape("initial_state", initial_state, lengths.shape[0], channels, (taps - 1) * dilation)
    history = xp.permute_dims(initial_state, (0, 2, 1))
    y = xp.zeros((), dtype=input.dtype) if bias is None else bias
    for tap in range(taps):
        back = (taps - 1 - tap) * dilation
        x = picked(xp, input, history, starts, request, local - back) if back else input
        y = y + weight[:, 0, tap] * x
    wanted = captured(xp, capture_count, state_update_capacity, lengths)
    place = xp.broadcast_to(xp.arange(state_update_capacity, dtype=xp.int64), wanted.shape)
    of = xp.broadcast_to(xp.expand_dims(xp.arange(lengths.shape[0], dtype=xp.int64), axis=1), wanted.shape)
    update = picked(xp, input, history, starts, of, place)
    update = xp.where(xp.expand_dims(wanted, axis=2), update, xp.zeros_like(update))
    last = xp.permute_dims(_held(xp, input, history, starts, lengths), (0, 2, 1))
    return convolution_activated(xp, y, activation), last, update


@op("VarlenNGramHashMapping", domain=MS, results=("input_ids", "input_ids", "int32", "input_ids"))
def varlen_ngram_hash_mapping(
    xp: Namespace,
    input_ids: Array,
    multipliers: Array,
    vocab_sizes: Array,
    cumulative_sequence_length: Array,
    past_ids: Array | None = None,
    head_offsets: Array | None = None,
    eos_token_id: Array | None = None,
    segment_ids: Array | None = None,
    past_segment_ids: Array | None = None,
    capture_count: Array | None = None,
    *,
    max_ngram_size: Int,
    n_head_per_ngram: Int,
    pad_id: Int,
    reset_on_eos: Flag = 0,
    state_update_capacity: Int = 0,
) -> tuple[Array, Array, Array, Array]:
    """Hashes of the last 2, 3, … `max_ngram_size` tokens of each request: (tokens, sizes · heads).

    The exclusive or of tokens times `multipliers`, modulo each head's `vocab_sizes`, plus `head_offsets`. Ahead of a
    request stand `past_ids` (requests, size - 1), or else the end token, or `pad_id` where that is not given, and
    in place of what lies behind another segment, or with `reset_on_eos` behind an end token. Returns also the tokens
    and segments ahead of the next call, and those after each of the first tokens that `capture_count` asks for.
    """
    held, heads = max_ngram_size - 1, n_head_per_ngram
    if held < 1 or heads < 1:
        raise ValueError(f"max_ngram_size {max_ngram_size} must be 2 or more, n_head_per_ngram {heads} 1 or more")
    require_rank(1, input_ids=input_ids, cumulative_sequence_length=cumulative_sequence_length)
    tokens, dtype = input_ids.shape[0], input_ids.dtype
    if multipliers.ndim != 1 or multipliers.shape[0] < max_ngram_size:
        raise ValueError(f"multipliers {list(multipliers.shape)} are fewer than max_ngram_size {max_ngram_size}")
    require_shape("vocab_sizes", vocab_sizes, held * heads)
    require_shape("head_offsets", head_offsets, held * heads)
    xp.require_range("vocab_sizes", vocab_sizes, 1, 2**63 - 1)
    starts, lengths, request, local = requests(xp, cumulative_sequence_length, tokens)
    batch = lengths.shape[0]
    fill = xp.asarray(pad_id, dtype=dtype) if eos_token_id is None else xp.reshape(eos_token_id, ())
    past = xp.broadcast_to(fill, (batch, held)) if past_ids is None else past_ids
    require_shape("past_ids", past, batch, held)
    require_shape("segment_ids", segment_ids, tokens)
    segments = past_segments = None
    if segment_ids is not None:
        # without those of the past a request begins as it were within its first segment
        first = xp.take(segment_ids, xp.clip(starts, 0, max(tokens - 1, 0)), axis=0) if tokens else starts
        first = xp.broadcast_to(xp.expand_dims(xp.astype(first, segment_ids.dtype), axis=1), (batch, held))
        segments, past_segments = segment_ids, first if past_segment_ids is None else past_segment_ids
        require_shape("past_segment_ids", past_segments, batch, held)
    mixed = input_ids * multipliers[0]
    before = segments
    cut = xp.zeros((tokens,), dtype=xp.bool)
    rows = []
    for back in range(1, max_ngram_size):
        x = picked(xp, input_ids, past, starts, request, local - back)
        if segments is not None and past_segments is not None and before is not None:
            of = picked(xp, segments, past_segments, starts, request, local - back)
            cut, before = cut | (of != before), of
        if reset_on_eos and eos_token_id is not None:
            cut = cut | (x == fill)
        mixed = xp.bitwise_xor(mixed, xp.where(cut, fill, x) * multipliers[back])
        sizes = vocab_sizes[(back - 1) * heads : back * heads]
        rows.append(xp.remainder(xp.expand_dims(mixed, axis=1), xp.expand_dims(sizes, axis=0)))
    hashes = xp.concat(rows, axis=1)
    hashes = hashes if head_offsets is None else hashes + head_offsets
    wanted = captured(xp, capture_count, state_update_capacity, lengths)
    after = [
        _held(xp, input_ids, past, starts, xp.minimum(xp.full((batch,), n + 1, dtype=xp.int64), lengths))
        for n in range(state_update_capacity)
    ]
    update = xp.stack(after, axis=1) if after else xp.zeros((batch, 0, held), dtype=dtype)
    update = xp.where(xp.expand_dims(wanted, axis=2), update, xp.asarray(pad_id, dtype=dtype))
    if segments is None or past_segments is None:
        last = xp.zeros((batch, held), dtype=xp.int32)
    else:
        last = _held(xp, segments, past_segments, starts, lengths)
    return hashes, _held(xp, input_ids, past, starts, lengths), last, update


@op("NGramHashMapping", domain=MS, results=("input_ids", "input_ids"))
def ngram_hash_mapping(
    xp: Namespace,
    input_ids: Array,
    multipliers: Array,
    vocab_sizes: Array,
    past_ids: Array | None = None,
    head_offsets: Array | None = None,
    eos_token_id: Array | None = None,
    segment_ids: Array | None = None,
    *,
    max_ngram_size: Int,
    n_head_per_ngram: Int,
    pad_id: Int,
    reset_on_eos: Flag = 0,
) -> tuple[Array, Array]:
    """VarlenNGramHashMapping of requests (batch, length) of one length; segments begin anew with each call."""
    require_rank(2, input_ids=input_ids)
    batch, length = input_ids.shape
    require_shape("segment_ids", segment_ids, batch, length)
    hashes, present, _, _ = varlen_ngram_hash_mapping(
        xp, xp.reshape(input_ids, (-1,)), multipliers, vocab_sizes, xp.arange(batch + 1, dtype=xp.int64) * length,
        past_ids, head_offsets, eos_token_id, None if segment_ids is None else xp.reshape(segment_ids, (-1,)),
        max_ngram_size=max_ngram_size, n_head_per_ngram=n_head_per_ngram, pad_id=pad_id, reset_on_eos=reset_on_eos,
    )  # fmt: skip
    return xp.reshape(hashes, (batch, length, hashes.shape[1])), present
