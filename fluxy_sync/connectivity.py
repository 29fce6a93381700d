"""The link: probes the upstream and sets the gate."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Literal
from urllib.parse import urljoin, urlsplit

import msgspec
import requests

from fluxy_sync.delivery import REDIRECTS, what_happened
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.flight import NETWORK_ERRORS, Flight, GuardedAdapter, boottime, flying, read_body
from fluxy_sync.journal import Journal, Tick
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import origin_of
from fluxy_sync.progress import Progress
from fluxy_sync.resolver import resolve
from fluxy_sync.settings import Settings
from fluxy_sync.tls import Tls

logger = get_logger(__name__)

TICK_S = 1.0
OFFLINE_PROBE_S = 1.0
WRONG_ANSWER_CAP_S = 30.0
OPENING_JITTER_S = 0.2
IDLE_FAILURES = 2  # an idle probe must fail this often before the gate closes
BEAT_SILENCE_S = 5.0
TICK_SLACK_S = 0.2
PROBE_ANSWER_S = 5.0  # beyond the connect timeout
PROBES_AT_ONCE = 16


class ProbeResult(msgspec.Struct, frozen=True):
    """``connected`` without ``online`` means a wrong answer: the link is there, the upstream isn't itself.

    ``date`` is the answer's, by the upstream's clock; empty where it has none.
    """

    online: bool
    connected: bool
    reason: str
    date: str = ""


class Expectation(msgspec.Struct, frozen=True):
    """What PROBE_EXPECT asks of the answer."""

    kind: Literal["any", "status", "header", "body"] = "any"
    name: str = ""
    value: str = ""

    @classmethod
    def parse(cls, text: str | None) -> "Expectation":
        """Read ``status=204``, ``header=Name: value`` or ``body=text``.

        Raises:
            ConfigError: it is none of these.
        """
        if text is None:
            return cls()
        kind, _, rest = text.partition("=")
        if kind == "status" and rest.isdecimal():
            return cls("status", value=rest)
        if kind == "body" and rest:
            return cls("body", value=rest)
        name, colon, value = rest.partition(":")
        if kind == "header" and colon and name.strip():
            return cls("header", name.strip(), value.strip())
        raise ConfigError("FLUXY_SYNC_PROBE_EXPECT: use status=204, header=Name: value or body=text")

    def accepts(self, status: int, headers: "requests.structures.CaseInsensitiveDict[str]", body: bytes) -> bool:
        if self.kind == "status":
            return status == int(self.value)
        if self.kind == "header":
            return headers.get(self.name, "").strip() == self.value
        if self.kind == "body":
            return self.value.encode() in body
        return status < 500


class Probe:
    """Asks whether the upstream answers, over a kept-alive connection."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.probe_url or f"{settings.upstream_url}/"
        self._expect = Expectation.parse(settings.probe_expect)
        self._connect_timeout_s = settings.connect_timeout_s
        self.lasts_s = settings.connect_timeout_s + PROBE_ANSWER_S  # at most
        tls = Tls.of(settings)
        if not settings.upstream or not self._same_origin(settings.upstream):
            tls = tls.anonymous
        self._adapter = GuardedAdapter(tls, settings.connect_timeout_s, PROBE_ANSWER_S, kept=1)

    def ask(self, *, anew: bool = False) -> ProbeResult:
        """Probe once; never raises for what the network does.

        Args:
            anew: over a new connection: one that was kept may have died unnoticed, which says nothing of the link.
        """
        return self._ask_tcp() if self._url.startswith("tcp://") else self._ask_http(anew=anew)

    def _ask_tcp(self) -> ProbeResult:
        parts = urlsplit(self._url)
        host, port = str(parts.hostname), int(parts.port or 0)
        try:
            addresses = resolve(host, port, self.lasts_s)
        except (OSError, UnicodeError):
            return ProbeResult(False, False, "dns")
        for address in addresses:
            with contextlib.suppress(OSError):
                socket.create_connection((address, port), timeout=self._connect_timeout_s).close()
                return ProbeResult(True, True, "connected")
        return ProbeResult(False, False, "refused")

    def _ask_http(self, *, anew: bool) -> ProbeResult:
        never = float("inf")
        flight = Flight(claim_ends=never, deadline=boottime() + self.lasts_s, link_since=never if anew else 0.0)
        try:
            with flying(flight):
                response = self._adapter.send(self._request())
                body = read_body(response)
        except NETWORK_ERRORS as error:
            return ProbeResult(False, False, what_happened(error, wrote=flight.wrote).reason)
        return self._judge(response, body)

    def _request(self) -> requests.PreparedRequest:
        # A body can only be looked at where one is sent.
        method = "GET" if self._expect.kind == "body" else "HEAD"
        headers = {"User-Agent": "fluxy-sync", "Accept-Encoding": "identity"}
        return requests.Request(method, self._url, headers=headers).prepare()

    def _judge(self, response: requests.Response, body: bytes) -> ProbeResult:
        date = response.headers.get("Date", "")
        location = response.headers.get("Location") if response.status_code in REDIRECTS else None
        if location is not None and not self._same_origin(location):
            return ProbeResult(False, True, "captive-portal", date)
        if self._expect.accepts(response.status_code, response.headers, body):
            return ProbeResult(True, True, str(response.status_code), date)
        return ProbeResult(False, True, f"wrong-answer-{response.status_code}", date)

    def _same_origin(self, location: str) -> bool:
        try:
            return origin_of(urljoin(self._url, location)) == origin_of(self._url)
        except ValueError:
            return False

    def close(self) -> None:
        self._adapter.close()


