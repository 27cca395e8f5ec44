"""What the page's server answers, asked as a server asks an application (ASGI)."""

import asyncio
import json
import time
import zlib

import PIL.Image
import pytest

import nfnets
from nfnets import images
from nfnets.demo import examples, models

pytest.importorskip('starlette', reason="the page is not installed: pip install -e '.[demo]'")
server = pytest.importorskip('nfnets.demo.server')


def ask(app, method, path, body=b'', chunk=2**20, **headers):
  """Returns (status, headers, body) of a request; a body is sent in chunks."""
  headers = {'host': 'localhost:7860', **headers}
  pieces = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b'']
  messages = [
    {'type': 'http.request', 'body': piece, 'more_body': i < len(pieces) - 1}
    for i, piece in enumerate(pieces)
  ]
  sent = []

  async def receive():
    return messages.pop(0)

  async def send(message):
    sent.append(message)

  scope = {
    'type': 'http',
    'method': method,
    'path': path,
    'query_string': b'',
    'headers': [(name.encode(), value.encode()) for name, value in headers.items()],
  }
  asyncio.run(app(scope, receive, send))
  found = {name.decode(): value.decode() for name, value in sent[0]['headers']}
  return sent[0]['status'], found, b''.join(part.get('body', b'') for part in sent[1:])


@pytest.fixture(scope='module')
def offered(weights_files):
  offered = models.Models(list(map(str, weights_files)))
  offered.load(0)
  return offered


@pytest.fixture(scope='module')
def app(offered):
  return server.make_app(offered, [], only_local=True)


def label(app, picture, **options):
  status, _, body = ask(app, 'POST', '/label', picture, **options)
  return status, json.loads(body)


