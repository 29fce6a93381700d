"""Hostile input from the other sides: the upstream's answers, a browser at the dashboard, a shell."""

import logging
import re
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import redis
from click.testing import CliRunner

from fluxy_sync.cli import cli
from fluxy_sync.delivery import Delivery, Flight, Reply, Request, boottime
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Journal, NewRecord, Store, connect
from fluxy_sync.journal.keys import Keys
from fluxy_sync.operation import Verdict
from fluxy_sync.settings import Settings
from fluxy_sync.vault import new_key
from tests.chaos.forged_values import FAULTS, put_back
from tests.chaos.forger import Forger
from tests.chaos.hostile_answers import EVIL, HostileServer, hostile, hostile_server
from tests.chaos.hostile_requests import Asked, ask, asked
from tests.chaos.hostile_words import command_line, odd_settings
from tests.chaos.trial import Run, trial
from tests.dashboard import Dashboard
from tests.journal_state import Entry

DEADLINE_S = 0.5
READ_TIMEOUT_S = 0.4
MOST_MEMORY_MIB = 8.0  # for one exchange: 1 MiB is taken from a socket at most, and 64 KiB of a body kept
REASON = re.compile(r"[a-z0-9-]{1,40}")


class Heard(logging.Handler):
    """All that was logged, at any level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@trial()
def hostile_answers(run: Run) -> None:
    """Whatever the upstream answers: one exchange ends in time and little memory, and is never taken for the next.

    Status lines, headers and framing that contradict each other, 1 MiB of them, endless bodies, gzip bombs, what is
    written behind an answer. After each the next request gets its own answer; nothing of any answer is logged.
    """
    heard, root = Heard(), logging.getLogger()
    level = root.level
    root.addHandler(heard)
    root.setLevel(logging.DEBUG)
    try:
        with hostile_server() as (server, running):
            settings = Settings(upstream=running.url, connect_timeout_s=1.0, read_timeout_s=READ_TIMEOUT_S)
            exchange_all(run, server, Delivery(settings))
    finally:
        root.removeHandler(heard)
        root.setLevel(level)
    told = "\n".join(heard.texts)
    run.check(EVIL.decode() not in told and "/hostile" not in told, "an answer or a path was logged")


def exchange_all(run: Run, server: HostileServer, delivery: Delivery) -> None:
    verdicts: Counter[str] = Counter()
    slowest, largest, count, lost = 0.0, 0.0, 0, 0
    tracemalloc.start()
    ends = time.monotonic() + run.scale(5.0, 180.0)
    while time.monotonic() < ends:
        server.next = answer = hostile(run.chance)
        tracemalloc.reset_peak()
        before, began = tracemalloc.get_traced_memory()[0], boottime()
        reply = send(delivery, "/hostile")
        slowest = max(slowest, boottime() - began)
        largest = max(largest, (tracemalloc.get_traced_memory()[1] - before) / 2**20)
        check_reply(run, reply, repr(answer)[:2000])
        verdicts[reply.outcome.verdict.value] += 1
        mine = f"/right/{count}"
        right = send(delivery, mine)
        lost += right.outcome.status is None
        # While bytes still come nobody can tell them from the answer to a request that has just gone out.
        told = right.outcome.status is None or right.body == mine.encode() or answer.ending == "trickle"
        run.check(told, f"{right} is the answer to {mine}, after {repr(answer)[:2000]}")
        count += 1
    tracemalloc.stop()
    delivery.close()
    run.figure("answers", count)
    run.figure("lost requests after one", lost)
    run.figure("slowest exchange", slowest, "s", at_most=DEADLINE_S + 0.5)
    run.figure("most memory for one", largest, "MiB", at_most=MOST_MEMORY_MIB)
    for verdict in sorted(verdicts):
        run.figure(f"of these {verdict}", verdicts[verdict])


def send(delivery: Delivery, path: str) -> Reply:
    now = boottime()
    request = Request("POST", delivery.upstream + path, {"Content-Length": "1"}, b"x")
    return delivery.send(request, Flight(now + 60, now + DEADLINE_S))


def check_reply(run: Run, reply: Reply, answer: str) -> None:
    """A known verdict with a fixed code; and a delivery only where a 2xx came."""
    outcome = reply.outcome
    run.check(REASON.fullmatch(outcome.reason), f"the reason {outcome.reason!r} after {answer}")
    delivered = outcome.verdict is Verdict.DELIVERED
    run.check(delivered == (outcome.status is not None and 200 <= outcome.status < 300), f"{outcome} after {answer}")
    later = outcome.retry_after_s
    run.check(later is None or 0 <= later <= 300, f"Retry-After is {later} after {answer}")


# --- the dashboard

SECRET_LANE = "lane-of-nobody-else"
READS = ("/api/sync", "/api/sync/lanes", "/api/sync/dead", "/api/sync/history", "/metrics", "/sync")
ACTIONS: dict[str, dict[str, object]] = {
    "/api/sync/pause": {}, "/api/sync/resume": {}, "/api/sync/dead/replay": {"all": True},
    "/api/sync/dead/drop": {"ids": ["secret-dead"]}, "/api/task/revoke/secret-2": {},
}  # fmt: skip
ASKERS = 8  # at a time
PATIENCE_S = 0.3  # with one that waits for the rest of what was sent


@trial()
def hostile_requests(run: Run) -> None:
    """Whatever is asked of the dashboard: no 5xx, no traceback; and whoever didn't sign in learns nothing.

    All addresses, Flower's own too, by all methods, with path tricks, odd hosts, origins, cookies, ranges and bodies.
    """
    with EmbeddedStore(run.folder / "store") as store:
        store.wait_ready()
        journal = Journal(Store(connect(store.url)), "chaos")
        journal.append(
            [NewRecord("secret-id", SECRET_LANE, b"keyIsealed"), NewRecord("secret-2", SECRET_LANE, b"keyIx")]
        )
        journal.bury(NewRecord("secret-dead", SECRET_LANE, b"keyIx"), "unsealed")
        settings = {
            "FLUXY_SYNC_REDIS_URL": store.url, "FLUXY_SYNC_NAMESPACE": "chaos", "FLUXY_SYNC_DATA_DIR": str(run.folder),
        }  # fmt: skip
        dashboard = Dashboard(settings, run.folder).start()
        try:
            ask_all(run, dashboard)
            ask_meanwhile(run, dashboard, store.url)
            record = dashboard.record()  # it still serves who may come in
            run.check({"pending", "dead"} <= record.keys(), f"it tells {record}")
        finally:
            dashboard.end()
        journal.store.close()


def ask_all(run: Run, dashboard: Dashboard) -> None:
    statuses: Counter[str] = Counter()
    requests = [asked(run.chance) for _ in range(run.scale(1500, 60_000))]
    with ThreadPoolExecutor(ASKERS) as askers:
        answers = askers.map(lambda request: ask(dashboard.port, request.data, PATIENCE_S), requests)
        for request, answer in zip(requests, answers, strict=True):
            statuses[check_answer(run, dashboard, request, answer)] += 1
    run.check("Traceback" not in dashboard.log, f"a traceback in {dashboard.log_path}")
    for kind in sorted(statuses):
        run.figure(f"answers {kind}", statuses[kind])


def ask_meanwhile(run: Run, dashboard: Dashboard, url: str) -> None:
    """While the store holds nonsense: what can't be read is unavailable, and no error of the dashboard."""
    statuses: Counter[int] = Counter()
    with redis.Redis.from_url(url) as client:
        keys = Keys("chaos")
        all_keys = [*keys.fixed, keys.samples, keys.histogram, keys.audit]
        for _ in range(run.scale(20, 1_000)):
            key, fault = run.chance.choice(all_keys), run.chance.choice(FAULTS)
            before = client.dump(key)
            fault(client, key, run.chance)
            answers = [dashboard.get(path) for path in READS] + [
                dashboard.post(path, body) for path, body in ACTIONS.items()
            ]
            for answer in answers:
                statuses[answer.status_code] += 1
                run.check(
                    answer.status_code in (200, 404, 503), f"{answer.url}: {answer.status_code}, {fault.__name__} {key}"
                )
            put_back(client, key, before)
    run.check("Traceback" not in dashboard.log, f"a traceback in {dashboard.log_path}")
    for status in sorted(statuses):
        run.figure(f"answers {status} while the store holds nonsense", statuses[status])


