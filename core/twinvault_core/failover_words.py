"""What a failover says to people: whom it ended, and what it tries again and again in vain."""

from __future__ import annotations

from .failover_view import (
    LONGEST_RETRY_SECONDS,
    DeletePod,
    DeleteVolumeAttachment,
    FailoverWork,
    Swap,
)


def find_volumes(step: FailoverWork) -> tuple[str, ...]:
    """Volumes that wait for this step; none when it is about a node."""
    if isinstance(step, Swap):
        return (step.volume.meta.name,)
    if isinstance(step, DeletePod):
        return step.pod.volumes
    if isinstance(step, DeleteVolumeAttachment):
        return (step.attachment.volume,)
    return ()


def describe_subject(step: FailoverWork) -> str:
    """The one object that a step is about: doing the same again at once would be a busy loop."""
    name = type(step).__name__
    if isinstance(step, Swap):
        return f"{name} {step.volume.meta.name} {step.volume.meta.resource_version}"
    if isinstance(step, DeletePod):
        return f"{name} {step.pod.uid}"
    if isinstance(step, DeleteVolumeAttachment):
        return f"{name} {step.attachment.name}"
    return f"{name} {step.node}"


def describe_eviction(step: DeletePod) -> str:
    """For the pod's namespace: why it ended, and where its data is now."""
    served = ", ".join(f"Volume {v} is served by {n}" for v, n in sorted(step.primaries.items()))
    return (
        f"{step.pod.node} was lost: {served} now, so this pod was ended on {step.pod.node}, and its"
        " attachments there are removed; its controller makes another one"
    )


def describe_detachment(step: DeleteVolumeAttachment) -> str:
    held = step.attachment
    return (
        f"{held.node} was lost: VolumeAttachment {held.name} was removed from it, and the volume is"
        f" served by {step.primary} now"
    )


def describe_stuck(step: FailoverWork, problem: str) -> str:
    """What fails again and again, and what a person can do. ``problem``: empty when the step was
    taken each time, and found undone again.
    """
    what, then = _describe_trial(step)
    why = problem or "the API server says each time that it is done, and then still has it"
    return (
        f"{what} failed {step.retry.attempt} times: {why}. It is tried on every"
        f" {LONGEST_RETRY_SECONDS:.0f} s; {then}"
    )


def _describe_trial(step: FailoverWork) -> tuple[str, str]:
    """(what was tried, what to do about it)"""
    if isinstance(step, Swap):
        return (
            f"moving the primary from {step.before.primary} to {step.after.primary}",
            "see whether the API server answers (kubectl get --raw /readyz) and lets the operator"
            " write volumes/status (its role, admission webhooks)",
        )
    if isinstance(step, DeletePod):
        pod = f"{step.pod.name} -n {step.pod.namespace}"
        return (
            f"ending pod {step.pod.namespace}/{step.pod.name} on {step.pod.node}",
            f"see its finalizers, then: kubectl delete pod {pod} --force --grace-period=0",
        )
    if isinstance(step, DeleteVolumeAttachment):
        name = step.attachment.name
        return (
            f"removing VolumeAttachment {name} from {step.attachment.node}",
            f"if that node is off, remove it yourself: kubectl delete volumeattachment {name},"
            " then its finalizers",
        )
    return (
        f"{type(step).__name__} of node {step.node}",
        "see whether the API server answers and lets the operator patch nodes and storagenodes",
    )
