"""Who uses a volume on this node: pods, and the stage below them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .attachment import observe_attachment
from .journal import DATA_FILE
from .pods import kill_pods, parse_pod_uids
from .staged_record import StagedRecords


@dataclass(frozen=True)
class VolumeUse:
    """``targets``: paths at which pods have it. ``staging_path``: where it is staged, '' if not."""

    targets: tuple[str, ...] = ()
    staging_path: str = ""


def observe_use(directory: Path, records: StagedRecords) -> VolumeUse:
    """The use of the volume in ``directory``. A stage call that was cut short before it mounted
    anything is no use: whoever asked for it asks again.
    """
    attached = observe_attachment(directory / DATA_FILE)
    record = records.load(directory.name)
    staging = record.staging_path if record is not None else ""
    paths = [mount.path for mount in attached.mounts] if attached is not None else []
    targets = tuple(path for path in paths if path != staging)
    staged = record is not None and (record.complete or staging in paths)
    return VolumeUse(targets, staging if staged else "")


def end_pods(directory: Path, cgroup_root: Path) -> None:
    """SIGKILL to every process of the pods that have the volume in ``directory``. Their mounts
    stay until kubelet unmounts them: were they taken away, a container that is started again
    would write into the empty directory below.
    """
    attached = observe_attachment(directory / DATA_FILE)
    if attached is not None:
        kill_pods(parse_pod_uids(mount.path for mount in attached.mounts), cgroup_root)
