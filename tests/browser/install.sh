#!/usr/bin/env bash
# Installs the browser that tests/browser drives: Debian's chromium and its driver, nothing where both exist.
set -euo pipefail

if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
packages=(chromium chromium-driver)
if ! command -v apt-get >/dev/null; then
    echo "tests/browser needs chromium and chromedriver, and there is no apt-get here: install both and put them on PATH" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "tests/browser needs chromium: run 'sudo apt-get install ${packages[*]}', or this script as root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet
apt-get install --yes --quiet --quiet --no-install-recommends "${packages[@]}"
