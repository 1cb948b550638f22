"""`make faults SEED=n RUNS=m`: seeded faults in turn; one JSON line each, then a table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from e2e import deploy
from e2e.faults.evidence import write_evidence
from e2e.faults.observer import Observer
from e2e.faults.plan import RunPlan, plan_runs
from e2e.faults.result import RunResult, parse_results, render_summary
from e2e.faults.runner import Trial
from e2e.faults.scene import NAMESPACE, Scene
from e2e.faults.table import FAULTS, applicable, choose_expectation, find_fault
from e2e.faults.watch import Watch
from e2e.lab.api import Lab
from e2e.lab.cli import FAILURES
from e2e.lab.progress import say, step


def main() -> int:
    options = parse_options(sys.argv[1:])
    if options.list:
        for fault in FAULTS:
            print(f"{fault.name:30} {fault.told}")
        return 0
    if options.report:
        with options.report.open() as lines:
            print(render_summary(parse_results(lines)))
        return 0
    # Asked to end, it ends as after Ctrl-C: its watches with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab = Lab()
    try:
        return run_all(lab, options)
    except FAILURES as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; `python -m e2e.lab up` mends the lab")
        return 130


def parse_options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.faults", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first run; the next has one more"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--fault", default="", help="this one only, or these (A,B), with the seeds' timing"
    )
    parser.add_argument("--storage-class", default="twinvault-metro")
    parser.add_argument("--keep", action="store_true", help="leave the services when done")
    parser.add_argument("--go-on", action="store_true", help="do not stop at a run that failed")
    parser.add_argument("--no-deploy", action="store_true", help="take what is installed")
    parser.add_argument("--stable-seconds", type=int, default=10, help="of the pair, meanwhile")
    parser.add_argument("--log", type=Path, help="add each run's line to this file too")
    parser.add_argument("--report", type=Path, help="only the table of such a file")
    parser.add_argument("--list", action="store_true", help="name every fault")
    return parser.parse_args(words)


def is_replicated(lab: Lab, storage_class: str) -> bool:
    parameters = deploy.get_json(lab, f"storageclass/{storage_class}").get("parameters") or {}
    return bool(parameters.get("replicationPair"))


def set_stable_seconds(lab: Lab, storage_class: str, seconds: int | None) -> None:
    """How long a node that came back waits for its volumes; None: as the pair's schema says.

    Hundreds of runs need not wait a minute each for what one of them shows.
    """
    found = deploy.get_json(lab, f"storageclass/{storage_class}")["parameters"]
    patch = json.dumps({"spec": {"failover": {"stableSeconds": seconds}}})
    pair = f"replicationpair/{found['replicationPair']}"
    lab.kubectl("patch", pair, "--type=merge", "-p", patch)


def choose_faults(replicated: bool, only: str) -> list[str]:
    """Names to draw from; ValueError for one that does not exist or apply."""
    if not only:
        return applicable(replicated)
    names = only.split(",")
    for name in names:
        if choose_expectation(find_fault(name), replicated) is None:
            raise ValueError(f"{name} has no meaning for volumes with one replica")
    return names


def run_all(lab: Lab, options: argparse.Namespace) -> int:
    if not options.no_deploy:
        deploy.install_chart(lab)
        deploy.apply_example(lab, "two-sites.yaml")
        deploy.wait_sites(lab)
    replicated = is_replicated(lab, options.storage_class)
    plans = plan_runs(options.seed, options.runs, choose_faults(replicated, options.fault))
    scene = Scene(lab, options.storage_class)
    results: list[RunResult] = []
    with ExitStack() as undoing:
        if replicated:
            undoing.callback(set_stable_seconds, lab, options.storage_class, None)
            set_stable_seconds(lab, options.storage_class, options.stable_seconds)
        observer = undoing.enter_context(Observer(lab))
        watch = undoing.enter_context(Watch(lab, NAMESPACE, ("snapshots.twinvault.io",)))
        trial = Trial(lab, scene, observer, watch, replicated)
        with step("services of the fault runs"):
            trial.prepare()
        for plan in plans:
            results.append(run_one(trial, plan, options.storage_class))
            if options.log:
                with options.log.open("a") as log:
                    log.write(f"{results[-1].to_json()}\n")
            if not results[-1].passed and not options.go_on:
                break
        passed = all(result.passed for result in results)
        if passed and not options.keep:
            with step("removing the services"):
                scene.remove()
    print(render_summary(results), file=sys.stderr, flush=True)
    return 0 if passed else 1


def run_one(trial: Trial, plan: RunPlan, storage_class: str) -> RunResult:
    say(f"seed {plan.seed}: {plan}")
    result = trial.run(plan)
    if result.hit is not None:
        say(f"  {'hit' if result.hit else 'NOT HIT'}: {result.seen}")
    print(result.to_json(), flush=True)
    if not result.passed:
        directory = write_evidence(trial.lab, plan, result)
        for problem in result.problems[:20]:
            say(f"  PROBLEM {problem}")
        say(f"  evidence: {directory}")
        say(
            f"  again: python -m e2e.faults --seed {plan.seed} --runs 1 --fault {plan.fault}"
            f" --storage-class {storage_class}"
        )
    return result


if __name__ == "__main__":
    sys.exit(main())
