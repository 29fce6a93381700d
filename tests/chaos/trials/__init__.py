"""The trials, one room for each kind of fault. A module here registers what it holds by ``@trial``."""
