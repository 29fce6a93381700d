"""Keys, broker, beat and workers: what the gateway's processes need, and whether they are there."""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from fluxy_sync.connectivity import BEAT_SILENCE_S
from fluxy_sync.doctor.check import Check, Issue, conclude, reason_of
from fluxy_sync.doctor.patient import Patient
from fluxy_sync.engine import once_context
from fluxy_sync.errors import SealError
from fluxy_sync.journal import as_map
from fluxy_sync.settings import ENV_PREFIX
from fluxy_sync.words import address_of, duration, many

MANY_TOKENS = 100  # about one waits at a time
REMEMBERED_S = 86_400.0  # who was seen last before that isn't missed any more


def check_keys(patient: Patient) -> Check:
    """The ring, and what waits for keys that aren't in it."""
    if patient.settings.redis_url is None and not patient.settings.key_texts:
        return Check("keys", "skipped", "a gateway with a store of its own makes them at its first start")
    vault = patient.engine.vault
    if patient.store_fails:
        return judge_keys(vault.key_ids, {})
    sealed = patient.store.command("GET", patient.journal.keys.secret)
    opens = True
    try:
        if sealed is not None:
            vault.open(sealed, once_context(patient.settings.namespace))
    except SealError:
        opens = False
    return judge_keys(vault.key_ids, patient.snapshot.held_for, secret_opens=opens)


def judge_keys(key_ids: Sequence[str], held_for: Mapping[str, int], *, secret_opens: bool = True) -> Check:
    """The ring, and what waits for a key that isn't in it.

    Args:
        key_ids: the sealing key's id first.
        held_for: why lanes are held -> how many.
        secret_opens: whether the secret of once keys does, where there is one.
    """
    waiting = {cause.removeprefix("key:"): lanes for cause, lanes in held_for.items() if cause.startswith("key:")}
    issues = [_missing_issue(key_id, lanes) for key_id, lanes in waiting.items() if key_id not in key_ids]
    if not secret_opens:
        advice = "add the key that the namespace began with to FLUXY_SYNC_KEYS"
        issues.append(Issue("failed", "the secret of once keys can't be opened", advice))
    others = f"; {', '.join(key_ids[1:])} open as well" if len(key_ids) > 1 else ""
    back = sum(lanes for key_id, lanes in waiting.items() if key_id in key_ids)
    soon = f"; {many(back, 'lane')} held until the key is tried again (30 s)" if back else ""
    return conclude("keys", f"{key_ids[0]} seals{others}{soon}", issues)


def _missing_issue(key_id: str, lanes: int) -> Issue:
    advice = f"add key {key_id} to FLUXY_SYNC_KEYS, behind the first one"
    return Issue("failed", f"key {key_id} is missing: {many(lanes, 'lane')} held", advice)


def check_broker(patient: Patient) -> Check:
    """Connect to the broker, and count the wake tokens."""
    settings = patient.settings
    if patient.broker is None:
        patient.broker_fails = "the broker can't be asked without the keys"
        return Check("broker", "skipped", f"not looked at: {patient.broker_fails}")
    if settings.broker_url is None and patient.store_fails:
        patient.broker_fails = patient.store_fails
        return Check("broker", "skipped", f"not looked at: {patient.broker_fails}")
    try:
        return judge_broker(patient.broker(), settings.queue_name)
    except Exception as error:  # noqa: BLE001 -- each transport has errors of its own; their text may hold a password
        patient.broker_fails = "the broker can't be reached"
        setting = f"{ENV_PREFIX}{'BROKER_URL' if settings.broker_url else 'REDIS_URL'}"
        where = address_of(settings.broker.url)
        if type(error).__name__ == "AccessRefused":  # AMQP's
            found, advice = f"{where} refuses the user, the password or the virtual host", f"check {setting}"
        else:
            found, advice = f"{where} can't be reached ({reason_of(error)})", f"is it running? check {setting}"
        return conclude("broker", "", [Issue("failed", found, advice)])


def judge_broker(waiting: int, queue: str) -> Check:
    """How many wake tokens wait in the broker."""
    facts = f"{many(waiting, 'wake token')} in queue {queue}"
    if waiting <= MANY_TOKENS:
        return conclude("broker", facts)
    return conclude("broker", facts, [Issue("warning", "nobody takes them", "see 'workers'; tokens may be purged")])


