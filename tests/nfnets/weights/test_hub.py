"""Published weights by name, local files that rebuild their model, and new classifiers."""

import hashlib
import http.server
import logging
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import zoo
from nfnets.weights import hub, save
from nfnets.weights.hub import DEEPMIND, TIMM, load_pretrained

GOLDEN = Path(__file__).parents[2] / 'golden'
SPEC = nfnets.ModelSpec(width=(32, 64), depth=(1, 1), stride=(1, 2), group_width=8)


def _params(spec, num_classes):
  random = np.random.default_rng(1)
  return {
    module: {n: random.normal(size=leaf.shape).astype(np.float32) for n, leaf in entries.items()}
    for module, entries in zoo.parameter_shapes(spec, num_classes).items()
  }


def _assert_same(got, want, but=None):
  assert list(got) == list(want)
  for module in want:
    if module != but:
      for name, array in want[module].items():
        np.testing.assert_array_equal(got[module][name], array, strict=True)


@pytest.fixture
def released(monkeypatch):
  """Small weights in the place of a downloaded F0."""
  params = _params(SPEC, 1000)
  monkeypatch.setattr(hub, 'fetch', lambda remote, cache_dir: remote)
  monkeypatch.setattr(hub, 'load_deepmind', lambda remote, name: params)
  return params


def test_published_name(released):
  params, spec, name = load_pretrained('F0')
  _assert_same(params, released)
  assert spec == zoo.get_spec('F0')
  assert name == 'F0'
  _assert_same(load_pretrained('F0', num_classes=1000).params, released)


def test_new_head_and_nothing_else(released, caplog):
  before = {m: dict(entries) for m, entries in released.items()}
  params = load_pretrained('F0', num_classes=500, seed=3).params
  head = params['NFNet/~/linear']
  assert {n: (a.shape, a.dtype) for n, a in head.items()} == {
    'w': ((128, 500), np.float32),
    'b': ((500,), np.float32),
  }
  assert not head['b'].any()
  assert head['w'].std() == pytest.approx(0.01, rel=0.02)
  assert abs(head['w'].mean()) < 1e-3
  _assert_same(params, released, but='NFNet/~/linear')
  _assert_same(released, before)
  (record,) = caplog.records
  assert record.levelno == logging.WARNING
  assert record.getMessage() == (
    'F0: the classifier NFNet/~/linear is new, 500 classes instead of 1000; '
    'all other weights are kept'
  )
  again = load_pretrained('F0', num_classes=500, seed=3).params['NFNet/~/linear']['w']
  other = load_pretrained('F0', num_classes=500, seed=4).params['NFNet/~/linear']['w']
  np.testing.assert_array_equal(head['w'], again)
  assert (head['w'] != other).all()
  with pytest.raises(ValueError, match='at least 1, got 0'):
    load_pretrained('F0', num_classes=0)


def test_local_file_rebuilds_its_model(tmp_path):
  params = _params(SPEC, 7)
  path = tmp_path / 'mine.safetensors'
  save(path, params, spec=SPEC.to_dict())
  loaded = load_pretrained(str(path))
  _assert_same(loaded.params, params)
  assert (loaded.spec, loaded.name) == (SPEC, 'mine')
  _assert_same(load_pretrained(path, num_classes=3).params, params, but='NFNet/~/linear')


def test_local_files_that_are_no_model(tmp_path):
  params = _params(SPEC, 7)
  path = tmp_path / 'mine.safetensors'
  save(path, params)
  with pytest.raises(ValueError, match='does not say which model'):
    load_pretrained(path)
  spec = SPEC.to_dict()
  for wrong in ({'depth': [10**9, 1]}, {'width': 'wide'}, {'more': 1}, {'alpha': 'a'}, {'stem': 3}):
    save(path, params, spec={**spec, **wrong})
    with pytest.raises(ValueError, match='does not hold the model of its metadata'):
      load_pretrained(path)
  save(path, params, spec={**spec, 'se_ratio': 0})
  with pytest.raises(ValueError, match=r'does not hold the model .*\n.*unexpected'):
    load_pretrained(path)
  save(path, {'m': {'w': np.ones(3)}, 'n': {'w': np.ones(3)}}, spec=spec)
  with pytest.raises(ValueError, match='the arrays of one network and got those of m, n'):
    load_pretrained(path)
  path.write_bytes(path.read_bytes()[:-2])
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    load_pretrained(path)
  path.write_bytes(b'hello')
  with pytest.raises(ValueError, match='does not begin as a pickle'):
    load_pretrained(path)


