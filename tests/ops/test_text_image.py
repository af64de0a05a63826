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
