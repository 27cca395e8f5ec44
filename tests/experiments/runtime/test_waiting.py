"""What a person is told who waits."""

import math

import pytest

from experiments.runtime import waiting
from experiments.runtime.waiting import format_seconds


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0.2, '0s'),
    (59.4, '59s'),
    (59.6, '1m00s'),
    (192, '3m12s'),
    (3599.7, '1h00m'),
    (7500, '2h05m'),
    (273_600, '3d04h'),
    (math.nan, '-'),
    (math.inf, '-'),
  ],
)
def test_durations(seconds, text):
  assert format_seconds(seconds) == text


def test_the_line_before_a_compilation():
  line = waiting.compiling('the train step')
  assert line == 'Compiling the train step, once: about a minute on a CPU.'


def test_a_countdown_leaves_the_first_pictures_out_of_the_rate(capsys):
  now = [0.0]
  countdown = waiting.Countdown(1000, clock=lambda: now[0])
  now[0] = 90.0  # the first ones compiled
  countdown.reached(100)
  now[0] = 100.0
  countdown.reached(200)
  assert capsys.readouterr().err == '... 200 of 1,000 images, 10 images/s, ETA 1m20s\n'
  now[0] = 110.0
  countdown.reached(300)  # too soon for another line
  assert capsys.readouterr().err == ''
  now[0] = 120.0
  countdown.reached(250)
  assert capsys.readouterr().err == '... 250 of 1,000 images, 5.0 images/s, ETA 2m30s\n'


def test_a_countdown_of_an_unknown_number(capsys):
  now = [0.0]
  countdown = waiting.Countdown(clock=lambda: now[0])
  countdown.reached(64)
  now[0] = 16.0
  countdown.reached(64 + 160)
  assert capsys.readouterr() == ('', '... 224 images, 10 images/s\n')
