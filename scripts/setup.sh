# Sourced by train.sh and test.sh: makes .venv if it is missing or out of date, and enters it.
# NFNETS_PYTHON chooses the interpreter that .venv is made with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in ${NFNETS_PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo 'Error: no Python 3.11 or newer was found: install one, or name it in NFNETS_PYTHON.' >&2
  return 1
}

# What .venv was made from; installing again only when that changes.
stamp=.venv/installed
wanted="$(cat setup.py requirements.txt | cksum)"
if [ ! -x .venv/bin/python ]; then
  python="$(find_python)"
  echo "Making .venv with $("$python" --version)." >&2
  "$python" -m venv .venv || {
    rm -rf .venv
    echo "Error: $python cannot make a virtual environment: install its venv module." >&2
    exit 1
  }
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo 'Installing what requirements.txt names into .venv (a minute or two).' >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint requirements.txt --editable '.[dev]' >&2
  echo "$wanted" >"$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
