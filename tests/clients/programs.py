"""Programs of others that `import onnxruntime`, each run unchanged on something small.

    python tests/clients/programs.py NAME OUT                             # on onnxruntime
    python -m ortlite.as_onnxruntime tests/clients/programs.py NAME OUT   # on ortlite

One function each, named after its package. It builds the program and gives a function that runs it once, from the same
state every time, and returns what the program said. OUT gets that, pickled, and the least seconds of several runs.
Sounds and pictures are made here, or come with a package. A package without its models gets some with random weights.
"""

from __future__ import annotations

import pickle
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]
PROGRAMS: dict[str, Callable[[], Run]] = {}
REPEATS = 5


def program(function: Callable[[], Run]) -> Callable[[], Run]:
    """Enter a program under the name of its package."""
    PROGRAMS[function.__name__] = function
    return function


# What they get.


def voice(seconds: float = 4.0, rate: int = 16000) -> np.ndarray:
    """Syllables with pauses between: pulses of a gliding pitch through the resonances of vowels, in float32."""
    from scipy.signal import lfilter

    time = np.arange(int(seconds * rate)) / rate
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * time)
    pulses = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0.0)
    sound = np.zeros_like(time)
    for number, vowel in enumerate([(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480)]):
        spoken = pulses + 0.01 * np.random.default_rng(number).standard_normal(len(time))
        for frequency in vowel:
            radius = np.exp(-np.pi * 80 / rate)
            poles = [1.0, -2 * radius * np.cos(2 * np.pi * frequency / rate), radius**2]
            spoken = lfilter([1 - radius], poles, spoken)
        syllable = np.floor(time * 4) % 4 == number
        sound += syllable * np.sin(np.pi * (time * 4 % 1)) ** 0.5 * spoken
    sound *= time % 2 < 1.4
    breath = 0.003 * np.random.default_rng(9).standard_normal(len(time))  # else logarithms of nothing are compared
    return (0.5 * sound / np.abs(sound).max() + breath).astype(np.float32)


def page(*lines: str, size: int = 36) -> np.ndarray:
    """Lines of text, black on white: height x width x 3 bytes."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (20 * max(map(len, lines)) + 80, 60 * len(lines) + 40), "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(picture).text((30, 25 + 60 * row), line, fill="black", font=ImageFont.load_default(size))
    return np.asarray(picture)


def portrait() -> np.ndarray:
    """A photograph of a woman in front of a flag, from scikit-image's wheel."""
    from skimage.data import astronaut

    return astronaut()


# Sound.


@program
def silero_vad() -> Run:
    import torch
    from silero_vad import get_speech_timestamps, load_silero_vad
    from silero_vad.sequence_vad import get_speech_timestamps_sequence

    sound = torch.from_numpy(voice())
    low = torch.from_numpy(voice(rate=8000))
    model, small = load_silero_vad(onnx=True), load_silero_vad(onnx=True, opset_version=15)
    sequence = load_silero_vad(sequence=True)

    def run():
        probabilities = model.audio_forward(sound, sr=16000), model.audio_forward(low, sr=8000)
        times = [get_speech_timestamps(sound, m, return_seconds=True) for m in (model, small)]
        return [p.numpy() for p in probabilities], times, get_speech_timestamps_sequence(sound, sequence)

    return run


@program
def faster_whisper() -> Run:
    from faster_whisper.vad import VadOptions, get_speech_timestamps, get_vad_model

    sound = voice(8.0)
    padded = np.pad(sound, (0, -len(sound) % 512))
    options = VadOptions(min_silence_duration_ms=200)
    return lambda: (get_vad_model()(padded), get_speech_timestamps(sound, options))


@program
def openwakeword() -> Run:
    from openwakeword.model import Model

    sound = (voice() * 32767).astype(np.int16)
    model = Model(inference_framework="onnx", vad_threshold=0.1, enable_speex_noise_suppression=False)

    def run():
        model.reset()
        model.preprocessor.__init__(inference_framework="onnx")  # the only way to forget what it has heard
        model.vad.reset_states()
        scores = model.predict_clip(sound)
        return scores, model.preprocessor.embed_clips(sound[None, :32000])

    return run


@program
def onnx_asr() -> Run:
    from onnx_asr.preprocessors import preprocessor, resampler

    names = [f"{name}{kind}" for name in "gigaam_v2 gigaam_v3 kaldi nemo80 nemo128 whisper80 whisper128".split()
             for kind in ("", "_conv")]  # fmt: skip
    front_ends = {name: preprocessor.OnnxPreprocessor(name, {}) for name in names}
    resample = {rate: resampler.Resampler(rate, {}) for rate in (8000, 16000)}
    sounds = np.stack([voice(1.0), voice(2.0)[16000:]])
    lengths = np.array([16000, 9000])

    def run():
        features = {name: front_end(sounds, lengths) for name, front_end in front_ends.items()}
        rates = [(to, rate) for to in resample for rate in (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)]
        return features, {(to, rate): resample[to](sounds, lengths, rate) for to, rate in rates}

    return run


