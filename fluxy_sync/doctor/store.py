"""The store: whether it answers, what it is, and whether it keeps what it accepts."""

import ipaddress
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import redis

from fluxy_sync.ballast import Ballast
from fluxy_sync.certificates import is_tls
from fluxy_sync.doctor.check import Check, Issue, conclude, issue_of, reason_of
from fluxy_sync.doctor.patient import Patient, is_of_gateway
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.journal import Store, as_map
from fluxy_sync.journal import check_durability as check_at_start
from fluxy_sync.settings import ENV_PREFIX, Settings
from fluxy_sync.words import address_of, duration, millis, size_text

OLDEST_SERVER = (7, 0)  # multi-part AOF and `flags=allow-oom` in scripts
FIRST_WAITAOF = (7, 2)
MUCH_MEMORY = 0.8  # of maxmemory
WRITES, WRITES_S = 5, 2.0  # so many, unless they take longer than that together
WRITE_LIVES_MS = 60_000  # should this process be killed before it deletes what it wrote
WAITAOF_MS = 4000
SLOW_WRITE_S, STALLED_WRITE_S = 0.05, 1.0
FULL_DISK_BYTES = 1024 * 1024
SMALL_ROOM_BYTES = 64 * 1024 * 1024
REWRITE_FACTOR = 2  # a rewrite writes a whole new file beside the old one


def check_store(patient: Patient) -> Check:
    """Ask the store whether it is there, and what the later checks want to know of it."""
    settings = patient.settings
    if settings.redis_url is None:
        advice = f"start the gateway with 'fluxy-sync up', or set {ENV_PREFIX}REDIS_URL"
        return conclude("store", "", [Issue("failed", f"no store runs under {settings.data_dir}", advice)])
    where = address_of(settings.store_url)
    try:
        patient.store.command("PING")
        started = time.monotonic()
        patient.store.command("PING")
    except StorageUnavailable as error:
        return conclude("store", "", [_unreachable(error, where, settings)])
    took_s = time.monotonic() - started
    patient.info = read_info(ask(patient.store, "INFO"))
    patient.config = read_config(patient.store)
    patient.store_fails = ""
    return conclude("store", f"{where} answers in {millis(took_s)}")


def _unreachable(error: StorageUnavailable, where: str, settings: Settings) -> Issue:
    issue = issue_of(error)
    if not isinstance(error.__cause__, redis.ConnectionError | redis.TimeoutError | OSError):
        return issue
    if isinstance(error.__cause__, redis.AuthenticationError | redis.BusyLoadingError) or is_tls(error):
        return issue
    log = f"; its log is {settings.data_dir / 'log' / 'store.log'}" if is_of_gateway(settings) else ""
    advice = f"is it running? check {ENV_PREFIX}REDIS_URL, or start the gateway with 'fluxy-sync up'{log}"
    return Issue("failed", f"{where} can't be reached ({reason_of(error)})", advice)


def ask(store: Store, *command: str) -> Any:
    """What the store answers; None where it may not be asked that, or its owner took the command away."""
    try:
        return store.command(*command)
    except StorageUnavailable as error:
        if isinstance(error.__cause__, redis.ResponseError):
            return None
        raise


