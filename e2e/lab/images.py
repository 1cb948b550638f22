"""Which images the lab needs, how each is made, and how they get into the nodes.

A node finds its images on its system disk at first boot: that disk is a copy of a
golden one, into which containerd on the host's fast kernel has unpacked them. An
image that changes later is loaded into the running node, only its new layers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from e2e.lab import buildah
from e2e.lab.binaries import ensure_binaries
from e2e.lab.config import ROOT, Node, Settings
from e2e.lab.disk import SYSTEM_DISK_GIB, copy_sparse, make_ext4
from e2e.lab.exec_channel import Completed, run_in_node
from e2e.lab.node_files import PAUSE_IMAGE, render_containerd_config
from e2e.lab.oci import Image, Store, write_program_layer
from e2e.lab.progress import step, wait_until
from e2e.lab.rootfs import ensure_rootfs, locked, run_in_root

REGISTRY = "registry.hospital.example"
DRIVER_IMAGE = f"{REGISTRY}/twinvault/twinvault:0.1.0"
POSTGRESQL_IMAGE = f"{REGISTRY}/twinvault/postgresql:15"
# Program in the cache of binaries -> image.
PROGRAM_IMAGES = {
    "pause": PAUSE_IMAGE,
    "csi-provisioner": f"{REGISTRY}/sig-storage/csi-provisioner:v6.3.0",
    "csi-attacher": f"{REGISTRY}/sig-storage/csi-attacher:v4.12.0",
    "csi-resizer": f"{REGISTRY}/sig-storage/csi-resizer:v2.2.0",
    "csi-snapshotter": f"{REGISTRY}/sig-storage/csi-snapshotter:v8.6.0",
    "snapshot-controller": f"{REGISTRY}/sig-storage/snapshot-controller:v8.6.0",
    # Not of the chart: the driver that does nothing, which bench/storm.py compares with.
    "mockdriver": f"{REGISTRY}/lab/mockdriver:lab",
}
DOCKERFILE_IMAGES = {
    DRIVER_IMAGE: "images/Dockerfile",
    POSTGRESQL_IMAGE: "images/postgresql.Dockerfile",
}
_GOLDEN_DISKS_KEPT = 2
_IMPORT_TIMEOUT_SECONDS = 300.0
_CONTAINERD_TIMEOUT_SECONDS = 60.0


def images_dir(settings: Settings) -> Path:
    """Directory for archives on their way into nodes, which see it read-only."""
    path = settings.cache / "images" / "outgoing"
    path.mkdir(parents=True, exist_ok=True)
    return path


def image_store(settings: Settings) -> Store:
    store = Store(settings.cache / "images" / "store")
    store.ensure()
    return store


def ensure_images(settings: Settings) -> tuple[Image, ...]:
    """Build every image whose sources changed; all images of the lab."""
    built = ensure_dockerfile_images(settings)
    store = image_store(settings)
    with _building(settings):
        programs = [
            _ensure_program_image(settings, store, program, name)
            for program, name in PROGRAM_IMAGES.items()
        ]
        images = (*programs, *built)
        store.remove_unused(keep=images)
    return images


def ensure_dockerfile_images(settings: Settings) -> tuple[Image, ...]:
    """The images of the checkout's Dockerfiles: these need none of the Go programs."""
    store = image_store(settings)
    with _building(settings):
        return tuple(
            _ensure_dockerfile_image(settings, store, name, ROOT / path)
            for name, path in DOCKERFILE_IMAGES.items()
        )


def _building(settings: Settings) -> AbstractContextManager[None]:
    return locked(settings.cache / "images" / "build.lock")


def _ensure_program_image(settings: Settings, store: Store, program: str, name: str) -> Image:
    """An image that holds one static program of the lab's Go module and nothing else."""
    binary = ensure_binaries(settings) / program
    key = _digest_of([name.encode(), binary.parent.name.encode(), program.encode()])
    found = _find_built(settings, store, name, key)
    if found is not None:
        return found
    layer = settings.cache / "images" / f"{program}.layer"
    write_program_layer(layer, binary, program)
    image = store.put_image(name, [layer], {"Entrypoint": [f"/{program}"]})
    _note_built(settings, image, key)
    return image


def _ensure_dockerfile_image(
    settings: Settings, store: Store, name: str, dockerfile: Path
) -> Image:
    """The image of a Dockerfile in the checkout; nothing is run if no file changed."""
    key = _digest_of([name.encode(), *context_digests(ROOT, dockerfile)])
    found = _find_built(settings, store, name, key)
    if found is not None:
        return found
    with step(f"image {name}"):
        image = buildah.build(settings, store, name, dockerfile, ROOT, {})
    _note_built(settings, image, key)
    return image


def context_digests(context: Path, dockerfile: Path) -> list[bytes]:
    """One line for each file that the image is made from: path, mode and content."""
    sources = buildah.parse_copied_paths(dockerfile.read_text())
    paths = [dockerfile]
    for source in sources:
        path = context / source
        paths += [path] if path.is_file() else sorted(path.rglob("*"))
    return [
        f"{path.relative_to(context)} {path.stat().st_mode & 0o777:o} "
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}".encode()
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path)
    ]


@dataclass(frozen=True)
class Golden:
    """A system disk that nodes are copied from, and the images that it holds."""

    disk: Path
    images: tuple[Image, ...]


