# shellcheck shell=bash
# The stages of tests/run, in the order in which they run.

# shellcheck disable=SC2154  # the lists of packages stand in deploy/lib
prepare() {
  mkdir -p build/logs
  need_packages "${build_packages[@]}" "${test_packages[@]}"
  need_venv .venv
  need_python_packages .venv ruff mypy sphinx pytest hypothesis numpy ml_dtypes jax "torch==2.13.0" scikit-learn pandas \
    expecttest cloudpickle joblib matplotlib "ray==2.58.0" grpcio "nbclient>=0.10" "nbformat>=5" "ipykernel>=6" cuda-bindings \
    "${python_build_packages[@]}"
  need_cuda
}

# What compiles the kernels of GPUs and looks into them, and NCCL's header. No test needs a GPU.
need_cuda() {
  local folder=build/nccl
  export NCCL_HOME=$PWD/$folder
  need_python_packages .venv nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
  need_nvcc .venv
  [ ! -f "$folder/include/nccl.h" ] || return 0
  # It comes only with its library, which must not be where a daemon of the tests would find it.
  .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" nvidia-nccl-cu13 \
    </dev/null || fail "pip download nvidia-nccl-cu13"
  .venv/bin/python - "$folder" <<'END' || fail "NCCL's header"
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
(folder / "include").mkdir(exist_ok=True)
for wheel in folder.glob("*.whl"):
    (folder / "include/nccl.h").write_bytes(zipfile.ZipFile(wheel).read("nvidia/nccl/include/nccl.h"))
    wheel.unlink()
END
}

files_in_git() {
  git ls-files --cached --others --exclude-standard --deduplicate -- "$@"
}

scripts() {
  files_in_git | xargs grep --files-with-matches --extended-regexp '^(#!/usr/bin/env bash|# shellcheck shell=bash)' --
}

stage_lint() {
  say "lint: clang-format, ruff, shellcheck"
  files_in_git '*.cpp' '*.hpp' '*.cu' '*.cuh' | xargs clang-format --dry-run -Werror ||
    fail "clang-format (mend with: git ls-files '*.[ch]pp' '*.cu' '*.cuh' | xargs clang-format -i)"
  .venv/bin/ruff check --quiet . || fail "ruff check"
  .venv/bin/ruff format --quiet --check . || fail "ruff format (mend with: .venv/bin/ruff format)"
  .venv/bin/mypy || fail "mypy"
  scripts | xargs shellcheck --external-sources || fail "shellcheck"
  say "lint: the arrows between folders"
  run_pytest arrows -- tests/arrows tests/gpu/test_readme.py
  say "lint: clang-tidy on changed files"
  build_with_python dev
  .venv/bin/python tests/lib/tidy.py --build build/dev --jobs "$(build_jobs)" --since "$(change_begins)" ||
    fail "clang-tidy"
}

stage_tidy() {
  say "tidy: clang-tidy on everything"
  build_with_python dev
  .venv/bin/python tests/lib/tidy.py --build build/dev --jobs "$(build_jobs)" || fail "clang-tidy"
}

# The commit to compare a change with: where it left main; on main itself, the commit before.
change_begins() {
  local base
  base=$(git merge-base HEAD origin/main 2>/dev/null) || base=
  if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
    base=$(git rev-parse --verify --quiet HEAD~1) || base=$(git hash-object -t tree /dev/null)
  fi
  echo "$base"
}

stage_dev() {
  say "dev: build and C++ tests"
  build_with_python dev
  run_ctest dev
  say "dev: Python tests"
  python_tests dev PYTHONFAULTHANDLER=1
  say "dev: tests/gpu/run"
  gpu_tests build/dev
  say "dev: the documentation"
  PYTHONPATH=build/dev/python .venv/bin/sphinx-build -W --keep-going -q -b html docs build/docs ||
    fail "the documentation"
}

# gpu_tests BUILD: on GPUs where there are some. Elsewhere the command has to say that there are none.
gpu_tests() {
  if [ -e /dev/nvidiactl ]; then
    counted gpu '^left out: ' tests/gpu/run "$1"
  else
    counted gpu '^no GPU: nothing was tested' ends_with 77 tests/gpu/run "$1"
  fi
}

# ends_with STATUS COMMAND...
ends_with() {
  local wanted=$1 status=0
  shift
  "$@" || status=$?
  [ "$status" -eq "$wanted" ]
}

