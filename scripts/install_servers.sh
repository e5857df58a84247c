#!/usr/bin/env bash
# Installs the servers that the tests talk to, where that is possible: Debian or a relative, as root.
# Elsewhere the tests that need a server skip with a reason. No service is started.
set -euo pipefail

# package=the binary it brings
servers=(
  prometheus=prometheus prometheus-alertmanager=prometheus-alertmanager
  # A container engine, and what makes images where none can be pulled.
  docker.io=dockerd docker-compose=docker-compose debootstrap=debootstrap iptables=iptables-save
)

missing=()
for server in "${servers[@]}"; do
  command -v "${server#*=}" >/dev/null 2>&1 || missing+=("${server%%=*}")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
  echo "not installed: ${missing[*]} (needs apt-get and root); the tests that need them will be skipped"
  exit 0
fi

# Debian starts a service as soon as it is installed, unless this file says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  # Traps come first, and for signals too: bash then waits for apt-get, which still needs the file.
  trap 'rm -f "$policy"' EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
install() {
  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" </dev/null >/dev/null
}
# Without a network the other tests still run; in CI a test without its server fails by itself.
if install "${missing[@]}" 2>/dev/null || { apt-get update -qq >/dev/null && install "${missing[@]}"; }; then
  echo "installed: ${missing[*]}"
  exit 0
fi
# One that this system does not have must not keep out the others.
for package in "${missing[@]}"; do
  install "$package" || echo "could not install: $package; the tests that need it will be skipped"
done