def ensure_golden_disk(settings: Settings) -> Path:
    """A system disk with all current images unpacked; every node starts from a copy.

    Images that seldom change are unpacked once into a disk of their own, so that a
    change of our own image costs a copy and one import.
    """
    images = ensure_images(settings)
    stable = tuple(image for image in images if image.name != DRIVER_IMAGE)
    return _ensure_golden(settings, images, _ensure_golden(settings, stable, None)).disk


def _ensure_golden(settings: Settings, images: tuple[Image, ...], base: Golden | None) -> Golden:
    root = ensure_rootfs(settings)
    key = _digest_of([root.name.encode(), *(f"{i.name}@{i.digest}".encode() for i in images)])
    directory = settings.cache / "golden"
    golden = Golden(directory / key, images)
    with locked(directory / "lock"):
        if golden.disk.exists():
            os.utime(golden.disk)
            return golden
        with step(f"system disk with {len(images)} images"):
            _make_golden(settings, golden, base)
        keep = {golden.disk} | ({base.disk} if base else set())
        _remove_old_golden_disks(directory, keep)
    return golden


def _make_golden(settings: Settings, golden: Golden, base: Golden | None) -> None:
    """Unpack what ``base`` lacks, with the containerd that the nodes have."""
    unfinished = golden.disk.with_suffix(".unfinished")
    present = base.images if base else ()
    if base is None:
        make_ext4(unfinished, SYSTEM_DISK_GIB << 30)
    else:
        copy_sparse(base.disk, unfinished)
    store = image_store(settings)
    known = frozenset(digest for image in present for digest in store.blobs_of(image))
    work = golden.disk.parent / "work"
    work.mkdir(exist_ok=True)
    (work / "containerd.toml").write_text(render_containerd_config())
    (work / "golden.sh").write_bytes((Path(__file__).parent / "golden.sh").read_bytes())
    archive = work / "images.tar"
    store.write_archive(archive, [i for i in golden.images if i not in present], known)
    run_in_root(
        ensure_rootfs(settings),
        ["sh", "/mnt/files/golden.sh", "/mnt/target", "/mnt/files/images.tar"],
        {work: "/mnt/files", unfinished: "/mnt/target"},
        timeout_seconds=_IMPORT_TIMEOUT_SECONDS,
        network=False,
        log=golden.disk.parent / "import.log",
    )
    archive.unlink()
    unfinished.rename(golden.disk)


def _remove_old_golden_disks(directory: Path, keep: set[Path]) -> None:
    for interrupted in directory.glob("*.unfinished"):
        interrupted.unlink()
    disks = [p for p in directory.iterdir() if p.is_file() and not p.suffix and p.name != "lock"]
    disks.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in [path for path in disks if path not in keep][_GOLDEN_DISKS_KEPT:]:
        old.unlink()


def ensure_loaded(settings: Settings, node: Node, images: Iterable[Image]) -> list[Image]:
    """Load into the running node those images that it lacks or has in an older form."""
    listed = _list_images(node)
    present = {tuple(line.split()[i] for i in (0, 2)) for line in listed.text.splitlines()[1:]}
    wanted = [image for image in images if (image.name, image.digest) not in present]
    if wanted:
        load_into(settings, node, wanted)
    return wanted


def _list_images(node: Node) -> Completed:
    """What containerd of the node holds; right after a boot it does not answer yet."""
    listed = _try_to_list_images(node)

    def answers() -> bool:
        nonlocal listed
        if listed.returncode:
            listed = _try_to_list_images(node)
        return not listed.returncode

    wait_until(
        f"containerd of {node.name} to answer",
        answers,
        timeout_seconds=_CONTAINERD_TIMEOUT_SECONDS,
        explain=lambda: listed.stderr.decode("utf-8", "replace"),
    )
    return listed


def _try_to_list_images(node: Node) -> Completed:
    return run_in_node(node, ["ctr", "--namespace=k8s.io", "images", "ls"], timeout_seconds=30)


def load_into(settings: Settings, node: Node, images: Iterable[Image]) -> None:
    """Import images into a running node's containerd, only the blobs that it lacks."""
    wanted = tuple(images)
    listed = run_in_node(
        node, ["ctr", "--namespace=k8s.io", "content", "ls", "-q"], timeout_seconds=30
    ).check()
    key = _digest_of([node.name.encode(), os.urandom(8)])
    archive = images_dir(settings) / f"{key}.tar"
    try:
        image_store(settings).write_archive(archive, wanted, frozenset(listed.text.split()))
        run_in_node(
            node,
            ["ctr", "--namespace=k8s.io", "images", "import", f"/run/host/images/{archive.name}"],
            timeout_seconds=_IMPORT_TIMEOUT_SECONDS,
        ).check()
    finally:
        archive.unlink(missing_ok=True)


def _find_built(settings: Settings, store: Store, name: str, key: str) -> Image | None:
    note = settings.cache / "images" / "built" / key
    image = store.find(name)
    if image is None or not note.exists() or note.read_text() != image.digest:
        return None
    return image


def _note_built(settings: Settings, image: Image, key: str) -> None:
    note = settings.cache / "images" / "built" / key
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(image.digest)


def _digest_of(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
