#!/usr/bin/env bash
# Installs the Debian packages that the tests (`test`) or the benchmarks (`bench`) need, or prints the one command that does.
set -euo pipefail
# package=program: a program (or file) that is there already, from wherever, counts.
declare -A wanted=(
  [test]="chromium=chromium curl=curl etcd-server=etcd iproute2=ip mount=mount npm=npm procps=ps redis-server=redis-server docker-registry=docker-registry util-linux=nsenter"
  [bench]="caddy=caddy gcc=cc haproxy=haproxy libc6-dev=/usr/include/stdio.h nghttp2-client=h2load nginx-light=nginx procps=ps util-linux=taskset wrk=wrk"
)
role=${1:?usage: scripts/debian.sh test|bench}
export PATH="$PATH:/usr/sbin:/sbin"
missing=()
for entry in ${wanted[$role]}; do
  command -v "${entry#*=}" > /dev/null || [ -r "${entry#*=}" ] || missing+=("${entry%=*}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get > /dev/null; then
  echo "These programs are missing, and this machine has no apt-get. Install what holds them: ${missing[*]}" >&2
  exit 2
fi
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
