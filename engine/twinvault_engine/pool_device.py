"""Which device is, or may become, a pool."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twinvault_core.errors import DataAtRiskError, FailedPreconditionError, NotFoundError
from twinvault_core.model import DeviceState, PoolSpec

from . import devices, mount, pool_record
from .devices import BlockDevice
from .freeze import read_boot_id
from .pool_record import Marker, PoolRecord


@dataclass(frozen=True)
class Choice:
    """A device for a pool. ``blank``: it must be formatted; else it is the pool already."""

    device: BlockDevice
    uuid: str
    blank: bool
    redo: bool = False
    """Our own mkfs on it was cut short; format again, over what it left."""


class DeviceChooser:
    """Finds the device of one pool: ours first, else a provably blank one."""

    def __init__(self, probe_dir: Path, node_name: str) -> None:
        self._probe_dir = probe_dir
        self._node_name = node_name

    def choose(self, spec: PoolSpec, record: PoolRecord | None) -> Choice:
        """NotFoundError: no device; FailedPreconditionError: none is blank, with each reason;
        DataAtRiskError: two devices claim to be the pool, or it is another node's.
        """
        candidates, missing = find_candidates(spec)
        ours = [c for d in candidates if (c := self._recognise(d, spec.name, record)) is not None]
        if len({c.device.major_minor for c in ours}) > 1:
            paths = ", ".join(c.device.path for c in ours)
            raise DataAtRiskError(
                f"{paths} all say that they are pool {spec.name}: one is a copy."
                " Take the copy away from this node"
            )
        if ours:
            return ours[0]
        if record is not None and record.state == pool_record.MADE:
            raise NotFoundError(
                f"the device of pool {spec.name} ({record.device}, filesystem UUID {record.uuid})"
                " is not there. Bring it back; no other device is taken in its place"
            )
        return _choose_blank(spec, candidates, missing)

    def _recognise(
        self, device: BlockDevice, pool: str, record: PoolRecord | None
    ) -> Choice | None:
        """The choice if ``device`` is provably this pool, None when it is not."""
        superblock = devices.read_pool_superblock(device)
        if record is not None and record.state == pool_record.FORMATTING:
            redo = _is_our_unfinished(device, record)
            if redo is not None:
                return redo
        if superblock is None or superblock.in_progress:
            return None
        if record is not None and superblock.uuid == record.uuid:
            return Choice(device, superblock.uuid, blank=False)
        if superblock.label != pool_record.choose_label(pool):
            return None
        marker = self._read_marker(device)
        if marker is None or marker.pool != pool or marker.uuid != superblock.uuid:
            return None
        if marker.node != self._node_name:
            raise DataAtRiskError(
                f"{device.path} holds pool {pool} of node {marker.node}. Bring it back there, or"
                f" wipe it. {devices.how_to_blank(device.path)}"
            )
        return Choice(device, superblock.uuid, blank=False)

    def _read_marker(self, device: BlockDevice) -> Marker | None:
        """The marker inside an XFS that may be ours; mounted read-only, log not replayed."""
        with _probe_mount(device, self._probe_dir) as root:
            return None if root is None else pool_record.load_marker(root)


@contextmanager
def _probe_mount(device: BlockDevice, probe_dir: Path) -> Iterator[Path | None]:
    target = probe_dir / device.major_minor.replace(":", "-")
    target.mkdir(mode=0o700, exist_ok=True)
    mount.unmount(target)
    flags, data = mount.parse_options(("ro", "norecovery", "nouuid", "nodev", "nosuid", "noexec"))
    try:
        mount.mount_filesystem(device.path, str(target), "xfs", flags, data)
    except OSError:
        yield None
        return
    try:
        yield target
    finally:
        mount.unmount(target)
        target.rmdir()


def find_candidates(spec: PoolSpec) -> tuple[list[BlockDevice], list[str]]:
    """The devices that the spec allows, and why listed paths are not among them."""
    if spec.selector is not None:
        whole = devices.list_whole_devices()
        return [d for d in whole if devices.matches_selector(d, spec.selector)], []
    found, missing = [], []
    for path in spec.paths:
        try:
            found.append(devices.resolve_device(path))
        except NotFoundError as error:
            missing.append(error.message)
    return found, missing


def _is_our_unfinished(device: BlockDevice, record: PoolRecord) -> Choice | None:
    """Whether our mkfs on this device was cut short: the choice to format it again.

    Either the half-made filesystem carries our UUID, or this is, in the same boot, the very
    device that was proved blank, and nothing but a piece of XFS is on it.
    """
    superblock = devices.read_pool_superblock(device)
    if superblock is not None:
        ours = superblock.uuid == record.uuid and superblock.in_progress
        return Choice(device, record.uuid, blank=True, redo=True) if ours else None
    same = (record.instance, record.boot_id) == (device.instance, read_boot_id())
    if (
        not same
        or not device.instance
        or os.path.realpath(record.device) != os.path.realpath(device.path)
    ):
        return None
    content = devices.find_content(device)
    if content and content.startswith("signature") and content != "signature xfs":
        return None
    return Choice(device, record.uuid, blank=True, redo=bool(content))


def _choose_blank(spec: PoolSpec, candidates: list[BlockDevice], reasons: list[str]) -> Choice:
    refused = list(reasons)
    for device in candidates:
        facts = devices.observe_device(device, {})
        if facts.state is DeviceState.BLANK:
            return Choice(device, str(uuid.uuid4()), blank=True)
        refused.append(f"{device.path}: {facts.state.value}, {facts.detail}")
    if not candidates:
        wanted = "the selector matches none" if spec.selector else "; ".join(refused)
        raise NotFoundError(
            f"no device for pool {spec.name}: {wanted}. Add the device or correct spec.pools of"
            " the StorageCluster"
        )
    raise FailedPreconditionError(
        f"no blank device for pool {spec.name}. {'; '.join(refused)}."
        f" {devices.how_to_blank(candidates[0].path)}"
    )
