"""scripts/webcam.py: videos and cameras, without either a camera or a display."""

import pathlib
import threading
import time

import cv2
import numpy as np
import pytest

import nfnets

SIZE = (96, 64)  # pixels: width, height


@pytest.fixture(scope='module')
def webcam(load_script):
  return load_script('webcam')


@pytest.fixture(scope='module')
def classifier(weights_file):
  return nfnets.Classifier.from_pretrained(weights_file)


def film(path, count=12, size=SIZE):
  """Writes a video whose frame i has the grey value 20 i in its right half."""
  codec = 'MJPG' if pathlib.Path(path).suffix == '.avi' else 'mp4v'
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, size)
  for i in range(count):
    frame = np.full((size[1], size[0], 3), 120, np.uint8)
    frame[:, size[0] // 2 :] = 20 * i
    writer.write(frame)
  writer.release()
  return path


def frames_of(path):
  capture = cv2.VideoCapture(str(path))
  frames = []
  while (frame := capture.read()[1]) is not None:
    frames.append(frame)
  return frames, capture.get(cv2.CAP_PROP_FPS)


def run(webcam, capsys, *arguments):
  code = webcam.main(list(map(str, arguments)))
  return code, *capsys.readouterr()


@pytest.mark.parametrize('suffix', ['.mp4', '.avi'])
def test_every_frame_of_a_file_is_labelled_in_order(webcam, weights_file, tmp_path, capsys, suffix):
  source, target = film(tmp_path / f'film{suffix}'), tmp_path / f'labelled{suffix}'
  code, out, err = run(
    webcam, capsys, '--source', source, '--weights', weights_file, '--out', target
  )
  assert (code, err) == (0, '')
  assert out.startswith('12 frames labelled')
  frames, fps = frames_of(target)
  assert fps == pytest.approx(10)
  assert [frame.shape for frame in frames] == [(64, 96, 3)] * 12
  greys = [frame[-16:, -16:].mean() for frame in frames]  # the text is elsewhere
  np.testing.assert_allclose(greys, 20 * np.arange(12), atol=9)  # less than half a step


def test_labels_and_frame_rate_are_drawn(webcam):
  frame = np.full((480, 640, 3), 200, np.uint8)
  webcam.draw(frame, [webcam.classifiers.Prediction('tabby cat', 0.83, 281)], 12.5)
  corner = frame[:90, :150]
  assert (corner == 200).mean() < 0.6  # darkened
  assert (corner.max(axis=2) > 220).sum() > 100  # written on
  assert (frame[150:] == 200).all()
  assert (frame[:, 400:] == 200).all()


def test_stops_after_some_frames(webcam, weights_file, tmp_path, capsys):
  source, target = film(tmp_path / 'film.mp4'), tmp_path / 'labelled.mp4'
  arguments = ('--source', source, '--weights', weights_file, '--out', target, '--frames', 5)
  code, out, _ = run(webcam, capsys, *arguments)
  assert code == 0
  assert '5 frames labelled' in out
  assert len(frames_of(target)[0]) == 5


class Camera:
  """A camera with a frame each 10 ms for ever, or until `count` frames were read."""

  def __init__(self, count=None):
    self.count = count
    self.number = 0
    self.released = threading.Event()

  def read(self):
    time.sleep(0.01)
    if self.number == self.count:
      return False, None
    self.number += 1
    return True, np.full((64, 96, 3), self.number % 256, np.uint8)

  def release(self):
    self.released.set()


def test_a_live_source_gives_its_newest_frame(webcam):
  camera = Camera()
  reader = webcam.FrameReader(camera, live=True)
  frames = iter(reader)
  numbers = []
  for _ in range(4):
    time.sleep(0.1)  # what the network takes
    numbers.append(int(next(frames)[0, 0, 0]))
  reader.close()
  assert camera.released.is_set()
  assert min(np.diff(numbers)) >= 3
  assert camera.number - numbers[-1] < 5


def test_a_file_waits_and_loses_nothing(webcam):
  reader = webcam.FrameReader(Camera(20), live=False)
  numbers = [int(frame[0, 0, 0]) for frame in reader if time.sleep(0.005) is None]
  reader.close()
  assert numbers == list(range(1, 21))


def test_a_live_film_keeps_the_time(webcam, classifier, tmp_path):
  target = tmp_path / 'live.mp4'
  sink = webcam.VideoFile(target, 50.0, live=True)
  camera = Camera()
  count, seconds = webcam.label_frames(camera, True, classifier, sink, limit=30)
  assert count == 30
  assert camera.released.is_set()
  frames, _ = frames_of(target)
  assert len(frames) == sink.count
  assert len(frames) / 50 == pytest.approx(seconds, rel=0.3, abs=0.2)


def test_reading_and_labelling_overlap(webcam, tmp_path):
  camera = Camera(10)
  overlapped = []

  def label(image, top):
    deadline = time.monotonic() + 5
    while camera.number <= image[0, 0, 0] and time.monotonic() < deadline:
      time.sleep(0.001)  # until the camera has given a frame after this one
    overlapped.append(camera.number > image[0, 0, 0])
    return []

  sink = webcam.VideoFile(tmp_path / 'film.mp4', 25.0, live=False)
  assert webcam.label_frames(camera, False, label, sink, limit=9)[0] == 9
  assert overlapped == [True] * 9


@pytest.mark.parametrize(
  ('make', 'sentence'),
  [
    (None, "there is no video file '"),
    (b'', 'cannot be read'),
    (b'no video', 'cannot be read'),
  ],
)
def test_a_source_that_is_none(run_script, weights_file, tmp_path, make, sentence):
  source = tmp_path / 'film.mp4'
  if make is not None:
    source.write_bytes(make)
  target = tmp_path / 'labelled.mp4'
  process = run_script('webcam', '--source', source, '--weights', weights_file, '--out', target)
  assert process.returncode == 1
  assert process.stderr.startswith('Error: ')
  assert process.stderr.count('\n') == 1
  assert sentence in process.stderr
  assert not target.exists()


def test_without_windows_or_a_camera(webcam, weights_file, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cv2, 'getBuildInformation', lambda: '  GUI:    NONE\n')
  code, _, err = run(webcam, capsys, '--weights', weights_file)
  assert code == 1
  assert 'write to a file with --out' in err
  monkeypatch.setattr(cv2, 'getBuildInformation', lambda: '  GUI:    QT6\n')
  monkeypatch.setattr(webcam.sys, 'platform', 'linux')
  monkeypatch.delenv('DISPLAY', raising=False)
  monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
  code, _, err = run(webcam, capsys, '--weights', weights_file)
  assert code == 1
  assert 'there is no display' in err
  arguments = ('--source', 99, '--weights', weights_file, '--out', tmp_path / 'x.mp4')
  code, _, err = run(webcam, capsys, *arguments)
  assert code == 1
  assert 'camera 99 cannot be opened' in err


@pytest.mark.parametrize(
  ('target', 'sentence'),
  [
    ('labelled.gif', '--out must end in .avi, .mkv or .mp4'),
    ('missing/x.mp4', 'there is no folder'),
    ('film.mp4', 'film.mp4, which this command needs'),
  ],
)
def test_wrong_arguments(webcam, tmp_path, capsys, target, sentence):
  source = film(tmp_path / 'film.mp4', count=2)
  before = source.read_bytes()
  with pytest.raises(SystemExit) as error:
    run(webcam, capsys, '--source', source, '--out', tmp_path / target)
  assert error.value.code == 2
  assert sentence in capsys.readouterr().err
  assert source.read_bytes() == before
