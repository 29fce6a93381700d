"""What is installed, and how it is set."""

import platform
from importlib.metadata import PackageNotFoundError, version

from fluxy_sync.doctor.check import Check, conclude
from fluxy_sync.doctor.patient import Patient, is_of_gateway
from fluxy_sync.doctor.store import server_of
from fluxy_sync.settings import ENV_PREFIX

PACKAGES = {"fluxy-sync": "fluxy-sync", "celery": "Celery", "kombu": "kombu", "redis": "redis-py"}


def check_settings(patient: Patient) -> Check:
    """Where the settings come from; none that is a secret."""
    settings = patient.settings
    if settings.redis_url is None:
        source = f"no store is set, and no gateway runs under {settings.data_dir}"
    elif is_of_gateway(settings):
        source = f"store of the gateway under {settings.data_dir}"
    else:
        source = f"store from {ENV_PREFIX}REDIS_URL"
    return conclude("settings", f"namespace {settings.namespace}, node {settings.node}, {source}")


def check_version(patient: Patient) -> Check:
    """What runs here."""
    packages = [f"{name} {_version_of(package)}" for package, name in PACKAGES.items()]
    machine = [f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"]
    return conclude("version", ", ".join(filter(None, [*packages, server_of(patient.info), *machine])))


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"