def check_answer(run: Run, dashboard: Dashboard, request: Asked, answer: bytes) -> str:
    """Returns its kind."""
    answer = answer.removeprefix(b"HTTP/1.1 100 (Continue)\r\n\r\n")
    shown, status = repr(request.data[:600]), answer[9:12].decode("latin-1")
    run.check(not answer or answer.startswith(b"HTTP/1.1 "), f"{answer[:100]!r} is the answer to {shown}")
    run.check(not status.startswith("5"), f"{status} is the answer to {shown}")
    assert dashboard.process is not None
    run.check(dashboard.process.poll() is None, f"the dashboard ended after {shown}")
    told = SECRET_LANE.encode() in answer or b"secret-" in answer.partition(b"\r\n\r\n")[2]
    run.check(request.signed_in or not told, f"it told a stranger {answer[:2000]!r}, who asked {shown}")
    return f"{status[:1]}xx" if answer else "none"


# --- the command line

EXIT_CODES = (0, 1, 2, 3)
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would act upon


@trial()
def hostile_words(run: Run) -> None:
    """Whatever stands on the command line: it ends with 0 to 3, without a traceback, and steers no terminal.

    Beside a store that somebody has written odd names and values into.
    """
    with EmbeddedStore(run.folder / "store") as store:
        store.wait_ready()
        given = {
            "FLUXY_SYNC_REDIS_URL": store.url, "FLUXY_SYNC_NAMESPACE": "chaos", "FLUXY_SYNC_KEYS": new_key(),
            "FLUXY_SYNC_DATA_DIR": str(run.folder / "data"), "FLUXY_SYNC_UPSTREAM": "http://127.0.0.1:1",
        }  # fmt: skip
        codes: Counter[int] = Counter()
        ends = time.monotonic() + run.scale(3.0, 180.0)
        while time.monotonic() < ends:
            if sum(codes.values()) % 50 == 0:
                litter(run, store.url)
            arguments, odd = command_line(run.chance), odd_settings(run.chance)
            codes[run_command(run, arguments, given | odd)] += 1
    for code in sorted(codes):
        run.figure(f"exit code {code}", codes[code])


