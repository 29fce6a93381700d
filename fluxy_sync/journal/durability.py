"""Whether the store keeps what it accepts, as FLUXY_SYNC_DURABILITY asks."""

import re

import redis

from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.journal.store import Store, as_map, as_text
from fluxy_sync.logs import get_logger

logger = get_logger(__name__)

JOURNAL_SHARE = 0.8  # of maxmemory: a tenth is the broker's reserve, a tenth goes to buffers
_MAXMEMORY = re.compile(r"^maxmemory:(\d{1,18})\s*$", re.MULTILINE | re.ASCII)
FIXED_WAITAOF = 8  # the major version of Redis
_FIX = "set it in the store's configuration (see deploy/redis.conf), or choose another FLUXY_SYNC_DURABILITY"


def check_durability(store: Store, durability: str, *, vouched: bool = False) -> None:
    """Compare the store's settings with what was asked for.

    Args:
        vouched: the operator says that the store keeps what it accepts, wherever it can't be asked.

    Raises:
        ConfigError: the store would lose what it accepts.
        StorageUnavailable: it can't be asked.
    """
    try:
        found = store.command("CONFIG", "GET", "appendonly", "appendfsync", "maxmemory-policy")
    except StorageUnavailable as error:
        if not is_withheld(error):
            raise
        if not vouched:
            logger.warning(
                "The store's user may not run CONFIG GET: whether the store keeps what it accepts isn't known. If "
                "its owner says so, set FLUXY_SYNC_STORE_VOUCHED=1."
            )
        return
    settings = as_map(found)
    if settings.get("appendonly") != "yes":
        raise ConfigError(f"the store has 'appendonly no': it would lose everything at a restart; {_FIX}")
    if durability == "always" and settings.get("appendfsync") != "always":
        raise ConfigError(f"the store has 'appendfsync {settings.get('appendfsync')}', not 'always'; {_FIX}")
    if durability == "waitaof" and settings.get("appendfsync") != "always" and not (vouched or _waits_for_disk(store)):
        raise ConfigError(
            f"the store has 'appendfsync {settings.get('appendfsync')}', and with that this server's WAITAOF answers "
            f"before anything is on disk (redis/redis#13793); use 'appendfsync always', or Redis 8; {_FIX}"
        )
    if durability == "everysec" and settings.get("appendfsync") == "no":
        raise ConfigError(f"the store has 'appendfsync no'; {_FIX}")
    if settings.get("maxmemory-policy", "noeviction") != "noeviction":
        raise ConfigError(
            f"the store has 'maxmemory-policy {settings['maxmemory-policy']}': it would evict operations; {_FIX}"
        )


def _is_withheld(error: BaseException | None) -> bool:
    """Whether the store doesn't let its user run a command: an ACL forbids it, or its owner took the command away."""
    return isinstance(error, redis.exceptions.NoPermissionError) or (
        isinstance(error, redis.exceptions.ResponseError) and "unknown command" in str(error).lower()
    )


def is_withheld(error: StorageUnavailable) -> bool:
    """Whether that is why."""
    return _is_withheld(error.__cause__)


def _waits_for_disk(store: Store) -> bool:
    """Whether WAITAOF can be believed without ``appendfsync always``.

    Redis from 7.2.2 on, and every Valkey that came from it, takes data for synced once it has nothing more to write,
    up to a second too early; it is mended in Redis 8.0. A server that hides what it is isn't believed.
    """
    try:
        info = store.command("INFO", "server")
    except StorageUnavailable as error:
        if is_withheld(error):
            return False
        raise
    fields = dict(line.split(":", 1) for line in as_text(info).splitlines() if ":" in line)
    version = fields.get("redis_version", "0").partition(".")[0]
    return "valkey_version" not in fields and version.isdigit() and int(version) >= FIXED_WAITAOF


def default_max_bytes(maxmemory: int) -> int:
    """MAX_BYTES derived from a store's maxmemory; 0 where that has no bound."""
    return int(maxmemory * JOURNAL_SHARE)


def maxmemory_of(store: Store, *, vouched: bool = False) -> int:
    """The store's maxmemory in bytes, 0 where it has no bound, or where ``vouched`` and it can't be asked.

    Raises:
        StorageUnavailable: it can't be asked.
        ConfigError: its user may not ask.
    """
    try:
        info = store.command("INFO", "memory")
    except StorageUnavailable as error:
        if not is_withheld(error):
            raise
        if vouched:
            return 0
        raise ConfigError(
            "the store's user may not run INFO, so its memory isn't known; let it (deploy/users.acl has the rights "
            "that it needs), set FLUXY_SYNC_MAX_BYTES, or FLUXY_SYNC_STORE_VOUCHED=1 where its owner sees to its memory"
        ) from error
    found = _MAXMEMORY.search(as_text(info))
    return int(found[1]) if found else 0
