"""A small cluster in which drills are run: nodes, pods with controllers, a scheduler, a clock.

Nothing moves by itself: each method is one thing that may happen, so that a test chooses the order.
The operator is the real decisions with effects that may fail, be lost, or be cut off by its death.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.core import builders
from twinvault_core.actions import Tell
from twinvault_core.cluster_plan import KubeNode
from twinvault_core.drill import choose_volumes, plan_drill, plan_opening
from twinvault_core.drill_view import (
    CloseNode,
    DrillPod,
    DrillStep,
    DrillUsers,
    DrillView,
    EvictPod,
    Look,
    Remember,
    Sleep,
)
from twinvault_core.failover_view import NodeEvidence, PairPolicy, Policy, VolumeEvidence
from twinvault_core.model import ReplicationPair
from twinvault_core.names import TAINT_DRILL

START = datetime(2026, 3, 1, 1, 0, tzinfo=UTC)
NODES = ("east-1", "west-1")


class BrokenRuleError(AssertionError):
    """Something that must never happen."""


@dataclass
class Vol:
    """One replicated volume as its objects tell it."""

    name: str
    primary: str
    in_sync: set[str] = field(default_factory=lambda: set(NODES))
    published: str = ""
    in_use: bool = False
    phase: str = "Ready"
    pair: str = "metro"
    force: str = ""
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def other(self) -> str:
        return next(n for n in NODES if n != self.primary)


@dataclass
class App:
    """A controller that wants one pod, and where it would rather run."""

    volumes: tuple[str, ...]
    likes: str
    controller: str = "StatefulSet"
    placement: dict[str, Any] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    pod: DrillPod | None = None
    stuck: str = ""
    """A node on which its pod does not become Ready."""


class World:
    """``effects`` is what the operator has done since the start, in order."""

    def __init__(self, drill: Mapping[str, Any]) -> None:
        self.now = START
        self.spec: dict[str, Any] = {"clusters": ["east", "west"], "mode": "Sync"}
        self.spec["drill"] = dict(drill)
        self.status: dict[str, Any] = {}
        self.volumes: dict[str, Vol] = {}
        self.apps: list[App] = []
        self.nodes = {n: NodeEvidence(n, n.partition("-")[0], well_seconds=999.0) for n in NODES}
        self.kube = {n: KubeNode(n, {"site": n.partition("-")[0]}) for n in NODES}
        self.closed: dict[str, str] = {}
        self.policy = Policy.AUTOMATIC
        self.others: tuple[str, ...] = ()
        self.snapshots: set[str] = set()
        self.budget_says_no = False
        self.cannot_list = False
        self.lose_writes = 0
        self.memory: dict[str, dict[str, Any]] = {"evictions": {}, "tried": {}, "blocked": {}}
        self.effects: list[DrillStep] = []
        self.tells: list[Tell] = []
        self.results: list[str] = []
        self._count = 0

    def add(self, name: str, node: str, **app: Any) -> App:
        """A volume with a pod that uses it on ``node``."""
        self.volumes[name] = Vol(name, node, published=node, in_use=True)
        made = App((name,), node, **app)
        made.pod = replace(self._new_pod(made), node=node, ready=True)
        self.apps.append(made)
        return made

    def _new_pod(self, app: App) -> DrillPod:
        self._count += 1
        return DrillPod(
            "his",
            f"pod-{app.volumes[0]}",
            f"uid-{self._count}",
            controller=app.controller,
            volumes=app.volumes,
            foreign=app.foreign,
            placement=app.placement,
        )

    # -- what may happen ---------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def end_pods(self) -> None:
        """Pods that are being deleted are gone, and the volume is unmounted and unpublished."""
        for app in self.apps:
            if app.pod is not None and app.pod.deleting:
                for volume in (self.volumes[v] for v in app.volumes):
                    if volume.published == app.pod.node:
                        volume.in_use, volume.published = False, ""
                app.pod = None

    def start_pods(self) -> None:
        """Controllers make what is missing."""
        for app in self.apps:
            if app.pod is None and app.controller:
                app.pod = self._new_pod(app)

    def schedule(self) -> None:
        for app in self.apps:
            if app.pod is None or app.pod.node:
                continue
            free = [n for n in NODES if n not in self.closed and not self.nodes[n].expired]
            node = app.likes if app.likes in free else next(iter(free), "")
            app.pod = replace(app.pod, node=node)

    def attach(self) -> None:
        """Publish, switch over, promote, mount; then the pod is Ready."""
        for app in self.apps:
            pod = app.pod
            if pod is None or not pod.node or pod.deleting or self.nodes[pod.node].expired:
                continue
            volumes = [self.volumes[v] for v in app.volumes]
            for volume in volumes:
                volume.published = volume.published or pod.node
                if volume.published == pod.node and pod.node in volume.in_sync:
                    volume.primary, volume.in_use = pod.node, True
            here = all(v.published == pod.node and v.in_use for v in volumes)
            app.pod = replace(pod, ready=here and app.stuck != pod.node)

    def let_it_run(self) -> None:
        """Everything that Kubernetes does, once."""
        self.end_pods()
        self.start_pods()
        self.schedule()
        self.attach()

    def lose(self, node: str) -> None:
        """Power cut, and the failover that follows."""
        self.nodes[node] = replace(self.nodes[node], expired=True, silent_seconds=9.0)
        for volume in self.volumes.values():
            volume.in_sync = {next(n for n in NODES if n != node)}
            if volume.primary == node:
                volume.primary, volume.published, volume.in_use = volume.other, "", False
        for app in self.apps:
            if app.pod is not None and app.pod.node == node:
                app.pod = None

    def repair(self) -> None:
        """All faults are taken away."""
        for node in NODES:
            self.nodes[node] = replace(self.nodes[node], expired=False, silent_seconds=0.0)
        for volume in self.volumes.values():
            volume.in_sync = set(NODES)
        for app in self.apps:
            app.stuck = ""
        self.budget_says_no = self.cannot_list = False
        self.lose_writes = 0

    # -- the operator ------------------------------------------------------------------------------

    def forget(self) -> None:
        """The operator died; another one has nothing but what the API server has."""
        for known in self.memory.values():
            known.clear()

    @property
    def pair(self) -> ReplicationPair:
        meta = {"name": "metro", "uid": "uid-metro", "generation": 1}
        return ReplicationPair.parse({"metadata": meta, "spec": self.spec, "status": self.status})

    def evidence(self, volume: Vol) -> VolumeEvidence:
        status = {
            "phase": volume.phase,
            "sizeBytes": builders.GIB,
            "placement": {"nodes": list(NODES)},
            "replication": {
                "epoch": 1,
                "serial": 1,
                "primary": volume.primary,
                "inSync": sorted(volume.in_sync),
            },
        }
        spec: dict[str, Any] = {"replicationPair": volume.pair}
        if volume.force:
            spec["forcePrimary"] = {"node": volume.force, "volumeName": volume.name}
        if volume.published:
            spec["publishedTo"] = [volume.published]
        made = builders.volume(volume.name, status=status, **spec)
        return VolumeEvidence(
            made,
            tuple(self._replica(volume, node) for node in NODES),
            PairPolicy(self.policy, stable_seconds=60.0),
        )

    def _replica(self, volume: Vol, node: str) -> Any:
        mine = node == volume.primary
        used = volume.in_use and volume.published == node
        report = {
            "connection": "Connected",
            "sync": "Established",
            "role": "Primary" if mine and used else "Secondary",
            "disk": "UpToDate",
            "peerDisk": "UpToDate",
            **volume.report,
        }
        status = {"inUse": used, "replication": report}
        return builders.replica(volume.name, node, status=status)

    def view(self, users: DrillUsers | None = None, problem: str = "") -> DrillView:
        by_claim = {f"his/{name}": name for name in self.volumes}
        chosen = choose_volumes(self.pair, by_claim)
        taints = {n: kube.every_taint for n, kube in self.kube.items()}
        for node, pair in self.closed.items():
            taints[node] += ((TAINT_DRILL, pair, "NoSchedule"),)
        return DrillView(
            pair=self.pair,
            now=self.now,
            policy=self.policy,
            by_claim=by_claim,
            volumes={v.name: self.evidence(v) for v in self.volumes.values() if v.name in chosen},
            nodes=dict(self.nodes),
            kube_nodes={n: replace(k, every_taint=taints[n]) for n, k in self.kube.items()},
            closed=frozenset(n for n, pair in self.closed.items() if pair == "metro"),
            users=users,
            users_problem=problem,
            snapshots=frozenset(self.snapshots),
            others=self.others,
            evictions=dict(self.memory["evictions"]),
            tried=dict(self.memory["tried"]),
            blocked=dict(self.memory["blocked"]),
        )

    def users(self) -> DrillUsers:
        pods = tuple(a.pod for a in self.apps if a.pod is not None)
        return DrillUsers(pods, {v: f"his/{v}" for a in self.apps for v in a.volumes})

    def rounds(self) -> Iterator[DrillStep]:
        """One turn of the operator; who stops asking for more has killed it there."""
        users: DrillUsers | None = None
        problem = ""
        self.open_nodes()
        for _ in range(20):
            view = self.view(users, problem)
            steps = plan_drill(view)
            if isinstance(steps[0], Look):
                users, problem = (None, "no answer") if self.cannot_list else (self.users(), "")
                continue
            users, problem = None, ""
            for step in steps:
                self._apply(view, step)
                self.effects.append(step)
                yield step
            self.open_nodes()
            if isinstance(steps[-1], Sleep):
                return
        raise BrokenRuleError(f"no end of steps: {self.effects[-5:]}")

    def turn(self) -> float:
        """One turn to its end; for how long it sleeps."""
        last: DrillStep = Sleep(0.0)
        for step in self.rounds():
            last = step
        return last.seconds if isinstance(last, Sleep) else 0.0

    def open_nodes(self) -> None:
        for node in plan_opening([self.pair], self.closed):
            del self.closed[node]

    def _apply(self, view: DrillView, step: DrillStep) -> None:
        if isinstance(step, Remember):
            self._remember(step)
        elif isinstance(step, CloseNode):
            if self.closed and step.node not in self.closed:
                raise BrokenRuleError(f"{step.node} is closed while {list(self.closed)} is")
            self.closed[step.node] = "metro"
        elif isinstance(step, EvictPod):
            self._evict(view, step)

    def _remember(self, step: Remember) -> None:
        if self.lose_writes:
            self.lose_writes -= 1
            return
        self.status = _merge(self.status, step.status)
        self.tells += step.tells
        if step.ended:
            self.results.append(step.ended)

    def _evict(self, view: DrillView, step: EvictPod) -> None:
        app = next((a for a in self.apps if a.pod is not None and a.pod.uid == step.uid), None)
        self.memory["tried"][step.uid] = self.now
        if app is None or app.pod is None:
            return
        self._check_eviction(app, app.pod)
        if self.budget_says_no:
            self.memory["blocked"][step.uid] = "the disruption budget does not allow it"
            return
        self.memory["evictions"][step.uid] = self.now
        app.pod = replace(app.pod, deleting=True, ready=False, deleting_since=self.now)

    def _check_eviction(self, app: App, pod: DrillPod) -> None:
        drill = self.status.get("drill") or {}
        known = {uid for v in drill.get("volumes", ()) for uid in v["pods"]}
        if not pod.controller:
            raise BrokenRuleError(f"{pod.name} has no controller and was evicted")
        if pod.uid not in known:
            raise BrokenRuleError(f"{pod.name} was evicted before that was remembered")
        if pod.node not in self.closed:
            raise BrokenRuleError(f"{pod.name} was evicted from {pod.node}, which is open")
        for name in app.volumes:
            if name not in {v["volume"] for v in drill["volumes"]}:
                raise BrokenRuleError(f"{pod.name} uses {name}, which nobody chose")
            if self.volumes[name].in_sync != set(NODES):
                raise BrokenRuleError(f"{pod.name} was evicted although {name} is not in sync")


def _merge(old: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch, as the API server does it."""
    new = dict(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, Mapping):
            before = new.get(key)
            new[key] = _merge(before if isinstance(before, Mapping) else {}, value)
        else:
            new[key] = value
    return new
