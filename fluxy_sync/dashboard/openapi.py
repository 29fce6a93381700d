"""The OpenAPI 3.1 document of the dashboard's API: served, and what a running dashboard is tested against."""

from typing import Any

from fluxy_sync import __version__

LIMIT_DEFAULT, LIMIT_MOST = 50, 500
FARTHEST = 2**53

Schema = dict[str, Any]

COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string"}
SECONDS: Schema = {"type": "number", "minimum": 0}
MOMENT: Schema = {"type": "string", "format": "date-time"}
LANE: Schema = {**TEXT, "minLength": 1, "maxLength": 200, "description": "A lane's name: at most 200 bytes."}
ID: Schema = {**TEXT, "pattern": r"^[!#-\[\]-~]{1,200}$", "description": "An operation's id."}
GATE: Schema = {"enum": ["open", "offline", "paused", "unauthorized"]}


def array(items: Schema, **more: Any) -> Schema:
    """A list of such items."""
    return {"type": "array", "items": items, **more}


def closed(properties: dict[str, Schema], required: list[str] | None = None, **more: Any) -> Schema:
    """An object with these properties and no others; all are there unless ``required`` names fewer."""
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False, **more}


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


RECORD = {
    "pending": {**COUNT, "description": "Accepted operations that aren't settled, those in flight included."},
    "syncing": {**COUNT, "description": "Operations being sent."},
    "is_syncing": FLAG,
    "retrying": {**COUNT, "description": "Lanes whose head has failed and waits for its next try."},
    "held": {**COUNT, "description": "Operations on lanes that wait for more than time."},
    "dead": {**COUNT, "description": "Dead letters."},
    "bytes": COUNT,
    "lanes": COUNT,
    "oldest_age_s": nullable(SECONDS),
    "gate": GATE,
    "online": FLAG,
    "delivered_total": COUNT,
    "rev": {**COUNT, "description": "Grows with each change, within one boot."},
    "stale": {**FLAG, "description": "The store can't be read: these are the last known values."},
    "since": nullable(MOMENT),
    "reason": {**TEXT, "description": "Why the gate is closed: a status or a fixed code."},
    "reason_text": {**TEXT, "description": "The same in words."},
    "opens_in_s": SECONDS,
    "held_for": {"type": "object", "additionalProperties": COUNT, "description": "Why lanes are held: how many."},
    "dropped_total": COUNT,
    "boot": {**TEXT, "format": "uuid", "description": "Another one: forget what you compared `rev` with."},
    "namespace": TEXT,
    "delivered_per_s": {**SECONDS, "description": "Over the last ten seconds."},
}
ALWAYS_KNOWN = {"stale", "boot", "namespace"}

LANE_STATE = {
    "lane": LANE,
    "pending": {**COUNT, "description": "0: it is paused, and empty."},
    "state": {"enum": ["pending", "retrying", "syncing", "held"]},
    "oldest_age_s": nullable(SECONDS),
    "retries": COUNT,
    "next_try_in_s": nullable(SECONDS),
    "last_error": nullable(TEXT),
    "last_error_text": nullable(TEXT),
    "held_for": array(TEXT),
    "held_for_text": array(TEXT),
}
LETTER = {
    "number": {**COUNT, "description": "Grows with each death."},
    "id": TEXT,
    "lane": TEXT,
    "reason": TEXT,
    "reason_text": TEXT,
    "retries": COUNT,
    "died_at": MOMENT,
    "size": COUNT,
    "halts": {**FLAG, "description": "Its lane waits until it is replayed or dropped."},
}
SAMPLE = array(
    {"type": "number"},
    minItems=4,
    maxItems=4,
    description="Unix seconds, pending, delivered in all, dead. They hold until the next sample.",
)
LETTERS_WANTED = {"ids": array(ID, minItems=1, maxItems=1000), "all": {"const": True}}
ONE_OF_THEM = {"oneOf": [{"required": ["ids"]}, {"required": ["all"]}]}

