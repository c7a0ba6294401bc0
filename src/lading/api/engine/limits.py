"""Every bound that the Engine API puts on a client, in one place (hostile-input.md, A rows)."""

from typing import Final

REQUEST_LINE: Final = 1024 * 1024
"""Bytes of a request line. Long queries are normal: ``docker save`` names every image in one."""
PATH: Final = 8 * 1024
"""Bytes of a path before decoding; a longer one names nothing that can exist (A1)."""
HEADER_FIELD: Final = 256 * 1024
"""Bytes of one header field; ``X-Registry-Config`` holds the credentials of every registry."""
HEADERS: Final = 128
QUERY_FIELDS: Final = 10_000
FILTER_BYTES: Final = 256 * 1024
FILTER_VALUES: Final = 1_000
JSON_BODY: Final = 4 * 1024 * 1024
"""Bytes of a JSON body, unless a route says otherwise (A3)."""
HEADER_SECONDS: Final = 10.0
"""A client has so long to send a request's headers (§3, slow clients)."""
BODY_IDLE_SECONDS: Final = 30.0
"""A JSON body may pause for so long (A3: chunked without an end)."""
WRITE_SECONDS: Final = 600.0
"""A client that reads nothing for so long is dropped (A4). Long, because a terminal may be stopped with Ctrl-S."""
KEEPALIVE_SECONDS: Final = 3600.0
GRACE_SECONDS: Final = 4.0
"""Requests in flight have so long to finish once the daemon stops; they are then cancelled."""
CHUNK: Final = 64 * 1024