class Link:
    """Sets the gate from what probes and deliveries find; tells the consumers where that changed it.

    Args:
        announce: called with 'pause' or 'resume' after a change; an optimisation that may fail silently.
    """

    def __init__(self, journal: Journal, probe: Probe, announce: Callable[[str], None]) -> None:
        self._journal = journal
        self._probe = probe
        self._announce = announce

    @property
    def probe_lasts_s(self) -> float:
        """How long a probe may last."""
        return self._probe.lasts_s

    def recheck(self) -> ProbeResult:
        """A delivery met no answer: probe at once, and close the gate if that fails too."""
        result = self._probe.ask(anew=True)
        if not result.online:
            self.close(result.reason)
        return result

    def probe(self, *, anew: bool = False) -> ProbeResult:
        """Probe, and change nothing; see ``Probe.ask``."""
        return self._probe.ask(anew=anew)

    def close(self, reason: str) -> None:
        """The link is down."""
        if self._journal.close_gate("offline", reason):
            logger.warning("The upstream is unreachable (%s): deliveries pause, everything queued is kept.", reason)
            self._announce("pause")

    def refuse(self, reason: str) -> None:
        """The upstream refuses the credentials. Consumers listen on: now and then one operation is let through."""
        if self._journal.close_gate("unauthorized", reason):
            logger.error(
                "The upstream refuses the credentials (%s): everything queued is kept; check FLUXY_SYNC_AUTH_*. "
                "Deliveries go on by themselves when they work again.",
                reason,
            )

    def take(self) -> None:
        """The upstream takes the credentials again."""
        if self._journal.open_gate("unauthorized"):
            logger.info("The upstream takes the credentials again: deliveries go on.")

    def open(self) -> None:
        """The link is back; claims begin within the jitter, so that many gateways don't return at once."""
        if self._journal.open_gate("offline", opens_in_s=random.uniform(0, OPENING_JITTER_S)):  # noqa: S311 -- jitter
            logger.info("The upstream answers again: deliveries go on.")
            self._announce("resume")


