"""The form of a request: its fields, and its file, read within the limits of the server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from layerdial.serving.options import Limits
from layerdial.serving.problems import Problem

_MOST_FIELDS, _LONGEST_FIELD = 32, 1 << 17
_LONGEST_NAME = 80


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


@dataclass(frozen=True)
class Upload:
    """The fields of a form, those that may be repeated as lists, and its one file: name and content."""

    fields: Mapping[str, list[str]]
    name: str
    content: bytes


async def read_upload(request: Request, limits: Limits) -> Upload:
    """Read a multipart form with one file. Raises `Problem` for other bodies, and for what is too large."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise Problem(415, f"the content type is {kind[:80]!r}; send multipart/form-data with a file", "invalid_body")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > limits.max_body:
        raise _too_large(limits)
    parser = MultiPartParser(
        request.headers,
        _limited(request, limits),
        max_files=1,
        max_fields=_MOST_FIELDS,
        max_part_size=_LONGEST_FIELD,
    )
    try:
        form = await parser.parse()
    except ClientDisconnect:
        raise ClientGone from None
    except MultiPartException as error:
        raise Problem(400, f"the form cannot be read: {error.message}", "invalid_body") from None
    except (ValueError, KeyError) as error:  # boundaries and lengths that the parser does not check itself
        raise Problem(400, f"the form cannot be read: {type(error).__name__}", "invalid_body") from None
    try:
        return await _upload(form)
    finally:
        await form.close()


async def _upload(form: FormData) -> Upload:
    fields: dict[str, list[str]] = {}
    name, content = "", None
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            if key != "file":
                raise Problem(
                    400, f"the field {_shown(key)} is a file; the audio's field is file", "invalid_body", "file"
                )
            name, content = _shown(value.filename or "") or "the file", await value.read()
        else:
            fields.setdefault(key, []).append(value)
    if content is None:
        raise Problem(400, "there is no file; send the audio as the field file, with a file name", "missing", "file")
    return Upload(fields, name, content)


async def _limited(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body. Raises `Problem` where it goes beyond the limit, whatever its header says."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.max_body:
            raise _too_large(limits)
        yield chunk


def _too_large(limits: Limits) -> Problem:
    largest = f"{limits.max_body_mb:g} MB (the server's --max-body-mb)"
    return Problem(413, f"the request is larger than {largest}; send less", "request_too_large", "file")


def _shown(name: str) -> str:
    """Return a client's name of a file as messages may have it: its last part, short, in one line."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:_LONGEST_NAME]
