"""Somebody who can write to the store, and has no key, against a real worker."""

import json

from tests.chaos.forged_letters import forge_letters
from tests.chaos.forged_messages import forge_broadcasts, forge_messages
from tests.chaos.forged_records import forge_records
from tests.chaos.forged_values import forge_tokens, forge_values, rotate
from tests.chaos.ledger import MARKER
from tests.chaos.scene import CLIENT_SECRET, Scene, key_of, scene
from tests.chaos.trial import Run, trial
from tests.token_endpoint import MARKER as TOKEN


@trial()
def forgery(run: Run) -> None:
    """Whoever can write to the store, but has no key, makes the worker send nothing that was not accepted.

    Records invented, changed, moved to another id, lane or namespace; messages, tokens, results and values of all
    kinds. What he can do is stated in docs/SECURITY-MODEL.md: each operation that arrives is one that was accepted.
    """
    with scene(run) as here:
        forge_records(here)
        forge_messages(here)
        forge_letters(here)
        forge_broadcasts(here)
        forge_tokens(here)
        forge_values(here)
        rotate(here)
        judge(here)


def judge(here: Scene) -> None:
    """By what arrived, and at whom; by what is left in files and logs."""
    run, requests = here.run, here.stage.upstream.requests()
    for what, count in here.forged.items():
        run.figure(f"forged {what}", count)
    told = {one: (method, path, json.dumps(body)) for one, (method, path, body) in here.accepted.items()}
    got = [(key_of(r), (r["method"], r["path"], json.dumps(json.loads(r["body"])))) for r in requests]
    run.figure("requests", len(got))
    run.figure("requests that nobody had accepted", sum(told.get(one) != what for one, what in got), at_most=0)
    run.figure("accepted and sent again, under another key", sum(key_of(r) != r["key"] for r in requests))
    strange = [r for r in requests if not r["headers"].get("authorization", "").startswith(f"Bearer {TOKEN}-")]
    run.figure("requests with other credentials", len(strange), at_most=0)
    run.figure("requests elsewhere", len(here.trap.requests() + here.trap.probes()), at_most=0)
    run.figure("dead letters", here.sync.status().dead)
    here.stage.check_secrecy()
    log = here.stage.gateway.log("worker:one") + here.stage.gateway.log("beat")
    for secret in (TOKEN, CLIENT_SECRET, MARKER):
        run.check(secret not in log, f"{secret} stands in a log")
