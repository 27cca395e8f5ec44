"""Downloads from a server on this machine: whole, cut, wrong, too long and from elsewhere."""

import concurrent.futures
import contextlib
import hashlib
import http.server
import subprocess
import sys
import tempfile
import threading
import urllib.request

import numpy as np
import pytest

from nfnets.weights import download, proxies
from nfnets.weights.download import RemoteFile, cache_directory, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = f'sha256:{hashlib.sha256(CONTENT).hexdigest()}'


class _Server(http.server.ThreadingHTTPServer):
  """Serves CONTENT at every path; what it was asked for is in `asked`."""

  daemon_threads = True

  def __init__(self):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.asked = []  # (path, the Range header)
    self.cut_after = None  # bytes after which the connection is cut
    self.answers_ranges = True
    self.content = CONTENT
    self.says_length = True
    self.redirect = None
    self.troubles = []  # statuses of the next answers

  def remote(self, name='weights.npz', digest=DIGEST):
    url = f'http://127.0.0.1:{self.server_address[1]}/{name}'
    return RemoteFile(url, len(CONTENT), digest)


class _Handler(http.server.BaseHTTPRequestHandler):
  def log_message(self, *args):
    pass

  def do_GET(self):
    server = self.server
    wanted = self.headers.get('Range')
    server.asked.append((self.path, wanted))
    if server.troubles:
      self.send_error(server.troubles.pop(0))
      return
    if self.path == '/absent':
      self.send_error(404)
      return
    if self.path == '/elsewhere':
      self.send_response(302)
      self.send_header('Location', server.redirect)
      self.end_headers()
      return
    start = int(wanted.removeprefix('bytes=').rstrip('-')) if wanted else 0
    if not server.answers_ranges:
      start = 0
    if start > len(server.content):
      self.send_error(416)
      return
    self.send_response(206 if start else 200)
    body = server.content[start:]
    if start:
      last = len(server.content) - 1
      self.send_header('Content-Range', f'bytes {start}-{last}/{last + 1}')
    if server.says_length:
      self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    with contextlib.suppress(ConnectionError):  # the client may have enough
      self.wfile.write(body[: server.cut_after])


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setenv('no_proxy', '127.0.0.1')
  server = _Server()
  thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
  thread.start()
  yield server
  server.shutdown()
  thread.join()
  server.server_close()


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_download_and_cached_second_call(server, tmp_path, capfd):
  path = fetch(server.remote(), tmp_path / 'new' / 'cache')
  assert path == tmp_path / 'new' / 'cache' / 'weights.npz'
  assert path.read_bytes() == CONTENT
  assert _names(path.parent) == ['weights.npz']
  out, progress = capfd.readouterr()
  assert out == ''
  assert 'weights.npz: 100% of 0.3 MB, ' in progress
  assert 'MB/s, 00:00:00 left' in progress
  assert fetch(server.remote(), path.parent) == path
  assert len(server.asked) == 1
  assert capfd.readouterr().err == ''


def test_md5_and_no_length(server, tmp_path):
  server.says_length = False
  remote = server.remote(digest=f'md5:{hashlib.md5(CONTENT).hexdigest()}')
  assert fetch(remote, tmp_path).read_bytes() == CONTENT


def test_resume_within_one_call(server, tmp_path):
  server.cut_after = 100_000
  assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
  assert [wanted for _, wanted in server.asked] == [None, 'bytes=100000-', 'bytes=200000-']


def test_resume_from_an_earlier_call(server, tmp_path):
  (tmp_path / 'weights.npz.part').write_bytes(CONTENT[:123_456])
  assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
  assert [wanted for _, wanted in server.asked] == ['bytes=123456-']
  assert _names(tmp_path) == ['weights.npz']


def test_whole_part_needs_no_connection(server, tmp_path):
  (tmp_path / 'weights.npz.part').write_bytes(CONTENT)
  assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
  assert server.asked == []


def test_server_without_ranges_sends_all(server, tmp_path):
  server.answers_ranges = False
  (tmp_path / 'weights.npz.part').write_bytes(b'other' * 100)
  assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT


def test_part_that_is_too_long_starts_again(server, tmp_path):
  (tmp_path / 'weights.npz.part').write_bytes(CONTENT + b'more')
  assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
  assert server.asked == [('/weights.npz', None)]


def test_cut_at_once_keeps_what_there_is(server, tmp_path):
  (tmp_path / 'weights.npz.part').write_bytes(CONTENT[:1000])
  server.cut_after = 0
  with pytest.raises(ConnectionError, match=r'connection was cut.*the partial download is kept'):
    fetch(server.remote(), tmp_path)
  assert len(server.asked) == 1
  assert (tmp_path / 'weights.npz.part').read_bytes() == CONTENT[:1000]