class Pulse(msgspec.Struct, frozen=True):
    """Who ticked when: ages in seconds, by the store's clock."""

    beat_s: float | None
    stewards: dict[str, float]

    @classmethod
    def of(cls, fields: Mapping[str, str], now_ms: int) -> "Pulse":
        """Read the journal's hash. A time yet to come dates from before the clock went back: nobody ticks since."""
        ages = {name: (now_ms - int(at)) / 1000 for name, at in fields.items() if at.isdecimal()}
        ages = {name: max(age, 0.0) if age > -1 else math.inf for name, age in ages.items()}
        stewards = {n.removeprefix("steward "): age for n, age in sorted(ages.items()) if n.startswith("steward ")}
        return cls(ages.get("beat"), stewards)

    @property
    def beats(self) -> bool:
        return self.beat_s is not None and self.beat_s <= BEAT_SILENCE_S

    @property
    def live(self) -> tuple[str, ...]:
        """The stewards that tick."""
        return tuple(name for name, age in self.stewards.items() if age <= BEAT_SILENCE_S)


def check_beat(patient: Patient) -> Check:
    """Who ticked when."""
    return judge_beat(_pulse(patient))


def _pulse(patient: Patient) -> Pulse:
    fields = as_map(patient.store.command("HGETALL", patient.journal.keys.pulse))
    return Pulse.of(fields, int(patient.store_now * 1000))


def judge_beat(pulse: Pulse) -> Check:
    """Whether somebody keeps time: beat, or the stewards in its place."""
    seen = [f"{name} {_ago(age)}" for name, age in pulse.stewards.items() if age < REMEMBERED_S]
    facts = f"stewards: {', '.join(seen)}" if seen else "no steward"
    if pulse.beats:
        return conclude("beat", f"last tick {_ago(pulse.beat_s)}; {facts}")
    last = "beat never ticked" if pulse.beat_s is None else f"beat's last tick: {_ago(pulse.beat_s)}"
    if pulse.live:
        advice = "the stewards stand in; start beat: it is part of 'fluxy-sync up'"
        return conclude("beat", facts, [Issue("warning", last, advice)])
    advice = "start the gateway with 'fluxy-sync up', or its worker and beat; see their log"
    return conclude("beat", f"{facts}: nothing wakes the queue", [Issue("failed", last, advice)])


def _ago(age: float | None) -> str:
    return "before the clock went back" if age is None or math.isinf(age) else f"{duration(age)} ago"


def check_workers(patient: Patient) -> Check:
    """Ping the workers."""
    if patient.broker_fails or patient.ping is None:
        return Check("workers", "skipped", f"not asked: {patient.broker_fails or 'there is no app here'}")
    try:
        answered = patient.ping()
    except Exception as error:  # noqa: BLE001 -- a transport's, or that of an answer that can't be opened
        found = f"their answers can't be read ({reason_of(error)})"
        return conclude("workers", "", [Issue("warning", found, f"do they have other keys? compare {ENV_PREFIX}KEYS")])
    if patient.store_fails:
        return judge_workers(answered, None, None)
    return judge_workers(answered, _pulse(patient).live, patient.snapshot.pending)


def judge_workers(answered: Iterable[str], live: Sequence[str] | None, pending: int | None) -> Check:
    """Compare who answered a ping with whose steward ticks; None where the store couldn't be asked.

    Args:
        answered: node names as Celery has them, ``sync@<node>``; those of other namespaces may be among them.
        live: nodes whose steward ticks.
        pending: operations that wait.
    """
    nodes = {name.partition("@")[2]: name for name in sorted(answered)}
    ours = list(nodes) if live is None else [node for node in live if node in nodes]
    silent = [node for node in live or () if node not in nodes]
    facts = _answering([nodes[node] for node in ours], len(nodes) - len(ours))
    issues = []
    if silent:
        advice = "it may be busy, or have other keys; if it stays so, see its log and restart it"
        issues.append(Issue("warning", f"{', '.join(silent)} ticks but doesn't answer a ping", advice))
    elif not ours:
        advice = "start the gateway with 'fluxy-sync up', or a worker; if one runs, see its log"
        issues.append(Issue("failed" if pending else "warning", f"none{_pending(pending)}", advice))
    return conclude("workers", facts, issues)


def _answering(names: Sequence[str], others: int) -> str:
    parts = [f"{', '.join(names)} {'answers' if len(names) == 1 else 'answer'}"] if names else []
    return ", ".join(parts + [f"{others} of other namespaces"] * (others > 0))


def _pending(count: int | None) -> str:
    if count is None:
        return ""
    return f", with {many(count, 'operation')} pending" if count else "; nothing is pending"
