"""What the system says of its processors."""

from __future__ import annotations

import pytest

from ortlite import processors


@pytest.mark.parametrize("maker", ["GenuineIntel", "AuthenticAMD"])
def test_who_made_the_processor(maker, tmp_path, monkeypatch):
    (info := tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {maker}\nmodel name\t: one\n")
    monkeypatch.setattr(processors, "INFO", info)
    assert ("GenuineIntel" in processors.maker()) == (maker == "GenuineIntel")
    monkeypatch.setattr(processors, "INFO", tmp_path / "none")
    monkeypatch.setattr(processors.platform, "processor", lambda: f"Intel64 Family 6 Model 85 Stepping 7, {maker}")
    assert ("GenuineIntel" in processors.maker()) == (maker == "GenuineIntel")


def test_lines_of_what_linux_says(tmp_path, monkeypatch):
    (info := tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp neon\nprocessor\t: 1\nFeatures\t: fp\n")
    monkeypatch.setattr(processors, "INFO", info)
    assert processors.said("flags", "Features") == "Features\t: fp neon"
    assert processors.said("vendor_id") == ""
