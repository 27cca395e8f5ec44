"""Which files count as pictures, and what is said of the others."""

import http.server
import io
import os
import threading

import pytest

from nfnets import picture_files


def _walk(root):
  skipped = picture_files.Skipped(root)
  paths = list(picture_files.walk(root, root.resolve(), skipped))
  return [os.path.relpath(path, root) for path in paths], skipped


def _touch(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b'x')


def test_every_ending_counts_in_capitals_or_not(tmp_path):
  names = [
    f'{i}{ending.upper() if i % 2 else ending}' for i, ending in enumerate(picture_files.ENDINGS)
  ]
  _touch(tmp_path, *names)
  found, skipped = _walk(tmp_path)
  assert found == sorted(names)
  assert not skipped


def test_what_systems_leave_behind_is_not_mentioned(tmp_path):
  _touch(
    tmp_path,
    '.DS_Store',
    'Thumbs.db',
    'desktop.ini',
    '__MACOSX/a.jpg',
    'b/.ipynb_checkpoints/c.jpg',
  )
  found, skipped = _walk(tmp_path)
  assert found == []
  assert len(skipped) == 0


def test_what_is_left_out_is_counted_by_reason(tmp_path):
  _touch(tmp_path, 'a/b.jpg', 'a/._b.jpg', '.cache/c.jpg', *(f'a/{i}.txt' for i in range(7)))
  os.mkfifo(tmp_path / 'pipe.png')
  os.symlink('/dev/zero', tmp_path / 'zero.png')
  os.symlink('nowhere', tmp_path / 'broken.png')
  os.symlink('broken2.png', tmp_path / 'broken2.png')
  os.symlink('a', tmp_path / 'again')
  found, skipped = _walk(tmp_path)
  assert found == ['a/b.jpg']
  texts = ', '.join(f'a/{i}.txt' for i in range(5))
  assert str(skipped) == (
    'skipped 14: 2 hidden (.cache, a/._b.jpg), 3 whose link leads out of the folder or nowhere '
    f'(broken.png, broken2.png, zero.png), 7 of another ending ({texts}, ...), '
    '1 linked folders (again), 1 that are not regular files (pipe.png)'
  )


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  def refuse(folder):
    raise PermissionError(13, 'Permission denied', folder)

  monkeypatch.setattr(os, 'scandir', refuse)  # the superuser may read everything
  found, skipped = _walk(tmp_path)
  assert found == []
  assert str(skipped) == 'skipped 1: 1 that cannot be read: Permission denied (.)'


def test_read_gives_the_bytes_of_files_alone(tmp_path, monkeypatch):
  _touch(tmp_path, 'a.jpg')
  assert picture_files.read(tmp_path / 'a.jpg') == b'x'
  os.mkfifo(tmp_path / 'pipe.jpg')
  for path in (tmp_path / 'pipe.jpg', '/dev/zero'):
    with pytest.raises(OSError, match='it is a pipe, a socket or a device'):
      picture_files.read(path)
  with pytest.raises(IsADirectoryError):
    picture_files.read(tmp_path)
  with pytest.raises(FileNotFoundError):
    picture_files.read(tmp_path / 'b.jpg')
  with open(tmp_path / 'large.jpg', 'wb') as file:
    file.truncate(picture_files.MAX_BYTES + 1)  # without a byte on the disk
  with pytest.raises(OSError, match='1,073,741,825 bytes, more than 1,073,741,824'):
    picture_files.read(tmp_path / 'large.jpg')


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    (b'a b-\xc3\xa9.png', 'a b-é.png'),
    (b'\xff.png', '\\xff.png'),
    (b'\x1b[31m\n.png', '\\x1b[31m\\n.png'),
    ('\u202egnp.exe'.encode(), '\\u202egnp.exe'),  # would turn the line around
  ],
)
def test_names_are_printable(name, text):
  assert picture_files.printable(os.fsdecode(name)) == text


@pytest.fixture(scope='module')
def server():
  """The address of a server of a picture, a large file, a redirection to a file, and errors."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      if self.path == '/away.jpg':
        self.send_response(302)
        self.send_header('Location', 'file:///etc/passwd')
        self.end_headers()
        return
      self.send_response(200 if self.path in ('/cat.jpg', '/large.jpg') else 404)
      self.end_headers()
      self.wfile.write(b'picture' * (1 if self.path == '/cat.jpg' else 1000))

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{running.server_port}'
    running.shutdown()


def test_an_address_is_downloaded_within_bounds(server, monkeypatch):
  assert picture_files.download(f'{server}/cat.jpg') == b'picture'
  with pytest.raises(OSError, match=r'none.jpg cannot be downloaded: the server answered 404\.'):
    picture_files.download(f'{server}/none.jpg')
  monkeypatch.setattr(picture_files, 'MAX_DOWNLOAD', 1000)
  with pytest.raises(OSError, match='more than 1,000 bytes: download it, and give the file'):
    picture_files.download(f'{server}/large.jpg')


def test_an_address_leads_to_no_file_of_this_machine(server):
  with pytest.raises(OSError, match='away.jpg cannot be downloaded: the server answered 302'):
    picture_files.download(f'{server}/away.jpg')


def test_a_server_that_is_not_there_is_one_sentence(server):
  with pytest.raises(OSError, match='cannot be downloaded: .*refused'):
    picture_files.download('http://127.0.0.1:1/cat.jpg')
  with pytest.raises(OSError, match='cannot be downloaded'):
    picture_files.download('http://')


def test_open_files_are_read_within_bounds(monkeypatch):
  assert picture_files.read_open(io.BytesIO(b'abc')) == b'abc'
  monkeypatch.setattr(picture_files, 'MAX_BYTES', 2)
  with pytest.raises(OSError, match='more than 2 bytes'):
    picture_files.read_open(io.BytesIO(b'abc'))
