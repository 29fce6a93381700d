"""Rotating the ring: re-seals everything that waits with the ring's first key, while the gateway works.

Each step is small and changes only what is still as it was read. Each record tells which key sealed it: a rotation
that was killed half-way goes on where it was.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fluxy_sync.broker_messages import messages_of
from fluxy_sync.engine import Engine, once_context
from fluxy_sync.errors import ConfigError, SealError
from fluxy_sync.host.files import exists, write_private
from fluxy_sync.host.paths import resolved
from fluxy_sync.journal import DeadLetter, Inventory, Waiting
from fluxy_sync.journal.record import REFUSED, parse
from fluxy_sync.maintenance import Maintenance
from fluxy_sync.sealing import SEALED_VALUE, reseal_result, reseal_value
from fluxy_sync.settings import read_keys
from fluxy_sync.vault import KEY_ID_BYTES, REREAD_S, key_id_of, new_key, parse_key
from fluxy_sync.words import many

STEP_OPERATIONS = 100  # LSET walks the lane: about 4 ms in the middle of a million operations
MOST_PASSES = 20
TAKEN_UP_S = 3 * REREAD_S
RETIRED = ".retired"
RESULT_PREFIX = "celery-task-meta-"
RESULTS = f"*{RESULT_PREFIX}*"
RESULTS_AT_ONCE = 500


class Progress(msgspec.Struct, frozen=True):
    """How far a rotation is: operations and dead letters looked at and re-sealed in this pass.

    ``skipped``: those that the ring can't open; they stay as they are. ``left``: those that changed while they were
    re-sealed; the next pass looks at them again.
    """

    number: int
    looked_at: int = 0
    resealed: int = 0
    skipped: int = 0
    left: int = 0


class Rotation:
    """Re-seals what waits in the journal, its dead letters, the secret of once keys, and kept results.

    Args:
        who: for the audit log.
    """

    def __init__(self, engine: Engine, who: str) -> None:
        self._engine, self._who = engine, who
        self._inventory = Inventory(engine.journal)

    # --- the ring

    @property
    def ring_file(self) -> Path | None:
        """The file that holds the ring; None where the keys stand in the environment."""
        return self._engine.settings.keys_file

    @property
    def is_writable(self) -> bool:
        """Whether the ring can be changed here: a file that was mounted into a container can't."""
        return self.ring_file is not None and os.access(self.ring_file.parent, os.W_OK)

    def add_key(self) -> str:
        """Put a new key in front of the ring's file; every process takes it up by itself. Returns its id.

        Raises:
            ConfigError: the ring isn't in a file, or that can't be written.
        """
        path, key = self._file(), new_key()
        key_id = key_id_of(parse_key(key)).hex()
        Maintenance(self._engine, self._who).note("add a key", key_id)
        self._write(path, (key, *read_keys(path)))
        return key_id

    def retire(self, *, vouched: bool = False) -> list[str]:
        """Move the keys that nothing needs any more from the ring's file into another one beside it. Returns their ids.

        They aren't destroyed: a process that stood still since it sealed may still bring something.

        Args:
            vouched: somebody says that no message waits in a broker that can't be looked through.

        Raises:
            ConfigError: the ring isn't in a file, that can't be written, or records or messages still need the old
                keys.
            StorageUnavailable: the broker can't be reached.
        """
        path = self._file()
        first, *old = read_keys(path)
        # By then every process that runs seals with the first key. A clock that leapt says nothing of how long ago it
        # was written: then it is as if that was just now.
        age_s = time.time() - path.stat().st_mtime
        time.sleep(max(0.0, TAKEN_UP_S - max(0.0, age_s)) if old else 0.0)
        needed = self.usage().keys() & {_id_of(key) for key in old}
        if needed:
            raise ConfigError(f"records still need the key {', '.join(sorted(needed))}: run 'fluxy-sync keys rotate'")
        if old:
            self._check_messages({_id_of(key) for key in old}, vouched)
        retired = [_id_of(key) for key in old]
        if old:
            Maintenance(self._engine, self._who).note("retire keys", ", ".join(retired))
            self._keep_retired(path.with_name(path.name + RETIRED), old)
            self._write(path, (first,))
        return retired

    def _check_messages(self, old: set[str], vouched: bool) -> None:
        messages = messages_of(old, self._engine.vault, self._engine.settings.broker, vouched=vouched)
        if messages:
            keys = ", ".join(sorted(messages))
            raise ConfigError(
                f"{many(messages.total(), 'Celery message')} in the broker, waiting or taken by a worker, can only be "
                f"opened with the key {keys}; nothing was retired: let the workers run them (one with an eta stays "
                "until then), or purge the queue, and run 'fluxy-sync keys rotate --retire' again"
            )

    def _keep_retired(self, path: Path, keys: list[str]) -> None:
        earlier = read_keys(path) if exists(path) else ()
        try:
            write_private(path, "\n".join(dict.fromkeys((*earlier, *keys))) + "\n")
        except OSError as error:
            raise ConfigError(f"{path} can't be written ({error.strerror}); the ring is unchanged") from error

    def _file(self) -> Path:
        if self.ring_file is None:
            raise ConfigError(
                "the ring isn't in a file: put a new key in front of FLUXY_SYNC_KEYS for every producer and worker and "
                "start them again, or keep the ring in a file that FLUXY_SYNC_KEYS_FILE names"
            )
        return resolved(self.ring_file)

    def _write(self, path: Path, keys: tuple[str, ...]) -> None:
        try:
            write_private(path, "\n".join(keys) + "\n", keep_access=True)
        except OSError as error:
            raise ConfigError(
                f"{path} can't be written ({error.strerror}): change it where it comes from, then run this again"
            ) from error
        self._engine.vault.refresh(at_once=True)

    # --- looking

    def usage(self) -> dict[str, int]:
        """Key id -> operations and dead letters that were sealed with it."""
        count: Counter[str] = Counter()
        for lane in self._engine.journal.lanes():
            count.update(one.key_id for one in self._inventory.waiting(lane))
        for letter in self._inventory.letters():
            count.update({letter.key_id, letter.detail_key_id})
        secret = self._engine.journal.store.command("GET", self._engine.journal.keys.secret)
        count.update([secret[:KEY_ID_BYTES].hex()] if secret else [])
        del count[""]
        return dict(count)

    def total(self) -> int:
        """Operations and dead letters there are."""
        snapshot = self._engine.journal.snapshot()
        return snapshot.pending + snapshot.dead

    # --- re-sealing

    def run(self) -> Iterator[Progress]:
        """Re-seal, pass after pass, until a whole pass finds nothing that another key sealed.

        Yields its progress. Ends after 20 passes as well: then some producer still seals with an old key.
        """
        Maintenance(self._engine, self._who).note("rotate", self._engine.vault.key_ids[0])
        self._reseal_secret()
        for number in range(1, MOST_PASSES + 1):
            progress = Progress(number)
            for step in self._pass():
                progress = Progress(
                    number, *(a + b for a, b in zip(msgspec.structs.astuple(progress)[1:], step, strict=True))
                )
                yield progress
            if not progress.resealed and not progress.left:
                break
        self._reseal_results()

    def _pass(self) -> Iterator[tuple[int, int, int, int]]:
        """Each step: looked at, re-sealed, skipped, left."""
        for lane in self._engine.journal.lanes():
            yield from self._reseal_lane(lane)
        for letter in self._inventory.letters():
            yield self._reseal_letter(letter)

    def _is_old(self, key_id: str) -> bool:
        return key_id != "" and not self._engine.vault.sealed_by(key_id)

    def _reseal_lane(self, lane: str) -> Iterator[tuple[int, int, int, int]]:
        index: int | None = 0
        before = ""
        while index is not None:
            page = self._inventory.page(lane, index, before, STEP_OPERATIONS)
            old = [one for one in page.waiting if self._is_old(one.key_id)]
            resealed, skipped = self._reseal_some(lane, old) if old else (0, 0)
            yield len(page.waiting), resealed, skipped, len(old) - resealed - skipped
            before = page.waiting[-1].id if page.waiting else before
            index = page.goes_on

    def _reseal_some(self, lane: str, old: list[Waiting]) -> tuple[int, int]:
        first, last = old[0].index, old[-1].index
        wanted, parts, skipped = {one.id for one in old}, [], 0
        for raw in self._inventory.records(lane, first, last - first + 1):
            try:
                stored = parse(raw)
                if stored.id not in wanted or not self._is_old(stored.sealed[:KEY_ID_BYTES].hex()):
                    continue
                operation = self._engine.open(stored, lane)
                sealed = self._engine.seal_bytes(operation, lane, stored.id)
                parts.append((stored.id, stored.sealed[:KEY_ID_BYTES], sealed))
            except SealError:
                skipped += 1
        return (self._inventory.reseal(lane, last, parts) if parts else 0), skipped

    def _reseal_letter(self, letter: DeadLetter) -> tuple[int, int, int, int]:
        if not (self._is_old(letter.key_id) or self._is_old(letter.detail_key_id)):
            return 1, 0, 0, 0
        whole = self._inventory.letter(letter.member)
        if whole is None:
            return 1, 0, 0, 0
        try:
            stored = parse(whole.record)
            refused = letter.reason in REFUSED
            operation = self._engine.open(stored, letter.lane, refused=refused)
            sealed = self._engine.seal_bytes(operation, letter.lane, stored.id, refused=refused)
            detail = self._engine.open_detail(whole.detail, letter.lane, stored.id)
        except SealError:
            return 1, 0, 1, 0
        new_detail = self._engine.seal_detail(detail, letter.lane, stored.id)
        done = self._inventory.reseal_letter(letter.member, whole.raw, new_detail, sealed)
        return 1, int(done), 0, int(not done)

    def _reseal_secret(self) -> None:
        store, key = self._engine.journal.store, self._engine.journal.keys.secret
        was, context = store.command("GET", key), once_context(self._engine.settings.namespace)
        if was and self._is_old(was[:KEY_ID_BYTES].hex()):
            vault = self._engine.vault
            self._inventory.swap(key, was, vault.seal(vault.open(was, context), context))

    def _reseal_results(self) -> None:
        """Results in the store: our own app's, and SyncTasks' in an app of the user's; those of other rings stay."""
        store, cursor = self._engine.journal.store, b"0"
        while True:
            cursor, keys = store.command("SCAN", cursor, "MATCH", RESULTS, "COUNT", RESULTS_AT_ONCE, "TYPE", "string")
            for key in keys:
                with contextlib.suppress(UnicodeDecodeError):  # none of Celery's
                    self._reseal_result(key.decode(), store.command("GET", key))
            if cursor == b"0":
                return

    def _reseal_result(self, key: str, was: bytes | None) -> None:
        vault, key_id = self._engine.vault, (was or b"")[:KEY_ID_BYTES].hex()
        try:
            if was and key_id in vault.key_ids and self._is_old(key_id):
                self._inventory.swap(key, was, reseal_result(vault, was))
            elif was and SEALED_VALUE.encode() in was:
                anew = reseal_value(vault, was, key.rpartition(RESULT_PREFIX)[2])
                if anew != was:
                    self._inventory.swap(key, was, anew)
        except SealError:
            return  # of another ring, or damaged: whoever asks for it is told


def _id_of(key: str) -> str:
    return key_id_of(parse_key(key)).hex()
