# shellcheck shell=bash
# Builds a preset of CMakePresets.json.

# As many jobs as there are cores, but no more than fit in memory: a large unit takes up to 1.5 GiB.
build_jobs() {
  local cores kib fit
  cores=$(nproc)
  kib=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
  fit=$((kib / (1536 * 1024)))
  [ "$fit" -ge 1 ] || fit=1
  echo $((cores < fit ? cores : fit))
}

# build_preset NAME [CMAKE_ARGUMENT...]
build_preset() {
  local preset=$1
  shift
  # Kernels for all GPUs take minutes to compile. A machine without a GPU can do without.
  [ "$preset" != release ] || [ -e /dev/nvidiactl ] || set -- -DMUSTER_CUDA=OFF "$@"
  cmake --preset "$preset" "$@" >"build/$preset.configure.log" 2>&1 || {
    cat "build/$preset.configure.log"
    fail "cmake --preset $preset"
  }
  cmake --build --preset "$preset" --parallel "$(build_jobs)" || fail "building preset $preset"
}