@program
def piper_hebrew() -> Run:
    """piper-tts: the models that come with it, which put vowel points to Hebrew and Arabic text."""
    from piper.hebrew import NakdimonDiacritizer
    from piper.tashkeel import TashkeelDiacritizer

    hebrew, arabic = NakdimonDiacritizer(), TashkeelDiacritizer()
    return lambda: (
        [hebrew(text) for text in ("שלום עולם", "הילד הלך לבית הספר, ושם למד לקרוא.")],
        [arabic(text) for text in ("السلام عليكم", "ذهب الولد إلى المدرسة")],
    )


# Pictures.


@program
def rapidocr() -> Run:
    from rapidocr import RapidOCR

    return reading(RapidOCR(params={"Global.log_level": "error"}))


def reading(engine) -> Run:
    picture = page("The quick brown fox", "jumps over 13 lazy dogs.", "Invoice No. 20261126")

    def run():
        read = engine(picture)
        return read[0] if isinstance(read, tuple) else (read.boxes, read.txts, read.scores)

    return run


@program
def rapidocr_onnxruntime() -> Run:
    from rapidocr_onnxruntime import RapidOCR

    return reading(RapidOCR())


@program
def ddddocr() -> Run:
    from ddddocr import DdddOcr

    readers = [DdddOcr(show_ad=False), DdddOcr(show_ad=False, beta=True), DdddOcr(show_ad=False, old=True)]
    detector = DdddOcr(det=True, ocr=False, show_ad=False)
    text, scene = png(page("h7Kp")), png(page("stop here", "7 x 3"))
    return lambda: ([reader.classification(text) for reader in readers], detector.detection(scene),
                    readers[1].classification(text, probability=True))  # fmt: skip


def png(picture: np.ndarray) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@program
def nudenet() -> Run:
    from nudenet import NudeDetector

    detector = NudeDetector()
    picture = np.ascontiguousarray(portrait()[:, :, ::-1])
    return lambda: (detector.detect(picture), detector.detect_batch([picture, picture[:300, 100:400]]))


# Files, tables, graphs.


@program
def magika() -> Run:
    from magika import Magika

    here = Path(__file__).read_bytes()
    contents = [here, b"%PDF-1.7\n" + b"1 0 obj << /Type /Catalog >> endobj\n" * 40, b'{"a": [1, 2, 3]}\n' * 30,
                b"#include <stdio.h>\nint main(void) { return 0; }\n" * 9, bytes(range(256)) * 20, png(page("a")),
                b"SELECT a, b FROM t WHERE c = 1;\n" * 20, b"", b"x"]  # fmt: skip
    engine = Magika()

    def run():
        found = [engine.identify_bytes(content) for content in contents]
        return [(str(one.output.label), str(one.dl.label), one.score) for one in found]

    return run


@program
def skl2onnx() -> Run:
    import onnxruntime
    from skl2onnx import to_onnx
    from sklearn import (
        compose,
        datasets,
        decomposition,
        ensemble,
        feature_extraction,
        gaussian_process,
        linear_model,
        neighbors,
        neural_network,
        pipeline,
        preprocessing,
        svm,
        tree,
    )

    x, y = datasets.load_iris(return_X_y=True)
    x = x.astype(np.float32)
    scaler = preprocessing.StandardScaler()
    models = {
        "forest": ensemble.RandomForestClassifier(20, random_state=0),
        "boosting": ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0),
        "isolation": ensemble.IsolationForest(n_estimators=20, random_state=0),
        "tree": tree.DecisionTreeRegressor(random_state=0),
        "scaled": pipeline.make_pipeline(scaler, decomposition.PCA(3), linear_model.LogisticRegression()),
        "columns": pipeline.make_pipeline(
            compose.ColumnTransformer([("a", scaler, [0, 1]), ("b", preprocessing.KBinsDiscretizer(4), [2, 3])]),
            linear_model.SGDClassifier(loss="log_loss", random_state=0),
        ),
        "support": svm.SVC(probability=True, random_state=0),
        "support_r": svm.NuSVR(),
        "neighbours": neighbors.KNeighborsClassifier(5),
        "layers": neural_network.MLPClassifier((8, 8), max_iter=300, random_state=0),
        "gaussian": gaussian_process.GaussianProcessRegressor(random_state=0),
        "powers": pipeline.make_pipeline(preprocessing.PolynomialFeatures(2), linear_model.Lasso()),
    }
    converted = {
        name: to_onnx(model.fit(x, y), x[:1], target_opset={"": 18, "ai.onnx.ml": 3}) for name, model in models.items()
    }
    texts = np.array([["this is a text"], ["another text, longer than this"], ["and one more!"]])
    words = pipeline.make_pipeline(feature_extraction.text.TfidfVectorizer(), linear_model.LogisticRegression())
    words = words.fit(texts.ravel(), [0, 1, 0])
    from skl2onnx.common.data_types import StringTensorType

    converted["words"] = to_onnx(words, initial_types=[("X", StringTensorType([None, 1]))])
    sessions = {name: onnxruntime.InferenceSession(m.SerializeToString()) for name, m in converted.items()}
    feeds = {name: texts if name == "words" else x for name in sessions}
    return lambda: {name: session.run(None, {"X": feeds[name]}) for name, session in sessions.items()}