# Runs twice, without Muster and in decorated calls: each test must have the same outcome.
stage_numpy() {
  say "numpy: NumPy's own tests, plain and in decorated calls"
  build_with_python dev
  local variables=("PATH=$PWD/build/dev/bin:$PWD/.venv/bin:$PATH" "PYTHONPATH=$PWD/build/dev/python")
  local outcomes=build/logs/numpy
  numpys_tests numpy-plain "${variables[@]}" -- --plain --outcomes "$outcomes-plain.txt" numpy._core numpy.lib
  numpys_tests numpy "${variables[@]}" -- --outcomes "$outcomes.txt" numpy._core numpy.lib
  diff "$outcomes-plain.txt" "$outcomes.txt" || fail "some of NumPy's tests end otherwise in decorated calls"
  counts+=("numpy-compared:" "$(wc -l <"$outcomes.txt") outcomes are the same, plain and in decorated calls")
}

# numpys_tests NAME VARIABLE=VALUE... -- ARGUMENT...: with a daemon of its own, which ends by itself.
numpys_tests() {
  local name=$1 folder
  shift
  folder=$(mktemp -d)
  # NumPy leaves out tests that need more memory than this, so it leaves out the same ones on every machine.
  run_pytest "$name" "MUSTER_SOCKET=$folder/s" NPY_AVAILABLE_MEM=2GB "$@" -c tests/numpy/pytest.ini --rootdir .venv \
    -p no:cacheprovider -p tests.numpy.under_muster --quiet --tb=short --pyargs
  rm -rf "$folder"
}

stage_ray() {
  say "ray: the tests over Ray"
  build_with_python dev
  need_python_packages .venv pyarrow pydantic # what Ray Train needs
  MUSTER_RAY_TASKS=10000 ray_tests ray "" tests/ray "--ignore=$of_agents"
  agents_tests
  say "ray: the same with the newest Ray"
  need_folder_of "$newest_ray" --no-deps "ray==2.60.0"
  MUSTER_RAY_TASKS=10000 ray_tests ray-newest "$newest_ray" tests/ray "--ignore=$of_agents"
}

# Other packages than those of the environment: a folder for each, and what pip puts there. PYTHONPATH has it first.
newest_ray=$PWD/build/ray-2.60.0
newest_torch=$PWD/build/torch-2.14.1
agents_of_ray=$PWD/build/ray-default-2.58.0

# need_folder_of FOLDER ARGUMENT...: lets pip make the folder, unless it is there.
need_folder_of() {
  local folder=$1
  shift
  [ ! -d "$folder" ] || return 0
  say "installing $* into $folder"
  rm -rf "$folder.part"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --target "$folder.part" "$@" </dev/null ||
    fail "pip install $*"
  mv "$folder.part" "$folder"
}

# What needs Ray's dashboard and agents. With these, each cluster starts more processes, so the other tests go without.
of_agents=tests/ray/test_agents.py

agents_tests() {
  need_folder_of "$agents_of_ray" "ray[default]==2.58.0"
  ray_tests ray-agents "$agents_of_ray" "$of_agents"
}

# Those that start many clusters, or do very much, take minutes: dev leaves them to the stage ray.
long_ray_tests=(test_cluster.py test_graphs.py test_nodes.py test_train.py test_unchanged_scripts.py test_volume.py)

# ray_tests NAME FOLDER ARGUMENT...: with the dev build, and what the folder has; "" is no folder. Ray's workers find both
# by the same variables.
ray_tests() {
  local name=$1 folder=$2
  shift 2
  set_dev_variables "$folder"
  run_pytest "$name" "${dev_variables[@]}" -- "$@"
}

# set_dev_variables FOLDER: sets dev_variables, for the dev build and the packages in the folder.
set_dev_variables() {
  dev_variables=("PATH=$PWD/build/dev/bin:${1:+$1/bin:}$PWD/.venv/bin:$PATH" "PYTHONPATH=$PWD/build/dev/python${1:+:$1}"
    "MUSTER_CLI=$PWD/build/dev/bin/muster" "MUSTER_DAEMON=$PWD/build/dev/bin/musterd")
}

# torch's own tests of torch.distributed ship in its wheel. Some of them do something with 8 ranks only.
stage_torch() {
  say "torch: the tests over PyTorch"
  build_with_python dev
  torch_tests torch "" "--ignore=$of_newer_torch"
  say "torch: all of torch's own tests of torch.distributed that are for the host"
  torchs_tests torch-conformance "" conformance.py --ranks 8
  torchs_tests torch-all-to-all "" conformance.py --all-to-all
  torchs_tests torch-4-ranks "" conformance.py --ranks 4 test_gather_object test_gather_object_subgroup \
    test_new_subgroups_with_group_param
  say "torch: torchft's own tests of process groups"
  need_python_packages .venv "torchft==0.2.0" parameterized
  torchs_tests torch-torchft "" torchft_conformance.py
  say "torch: the same with the newest torch"
  need_folder_of "$newest_torch" "torch==2.14.1"
  torch_tests torch-newest "$newest_torch"
  torchs_tests torch-newest-conformance "$newest_torch" conformance.py --ranks 8
}

