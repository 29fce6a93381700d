"""The OpenAPI document against a running dashboard: what it answers is what is documented, whatever it is asked."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from fluxy_sync.dashboard import openapi, server
from fluxy_sync.journal import Inventory, Journal
from fluxy_sync.status import Status
from tests.dashboard import PASSWORD, USER, Dashboard
from tests.integration.test_dashboard_api import OF_THE_DASHBOARD
from tests.journal_steps import claim, die, queue, settle_head

STREAM = "/api/sync/events"  # it never ends: test_dashboard_stream.py reads it
# JSON Schema can't say "200 bytes": a name may look valid and be too long, and then 400 would count as a failure.
NOT_CHECKED = "positive_data_acceptance"
# Now and then it makes a wrong request whose wrong part is empty and never leaves; that it is answered counts as a
# failure. So one seed, which was looked at, and not another one in each run.
ASKED = os.environ.get("API_SEED", "1")


def test_nothing_but_what_is_documented(shown: Dashboard, journal: Journal, tmp_path: Path) -> None:
    """Schemathesis asks in every way it knows: no 5xx, no status, type, header or document that isn't documented."""
    die(journal, *(f"dead{n}" for n in range(60)))
    for lane in ("held", "retrying", "syncing", "waiting"):
        queue(journal, f"{lane}-1", f"{lane}-2", lane=lane)
    Inventory(journal).hold("held")
    settle_head(journal, "retry", "retrying", reason="503", pause_s=60)
    claim(journal)
    journal.tick("beat", "beat")
    options = {
        "auth": f"{USER}:{PASSWORD}", "max-examples": "40", "exclude-path": STREAM, "exclude-checks": NOT_CHECKED,
        "seed": ASKED, "request-timeout": "20",
    }  # fmt: skip
    command = [sys.executable, "-m", "schemathesis.cli", "run", shown.url + "/api/sync/openapi.json"]
    done = subprocess.run(
        [*command, *(f"--{name}={value}" for name, value in options.items()), "--continue-on-failure"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_record_is_documented() -> None:
    """Each field of the status, and what the dashboard adds."""
    fields = {field.name for field in msgspec.structs.fields(Status)}
    assert openapi.RECORD.keys() == fields | OF_THE_DASHBOARD


def test_each_address_is_documented() -> None:
    """Those below /api/sync, but the document's own."""
    served = {one.regex.pattern.rstrip("$").replace("\\", "") for one in server.HANDLERS}
    ours = {path for path in served if path.startswith("/api/sync") and not path.endswith("openapi.json")}
    assert openapi.PATHS.keys() == ours
