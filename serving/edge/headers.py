"""Security headers (https://owasp.org/www-project-secure-headers/)."""

import base64
import hashlib
import re
from pathlib import Path

from starlette.types import Message

SWAGGER_PAGE = Path(__file__).parent.parent / "swagger.html"
SWAGGER_PATH = "/docs"
STATIC_FILES = "/static_content/"

NO_CONTENT_POLICY = b"default-src 'none'; frame-ancestors 'none'"


def swagger_policy() -> bytes:
    """Return the Content-Security-Policy of Swagger UI: scripts and data from this service only, and the page's one inline script."""
    script = re.search(r"<script>(.*?)</script>", SWAGGER_PAGE.read_text(), re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).encode()


class SecurityHeaders:
    """Adds security headers to the start of a response. Headers that it already has are kept."""

    def __init__(self) -> None:
        self._common = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
        self._swagger_policy = swagger_policy()

    def add(self, message: Message, path: str) -> None:
        """Add the headers to an `http.response.start`."""
        headers = message.setdefault("headers", [])
        present = {name.lower() for name, _ in headers}
        policy = self._swagger_policy if path == SWAGGER_PATH else NO_CONTENT_POLICY
        added = [*self._common, (b"content-security-policy", policy)]
        if not path.startswith(STATIC_FILES):
            added.append((b"cache-control", b"no-store"))
        message["headers"] = [*headers, *(header for header in added if header[0] not in present)]
