"""This node's halves of replicated volumes: made, brought up, grown, taken away.

1. replication.json, metadata "creating"  2. meta.img, blank, with DRBD's metadata written  3. the
record says "ready"  4. the fence helper is in place and knows the volume  5. both images get loop
devices  6. DRBD is told. Killed anywhere, the next call goes on. The image itself is never
touched, so a volume with data becomes a replicated one by this, and back by ``release``.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from twinvault_core.errors import (
    DataAtRiskError,
    FailedPreconditionError,
    InUseError,
    NotFoundError,
    TwinvaultError,
)
from twinvault_core.model import ReplicationSpec
from twinvault_core.replication_state import Disk, Resync

from . import drbd, drbd_journal, drbd_kernel, durable, image, journal, loop
from .attachment import observe_attachment
from .drbd_config import (
    check_spec,
    choose_metadata_bytes,
    node_id,
    parse_ports,
    render_resource,
    resource_name,
)
from .drbd_device import handle_of
from .drbd_error import DrbdError
from .drbd_journal import Metadata, ReplicaRecord
from .drbd_kernel import HELPER_SOURCE, FenceHelper
from .drbd_state import Resource
from .journal import DATA_FILE, META_FILE
from .layout import DataDirectory, PoolDirectory
from .steps import step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplicaFacts:
    """One node's half. ``resource`` is None while the kernel does not have it.

    ``blank``: the metadata was never used and the image has not one byte of data. ``ports``: of all
    that the kernel may have been told last; more than one after a kill in the middle of it.
    """

    volume_id: str
    spec: ReplicationSpec
    resource: Resource | None
    blank: bool
    metadata_bytes: int
    resync: Resync | None = None
    ports: frozenset[int] = frozenset()


class Replicas:
    """Replicas of one node; one volume is one caller's at a time."""

    def __init__(self, data: DataDirectory, *, helper_source: Path = HELPER_SOURCE) -> None:
        self._data = data
        self._helper_source = helper_source
        self.fence = FenceHelper(data.fence)

    def ensure(
        self,
        pool: PoolDirectory,
        volume_id: str,
        spec: ReplicationSpec,
        *,
        diskless: bool = False,
        whole: bool = False,
    ) -> ReplicaFacts:
        """Make and bring up our half. What is up already is only told of changed settings: whoever
        disconnected or detached it did so on purpose. ``diskless``: what is not up is made without
        its disk and its connection. ``whole``: metadata that is made now says that the image holds
        good data, as the record does; a new replica is then filled from it.

        InUseError when it is staged without replication: it becomes replicated when it is not.
        """
        directory = pool.volume(volume_id)
        check_spec(volume_id, spec)
        version = drbd_kernel.ensure_module()
        record = self._ensure_record(directory, volume_id, spec)
        if record.metadata is Metadata.CREATING:
            record = self._make_metadata(directory, record, version, whole=whole)
        self.ensure_helper()
        self._ensure_up(directory, record, version, diskless=diskless)
        return self.observe(pool, volume_id)

    def renew_metadata(self, pool: PoolDirectory, volume_id: str) -> None:
        """Let the next ``ensure`` make the metadata anew, so that a resync copies everything. Only
        without a disk: FailedPreconditionError while it is attached. Nothing to do for a volume
        that is not replicated here.
        """
        directory = pool.volume(volume_id)
        record = drbd_journal.load(directory)
        if record is None or record.metadata is Metadata.CREATING:
            return
        present = None
        if drbd_kernel.observe_version():
            present = drbd.observe(resource_name(volume_id))
        if present is not None and present.state.disk is not Disk.DISKLESS:
            raise FailedPreconditionError(
                f"volume {volume_id} is attached here ({present.state.disk}); its metadata is made"
                " anew only while it is not"
            )
        # The file has been applied to the old metadata: it must be applied again.
        self._file(volume_id).unlink(missing_ok=True)
        drbd_journal.save(directory, record, metadata=Metadata.CREATING)

    def _ensure_record(
        self, directory: Path, volume_id: str, spec: ReplicationSpec
    ) -> ReplicaRecord:
        volume = journal.load_volume(directory)
        if volume is None or volume.deleted or not volume.ready:
            raise NotFoundError(f"volume {volume_id} is not on this node yet; it is made first")
        # What changes with every failover has no place on disk.
        lasting = spec.lasting()
        record = drbd_journal.load(directory)
        if record is None:
            attached = observe_attachment(directory / DATA_FILE)
            if attached is not None and attached.mounts:
                raise InUseError(
                    f"volume {volume_id} is in use at {attached.mounts[0].path} without"
                    " replication; it becomes replicated when its pod has ended"
                )
            step("record replication")
            return drbd_journal.save(
                directory, ReplicaRecord(volume_id, volume.volume_uid, lasting)
            )
        if record.spec.minor != lasting.minor:
            self._take_down(directory, record)
        _refuse_new_number(record, lasting)
        if record.spec != lasting:
            record = drbd_journal.save(directory, record, spec=lasting)
        return record

    def _make_metadata(
        self, directory: Path, record: ReplicaRecord, version: str, *, whole: bool
    ) -> ReplicaRecord:
        """Nothing ever ran on what a killed earlier call left: it is made anew."""
        path = directory / META_FILE
        left = loop.find_device(path)
        if left is not None:
            loop.detach(left)
        image.make_blank(path, choose_metadata_bytes((directory / DATA_FILE).stat().st_size))
        device = loop.attach(path)
        handle = drbd.handle_of(record.volume_id, record.spec, version, Path())
        drbd.make_metadata(handle, device.path)
        if whole:
            drbd.declare_whole(handle, device.path)
        durable.fsync_file(Path(device.path))
        durable.fsync_file(path)
        return drbd_journal.save(directory, record, metadata=Metadata.READY)

    def _ensure_up(
        self, directory: Path, record: ReplicaRecord, version: str, *, diskless: bool
    ) -> None:
        data, metadata = directory / DATA_FILE, directory / META_FILE
        if not metadata.exists():
            raise DataAtRiskError(
                f"{metadata} is gone, and with it the knowledge of what the other replica lacks;"
                " nothing was touched. Give this replica up and let a new one be made"
            )
        handle = handle_of(record, self._file(record.volume_id))
        self.fence.mark(handle.resource, handle.minor)
        devices = [loop.attach(path) for path in (data, metadata)]
        text = render_resource(
            *(record.volume_id, record.spec, devices[0].path, devices[1].path),
            *(data.stat().st_size, version),
        )
        with suppress(FileNotFoundError):
            if handle.file.read_text() == text and drbd.observe(handle.resource) is not None:
                return
        _leave_former_peer(handle, record.spec.port)
        # Only a file that was applied to the end gets its name: a call that is killed while it
        # applies is repeated in full.
        applying = handle.file.with_suffix(".applying")
        durable.write_text(applying, text)
        if diskless:
            drbd.make_diskless(replace(handle, file=applying))
        else:
            drbd.apply_config(replace(handle, file=applying))
        step("name resource file")
        durable.rename(applying, handle.file)

    def _file(self, volume_id: str) -> Path:
        return self._data.drbd / f"{volume_id}.res"

    def handle(self, pool: PoolDirectory, volume_id: str) -> drbd.Handle:
        """For the acts in ``drbd``; NotFoundError when the volume has no replica here."""
        return handle_of(self._record(pool, volume_id), self._file(volume_id))

    def _record(self, pool: PoolDirectory, volume_id: str) -> ReplicaRecord:
        record = drbd_journal.load(pool.volume(volume_id))
        if record is None:
            raise NotFoundError(f"volume {volume_id} is not replicated on this node")
        return record

    def observe(self, pool: PoolDirectory, volume_id: str) -> ReplicaFacts:
        """NotFoundError when the volume is not replicated here."""
        directory = pool.volume(volume_id)
        record = self._record(pool, volume_id)
        resource = None
        if drbd_kernel.observe_version():
            resource = drbd.observe(resource_name(volume_id))
        told = drbd_kernel.observe_minors().get(record.spec.minor)
        metadata = directory / META_FILE
        return ReplicaFacts(
            volume_id=volume_id,
            spec=record.spec,
            resource=resource,
            blank=self._is_blank(directory, record, resource),
            metadata_bytes=metadata.stat().st_size if metadata.exists() else 0,
            resync=_progress(resource, told.resync if told is not None else None),
            ports=self._observe_ports(record),
        )

    def _observe_ports(self, record: ReplicaRecord) -> frozenset[int]:
        file = self._file(record.volume_id)
        found: set[int] = set()
        for path in (file, file.with_suffix(".applying")):
            with suppress(FileNotFoundError):
                found |= parse_ports(path.read_text())
        return frozenset(found or {record.spec.port})

    def _is_blank(self, directory: Path, record: ReplicaRecord, resource: Resource | None) -> bool:
        if resource is None or resource.state.disk is not Disk.INCONSISTENT:
            return False
        if not image.is_blank(directory / DATA_FILE):
            return False
        return drbd.observe_just_created(handle_of(record))

    def grow_metadata(self, pool: PoolDirectory, volume_id: str) -> None:
        """Make room for the bitmap of the image's size; nothing to do when there is, or when the
        volume is not replicated. Before ``drbd.resize``, at both nodes.
        """
        directory = pool.volume(volume_id)
        if drbd_journal.load(directory) is None or not (directory / META_FILE).exists():
            return
        size = (directory / DATA_FILE).stat().st_size
        image.grow(directory / META_FILE, choose_metadata_bytes(size))

    def resize(self, pool: PoolDirectory, volume_id: str, *, peer_part_is_blank: bool) -> int:
        """Let the replicated device have the size of both images; its size in bytes.

        At the primary, when both nodes have grown their image and metadata.
        """
        handle = self.handle(pool, volume_id)
        data = pool.volume(volume_id) / DATA_FILE
        present = drbd.observe(handle.resource)
        size = data.stat().st_size
        if present is not None and present.size_bytes >= size:
            return present.size_bytes
        before = present.size_bytes if present else 0
        blank = peer_part_is_blank and image.is_blank_from(data, before)
        drbd.resize(handle, new_part_is_blank=blank)
        return drbd.wait_for_size(handle, size)

    def take_down(self, pool: PoolDirectory, volume_id: str, volume_uid: str) -> None:
        """Out of the kernel, devices and all; the files stay. InUseError while it is in use.
        Nothing to do for a volume that is not replicated, or is another one of that name.
        """
        directory = pool.volume(volume_id)
        record = drbd_journal.load(directory)
        if record is not None and record.volume_uid == volume_uid:
            self._take_down(directory, record)

    def _take_down(self, directory: Path, record: ReplicaRecord) -> None:
        attached = observe_attachment(directory / DATA_FILE)
        if attached is not None and attached.mounts:
            raise InUseError(
                f"volume {record.volume_id} is in use at {attached.mounts[0].path}; end the pod"
                " that uses it and wait for it to be unstaged"
            )
        if drbd_kernel.observe_version():
            drbd.down(handle_of(record))
        for name in (META_FILE, DATA_FILE):
            device = loop.find_device(directory / name)
            if device is not None:
                loop.detach(device)
        self.fence.unmark(resource_name(record.volume_id), record.spec.minor)
        file = self._file(record.volume_id)
        for path in (file, file.with_suffix(".applying")):
            path.unlink(missing_ok=True)

    def release(self, pool: PoolDirectory, volume_id: str) -> None:
        """The volume is not replicated any more; its data stays. Not while it is in use.

        The peer is left without a word. 1. The other node is primary, frozen, and does not know
        yet that it is none any more  2. the link comes back after we looked  3. a graceful end
        would let it go on alone, and would mark our data as outdated, in metadata that goes.
        """
        directory = pool.volume(volume_id)
        record = drbd_journal.load(directory)
        if record is None:
            return
        handle = handle_of(record, self._file(volume_id))
        if drbd_kernel.observe_version() and handle.file.exists():
            drbd.force_disconnect(handle)
        self._take_down(directory, record)
        # First the metadata's claim to be whole, then the metadata, then the record.
        record = drbd_journal.save(directory, record, metadata=Metadata.CREATING)
        step("remove metadata")
        durable.remove_file(directory / META_FILE)
        drbd_journal.remove(directory)

    def ensure_helper(self) -> None:
        """Install the helper and let the module call it."""
        self.fence.ensure_installed(self._helper_source)

    def restore_helper(self) -> None:
        """DRBD's former helper comes back when no volume here is replicated any more."""
        try:
            self.fence.restore()
        except TwinvaultError as error:
            logger.warning("DRBD's former helper is not restored: %s", error.message)


