"""The upstream, the gate in front of it, and the clock."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from fluxy_sync.connectivity import Probe, ProbeResult
from fluxy_sync.doctor.check import Check, Issue, conclude
from fluxy_sync.doctor.patient import Patient, Probed
from fluxy_sync.journal import Snapshot
from fluxy_sync.settings import ENV_PREFIX
from fluxy_sync.words import TLS, address_of, duration, millis, reason_text

CLOCK_SLACK_S = 5.0
EARLIEST_NOW = datetime(2024, 1, 1, tzinfo=UTC).timestamp()  # a clock before this was never set
SET_CLOCK = "set it: 'timedatectl set-ntp true', or install chrony"

# What to do about each reason why the upstream can't be reached.
ADVICE = {
    "refused": ("connection refused", "is the server running? check the address and port in {setting}"),
    "dns": ("its name can't be resolved", "check the link, /etc/resolv.conf, and the name in {setting}"),
    "no-route": ("no route to it", "check the cable or modem, and the default route ('ip route')"),
    "connect-timeout": ("no answer to the connection", "check the link, and what filters it ('ip route', firewalls)"),
    "read-timeout": ("no answer to the request", "the link is there, but the server is silent: look at the server"),
    "connection-lost": ("the connection was lost", "look at the server, and at proxies on the way to it"),
    "tls": ("the TLS handshake failed", "check the clock, FLUXY_SYNC_CA_BUNDLE and _CLIENT_CERT, and its certificate"),
    "captive-portal": ("a captive portal answers in its place", "log in to the network's portal"),
    "invalid-url": ("its URL can't be read", "correct {setting}"),
}
CERTIFICATE_ADVICE = (
    "check the clock and FLUXY_SYNC_CA_BUNDLE; renew the certificate, or its authority's; one that only breaks a rule "
    "of RFC 5280 is taken with FLUXY_SYNC_TLS_STRICT=0"
)
WRONG_ANSWER = "wrong-answer-"
OTHER_ADVICE = "look at the server, and check {setting}"


def check_upstream(patient: Patient) -> Check:
    """Probe the upstream as beat does."""
    settings = patient.settings
    probe = Probe(settings)
    try:
        patient.probed = Probed(probe)
    finally:
        probe.close()
    setting = f"{ENV_PREFIX}{'PROBE_URL' if settings.probe_url else 'UPSTREAM'}"
    url = settings.probe_url or settings.upstream_url
    return judge_upstream(address_of(url), patient.probed.result, patient.probed.took_s, setting)


def judge_upstream(url: str, result: ProbeResult, took_s: float, setting: str) -> Check:
    """What a probe found; ``setting`` names where the URL comes from."""
    if result.online:
        answer = "connected" if url.startswith("tcp:") else f"answers {result.reason}"
        return conclude("upstream", f"{url}: {answer} in {millis(took_s)}")
    found, advice = ADVICE.get(result.reason, (result.reason, OTHER_ADVICE))
    if result.reason.startswith(TLS):
        found, advice = reason_text(result.reason), CERTIFICATE_ADVICE
    if result.reason.startswith(WRONG_ANSWER):
        found = f"it answers {result.reason.removeprefix(WRONG_ANSWER)}"
        advice = "look at the server, and check FLUXY_SYNC_PROBE_EXPECT and FLUXY_SYNC_PROBE_URL"
    return conclude("upstream", "", [Issue("failed", f"{url}: {found}", advice.format(setting=setting))])


def check_gate(patient: Patient) -> Check:
    """Whether deliveries may begin."""
    settings = patient.settings
    names = [name for name in type(settings).model_fields if name.startswith("auth_") and getattr(settings, name)]
    online = patient.probed.result.online if patient.probed is not None else None
    variables = [f"{ENV_PREFIX}{name.upper()}" for name in names]
    return judge_gate(patient.snapshot, int(patient.store_now * 1000), variables, online=online)


def judge_gate(snapshot: Snapshot, now_ms: int, credentials: Sequence[str], *, online: bool | None) -> Check:
    """Whether deliveries may begin, and why not.

    Args:
        now_ms: wall time by the store's clock.
        credentials: the variables that are set for the upstream's credentials.
        online: what a probe found here; None where it couldn't be made.
    """
    gate, since = snapshot.gate, _since(snapshot.since_wall_ms, now_ms)
    if gate == "paused":
        return conclude("gate", since, [Issue("warning", f"paused {snapshot.reason}", "go on with: fluxy-sync resume")])
    if gate == "unauthorized":
        named = ", ".join(credentials) or "no FLUXY_SYNC_AUTH_* is set here; set one"
        found = f"the upstream refuses the credentials ({snapshot.reason})"
        return conclude("gate", since, [Issue("failed", found, f"check {named}" if credentials else named)])
    if gate == "offline":
        advice = "see 'upstream'; it opens by itself when that answers"
        if online:
            advice = "it answers from here: where beat runs it may not; look again in a few seconds"
        return conclude("gate", since, [Issue("warning", f"closed: offline ({snapshot.reason})", advice)])
    waits = f"open; the upstream asked to wait {duration(snapshot.opens_in_ms / 1000)}"
    return conclude("gate", ", ".join(filter(None, [waits if snapshot.opens_in_ms > 1000 else "open", since])))


def _since(since_ms: int, now_ms: int) -> str:
    if not since_ms:
        return ""
    try:
        began = datetime.fromtimestamp(since_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return f"since {began:%Y-%m-%d %H:%M:%S} UTC, {duration((now_ms - since_ms) / 1000)} ago"


def check_clock(patient: Patient) -> Check:
    """Compare this machine's clock with the upstream's and the store's."""
    ahead = patient.probed.upstream_ahead_s if patient.probed is not None else None
    store = None if patient.store_fails else patient.store_now
    now = time.time()
    return judge_clock(now, None if ahead is None else now + ahead, store)


def judge_clock(now: float, upstream: float | None, store: float | None) -> Check:
    """This machine's clock beside others; all are seconds since 1970, None where one couldn't be asked."""
    others = {"the upstream's": upstream, "the store's": store}
    off = {whose: now - at for whose, at in others.items() if at is not None}
    facts = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now < EARLIEST_NOW:
        return conclude("clock", facts, [Issue("failed", "the clock was never set", SET_CLOCK)])
    issues = [_clock_issue(whose, by) for whose, by in off.items() if abs(by) > CLOCK_SLACK_S]
    agrees = [whose for whose, by in off.items() if abs(by) <= CLOCK_SLACK_S]
    agreement = f", agrees with {' and '.join(agrees)}" if agrees else "" if off else ", nothing to compare it with"
    return conclude("clock", facts + agreement, issues)


def _clock_issue(whose: str, by: float) -> Issue:
    found = f"{duration(abs(by))} {'ahead of' if by > 0 else 'behind'} {whose} clock"
    return Issue("warning", found, SET_CLOCK if whose == "the upstream's" else "set both machines' clocks by NTP")
