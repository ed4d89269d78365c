"""The version, as the package's metadata states it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("lightmem-engine")
except PackageNotFoundError:  # running from a source tree that is not installed
    VERSION = "0.0.0+source"
