"""Our own Celery app: ``create_app(settings)``, the default app and its schedule, and the roles that serve it."""

import contextlib
import functools
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from celery import Celery
from kombu.entity import Queue

from fluxy_sync.cancellation import cancel_anywhere
from fluxy_sync.engine import Engine
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.escaping import visible
from fluxy_sync.host.handover import close_to_others
from fluxy_sync.installation import install
from fluxy_sync.kept_result import SealedApp
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import CHECK_CONNECTIVITY
from fluxy_sync.sealing import CONTENT_TYPE, RESULT_TYPE, register_vault, result_serializer_name
from fluxy_sync.settings import Settings, load_settings

__all__ = ["cancel_anywhere", "create_app", "default_app", "install"]

logger = get_logger(__name__)

ROLES = ("worker", "beat", "flower")
NO_BROKER = "memory://"  # until a gateway runs: a name for nothing, to which the app sends nothing
SOCKET_OPTIONS = {
    "socket_timeout": 10.0,
    "socket_connect_timeout": 2.0,
    "socket_keepalive": True,
    # How long one BRPOP waits: a queue that is resumed is only listened to from the next one on.
    "polling_interval": 0.2,
    # For publishing only: a producer never waits for a broker, the next tick comes.
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
}


def create_app(settings: Settings | None = None) -> Celery:
    """A Celery app of our own: everything that it sends or keeps is sealed.

    Raises:
        ConfigError: a setting is missing or wrong.
    """
    loaded = settings or load_settings()
    app = SealedApp("fluxy_sync", set_as_current=False, log="fluxy_sync.celery_logs:EventLogging")
    engine = Engine(loaded, None if settings else load_settings, on_store=lambda: _use_store(app, engine))
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a gateway never gives its store up
        redis_socket_timeout=10.0,
        redis_socket_connect_timeout=2.0,
        result_expires=loaded.result_ttl_s,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,  # only concerns late acks; a flush acks early
        task_queues=[Queue(loaded.queue_name), Queue(f"{loaded.namespace}.tasks")],
        task_default_queue=f"{loaded.namespace}.tasks",
        worker_concurrency=loaded.worker_concurrency,
        beat_scheduler="fluxy_sync.beat:Scheduler",
        beat_schedule={
            "fluxy-sync-check": {"task": CHECK_CONNECTIVITY, "schedule": 1.0, "options": {"expires": 5}},
        },
    )
    install(app, engine=engine)
    if loaded.redis_url is not None:
        _use_store(app, engine)
    else:
        app.conf.broker_url = NO_BROKER
    app.conf.imports = loaded.imports
    return app


def _use_store(app: Celery, engine: Engine) -> None:
    settings = engine.settings
    broker, results = settings.broker, settings.results
    app.conf.broker_transport_options = {**SOCKET_OPTIONS, **broker.options}
    app.conf.result_backend_transport_options = {**SOCKET_OPTIONS, **results.options}
    app.conf.broker_url, app.conf.result_backend = broker.url, results.url
    if broker.tls is not None:
        app.conf.broker_use_ssl = broker.tls
    if settings.key_texts:
        seal_everything(app, engine)


def seal_everything(app: Celery, engine: Engine) -> None:
    """Make the sealed serializer the app's own, for messages and results."""
    name = register_vault(engine.vault, engine.settings.namespace)
    app.conf.update(
        task_serializer=name,
        result_serializer=result_serializer_name(engine.settings.namespace),
        accept_content=[CONTENT_TYPE],
        result_accept_content=[RESULT_TYPE],
    )
    # Before a gateway ran, the app may have been used: what was made by then keeps the serializer of that time.
    app.__dict__.pop("amqp", None)
    if app.finalized:
        for task in app.tasks.values():
            task.serializer = name


@functools.cache
def default_app() -> Celery:
    """The default app, made on first use from the environment.

    Raises:
        ConfigError: a setting is wrong.
    """
    return create_app()


def __getattr__(name: str) -> Any:
    if name == "app":
        return app_or_exit()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def app_or_exit(*, reads_operations: bool = True) -> Celery:
    """The default app for a command that serves it: what is missing is said in one sentence, with exit code 2.

    Args:
        reads_operations: whether it needs the keys and the upstream; else it has no keys, even where there are some.
    """
    try:
        app = default_app() if reads_operations else keyless_app(load_settings())
        _ = app.fluxy_engine.settings.store_url
        if reads_operations:
            _ = app.fluxy_engine.vault, app.fluxy_engine.settings.upstream_url
            _import_tasks(app)
            _check_store(app)
    except (ConfigError, StorageUnavailable) as error:
        print(f"fluxy-sync: {visible(str(error))}", file=sys.stderr)  # noqa: T201 -- there is no log yet
        raise SystemExit(2) from None
    return app


def keyless_app(settings: Settings) -> Celery:
    """An app that can open nothing and loads no tasks of the user: for a dashboard, which shows no payload."""
    return create_app(settings.model_copy(update={"keys": None, "keys_file": None, "imports": ()}))


def _import_tasks(app: Celery) -> None:
    try:
        app.loader.import_default_modules()
    except ImportError as error:
        raise ConfigError(f"FLUXY_SYNC_IMPORTS: a module can't be imported ({error})") from error


def _check_store(app: Celery) -> None:
    """Ask the store whether it keeps what DURABILITY promises; one that isn't there yet is asked when it comes."""
    with contextlib.suppress(StorageUnavailable):
        _ = app.fluxy_engine.journal


def celery_arguments(role: str, settings: Settings) -> list[str]:
    """The arguments that Celery's command line takes for a role: worker or beat."""
    if role == "worker":
        queues = f"{settings.queue_name},{settings.namespace}.tasks"
        return [
            "worker",
            "-n",
            f"sync@{settings.node}",
            "-Q",
            queues,
            "--without-mingle",
            "--without-gossip",
            "-l",
            "INFO",
        ]
    return [role, "-l", "INFO"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one role of a gateway: ``python -m fluxy_sync.app worker|beat|flower [Celery's or Flower's own options]``.

    Raises:
        SystemExit: always, with that program's exit code, or 2 where a setting is missing or wrong.
    """
    role, *rest = sys.argv[1:] if arguments is None else arguments
    if role not in ROLES:
        print(f"fluxy-sync: there is no role {role}; use one of {', '.join(ROLES)}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)
    close_to_others()
    app = app_or_exit(reads_operations=role != "flower")
    if role == "flower":
        _serve_dashboard(app, rest)
    serve_celery(app, [*celery_arguments(role, app.fluxy_engine.settings), *rest])


def serve_celery(app: Celery, arguments: Sequence[str]) -> NoReturn:
    """Run Celery's own command, and end with its exit code: its ``app.start`` forgets that of a failed worker (5.7)."""
    from celery.bin.celery import celery  # a producer has no use for it

    celery.params[0].default = app  # as app.start does
    raise SystemExit(celery.main(args=list(arguments), prog_name="celery"))


def _serve_dashboard(app: Celery, arguments: Sequence[str]) -> NoReturn:
    from fluxy_sync.dashboard import serve

    try:
        serve(app, arguments)
    except ConfigError as error:
        print(f"fluxy-sync: {visible(str(error))}", file=sys.stderr)  # noqa: T201 -- as above
        raise SystemExit(2) from None


if __name__ == "__main__":
    # Run as a script this module is __main__, and Celery would import it a second time.
    from fluxy_sync.app import main as serve

    serve(sys.argv[1:] or ["worker"])
