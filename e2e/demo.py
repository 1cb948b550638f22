"""`make demo`: the lab, twinvault on it, and a hospital at work at both sites: the registration of
its HIS at east and of its EMR at west, each PostgreSQL on a volume that both sites hold.
"""

from __future__ import annotations

import sys
import time

from e2e import deploy
from e2e.hospital import Hospital
from e2e.lab import cluster
from e2e.lab.api import Lab
from e2e.lab.cli import FAILURES
from e2e.lab.progress import say, step

_SHOWN = (
    ("get", "nodes", "-L", "topology.kubernetes.io/zone"),
    ("get", "storageclusters,storagenodes,replicationpairs"),
    ("get", "pods", "-A", "-o", "wide"),
    ("get", "pvc", "-A"),
    ("get", "volumes.twinvault.io,volumereplicas"),
)

SYSTEMS = ("his", "emr")
_NEXT = """
The lab goes on running. Look around:
  python3 -m e2e.lab status
  python3 -m e2e.lab kubectl describe volumes.twinvault.io
  python3 -m e2e.lab kubectl -n his logs -f deployment/registration
  python3 -m e2e.lab kubectl apply -f examples/snapshot.yaml
  make demo-failover                      # east loses its power; HIS goes on at west
  make demo-down                          # removes everything
"""


def main() -> int:
    begun = time.monotonic()
    lab = Lab()
    try:
        cluster.up(lab.settings)
        deploy.install_chart(lab)
        deploy.apply_example(lab, "two-sites.yaml")
        deploy.wait_sites(lab)
        deploy.apply_example(lab, "active-active.yaml")
        systems = [Hospital(lab, name) for name in SYSTEMS]
        for system in systems:
            with step(f"waiting for PostgreSQL of {system.namespace}"):
                system.wait_ready()
        for system in systems:
            with step(f"waiting for {system.namespace} to register patients"):
                system.wait_registered(system.count_patients() + 10)
    except FAILURES as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; `make demo` goes on from here, `make demo-down` removes everything")
        return 130
    for words in _SHOWN:
        deploy.show(lab, *words)
    for system in systems:
        say(f"{system.namespace} at {system.node()}: {system.count_patients()} patients")
    say(f"{time.monotonic() - begun:.0f} s")
    say(_NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
