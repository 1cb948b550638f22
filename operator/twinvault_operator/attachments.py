"""Where Kubernetes counts volumes as attached: only a failover's phases are told from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twinvault_core.model import Volume
from twinvault_core.names import ANNOTATION_CSI_NAME, DRIVER_NAME
from twinvault_kube import kinds

from .store import Store


@dataclass(frozen=True)
class Attached:
    """A VolumeAttachment; ``done``: it is one of ours, and the volume may be staged on the node."""

    pv: str
    node: str
    done: bool


def parse_attached(obj: Mapping[str, Any]) -> Attached:
    spec = obj["spec"]
    done = bool((obj.get("status") or {}).get("attached")) and spec["attacher"] == DRIVER_NAME
    pv = (spec.get("source") or {}).get("persistentVolumeName") or ""
    return Attached(str(pv), str(spec["nodeName"]), done)


class Attachments(Store[Attached]):
    """All VolumeAttachments. They name PersistentVolumes: the provisioner calls one as its call to
    us, and those that people made are known by ``handles`` (volume by name of its
    PersistentVolume) as far as they were listed.
    """

    def __init__(self) -> None:
        super().__init__(
            kinds.VOLUME_ATTACHMENTS, parse_attached, {"place": lambda a: (f"{a.pv}/{a.node}",)}
        )
        self.handles: Mapping[str, str] = {}

    def is_attached(self, volume: Volume, node: str) -> bool:
        """Whether a pod on ``node`` may have the volume staged now."""
        name = volume.meta.name
        names = {name, volume.meta.annotations.get(ANNOTATION_CSI_NAME, "")}
        names.update(pv for pv, handle in self.handles.items() if handle == name)
        return any(a.done for pv in names for a in self.find("place", f"{pv}/{node}"))