# What torch 2.13 does not have.
of_newer_torch=tests/torch/test_torch_backend.py

# torch_tests NAME FOLDER ARGUMENT...: with the dev build, and what the folder has.
torch_tests() {
  local name=$1 folder=$2
  shift 2
  set_dev_variables "$folder"
  run_pytest "$name" "${dev_variables[@]}" OMP_NUM_THREADS=1 -- tests/torch "$@"
}

# torchs_tests NAME FOLDER PROGRAM ARGUMENT...: with a daemon of its own, which ends by itself.
torchs_tests() {
  local name=$1 folder=$2 program=$3 sockets
  shift 3
  sockets=$(mktemp -d)
  set_dev_variables "$folder"
  counted "$name" '^[0-9]+ pass, ' env "${dev_variables[@]}" "MUSTER_SOCKET=$sockets/s" OMP_NUM_THREADS=1 \
    .venv/bin/python "tests/torch/$program" "$@"
  rm -rf "$sockets"
}

stage_install() {
  say "install: cmake --install, and a project that uses find_package(Muster)"
  build_with_python dev
  rm -rf build/installed build/consumer
  cmake --install build/dev --prefix build/installed >build/logs/install.log || fail "cmake --install"
  cmake -S tests/consumer -B build/consumer -G Ninja -DCMAKE_PREFIX_PATH="$PWD/build/installed" \
    -DMUSTER_COMMAND="$PWD/build/installed/bin/muster" >build/logs/consumer.log || fail "find_package(Muster)"
  cmake --build build/consumer || fail "building the consumer"
  run_ctest consumer
}

stage_wheel() {
  say "wheel: pip install into a fresh environment, away from the checkout"
  local fresh
  fresh=$(mktemp -d)
  need_venv "$fresh/venv"
  # As README.md says, in an environment without anything that the build needs. One architecture of GPUs will do.
  SKBUILD_CMAKE_DEFINE="MUSTER_CUDA_ARCHITECTURES=80" CMAKE_BUILD_PARALLEL_LEVEL=$(build_jobs) \
    "$fresh/venv/bin/python" -m pip install --quiet --disable-pip-version-check . </dev/null || fail "pip install ."
  # With the oldest NumPy that Muster supports, if this Python still has it.
  local oldest
  oldest=$("$fresh/venv/bin/python" -c 'import sys; print("numpy==2.0.2" if sys.version_info < (3, 13) else "numpy")')
  "$fresh/venv/bin/python" -m pip install --quiet --disable-pip-version-check pytest "$oldest" </dev/null ||
    fail "pip install $oldest"
  cp -r README.md tests/wheel "$fresh"
  counted wheel-pytest '[0-9]+ passed.* in ' env --chdir "$fresh" PATH="$fresh/venv/bin:/usr/bin:/bin" \
    venv/bin/python -m pytest --color=no wheel
  rm -rf "$fresh"
}

stage_asan() {
  say "asan: build and C++ tests"
  build_with_python asan
  run_ctest asan
  say "asan: Python tests"
  # The interpreter itself is not instrumented, so the sanitizer's runtime has to be loaded first, and with it the
  # library whose exceptions it watches. CPython's own allocator would hide our mistakes from the sanitizer.
  # Up to GCC 13 the runtime reads a header that glibc's blocks of dynamic TLS no longer have, and its leak check may
  # crash on what it finds instead, unless it leaves these blocks alone.
  python_tests asan PYTHONMALLOC=malloc ASAN_OPTIONS=intercept_tls_get_addr=0 \
    "LD_PRELOAD=$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" \
    "LSAN_OPTIONS=suppressions=$PWD/tests/lib/lsan.supp:print_suppressions=0"
}

stage_tsan() {
  say "tsan: build and C++ tests"
  build_preset tsan
  run_ctest tsan
}