@program
def spox() -> Run:
    """Builds a graph; spox computes what is constant in it by onnxruntime, and so do we all of it."""
    import onnxruntime
    import spox.opset.ai.onnx.ml.v5 as ml
    import spox.opset.ai.onnx.v21 as op
    from spox import Tensor, _future, argument, build
    from spox._value_prop import ValuePropBackend

    def run():
        with _future.value_prop_backend(ValuePropBackend.ONNXRUNTIME):
            grid = op.reshape(op.range(op.const(0.0), op.const(12.0), op.const(1.0)), op.const([3, 4]))
            x = argument(Tensor(np.float32, ("n", 4)))
            (fibonacci,) = op.loop(op.const(9), v_initial=[op.const([0, 1])],
                                   body=lambda i, go, v: [go, op.concat([op.slice(v, op.const([1]), op.const([2])),
                                                          op.reduce_sum(v, keepdims=True)], axis=0)])  # fmt: skip
            (branch,) = op.if_(op.greater(op.reduce_sum(x, keepdims=False), op.const(0.0, np.float32)),
                               then_branch=lambda: [op.matmul(x, op.transpose(op.cast(grid, to=np.float32)))],
                               else_branch=lambda: [op.sub(x, x)])  # fmt: skip
            labels = ml.label_encoder(op.const(np.array(["a", "c", "b"])), keys_strings=["a", "b"],
                                      values_int64s=[1, 2], default_int64=-1)  # fmt: skip
        names = {"grid": grid, "fibonacci": fibonacci, "branch": branch, "labels": labels}
        model = build({"x": x}, names)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        constant = [v._value.value if v._value is not None else None for v in (grid, fibonacci, labels)]
        return constant, [session.run(None, {"x": sign * np.eye(3, 4, dtype=np.float32)}) for sign in (1, -1)]

    return run


@program
def ndonnx() -> Run:
    """Arrays that build a graph as they are used: at once, by onnxruntime, and from inputs given later."""
    import ndonnx as ndx
    import onnxruntime

    def compute(a, b):
        mask = a > ndx.mean(a)
        return {
            "matmul": ndx.matmul(a, b),
            "sorted": ndx.sort(a, axis=0),
            "where": ndx.where(mask, a, -a),
            "unique": ndx.unique_all(ndx.astype(a, ndx.int64)).values,
            "std": ndx.std(a, axis=1),
            "picked": a[mask],
            "cumulative": ndx.cumulative_sum(b, axis=1),
            "roots": ndx.sqrt(ndx.abs(a)) ** 1.5 + ndx.tanh(a),
        }

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)) * 3, rng.normal(size=(3, 4))

    def run():
        eager = {name: value.unwrap_numpy() for name, value in compute(ndx.asarray(x), ndx.asarray(y)).items()}
        a, b = ndx.argument(shape=(None, 3), dtype=ndx.float64), ndx.argument(shape=(3, 4), dtype=ndx.float64)
        model = ndx.build({"a": a, "b": b}, compute(a, b))
        session = onnxruntime.InferenceSession(model.SerializeToString())
        names = [value.name for value in session.get_outputs()]
        feed = dict(zip([value.name for value in session.get_inputs()], (x, y), strict=True))
        return eager, dict(zip(names, session.run(None, feed), strict=True))

    return run


def main(name: str, out: str) -> None:
    """Run one program and write what it said."""
    warnings.simplefilter("ignore")
    run = PROGRAMS[name]()
    said = run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    import onnxruntime

    runtime = onnxruntime.InferenceSession.__module__.partition(".")[0]
    Path(out).write_bytes(pickle.dumps((runtime, said, min(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
