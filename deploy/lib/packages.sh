# shellcheck shell=bash
# Installs Debian packages: only missing ones, and names them first.

# Packages to build the daemon, the clients and the Python module.
# shellcheck disable=SC2034  # read by the scripts that source this
build_packages=(
  g++ cmake ninja-build ccache
  libboost1.81-dev libflatbuffers-dev flatbuffers-compiler libspdlog-dev libfmt-dev libcli11-dev libtomlplusplus-dev
  libhwy-dev libhwloc-dev libjemalloc-dev
)

# Packages that the tests need in addition.
# shellcheck disable=SC2034
test_packages=(catch2 clang clang-format clang-tidy libclang-rt-14-dev shellcheck strace procps systemd)

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "installing packages needs root or sudo: run as root: $*"
  fi
}

package_installed() {
  [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# need_packages NAME...
need_packages() {
  command -v apt-get >/dev/null || fail "this is not Debian; install the counterparts of these yourself: $*"
  local missing=() package
  for package in "$@"; do
    package_installed "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing Debian packages: ${missing[*]}"
  as_root apt-get update --quiet=2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}" \
    </dev/null
}
