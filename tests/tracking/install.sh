#!/usr/bin/env bash
# Installs the server that tests/tracking/test_shared_history.py starts: Debian's postgresql, nothing where it exists.
set -euo pipefail

if command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "tests/tracking needs PostgreSQL, and there is no apt-get here: install it and put initdb on PATH" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "tests/tracking needs PostgreSQL: run 'sudo apt-get install postgresql', or this script as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet
apt-get install --yes --quiet --quiet --no-install-recommends postgresql
