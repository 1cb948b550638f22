"""What an image is made from, and what travels to a node that has most of it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from e2e.lab.buildah import parse_copied_paths
from e2e.lab.images import context_digests
from e2e.lab.oci import Image, Store, write_program_layer
from e2e.lab.rootfs import RootError, RootSpec, choose_mirror


def put_program(store: Store, tmp_path: Path, name: str, content: bytes) -> Image:
    program = tmp_path / "program"
    program.write_bytes(content)
    layer = tmp_path / "layer.tar"
    write_program_layer(layer, program, "program")
    return store.put_image(name, [layer], {"Entrypoint": ["/program"]})


def test_copied_paths_leave_out_flags_targets_and_other_stages() -> None:
    dockerfile = """
FROM base AS build
COPY requirements.txt /build/
COPY --chmod=0755 images/a \\
     images/b /usr/local/bin/
COPY --from=build /opt/venv /opt/venv
RUN echo COPY x y
ADD core /source/core
"""
    assert parse_copied_paths(dockerfile) == ["requirements.txt", "images/a", "images/b", "core"]


def test_an_image_is_rebuilt_only_for_files_that_it_copies(tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM x\nCOPY core /core\nCOPY one.txt /\n")
    (tmp_path / "core" / "__pycache__").mkdir(parents=True)
    (tmp_path / "core" / "a.py").write_text("a = 1\n")
    (tmp_path / "one.txt").write_text("1")
    before = context_digests(tmp_path, dockerfile)
    (tmp_path / "two.txt").write_text("2")
    (tmp_path / "core" / "__pycache__" / "a.pyc").write_text("byte code")
    assert context_digests(tmp_path, dockerfile) == before
    (tmp_path / "core" / "a.py").write_text("a = 2\n")
    assert context_digests(tmp_path, dockerfile) != before


def test_the_same_program_makes_the_same_image_everywhere(tmp_path: Path) -> None:
    first = put_program(Store(tmp_path / "a"), tmp_path, "lab/x:1", b"program")
    second = put_program(Store(tmp_path / "b"), tmp_path, "lab/x:1", b"program")
    assert first == second


def test_a_name_moves_to_the_newest_image_and_old_blobs_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    old = put_program(store, tmp_path, "lab/x:1", b"old")
    other = put_program(store, tmp_path, "lab/y:1", b"other")
    new = put_program(store, tmp_path, "lab/x:1", b"new")
    assert store.find("lab/x:1") == new
    old_blobs = store.blobs_of(old)
    store.remove_unused(keep=[new, other])
    assert not any(store.blob(digest).exists() for digest in old_blobs)
    assert all(store.blob(d).exists() for image in (new, other) for d in store.blobs_of(image))


def test_an_archive_names_its_images_and_leaves_out_known_blobs(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    image = put_program(store, tmp_path, "registry.hospital.example/x:1", b"program")
    manifest, config, layer = store.blobs_of(image)
    path = tmp_path / "archive.tar"
    store.write_archive(path, [image], frozenset({layer}))
    with tarfile.open(path) as archive:
        names = set(archive.getnames())
        index_file = archive.extractfile("index.json")
        assert index_file is not None
        index = json.load(index_file)
    wanted = {f"blobs/{digest.replace(':', '/')}" for digest in (manifest, config)}
    assert names == {"oci-layout", "index.json"} | wanted
    annotations = index["manifests"][0]["annotations"]
    assert annotations["io.containerd.image.name"] == "registry.hospital.example/x:1"


def test_roots_differ_when_their_packages_do() -> None:
    assert RootSpec("nodes", "s", ("a",)).key != RootSpec("nodes", "s", ("a", "b")).key


def test_the_mirror_is_the_one_that_apt_uses_for_debian_itself() -> None:
    lines = [
        "http://mirror.example/security/|Debian-Security|Packages",
        "http://mirror.example/debian/|Debian|DEP-11",
        "http://mirror.example/debian/|Debian|Packages",
    ]
    assert choose_mirror(lines) == "http://mirror.example/debian/"


def test_a_machine_without_a_debian_archive_is_told_what_to_do() -> None:
    with pytest.raises(RootError, match="apt-get update"):
        choose_mirror([])
