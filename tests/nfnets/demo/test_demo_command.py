"""`python -m nfnets.demo`: its arguments, its sentences and its end."""

import importlib.util
import ipaddress
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest

from nfnets.demo import __main__ as demo

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (
      ['--weights', 'F9'],
      "--weights: 'F9' is neither the name of published weights nor a file: did you mean F6",
    ),
    (['--weights'], 'expected at least one argument'),
    (['--examples', 'missing'], '--examples: there is no folder missing'),
    (['--port', '70000'], "a number from 0 to 65535, got '70000'"),
    (['--port', 'http'], "a number from 0 to 65535, got 'http'"),
    (['--port', '-1'], 'argument'),
  ],
)
def test_wrong_arguments(arguments, sentence, capsys):
  with pytest.raises(SystemExit) as error:
    demo.main(arguments)
  assert error.value.code == 2
  assert sentence in capsys.readouterr().err


@pytest.mark.parametrize('missing', ['starlette', 'uvicorn'])
def test_without_what_serves_the_page(missing, weights_files, capsys, monkeypatch):
  for name in [name for name in sys.modules if name.startswith((missing, 'nfnets.demo.server'))]:
    monkeypatch.delitem(sys.modules, name)
  if hasattr(sys.modules['nfnets.demo'], 'server'):
    monkeypatch.delattr('nfnets.demo.server')
  monkeypatch.setitem(sys.modules, missing, None)
  assert demo.main(['--weights', str(weights_files[0])]) == 1
  err = capsys.readouterr().err
  assert err.startswith('Error: the page needs starlette and uvicorn')
  assert "[demo]'" in err
  assert err.count('\n') == 1


def test_a_port_in_use():
  with demo.listen('127.0.0.1', 0) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=f'port {port} of 127.0.0.1 is in use .* --port 0') as error:
      demo.listen('127.0.0.1', port)
  assert f'--port {port + 1 if port < 65535 else 7860},' in str(error.value)


@pytest.mark.parametrize('host', ['192.0.2.1', 'no-such-host.invalid'])
def test_an_address_of_another_machine(host):
  with pytest.raises(
    OSError, match=rf'{host} is not an address of this machine \([A-Z][a-z ]+\): give --host'
  ):
    demo.listen(host, 0)


@pytest.mark.parametrize(
  ('address', 'shown', 'warned'),
  [
    ('127.0.0.1', 'http://127.0.0.1:80 ', False),
    ('::1', 'http://[::1]:80 ', False),
    ('192.168.1.5', 'http://192.168.1.5:80 ', True),
    ('0.0.0.0', r'http://\d+\.\d+\.\d+\.\d+:80 ', True),
  ],
)
def test_others_are_let_in_with_a_warning(address, shown, warned):
  lines = demo._explain(ipaddress.ip_address(address), 80)
  assert re.search(shown if '\\' in shown else re.escape(shown), lines[0])
  assert '0.0.0.0' not in lines[0]
  assert len(lines) == 1 + warned
  if warned:
    assert lines[1].startswith('Warning: ')
    assert 'without a password' in lines[1]


def test_weights_that_cannot_be_loaded(tmp_path, capsys):
  pytest.importorskip('starlette', reason="the page is not installed: pip install -e '.[demo]'")
  path = tmp_path / 'x.safetensors'
  path.write_bytes(b'nothing')
  assert demo.main(['--weights', str(path), '--port', '0']) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('Error: ')
  assert 'x.safetensors' in error


@pytest.mark.parametrize('error', [AssertionError(), RuntimeError('no such backend')])
def test_hardware_that_is_not_there(error, weights_files, capsys, monkeypatch):
  pytest.importorskip('starlette', reason="the page is not installed: pip install -e '.[demo]'")

  def fail():
    raise error

  monkeypatch.setattr(demo.jax, 'devices', fail)
  assert demo.main(['--weights', str(weights_files[0]), '--port', '0']) == 1
  assert 'hardware that JAX does not find' in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(
  not (importlib.util.find_spec('starlette') and importlib.util.find_spec('uvicorn')),
  reason="the page is not installed: pip install -e '.[demo]'",
)
def test_from_start_to_interruption(weights_files):
  process = subprocess.Popen(
    [sys.executable, '-m', 'nfnets.demo', '--weights', *weights_files, '--port', '0'],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    lines = [process.stderr.readline(), process.stderr.readline()]
    assert lines[0] == 'Loading colors/ema_weights ...\n'
    found = re.fullmatch(r'The page is at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends\)\.\n', lines[1])
    with urllib.request.urlopen(f'{found[1]}/state', timeout=30) as response:
      assert json.load(response)['classes'] == 6
    place = urllib.parse.urlsplit(found[1])
    with socket.create_connection((place.hostname, place.port), timeout=30) as unfinished:
      unfinished.sendall(b'POST /label HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx')
      time.sleep(0.3)  # it arrives
      process.send_signal(signal.SIGINT)
      _, rest = process.communicate(timeout=30)
  finally:
    process.kill()
  assert rest.strip() == 'Stopped.'  # one line, whatever was going on
  assert process.returncode == 130
