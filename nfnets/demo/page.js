// The page: pictures go to `label`, which answers with names and shares, or with one sentence.
// Addresses are relative, so that the page also works under another path, behind a proxy.

const $ = (id) => document.getElementById(id);
const LIVE_SIDE = 640; // pixels, the longer side of what is sent of the camera
const TOP = 5; // bars, at most
const GONE = 'The program no longer answers: start it again and reload this page.';

let state = null; // what the program said last
let picture = null; // the Blob that is shown
let latest = 0; // of the questions asked; answers to older ones are not shown
let stream = null; // of the camera

/** Asks the program; throws an Error with a sentence. */
async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error(GONE);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new Error(answer?.problem ?? `The program is busy (${response.status}): try again.`);
}

function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

// ---- Networks ----

async function refresh() {
  state = await (await ask('state')).json();
  const name = state.models[state.current];
  document.title = `${name} · nfnets`;
  $('name').textContent = name;
  const classes = state.classes.toLocaleString('en');
  $('facts').textContent = `${classes} classes · ${state.size} × ${state.size} pixels`;
  $('chooser').hidden = state.models.length < 2;
  if ($('models').length !== state.models.length) {
    $('models').replaceChildren(...state.models.map((text, i) => new Option(text, i)));
  }
  const { loading } = state;
  $('models').value = loading ? loading.number : state.current;
  $('models').disabled = Boolean(loading);
  $('loading').hidden = !loading;
  if (loading) {
    $('step').textContent =
      `${state.models[loading.number]}: ${loading.step}, ${Math.round(loading.seconds)} s`;
  }
}

/** Shows how a network takes the place of the one `before`, until it is there or has failed. */
async function follow(before) {
  while (state.loading) {
    await new Promise((done) => setTimeout(done, 300));
    await refresh();
  }
  if (state.problem) say('notice', `${state.problem} ${state.models[state.current]} stays.`);
  else if (state.current !== before && picture && !stream) await label(picture);
}

$('models').addEventListener('change', async () => {
  say('notice', '');
  const before = state.current;
  try {
    await ask(`load/${$('models').value}`, { method: 'POST' });
    await refresh();
    await follow(before);
  } catch (error) {
    say('notice', error.message);
    await refresh().catch(() => {}); // the chooser shows the one that is there
  }
});

// ---- Labels ----

/** Labels a Blob and shows the answer, unless another question has come after it. */
async function label(blob) {
  const number = ++latest;
  $('bars').classList.add('old');
  try {
    if (!blob.size) throw new Error('The file is empty: choose another one.');
    if (blob.size > state.max_bytes) {
      const limit = Math.round(state.max_bytes / 1e6);
      throw new Error(`The file has more than ${limit} MB: choose a smaller picture.`);
    }
    const answer = await (await ask('label', { method: 'POST', body: blob })).json();
    if (number !== latest) return null;
    if (answer.model !== state.current) await refresh(); // another page has changed it
    say('problem', '');
    draw(answer.predictions);
    return answer.seconds;
  } catch (error) {
    if (number !== latest) return null;
    draw([]);
    say('problem', error.message);
    $('time').textContent = '';
    return null;
  } finally {
    if (number === latest) $('bars').classList.remove('old');
  }
}

/** Draws bars; the ones that are there move, so that a camera's do not flicker. */
function draw(predictions) {
  $('bars').classList.remove('empty');
  const list = $('bars');
  while (list.childElementCount > predictions.length) list.lastChild.remove();
  while (list.childElementCount < predictions.length) {
    const row = document.createElement('li');
    for (const name of ['label', 'share', 'track']) {
      row.append(Object.assign(document.createElement('div'), { className: name }));
    }
    row.lastChild.append(Object.assign(document.createElement('div'), { className: 'fill' }));
    list.append(row);
  }
  predictions.forEach(([text, share], i) => {
    const [name, percent, track] = list.children[i].children;
    name.textContent = text;
    percent.textContent = `${(100 * share).toFixed(1)}%`;
    track.firstChild.style.width = `${100 * share}%`;
  });
}

const milliseconds = (seconds) => `${Math.max(1, Math.round(1000 * seconds))} ms`;

/** Takes files from a person: the first counts. */
async function take(files, missing) {
  if (!files.length) {
    say('problem', missing);
    return;
  }
  stopCamera();
  say('note', files.length > 1 ? `The first of ${files.length} files is shown.` : '');
  await show(files[0]);
}

async function show(blob) {
  picture = blob;
  const seconds = await Promise.all([label(blob), display(blob)]).then(([found]) => found);
  if (seconds !== null) $('time').textContent = `${milliseconds(seconds)} for this picture`;
}

/** Shows a picture; a browser knows fewer formats than the program. */
async function display(blob) {
  const image = $('picture');
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  let shown = true;
  await image.decode().catch(() => { shown = false; });
  if (blob !== picture || stream) return;
  const side = Math.min(image.naturalWidth, image.naturalHeight);
  stage(shown ? 'picture' : 'unshown');
  if (shown && side < state.size / 8) { // hardly anything to see for this network
    const size = `${image.naturalWidth} × ${image.naturalHeight}`;
    say('note', `This picture has only ${size} pixels: the labels mean little.`);
  } else if (blob.type === 'image/gif') {
    say('note', 'Of a moving picture the first frame is labelled.');
  }
}

function stage(shown) {
  for (const id of ['hint', 'picture', 'video', 'unshown']) $(id).hidden = id !== shown;
  $('frame').classList.toggle('full', shown !== 'hint');
}

