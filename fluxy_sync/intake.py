"""Raw messages of a SyncTask, sent by somebody who doesn't use our app: journalled before they are acked.

One that nobody with a key may have meant is kept as a dead letter. Of it only the task and its arguments are taken: see
``admin/acceptance.py``.
"""

from typing import Any

from kombu.exceptions import ContentDisallowed, DecodeError

from fluxy_sync.admin.acceptance import unaccepted_id
from fluxy_sync.consumer import MALFORMED
from fluxy_sync.errors import FluxySyncError, InvalidOperation, SealError, StorageUnavailable
from fluxy_sync.journal.record import MISPLACED, UNSEALED
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import check_operation_id
from fluxy_sync.sealing import CONTENT_TYPE, PLACE
from fluxy_sync.tasks import SyncTask
from fluxy_sync.tokens import wake

logger = get_logger(__name__)

ACCEPTED = {"application/json", CONTENT_TYPE}
_FROM_HEADERS = ("eta", "expires", "root_id", "parent_id", "shadow", "stamped_headers", "ignore_result")


def journal_strategy(task: SyncTask, app: Any, consumer: Any, **_: Any) -> Any:
    """Celery's execution strategy for SyncTasks: nothing runs here, the journal takes it."""

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        try:
            _take(task, app, message)
        except StorageUnavailable as error:
            logger.error("A raw message of %s was put back: %s", task.name, error)
            message.reject_log_error(logger, consumer.connection_errors, requeue=True)
            return
        message.ack_log_error(logger, consumer.connection_errors)

    return on_message


def _take(task: SyncTask, app: Any, message: Any) -> None:
    try:
        message.accept = ACCEPTED
        args, kwargs, embed = message.decode()
        doubt = _doubt(task, app, message, embed)
        if doubt:
            _set_apart(task, message, doubt, args, kwargs)
            return
        record = task.new_record(args, kwargs, _id_of(message), **_options(message.headers, embed))
    except (ContentDisallowed, DecodeError, SealError, InvalidOperation, *MALFORMED) as error:
        logger.error("A raw message of %s was refused (%s); nothing was accepted.", task.name, type(error).__name__)
        return
    except StorageUnavailable:
        raise
    except FluxySyncError as error:
        logger.error("A raw message of %s was refused: %s", task.name, error)
        return
    if task.engine.accept([record]).woken:
        wake(app)


def _set_apart(task: SyncTask, message: Any, doubt: str, args: Any, kwargs: Any) -> None:
    """Keep what may be forged as a dead letter, under an id that it can't choose, without what Celery would act on."""
    claimed_id = _id_of(message)
    letter_id = unaccepted_id(task.name, claimed_id, message.content_type, message.body)
    task.engine.journal.bury(task.unaccepted_record(args, kwargs, letter_id), doubt)
    logger.error(
        "A message of %s that claims the id %s was moved to the dead letters as %s (%s): it may be forged.",
        task.name, claimed_id, letter_id, doubt,
    )  # fmt: skip


def _doubt(task: SyncTask, app: Any, message: Any, embed: dict[str, Any]) -> str:
    """Why nobody with a key may have meant it; empty where one did."""
    if message.content_type != CONTENT_TYPE:
        return "" if task.engine.settings.accept_unsealed else UNSEALED
    queues = app.amqp.queues.consume_from
    here = {*queues, task.engine.settings.queue_name}
    places: list[Any] = [[task.name, message.headers["id"], queue] for queue in here]
    return "" if embed.get(PLACE) in places else MISPLACED


def _id_of(message: Any) -> str:
    """The id that its sender gave it: a message that comes again must not become another operation."""
    return check_operation_id(message.headers["id"])


def _options(headers: dict[str, Any], embed: dict[str, Any]) -> dict[str, Any]:
    options = {name: headers.get(name) for name in _FROM_HEADERS if headers.get(name) is not None}
    embed = embed or {}
    links = {"link": embed.get("callbacks"), "link_error": embed.get("errbacks")}
    more = {"chain": embed.get("chain"), "chord": embed.get("chord"), "group_id": headers.get("group")}
    return options | {name: value for name, value in (links | more).items() if value}