def test_unknown_names_are_met_with_the_known():
  with pytest.raises(ValueError, match=r'did you mean .*eca_nfnet_l0'):
    load_pretrained('eca_nfnet_10')
  with pytest.raises(ValueError, match='choose one of F0, F1'):
    load_pretrained('/absent/file')


def test_table_of_the_release():
  assert list(DEEPMIND) == [f'F{n}' for n in range(7)]
  # A classifier and stem, then as much more for each step of the depth.
  sizes = [remote.size for remote in DEEPMIND.values()]
  steps = np.diff(sizes)
  assert steps.max() - steps.min() < 100
  for name, remote in DEEPMIND.items():
    assert remote.url == f'https://storage.googleapis.com/dm-nfnets/{name}_haiku.npz'
    assert len(remote.digest) == len('md5:') + 32
  shapes = jax.tree.leaves(zoo.parameter_shapes('F0', 1000))
  arrays = sum(4 * np.prod(leaf.shape, dtype=int) for leaf in shapes)
  assert 0 < DEEPMIND['F0'].size - arrays < 30_000
  for name, (repository, _) in TIMM.items():
    assert repository.startswith(f'timm/{name}.')


def test_models_with_weights_are_listed():
  names = nfnets.list_models(pretrained=True)
  assert names == [*DEEPMIND, *TIMM, 'digits', 'fashion_mnist']
  assert nfnets.list_models('ECA*', pretrained=True) == [f'eca_nfnet_l{n}' for n in range(3)]
  assert 'F7' in nfnets.list_models()


def test_what_is_loaded_says_what_it_is_in_one_line(tmp_path):
  path = tmp_path / 'mine.safetensors'
  save(path, _params(SPEC, 3), spec=SPEC, class_names=['a', 'b', 'c'])
  loaded = load_pretrained(path)
  assert loaded.class_names == ('a', 'b', 'c')
  count = sum(x.size for entries in loaded.params.values() for x in entries.values())
  size = SPEC.test_size
  assert repr(loaded) == f"Pretrained('mine', {count:,} numbers, {size} px, resize_crop_32)"
  assert load_pretrained(path, num_classes=2).class_names is None


@pytest.fixture
def converted(monkeypatch, tmp_path):
  """Stands for the converter: gathers what it is asked for."""
  asked = []
  params = _params(SPEC.replace(family='NFNetLight'), 1000)
  monkeypatch.setattr(hub, 'from_timm', lambda *args: asked.append(args) or params)
  monkeypatch.setenv('NFNETS_CACHE', str(tmp_path))
  return asked


def test_timm_weights_come_from_their_repository(converted, tmp_path, monkeypatch):
  huggingface_hub = pytest.importorskip('huggingface_hub')
  asked = []
  monkeypatch.setattr(
    huggingface_hub, 'hf_hub_download', lambda *args: asked.append(args) or str(tmp_path / 'hub')
  )
  params = load_pretrained('eca_nfnet_l0', num_classes=5).params
  assert params['NFNetLight/~/linear']['b'].shape == (5,)
  assert asked == [('timm/eca_nfnet_l0.ra2_in1k', 'model.safetensors')]
  assert converted == [(tmp_path / 'hub', 'eca_nfnet_l0')]


def test_timm_weights_without_a_connection(converted, tmp_path, monkeypatch):
  huggingface_hub = pytest.importorskip('huggingface_hub')

  def offline(*args):
    raise huggingface_hub.errors.LocalEntryNotFoundError('no connection')

  monkeypatch.setattr(huggingface_hub, 'hf_hub_download', offline)
  by_hand = tmp_path / 'eca_nfnet_l2.ra3_in1k.safetensors'
  with pytest.raises(ConnectionError, match='no connection') as caught:
    load_pretrained('eca_nfnet_l2')
  assert 'https://huggingface.co/timm/eca_nfnet_l2.ra3_in1k' in str(caught.value)
  assert f'put it at {by_hand}.' in str(caught.value)
  by_hand.write_bytes(b'weights')
  assert load_pretrained('eca_nfnet_l2').name == 'eca_nfnet_l2'
  assert converted == [(by_hand, 'eca_nfnet_l2')]


def test_timm_weights_without_huggingface_hub(converted, monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ImportError, match=r'\[hub\]'):
    load_pretrained('test_nfnet')


