#!/usr/bin/env bash
# Installs the Debian packages that the tests (`test`) or the benchmarks (`bench`) need, or prints the one command that does.
set -euo pipefail
declare -A wanted=(
  [test]="chromium curl etcd-server iproute2 mount procps util-linux"
  [bench]="curl haproxy nginx procps util-linux wrk"
)
role=${1:?usage: scripts/debian.sh test|bench}
if ! command -v dpkg-query >/dev/null; then
  echo "This machine has no Debian packages. Install by hand what these hold: ${wanted[$role]}" >&2
  exit 0
fi
missing=()
for package in ${wanted[$role]}; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "Some Debian packages are missing. Run: sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 2
fi
echo "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Without policy-rc.d these packages would start servers of their own (etcd, nginx) on the ports the tests use.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
