# shellcheck shell=bash
# Makes a virtual environment in the checkout, so that nothing is installed into the system's Python.

# Packages to build the module without isolation; pyproject.toml has the versions.
python_build_packages=("scikit-build-core>=0.10" "nanobind>=2.4" "numpy>=2.0")

# Whether an interpreter is recent enough, can make environments, and has headers to build modules with.
python_usable() {
  "$1" - 2>/dev/null <<'END'
import ensurepip, os, sys, sysconfig, venv
sys.exit(sys.version_info < (3, 9) or not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
END
}

# need_venv FOLDER: makes the environment unless it is there and works.
need_venv() {
  local folder=$1 python=python3
  "$folder/bin/python" -m pip --version >/dev/null 2>&1 && return 0
  if ! python_usable "$python"; then
    need_packages python3 python3-venv python3-dev
    python_usable "$python" || python=/usr/bin/python3
    python_usable "$python" || fail "no Python of 3.9 or newer with venv and headers: tried python3 and /usr/bin/python3"
  fi
  say "making a virtual environment in $folder with $("$python" --version)"
  "$python" -m venv --clear "$folder"
}

# need_python_packages FOLDER REQUIREMENT...: installs missing ones, and names them first.
need_python_packages() {
  local folder=$1 missing=() requirement
  shift
  for requirement in "$@"; do
    python_package_installed "$folder" "${requirement%%[<>=]*}" || missing+=("$requirement")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing Python packages into $folder: ${missing[*]}"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${missing[@]}" </dev/null
}

python_package_installed() {
  "$1/bin/python" -c 'import importlib.metadata as m, sys; m.version(sys.argv[1])' "$2" 2>/dev/null
}

# need_nvcc FOLDER: what compiles the kernels of GPUs. It comes as wheels only where there is no toolkit.
need_nvcc() {
  [ -n "${CUDACXX:-}" ] || [ -x /usr/local/cuda/bin/nvcc ] || command -v nvcc >/dev/null ||
    need_python_packages "$1" nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl
}

# install_muster FOLDER: builds the wheel in build/wheel, so that a second run is quick, and installs it.
install_muster() {
  local folder=$1 log=build/wheel.log
  need_python_packages "$folder" "${python_build_packages[@]}"
  mkdir -p build
  CMAKE_BUILD_PARALLEL_LEVEL=$(build_jobs) PATH="$folder/bin:$PATH" \
    "$folder/bin/python" -m pip install --verbose --disable-pip-version-check --no-build-isolation --force-reinstall \
    --no-deps --config-settings=build-dir=build/wheel . </dev/null 2>&1 | tee "$log" | show_steps || {
    tail -n 40 "$log"
    fail "pip install . (all of it is in $log)"
  }
}
