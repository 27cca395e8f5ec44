# Sourced by train.sh and test.sh: makes the environment if it is missing or out of date, and enters
# it. It is .venv. NFNETS_PYTHON names another interpreter, which gets one of its own: .venv-3.13.
# Where nvidia-smi shows a GPU, JAX is the build for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

is_new_enough() {
  command -v "$1" >/dev/null 2>&1 &&
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${NFNETS_PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  if [ -n "${NFNETS_PYTHON:-}" ]; then
    echo "Error: NFNETS_PYTHON=$NFNETS_PYTHON is no Python 3.11 or newer." >&2
  else
    echo 'Error: no Python 3.11 or newer was found: install one, or name it in NFNETS_PYTHON.' >&2
  fi
  return 1
}

venv=.venv
if [ -n "${NFNETS_PYTHON:-}" ]; then
  python="$(find_python)" || exit 1
  venv=".venv-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
fi
if [ ! -x "$venv/bin/python" ]; then
  python="$(find_python)" || exit 1
  echo "Making $venv with $("$python" --version)." >&2
  "$python" -m venv "$venv" || {
    rm -rf "$venv"
    echo "Error: $python cannot make a virtual environment: install its venv module." >&2
    exit 1
  }
fi
gpu="$("$venv/bin/python" -c \
  'import runpy; print(runpy.run_path("nfnets/installation.py")["gpu_extra"]() or "")')"
extras="dev${gpu:+,$gpu}"
# What the environment was made from; installing again only when that changes.
wanted="$extras $(cat setup.py requirements.txt | cksum)"
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
  echo "Installing what requirements.txt names into $venv (a minute or two)." >&2
  if [ -n "$gpu" ]; then
    echo 'JAX for the GPU of this machine is part of it: about 3 GB.' >&2
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint requirements.txt --editable ".[$extras]" >&2
  echo "$wanted" >"$venv/installed"
fi
export PATH="$PWD/$venv/bin:$PATH"
