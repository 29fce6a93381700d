"""Exceptions that no row of the outcome table names: the worker's own fault, for which nothing leaves its lane."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxy_sync import FluxySync, SyncTask
from fluxy_sync.vault import new_key
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

MARKER = "xyzzy-said-by-an-error"
ERRORS = (
    "AttributeError", "TypeError", "KeyError", "ValueError", "UnicodeDecodeError", "RuntimeError", "RecursionError",
    "MemoryError", "AssertionError", "SoftTimeLimitExceeded", "NotRegistered", "OperationalError", "QueueFull",
    "StorageUnavailable", "FileNotFoundError", "OSError", "SSLError", "ConnectionResetError",
)  # fmt: skip
NOT_THE_TASKS = (
    "MemoryError", "SoftTimeLimitExceeded", "NotRegistered", "OperationalError", "QueueFull", "StorageUnavailable",
)  # fmt: skip
NAMED_BY_THE_TABLE = ("SSLError", "ConnectionResetError")
UNSENT = ("opening", "preparing", "connecting")
SENT = ("writing", "reading", "settling", "journal")
DELIVERED = ("body", "answered", "telling")
SECONDS = 60.0


class Trial:
    """A gateway whose worker fails, and what was queued there."""

    def __init__(self, gateway: Gateway, server: Upstream) -> None:
        self.gateway, self.server = gateway, server
        self.sync = FluxySync(gateway.settings(imports=()))

        @self.sync.app.task(name="failing.own", base=SyncTask, shared=False)
        def own(number: int) -> None:
            """As a producer knows it; it runs in the worker."""

        self.task = own
        self.cured = Path(gateway.environment["CURED"])

    def paths(self, lane: str) -> list[str]:
        """What arrived of a lane, each once, in the order in which it came first."""
        return list(dict.fromkeys(r["path"] for r in self.server.requests() if r["path"].startswith(f"/{lane}/")))

    @property
    def held_for(self) -> dict[str, int]:
        return self.sync.status().held_for


@pytest.fixture
def trial(store_url: str, namespace: str, upstream: Upstream, tmp_path: Path) -> Iterator[Trial]:
    settings = {
        "REDIS_URL": store_url, "KEYS": new_key(), "UPSTREAM": upstream.url, "NAMESPACE": namespace,
        "DATA_DIR": str(tmp_path / "data"), "IMPORTS": "tests.failing_worker",
    }  # fmt: skip
    gateway = Gateway(settings, tmp_path)
    gateway.environment |= {"CURED": str(tmp_path / "cured"), "NOTES": str(tmp_path / "notes")}
    upstream.start()
    yield Trial(gateway, upstream)
    gateway.close()


def queue_all(trial: Trial, steps: tuple[str, ...]) -> list[str]:
    lanes = [f"{step}/{error}" for step in steps for error in ERRORS]
    for lane in lanes:
        for number in (1, 2):
            trial.sync.queue("POST", f"/{lane}/{number}", body={"n": number}, lane=lane, keep_result=True)
    return lanes


@pytest.mark.timeout(180)
@pytest.mark.parametrize("step", [*UNSENT, *SENT])
def test_an_exception_that_the_table_does_not_name_holds_its_lane(trial: Trial, step: str) -> None:
    """Whatever it is, wherever it strikes: no dead letter, and loud; once its cause is gone, all goes on in order."""
    lanes = queue_all(trial, (step,))
    trial.gateway.start("worker", "beat")
    ours = [error for error in ERRORS if error not in NAMED_BY_THE_TABLE]
    shown: set[str] = set()

    def all_were_shown() -> bool:
        shown.update(trial.held_for)
        return shown >= {f"worker-error:{error}" for error in ours if is_shown(step, error)}

    wait_until(all_were_shown, SECONDS, f"only {shown}")
    status = trial.sync.status()
    assert (status.dead, status.pending) == (0, 2 * len(lanes))
    trial.cured.touch()
    wait_until(lambda: trial.sync.status().pending == 0, SECONDS, "the rest")
    assert trial.sync.status().dead == 0
    for lane in lanes:
        assert trial.paths(lane) == [f"/{lane}/1", f"/{lane}/2"]
    log = trial.gateway.log("worker")
    assert MARKER not in log
    assert "The worker failed at the operation" in log
    assert "failing_worker.py" in log


def is_shown(step: str, error: str) -> bool:
    """Whether the lane is held: a store that is away can't be told to; the claim is given up once it is back."""
    return not (error == "StorageUnavailable" and step in ("settling", "journal", "opening"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("step", DELIVERED)
def test_what_the_upstream_took_is_delivered_whatever_fails_afterwards(trial: Trial, step: str) -> None:
    """Its 2xx had arrived: the body, the kept answer, a signal may fail. It isn't sent again, and nothing is held."""
    lanes = queue_all(trial, (step,))
    named = [f"{step}/{error}" for error in NAMED_BY_THE_TABLE] if step == "body" else []
    trial.gateway.start("worker", "beat")
    left = 2 * len(named)
    wait_until(lambda: trial.sync.status().pending == left, SECONDS, f"{trial.held_for} {trial.sync.status()}")
    status = trial.sync.status()
    assert (status.dead, status.delivered_total) == (0, 2 * len(lanes) - left)
    for lane in set(lanes) - set(named):
        assert [r["path"] for r in trial.server.requests() if r["path"].startswith(f"/{lane}/")] == [
            f"/{lane}/1", f"/{lane}/2",
        ]  # fmt: skip
    log = trial.gateway.log("worker")
    assert MARKER not in log
    assert "failing_worker.py" in log
    trial.cured.touch()
    wait_until(lambda: trial.sync.status().pending == 0, SECONDS, "the rest")


@pytest.mark.timeout(120)
def test_a_bad_upgrade_empties_no_backlog(trial: Trial) -> None:
    """A name of urllib3 is gone: 50 operations keep their places, loudly; with it, they are delivered."""
    sync = trial.sync
    for number in range(50):
        sync.queue("POST", f"/upgrade/{number}", lane=f"upgrade-{number % 5}")
    trial.gateway.environment["FLUXY_SYNC_IMPORTS"] = "tests.upgraded"
    trial.gateway.start("worker", "beat")
    wait_until(lambda: trial.held_for == {"worker-error:AttributeError": 5}, SECONDS)
    status = sync.status()
    assert (status.pending, status.held, status.dead) == (50, 50, 0)
    (found,) = [check for check in sync.doctor().checks if check.name == "queue"]
    assert found.state == "failed"
    assert "5 lanes held: the worker failed with AttributeError; nothing was lost" in found.found
    assert "flight.py" in trial.gateway.log("worker")
    trial.gateway.stop("worker")
    trial.gateway.environment["FLUXY_SYNC_IMPORTS"] = ""
    trial.gateway.start("worker")
    wait_until(lambda: sync.status().pending == 0, SECONDS, "all is delivered")
    assert sync.status().dead == 0
    for lane in range(5):
        arrived = [n for n in (int(r["path"].rpartition("/")[2]) for r in trial.server.requests()) if n % 5 == lane]
        assert arrived == list(range(lane, 50, 5))


@pytest.mark.timeout(120)
def test_a_task_that_fails_by_no_fault_of_its_own_waits(trial: Trial) -> None:
    """The store, no memory, a soft time limit, Celery's own: its lane waits. What the task itself raises: dead."""
    for error in (*NOT_THE_TASKS, "KeyError"):
        for number in (1, 2):
            trial.task.apply_async((number,), lane=f"running/{error}")
    trial.gateway.start("worker", "beat")
    wait_until(
        lambda: {f"worker-error:{error}" for error in NOT_THE_TASKS} <= set(trial.held_for),
        SECONDS,
        f"{trial.held_for}",
    )
    wait_until(lambda: trial.sync.status().dead == 2)
    assert {letter.reason for letter in trial.sync.dead_letters()} == {"KeyError"}
    trial.cured.touch()
    wait_until(lambda: trial.sync.status().pending == 0, SECONDS)
    notes = Path(trial.gateway.environment["NOTES"]).read_text().splitlines()
    for error in NOT_THE_TASKS:
        assert [line for line in notes if f"/{error} " in line] == [f"running/{error} 1", f"running/{error} 2"]
    assert trial.sync.status().dead == 2
