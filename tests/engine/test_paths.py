from __future__ import annotations

import stat
from pathlib import Path

import pytest

from twinvault_core.errors import FailedPreconditionError, InvalidError
from twinvault_engine import paths


@pytest.mark.parametrize(
    "text",
    ["", "/", "relative/a", "/elsewhere/a", "{root}", "{root}/", "{root}/../a", "{root}/a/../../b",
     "{root}x/a", "{root}/a\0b", "{root}/" + "a" * 5000],
)  # fmt: skip
def test_paths_that_do_not_lie_plainly_below_the_root_are_refused(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(InvalidError):
        paths.parse_below(tmp_path, text.replace("{root}", str(tmp_path)), "target path")


def test_repeated_and_trailing_slashes_are_spelled_plainly(tmp_path: Path) -> None:
    assert paths.parse_below(tmp_path, f"{tmp_path}//a/./b/", "x") == tmp_path / "a/b"


@pytest.mark.parametrize("create", ["directory", "file"])
def test_missing_parents_and_the_end_are_made(tmp_path: Path, create: str) -> None:
    for _ in range(2):
        with paths.opened(tmp_path, tmp_path / "a/b/c", create=create) as name:
            made = Path(name).stat().st_mode
        assert stat.S_ISDIR(made) == (create == "directory")


@pytest.mark.parametrize("where", ["a", "a/b", "a/b/c"])
def test_symlink_anywhere_below_the_root_is_refused(tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    link = root / where
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with (
        pytest.raises((InvalidError, NotADirectoryError, FileExistsError)),
        paths.opened(root, root / "a/b/c", create="directory"),
    ):
        pass
    assert list(outside.iterdir()) == []


def test_missing_path_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), paths.opened(tmp_path, tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_empty_mount_points_are_removed(tmp_path: Path) -> None:
    for name in ("gone", "empty"):
        if name == "empty":
            (tmp_path / name).mkdir()
        paths.remove_mount_point(tmp_path / name)
    (tmp_path / "file").touch()
    paths.remove_mount_point(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "written").write_text("x")
    (tmp_path / "link").symlink_to("full")
    for name in ("full", "written", "link"):
        with pytest.raises(FailedPreconditionError):
            paths.remove_mount_point(tmp_path / name)
    assert (tmp_path / "full/x").exists()
