"""Strings and pictures: unicode, embedded NULs, bad patterns and bad files."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from opcheck import check, run_op


def text(*words):
    result = np.empty(len(words), object)
    result[:] = words
    return result


def test_concat():
    a, b = text("ab", "", "日本"), text("\x00c")
    check("StringConcat", a, b, opset=20, expected=text("ab\x00c", "\x00c", "日本\x00c"))
    check("StringConcat", a[:0], b, opset=20, expected=a[:0])
    scalar = np.array("x", object)
    check("StringConcat", scalar, scalar, opset=20, expected=np.array("xx", object))


def test_split():
    x = text("a,b,,c", "", "ü,")
    expected = np.array([["a", "b", "", "c"], ["", "", "", ""], ["ü", "", "", ""]], object)
    check("StringSplit", x, delimiter=",", outputs=2, opset=20, expected=[expected, np.array([4, 1, 2])])
    limited = np.array([["a", "b,,c"], ["", ""], ["ü", ""]], object)
    check("StringSplit", x, delimiter=",", maxsplit=1, outputs=2, opset=20, expected=[limited, np.array([2, 1, 2])])
    words = np.array([["a", "b"], ["", ""]], object)
    check("StringSplit", text("  a \t b ", " "), outputs=2, opset=20, expected=[words, np.array([2, 0])])
    nothing = [np.zeros((0, 0), object), np.zeros(0, np.int64)]
    check("StringSplit", text(), outputs=2, opset=20, expected=nothing)


def test_normalizer():
    x = text("Monday", "TUESDAY", "İstanbul", "straße")
    given = {"stopwords": ["monday"], "opset": 10}
    check("StringNormalizer", x, case_change_action="LOWER", expected=text("tuesday", "i̇stanbul", "straße"), **given)
    check("StringNormalizer", x, case_change_action="UPPER", is_case_sensitive=1,
          expected=text("MONDAY", "TUESDAY", "İSTANBUL", "STRASSE"), **given)  # fmt: skip
    check("StringNormalizer", x[:1][None], expected=np.array([[""]], object), **given)
    with pytest.raises(Exception, match=r"the_node.*\(2, 1\)"):
        run_op("StringNormalizer", x[:2, None], opset=10)


def test_regular_expressions():
    x = text("www.google.com", "a@b", "", "x\x00y")
    check(
        "RegexFullMatch", x, pattern=r"www\.[\w.-]+\.\bcom\b", opset=20, expected=np.array([True, False, False, False])
    )
    check("RegexFullMatch", x, pattern=r"(?s).*", opset=20, expected=np.array([True] * 4))
    with pytest.raises(Exception, match=r"the_node.*pattern of RE2"):
        run_op("RegexFullMatch", x, pattern="(", opset=20)


def test_regular_expressions_take_linear_time():
    start = time.process_time()
    run_op("RegexFullMatch", text("a" * 5000 + "!"), pattern="(a*)*b", opset=20)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 5])
@pytest.mark.parametrize("lengths", [(1, 1), (2, 2), (1, 2), (1, 3)])
def test_n_grams(mode, skips, lengths):
    given = {
        "mode": mode, "max_skip_count": skips, "min_gram_length": lengths[0], "max_gram_length": lengths[1],
        "ngram_counts": [0, 4, 10], "ngram_indexes": [0, 1, 2, 3, 4, 5, 6, 7],
        "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7, 5, 6, 7], "weights": [0.5, 1, 2, 3, 4, 5, 6, 7],
    }  # fmt: skip
    rows = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8], [5, 6, 7, 8, 6, 7]], np.int32)
    check("TfIdfVectorizer", rows, opset=9, **given)
    check("TfIdfVectorizer", rows[1], opset=9, **given)


def test_n_grams_of_words():
    given = {"mode": "TF", "max_skip_count": 0, "min_gram_length": 1, "max_gram_length": 2}
    pool = {"ngram_counts": [0, 2], "ngram_indexes": [1, 0, 2], "pool_strings": ["a", "ü", "a", "ü"]}
    check("TfIdfVectorizer", text("a", "ü", "a", "ü", "zz"), opset=9, **given, **pool)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp", "jpeg", "jpeg2000", "ppm"])
def test_pictures(kind):
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, :6] = (200, 40, 10)
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, kind, **({"lossless": True} if kind == "webp" else {}))
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    (rgb,) = run_op("ImageDecoder", data, opset=20)
    (bgr,) = run_op("ImageDecoder", data, pixel_format="BGR", opset=20)
    (grey,) = run_op("ImageDecoder", data, pixel_format="Grayscale", opset=20)
    np.testing.assert_array_equal(bgr, rgb[..., ::-1])
    assert grey.shape == (8, 12, 1)
    if kind not in {"jpeg", "jpeg2000"}:
        np.testing.assert_array_equal(rgb, pixels)
    assert rgb.dtype == np.uint8


def test_what_is_no_picture_gives_an_empty_one():
    (y,) = run_op("ImageDecoder", np.arange(50, dtype=np.uint8), opset=20)
    assert y.size == 0
    assert y.ndim == 3


GRAMS = {"mode": "TF", "max_skip_count": 0, "min_gram_length": 1, "max_gram_length": 2, "ngram_counts": [0, 2],
         "ngram_indexes": [1, 0, 3], "pool_int64s": [1, 2, 1, 2], "opset": 9}  # fmt: skip


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (1, 0), (0, 3), (0, 0)])
def test_n_grams_of_nothing(mode, shape):
    x = np.zeros(shape, np.int64)
    given = GRAMS | {"mode": mode, "weights": [1.0, 2.0, 3.0], "max_skip_count": 2}
    check("TfIdfVectorizer", x, expected=np.zeros((*shape[:-1], 4), np.float32), **given)
    check("TfIdfVectorizer", x.astype(np.int32), expected=np.zeros((*shape[:-1], 4), np.float32), **given)
    words = given | {"pool_int64s": None, "pool_strings": ["a", "b", "a", "b"]}
    check("TfIdfVectorizer", x.astype(object), expected=np.zeros((*shape[:-1], 4), np.float32), **words)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("x", [np.array([1, 2]), np.array([[1, 2], [3, 4]]), np.zeros((2, 0), np.int64)])
def test_a_pool_of_nothing(mode, x):
    given = GRAMS | {"mode": mode, "pool_int64s": None, "ngram_counts": [0, 0], "ngram_indexes": [0, 1]}
    check("TfIdfVectorizer", x, expected=np.zeros((*x.shape[:-1], 2), np.float32), **given)


@pytest.mark.parametrize("skips", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_n_grams_with_tokens_left_out(skips, mode):
    given = GRAMS | {"mode": mode, "max_skip_count": skips, "weights": [1.0, 2.0, 3.0]}
    check("TfIdfVectorizer", np.array([[1, 2, 1, 2], [1, 3, 3, 2], [2, 2, 1, 1]]), **given)
    check("TfIdfVectorizer", np.array([1, 2]), **given)
    check("TfIdfVectorizer", np.array([1]), **given)
    check("TfIdfVectorizer", np.array(1), **given)


def test_skip_counts_beyond_the_row_cost_nothing():
    x = np.array([1, 5, 5, 2])
    expected = np.array([1, 1, 0, 1], np.float32)
    for skips in (2, 1 << 40, (1 << 63) - 1):
        check("TfIdfVectorizer", x, expected=expected, **GRAMS | {"max_skip_count": skips})


def test_of_equal_n_grams_the_first_counts():
    given = GRAMS | {"pool_int64s": [1, 1, 2, 1, 2], "ngram_counts": [0, 3], "ngram_indexes": [3, 2, 1, 0]}
    check("TfIdfVectorizer", np.array([1, 2, 1]), expected=np.array([1, 1, 0, 2], np.float32), **given)


@pytest.mark.parametrize(
    ("attributes", "pattern"),
    [
        ({"mode": "TFI"}, "mode is TF, IDF or TFIDF"),
        ({"min_gram_length": 0}, "n-grams of 0 to 2 tokens"),
        ({"min_gram_length": 3}, "n-grams of 3 to 2 tokens"),
        ({"max_gram_length": 1 << 62}, f"n-grams of 1 to {1 << 62} tokens.* 2 lengths"),
        ({"max_skip_count": -1}, "up to -1 left out"),
        ({"ngram_counts": [0, 1 << 62]}, f"1-grams are elements 0 to {1 << 62} of a pool of 4"),
        ({"ngram_counts": [0, 5]}, "1-grams are elements 0 to 5 of a pool of 4"),
        ({"ngram_counts": [-1, 2]}, "1-grams are elements -1 to 2 of a pool of 4"),
        ({"ngram_counts": [2, 0]}, "1-grams are elements 2 to 0 of a pool of 4"),
        ({"ngram_counts": [0, 1]}, "2-grams are elements 1 to 4 of a pool of 4"),
        ({"ngram_indexes": [0, 1]}, "2 places for 3 n-grams"),
        ({"ngram_indexes": [0, -1, 2]}, "ngram_indexes are -1 to 2"),
        ({"ngram_indexes": [0, 1 << 62, 2]}, f"ngram_indexes are 0 to {1 << 62}"),
        ({"weights": [1.0, 2.0]}, "2 weights for 3 ngram_indexes"),
        ({"pool_strings": ["a"]}, "1 pool_strings beside 4 pool_int64s"),
        ({"pool_strings": ["a"] * 4, "pool_int64s": None}, "X is int64, the pool is text"),
    ],
)
def test_n_grams_that_do_not_fit(attributes, pattern):
    with pytest.raises(Exception, match=rf"the_node[\s\S]*{pattern}"):
        run_op("TfIdfVectorizer", np.array([1, 2, 1]), **GRAMS | attributes)
    with pytest.raises(Exception, match=r"X must be \(C\) or \(N, C\), not \(1, 1, 1\)"):
        run_op("TfIdfVectorizer", np.zeros((1, 1, 1), np.int64), **GRAMS)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_texts_of_nothing(shape):
    x = np.zeros(shape, object)
    empty = np.zeros((*shape, 0), object)
    check("StringSplit", x, delimiter=",", outputs=2, opset=20, expected=[empty, np.zeros(shape, np.int64)])
    check("StringConcat", x, x, opset=20, expected=x)
    check("RegexFullMatch", x, pattern="a", opset=20, expected=np.zeros(shape, bool))
    check(
        "Tokenizer",
        x,
        domain="com.microsoft",
        opset=1,
        mark=1,
        mincharnum=1,
        pad_value="",
        separators=[" "],
        expected=empty,
    )
    if len(shape) == 1:
        check("StringNormalizer", x, opset=10, expected=text(""))
    check("LabelEncoder", x, keys_strings=["a"], values_int64s=[1], opset=2, domain="ai.onnx.ml",
          expected=np.zeros(shape, np.int64))  # fmt: skip