class Prober:
    """Probes beside other duties, and without waiting for earlier probes: one on a dead link lasts for seconds.

    Args:
        ask: probes once; None where no probe was made.
        judge: is given what a probe found, unless a later probe has been judged already; never two at once.
    """

    def __init__(self, ask: Callable[[], ProbeResult | None], judge: Callable[[ProbeResult], None]) -> None:
        self._ask, self._judge = ask, judge
        self._lock = threading.Lock()
        self._begun, self._judged = 0, 0  # numbers of probes
        self._threads: list[threading.Thread] = []

    @property
    def is_busy(self) -> bool:
        """Whether a probe is under way."""
        return self._running() > 0

    def _running(self) -> int:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return len(self._threads)

    def probe(self) -> None:
        """Begin a probe; not where far too many are under way."""
        if self._running() >= PROBES_AT_ONCE:
            return
        self._begun += 1
        thread = threading.Thread(target=self._run, args=(self._begun,), name="fluxy-probe", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, number: int) -> None:
        result = self._ask()
        with self._lock:
            if result is not None and number > self._judged:
                self._judged = number
                self._judge(result)


class Watch:
    """The connectivity check: tick the journal, wake a worker where a lane is due, and probe when that is due.

    Args:
        wake: publishes a token where the queue is empty.
        deliveries_tell: a delivery is as good as a probe. Not where somebody else may take it with a 2xx.
    """

    def __init__(
        self,
        journal: Journal,
        link: Link,
        *,
        role: Literal["beat", "steward"],
        name: str,
        interval_s: float,
        wake: Callable[[], object],
        deliveries_tell: bool = True,
    ) -> None:
        self.journal, self.link, self._role, self._name = journal, link, role, name
        self._interval_s = interval_s
        self._wake = wake
        self._deliveries_tell = deliveries_tell
        self._prober = Prober(self._probe, self._judge)
        self._last_probe = float("-inf")  # monotonic
        self._offline = False  # as the last tick said
        self._failures = 0
        self._wrong_answers = 0
        self._forget_wake = role == "steward"
        self._progress = Progress()

    def tick(self) -> Tick:
        """The part that every steward does each second, too."""
        tick = self.journal.tick(self._role, self._name, forget_wake=self._forget_wake)
        self._forget_wake = False
        return tick

    def check(self, tick: Tick | None = None) -> Tick:
        """The whole check. The tick comes first and needs no lock: slow DNS must not delay it."""
        tick = tick or self.tick()
        if tick.wants_token:
            self._wake()
        self._progress.note(tick, self.journal)
        self._offline = tick.offline
        if self._probe_is_due(tick):
            self._last_probe = time.monotonic()
            self._prober.probe()
        return tick

    def _probe_is_due(self, tick: Tick) -> bool:
        if self._prober.is_busy and not (self._failures or tick.offline):
            return False
        delivered = tick.delivered_ago_s if self._deliveries_tell else None
        if tick.gate == "open" and not self._failures and delivered is not None and delivered < self._interval_s:
            return False
        return time.monotonic() - self._last_probe >= self._pause_s(offline=tick.offline)

    def _pause_s(self, *, offline: bool) -> float:
        """Seconds between two probes; a little less than whole ticks, as looks come a hair early or late."""
        if self._wrong_answers:
            return min(OFFLINE_PROBE_S * 2.0 ** (self._wrong_answers - 1), WRONG_ANSWER_CAP_S) - TICK_SLACK_S
        return (OFFLINE_PROBE_S if offline or self._failures else self._interval_s) - TICK_SLACK_S

    def _probe(self) -> ProbeResult | None:
        offline = self._offline
        try:
            won = self.journal.win_probe(self._pause_s(offline=offline))
            anew = offline or self._failures > 0 or not self._deliveries_tell
            return self.link.probe(anew=anew) if won else None
        except StorageUnavailable as error:
            logger.warning("The upstream was not probed: %s", error)
            return None

    def _judge(self, result: ProbeResult) -> None:
        try:
            self._set_gate(result)
        except StorageUnavailable as error:
            logger.warning("The gate was not set: %s", error)

    def _set_gate(self, result: ProbeResult) -> None:
        self._wrong_answers = self._wrong_answers + 1 if result.connected and not result.online else 0
        if result.online:
            self._failures = 0
            self.link.open()
            if self.tick().wants_token:
                self._wake()
            return
        self._failures += 1
        if self._failures >= IDLE_FAILURES:
            self.link.close(result.reason)
