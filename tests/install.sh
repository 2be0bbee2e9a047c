#!/usr/bin/env bash
# Installs the programs that some tests drive and pip does not bring, as Debian packages them: the browser of tests/browser
# and the database of tests/tracking. Nothing where they exist.
set -euo pipefail

packages=()
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    packages+=(chromium chromium-driver)
fi
if ! command -v initdb >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    packages+=(postgresql)
fi
if [ ${#packages[@]} -eq 0 ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "tests need what Debian packages as ${packages[*]}, and there is no apt-get here: install that" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "tests need more: run 'sudo apt-get install ${packages[*]}', or this script as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet
apt-get install --yes --quiet --quiet --no-install-recommends "${packages[@]}"
