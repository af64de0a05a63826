"""Files are there whole, or as they were."""

import os
import threading

import pytest

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
