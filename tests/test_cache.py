"""What other versions left in the user's cache is removed, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from time import time

import pytest
from click.testing import CliRunner

from ortlite import cache, provider
from ortlite.cli import main

LONG_AGO, LATELY = time() - 31 * cache.DAY, time() - 29 * cache.DAY


@pytest.fixture
def of_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ortlite"


def made(folder: Path, read: float = LONG_AGO, written: float = LONG_AGO) -> Path:
    """A folder with a file in it, last read and written then."""
    folder.mkdir(parents=True)
    file = folder / "kernel.nbi"
    file.touch()
    os.utime(file, (read, written))
    os.utime(folder, (LONG_AGO, LONG_AGO))
    return folder


def test_folders_of_other_versions_go(of_user):
    kept = made(of_user / "compiled-2")
    old = [made(of_user / "compiled-0"), made(of_user / "compiled-1")]
    stay = [kept, made(of_user / "compiled-3", read=LATELY), made(of_user / "compiled-4", written=LATELY)]
    os.utime(made(of_user / "compiled-5"), (LATELY, LATELY))  # as who uses one says it
    stay += [of_user / "compiled-5", made(of_user / "models"), made(of_user / "compiled")]  # other things
    assert cache.remove_unused(kept) == old
    assert not any(map(os.path.exists, old))
    assert all((folder / "kernel.nbi").exists() for folder in stay)


def test_what_is_not_ours_stays(of_user, tmp_path):
    kept = made(of_user / "compiled-2")
    elsewhere = made(tmp_path / "theirs" / "compiled-1")
    (of_user / "compiled-1").symlink_to(elsewhere)
    (of_user / "compiled-0").write_text("a file")
    os.utime(of_user / "compiled-0", (LONG_AGO, LONG_AGO))
    deep = made(made(of_user / "compiled-3") / "folder").parent
    linked = made(of_user / "compiled-4")
    (linked / "link").symlink_to(elsewhere / "kernel.nbi")
    os.utime(linked, (LONG_AGO, LONG_AGO))
    os.utime(deep, (LONG_AGO, LONG_AGO))
    assert cache.remove_unused(kept) == []
    for folder in (of_user / "compiled-1", deep, linked, elsewhere):
        assert (folder / "kernel.nbi").exists()
    assert cache.remove_unused(made(tmp_path / "plug-in" / "compiled-9")) == []
    assert (elsewhere / "kernel.nbi").exists()


def test_warm_removes_them(of_user, monkeypatch):
    kept, old = of_user / "compiled-new", made(of_user / "compiled-old")
    cpu = provider.create("CPUExecutionProvider")
    monkeypatch.setattr(cpu, "compiles_ahead", True)
    monkeypatch.setattr(cpu, "compile_ahead", lambda: (3, kept))
    result = CliRunner().invoke(main, ["warm"])
    assert result.exit_code == 0, result.output
    assert "1 of other versions, unused for 30 days, removed" in result.output
    assert not old.exists()
