"""Routes for the pictures to train on: dropping them, looking at them, leaving some out, writing captions."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from .. import locales
from ..errors import DataError
from .answers import KEPT, PREFIX, answer, body, language, number
from .folders import THUMBNAIL_SIDE, Listing, Picture
from .services import Services
from .uploads import Received

_LARGE_SIDE = 1024
_KINDS = ("any", "broken", "prohibited", "large", "small", "blurred", "face", "duplicate", "caption", "animated")
_LOOK_S = 0.8


def add_pictures(api: APIRouter, services: Services) -> None:
    """Add the routes below ``/uploads`` and ``/folder``."""
    uploads = services.uploads

    @api.post("/uploads")
    def create_upload() -> Response:
        return answer({"upload": uploads.create()})

    @api.post("/folder")
    async def open_folder(request: Request) -> Response:
        """Show a folder of this machine; its pictures are looked into when they are asked for."""
        services.access.check_paths()
        path = str((await body(request)).get("path", ""))
        upload = await run_in_threadpool(uploads.open_folder, path)
        listing = await run_in_threadpool(lambda: uploads.get(upload).listing(look=False))
        return answer(listing_json(upload, listing, services, language(request)))

    @api.get("/uploads/{upload}")
    def list_pictures(upload: str, request: Request) -> Response:
        only = request.query_params.get("only", "")
        listing = uploads.get(upload).listing(
            number(request, "from", 0),
            number(request, "count", 60),
            side=number(request, "side", 0),
            only=only if only in _KINDS else "",
        )
        return answer(listing_json(upload, listing, services, language(request)))

    @api.post("/uploads/{upload}/look")
    def look_on(upload: str) -> Response:
        """Look into pictures for about a second; near-duplicates are only known among those that were looked into."""
        return answer({"left": uploads.get(upload).look_on(_LOOK_S)})

    @api.post("/uploads/{upload}/pictures")
    async def add_pictures(upload: str, request: Request) -> Response:
        lang = language(request)
        received: list[Received] = []
        form = await request.form()
        try:
            for _, file in form.multi_items():
                if not isinstance(file, str):  # a plain text field is no picture
                    received.append(
                        await run_in_threadpool(uploads.receive, upload, file.filename or "picture", file.file)
                    )
        finally:
            await form.close()
        pictures = [picture_json(upload, picture, lang) for part in received for picture in part.pictures]
        problems = [locales.sentence(said, lang) for part in received for said in part.problems]
        total = len(await run_in_threadpool(uploads.get(upload).names))
        return answer({"upload": upload, "pictures": pictures, "problems": problems, "total": total})

    @api.delete("/uploads/{upload}/pictures/{name}")
    def remove_picture(upload: str, name: str) -> Response:
        uploads.remove(upload, name)
        return answer({"total": len(uploads.get(upload).names())})

    @api.post("/uploads/{upload}/leave-out")
    async def leave_out(upload: str, request: Request) -> Response:
        """Leave pictures out, or take them back (``out`` false); ``kind`` means all that have such an issue."""
        asked = await body(request)
        folder = uploads.get(upload)
        names = [str(name) for name in _list(asked.get("names", []))]
        kind = str(asked.get("kind", ""))
        if kind:
            side = asked.get("side", 0)
            listing = await run_in_threadpool(folder.listing, 0, 500, side=side if type(side) is int else 0, only=kind)
            names += [picture.name for picture in listing.pictures]
        await run_in_threadpool(folder.leave_out, names, out=asked.get("out", True) is not False)
        return answer({"names": names, "total": len(folder.names()), "left_out": sorted(folder.left_out())})

    @api.put("/uploads/{upload}/captions/{name}")
    async def write_caption(upload: str, name: str, request: Request) -> Response:
        text = str((await body(request)).get("text", ""))
        folder = uploads.get(upload)
        await run_in_threadpool(folder.write_caption, name, text)
        return answer({"name": name, "caption": folder.caption(name)})

    @api.get("/uploads/{upload}/thumbnails/{name}")
    def thumbnail(upload: str, name: str, request: Request) -> Response:
        side = _LARGE_SIDE if request.query_params.get("large") else THUMBNAIL_SIDE
        return FileResponse(uploads.get(upload).thumbnail(name, side), media_type="image/jpeg", headers=KEPT)


def _list(given: Any) -> list[Any]:
    if not isinstance(given, list) or len(given) > 50_000:
        raise DataError("The page sent something that can't be read.", todo="Reload the page.")
    return given


def listing_json(upload: str, listing: Listing, services: Services, lang: str) -> dict[str, Any]:
    """A part of a folder as the page shows it."""
    own = services.uploads.is_own(upload)
    return {
        "upload": upload,
        "folder": "" if own else str(services.uploads.get(upload).source),
        "total": listing.total,
        "from": listing.start,
        "looked": listing.looked,
        "counts": dict(listing.counts or {}),
        "left_out": list(listing.left_out),
        "pictures": [picture_json(upload, picture, lang) for picture in listing.pictures],
    }


def picture_json(upload: str, picture: Picture, lang: str) -> dict[str, Any]:
    """One picture as the page shows it."""
    url = f"{PREFIX}/uploads/{upload}/thumbnails/{quote(picture.name, safe='')}" if picture.width else None
    return {
        "name": picture.name,
        "width": picture.width,
        "height": picture.height,
        "caption": picture.caption,
        "problems": [locales.sentence(said, lang) for said in picture.problems],
        "kinds": [issue.kind for issue in picture.issues],
        "other": next((issue.other for issue in picture.issues if issue.other), ""),
        "refused": picture.refused,
        "thumbnail_url": url,
    }
