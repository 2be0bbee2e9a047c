#!/usr/bin/env bash
# Installs the programs that some tests drive and pip does not bring, as Debian packages them: the browser of tests/browser,
# the database of tests/tracking, the SSH servers, Slurm and network namespaces of tests/cluster. Nothing where they exist.
set -euo pipefail

packages=()
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    packages+=(chromium chromium-driver)
fi
if ! command -v initdb >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    packages+=(postgresql)
fi
PATH=$PATH:/usr/sbin:/sbin  # where the daemons are
if ! command -v sshd >/dev/null; then
    packages+=(openssh-server)
fi
if ! command -v ssh >/dev/null; then
    packages+=(openssh-client)
fi
if ! command -v rsync >/dev/null; then
    packages+=(rsync)
fi
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    packages+=(slurm-wlm munge)
fi
if ! command -v ip >/dev/null; then
    packages+=(iproute2)
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