def read_info(info: bytes | None) -> dict[str, str]:
    """The fields of INFO; none where it is hidden."""
    pairs = (line.partition(":") for line in (info or b"").decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


def read_config(store: Store) -> dict[str, str] | None:
    """The settings that matter here; None where they are hidden."""
    names = (
        "appendonly",
        "appendfsync",
        "maxmemory-policy",
        "no-appendfsync-on-rewrite",
        "dir",
        "appenddirname",
        "min-replicas-to-write",
    )
    found = ask(store, "CONFIG", "GET", *names)
    return None if found is None else as_map(found)


def check_server(patient: Patient) -> Check:
    """Version, role and memory."""
    if is_too_old(patient.info):
        patient.store_fails = f"{server_of(patient.info)} is too old"
    return judge_server(patient.info, has_max_bytes=bool(patient.settings.max_bytes))


def judge_server(info: Mapping[str, str], *, has_max_bytes: bool) -> Check:
    """Version, role and memory, from INFO (empty where an ACL hides it).

    Args:
        has_max_bytes: the queue has a bound of its own.
    """
    if not info:
        hidden = Issue("warning", "an ACL hides INFO", "let the store's user run INFO, or ask its owner")
        return conclude("server", "version and memory aren't known", [hidden])
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    issues = [_age_issue(info), _role_issue(info), _memory_issue(used, most, has_max_bytes=has_max_bytes)]
    memory = f"memory {size_text(used)}" + (f" of {size_text(most)}" if most else "")
    up = f"up {duration(int(info.get('uptime_in_seconds', 0)))}"
    return conclude("server", ", ".join((server_of(info), up, memory)), issues)


def server_of(info: Mapping[str, str]) -> str:
    """The server's name and version, empty where they are hidden."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else ""


def version_of(info: Mapping[str, str]) -> tuple[int, ...]:
    """The version of Redis that the server is, or says that it is like."""
    return tuple(int(part) for part in re.findall(r"\d+", info.get("redis_version", ""))[:2])


def is_too_old(info: Mapping[str, str]) -> bool:
    """Whether the journal's scripts can't run there."""
    return () < version_of(info) < OLDEST_SERVER


def _age_issue(info: Mapping[str, str]) -> Issue | None:
    advice = "install Redis 7.0 or later, or Valkey"
    return Issue("failed", f"{server_of(info)} is too old", advice) if is_too_old(info) else None


def _role_issue(info: Mapping[str, str]) -> Issue | None:
    if info.get("role", "master") == "master":
        return None
    return Issue("failed", "it is a replica and takes no writes", "point FLUXY_SYNC_REDIS_URL at its master")


def _memory_issue(used: int, most: int, *, has_max_bytes: bool) -> Issue | None:
    if most and used > MUCH_MEMORY * most:
        advice = "let the queue drain, drop dead letters ('fluxy-sync dead ls'), or raise its maxmemory"
        return Issue("warning", f"{used / most:.0%} of its maxmemory is used", advice)
    if not most and not has_max_bytes:
        advice = "set its maxmemory (see deploy/redis.conf), or FLUXY_SYNC_MAX_BYTES"
        return Issue("warning", "nothing bounds the queue's memory", advice)
    return None


def check_durability(patient: Patient) -> Check:
    """What a worker would refuse at its start, and what has failed since."""
    refused = None
    try:
        check_at_start(patient.store, patient.settings.durability, vouched=patient.settings.store_vouched)
    except ConfigError as error:
        refused = issue_of(error)
    behind_sentinels = patient.settings.store_url.startswith("sentinel:")
    return judge_durability(
        patient.settings.durability, patient.config, patient.info, refused, behind_sentinels=behind_sentinels
    )


def judge_durability(
    durability: str,
    config: Mapping[str, str] | None,
    info: Mapping[str, str],
    refused: Issue | None = None,
    *,
    behind_sentinels: bool = False,
) -> Check:
    """What the store does to keep what it accepts.

    Args:
        config: from CONFIG GET; None where an ACL hides it.
        info: from INFO.
        refused: what a worker would say of it at its start.
        behind_sentinels: whether another server may become the primary.
    """
    issues = [refused, *_persistence_issues(info)]
    if durability == "waitaof" and () < version_of(info) < FIRST_WAITAOF:
        advice = "install Redis 7.2 or later, or Valkey; or choose another FLUXY_SYNC_DURABILITY"
        issues.append(Issue("failed", f"{server_of(info)} has no WAITAOF", advice))
    if config is None:
        issues += _hidden_issues(info)
        return conclude("durability", f"FLUXY_SYNC_DURABILITY={durability}", issues)
    if config.get("no-appendfsync-on-rewrite") == "yes" and durability != "everysec":
        found = "while it rewrites its file it doesn't sync (no-appendfsync-on-rewrite)"
        issues.append(Issue("warning", found, "set 'no-appendfsync-on-rewrite no' (see deploy/redis.conf)"))
    if behind_sentinels and config.get("min-replicas-to-write", "0") == "0":
        found = "a primary that is cut off from its replicas goes on accepting, and a failover loses that"
        advice = "set 'min-replicas-to-write 1' and 'min-replicas-max-lag 2' on each server (see docs/RELIABILITY.md)"
        issues.append(Issue("warning", found, advice))
    names = ("appendonly", "appendfsync", "maxmemory-policy")
    shown = ", ".join(f"{name} {config[name]}" for name in names if name in config)
    return conclude("durability", f"{shown}; FLUXY_SYNC_DURABILITY={durability}", issues)


def _persistence_issues(info: Mapping[str, str]) -> list[Issue]:
    free = "free disk space, and look at the store's log"
    wrong = {
        "aof_last_write_status": Issue("failed", "its last write to the append-only file failed", free),
        "aof_last_bgrewrite_status": Issue(
            "warning", "its last rewrite of the append-only file failed", f"{free}; then run BGREWRITEAOF"
        ),
        "rdb_last_bgsave_status": Issue("warning", "its last snapshot failed", f"{free}; or switch snapshots off"),
    }
    return [issue for field, issue in wrong.items() if info.get(field, "ok") != "ok"]


def _hidden_issues(info: Mapping[str, str]) -> list[Issue]:
    """What INFO still tells where CONFIG is hidden."""
    advice = "let the store's user run CONFIG GET, or ask its owner whether it syncs as FLUXY_SYNC_DURABILITY says"
    issues = [Issue("warning", "an ACL hides CONFIG: whether each write is synced isn't known", advice)]
    fix = "set it in the store's configuration (see deploy/redis.conf)"
    if info.get("aof_enabled") == "0":
        issues.append(Issue("failed", "the store has 'appendonly no': a restart would lose everything", fix))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        issues.append(Issue("failed", f"the store has 'maxmemory-policy {policy}': it would evict operations", fix))
    return issues


def check_fsync(patient: Patient) -> Check:
    """Write some small values, as an accepted operation is written."""
    store, key = patient.store, f"{patient.journal.keys.prefix}doctor"
    waits = patient.settings.durability == "waitaof"
    try:
        times_s = [_timed_write(store, key, waits=waits)]
        while len(times_s) < WRITES and sum(times_s) < WRITES_S:
            times_s.append(_timed_write(store, key, waits=waits))
    finally:
        store.command("DEL", key)
    appendfsync = (patient.config or {}).get("appendfsync", patient.settings.durability)
    return judge_writes(times_s, each_synced=waits or appendfsync == "always")


def _timed_write(store: Store, key: str, *, waits: bool) -> float:
    started = time.monotonic()
    store.command("SET", key, "x", "PX", WRITE_LIVES_MS)
    if waits:
        store.command("WAITAOF", 1, 0, WAITAOF_MS)
    return time.monotonic() - started


def judge_writes(times_s: Sequence[float], *, each_synced: bool) -> Check:
    """How long writes took until they were answered; ``each_synced``: until they were on disk."""
    middle, worst = median(times_s), max(times_s)
    facts = f"{len(times_s)} writes: median {millis(middle)}, worst {millis(worst)}"
    if not each_synced:
        facts += "; the store syncs once a second, not each write"
    if middle > STALLED_WRITE_S:
        issue = Issue("failed", "the disk hardly keeps up", "it may be failing: see 'dmesg', and replace it")
    elif middle > SLOW_WRITE_S or worst > STALLED_WRITE_S:
        issue = Issue("warning", "the disk is slow", "see what else writes to it ('iotop'), or use a faster one")
    else:
        return conclude("fsync", facts)
    return conclude("fsync", facts, [issue])


def check_disk(patient: Patient) -> Check:
    """Room on the store's disk, where that is on this machine."""
    settings = patient.settings
    folder = _folder_here(patient.config, settings)
    if folder is None:
        return Check("disk", "skipped", "the store's directory isn't on this machine, or can't be seen by this user")
    spent = folder.parent == settings.data_dir.absolute() and Ballast(settings.data_dir / "ballast").is_spent
    file_size = int(patient.info.get("aof_current_size", 0))
    return judge_room(shutil.disk_usage(folder).free, file_size, ballast_spent=spent)


def _folder_here(config: Mapping[str, str] | None, settings: Settings) -> Path | None:
    """The store's directory, where it is on this machine: the address is local, and its append-only files are there."""
    if not _is_local(settings.store_url):
        return None
    embedded = {"dir": str(settings.data_dir.absolute() / "store")} if is_of_gateway(settings) else {}
    found = embedded if config is None else config
    folder = Path(found.get("dir", ""))
    try:
        here = folder.is_absolute() and (folder / found.get("appenddirname", "appendonlydir")).is_dir()
    except OSError:
        here = False
    return folder if here else None


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def judge_room(free: int, file_size: int, *, ballast_spent: bool = False) -> Check:
    """Room for the append-only file's next rewrite.

    Args:
        free: bytes free on the store's disk.
        file_size: the append-only file's present size.
        ballast_spent: the gateway gave its reserve away, as the disk was full.
    """
    wanted = max(REWRITE_FACTOR * file_size, SMALL_ROOM_BYTES)
    advice = "free disk space; what is delivered leaves the file with its next rewrite"
    issues: list[Issue | None] = []
    if free < FULL_DISK_BYTES:
        issues.append(Issue("failed", "the disk is full", advice))
    elif free < wanted:
        issues.append(Issue("warning", f"a rewrite wants {size_text(wanted)}", advice))
    if ballast_spent:
        issues.append(Issue("warning", "the disk was full: the gateway's reserve is spent", advice))
    return conclude("disk", f"{size_text(free)} free, append-only file {size_text(file_size)}", issues)