def test_many_cuts_come_to_an_end(server, tmp_path):
  server.cut_after = 1
  with pytest.raises(ConnectionError, match='connection was cut'):
    fetch(server.remote(), tmp_path)
  assert 2 < len(server.asked) < 20
  server.cut_after = None
  assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT


def test_wrong_checksum_is_removed(server, tmp_path):
  remote = server.remote(digest='sha256:' + '0' * 64)
  with pytest.raises(ValueError, match=r'wrong checksum.*removed') as caught:
    fetch(remote, tmp_path)
  assert str(tmp_path / 'weights.npz') in str(caught.value)
  assert _names(tmp_path) == []
  (tmp_path / 'weights.npz.part').write_bytes(b'x' * 5000)  # the start of something else
  with pytest.raises(ValueError, match='wrong checksum'):
    fetch(server.remote(), tmp_path)
  assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize('content', [CONTENT[:-1], b'x' + CONTENT[1:]])
def test_wrong_file_in_the_cache_is_set_aside(server, tmp_path, content, caplog):
  (tmp_path / 'weights.npz').write_bytes(content)
  assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
  assert (tmp_path / 'weights.npz.wrong').read_bytes() == content
  assert 'weights.npz.wrong' in caplog.text


def test_size_is_bounded(server, tmp_path):
  server.content = CONTENT * 2
  with pytest.raises(ValueError, match=r'offers 600000 bytes instead of 300000'):
    fetch(server.remote(), tmp_path)
  assert _names(tmp_path) == []
  server.says_length = False
  assert fetch(server.remote(), tmp_path).stat().st_size == len(CONTENT)  # no byte more is read
  (tmp_path / 'weights.npz').unlink()
  server.content, server.says_length = CONTENT[:1000], True
  with pytest.raises(ValueError, match='offers 1000 bytes'):
    fetch(server.remote(), tmp_path)


def test_missing_file_and_no_connection_say_where_to_put_it(server, tmp_path):
  with pytest.raises(ConnectionError, match='404') as caught:
    fetch(server.remote('absent'), tmp_path)
  assert str(tmp_path / 'absent') in str(caught.value)
  server.shutdown()
  server.socket.close()
  with pytest.raises(ConnectionError, match='refused') as caught:
    fetch(server.remote('F9.npz'), tmp_path)
  message = str(caught.value)
  assert 'cannot download F9.npz from http://127.0.0.1' in message
  assert f'put it at {tmp_path / "F9.npz"}.' in message
  (tmp_path / 'F9.npz').write_bytes(CONTENT)
  assert fetch(server.remote('F9.npz'), tmp_path) == tmp_path / 'F9.npz'


def test_a_server_in_trouble_is_asked_again(server, tmp_path, monkeypatch):
  monkeypatch.setattr(download, '_PAUSES', (0.01, 0.01))
  server.troubles = [503, 429]
  assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
  assert len(server.asked) == 3
  server.troubles = [500, 500, 500]
  with pytest.raises(ConnectionError, match=r'500: .*overloaded or failing: try again later'):
    fetch(server.remote('other.npz'), tmp_path)


@pytest.mark.parametrize(
  ('status', 'sentence'),
  [
    (403, 'denies access: log in or change the proxy'),
    (404, 'no longer there: update nfnets'),
  ],
)
def test_what_to_do_about_an_answer(server, tmp_path, status, sentence):
  server.troubles = [status]
  with pytest.raises(ConnectionError, match=f'{status}: .*{sentence}.*put it at'):
    fetch(server.remote(), tmp_path)
  assert len(server.asked) == 1


# A process that starts when it is told to, and says what it got.
FETCHING = """
import sys
from nfnets.weights.download import RemoteFile, fetch
url, size, digest, folder = sys.argv[1:]
print('ready', flush=True)
sys.stdin.readline()
print(fetch(RemoteFile(url, int(size), digest), folder).stat().st_size)
"""


def test_processes_and_threads_take_turns(server, tmp_path):
  server.cut_after = 60_000  # several connections, so that all are at it at once
  remote = server.remote()
  command = [sys.executable, '-c', FETCHING, remote.url, str(remote.size), remote.digest, tmp_path]
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL}
  others = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
  assert [process.stdout.readline() for process in others] == ['ready\n'] * 2
  for process in others:
    process.stdin.write('go\n')
    process.stdin.flush()
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    paths = list(pool.map(lambda _: fetch(remote, tmp_path), range(4)))
  assert [process.communicate()[0] for process in others] == [f'{len(CONTENT)}\n'] * 2
  assert set(paths) == {tmp_path / 'weights.npz'}
  assert paths[0].read_bytes() == CONTENT
  assert _names(tmp_path) == ['weights.npz']
  # One did it: no byte was asked for twice.
  starts = [wanted for _, wanted in server.asked]
  assert starts == [None, *(f'bytes={n}-' for n in range(60_000, len(CONTENT), 60_000))]


