"""Real architectures with random weights, exported by torch.onnx, so that anyone can repeat the benchmarks.

    python -m benchmarks.architectures [NAME ...] [--folder DIR] [--opset N]

Writes NAME.onnx and NAME.npz (inputs `in_*`, torch's outputs `out_*`). Needs torch, transformers and onnxscript:
`nox -s exports` has them in an environment of its own. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conformance import run_main
from ortlite.cli.bars import working
from ortlite.progress import each

FOLDER = Path(os.environ.get("ORTLITE_EXPORTS", Path(tempfile.gettempdir()) / "ortlite-exports"))
TEXT = {0: "batch", 1: "tokens"}  # the axes that are left open
IMAGE = {0: "batch"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A module, its inputs by name, which of their axes are open, how it is called, and the names of its outputs."""

    module: Any
    inputs: dict[str, Any]
    axes: dict[str, dict[int, str]] = field(default_factory=dict)
    call: Callable[..., Any] | None = None
    outputs: Sequence[str] = ("logits",)


def _text(vocabulary, *shape):
    import torch

    return torch.from_numpy(np.random.default_rng(0).integers(3, vocabulary, shape))


def _noise(*shape):
    import torch

    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def _classifier(kind, size=224, **options):
    """A classifier of images from transformers, such as "ResNet"; convolutions get weights that keep signals alive."""
    import torch
    import transformers
    from torch import nn

    module = getattr(transformers, f"{kind}ForImageClassification")(getattr(transformers, f"{kind}Config")(**options))
    generator = torch.Generator().manual_seed(0)
    for part in module.modules() if any(isinstance(m, nn.BatchNorm2d) for m in module.modules()) else ():
        if isinstance(part, nn.Conv2d):
            part.weight.data = torch.randn(part.weight.shape, generator=generator)
            part.weight.data *= (2 / part.weight[0].numel()) ** 0.5
        elif isinstance(part, nn.BatchNorm2d):
            for values, low, high in (
                (part.weight.data, 0.7, 1.1), (part.bias.data, -0.1, 0.1),
                (part.running_mean, -0.1, 0.1), (part.running_var, 0.7, 1.3),
            ):  # fmt: skip
                values.uniform_(low, high, generator=generator)
    return Architecture(module, {"image": _noise(1, 3, size, size)}, {"image": IMAGE}, lambda m, x: m(x).logits)


