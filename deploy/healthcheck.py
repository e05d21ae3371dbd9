"""The health check of the image: asks the server in the same container whether it is ready.

What ready means is the server's to say (``docs/operations.md``).
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection

#: Of CHATSVC_HTTP in the image.
PORT = 9180


def main() -> int:
    """The exit status: 0 if the server is ready, 1 if it says why not or does not answer."""
    connection = HTTPConnection("127.0.0.1", PORT, timeout=4)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.read(1000).decode(errors="replace").strip())
    except OSError as error:
        print(f"The server does not answer on port {PORT}: {error}.")
        return 1
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
