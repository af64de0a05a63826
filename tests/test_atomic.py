"""Files are there whole, or as they were."""

import errno
import os
import threading

import numpy as np
import onnx
import pytest

import ortlite
from ortlite.atomic import written


def test_a_file_has_its_name_at_the_end(tmp_path):
    path = tmp_path / "x.json"
    with written(path) as part:
        part.write_text("new")
        assert not path.exists()
        assert (part.parent, part.suffix) == (tmp_path, ".json")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, stop):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(0o600)

    def interrupted(path):
        with written(path) as part:
            part.write_text("ne")
            raise stop

    for name in ("x", "y"):
        with pytest.raises(stop):
            interrupted(tmp_path / name)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"
    with written(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600  # what others may not read stays so


def test_errors_are_of_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as failed, written(tmp_path / "no" / "x") as part:
        part.write_text("")
    assert failed.value.filename == str(tmp_path / "no" / "x")
    with pytest.raises(OSError, match="full") as failed, written(tmp_path / "x") as part:
        raise OSError(errno.ENOSPC, "full")
    assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))
    with pytest.raises(FileNotFoundError) as failed, written(tmp_path / "x") as part:
        (tmp_path / "other").read_text()
    assert failed.value.filename == str(tmp_path / "other")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError), written(tmp_path / "folder") as part:
        part.write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_links_pipes_and_long_names(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    with written(tmp_path / "link") as part:
        part.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    with written(tmp_path / ("n" * 255)) as part:
        part.write_text("new")
    assert (tmp_path / ("n" * 255)).read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    with written(tmp_path / "pipe") as part:
        part.write_text("through")
    reader.join()
    assert read == ["through"]


@pytest.mark.parametrize("stop", [None, OSError, KeyboardInterrupt])
def test_a_model_and_its_data_are_written_together(tmp_path, monkeypatch, stop):
    def optimize(factor):
        weights = factor * np.arange(1024, dtype=np.float32)
        model = onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["": 21]> g (float[1024] x) => (float[1024] y) { y = Add(x, w) }'
        )
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
        options = ortlite.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "m.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "m.data")
        ortlite.InferenceSession(model.SerializeToString(), options)
        return weights

    before = optimize(1)
    if stop is None:
        before = optimize(2)
    else:  # when the data is written, and the model is not

        def save(*_):
            raise stop

        monkeypatch.setattr(onnx, "save", save)
        with pytest.raises((ortlite.errors.OrtError, KeyboardInterrupt)):
            optimize(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.data", "m.onnx"]
    session = ortlite.InferenceSession(tmp_path / "m.onnx")
    np.testing.assert_array_equal(session.run(None, {"x": np.zeros(1024, np.float32)})[0], before)