def _masked(module, vocabulary, shape):
    """A model of token ids and an attention mask, the end of the last row masked."""
    ids = _text(vocabulary, *shape)
    mask = np.ones(shape, np.int64)
    mask[-1, -shape[1] // 4 :] = 0 if shape[0] > 1 else 1
    import torch

    inputs = {"input_ids": ids, "attention_mask": torch.from_numpy(mask)}

    def call(module, ids, mask):
        return module(input_ids=ids, attention_mask=mask).logits

    return Architecture(module, inputs, {name: TEXT for name in inputs}, call)  # noqa: C420


def bert_base():
    from transformers import BertConfig, BertForSequenceClassification

    return _masked(BertForSequenceClassification(BertConfig(num_labels=3)), 30000, (2, 24))


def roberta_tiny():
    from transformers import RobertaConfig, RobertaForMaskedLM

    size = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    return _masked(RobertaForMaskedLM(RobertaConfig(vocab_size=5000, **size)), 4900, (2, 12))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    inputs = {"input_ids": _text(50000, 1, 16)}
    return Architecture(
        GPT2LMHeadModel(GPT2Config()), inputs, {"input_ids": TEXT}, lambda m, ids: m(ids, use_cache=False).logits
    )


SMALL = {
    "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4,
    "num_attention_heads": 8, "max_position_embeddings": 1024,
}  # fmt: skip


def llama_small():
    from transformers import LlamaConfig, LlamaForCausalLM

    return _masked(LlamaForCausalLM(LlamaConfig(num_key_value_heads=4, use_cache=False, **SMALL)), 8000, (1, 16))


def qwen2_small_kv():
    """Three tokens behind a cache of ten: one step of decoding."""
    import torch
    from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

    layers, heads, width, past = SMALL["num_hidden_layers"], 2, 64, 10
    module = Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=heads, **SMALL))
    caches = {f"past_{part}_{i}": _noise(1, heads, past, width) for i in range(layers) for part in ("key", "value")}
    ids = _text(8000, 1, 3)
    inputs = {"input_ids": ids, "attention_mask": torch.ones(1, past + 3, dtype=torch.int64), **caches}

    def call(module, ids, mask, *flat):
        cache = DynamicCache()
        for layer in range(layers):
            cache.update(flat[2 * layer], flat[2 * layer + 1], layer)
        result = module(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        return (result.logits, *(t for kept in result.past_key_values.layers for t in (kept.keys, kept.values)))

    axes = {"input_ids": {1: "tokens"}, "attention_mask": {1: "total"}, **{name: {2: "past"} for name in caches}}
    return Architecture(module, inputs, axes, call, ["logits", *(name.replace("past", "present") for name in caches)])


def t5_small():
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    module = T5ForConditionalGeneration(T5Config(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8))
    inputs = {
        "input_ids": _text(32000, 2, 20),
        "attention_mask": torch.ones(2, 20, dtype=torch.int64),
        "decoder_input_ids": _text(32000, 2, 7),
    }

    def call(module, ids, mask, decoder):
        return module(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder, use_cache=False).logits

    axes = {"input_ids": TEXT, "attention_mask": TEXT, "decoder_input_ids": {0: "batch", 1: "decoded"}}
    return Architecture(module, inputs, axes, call)


def mamba_small():
    from transformers import MambaConfig, MambaForCausalLM

    module = MambaForCausalLM(MambaConfig(vocab_size=4096, hidden_size=256, num_hidden_layers=4, state_size=16))
    return Architecture(module, {"input_ids": _text(4000, 1, 12)}, {}, lambda m, ids: m(ids, use_cache=False).logits)


def whisper_tiny_encoder():
    from transformers import WhisperConfig, WhisperModel

    size = dict.fromkeys(("encoder_layers", "decoder_layers"), 4)
    size |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 6)
    size |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 1536)
    module = WhisperModel(WhisperConfig(d_model=384, **size)).encoder
    features = {"input_features": _noise(1, 80, 3000)}
    return Architecture(module, features, {"input_features": IMAGE}, lambda m, x: m(x).last_hidden_state, ["states"])


def wav2vec2():
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    module = Wav2Vec2ForCTC(Wav2Vec2Config(num_hidden_layers=4))
    audio = {"samples": _noise(1, 16000)}
    return Architecture(module, audio, {"samples": {0: "batch", 1: "length"}}, lambda m, x: m(x).logits)


def segformer_b0():
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    module = SegformerForSemanticSegmentation(SegformerConfig(num_labels=150))
    image = {"image": _noise(1, 3, 256, 320)}
    return Architecture(module, image, {"image": {2: "height", 3: "width"}}, lambda m, x: m(x).logits)


def lstm_tagger():
    """Embedding, two bidirectional LSTMs, a GRU and a linear layer."""
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(1000, 64)
            self.lstm = nn.LSTM(64, 96, num_layers=2, bidirectional=True, batch_first=True)
            self.gru = nn.GRU(192, 64, batch_first=True)
            self.linear = nn.Linear(64, 10)

        def forward(self, ids):
            return self.linear(self.gru(self.lstm(self.embedding(ids))[0])[0])

    return Architecture(Tagger(), {"input_ids": _text(1000, 2, 15)}, {"input_ids": IMAGE})