def test_timm_weights_put_in_the_cache_by_hand(tmp_path):
  (tmp_path / 'test_nfnet.r160_in1k.safetensors').symlink_to(GOLDEN / 'timm_test_nfnet.safetensors')
  params, spec, name = load_pretrained('test_nfnet', cache_dir=tmp_path)
  assert (spec, name) == (zoo.get_spec('test_nfnet'), 'test_nfnet')
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, _params(spec, 1000))


def test_a_file_of_a_batch_normalised_network_loads_with_its_statistics(tmp_path):
  stages = ((1, 3, 1, 8, 1), (6, 3, 2, 16, 1))
  spec = zoo.get_spec('EfficientNet-B0').replace(stages=stages, head_channels=32)
  rng = np.random.default_rng(0)
  params = {
    module: {name: rng.random(a.shape).astype(a.dtype) for name, a in entries.items()}
    for module, entries in zoo.parameter_shapes(spec, 5).items()
  }
  save(tmp_path / 'b.safetensors', params, spec=spec.to_dict())
  loaded = load_pretrained(tmp_path / 'b.safetensors')
  assert loaded.spec == spec
  assert any('mean_ema' in module for module in loaded.params)
  for module, entries in params.items():
    for name, value in entries.items():
      np.testing.assert_array_equal(loaded.params[module][name], value)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_what_was_saved_in_other_dtypes_loads(dtype, tmp_path):
  # A file has its arrays in an order of its own, by dtype: here statistics come first.
  spec = zoo.get_spec('BN-ResNet-50').replace(depth=(1,), width=(16,), stride=(1,))
  params = {
    module: {
      name: np.ones(a.shape, np.int64 if a.dtype == 'int32' else jnp.dtype(dtype))
      for name, a in entries.items()
    }
    for module, entries in zoo.parameter_shapes(spec, 5).items()
  }
  save(tmp_path / 'b.safetensors', params, spec=spec.to_dict())
  loaded = load_pretrained(tmp_path / 'b.safetensors').params
  assert {a.dtype.name for e in loaded.values() for a in e.values()} == {'float32', 'int32'}
  _assert_same(loaded, _ones(spec))
  small = load_pretrained(tmp_path / 'b.safetensors', num_classes=2).params
  assert small['BN_ResNet/~/linear']['b'].shape == (2,)


def _ones(spec):
  shapes = zoo.parameter_shapes(spec, 5)
  return {m: {n: np.ones(a.shape, a.dtype) for n, a in e.items()} for m, e in shapes.items()}


class _Hub(http.server.BaseHTTPRequestHandler):
  """Answers as huggingface.co does; the server has `status` and `content`."""

  protocol_version = 'HTTP/1.1'

  def log_message(self, *args):
    pass

  def do_HEAD(self):
    content = self.server.content if self.server.status == 200 else b''
    self.send_response(self.server.status)
    self.send_header('X-Repo-Commit', 'a' * 40)
    self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    return content

  def do_GET(self):
    self.wfile.write(self.do_HEAD())


@pytest.fixture
def hub_server(monkeypatch, tmp_path):
  pytest.importorskip('huggingface_hub')
  from huggingface_hub import constants

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Hub)
  server.daemon_threads = True
  server.status, server.content = 200, (GOLDEN / 'timm_test_nfnet.safetensors').read_bytes()
  thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
  thread.start()
  url = f'http://127.0.0.1:{server.server_address[1]}'
  monkeypatch.setenv('no_proxy', '127.0.0.1')
  monkeypatch.setattr(constants, 'ENDPOINT', url)
  template = url + '/{repo_id}/resolve/{revision}/{filename}'
  monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
  sleep = time.sleep
  monkeypatch.setattr(time, 'sleep', lambda seconds: sleep(min(seconds, 0.01)))
  yield server
  server.shutdown()
  thread.join()
  server.server_close()


@pytest.mark.parametrize(
  ('status', 'sentence'),
  [
    (403, 'denies access: log in'),
    (404, 'no longer there: update nfnets'),
    (500, 'try again later'),
  ],
)
def test_what_the_hub_answers_is_explained(hub_server, tmp_path, status, sentence):
  hub_server.status = status
  with pytest.raises(ConnectionError, match=rf'\(HTTP {status}\): .*{sentence}') as caught:
    load_pretrained('test_nfnet', cache_dir=tmp_path)
  assert f'put it at {tmp_path / "test_nfnet.r160_in1k.safetensors"}.' in str(caught.value)


