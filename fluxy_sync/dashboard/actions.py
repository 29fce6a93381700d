"""What a signed-in person may do: pause, resume, replay and drop. Each goes into the audit log under his name."""

import contextlib
from typing import Annotated, Any, Literal

import msgspec

from fluxy_sync.app import cancel_anywhere
from fluxy_sync.dashboard.handler import Refusal, SyncHandler
from fluxy_sync.engine import Engine
from fluxy_sync.errors import InvalidOperation, StorageUnavailable
from fluxy_sync.maintenance import Maintenance
from fluxy_sync.operation import OWN_LANE_MARK, check_lane, check_operation_id

MOST_IDS = 1_000
JSON = "application/json"
Ids = Annotated[list[str], msgspec.Meta(min_length=1, max_length=MOST_IDS)]


class Lane(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All lanes, or one."""

    lane: str | None = None


class Letters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dead letters: some by their ids, or all."""

    ids: Ids | msgspec.UnsetType = msgspec.UNSET
    all: Literal[True] | msgspec.UnsetType = msgspec.UNSET


class Replay(Letters, frozen=True, forbid_unknown_fields=True):
    """Dead letters, and which end of their lanes they go to."""

    to: Literal["tail", "head"] = "tail"


def let_others_wake(engine: Engine) -> None:
    """Give the right to publish a wake token away: workers take none without a key. The next tick publishes one."""
    with contextlib.suppress(StorageUnavailable):
        engine.journal.forget_wake()


class Acting(SyncHandler):
    """A handler that changes something, under the name of who signed in; never in read-only mode."""

    def prepare(self) -> None:
        super().prepare()
        if self.application.options.read_only and self.request.method == "POST":
            raise Refusal(403, "the dashboard is read-only")

    def maintenance(self) -> Maintenance:
        """What may be done, with an audit log that names him."""
        engine = self.capp.fluxy_engine
        return Maintenance(engine, f"{self.user_name} (dashboard)", lambda: let_others_wake(engine))


class Action(Acting):
    """A change that is told by a document: JSON alone, so that no form of another site can send it."""

    takes: type[msgspec.Struct]

    async def post(self) -> None:
        asked = self._body()
        self.finish(await self.run(self.act, self.maintenance(), asked))

    def _body(self) -> Any:
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != JSON:
            raise Refusal(415, f"send {JSON}")
        try:
            return msgspec.json.decode(self.request.body, type=self.takes)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refusal(400, f"the body isn't what is documented: {error}") from error

    @staticmethod
    def act(maintenance: Maintenance, asked: Any) -> dict[str, Any]:
        """Do it, in a thread."""
        raise NotImplementedError


class Revoke(Acting):
    """POST /api/task/revoke/...: the button on Flower's own pages takes an operation out of the queue."""

    parameters = frozenset({"signal", "terminate"})

    async def post(self, operation_id: str) -> None:
        if not await self.run(self._cancel, operation_id):
            raise Refusal(404, "that operation doesn't wait, or is just being sent")
        self.finish({"message": f"Cancelled '{operation_id}'"})

    def _cancel(self, operation_id: str) -> bool:
        check_operation_id(operation_id)
        self.maintenance().note("cancel", operation_id)
        return cancel_anywhere(self.capp, operation_id)


class Pause(Action):
    """POST /api/sync/pause."""

    takes = Lane

    @staticmethod
    def act(maintenance: Maintenance, asked: Lane) -> dict[str, Any]:
        lane = known_lane(asked.lane)
        changed = maintenance.pause(lane).changed
        return {"changed": changed, "in_flight": maintenance.in_flight(lane)}


class Resume(Action):
    """POST /api/sync/resume."""

    takes = Lane

    @staticmethod
    def act(maintenance: Maintenance, asked: Lane) -> dict[str, Any]:
        lane = known_lane(asked.lane)
        changed = maintenance.resume(lane)
        return {"changed": changed, "in_flight": maintenance.in_flight(lane)}


class ReplayDead(Action):
    """POST /api/sync/dead/replay."""

    takes = Replay

    @staticmethod
    def act(maintenance: Maintenance, asked: Replay) -> dict[str, Any]:
        return {"count": maintenance.replay(chosen(asked), end=asked.to)}


class DropDead(Action):
    """POST /api/sync/dead/drop."""

    takes = Letters

    @staticmethod
    def act(maintenance: Maintenance, asked: Letters) -> dict[str, Any]:
        return {"count": maintenance.drop(chosen(asked))}


def known_lane(lane: str | None) -> str | None:
    """The name of a lane that may be there; None for all.

    Raises:
        InvalidOperation: no lane has such a name.
    """
    try:
        if lane is not None:
            check_lane(lane.removeprefix(OWN_LANE_MARK), "")
    except InvalidOperation:
        raise InvalidOperation("a lane's name is text of 1 to 200 bytes without control characters") from None
    return lane


def chosen(asked: Letters) -> list[str] | None:
    """The ids that were named, each once; None for all.

    Raises:
        InvalidOperation: it isn't clear which are meant; or an id can't be one.
    """
    if (asked.ids is msgspec.UNSET) == (asked.all is msgspec.UNSET):
        raise InvalidOperation('say which: {"ids": [...]} or {"all": true}; nothing changed')
    if isinstance(asked.ids, msgspec.UnsetType):
        return None
    try:
        return [check_operation_id(one) for one in dict.fromkeys(asked.ids)]
    except InvalidOperation:
        raise InvalidOperation(
            "an id is 1 to 200 printable ASCII characters without quote, backslash and space; nothing changed"
        ) from None
