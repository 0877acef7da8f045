"""The web page at `/ui`: static files that are read once, with content hashes as ETags."""

import gzip
import hashlib
import mimetypes
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

PAGE_PATH = "/ui"
DIRECTORY = Path(__file__).parent.parent / "page"
SUFFIXES = {".css", ".html", ".js", ".svg"}
"""What a browser loads. The others are licences and the types of the development tools."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads nothing from other hosts and runs no inline script or style. It draws its picture card as a blob."""


class Page:
    """The page's files. They are small, so they are held in memory; a browser asks again each time and mostly gets a 304.

    Starlette's `StaticFiles` makes its ETags of the files' times, which differ between replicas, and does not compress.
    """

    def __init__(self, directory: Path = DIRECTORY) -> None:
        files = sorted(path for path in directory.rglob("*") if path.suffix in SUFFIXES)
        self._files = {path.relative_to(directory).as_posix(): _File(path) for path in files}
        self.paths = frozenset({"/", PAGE_PATH, f"{PAGE_PATH}/", *(f"{PAGE_PATH}/{name}" for name in self._files)})
        """The paths that need no key: the files hold no data, and the page asks for the key itself."""

    async def index(self, request: Request) -> Response:
        """`GET /ui`: the page."""
        return self._files["index.html"].response(request)

    async def file(self, request: Request) -> Response:
        """`GET /ui/FILE`: one of the files that the page loads. Raises `HTTPException` (404)."""
        name = request.path_params["file"]
        if not name:
            return RedirectResponse("../ui")
        if name not in self._files:
            raise HTTPException(404)
        return self._files[name].response(request)


class _File:
    """One file with its headers, as it is and compressed."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._compressed = gzip.compress(self._content, mtime=0)
        self._media_type = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0] or "text/plain"
        self._headers = {
            "etag": f'W/"{hashlib.sha256(self._content).hexdigest()[:16]}"',  # weak: the same for both encodings
            "vary": "accept-encoding",
            "cache-control": "no-cache",  # keep it, but ask whether it has changed
            "content-security-policy": POLICY,
        }

    def response(self, request: Request) -> Response:
        """Return the file, or 304 if the browser has it."""
        if self._headers["etag"] in (etag.strip() for etag in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=self._headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self._content, media_type=self._media_type, headers=self._headers)
        return Response(self._compressed, media_type=self._media_type, headers=self._headers | {"content-encoding": "gzip"})
