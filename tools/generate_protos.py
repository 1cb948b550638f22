"""Generate csi/twinvault_csi/pb from the published protos; ``--check`` only compares.

The protos come from Go modules of fixed versions, which ``go mod download`` verifies by checksum.
The generated code is checked in, so that nobody but who changes a version needs Go for it.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("twinvault_csi/pb")
TARGET = ROOT / "csi" / PACKAGE
DOWNLOAD_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Proto:
    """One proto file of a Go module; ``sum`` is the module's checksum as go.sum writes it."""

    module: str
    version: str
    sum: str
    path: str
    name: str


PROTOS = (
    Proto(
        module="github.com/container-storage-interface/spec",
        version="v1.13.0",
        sum="h1:6ja3nYoACisewTPAAZkJ1pbf4+1ehhvt9Z/nYgWGHGw=",
        path="csi.proto",
        name="csi.proto",
    ),
    Proto(
        module="k8s.io/kubelet",
        version="v0.36.3",
        sum="h1:dRzEnhHk35Opy6wjWR4YBcN5RI9lB2npUY37TghFuPU=",
        path="pkg/apis/pluginregistration/v1/api.proto",
        name="pluginregistration.proto",
    ),
)


class GenerateError(Exception):
    """The protos cannot be had or compiled; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if what is checked in is stale")
    check = parser.parse_args(arguments).check
    try:
        with tempfile.TemporaryDirectory() as directory:
            fresh = generate(Path(directory))
            stale = list(_differences(fresh))
            if stale and not check:
                shutil.rmtree(TARGET, ignore_errors=True)
                shutil.copytree(fresh, TARGET)
    except GenerateError as error:
        print(f"protos: {error}", file=sys.stderr)
        return 1
    if stale and check:
        print(f"protos: stale: {', '.join(stale)}; run `make protos`", file=sys.stderr)
        return 1
    print(f"protos: {'written' if stale else 'up to date'}: {TARGET.relative_to(ROOT)}")
    return 0


def generate(directory: Path) -> Path:
    """Compile every proto into ``directory``; the folder that holds the package."""
    source, output = directory / "source", directory / "output"
    for folder in (source / PACKAGE, output / PACKAGE):
        folder.mkdir(parents=True)
    for proto in PROTOS:
        # The path below the include root becomes the Python import and the name in the registry.
        shutil.copyfile(_download(proto) / proto.path, source / PACKAGE / proto.name)
    package = output / PACKAGE
    versions = ", ".join(f"{p.module} {p.version}" for p in PROTOS)
    (package / "__init__.py").write_text(f'"""Generated from {versions}."""\n')
    for compiled in _compile(source, output):
        _write_service_stub(package, compiled)
    return package


def _download(proto: Proto) -> Path:
    command = ["go", "mod", "download", "-json", f"{proto.module}@{proto.version}"]
    try:
        done = subprocess.run(
            command,
            # Some module's directory: outside of one, go does not check sums against a go.sum.
            cwd=ROOT / "e2e" / "go-sanity",
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GenerateError(f"{' '.join(command)}: {error}; Go 1.24 or newer is needed") from error
    if done.returncode != 0:
        raise GenerateError(f"{' '.join(command)}: {done.stdout}{done.stderr}".strip())
    answer = json.loads(done.stdout)
    if answer["Version"] != proto.version or answer["Sum"] != proto.sum:
        raise GenerateError(f"{proto.module}: got {answer['Version']} {answer['Sum']}")
    return Path(answer["Dir"])


def _compile(source: Path, output: Path) -> Iterable[FileDescriptorProto]:
    descriptors = source / "descriptors"
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{source}"),
        *(f"--python_out={output}", f"--pyi_out={output}", f"--grpc_python_out={output}"),
        f"--descriptor_set_out={descriptors}",
        *(str(PACKAGE / proto.name) for proto in PROTOS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise GenerateError(f"protoc: {done.stderr.strip()} (pip install -r requirements-dev.txt)")
    return FileDescriptorSet.FromString(descriptors.read_bytes()).file


def _write_service_stub(package: Path, proto: FileDescriptorProto) -> None:
    """Types of the gRPC half of ``proto``: protoc writes them for the messages only."""
    name = Path(proto.name).stem
    lines = [
        *("from typing import Any", "import grpc", "import grpc.aio"),
        *(f"from twinvault_csi.pb import {name}_pb2", ""),
        *("_Context = grpc.aio.ServicerContext[Any, Any]", ""),
    ]
    for service in proto.service:
        calls = [
            (m.name, *(f"{name}_pb2.{t.rpartition('.')[2]}" for t in (m.input_type, m.output_type)))
            for m in service.method
            if not m.server_streaming
        ]
        lines += [
            f"class {service.name}Stub:",
            "    def __init__(self, channel: grpc.aio.Channel) -> None: ...",
            *(f"    {call}: grpc.aio.UnaryUnaryMultiCallable[{i}, {o}]" for call, i, o in calls),
            "",
            f"class {service.name}Servicer:",
            *(() if calls else ("    ...",)),
            *(
                f"    async def {call}(self, request: {i}, context: _Context) -> {o}: ..."
                for call, i, o in calls
            ),
            "",
            f"def add_{service.name}Servicer_to_server(",
            f"    servicer: {service.name}Servicer, server: grpc.aio.Server",
            ") -> None: ...",
            "",
        ]
    (package / f"{name}_pb2_grpc.pyi").write_text("\n".join(lines))


def _differences(fresh: Path) -> Iterator[str]:
    names = {path.name for folder in (fresh, TARGET) for path in folder.glob("*.py*")}
    for name in sorted(names):
        ours, theirs = TARGET / name, fresh / name
        if not (ours.exists() and theirs.exists() and filecmp.cmp(ours, theirs, shallow=False)):
            yield name


if __name__ == "__main__":
    sys.exit(main())
