"""What is wrong with a certificate, in OpenSSL's words."""

import re
import ssl

LONGEST = 80
_WORDS = re.compile(r"[^a-z0-9]+")


def fault_of(error: BaseException) -> str:
    """Why a certificate wasn't accepted, e.g. ``missing-authority-key-identifier``; empty where that isn't the cause.

    Looks through all that the error was made from. OpenSSL's sentences are fixed, but for the names behind a comma,
    which are left out.
    """
    todo, seen = [error], set[int]()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, ssl.SSLCertVerificationError):
            sentence = str(getattr(one, "verify_message", "")).partition(",")[0]
            return _WORDS.sub("-", sentence.lower()).strip("-")[:LONGEST]
        causes = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        todo += [cause for cause in causes if isinstance(cause, BaseException)]
    return ""


def is_tls(error: BaseException) -> bool:
    """Whether an error was made from one of TLS's."""
    todo, seen = [error], set[int]()
    while todo:
        one = todo.pop()
        if isinstance(one, ssl.SSLError):
            return True
        if id(one) not in seen:
            seen.add(id(one))
            todo += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
    return False
