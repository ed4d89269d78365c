"""Exit code 0 if the server in this container is ready to chat with memory."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8000/health/ready"


def main() -> int:
    """Ask once."""
    try:
        with urllib.request.urlopen(URL, timeout=10) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, TimeoutError):
        return 1


if __name__ == "__main__":
    sys.exit(main())
