"""Raw messages of a SyncTask, sent by somebody who doesn't use our app: journalled before they are acked."""

import logging
from typing import Any

from kombu.exceptions import ContentDisallowed, DecodeError

from fluxy_sync.errors import FluxySyncError, InvalidOperation, SealError, StorageUnavailable
from fluxy_sync.sealing import CONTENT_TYPE
from fluxy_sync.tasks import SyncTask
from fluxy_sync.tokens import wake

logger = logging.getLogger(__name__)

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
    sealed = message.content_type == CONTENT_TYPE
    try:
        message.accept = ACCEPTED
        args, kwargs, embed = message.decode()
        record = task.new_record(args, kwargs, message.headers["id"], **_options(message.headers, embed))
    except (ContentDisallowed, DecodeError, SealError, InvalidOperation, KeyError, TypeError, ValueError) as error:
        logger.error("A raw message of %s was refused (%s); nothing was accepted.", task.name, type(error).__name__)
        return
    except StorageUnavailable:
        raise
    except FluxySyncError as error:
        logger.error("A raw message of %s was refused: %s", task.name, error)
        return
    if not sealed and not task.engine.settings.accept_unsealed:
        logger.error("An unsealed message of %s was moved to the dead letters: it may be forged.", task.name)
        task.engine.journal.bury(record, "unsealed")
    elif task.engine.accept([record]).woken:
        wake(app)


def _options(headers: dict[str, Any], embed: dict[str, Any]) -> dict[str, Any]:
    options = {name: headers.get(name) for name in _FROM_HEADERS if headers.get(name) is not None}
    embed = embed or {}
    links = {"link": embed.get("callbacks"), "link_error": embed.get("errbacks")}
    more = {"chain": embed.get("chain"), "chord": embed.get("chord"), "group_id": headers.get("group")}
    return options | {name: value for name, value in (links | more).items() if value}