def unet_like():
    """A small conditional U-Net as in diffusion models: group norm, SiLU, cross attention, upsampling."""
    import torch
    from torch import nn
    from torch.nn.functional import interpolate, silu

    class Block(nn.Module):
        def __init__(self, given, made):
            super().__init__()
            self.norms = nn.ModuleList([nn.GroupNorm(8, given), nn.GroupNorm(8, made)])
            self.convs = nn.ModuleList([nn.Conv2d(given, made, 3, padding=1), nn.Conv2d(made, made, 3, padding=1)])
            self.time = nn.Linear(128, made)
            self.skip = nn.Conv2d(given, made, 1) if given != made else nn.Identity()

        def forward(self, x, time):
            hidden = self.convs[0](silu(self.norms[0](x))) + self.time(time)[:, :, None, None]
            return self.skip(x) + self.convs[1](silu(self.norms[1](hidden)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.time = nn.Sequential(nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128))
            self.first, self.last = nn.Conv2d(4, 32, 3, padding=1), nn.Conv2d(32, 4, 3, padding=1)
            self.down, self.up = nn.Conv2d(32, 64, 3, 2, 1), nn.Conv2d(64, 32, 3, padding=1)
            self.blocks = nn.ModuleList([Block(32, 32), Block(64, 64), Block(64, 32)])
            self.norm = nn.LayerNorm(64)
            self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
            self.feed = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))

        def forward(self, x, step, context):
            angles = step[:, None].float() * torch.exp(torch.arange(16.0) * -0.5)
            time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
            skip = self.blocks[0](self.first(x), time)
            y = self.blocks[1](self.down(skip), time)
            n, c, h, w = y.shape
            y = y.flatten(2).transpose(1, 2)
            y = y + self.attention(self.norm(y), context, context, need_weights=False)[0]
            y = (y + self.feed(y)).transpose(1, 2).reshape(n, c, h, w)
            y = self.up(interpolate(y, scale_factor=2.0, mode="nearest"))
            return self.last(self.blocks[2](torch.cat([skip, y], 1), time))

    inputs = {"sample": _noise(1, 4, 32, 32), "step": torch.tensor([17]), "context": _noise(1, 7, 64)}
    return Architecture(Net(), inputs, {}, None, ["noise"])


ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    "resnet50": lambda: _classifier("ResNet", num_labels=1000),
    "mobilenet_v2": lambda: _classifier("MobileNetV2", num_labels=1001),
    "efficientnet_b0": lambda: _classifier(
        "EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, image_size=224, hidden_dim=1280,
        dropout_rate=0.2, num_labels=1000,
    ),
    "convnext_tiny": lambda: _classifier("ConvNext", num_labels=1000),
    "swin_tiny": lambda: _classifier("Swin", num_labels=1000),
    "vit_base": lambda: _classifier("ViT", num_labels=1000),
    **{fn.__name__: fn for fn in (
        segformer_b0, bert_base, roberta_tiny, gpt2, llama_small, qwen2_small_kv, t5_small, mamba_small,
        whisper_tiny_encoder, wav2vec2, lstm_tagger, unet_like,
    )},
}  # fmt: skip


def export(name: str, folder: Path, opset: int | None = None) -> Path:
    """Write an architecture's model and values, unless they are there."""
    import torch

    path = folder / f"{name}{f'_opset{opset}' if opset else ''}.onnx"
    if path.with_suffix(".npz").exists():
        return path
    torch.manual_seed(0)
    made = ARCHITECTURES[name]()

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = made.module

        def forward(self, *args):
            return self.module(*args) if made.call is None else made.call(self.module, *args)

    module, args = Flat().eval(), tuple(made.inputs.values())
    open_axes = tuple(dict.fromkeys(made.axes.get(n, {}), torch.export.Dim.DYNAMIC) for n in made.inputs)
    with torch.no_grad():
        results = module(*args)
        torch.onnx.export(
            module,
            args,
            path,
            input_names=list(made.inputs),
            output_names=list(made.outputs),
            dynamo=True,
            dynamic_shapes=(open_axes,) if made.axes else None,
            opset_version=opset,
            verbose=False,
        )
    results = results if isinstance(results, tuple) else (results,)
    values = {f"in_{n}": v.numpy() for n, v in made.inputs.items()}
    values |= {f"out_{n}": v.numpy() for n, v in zip(made.outputs, results, strict=True)}
    np.savez(path.with_suffix(".npz"), **values)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[[], *ARCHITECTURES], metavar="NAME", help="all when left out")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--opset", type=int)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with working("exporting"):
        for name in each("exporting", [*(args.names or ARCHITECTURES)]):
            print(export(name, args.folder, args.opset), flush=True)


if __name__ == "__main__":
    run_main(main)
