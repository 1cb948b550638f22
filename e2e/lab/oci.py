"""A store of container images: one OCI image layout directory, no registry.

Blobs are shared by all images. Layers are kept uncompressed: nodes unpack them on
slow kernels, and nothing travels over a network.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.lab.rootfs import locked

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_REF_NAME = "org.opencontainers.image.ref.name"
# What containerd's importer takes as the full name of an image.
_IMAGE_NAME = "io.containerd.image.name"


@dataclass(frozen=True)
class Image:
    """A full name, such as ``registry.hospital.example/pause:lab``, and its manifest."""

    name: str
    digest: str


@dataclass(frozen=True)
class Store:
    """An OCI layout that other tools (buildah) may write to as well."""

    directory: Path

    def ensure(self) -> None:
        """Make an empty layout when there is none."""
        with self._locked():
            (self.directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            if not (self.directory / "index.json").exists():
                self._write_index([])
            (self.directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def find(self, name: str) -> Image | None:
        for entry in self._index():
            if entry.get("annotations", {}).get(_REF_NAME) == name:
                return Image(name, entry["digest"])
        return None

    def blob(self, digest: str) -> Path:
        return self.directory / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def blobs_of(self, image: Image) -> list[str]:
        """Digests of the manifest, the configuration and the layers, in this order."""
        manifest = json.loads(self.blob(image.digest).read_text())
        layers = [layer["digest"] for layer in manifest["layers"]]
        return [image.digest, manifest["config"]["digest"], *layers]

    def put_image(self, name: str, layers: Iterable[Path], config: Mapping[str, object]) -> Image:
        """Store an image of plain tar ``layers`` (moved into the store) under ``name``."""
        self.ensure()
        described = [self._put_file(_LAYER, layer) for layer in layers]
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": dict(config),
            # buildah finds its cached layers by history: one entry for each layer.
            "history": [{"created_by": f"layer {n}"} for n in range(len(described))],
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in described]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._put_bytes(_CONFIG, _json(document)),
            "layers": described,
        }
        descriptor = self._put_bytes(_MANIFEST, _json(manifest))
        with self._locked():
            others = [e for e in self._index() if e.get("annotations", {}).get(_REF_NAME) != name]
            self._write_index([*others, {**descriptor, "annotations": {_REF_NAME: name}}])
        return Image(name, str(descriptor["digest"]))

    def write_archive(self, path: Path, images: Iterable[Image], known: frozenset[str]) -> None:
        """An archive for `ctr images import`, without the blobs that are ``known`` there."""
        wanted = list(images)
        digests = dict.fromkeys(d for image in wanted for d in self.blobs_of(image))
        entries = [
            {
                "mediaType": _MANIFEST,
                "digest": image.digest,
                "size": self.blob(image.digest).stat().st_size,
                "annotations": {_IMAGE_NAME: image.name, _REF_NAME: image.name},
            }
            for image in wanted
        ]
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries}
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            _add_bytes(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            _add_bytes(archive, "index.json", _json(index))
            for digest in digests:
                if digest not in known:
                    name = f"blobs/sha256/{digest.removeprefix('sha256:')}"
                    archive.add(self.blob(digest), arcname=name)

    def remove_unused(self, keep: Iterable[Image]) -> None:
        """Forget every image but ``keep`` and delete the blobs that only they had."""
        kept = {image.digest for image in keep}
        with self._locked():
            entries = [entry for entry in self._index() if entry["digest"] in kept]
            self._write_index(entries)
            used = {d for entry in entries for d in self.blobs_of(Image("", entry["digest"]))}
            for path in (self.directory / "blobs" / "sha256").iterdir():
                if f"sha256:{path.name}" not in used:
                    path.unlink()

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.directory.with_suffix(".lock"))

    def _index(self) -> list[dict[str, Any]]:
        return list(json.loads((self.directory / "index.json").read_text())["manifests"])

    def _write_index(self, manifests: list[dict[str, Any]]) -> None:
        path = self.directory / "index.json"
        unfinished = path.with_suffix(".unfinished")
        document = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
        unfinished.write_bytes(_json(document))
        unfinished.replace(path)

    def _put_bytes(self, media_type: str, data: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blob(digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def _put_file(self, media_type: str, path: Path) -> dict[str, object]:
        with path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        size = path.stat().st_size
        path.replace(self.blob(digest))
        return {"mediaType": media_type, "digest": digest, "size": size}


def write_program_layer(path: Path, program: Path, name: str) -> None:
    """A layer with one static program, byte for byte the same on every machine."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as layer:
        info = tarfile.TarInfo(name)
        info.mode = 0o755
        info.size = program.stat().st_size
        with program.open("rb") as file:
            layer.addfile(info, file)


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
