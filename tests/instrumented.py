"""What instrumentation sees in a worker: receivers of all of Celery's signals of tasks, which look as Sentry does."""

import json
import logging
import os
import types
from pathlib import Path
from typing import Any

from celery import signals

from fluxy_sync import HttpTask, RetryPolicy, SyncTask
from fluxy_sync.app import default_app

MARKER = "xyzzy-marker"
DEPTH = 6
app = default_app()

SIGNALS = {name: getattr(signals, name) for name in dir(signals) if name.startswith("task_")}


def note(**facts: Any) -> None:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(json.dumps(facts) + "\n")


def look(value: Any, at: str, depth: int = DEPTH) -> list[str]:
    """Where the marker shows: in containers, in exceptions and what caused them, in frames' locals, in reprs."""
    if depth == 0 or value is None:
        return []
    if isinstance(value, dict):
        return [one for key, item in list(value.items()) for one in look(item, f"{at}.{key}", depth - 1)]
    if isinstance(value, (list, tuple, set)):
        return [one for index, item in enumerate(value) for one in look(item, f"{at}[{index}]", depth - 1)]
    found = [at] if MARKER in repr(value) else []
    if isinstance(value, BaseException):
        for name in ("args", "exc", "sig", "reason", "__cause__", "__context__", "__traceback__"):
            found += look(getattr(value, name, None), f"{at}.{name}", depth - 1)
    if isinstance(value, types.TracebackType):
        frames = value
        while frames is not None:
            where = frames.tb_frame.f_code.co_qualname if hasattr(frames.tb_frame.f_code, "co_qualname") else "frame"
            found += look(dict(frames.tb_frame.f_locals), f"{at}:{where}", depth - 1)
            frames = frames.tb_next  # type: ignore[assignment]
    if type(value).__name__ == "ExceptionInfo":
        found += look(value.exception, f"{at}.exception", depth - 1) + look(value.traceback, f"{at}.text", depth - 1)
        found += look(list(value.exc_info or ()), f"{at}.exc_info", depth - 1)
    if type(value).__name__ == "Context":
        found += look(vars(value), f"{at}.vars", depth - 1)
    return found


def receiver(name: str) -> Any:
    def receive(sender: Any = None, **facts: Any) -> None:
        task = sender if isinstance(sender, str) else getattr(sender, "name", "")
        found = look({key: value for key, value in facts.items() if key != "signal"}, name)
        if isinstance(sender, SyncTask):
            found += look(sender.request, f"{name}.request")
        note(signal=name, task=task, found=found)

    return receive


RECEIVERS = {name: receiver(name) for name in SIGNALS}
for name, signal in SIGNALS.items():
    signal.connect(RECEIVERS[name], weak=False)


class Looking(logging.Handler):
    """Looks into records with an exception, as error trackers do."""

    def emit(self, record: logging.LogRecord) -> None:
        exc_info = record.exc_info if isinstance(record.exc_info, tuple) else ()
        found = look([list(exc_info), record.getMessage(), vars(record).get("data")], "log")
        if exc_info or found:
            note(signal="log", task=record.name, found=found)


@signals.after_setup_logger.connect(weak=False)
def listen(logger: logging.Logger, **_: Any) -> None:
    logger.addHandler(Looking())


@app.task(name="told.link")
def told(*args: Any) -> None:
    """Says what a link was given."""
    note(signal="link", task="told.link", found=[], args=[str(one) for one in args])


@app.task(name="told.error")
def told_error(task_id: str) -> None:
    """Says what a link_error was given."""
    note(signal="link", task="told.error", found=[], args=[task_id])


class Hooked(HttpTask):
    """An HTTP task with Celery's hooks."""

    abstract = True

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(signal="after_return", task=self.name, found=look([args, kwargs, einfo], "hook"))


def act(self: HttpTask, method: str, path: str, body: Any, headers: Any) -> Any:
    local = [path, body, headers]
    same = (self.request.args, self.request.kwargs) == ((method, path), {"body": body, "headers": headers})
    note(signal="body", task=self.name, found=[], real=same, retries=self.request.retries)
    if "/raises" in path:
        raise ValueError(f"{local}")
    if "/retries" in path and self.request.retries == 0:
        try:
            raise LookupError(f"{local}")
        except LookupError as error:
            self.retry(exc=error, countdown=0.01)
    if "/changes" in path and self.request.retries == 0:
        self.retry(args=(method, path), kwargs={"body": object()}, countdown=0.01)
    return self.send(method, path, body, headers)


@app.task(name="redacted.own", base=Hooked, bind=True, policy=RetryPolicy(max_retries=2, base_s=0.01, cap_s=0.01))
def own(self: HttpTask, method: str, path: str, body: Any = None, headers: Any = None) -> Any:
    """An HTTP task of the user's own."""
    return act(self, method, path, body, headers)


@app.task(name="shown.own", base=HttpTask, bind=True, redact=False)
def shown(self: HttpTask, method: str, path: str, body: Any = None, headers: Any = None) -> Any:
    """One that lets instrumentation see everything."""
    return act(self, method, path, body, headers)
