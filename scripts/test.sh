#!/usr/bin/env bash
# Lint, then the tests (the import-order test among them). Arguments are passed on to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ruff check .
ruff format --check .
exec python -m pytest "$@"