def _progress(resource: Resource | None, told: Resync | None) -> Resync | None:
    """A resync that waits is not in /proc/drbd; how much it will copy is known all the same."""
    if told is None and resource is not None and resource.state.paused:
        return Resync(remaining_bytes=resource.out_of_sync_bytes)
    return told


def _leave_former_peer(handle: drbd.Handle, port: int) -> None:
    """Disconnect from a peer at another port, which only the files of then can name.

    A call that was killed may have told the kernel more than its file says: what the kernel does
    not know by then is refused, and brings nothing about.
    """
    for file in (handle.file, handle.file.with_suffix(".applying")):
        with suppress(FileNotFoundError):
            if parse_ports(file.read_text()) == {port}:
                continue
            try:
                drbd.disconnect(replace(handle, file=file))
            except DrbdError as error:
                logger.info("%s: %s", handle.volume_id, error.message)


def _refuse_new_number(record: ReplicaRecord, wanted: ReplicationSpec) -> None:
    """DRBD 9 keeps a node's number in its metadata; it follows from both addresses here."""
    if drbd_kernel.observe_version().startswith("8.") or node_id(record.spec) == node_id(wanted):
        return
    raise FailedPreconditionError(
        f"volume {record.volume_id} cannot be replicated to {wanted.peer_address} by DRBD 9: this"
        " node would get another number. Choose a node whose address sorts as the former one's did"
    )
