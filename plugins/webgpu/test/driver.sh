#!/usr/bin/env bash
# What the tests of the WebGPU plugin run on where there is no GPU: Mesa's software Vulkan driver (lavapipe) and, where the
# system has a package of it, a headless Chromium, whose SwiftShader is a second driver; and Deno. For Debian 12 and newer and
# Ubuntu 24.04 and newer, as root. What cannot be had is told, and its tests are skipped; ends with 0 if there is a driver.
set -uo pipefail

deno=2.9.6
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ternlm
say() { echo "driver.sh: $*"; }

installed() { dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }

# Mesa of Debian 12 lacks what Dawn asks for; its backports have it.
works() {
  command -v dpkg-query >/dev/null || return
  local version
  version=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null) &&
    installed libvulkan1 && dpkg --compare-versions "$version" ge 24
}

install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>"$errors" ||
    { say "apt-get install $* failed: $(tail -1 "$errors")"; return 1; }
}

# The backports of the archive that the system has already, with its key.
backports() {
  local release=$1 uri key
  apt-get indextargets --format '$(RELEASE)' 'Created-By: Packages' | grep -qx "$release-backports" && return
  read -r uri key <<<"$(apt-get indextargets --format '$(REPO_URI) $(SIGNED_BY)' 'Created-By: Packages' \
    "Release: $release" 'Component: main' | head -1)"
  [ -n "${uri:-}" ] || return
  case ${key:-} in /*) key="[signed-by=$key] " ;; *) key= ;; esac
  echo "deb $key$uri $release-backports main" >"/etc/apt/sources.list.d/ternlm-backports.list"
  say "added $release-backports of $uri"
}

vulkan() {
  works && { say "lavapipe is here: mesa-vulkan-drivers $(dpkg-query -W -f '${Version}' mesa-vulkan-drivers)"; return; }
  local release from=()
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  if [ "$release" = bookworm ]; then
    backports bookworm
    from=(-t bookworm-backports)
  fi
  apt-get update -qq 2>"$errors" || say "apt-get update: $(tail -1 "$errors")"
  install "${from[@]}" mesa-vulkan-drivers libvulkan1 && works &&
    say "installed mesa-vulkan-drivers $(dpkg-query -W -f '${Version}' mesa-vulkan-drivers)"
}

chromium() {
  installed chromium-headless-shell && { say 'chromium-headless-shell is here'; return; }
  # Ubuntu has none.
  apt-cache show chromium-headless-shell >/dev/null 2>&1 || { say 'no package chromium-headless-shell'; return; }
  install chromium-headless-shell && say 'installed chromium-headless-shell, with SwiftShader'
}

runtime() {
  [ -d "$cache/node_modules/deno" ] && { say "deno is here: $cache"; return; }
  mkdir -p "$cache" && npm install --prefix "$cache" --no-save --no-audit --no-fund "deno@$deno" >/dev/null 2>"$errors" &&
    say "installed deno $deno in $cache" || say "npm install deno failed: $(tail -1 "$errors")"
}

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
if ! command -v apt-get >/dev/null; then
  say 'no apt-get: install a Vulkan driver by hand'
elif [ "$(id -u)" != 0 ]; then
  works && say 'lavapipe is here' || say 'not root: no driver installed'
else
  vulkan
  chromium
fi
runtime
works
