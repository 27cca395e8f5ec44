"""Opens a page in the browser to try networks.

    nfnets demo --weights F0
    nfnets demo --weights runs/digits F0 --examples photos/

You can drop, paste or choose pictures, or take them with a camera. Only this machine can reach the
page, unless --host is given; nothing leaves the machine, and no picture is stored.
Exit code 1: it failed; 2: wrong arguments; 130: ended with Ctrl-C.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import errno
import ipaddress
import os
import pathlib
import socket
import sys

import jax

from nfnets import installation
from nfnets.demo import examples, models
from nfnets.weights import hub


def main(argv: list[str] | None = None) -> int:
  """Serves the page until it is interrupted; returns the exit code."""
  args = _parse(argv)
  interruption.say_at_end('Stopped.')
  try:
    return _serve(args, models.Models(args.weights))
  except (ImportError, OSError, RuntimeError, ValueError) as error:
    print(f'Error: {" ".join(str(error).split())}', file=sys.stderr)
    return 1


def _serve(args: argparse.Namespace, offered: models.Models) -> int:
  try:
    from nfnets.demo import server
  except ImportError as error:
    raise ImportError(
      f'the page needs starlette and uvicorn ({error}): {installation.command("demo")}'
    ) from None
  with listen(args.host, args.port) as listener:
    found, notes = examples.find(args.examples, server.MAX_BYTES) if args.examples else ([], [])
    for note in notes:
      print(note, file=sys.stderr)
    print(f'Loading {offered.names[0]} ...', file=sys.stderr, flush=True)
    _check_hardware()
    offered.load(0)
    address = ipaddress.ip_address(listener.getsockname()[0])
    for line in _explain(address, listener.getsockname()[1]):
      print(line, file=sys.stderr, flush=True)
    server.serve(server.make_app(offered, found, address.is_loopback), listener)
  return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
  description, _, details = __doc__.partition('\n')
  parser = argparse.ArgumentParser(
    prog='nfnets demo',
    description=description,
    epilog=details,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    '--weights',
    nargs='+',
    default=['F0'],
    metavar='W',
    help="published names, files or runs' folders; the page chooses among them (default: F0)",
  )
  add('--examples', type=pathlib.Path, metavar='DIR', help='offer the pictures of a folder')
  add('--host', default='127.0.0.1', help='0.0.0.0: for others too (default: this machine)')
  add('--port', type=_port, default=7860, help='0: any that is free (default: 7860)')
  args = parser.parse_args(argv)
  args.weights = list(dict.fromkeys(args.weights))
  for text in args.weights:
    try:
      hub.locate(text)
    except (OSError, ValueError) as error:
      parser.error(f'--weights: {error}')
  if args.examples and not args.examples.is_dir():
    parser.error(f'--examples: there is no folder {args.examples}')
  return args


def _port(text: str) -> int:
  if not text.isdecimal() or int(text) >= 2**16:
    raise argparse.ArgumentTypeError(f'must be a number from 0 to 65535, got {text!r}')
  return int(text)


def listen(host: str, port: int) -> socket.socket:
  """Returns a socket that listens at an address.

  Args:
    host: a name or an IP address of this machine.
    port: 0: any that is free.

  Raises:
    OSError: this is not an address of this machine, or the port is not available.
  """
  try:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family)
  except OSError as error:
    if error.errno == errno.EADDRINUSE:
      reason = (
        f'port {port} of {host} is in use by another program: stop that one, or choose another '
        f'port with --port {port + 1 if port < 65535 else 7860}, or any that is free with --port 0.'
      )
    elif error.errno == errno.EACCES:
      reason = f'this user may not open port {port}: choose one above 1023, such as --port 7860.'
    else:
      known = not isinstance(error, socket.gaierror)  # whose numbers are others
      why = os.strerror(error.errno) if known else error.strerror
      reason = (
        f'{host} is not an address of this machine ({why}): give --host 127.0.0.1 for this '
        'machine only, or 0.0.0.0 for everyone who can reach it.'
      )
    raise OSError(reason) from None


def _check_hardware() -> None:
  """Raises RuntimeError if JAX does not find what JAX_PLATFORMS asks for."""
  try:
    jax.devices()
  except (AssertionError, RuntimeError):  # of 'cuda' and of any other name
    raise RuntimeError(
      f'JAX_PLATFORMS={jax.config.jax_platforms} asks for hardware that JAX does not find: leave '
      'the variable out or set JAX_PLATFORMS=cpu.'
    ) from None


def _explain(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> list[str]:
  """What to say of the page that is now there."""
  shown = _outward_address() if address.is_unspecified else str(address)
  lines = [f'The page is at http://{f"[{shown}]" if ":" in shown else shown}:{port} (Ctrl-C ends).']
  if not address.is_loopback:
    lines.append(
      f'Warning: anyone who can reach {shown} over a network can use the page without a password. '
      'Without --host only this machine can.'
    )
  return lines


def _outward_address() -> str:
  """This machine's address in its network, for a phone to open; nothing is sent to find it."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    try:
      probe.connect(('192.0.2.1', 9))  # RFC 5737: an address that nobody has
      return probe.getsockname()[0]
    except OSError:  # no network
      return '127.0.0.1'


if __name__ == '__main__':
  sys.exit(main())
