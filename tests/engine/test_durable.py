from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from twinvault_core.errors import DataAtRiskError
from twinvault_engine import durable, steps


class Killed(BaseException):
    """Stands for a SIGKILL at a step."""


@pytest.fixture
def kill_at() -> Iterator[type[Killed]]:
    yield Killed
    steps.install(None)


@pytest.mark.parametrize("index", range(4))
def test_reader_sees_the_old_or_the_new_value_wherever_the_writer_dies(
    tmp_path: Path, index: int, kill_at: type[Killed]
) -> None:
    path = tmp_path / "file.json"
    durable.write_json(path, {"value": "old"})
    count = 0

    def hook(name: str) -> None:
        nonlocal count
        if count == index:
            raise kill_at
        count += 1

    steps.install(hook)
    with suppress(Killed):
        durable.write_json(path, {"value": "new"})
    steps.install(None)
    assert durable.read_json(path) in ({"value": "old"}, {"value": "new"})
    durable.write_json(path, {"value": "last"})
    assert durable.read_json(path) == {"value": "last"}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"text"', "\x00" * 10])
def test_damaged_file_is_told_and_left(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(DataAtRiskError, match=r"file\.json"):
        durable.read_json(path)
    assert path.read_text() == text


def test_missing_file_is_none(tmp_path: Path) -> None:
    assert durable.read_json(tmp_path / "none.json") is None


def test_temporary_file_that_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "file.json.tmp").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        durable.write_json(tmp_path / "file.json", {})
    assert victim.read_text() == "precious"


def test_removing_and_renaming_may_be_repeated(tmp_path: Path) -> None:
    durable.make_directory(tmp_path / "d")
    durable.make_directory(tmp_path / "d")
    durable.write_json(tmp_path / "d/a", {})
    durable.rename(tmp_path / "d/a", tmp_path / "b")
    durable.remove_file(tmp_path / "b")
    durable.remove_file(tmp_path / "b")
    assert list(tmp_path.glob("*")) == [tmp_path / "d"]