stage_fuzz() {
  local seconds=${MUSTER_FUZZ_SECONDS:-60} target targets=()
  say "fuzz: build, then $seconds s for each target"
  build_preset fuzz
  for target in build/fuzz/bin/*_fuzz; do
    targets+=("${target##*/}")
    mkdir -p "build/fuzz/corpus/${target##*/}"
  done
  export -f fuzz_target
  printf '%s\n' "${targets[@]}" | xargs --max-procs="$(build_jobs)" --replace bash -c "fuzz_target {} $seconds" ||
    fail "fuzzing; the input that broke it lies in build/logs"
  for target in "${targets[@]}"; do
    counts+=("$target:" "$(fuzz_summary "build/logs/$target.log")")
    printf '%s: %s\n' "$target" "$(fuzz_summary "build/logs/$target.log")"
    fuzz_reached "$target" || fail "$target did not reach what tests/fuzz/$target.reach lists"
  done
}

# fuzz_reached NAME: whether the target reached everything on its list, according to its own counts.
fuzz_reached() {
  local missing
  missing=$(comm -13 <(sed --quiet 's/^reached *[0-9]* //p' "build/logs/$1.log" | sort) \
    <(grep --invert-match '^#' "tests/fuzz/$1.reach" | sort))
  [ -z "$missing" ] || {
    printf '%s never reached:\n%s\n' "$1" "$missing"
    return 1
  }
}

# fuzz_target NAME SECONDS: exit status 255 makes xargs stop at once. Inputs are long from the start: most are read as
# choices, and a short input gives few choices. The schedule by entropy is off: it takes three times as long as a walk.
fuzz_target() {
  "build/fuzz/bin/$1" -max_total_time="$2" -timeout=10 -print_final_stats=1 -len_control=0 -max_len=2048 -entropic=0 \
    "-artifact_prefix=build/logs/$1-" \
    "build/fuzz/corpus/$1" >"build/logs/$1.log" 2>&1 || {
    tail -n 60 "build/logs/$1.log"
    return 255
  }
}

# libFuzzer's figures: executions, and edges covered at the end.
fuzz_summary() {
  awk '/stat::number_of_executed_units/ { runs = $2 } / cov: / { sub(/.* cov: /, ""); edges = $1 }
       END { if (!runs || !edges) exit 1; print runs " executions, " edges " edges covered" }' "$1"
}

# With the Python module, for the interpreter of the environment in the checkout.
build_with_python() {
  build_preset "$1" -DMUSTER_PYTHON=ON -DPython_EXECUTABLE="$PWD/.venv/bin/python"
}

# python_tests PRESET VARIABLE=VALUE...: with this build's executables and package, and no others.
python_tests() {
  local build=$PWD/build/$1 name=$1 folders=(tests/python tests/chaos tests/gpu/python)
  shift
  local variables=("$@" "PATH=$build/bin:$PWD/.venv/bin:$PATH" "PYTHONPATH=$build/python"
    "MUSTER_CLI=$build/bin/muster" "MUSTER_DAEMON=$build/bin/musterd")
  # Some of these tests become another user. Files that they leave behind must not belong to root.
  local of_root=(tests/python/test_open_groups.py tests/chaos/test_as_root.py)
  counted "$name-root-pytest" '[0-9]+ passed.* in ' as_root env "${variables[@]}" .venv/bin/python -B -m pytest \
    --color=no -p no:cacheprovider "${of_root[@]}"
  folders+=("${of_root[@]/#/--ignore=}")
  # AddressSanitizer's own allocator maps and faults all the time, and does not know the allocators of torch and JAX,
  # which documents and one suite for GPUs use. The commands for GPUs are scripts, and the shell itself leaks. tests/cli
  # has a suite in C++.
  if [ "$name" = asan ]; then
    run_pytest asan "${variables[@]}" -- "${folders[@]}" --ignore=tests/python/test_steady_state.py \
      --ignore=tests/python/test_documents.py --ignore=tests/python/test_examples.py \
      --ignore=tests/python/test_notebook.py --ignore=tests/gpu/python/test_torch_distributed.py
  else
    run_pytest "$name" "${variables[@]}" -- tests/cli "${folders[@]}" tests/gpu/commands
    run_pytest "$name-interop" "${variables[@]}" -- tests/interop
    ray_tests ray "" tests/ray "--ignore=$of_agents" "${long_ray_tests[@]/#/--ignore=tests/ray/}"
    agents_tests
    need_folder_of "$newest_ray" --no-deps "ray==2.60.0"
    ray_tests ray-newest "$newest_ray" tests/ray/test_tasks.py tests/ray/test_collective.py
    torch_tests torch "" --ignore=tests/torch/test_torch_programs.py "--ignore=$of_newer_torch"
    numpys_tests "$name-numpy" "${variables[@]}" -- -m "not slow" numpy._core.tests.test_multiarray \
      numpy._core.tests.test_umath
  fi
}
