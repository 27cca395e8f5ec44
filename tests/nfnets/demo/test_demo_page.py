"""The page as people see it, in Chromium without a window.

It needs Chromium and its driver (Debian: chromium, chromium-driver), and selenium from PyPI.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import PIL.Image
import pytest

import nfnets

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[3]
_FLAGS = (
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--disable-sync',
  '--disable-background-networking',  # nor asks the browser itself for anything
  '--disable-component-update',
  '--no-first-run',
  '--use-fake-device-for-media-stream=device-count=2',  # cameras that show a test card
  '--use-fake-ui-for-media-stream',  # which the page may use
  '--window-size=1280,900',
)


@pytest.fixture(scope='module')
def page(weights_files, encode, tmp_path_factory):
  """Address of a page with two networks, a file that is none, and an example; until the end."""
  pytest.importorskip('uvicorn', reason="the page is not installed: pip install -e '.[demo]'")
  folder = tmp_path_factory.mktemp('page')
  (folder / 'examples').mkdir()
  (folder / 'examples' / 'first.png').write_bytes(encode('PNG'))
  damaged = folder / 'damaged.safetensors'
  damaged.write_bytes(b'nothing')
  arguments = ['--weights', *weights_files, damaged, '--examples', folder / 'examples']
  process = subprocess.Popen(
    [sys.executable, '-m', 'nfnets.demo', *map(str, arguments), '--port', '0'],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    lines = [process.stderr.readline(), process.stderr.readline()]
    yield re.search(r'http://\S+', lines[1])[0]
  finally:
    process.kill()
    process.wait()


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
  webdriver = pytest.importorskip(
    'selenium.webdriver', reason='selenium is not installed: pip install selenium'
  )
  binary = shutil.which('chromium') or shutil.which('chromium-browser')
  driver = shutil.which('chromedriver')
  if not (binary and driver):
    pytest.skip('there is no Chromium with its driver: apt install chromium chromium-driver')
  options = webdriver.ChromeOptions()
  options.binary_location = binary
  for flag in (*_FLAGS, f'--user-data-dir={tmp_path_factory.mktemp("chromium")}'):
    options.add_argument(flag)
  options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
  browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
  yield browser
  browser.quit()


@pytest.fixture
def browser(chromium, page):
  """Chromium with the page just opened; nothing that it does may ask another host or fail."""
  chromium.get_log('performance')
  chromium.get(page)
  wait_for(chromium, "document.getElementById('facts').textContent")
  yield chromium
  events = [json.loads(entry['message'])['message'] for entry in chromium.get_log('performance')]
  asked = [
    event['params']['request']['url']
    for event in events
    if event['method'] == 'Network.requestWillBeSent'
  ]
  assert any(url.endswith('/page.js') for url in asked)
  hosts = {urllib.parse.urlsplit(url).netloc for url in asked if not url.startswith('blob:')}
  assert hosts == {urllib.parse.urlsplit(page).netloc}
  # What the page says in a sentence (an answer 4xx) the console calls an error as well.
  messages = [entry['message'] for entry in chromium.get_log('browser')]
  assert not [text for text in messages if 'the server responded with a status of 4' not in text]


def wait_for(browser, expression):
  """Waits until an expression of JavaScript is true, and returns its value."""
  from selenium.webdriver.support.ui import WebDriverWait

  return WebDriverWait(browser, 30, 0.05).until(
    lambda found: found.execute_script(f'return {expression}')
  )


def choose(browser, path):
  browser.find_element('id', 'file').send_keys(str(path))


def wait_for_labels(browser, expected):
  """Waits until the bars say what a classifier says."""
  names = [found.label for found in expected]
  rows = "[...document.querySelectorAll('#bars:not(.empty, .old) li')]"
  found = f"{rows}.map((row) => row.querySelector('.label').textContent)"
  wait_for(browser, f'JSON.stringify({found}) === JSON.stringify({json.dumps(names)})')
  shares = browser.execute_script(
    f"return {rows}.map((row) => row.querySelector('.share').textContent)"
  )
  assert shares == [f'{100 * one.probability:.1f}%' for one in expected]


def save(folder, name, data):
  path = folder / name
  path.write_bytes(data)
  return path


def test_a_picture_is_labelled(browser, classifier, encode, tmp_path):
  assert browser.find_element('id', 'name').text == 'colors/ema_weights'
  assert browser.find_element('id', 'facts').text == '6 classes · 24 \u00d7 24 pixels'
  picture = encode('JPEG', (400, 300))
  choose(browser, save(tmp_path, 'picture.jpg', picture))
  wait_for_labels(browser, classifier(picture))
  assert re.fullmatch(r'\d+ ms for this picture', browser.find_element('id', 'time').text)
  assert wait_for(browser, "document.getElementById('picture').naturalWidth") == 400
  widths = browser.execute_script(
    "return [...document.querySelectorAll('.fill')].map((bar) => parseFloat(bar.style.width))"
  )
  assert widths == pytest.approx([100 * one.probability for one in classifier(picture)], abs=0.01)


def test_what_is_no_picture_gets_a_sentence_and_the_next_one_labels(
  browser, classifier, encode, tmp_path
):
  cut = encode('JPEG', (400, 300))[:2000]
  for name, data, sentence in (
    ('text.jpg', b'Dear all, this is text.', 'The data are not a picture of a known format'),
    ('empty.png', b'', 'The file is empty'),
    ('cut.jpg', cut, 'More than half of the JPEG picture is missing'),
    ('large.png', bytes(2**25 + 1), 'The file has more than 34 MB'),
  ):
    choose(browser, save(tmp_path, name, data))
    wait_for(browser, f"document.getElementById('problem').textContent.startsWith('{sentence}')")
    assert browser.find_element('id', 'problem').is_displayed()
    assert not browser.find_elements('css selector', '#bars li')
  picture = encode('PNG')
  choose(browser, save(tmp_path, 'picture.png', picture))
  wait_for_labels(browser, classifier(picture))
  assert not browser.find_element('id', 'problem').is_displayed()


@pytest.mark.parametrize(
  ('name', 'options', 'note'),
  [
    ('tiny.png', {'size': (1, 1)}, 'only 1 \u00d7 1 pixels'),
    ('moving.gif', {'mode': 'P'}, 'the first frame'),
    ('print.jpg', {'mode': 'CMYK'}, ''),
    ('scan.tiff', {}, ''),
  ],
)
def test_uncommon_pictures(browser, classifier, encode, tmp_path, name, options, note):
  kind = {'jpg': 'JPEG'}.get(name.split('.')[1], name.split('.')[1])
  picture = encode(kind, **options)
  choose(browser, save(tmp_path, name, picture))
  wait_for_labels(browser, classifier(picture))
  shown = 'unshown' if kind == 'tiff' else 'picture'
  wait_for(browser, f"!document.getElementById('{shown}').hidden")
  if note:
    wait_for(browser, f"document.getElementById('note').textContent.includes('{note}')")
  assert browser.find_element('id', 'note').is_displayed() == bool(note)


def test_a_picture_is_shown_upright(browser, classifier, encode, tmp_path):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  picture = encode('JPEG', (400, 300), exif=exif)
  choose(browser, save(tmp_path, 'picture.jpg', picture))
  wait_for_labels(browser, classifier(picture))
  assert wait_for(browser, "document.getElementById('picture').naturalWidth") == 300


def test_dropped_and_pasted(browser, classifier, encode):
  for event, holder in (('drop', 'dataTransfer'), ('paste', 'clipboardData')):
    picture = encode('PNG', (30, 40 if event == 'drop' else 20))
    browser.execute_script(
      f"""
      const transfer = new DataTransfer();
      const file = new File([new Uint8Array({list(picture)})], 'a.png', {{type: 'image/png'}});
      transfer.items.add(file);
      const event = new Event('{event}', {{bubbles: true, cancelable: true}});
      event.{holder} = transfer;
      document.body.dispatchEvent(event);
      """
    )
    wait_for_labels(browser, classifier(picture))
  browser.execute_script(
    """
    const event = new Event('paste', {bubbles: true});
    event.clipboardData = new DataTransfer();
    event.clipboardData.setData('text/plain', 'words');
    document.body.dispatchEvent(event);
    """
  )
  wait_for(browser, "document.getElementById('problem').textContent.includes('no picture')")


def test_an_example(browser, classifier, encode):
  wait_for(browser, "document.querySelector('#thumbnails img').naturalWidth")
  browser.find_element('css selector', '#thumbnails button').click()
  wait_for_labels(browser, classifier(encode('PNG')))


def test_the_camera(browser):
  """Chromium's own test card, with a pie that grows: labelled again and again, until stopped."""
  button = browser.find_element('id', 'camera')
  track = "document.getElementById('video').srcObject?.getVideoTracks()[0]"
  for turn in (False, True, False):
    button.click()
    wait_for(browser, "document.getElementById('camera').textContent === 'Stop the camera'")
    wait_for(browser, "/ms per picture/.test(document.getElementById('time').textContent)")
    wait_for(browser, "document.getElementById('video').videoWidth")
    assert len(browser.find_elements('css selector', '#bars .fill')) == 5
    if turn:
      first = browser.execute_script(f'return {track}.getSettings().deviceId')
      browser.find_element('id', 'turn').click()
      wait_for(browser, f"{track} && {track}.getSettings().deviceId !== '{first}'")
    button.click()
    wait_for(browser, "!document.getElementById('picture').hidden")
    assert button.text == 'Use the camera'
    assert browser.execute_script("return document.getElementById('video').srcObject") is None
  assert wait_for(browser, "document.getElementById('picture').naturalWidth") == 640


