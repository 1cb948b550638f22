"""Builds images from Dockerfiles with Debian's buildah, without a daemon or registry.

buildah runs chrooted in the nodes' root, with its storage in the cache. The machine's
own apt and pip configuration reaches the build, so that a mirror that works here
works there; nothing of it is left in the image.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.lab.command import CommandError, run
from e2e.lab.config import Settings
from e2e.lab.oci import Image, Store
from e2e.lab.rootfs import IMAGE_BASE, SEARCH_PATH, ensure_root, ensure_rootfs, locked, run_in_root

BUILD_TIMEOUT_SECONDS = 900.0
STORAGE_LIMIT_GIB = 12


class BuildError(RuntimeError):
    """An image could not be built; the message holds buildah's last lines."""


def base_image_name() -> str:
    return f"localhost/debian-{IMAGE_BASE.suite}:{IMAGE_BASE.key}"


def build(
    settings: Settings,
    store: Store,
    name: str,
    dockerfile: Path,
    context: Path,
    build_args: Mapping[str, str],
) -> Image:
    """Build ``dockerfile`` and put the image into ``store`` as ``name``.

    Layers whose instruction and files did not change come from the cache. The base
    image is handed over as build argument BASE_IMAGE. Raises BuildError.
    """
    work = settings.cache / "buildah"
    with locked(work / "lock"):
        _limit_storage(work)
        _ensure_base_image(settings, work)
        configuration = _write_pip_configuration(work)
        arguments = {"BASE_IMAGE": base_image_name(), **build_args}
        argv = [
            *("buildah", "build", "--isolation=chroot", "--layers", "--pull=never"),
            *("--network=host", f"--tag={name}", *_limits()),
            *(f"--build-arg={key}={value}" for key, value in arguments.items()),
            *(f"--volume={volume}" for volume in configuration),
            f"--file=/mnt/context/{dockerfile.relative_to(context)}",
            "/mnt/context",
        ]
        log = work / "build.log"
        try:
            _run(settings, work, argv, {context: "/mnt/context"}, log)
            push = ["buildah", "push", "--disable-compression", name, f"oci:/mnt/store:{name}"]
            store.ensure()
            _run(settings, work, push, {store.directory: "/mnt/store"}, log)
        except CommandError as error:
            raise BuildError(f"image {name} was not built from {dockerfile}\n{error}") from error
    image = store.find(name)
    if image is None:
        raise BuildError(f"buildah put no image {name} into {store.directory}; see {log}")
    return image


def parse_copied_paths(dockerfile: str) -> list[str]:
    """Paths of the build context that a Dockerfile copies, in its order."""
    joined = re.sub(r"\\\s*\n", " ", dockerfile)
    paths: list[str] = []
    for line in joined.splitlines():
        words = line.split()
        if not words or words[0].upper() not in {"COPY", "ADD"}:
            continue
        flags = [word for word in words[1:] if word.startswith("--")]
        if not any(flag.startswith("--from=") for flag in flags):
            paths += [word for word in words[1:-1] if not word.startswith("--")]
    return paths


def _run(
    settings: Settings, work: Path, argv: Sequence[str], mounts: Mapping[Path, str], log: Path
) -> None:
    storage = work / "storage"
    storage.mkdir(parents=True, exist_ok=True)
    everything = {storage: "/mnt/storage", work: "/mnt/work", **mounts}
    everything |= {Path(path): f"/mnt{path}" for path in _pip_find_links()}
    global_options = ["--root=/mnt/storage", "--runroot=/run/buildah", "--storage-driver=overlay"]
    run_in_root(
        ensure_rootfs(settings),
        [argv[0], *global_options, *argv[1:]],
        everything,
        env={"TMPDIR": "/mnt/work", "BUILDAH_FORMAT": "oci"},
        timeout_seconds=BUILD_TIMEOUT_SECONDS,
        log=log,
    )


def _limit_storage(work: Path) -> None:
    """Old layers are never removed one by one: beyond a limit all go, at rebuild time."""
    storage = work / "storage"
    if not storage.exists():
        return
    used = run(["du", "--summarize", "--block-size=1G", str(storage)], timeout_seconds=120)
    if int(used.split()[0]) > STORAGE_LIMIT_GIB:
        shutil.rmtree(storage)
        for marker in work.glob("base-*.imported"):
            marker.unlink()


def _ensure_base_image(settings: Settings, work: Path) -> None:
    """Import the Debian root as a local image, once for each list of packages."""
    marker = work / f"base-{IMAGE_BASE.key}.imported"
    if marker.exists():
        return
    base = ensure_root(settings, IMAGE_BASE)
    work.mkdir(parents=True, exist_ok=True)
    layer = work / "base.tar"
    run(
        ["tar", "--numeric-owner", "--one-file-system", "-C", str(base), "-cf", str(layer), "."],
        timeout_seconds=300,
    )
    store = Store(work / "base-store")
    store.put_image(base_image_name(), [layer], {"Env": [f"PATH={SEARCH_PATH}"], "Cmd": ["bash"]})
    source = f"oci:/mnt/base-store:{base_image_name()}"
    log = work / "build.log"
    _run(settings, work, ["buildah", "pull", source], {store.directory: "/mnt/base-store"}, log)
    # An image pulled from a layout has no name yet; its id is the configuration's.
    image = store.find(base_image_name())
    assert image is not None
    configuration = store.blobs_of(image)[1].removeprefix("sha256:")
    _run(settings, work, ["buildah", "tag", configuration, base_image_name()], {}, log)
    marker.touch()


def _limits() -> list[str]:
    """buildah asks for more open files and processes than this machine may allow."""
    kinds = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    limits = {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}
    return [f"--ulimit={name}={hard}:{hard}" for name, hard in limits.items()]


def _pip_find_links() -> list[str]:
    return [path for path in os.environ.get("PIP_FIND_LINKS", "").split() if Path(path).is_dir()]


def _write_pip_configuration(work: Path) -> list[str]:
    """Volumes that give the build this machine's pip settings and its authorities."""
    argv = ["python3", "-m", "pip", "config", "list"]
    try:
        listed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        listed = ""
    lines = ["[global]"]
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        lines.append(f"{key.rpartition('.')[2]} = {value.strip(chr(39))}")
    text = "\n".join(dict.fromkeys(lines)) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    (work / f"pip-{digest}.conf").write_text(text)
    volumes = [f"/mnt/work/pip-{digest}.conf:/etc/pip.conf:ro"]
    volumes += [f"/mnt{path}:{path}:ro" for path in _pip_find_links()]
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.is_file():
        (work / "authorities.crt").write_bytes(bundle.read_bytes())
        volumes.append(f"/mnt/work/authorities.crt:{bundle}:ro")
    return volumes
