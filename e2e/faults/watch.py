"""Follows the objects that tell a failover's course, with the time of each change."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from e2e.faults.timeline import Moment, Seen, find_moments
from e2e.lab import admin
from e2e.lab.api import Lab
from e2e.lab.command import in_namespace

_RESTART_SECONDS = 0.5
_CHUNK_BYTES = 1 << 16


def decode_objects(buffer: str) -> tuple[list[dict[str, Any]], str]:
    """The whole JSON objects at the beginning of ``buffer``, and what is left of it."""
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    while text := buffer.lstrip():
        try:
            value, end = decoder.raw_decode(text)
        except json.JSONDecodeError:
            return found, text
        found.append(value)
        buffer = text[end:]
    return found, ""


class Watch:
    """``kubectl get --watch`` of several kinds; begun anew whenever one ends. A context."""

    def __init__(self, lab: Lab, namespace: str, *more: Sequence[str]) -> None:
        """``more``: what else to ask ``kubectl get`` for, beside what every failover needs."""
        self._lab = lab
        self._seen: list[Seen] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        queries = (
            ("volumes.twinvault.io",),
            ("volumereplicas.twinvault.io",),
            ("volumeattachments",),
            ("nodes",),
            ("-n", namespace, "pods"),
            ("-n", "default", "events"),
            *more,
        )
        self._threads = [
            threading.Thread(target=self._follow, args=(query,), name=query[-1], daemon=True)
            for query in queries
        ]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        with self._lock:
            running = list(self._running)
        for process in running:
            process.kill()
        for thread in self._threads:
            thread.join()

    def moments(self, since: float = 0.0) -> list[Moment]:
        """Every change seen at or after ``since``, in order."""
        with self._lock:
            seen = list(self._seen)
        return [moment for moment in find_moments(seen) if moment.at >= since]

    def latest(self, kind: str) -> list[dict[str, Any]]:
        """The objects of a kind as last seen; also while no API server answers."""
        with self._lock:
            seen = list(self._seen)
        found: dict[str, dict[str, Any]] = {}
        for one in seen:
            if one.obj["kind"] == kind:
                uid = one.obj["metadata"]["uid"]
                found.pop(uid, None)
                if one.verb != "DELETED":
                    found[uid] = dict(one.obj)
        return list(found.values())

    def states(self, kind: str, since: float) -> list[dict[str, Any]]:
        """Every state of objects of a kind that was told after ``since``, in order."""
        with self._lock:
            return [
                dict(one.obj)
                for one in self._seen
                if one.obj["kind"] == kind and one.at >= since and one.verb != "DELETED"
            ]

    def forget(self) -> None:
        """Keep of the past only the last state of each object."""
        with self._lock:
            last: dict[str, Seen] = {}
            for one in self._seen:
                uid = one.obj["metadata"]["uid"]
                last.pop(uid, None)
                if one.verb != "DELETED":
                    last[uid] = one
            self._seen = list(last.values())

    def _follow(self, query: Sequence[str]) -> None:
        while not self._ending.is_set():
            for seen in self._run_once(query):
                with self._lock:
                    self._seen.append(seen)
            self._ending.wait(_RESTART_SECONDS)

    def _run_once(self, query: Sequence[str]) -> Iterator[Seen]:
        where = admin.choose_location()
        words = [*query, "--watch", "--output-watch-events", "--output=json"]
        argv = [*admin.admin_argv(self._lab.settings, "kubectl", where), "get", *words]
        process = subprocess.Popen(
            in_namespace(where.namespace, argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with self._lock:
            self._running.add(process)
        if self._ending.is_set():
            process.kill()
        try:
            yield from _read(process)
        finally:
            process.kill()
            process.wait()
            with self._lock:
                self._running.discard(process)


def _read(process: subprocess.Popen[bytes]) -> Iterator[Seen]:
    assert process.stdout is not None
    rest = ""
    while data := os.read(process.stdout.fileno(), _CHUNK_BYTES):
        found, rest = decode_objects(rest + data.decode("utf-8", "replace"))
        for event in found:
            obj = event.get("object")
            if isinstance(obj, dict) and "uid" in obj.get("metadata", {}):
                yield Seen(time.time(), str(event.get("type")), obj)
    process.stdout.close()