def test_a_stored_file_that_was_cut_is_downloaded_again(hub_server, tmp_path, caplog):
  want = load_pretrained('test_nfnet', cache_dir=tmp_path).params
  (stored,) = (tmp_path / 'hub').rglob('model.safetensors')
  for size in (len(hub_server.content) - 1, 1000, 0):
    caplog.clear()
    stored.resolve().write_bytes(hub_server.content[:size])
    _assert_same(load_pretrained('test_nfnet', cache_dir=tmp_path).params, want)
    assert f'{stored} has a wrong size: it is deleted and downloaded again' in caplog.text
    assert stored.read_bytes() == hub_server.content


def test_a_stored_file_that_is_damaged_is_named(hub_server, tmp_path):
  load_pretrained('test_nfnet', cache_dir=tmp_path)
  (stored,) = (tmp_path / 'hub').rglob('model.safetensors')
  data = stored.read_bytes()
  by_hand = tmp_path / 'test_nfnet.r160_in1k.safetensors'
  for path, broken, reason in (
    (stored, data[:-4] + b'\xff' * 4, 'NaN or infinite'),
    (stored, data[:9] + b'\xff' + data[10:], 'not a whole safetensors file'),
    (by_hand, b'<html>', 'a web page'),
  ):
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=reason) as caught:
      load_pretrained('test_nfnet', cache_dir=tmp_path)
    assert str(caught.value).endswith(f'Delete {path} and try again.')


def test_settings_that_the_http_library_refuses_are_one_sentence(hub_server, tmp_path, monkeypatch):
  from huggingface_hub import constants

  template = 'mirror/{repo_id}/resolve/{revision}/{filename}'  # HF_ENDPOINT without https://
  monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
  with pytest.raises(ConnectionError, match='cannot download model.safetensors'):
    load_pretrained('test_nfnet', cache_dir=tmp_path)


@pytest.mark.parametrize('endpoint', ['mirror', 'ftp://mirror', 'https://', 'https://mirror:port'])
def test_an_endpoint_that_is_no_address_is_named(hub_server, tmp_path, monkeypatch, endpoint):
  from huggingface_hub import constants

  monkeypatch.setattr(constants, 'ENDPOINT', endpoint)
  template = endpoint + '/{repo_id}/resolve/{revision}/{filename}'
  monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
  with pytest.raises(ConnectionError, match=f'HF_ENDPOINT={endpoint} is not a URL: .*https://HOST'):
    load_pretrained('test_nfnet', cache_dir=tmp_path)


def test_without_a_home_the_hub_makes_no_folder_of_its_own(hub_server, tmp_path, monkeypatch):
  from huggingface_hub import constants

  monkeypatch.setattr(constants, 'HF_HUB_CACHE', '~/.cache/huggingface/hub')
  monkeypatch.setenv('NFNETS_CACHE', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  load_pretrained('test_nfnet')
  assert list((tmp_path / 'huggingface').rglob('model.safetensors'))
  assert not (tmp_path / '~').exists()


@pytest.mark.parametrize('name', ['F0', 'digits'])
def test_a_run_is_meant_before_a_published_name_that_is_spelled_like_it(
  name, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  folder = tmp_path / name
  folder.mkdir()
  if name == 'digits':  # a folder of pictures, say
    assert load_pretrained(name).name == 'digits'
  (folder / 'config.json').touch()
  with pytest.raises(FileNotFoundError, match=f"the run in '{name}' is not finished"):
    load_pretrained(name)
  save(folder / hub.RUN_FILE, _params(SPEC, 4), spec=SPEC)
  loaded = load_pretrained(name)
  assert (loaded.name, loaded.spec) == (name, SPEC)


def test_the_folder_of_a_run_stands_for_its_averaged_weights(tmp_path):
  run = tmp_path / 'mine'
  run.mkdir()
  with pytest.raises(FileNotFoundError, match="mine' is a folder, but not of a training run"):
    load_pretrained(run)
  (run / 'other.safetensors').write_bytes(b'')
  with pytest.raises(FileNotFoundError, match='name a file in it, such as other.safetensors'):
    load_pretrained(run)
  (run / 'config.json').write_text('{}')
  with pytest.raises(FileNotFoundError, match="the run in .*mine' is not finished.* goes on from"):
    load_pretrained(run)
  params = _params(SPEC, 3)
  save(run / 'ema_weights.safetensors', params, spec=SPEC, class_names=('a', 'b', 'c'))
  loaded = load_pretrained(str(run))
  _assert_same(loaded.params, params)
  assert (loaded.name, loaded.spec, loaded.class_names) == ('mine', SPEC, ('a', 'b', 'c'))
  assert nfnets.Classifier.from_pretrained(run).class_names == ('a', 'b', 'c')
