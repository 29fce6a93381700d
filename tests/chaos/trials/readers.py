"""Garbage wherever something is read that isn't sealed."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.garbage import Garbage
from tests.chaos.reader_bench import Bench
from tests.chaos.reader_cases import CASES
from tests.chaos.reader_store import stored_values
from tests.chaos.scene import WORKER, Scene, scene
from tests.chaos.trial import Run, trial
from tests.chaos.trials.forgery import judge
from tests.dashboard import Dashboard


@trial()
def readers(run: Run) -> None:
    """Whatever is written where something unsealed is read: it does no more than docs/SECURITY-MODEL.md says.

    Into each place of its table garbage of all kinds, under a worker, a dashboard and a command line that run. All
    cases are tried, whatever breaks in one.
    """
    broken: dict[str, str] = {}
    with scene(run) as here, bench_of(run, here) as bench:
        last = {"what was logged": judge_logs, "what arrived": lambda _: judge(here)}
        for place, case in (CASES | last).items():
            began = time.monotonic()
            try:
                case(bench)
            except Exception as error:  # noqa: BLE001 -- the other places are tried, too
                broken[place] = "".join(traceback.format_exception(error))[-3000:]
                run.note(f"{place}: BROKEN: {' '.join(str(error).split())[:300]}")
                here.sync.resume()
                bench.memory.clear()
            run.note(f"{place}: {time.monotonic() - began:.1f} s")
        run.figure("places", len(CASES))
        run.figure("places that did more than they may", len(broken), at_most=0)
        run.figure("values written", bench.garbage.written)
    run.check(not broken, "\n\n".join(f"{place}:\n{why}" for place, why in broken.items()))


def judge_logs(bench: Bench) -> None:
    """Nothing that was written steers the terminal of whoever reads the logs."""
    for name, text in {
        WORKER: bench.here.stage.gateway.log(WORKER), "beat": bench.here.stage.gateway.log("beat"),
        "dashboard": beginning(bench.dashboard.log_path),
    }.items():  # fmt: skip
        bench.clean(text, f"all cases, in the log of {name}")


def beginning(path: Path, most: int = 16 * 2**20) -> str:
    """The first part of a log, as text."""
    with path.open("rb") as log:
        return log.read(most).decode("utf-8", "replace")


@contextmanager
def bench_of(run: Run, here: Scene) -> Iterator[Bench]:
    """The gateway and its dashboard run, and something lies in each place."""
    environment = here.stage.gateway.environment
    dashboard_settings = {name: value for name, value in environment.items() if "KEYS" not in name}
    here.stage.gateway.start(WORKER, "beat")
    (run.folder / "dashboard").mkdir()
    dashboard = Dashboard(dashboard_settings, run.folder / "dashboard").start()
    try:
        garbage = Garbage(run, lambda: stored_values(here.forger.client, here.stage.namespace))
        folder = run.folder / "garbage"
        folder.mkdir(mode=0o700)
        bench = Bench(run, here, dashboard, garbage, folder, environment)
        here.stage.upstream.script("/refused", [{"status": 422, "body": "no"}])
        here.queue("refused", "/refused")  # a dead letter
        bench.still_works("the start")
        yield bench
    finally:
        dashboard.end()