def litter(run: Run, url: str) -> None:
    """Odd lanes, records, dead letters and reasons, as somebody with write access leaves them."""
    with redis.Redis.from_url(url) as client:
        forger = Forger(client, "chaos", run.chance)
        for lane in ("ok", "\x1b[2Jlane", "\u202elane"):
            record = Entry(forger.id(), 1, 0, 0, forger.noise()).stored
            forger.put(lane, run.chance.choice([record, forger.noise(), b""]))
        prefix = forger.keys.prefix
        client.zadd(f"{prefix}oldest", {b"\xff\xfe": 1})
        client.hset(f"{prefix}held", b"\xff", run.chance.choice([b"0 \x1b[2J", b"\xff", b"", b"x"]))
        client.hset(f"{prefix}gate", "paused", run.chance.choice([b"1 by \x1b[2Jsomebody", b"\xff\xfe", b""]))
        number = client.hincrby(f"{prefix}counts", "dead_seq", 1)
        client.hset(
            forger.keys.dead,
            b"\4dead",
            run.chance.choice([b"", forger.noise(), b"\1\x1b\1\x1b" + bytes(14) + forger.noise()]),
        )
        client.zadd(forger.keys.dead_index, {b"\4dead": number})
        client.xadd(forger.keys.audit, {b"who": b"\x1b[2J", b"\xff": b"\xff"})


def run_command(run: Run, arguments: list[str], settings: Mapping[str, str | None]) -> int:
    """Run one in this process: a process of its own for each would take most of the time to start."""
    result = CliRunner().invoke(cli, arguments, env=settings, input="\n")
    shown = f"fluxy-sync {arguments} {[name for name in settings if name not in GIVEN]}"
    trace = "".join(traceback.format_exception(result.exception)) if result.exception else ""
    run.check(result.exception is None or isinstance(result.exception, SystemExit), f"{shown}:\n{trace[-3000:]}")
    run.check(result.exit_code in EXIT_CODES, f"{shown} ended with {result.exit_code}")
    run.check("Traceback" not in result.output, f"{shown}: {result.output[-3000:]}")
    found = STEERS.search(result.output)
    run.check(
        found is None or "--help" in arguments,
        f"{shown} wrote {found and result.output[max(0, found.start() - 80) :][:200]!r}",
    )
    return result.exit_code


GIVEN = (
    "FLUXY_SYNC_REDIS_URL",
    "FLUXY_SYNC_NAMESPACE",
    "FLUXY_SYNC_KEYS",
    "FLUXY_SYNC_DATA_DIR",
    "FLUXY_SYNC_UPSTREAM",
)
