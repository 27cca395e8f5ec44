"""Answers the browser: the page, labels for pictures, the available networks.

Pictures stay in memory: nothing that is sent is written to a file, no path comes from a request,
and the page's Content-Security-Policy keeps browsers from contacting any other host.
"""

import importlib.resources
import ipaddress
import logging
import socket
import urllib.parse
from collections.abc import Sequence

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nfnets import picture_files
from nfnets.demo.examples import Example
from nfnets.demo.models import Models, sentence

MAX_BYTES = 2**25  # of a picture that is sent: 33.5 MB, above what cameras and phones make
_CONNECTIONS = 64  # at a time: so many pictures may be in memory

_PAGE = {
  '/': ('page.html', 'text/html; charset=utf-8'),
  '/icon.svg': ('icon.svg', 'image/svg+xml'),
  '/page.css': ('page.css', 'text/css; charset=utf-8'),
  '/page.js': ('page.js', 'text/javascript; charset=utf-8'),
}
_HEADERS = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy': (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
  ),
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
}


def make_app(models: Models, examples: Sequence[Example], only_local: bool) -> Starlette:
  """Makes the application.

  Args:
    models: the networks, one of them loaded.
    examples: pictures to offer.
    only_local: whether to answer only requests that address this machine by its own names, so that
      no web page can reach it under another name (DNS rebinding).
  """

  async def label(request: Request) -> Response:
    try:
      picture = await _read_body(request)
    except ClientDisconnect:
      return Response(status_code=400)  # nobody will see it
    try:
      answer = await anyio.to_thread.run_sync(models.label, picture, abandon_on_cancel=True)
    except ValueError as error:
      return _problem(422, sentence(error))
    except MemoryError:
      return _problem(413, 'There is not enough memory for this picture: make it smaller first.')
    return JSONResponse(
      {
        'model': answer.number,
        'seconds': answer.seconds,
        'predictions': [[found.label, found.probability] for found in answer.predictions],
      }
    )

  async def state(request: Request) -> Response:
    names = [example.name for example in examples]
    return JSONResponse({**models.describe(), 'examples': names, 'max_bytes': MAX_BYTES})

  async def load(request: Request) -> Response:
    number = request.path_params['number']
    if number >= len(models.names):
      raise HTTPException(404)
    try:
      models.start_loading(number)
    except RuntimeError as error:
      return _problem(409, sentence(error))
    return JSONResponse({}, 202)

  async def example(request: Request) -> Response:
    found = _example(request)
    try:
      data = await anyio.to_thread.run_sync(picture_files.read, found.path)
    except OSError as error:
      return _problem(404, f'The example {found.name} can no longer be read: {error.strerror}.')
    return Response(data, media_type='application/octet-stream')

  async def thumbnail(request: Request) -> Response:
    return Response(_example(request).thumbnail, media_type='image/jpeg')

  def _example(request: Request) -> Example:
    number = request.path_params['number']
    if number >= len(examples):
      raise HTTPException(404)
    return examples[number]

  routes = [
    *(Route(path, _file(*file)) for path, file in _PAGE.items()),
    Route('/state', state),
    Route('/label', label, methods=['POST']),
    Route('/load/{number:int}', load, methods=['POST']),
    Route('/examples/{number:int}', example),
    Route('/thumbnails/{number:int}', thumbnail),
  ]
  return Starlette(
    routes=routes,
    middleware=[Middleware(_Guard, only_local=only_local)],
    exception_handlers={HTTPException: _say_status, Exception: _say_failure},
  )


def _file(name: str, media_type: str):
  """A handler that answers with a file of this package."""
  content = (importlib.resources.files('nfnets.demo') / name).read_bytes()

  async def answer(request: Request) -> Response:
    return Response(content, media_type=media_type)

  return answer


async def _read_body(request: Request) -> bytes:
  """The body of a request.

  Raises:
    HTTPException: it has more than MAX_BYTES bytes; no more than that are kept.
  """
  data = bytearray()
  if int(request.headers.get('content-length', 0)) <= MAX_BYTES:
    async for chunk in request.stream():
      data += chunk
      if len(data) > MAX_BYTES:
        break
    else:
      return bytes(data)
  raise HTTPException(
    413, f'The file has more than {MAX_BYTES / 1e6:.0f} MB: choose a smaller picture.'
  )


def _problem(status: int, text: str) -> Response:
  return JSONResponse({'problem': text}, status)


async def _say_status(request: Request, error: HTTPException) -> Response:
  return _problem(error.status_code, error.detail)


async def _say_failure(request: Request, error: Exception) -> Response:
  """For unexpected errors: the traceback goes to the terminal, see uvicorn's logger."""
  return _problem(500, 'The program failed on this request: see its terminal for the error.')


class _Guard:
  """Refuses requests from other web pages, and adds the headers that restrict the page."""

  def __init__(self, app: ASGIApp, only_local: bool):
    self._app = app
    self._only_local = only_local

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    async def send_with_headers(message: Message) -> None:
      if message['type'] == 'http.response.start':
        added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
        message = {**message, 'headers': [*message['headers'], *added]}
      await send(message)

    app = self._app
    if scope['type'] == 'http':
      request = Request(scope)
      host, origin = request.headers.get('host', ''), request.headers.get('origin')
      if self._only_local and not _is_local(host):
        app = _problem(403, f'This page is at localhost, not at {host}: --host opens it to others.')
      elif origin is not None and urllib.parse.urlsplit(origin).netloc != host:
        app = _problem(403, 'This request came from another web page: only this page may send it.')
    await app(scope, receive, send_with_headers)


def _is_local(host: str) -> bool:
  """Whether a Host header names this machine itself."""
  try:
    name = urllib.parse.urlsplit(f'//{host}').hostname or ''
    return name == 'localhost' or ipaddress.ip_address(name).is_loopback
  except ValueError:  # some other name
    return False


def serve(app: Starlette, listener: socket.socket) -> None:
  """Answers on a socket until a signal ends the process."""
  config = uvicorn.Config(
    app,
    access_log=False,
    http='h11',
    lifespan='off',
    limit_concurrency=_CONNECTIONS,
    loop='asyncio',  # another one may keep the signals to itself
    log_config=None,  # errors go to stderr
    proxy_headers=False,
    server_header=False,
    timeout_graceful_shutdown=1,
    ws='none',
  )
  _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
  """A server that ends without output."""

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    logging.getLogger('uvicorn.error').disabled = True  # what is cut off is no failure
    await super().shutdown(sockets)
