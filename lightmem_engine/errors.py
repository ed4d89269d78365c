"""One tree of errors.

    LightMemError
    ├── ConfigError            a setting is unknown, malformed or impossible on this machine
    ├── InvalidInput           the caller's data is wrong; says what and where
    │   └── ContextTooLong     the prompt does not fit into the model
    ├── NotFound               no such entry, user or model
    ├── Conflict               the same id with other content, or a version that moved on
    ├── Overloaded             a bounded queue is full; try again later
    ├── BackendUnavailable     a model server or device cannot be reached now; worth a retry
    ├── ModelError             a model answered with something unusable
    └── StoreError             the data directory cannot be read or written
        └── CorruptStore       its content contradicts itself

`code` is the stable word of the HTTP error body; the message is for people.
"""

from __future__ import annotations


class LightMemError(Exception):
    """Root of everything this package raises on purpose."""

    code = "internal"


class ConfigError(LightMemError):
    """A setting is unknown, malformed or impossible on this machine."""

    code = "config"


class InvalidInput(LightMemError):
    """The caller's data is wrong."""

    code = "invalid_input"


class ContextTooLong(InvalidInput):
    """The prompt does not fit into the model."""

    code = "context_length_exceeded"


class NotFound(LightMemError):
    """There is no such thing."""

    code = "not_found"


class Conflict(LightMemError):
    """The request contradicts what is stored."""

    code = "conflict"


class Overloaded(LightMemError):
    """A bounded queue is full."""

    code = "overloaded"


class BackendUnavailable(LightMemError):
    """A model server or a device cannot be reached now; the same call may succeed later."""

    code = "backend_unavailable"


class EngineDown(BackendUnavailable):
    """The process that owns the memory does not answer; it is being started again, or gone."""

    code = "engine_down"


class ModelError(LightMemError):
    """A model answered with something unusable."""

    code = "model_error"


class StoreError(LightMemError):
    """The data directory cannot be read or written."""

    code = "store_error"


class CorruptStore(StoreError):
    """The data directory contradicts itself."""

    code = "corrupt_store"
