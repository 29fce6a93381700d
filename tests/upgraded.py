"""What an upgrade of a library may do: a private name that the worker uses is gone. For FLUXY_SYNC_IMPORTS."""

from urllib3.connection import HTTPConnection

del HTTPConnection._new_conn