$('choose').addEventListener('click', () => $('file').click());
for (const id of ['file', 'shot']) {
  $(id).addEventListener('change', async () => {
    const files = [...$(id).files];
    $(id).value = ''; // so that the same file can be chosen again
    if (files.length) await take(files);
  });
}
document.addEventListener('paste', (event) =>
  take([...event.clipboardData.files], 'The clipboard holds no picture: copy one first.'));
for (const name of ['dragenter', 'dragover']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $('frame').classList.add('over');
  });
}
document.addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) $('frame').classList.remove('over');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  $('frame').classList.remove('over');
  take([...event.dataTransfer.files], 'This is no file: save the picture first, then drop it.');
});

// ---- Camera ----

const CAMERA_TROUBLE = {
  NotAllowedError: 'The browser may not use the camera: allow it for this page, and try again.',
  NotFoundError: 'The browser finds no camera: connect one, and try again.',
  NotReadableError: 'The camera is in use by another program: close that one, and try again.',
};

async function startCamera(video) {
  say('problem', '');
  if (!navigator.mediaDevices) {
    // Browsers give a running camera to https and to localhost only; a phone can take one picture.
    if (matchMedia('(pointer: coarse)').matches) $('shot').click();
    else say('problem', 'Browsers give the camera to pages at localhost or with https only.');
    return;
  }
  stopCamera();
  $('camera').disabled = true; // one at a time
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video });
  } catch (error) {
    say('problem', CAMERA_TROUBLE[error.name] ?? `The camera cannot be used: ${error.message}.`);
    return;
  } finally {
    $('camera').disabled = false;
  }
  const track = stream.getVideoTracks()[0];
  track.addEventListener('ended', stopCamera); // unplugged
  $('video').srcObject = stream;
  $('video').classList.toggle('mirrored', track.getSettings().facingMode === 'user');
  const running = stream;
  await $('video').play().catch(() => {});
  if (stream !== running) return; // stopped meanwhile
  stage('video');
  say('note', '');
  $('answer').setAttribute('aria-live', 'off'); // nobody can listen to so many labels
  $('camera').textContent = 'Stop the camera';
  const devices = await navigator.mediaDevices.enumerateDevices();
  if (stream !== running) return;
  $('turn').hidden = devices.filter((device) => device.kind === 'videoinput').length < 2;
  await labelFrames(running);
}

/** Sends frame after frame while the camera runs, each when the one before has its labels. */
async function labelFrames(running) {
  const canvas = document.createElement('canvas');
  const video = $('video');
  let pace = 0; // pictures per second, smoothed
  let last = performance.now();
  while (stream === running) {
    const scale = Math.min(1, LIVE_SIDE / Math.max(video.videoWidth, video.videoHeight, 1));
    canvas.width = Math.max(1, Math.round(scale * video.videoWidth));
    canvas.height = Math.max(1, Math.round(scale * video.videoHeight));
    canvas.getContext('2d').drawImage(video, 0, 0, canvas.width, canvas.height);
    const frame = await new Promise((done) => canvas.toBlob(done, 'image/jpeg', 0.92));
    if (stream !== running) return;
    picture = frame;
    const seconds = await label(picture);
    if (stream !== running) return;
    if (seconds === null) {
      stopCamera();
      return;
    }
    const now = performance.now();
    const rate = 1000 / Math.max(1, now - last);
    pace = pace ? 0.9 * pace + 0.1 * rate : rate;
    last = now;
    $('time').textContent = `${milliseconds(seconds)} per picture · ${pace.toFixed(1)} per second`;
    await new Promise((done) => setTimeout(done, 10)); // the browser draws
  }
}

/** Stops the camera; its last picture stays. */
function stopCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  $('video').srcObject = null;
  $('camera').textContent = 'Use the camera';
  $('turn').hidden = true;
  $('answer').setAttribute('aria-live', 'polite');
  if (picture) display(picture);
  else stage('hint');
}

$('camera').addEventListener('click', () => {
  if (stream) stopCamera();
  else startCamera({ facingMode: 'environment' });
});
$('turn').addEventListener('click', async () => {
  const now = stream.getVideoTracks()[0].getSettings().deviceId;
  const devices = (await navigator.mediaDevices.enumerateDevices())
    .filter((device) => device.kind === 'videoinput');
  if (!stream) return; // stopped meanwhile
  const next = devices[(devices.findIndex((one) => one.deviceId === now) + 1) % devices.length];
  await startCamera({ deviceId: { exact: next.deviceId } });
});
document.addEventListener('visibilitychange', () => {
  if (document.hidden) stopCamera(); // nobody looks
});

// ---- Start ----

try {
  await refresh();
  draw(Array(Math.min(TOP, state.classes)).fill(['–', 0])); // where they will be
  $('bars').classList.add('empty');
  $('examples').hidden = !state.examples.length;
  $('thumbnails').append(...state.examples.map((name, i) => {
    const button = Object.assign(document.createElement('button'), { title: name });
    button.append(Object.assign(document.createElement('img'), {
      src: `thumbnails/${i}`, alt: name, loading: 'lazy',
    }));
    button.addEventListener('click', async () => {
      try {
        const blob = await (await ask(`examples/${i}`)).blob();
        await take([blob]);
      } catch (error) {
        say('problem', error.message);
      }
    });
    return button;
  }));
  if (state.loading) await follow(state.current); // another page has asked for it
} catch (error) {
  say('notice', error.message);
}