def test_a_camera_that_may_not_be_used(browser):
  for name, sentence in (
    ('NotAllowedError', 'The browser may not use the camera'),
    ('NotFoundError', 'The browser finds no camera'),
    ('AbortError', 'The camera cannot be used: it is so.'),
  ):
    browser.execute_script(
      f"""
      navigator.mediaDevices.getUserMedia =
          async () => {{ throw new DOMException('it is so', '{name}'); }};
      """
    )
    browser.find_element('id', 'camera').click()
    wait_for(browser, f"document.getElementById('problem').textContent.startsWith('{sentence}')")
  # Without https, on another machine:
  browser.execute_script("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
  browser.find_element('id', 'camera').click()
  wait_for(browser, "document.getElementById('problem').textContent.includes('with https only')")


def test_a_phone_without_https_takes_a_picture(browser, classifier, encode, tmp_path):
  browser.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', {'enabled': True})
  try:
    browser.execute_script(
      """
      Object.defineProperty(navigator, 'mediaDevices', {value: undefined});
      document.getElementById('shot').addEventListener('click', (event) => {
        event.preventDefault();
        window.asked = true;
      });
      """
    )
    browser.find_element('id', 'camera').click()
    assert wait_for(browser, 'window.asked')
    shot = browser.find_element('id', 'shot')
    assert shot.get_attribute('capture') == 'environment'
    picture = encode('JPEG')
    shot.send_keys(str(save(tmp_path, 'shot.jpg', picture)))
    wait_for_labels(browser, classifier(picture))
  finally:
    browser.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', {'enabled': False})


def test_another_network(browser, classifier, weights_files, encode, tmp_path):
  picture = encode('PNG')
  choose(browser, save(tmp_path, 'picture.png', picture))
  wait_for_labels(browser, classifier(picture))
  options = browser.find_elements('css selector', '#models option')
  assert len(options) == 3
  options[2].click()  # which is no file of weights
  wait_for(browser, "document.getElementById('notice').textContent.includes('not be loaded')")
  assert browser.find_element('id', 'notice').text.endswith('colors/ema_weights stays.')
  assert browser.find_element('id', 'models').get_attribute('value') == '0'
  wait_for_labels(browser, classifier(picture))
  browser.refresh()  # who comes later has not asked for it
  wait_for(browser, "document.querySelector('#bars.empty li')")
  assert not browser.find_element('id', 'notice').is_displayed()
  choose(browser, tmp_path / 'picture.png')
  wait_for_labels(browser, classifier(picture))
  options = browser.find_elements('css selector', '#models option')
  options[1].click()
  wait_for(browser, "document.getElementById('name').textContent === 'beasts/ema_weights'")
  wait_for_labels(browser, nfnets.Classifier.from_pretrained(weights_files[1])(picture))
  assert not browser.find_element('id', 'notice').is_displayed()
  options[0].click()  # the other tests'
  wait_for_labels(browser, classifier(picture))


@pytest.mark.parametrize('width', [390, 1280])
def test_nothing_is_wider_than_the_window(browser, encode, tmp_path, width):
  browser.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': width, 'height': 844, 'deviceScaleFactor': 1, 'mobile': width < 500},
  )
  try:
    choose(browser, save(tmp_path, 'picture.png', encode('PNG')))
    wait_for(browser, "document.querySelector('#bars:not(.empty) li')")
    assert browser.execute_script('return document.documentElement.scrollWidth') == width
  finally:
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