def test_a_right_file_needs_no_lock(server, tmp_path, monkeypatch):
  (tmp_path / 'weights.npz').write_bytes(CONTENT)
  monkeypatch.setattr(download, '_alone', None)  # such as where nothing can be written
  assert fetch(server.remote(), tmp_path) == tmp_path / 'weights.npz'
  assert server.asked == []


def test_redirects_and_other_schemes(server, tmp_path):
  for location in ('http://example.com/x', 'ftp://127.0.0.1/x', 'file:///etc/hostname'):
    server.redirect = location
    with pytest.raises((ValueError, ConnectionError), match=r'refused|not allowed'):
      fetch(server.remote('elsewhere'), tmp_path)
    assert _names(tmp_path) == []
  server.redirect = '/../../name/of/the/server'
  assert fetch(server.remote('elsewhere'), tmp_path) == tmp_path / 'elsewhere'
  for url in ('http://example.com/x', 'file:///etc/hostname', 'ftp://localhost/x', 'x', 'https:/x'):
    with pytest.raises(ValueError, match='by https only'):
      fetch(RemoteFile(url, 1, DIGEST), tmp_path)
  for url in ('https://example.com/', 'https://example.com/..', 'https://example.com/a%2Fb'):
    with pytest.raises(ValueError, match='plain file name'):
      fetch(RemoteFile(url, 1, DIGEST), tmp_path)


def test_cache_directory(monkeypatch, tmp_path):
  monkeypatch.setenv('NFNETS_CACHE', str(tmp_path / 'a'))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'b'))
  assert cache_directory() == tmp_path / 'a'
  monkeypatch.delenv('NFNETS_CACHE')
  assert cache_directory() == tmp_path / 'b' / 'nfnets'
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert cache_directory().parts[-2:] == ('.cache', 'nfnets')


def test_without_a_home_there_is_a_folder_of_ones_own(monkeypatch, tmp_path, caplog):
  for name in ('NFNETS_CACHE', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)

  def no_home():
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.setattr(download.Path, 'home', no_home)
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  download._temporary_directory.cache_clear()
  directory = cache_directory()
  assert directory.parent == tmp_path
  assert directory.stat().st_mode & 0o777 == 0o700
  assert cache_directory() == directory
  (record,) = caplog.records
  assert f'kept in {directory}; NFNETS_CACHE=DIR chooses' in record.getMessage()
  directory.chmod(0o777)  # as another user may have prepared it
  download._temporary_directory.cache_clear()
  assert cache_directory() != directory
  download._temporary_directory.cache_clear()


@pytest.mark.parametrize(
  'proxy',
  ['socks5://someone:secret@host:1080', 'http://[::1', 'host:port', 'ftp://host:1', 'http://'],
)
def test_a_proxy_that_is_none_is_named_before_it_is_asked(monkeypatch, tmp_path, proxy):
  for name in ('HTTPS_PROXY', 'no_proxy', 'NO_PROXY'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('https_proxy', proxy)
  remote = RemoteFile('https://example.invalid/weights.npz', 1, DIGEST)
  with pytest.raises(ConnectionError, match='https_proxy=.* write http://HOST:PORT') as caught:
    fetch(remote, tmp_path)
  assert 'secret' not in str(caught.value)
  assert f'put it at {tmp_path / "weights.npz"}.' in str(caught.value)


@pytest.mark.parametrize(
  ('no_proxy', 'exempt'),
  [
    ('::1', True),
    ('[::1]', True),
    ('localhost, ::/64', True),
    ('0:0:0:0:0:0:0:1', True),
    ('::2,fd00::/8', False),
    ('', False),
  ],
)
def test_no_proxy_names_ipv6_addresses(monkeypatch, no_proxy, exempt):
  monkeypatch.setenv('no_proxy', no_proxy)
  monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')
  request = urllib.request.Request('http://[::1]:8080/weights.npz')
  handler = proxies.ProxyHandler()
  opened = handler.proxy_open(request, 'http://127.0.0.1:9', 'http')
  assert opened is None  # it goes on with the request as it is now
  assert request.host == ('[::1]:8080' if exempt else '127.0.0.1:9')
