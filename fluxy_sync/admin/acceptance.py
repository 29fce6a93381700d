"""The only way by which something that was never accepted becomes an operation: a person reads it, then accepts that.

A message that came unsealed, or for another place, is kept as a dead letter under an id that its content gives it. All
that can become of it is a task and its plain arguments: no link, chain, callback, header or option of the message is
kept. Whoever accepts it names the digest of what they were shown, so that nothing else can take its place meanwhile.
"""

import hashlib
import hmac
from typing import Any

import msgspec

from fluxy_sync.engine import Engine
from fluxy_sync.errors import CorruptRecord, InvalidOperation
from fluxy_sync.journal import DeadLetter, Inventory, NewRecord
from fluxy_sync.journal.inventory import SET_ASIDE
from fluxy_sync.journal.record import INVALID, REFUSED, parse
from fluxy_sync.operation import UNACCEPTED_MARK, Operation, new_operation_id
from fluxy_sync.vault import associated_data

DIGEST_NAME = "sha256:"
_DIGEST_CONTEXT = b"fluxy-sync accept 1"


class Unaccepted(msgspec.Struct, frozen=True):
    """All that would be sealed and sent if a dead letter were accepted.

    ``digest`` stands for exactly this content, on this lane, of this dead letter. ``letter`` is its entry in the list
    of dead letters; ``raw`` its value in the store, as it was read.
    """

    letter: DeadLetter
    operation: Operation
    digest: str
    raw: bytes

    @property
    def task(self) -> str:
        return self.operation.task

    @property
    def args(self) -> tuple[Any, ...]:
        return self.operation.args

    @property
    def kwargs(self) -> dict[str, Any]:
        return self.operation.kwargs


def is_unaccepted(entry: object) -> bool:
    """Whether an entry is a dead letter that was never accepted, by its reason; that may be forged, the seal can't."""
    return isinstance(entry, DeadLetter) and entry.reason in REFUSED


def unaccepted_id(task: str, claimed_id: str, content_type: str, body: bytes | str) -> str:
    """The id under which a message is kept that nobody may have meant: that of its content, whatever id it claims.

    A message that comes again gets the same one. No operation can have it: see ``check_new_id``.
    """
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    fields = (task, claimed_id, content_type)
    digests = [hashlib.sha256(field.encode("utf-8", "surrogatepass")).digest() for field in fields]
    return UNACCEPTED_MARK + hashlib.sha256(b"".join([*digests, hashlib.sha256(data).digest()])).hexdigest()[:32]


def only_call(operation: Operation) -> Operation:
    """The task and its arguments, without anything else that came with them."""
    return Operation(operation.args, operation.kwargs, operation.task)


def examine(engine: Engine, letter: DeadLetter) -> Unaccepted | None:
    """Open a dead letter that was never accepted; None where it is gone.

    Raises:
        InvalidOperation: it was accepted, or there is no key here.
        UnknownKey, CorruptRecord: it can't be opened.
    """
    if not is_unaccepted(letter):
        raise InvalidOperation(f"{letter.id} was accepted, and then gave up: put it back with 'fluxy-sync dead replay'")
    if not engine.settings.key_texts:
        raise InvalidOperation(f"{letter.id} can only be opened where the keys are; nothing changed")
    whole = Inventory(engine.journal).letter(letter.member)
    if whole is None:
        return None
    stored = parse(whole.record)
    if letter.id not in (stored.id, f"{SET_ASIDE}{letter.number}"):
        raise CorruptRecord(f"the dead letter {letter.id} holds the record of another one")
    operation = only_call(engine.open(stored, letter.lane, refused=True))
    return Unaccepted(
        letter, operation, _digest(engine.settings.namespace, letter.lane, stored.id, operation), whole.raw
    )


def seal_accepted(engine: Engine, found: Unaccepted, digest: str) -> NewRecord:
    """Seal what was shown as a new operation, to be put in place of the dead letter by ``Inventory.accept``.

    Raises:
        InvalidOperation: the digest is that of something else, or its arguments don't fit its task.
    """
    letter, settings = found.letter, engine.settings
    if letter.reason == INVALID:
        raise _unfit(letter)
    if not hmac.compare_digest(digest.encode("utf-8", "replace"), found.digest.encode()):
        raise InvalidOperation(
            f"the digest isn't that of {letter.id}: read it again with 'fluxy-sync dead show {letter.id} --reveal'; "
            "nothing was accepted"
        )
    halts = settings.on_dead == "halt"
    return engine.seal(found.operation, letter.lane, new_operation_id(), expires_s=settings.expires_s, halt=halts)


def _digest(namespace: str, lane: str, letter_id: str, operation: Operation) -> str:
    place = associated_data(_DIGEST_CONTEXT, namespace.encode(), lane.encode(), letter_id.encode())
    return DIGEST_NAME + hashlib.sha256(place + operation.encode()).hexdigest()


def refuse_replay(letter: DeadLetter) -> None:
    """Let only what was accepted pass.

    Raises:
        InvalidOperation: it never was.
    """
    if not is_unaccepted(letter):
        return
    if letter.reason == INVALID:
        raise _unfit(letter)
    raise InvalidOperation(
        f"{letter.id} was never accepted, so it can't be replayed: read it with 'fluxy-sync dead show {letter.id} "
        "--reveal', which tells how to accept it; nothing changed"
    )


def _unfit(letter: DeadLetter) -> InvalidOperation:
    return InvalidOperation(f"the arguments of {letter.id} don't fit its task, so it can't be sent; nothing changed")
