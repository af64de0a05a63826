"""What docs/security.md promises of a stranger's model: files, time and memory. Limits themselves: test_limits.py."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, parser

import ortlite
from ortlite import LimitExceeded, Limits, cache, load
from ortlite.cli import main
from ortlite.errors import Fail, OrtError
from ortlite.load import files

F = np.float32
HEAD = '<ir_version: 9, opset_import: ["": 21]> '
TRUSTED, STRANGERS = Limits(), Limits(own_files=True)
posix = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")


def model(locations):
    """A model that adds up a weight of [1, 2] from each of the files."""
    found = parser.parse_model(HEAD + "g (float[2] x) => (float[2] y) { y = Sum(x) }")
    for index, location in enumerate(locations):
        tensor = TensorProto(name=f"w{index}", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        found.graph.initializer.append(tensor)
        found.graph.node[0].input.append(tensor.name)
    return found.SerializeToString()


@pytest.fixture
def folder(tmp_path):
    """A folder of a model with a weight, another folder in it, and a secret beside it."""
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    for path in (inside / "w.bin", inside / "sub" / "w.bin", tmp_path / "secret.bin"):
        path.write_bytes(F([1, 2]).tobytes())
    return inside


def loaded(folder, *locations, limits=STRANGERS):
    (folder / "m.onnx").write_bytes(model(locations))
    return load.load(folder / "m.onnx", limits=limits).graph.constants


_watched: list[list[tuple[str, bool]]] = []


def _hook(event, args):
    if _watched and event == "open" and not isinstance(args[0], int):
        writes = bool(set(args[1] or "") & set("wax+")) or bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        _watched[-1].append((os.fsdecode(args[0]), writes))


sys.addaudithook(_hook)


@contextmanager
def watched():
    """The paths that Python opens within, and whether to write there."""
    found: list[tuple[str, bool]] = []
    _watched.append(found)
    try:
        yield found
    finally:
        _watched.remove(found)


# Files


@posix
@pytest.mark.parametrize("limits", [TRUSTED, STRANGERS])
def test_data_below_the_folder_of_the_model(folder, limits):
    found = loaded(folder, "w.bin", "sub/w.bin", "./w.bin", limits=limits)
    assert [value.tolist() for value in found.values()] == [[1, 2]] * 3


@posix
@pytest.mark.parametrize("limits", [TRUSTED, STRANGERS])
@pytest.mark.parametrize(
    "location", ["../secret.bin", "sub/../../secret.bin", "/etc/passwd", "link", "elsewhere/secret.bin"]
)
def test_no_data_from_elsewhere(folder, location, limits):
    (folder / "link").symlink_to("../secret.bin")
    (folder / "elsewhere").symlink_to("..")
    with pytest.raises(Fail, match="External data path validation failed"):
        loaded(folder, location, limits=limits)


@posix
@pytest.mark.parametrize("location", ["link", "other/w.bin", "sub/../w.bin"])
def test_links_that_stay_inside_are_for_those_who_are_trusted(folder, location):
    (folder / "link").symlink_to("w.bin")
    (folder / "other").symlink_to("sub")
    assert loaded(folder, location, limits=TRUSTED)["w0"].tolist() == [1, 2]
    why = "a link, which own_files does not allow" if location == "link" else ""
    with pytest.raises(Fail, match=f"External data path validation failed.*{why}"):
        loaded(folder, location)


@posix
def test_links_to_where_the_model_is_a_link_to(folder):
    """The cache of Hugging Face: a model and its data, each a link to a file with a digest for a name."""
    snapshot, blobs = folder / "snapshots" / "main", folder / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, content in {"model.onnx": model(["w.bin"]), "w.bin": F([1, 2]).tobytes()}.items():
        (blobs / f"digest of {name}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/digest of {name}")
    assert load.load(snapshot / "model.onnx", limits=TRUSTED).graph.constants["w0"].tolist() == [1, 2]
    with pytest.raises(Fail, match="External data path validation failed"):
        load.load(snapshot / "model.onnx", limits=STRANGERS)
    (snapshot / "w.bin").unlink()
    (snapshot / "w.bin").symlink_to(folder.parent / "secret.bin")
    with pytest.raises(Fail, match="leads out of the model's folder"):
        load.load(snapshot / "model.onnx", limits=TRUSTED)
    (snapshot / "model.onnx").unlink()
    (snapshot / "model.onnx").write_bytes(model(["w.bin"]))
    (snapshot / "w.bin").unlink()
    (snapshot / "w.bin").symlink_to("../../blobs/digest of w.bin")
    with pytest.raises(Fail, match="leads out of the model's folder"):
        load.load(snapshot / "model.onnx", limits=TRUSTED)


@posix
def test_no_file_of_several_names(folder):
    os.link(folder.parent / "secret.bin", folder / "hard")
    assert loaded(folder, "hard", limits=TRUSTED)["w0"].tolist() == [1, 2]
    with pytest.raises(Fail, match="2 names"):
        loaded(folder, "hard")


@posix
@pytest.mark.parametrize("limits", [TRUSTED, STRANGERS])
def test_a_link_that_comes_between_the_check_and_the_opening(folder, limits, monkeypatch):
    for name in ("link", "elsewhere"):
        (folder / name).symlink_to("../secret.bin" if name == "link" else "..")
    monkeypatch.setattr(Path, "resolve", lambda self, strict=False: self.absolute())
    for location in ("link", "elsewhere/secret.bin"):
        with pytest.raises(Fail, match="External data path validation failed"):
            loaded(folder, location, limits=limits)


@posix
@pytest.mark.parametrize("limits", [TRUSTED, STRANGERS])
def test_a_pipe_is_no_file_and_nobody_waits_for_one(folder, limits):
    os.mkfifo(folder / "pipe")
    with pytest.raises(Fail, match="not a file"):
        loaded(folder, "pipe", limits=limits)
    with pytest.raises(Fail, match="not a file"):
        load.load(folder / "pipe", limits=limits)
    with pytest.raises(Fail, match="not a file"):
        ortlite.InferenceSession(folder / "pipe")
    with pytest.raises(RuntimeError, match="not a file"):
        ortlite.AdapterFormat.read_adapter(folder / "pipe")


@posix
@pytest.mark.parametrize("limits", [TRUSTED, STRANGERS])
def test_a_device_is_no_file(limits):
    with pytest.raises(Fail, match="not a file"):
        load.load("/dev/zero", limits=limits)


def test_each_file_is_opened_once(folder):
    (folder / "m.onnx").write_bytes(model(["w.bin"] * 5 + ["sub/w.bin"]))
    options = ortlite.SessionOptions()
    for options.limits in (TRUSTED, STRANGERS):
        with watched() as opened:
            ortlite.InferenceSession(folder / "m.onnx", options).run(None, {"x": F([0, 0])})
        names = Counter(Path(path).name for path, _ in opened)
        assert (names["m.onnx"], names["w.bin"]) == (1, 2)


def test_what_a_session_has_read_nobody_can_cut_or_change(folder):
    (folder / "m.onnx").write_bytes(model(["w.bin"]))
    options = ortlite.SessionOptions()
    options.limits = STRANGERS
    session = ortlite.InferenceSession(folder / "m.onnx", options)
    (folder / "m.onnx").write_bytes(b"")
    with (folder / "w.bin").open("r+b") as file:
        file.truncate(0)
    for _ in range(3):
        assert session.run(None, {"x": F([0, 0])})[0].tolist() == [1, 2]
    assert load.load(model([]), limits=STRANGERS).graph.nodes


@posix
def test_a_file_that_gets_shorter_while_it_is_read(folder, monkeypatch):
    status = os.fstat
    monkeypatch.setattr(
        files.os,
        "fstat",
        lambda file: SimpleNamespace(st_size=status(file).st_size + 9, st_mode=status(file).st_mode, st_nlink=1),
    )
    with pytest.raises(Fail, match="only"):
        loaded(folder, "w.bin")


def test_nothing_is_written_beside_the_model(folder):
    (folder / "m.onnx").write_bytes(model(["w.bin"]))
    before = sorted(folder.rglob("*"))
    with watched() as opened:
        ortlite.InferenceSession(folder / "m.onnx").run(None, {"x": F([0, 0])})
    assert sorted(folder.rglob("*")) == before
    own = (str(cache.folder("")), "__pycache__")  # compiled kernels, and Python's own
    assert [path for path, writes in opened if writes and not any(part in path for part in own)] == []


# Memory and time


def test_a_stranger_gets_about_two_gibibytes_and_half_a_minute():
    found = Limits.untrusted()
    assert all(getattr(found, name) is not None for name in Limits.__dataclass_fields__)
    assert found.own_files
    assert found.total_bytes == 2**31
    assert found.seconds == 30


def test_a_picture_that_is_larger_than_it_looks(monkeypatch):
    pytest.importorskip("PIL")
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("the picture was decoded"))
    head = struct.pack(">IIBBBBB", 8000, 8000, 8, 2, 0, 0, 0)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    rows = zlib.compress(bytes(8000 * 24001))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    node = helper.make_node("ImageDecoder", ["x"], ["y"], "n")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 2, [None])], [helper.make_tensor_value_info("y", 2, None)]
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    options = ortlite.SessionOptions()
    options.limits = Limits(elements=10**7)
    with pytest.raises(LimitExceeded, match="ImageDecoder"):
        ortlite.InferenceSession(source, options).run(None, {"x": np.frombuffer(data, np.uint8)})


def test_a_pattern_takes_linear_time():
    pytest.importorskip("re2")
    text = 'g (string[N] x) => (bool[N] y) { y = RegexFullMatch <pattern = "PATTERN"> (x) }'
    made = lambda pattern: parser.parse_model(HEAD + text.replace("PATTERN", pattern)).SerializeToString()  # noqa: E731
    with pytest.raises(OrtError, match="pattern"):  # what needs to go back over the text is no pattern at all
        ortlite.InferenceSession(made(r"(a)\\1")).run(None, {"x": np.array(["aa"])})
    session = ortlite.InferenceSession(made("(a+)+b"))
    assert session.run(None, {"x": np.array(["a" * 10_000])})[0].tolist() == [False]


def test_every_error_of_a_damaged_model_is_one_of_ours():
    data = model([])
    options = ortlite.SessionOptions()
    options.limits = Limits.untrusted()
    for end in range(len(data) - 1):
        with suppress(OrtError):
            ortlite.InferenceSession(data[: end + 1], options)


# The command line

EXPAND = "g (float[1] x, int64[2] s) => (float[?,?] y) { y = Expand(x, s) }"


@pytest.fixture
def path(tmp_path):
    text = "g (float[1] x) => (float[?,?] y) <int64[2] s = {4096, 4096}> { y = Expand(x, s) }"
    found = tmp_path / "m.onnx"
    found.write_bytes(parser.parse_model(HEAD + text).SerializeToString())
    return found


def test_limits_of_the_command_line(path):
    runner = CliRunner()
    done = runner.invoke(main, ["run", str(path), "--runs", "1", "--limit", "elements=1e6"])
    assert done.exit_code == 1
    assert "Limit elements exceeded: node '' (Expand)" in done.output
    assert runner.invoke(main, ["run", str(path), "--runs", "1", "--limits", "untrusted"]).exit_code == 0
    wrong = runner.invoke(main, ["run", str(path), "--limit", "size=3"])
    assert wrong.exit_code == 2
    assert "there is no limit 'size'" in wrong.output


@pytest.mark.parametrize(
    "command",
    ["run", "info", "check", "profile", "compare --providers CPU Strict", "bench --duration 10ms --rounds 1",
     "optimize -o {out}"],
)  # fmt: skip
def test_every_command_that_loads_a_model_takes_limits(path, command):
    if "Strict" in command:
        pytest.importorskip("array_api_strict")
    name, *rest = command.format(out=path.parent / "out.onnx").split()
    for given in (["--limit", "model_bytes=10"], ["--limits", "untrusted", "--limit", "nodes=0"]):
        done = CliRunner().invoke(main, [name, str(path), *rest, *given])
        assert done.exit_code == 1
        assert "Limit" in done.output
        assert "exceeded" in done.output