SCHEMAS: dict[str, Schema] = {
    "Record": closed(RECORD),
    "Event": {
        **closed({name: schema if name in ALWAYS_KNOWN else nullable(schema) for name, schema in RECORD.items()}),
        "description": "A Record; while nothing was ever read, all but stale, boot and namespace is null.",
    },
    "Lanes": closed({"lanes": array(closed(LANE_STATE)), "more": COUNT}),
    "DeadLetters": closed({"letters": array(closed(LETTER)), "next": nullable(COUNT)}),
    "History": closed({"now": MOMENT, "samples": array(SAMPLE)}),
    "OneLane": closed({"lane": nullable(LANE)}, required=[]),
    "Switched": closed({"changed": FLAG, "in_flight": {**COUNT, "description": "Requests that are still under way."}}),
    "Letters": closed(dict(LETTERS_WANTED), required=[], **ONE_OF_THEM),
    "Replay": closed({**LETTERS_WANTED, "to": {"enum": ["tail", "head"]}}, required=[], **ONE_OF_THEM),
    "Counted": closed({"count": COUNT}),
    "Error": closed({"error": {**TEXT, "description": "One sentence."}}),
}

REFUSALS = {
    400: "The request can't be understood.",
    401: "Nobody is signed in.",
    403: "The request comes from another site, or the dashboard is read-only.",
    405: "Another method.",
    415: "The body isn't application/json.",
    503: "The store can't be read.",
}
READS, ACTS = (400, 401, 405, 503), (400, 401, 403, 405, 415, 503)


def json_body(schema: str) -> Schema:
    """A JSON document of that schema."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def responses(text: str, schema: str, refusals: tuple[int, ...]) -> Schema:
    """What an operation may answer."""
    fine = {"200": {"description": text, "content": json_body(schema)}}
    return fine | {str(code): {"$ref": f"#/components/responses/{code}"} for code in refusals}


def number(name: str, default: int, least: int, most: int) -> Schema:
    """A whole number in the query."""
    schema = {"type": "integer", "minimum": least, "maximum": most, "default": default}
    return {"name": name, "in": "query", "schema": schema}


def read(name: str, summary: str, schema: str, *parameters: Schema) -> Schema:
    """One that is read."""
    operation: Schema = {"operationId": name, "summary": summary, "responses": responses(summary, schema, READS)}
    return {"get": operation | ({"parameters": list(parameters)} if parameters else {})}


def act(name: str, summary: str, takes: str, gives: str) -> Schema:
    """One that changes something."""
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": True, "content": json_body(takes)},
            "responses": responses(summary, gives, ACTS),
        }
    }


EVENTS: Schema = {
    "get": {
        "operationId": "events",
        "summary": "The record on connect and on each change.",
        "description": "Server-sent events whose data is an Event, at most five a second; a comment each 15 s.",
        "responses": {
            "200": {"description": "A stream without an end.", "content": {"text/event-stream": {"schema": TEXT}}},
            **{str(code): {"$ref": f"#/components/responses/{code}"} for code in (401, 405, 503)},
        },
    }
}
LIMIT = number("limit", LIMIT_DEFAULT, 1, LIMIT_MOST)

PATHS: dict[str, Schema] = {
    "/api/sync": read("record", "The record of the moment.", "Record"),
    "/api/sync/events": EVENTS,
    "/api/sync/lanes": read("lanes", "The lanes that have waited longest, and their heads.", "Lanes", LIMIT),
    "/api/sync/dead": read(
        "dead", "Dead letters in the order in which they died.", "DeadLetters", LIMIT, number("after", 0, 0, FARTHEST)
    ),
    "/api/sync/history": read("history", "The last hour, a sample for each change.", "History"),
    "/api/sync/pause": act("pause", "Send nothing more, of all lanes or of one.", "OneLane", "Switched"),
    "/api/sync/resume": act("resume", "End a pause, of all lanes or of one.", "OneLane", "Switched"),
    "/api/sync/dead/replay": act("replay", "Put dead letters back into their lanes.", "Replay", "Counted"),
    "/api/sync/dead/drop": act("drop", "Delete dead letters for good.", "Letters", "Counted"),
}


def refusal(code: int, text: str) -> Schema:
    """A refusal, and the headers that go with it."""
    headers = {405: {"Allow": {"required": True, "schema": TEXT}}}.get(code, {})
    return {"description": text, "content": json_body("Error"), **({"headers": headers} if headers else {})}


def document(prefix: str = "") -> Schema:
    """The whole document, for a dashboard below a path prefix."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fluxy-sync",
            "version": __version__,
            "summary": "What a gateway's queue does, and what a person may do to it. No payload is ever shown.",
        },
        "servers": [{"url": prefix or "/"}],
        "security": [{"login": []}],
        "paths": PATHS,
        "components": {
            "schemas": SCHEMAS,
            "responses": {str(code): refusal(code, text) for code, text in REFUSALS.items()},
            "securitySchemes": {"login": {"type": "http", "scheme": "basic"}},
        },
    }
