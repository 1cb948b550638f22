"""Hears every acknowledgement, outside both sites.

Writers send a datagram for each at once. It comes over their node's own channel, not over the
links between the sites, so that also a site that is cut off from everybody is heard: what it
acknowledges then must be there later, or it was wrong to.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time

from e2e.faults.acknowledged import Acknowledgement, parse_acknowledgement
from e2e.lab.api import Lab, LabError
from e2e.lab.progress import wait_until

PORT = 7171
_WAKE_SECONDS = 0.2


class Observer:
    """Use as a context; times are seconds of ``time.time``, which the nodes share."""

    def __init__(self, lab: Lab) -> None:
        try:
            self._sockets = [lab.listen(node.name, PORT) for node in lab.nodes]
        except OSError as error:
            raise LabError(f"port {PORT} of the lab: {error}; is another fault run on?") from error
        self._heard: list[Acknowledgement] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="observer", daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for one in self._sockets:
            one.close()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in self._sockets:
                one.setblocking(False)
                selector.register(one, selectors.EVENT_READ)
            while not self._ending.is_set():
                for key, _ in selector.select(_WAKE_SECONDS):
                    assert isinstance(key.fileobj, socket.socket)
                    self._drain(key.fileobj)

    def _drain(self, one: socket.socket) -> None:
        while True:
            try:
                datagram = one.recv(512)
            except BlockingIOError:
                return
            heard = parse_acknowledgement(datagram, time.time())
            if heard is not None:
                with self._lock:
                    self._heard.append(heard)

    def heard(self, since: float = 0.0) -> list[Acknowledgement]:
        with self._lock:
            return [one for one in self._heard if one.at >= since]

    def forget(self, before: float) -> None:
        """Drop what was heard earlier; its writes were checked."""
        with self._lock:
            self._heard = [one for one in self._heard if one.at >= before]

    def times(self, service: str) -> list[float]:
        with self._lock:
            return [one.at for one in self._heard if one.service == service]

    def last(self, service: str) -> float:
        """When the service was heard last; 0 for never."""
        with self._lock:
            return next((o.at for o in reversed(self._heard) if o.service == service), 0.0)

    def wait_heard(self, service: str, since: float, timeout_seconds: float) -> None:
        """Until something of the service is acknowledged at or after ``since``."""
        wait_until(
            f"an acknowledgement of {service}",
            lambda: self.last(service) >= since,
            timeout_seconds=timeout_seconds,
            interval_seconds=0.05,
            explain=lambda: f"the last came {time.time() - self.last(service):.1f} s ago",
        )
