"""What benches run inside a node, as far as a machine without DRBD shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import bare_inside
from bench.bare_config import RESOURCE
from bench.resync_figures import parse_latencies
from twinvault_engine import drbd_kernel
from twinvault_engine.layout import DataDirectory

WRITER = Path(bare_inside.__file__).parent / "latency_writer.py"
ROOT = WRITER.parents[1]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDirectory:
    data = DataDirectory(tmp_path)
    monkeypatch.setattr(bare_inside, "DATA", data)
    monkeypatch.setattr(bare_inside, "CONFIG", tmp_path / "bare.res")
    monkeypatch.setattr(bare_inside, "_REGISTERED", (tmp_path / "registered",))
    monkeypatch.setattr(drbd_kernel, "observe_version", lambda: "")
    return data


def test_what_an_interrupted_run_left_is_removed_and_nothing_else(data: DataDirectory) -> None:
    pool = data.pools / "fast"
    volume = pool / "volumes" / "pvc-1"
    volume.mkdir(parents=True)
    left = pool / RESOURCE
    left.mkdir()
    for path in (volume / "data.img", left / "data.img", bare_inside.CONFIG):
        path.write_bytes(b"x")
    for _ in range(2):
        bare_inside.main(["down"])
        assert not left.exists()
        assert not bare_inside.CONFIG.exists()
        assert (volume / "data.img").exists()


def test_a_volume_without_a_replica_here_is_told(data: DataDirectory) -> None:
    volume = data.pools / "fast" / "volumes" / "pvc-1"
    volume.mkdir(parents=True)
    with pytest.raises(SystemExit, match="no replica of volume pvc-1"):
        bare_inside.find_replica("pvc-1")
    (volume / "meta.img").touch()
    assert bare_inside.find_replica("pvc-1") == volume


def test_wrong_words_are_answered_with_the_right_ones() -> None:
    with pytest.raises(SystemExit, match="down"):
        bare_inside.main(["sideways"])


def test_modules_for_the_node_need_the_standard_library_only() -> None:
    """The node's own Python runs them."""
    path = ":".join(str(ROOT / part) for part in (".", "core", "engine"))
    for module in ("bench.bare_inside", "bench.local_io"):
        done = subprocess.run(
            [sys.executable, "-S", "-c", f"import {module}"],
            env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_the_latency_writer_keeps_to_its_part_and_tells_each_write(tmp_path: Path) -> None:
    target = tmp_path / "device"
    target.write_bytes(bytes(1 << 20))
    argv = [str(target), str(512 * 1024), str(64 * 1024), "0.3", str(tmp_path / "stop")]
    done = subprocess.run(
        [sys.executable, "-", *argv],
        input=WRITER.read_text(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "Invalid argument" in done.stderr:
        pytest.skip("no direct I/O here")
    assert done.returncode == 0, done.stderr
    assert parse_latencies(done.stdout)
    content = target.read_bytes()
    written = content[512 * 1024 : 576 * 1024]
    assert written.strip(b"\0")
    assert not (content[: 512 * 1024] + content[576 * 1024 :]).strip(b"\0")


def test_the_latency_writer_ends_when_it_is_told_to(tmp_path: Path) -> None:
    target, stop = tmp_path / "device", tmp_path / "stop"
    target.write_bytes(bytes(1 << 16))
    stop.touch()
    argv = [str(target), "0", str(1 << 16), "600", str(stop)]
    done = subprocess.run(
        [sys.executable, str(WRITER), *argv],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "Invalid argument" in done.stderr:
        pytest.skip("no direct I/O here")
    assert parse_latencies(done.stdout) == []