def cut(jpeg):
  return jpeg[: len(jpeg) // 3]


def bomb(png):
  """The PNG, whose header claims 100,000 x 100,000 pixels."""
  header = b'IHDR' + (100_000).to_bytes(4, 'big') * 2 + png[24:29]
  return png[:12] + header + zlib.crc32(header).to_bytes(4, 'big') + png[33:]


def test_labels_are_the_classifiers(app, classifier, encode):
  picture = encode('JPEG')
  status, answer = label(app, picture)
  assert status == 200
  expected = classifier(picture)
  assert [name for name, _ in answer['predictions']] == [found.label for found in expected]
  assert [share for _, share in answer['predictions']] == pytest.approx(
    [found.probability for found in expected], abs=1e-6
  )
  assert len(expected) == 5
  assert 0 < answer['seconds'] < 60
  assert answer['model'] == 0


@pytest.mark.parametrize(
  ('kind', 'options'),
  [
    ('JPEG', {'mode': 'CMYK'}),
    ('JPEG', {'mode': 'L'}),
    ('GIF', {'mode': 'P'}),
    ('PNG', {'mode': 'RGBA'}),
    ('PNG', {'size': (1, 1)}),
    ('TIFF', {}),
    ('WEBP', {}),
    ('JPEG', {'size': (4000, 3000)}),
  ],
)
def test_every_kind_of_picture_is_labelled(app, classifier, encode, kind, options):
  picture = encode(kind, **options)
  status, answer = label(app, picture)
  assert status == 200
  assert answer['predictions'][0][0] == classifier(picture)[0].label


def test_a_picture_is_turned_upright(app, classifier, encode):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  lying, upright = encode('PNG', exif=exif), encode('PNG')
  answers = [label(app, picture)[1]['predictions'] for picture in (lying, upright)]
  assert answers[0] != answers[1]
  assert answers[0][0][1] == pytest.approx(classifier(lying)[0].probability, abs=1e-6)


@pytest.mark.parametrize(
  ('make', 'sentence'),
  [
    (lambda jpeg: b'Dear all, this is text.', 'not a picture of a known format'),
    (lambda jpeg: b'', 'empty'),
    (lambda jpeg: b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'not a picture of a known format'),
    (cut, 'more than half of the JPEG picture is missing'),
    (bomb, '100000 x 100000 pixels'),
  ],
)
def test_what_is_no_picture_gets_a_sentence(app, encode, make, sentence):
  kind = 'PNG' if make is bomb else 'JPEG'
  status, answer = label(app, make(encode(kind, (400, 300))))
  assert status == 422
  assert list(answer) == ['problem']
  assert sentence.lower() in answer['problem'].lower()
  assert answer['problem'].endswith('.')
  assert '\n' not in answer['problem']


def test_a_body_is_bounded(app, monkeypatch):
  monkeypatch.setattr(server, 'MAX_BYTES', 10)
  limit = 'more than 0 MB'
  status, answer = label(app, b'x' * 11, chunk=4)  # says nothing of its length
  assert (status, limit in answer['problem']) == (413, True)
  status, answer = label(app, b'', **{'content-length': '11'})  # nothing of it is read
  assert (status, limit in answer['problem']) == (413, True)
  assert label(app, b'x' * 10)[0] == 422


def test_failures_are_sentences_too(offered, encode, monkeypatch):
  app = server.make_app(offered, [], only_local=True)

  def fail(picture):
    raise error

  monkeypatch.setattr(offered, 'label', fail)
  error = MemoryError()
  assert label(app, b'x')[1] == {
    'problem': 'There is not enough memory for this picture: make it smaller first.'
  }
  error = KeyError('inner matter')
  sent = []

  async def receive():
    return {'type': 'http.request', 'body': b'x', 'more_body': False}

  async def send(message):
    sent.append(message)

  scope = {
    'type': 'http',
    'method': 'POST',
    'path': '/label',
    'query_string': b'',
    'headers': [(b'host', b'localhost')],
  }
  with pytest.raises(KeyError):  # for the terminal
    asyncio.run(app(scope, receive, send))
  assert sent[0]['status'] == 500
  assert b'inner matter' not in sent[1]['body']
  assert b'terminal' in sent[1]['body']


def test_state(app, weights_files):
  status, _, body = ask(app, 'GET', '/state')
  state = json.loads(body)
  assert status == 200
  assert state['models'] == ['colors/ema_weights', 'beasts/ema_weights']
  assert (state['current'], state['classes'], state['size']) == (0, 6, 24)
  assert (state['loading'], state['problem'], state['examples']) == (None, None, [])


def test_another_network_is_loaded(weights_files, encode):
  offered = models.Models(list(map(str, weights_files)))
  offered.load(0)
  app = server.make_app(offered, [], only_local=True)
  assert ask(app, 'POST', '/load/1')[0] == 202
  while json.loads(ask(app, 'GET', '/state')[2])['loading']:
    time.sleep(0.01)
  picture = encode('PNG')
  expected = nfnets.Classifier.from_pretrained(weights_files[1])(picture)
  answer = label(app, picture)[1]
  assert answer['model'] == 1
  assert [name for name, _ in answer['predictions']] == [found.label for found in expected]
  assert ask(app, 'POST', '/load/2')[0] == 404
  assert ask(app, 'GET', '/load/1')[0] == 405


def test_examples(offered, encode, tmp_path):
  (tmp_path / 'inner').mkdir()
  (tmp_path / 'a.png').write_bytes(encode('PNG', (800, 200)))
  (tmp_path / 'inner' / 'b.jpg').write_bytes(encode('JPEG'))
  (tmp_path / 'c.jpg').write_bytes(b'no picture')
  (tmp_path / 'd.png').write_bytes(encode('PNG', (2000, 2000)))
  (tmp_path / 'notes.txt').write_text('no picture')
  found, notes = examples.find(tmp_path, max_bytes=(tmp_path / 'd.png').stat().st_size - 1)
  assert [example.name for example in found] == ['a', 'b']
  assert len(notes) == 3
  for note, text in zip(notes, ('c.jpg: ', 'd.png: it has ', '(notes.txt)'), strict=True):
    assert text in note
  app = server.make_app(offered, found, only_local=True)
  assert json.loads(ask(app, 'GET', '/state')[2])['examples'] == ['a', 'b']
  assert ask(app, 'GET', '/examples/1')[2] == (tmp_path / 'inner' / 'b.jpg').read_bytes()
  status, headers, body = ask(app, 'GET', '/thumbnails/0')
  assert (status, headers['content-type']) == (200, 'image/jpeg')
  assert images.decode(body).shape == (60, 240, 3)
  for path in ('/examples/2', '/examples/-1', '/examples/../a.png', '/examples//etc/passwd'):
    assert ask(app, 'GET', path)[0] == 404, path
  (tmp_path / 'a.png').unlink()
  status, _, body = ask(app, 'GET', '/examples/0')
  assert (status, json.loads(body)) == (
    404,
    {'problem': 'The example a can no longer be read: No such file or directory.'},
  )


def test_no_more_examples_than_fit(encode, tmp_path):
  for i in range(examples.LIMIT + 1):
    (tmp_path / f'{i:02}.png').write_bytes(encode('PNG', (8, 8)))
  found, notes = examples.find(tmp_path, max_bytes=1000)
  assert len(found) == examples.LIMIT
  assert notes == [f'{tmp_path} has more pictures: the first {examples.LIMIT} are offered']


@pytest.mark.parametrize('path', ['/', '/page.css', '/page.js', '/icon.svg', '/state', '/missing'])
def test_the_browser_may_ask_nobody_else(app, path):
  _, headers, body = ask(app, 'GET', path)
  policy = headers['content-security-policy']
  assert policy.startswith("default-src 'none'; ")
  assert 'http' not in policy
  assert '*' not in policy
  assert headers['x-content-type-options'] == 'nosniff'
  text = body.decode().replace('http://www.w3.org/2000/svg', '')  # a name, which nobody asks for
  assert '://' not in text


@pytest.mark.parametrize(
  ('host', 'status'),
  [
    ('localhost:7860', 200),
    ('127.0.0.1:7860', 200),
    ('[::1]:7860', 200),
    ('192.168.1.5:7860', 403),
    ('evil.example', 403),
    ('localhost.evil.example', 403),
    ('[', 403),
    ('', 403),
  ],
)
def test_a_local_page_is_at_localhost(app, offered, host, status):
  assert ask(app, 'GET', '/state', host=host)[0] == status
  everywhere = server.make_app(offered, [], only_local=False)
  assert ask(everywhere, 'GET', '/state', host=host)[0] == 200


def test_other_web_pages_get_nothing(app, encode):
  picture = encode('PNG')
  same = {'host': 'localhost:7860', 'origin': 'http://localhost:7860'}
  assert label(app, picture, **same)[0] == 200
  for origin in ('https://evil.example', 'http://localhost:9000', 'null'):
    status, answer = label(app, picture, **{**same, 'origin': origin})
    assert (status, 'another web page' in answer['problem']) == (403, True)
