# shellcheck shell=bash
# The parts of tests/gpu/run: what GPUs, driver and NCCL this machine has, and what of the tests they can run.

no_gpu_status=77     # what automake and Meson take for "not run"
case_seconds=300     # for one test case; a driver that hangs would hang for ever
counts=()            # NAME: COUNTS, for each suite that ran
failures=()          # SUITE: CASE
left_out=()          # SUITE: CASE (REASON)

# The kernel's part of the driver. With it a machine has a GPU, whether or not a program can use it.
has_kernel_driver() {
  [ -e /dev/nvidiactl ] || [ -e /usr/lib/wsl/lib/libcuda.so.1 ]
}

# no_gpu WHY
no_gpu() {
  echo "no GPU: nothing was tested: $1"
  exit "$no_gpu_status"
}

# told OBJECT KEY: a text in the probe's document, which is one line; empty if it is not there.
told() {
  sed -nE "s/.*\"$1\": \{[^{}]*\"$2\": \"([^\"]*)\".*/\1/p" <<<"$probe"
}

# A fake proves nothing about this machine, and must not look as if it did.
refuse_fake() {
  if [ -n "$1" ] && grep -q muster_fake_gpu "$1"; then
    echo "tests/gpu/run: $1 is a fake of these tests (hint: take its folder out of LD_LIBRARY_PATH)" >&2
    exit 2
  fi
}

# look_for_gpus BUILD PYTHON: sets gpus, nccl_version and gpus_text, or ends this.
look_for_gpus() {
  local build=$1 python=$2 wheel names driver nccl why
  unset "${!MUSTER_FAKE_@}"
  wheel=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' || true)/nvidia/nccl/lib/libnccl.so.2
  [ -e "$wheel" ] || wheel=
  probe=$(timeout 120 "$build/bin/musterd" --gpu-probe ${wheel:+--nccl-wheel "$wheel"} 2>build/logs/gpu-probe.log) ||
    fail "musterd --gpu-probe: $(tail -n 1 build/logs/gpu-probe.log)"
  driver=$(told driver path)
  nccl=$(told nccl path)
  refuse_fake "$driver"
  refuse_fake "$nccl"
  names=$(grep -oE '"index": [0-9]+, "name": "[^"]*"' <<<"$probe" | sed -E 's/.*"name": "(.*)"/\1/' || true)
  if [ -z "$names" ]; then
    why=$(told driver why)$(told init why)
    ! has_kernel_driver || fail "there is a GPU, and it can't be used: $why"
    no_gpu "$why"
  fi
  gpus=$(wc -l <<<"$names")
  nccl_version=$(told nccl version)
  gpus_text="$gpus x $(sort -u <<<"$names" | paste -sd,), driver $(kernel_driver_version), "
  gpus_text+="CUDA $(told driver version), NCCL ${nccl_version:-none}${nccl:+ ($nccl)}"
  # The tests take what the loader finds, and the probe may know more places.
  LD_LIBRARY_PATH=$(dirname "$driver")${nccl:+:$(dirname "$nccl")}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export LD_LIBRARY_PATH MUSTER_NCCL_SO=$nccl
}

kernel_driver_version() {
  local version
  version=$(sed -nE 's/^NVRM version:.* ([0-9]+\.[0-9.]+) .*/\1/p' /proc/driver/nvidia/version 2>/dev/null || true)
  echo "${version:-of unknown version}"
}

# reason_against TAG: why cases with this tag can't run here; nothing if they can.
reason_against() {
  local tag=$1
  case $tag in
    fake) echo "needs the fake driver, which fails on demand" ;;
    *-gpus) [ "${tag%-gpus}" -le "$gpus" ] || echo "needs ${tag%-gpus} GPUs" ;;
    nccl-*)
      [ "$(printf '%s\n' "${tag#nccl-}" "$nccl_version" | sort --version-sort | head -n 1)" = "${tag#nccl-}" ] ||
        echo "needs NCCL ${tag#nccl-}"
      ;;
  esac
}

# cases PROGRAM SPEC: the names of its test cases, one a line. Catch2 returns how many there are.
cases() {
  "$1" --list-test-names-only "$2" || true
}

# run_suite PROGRAM: each case that can run here, in a process of its own.
run_suite() {
  local program=$1 suite=${1##*/} tag reason name spec=
  say "$suite"
  [ -x "$program" ] || {
    failures+=("$suite: this build has no such program (hint: configure it where cuda.h is, with tests)")
    return 0
  }
  if [[ $suite == @(nccl|gpus)_* && -z $nccl_version ]]; then
    leave_out "$suite" "there is no NCCL: $(told nccl why)" <<<"$(cases "$program" '*')"
    return 0
  fi
  for tag in $("$program" --list-tags | grep -oE '\[[^]]+\]' | tr -d '[]'); do
    reason=$(reason_against "$tag")
    [ -n "$reason" ] || continue
    leave_out "$suite" "$reason" <<<"$(cases "$program" "${spec}[$tag]")"
    spec+="~[$tag]"
  done
  # A machine may lack what every case needs. A program without cases is a failure.
  if [ -z "$spec" ] || [ -n "$(cases "$program" "$spec")" ]; then
    run_cases "$program" "${spec:-*}"
  fi
}

# leave_out SUITE REASON: the cases that are read.
leave_out() {
  local name
  while IFS= read -r name; do
    [ -z "$name" ] || left_out+=("$1: $name ($2)")
  done
}

# run_cases PROGRAM SPEC
run_cases() {
  local program=$1 suite=${1##*/} name log passed=0 failed=0 assertions=0 status
  log=build/logs/$suite.log
  : >"$log"
  while IFS= read -r name; do
    printf '\n== %s\n' "$name" >>"$log"
    status=0
    timeout --kill-after=5 "$case_seconds" "$program" "$(case_spec "$name")" >"$log.case" 2>&1 </dev/null || status=$?
    cat "$log.case" >>"$log"
    if [ "$status" -eq 0 ] && grep -qE '^(All tests passed|test cases: 1 \| 1 passed)' "$log.case"; then
      passed=$((passed + 1))
      assertions=$((assertions + $(assertions_in "$log.case")))
    else
      failed=$((failed + 1))
      failures+=("$suite: $name (status $status)")
      cat "$log.case"
    fi
  done <<<"$(cases "$program" "$2")"
  rm -f "$log.case"
  [ "$passed" -gt 0 ] || failures+=("$suite: nothing passed")
  counts+=("$suite: $passed cases passed ($assertions assertions), $failed failed")
  printf '%s\n' "${counts[-1]}"
}

# The one case of that name: commas and brackets mean something to Catch2.
case_spec() {
  sed -E 's/[][\\,]/\\&/g' <<<"$1"
}

assertions_in() {
  sed -nE 's/^All tests passed \(([0-9]+) assertions?.*/\1/p' "$1" | grep . || echo 0
}

# Whether Python has a package; for "package.cuda", whether that can use GPUs, too.
has_package() {
  "$1" -c 'import importlib, sys
module = importlib.import_module(sys.argv[1])
sys.exit(sys.argv[1].endswith(".cuda") and not module.is_available())' "$2" 2>/dev/null
}

# run_python TEST PYTHON BUILD: a file says with a line NEEDS = "package" what it can't run without.
run_python() {
  local test=$1 python=$2 build=$3 package log line status=0
  log=build/logs/gpu-${test##*/}.log
  say "$test"
  for package in pytest $(sed -nE 's/^NEEDS = "(.*)"$/\1/p' "$test"); do
    has_package "$python" "$package" || {
      left_out+=("$test ($python has no $package)")
      return 0
    }
  done
  MUSTER_TEST_GPU=real PATH="$build/bin:$PATH" PYTHONPATH="$build/python" MUSTER_CLI="$build/bin/muster" \
    MUSTER_DAEMON="$build/bin/musterd" timeout --kill-after=5 "$case_seconds" \
    "$python" -B -m pytest --color=no -p no:cacheprovider -rs --no-fold-skipped "$test" </dev/null 2>&1 |
    tee "$log" || status=$?
  # What was left out counts also where something else failed.
  while IFS= read -r line; do
    left_out+=("${line#SKIPPED }")
  done < <(grep '^SKIPPED ' "$log")
  if [ "$status" -eq 0 ]; then
    line=$(grep -E '[0-9]+ passed.* in ' "$log" | tail -n 1)
    counts+=("$test: ${line//=/}")
  else
    failures+=("$test")
  fi
}

# show_summary: the last lines, and the status.
show_summary() {
  if [ ${#left_out[@]} -gt 0 ]; then
    say "left out: ${#left_out[@]}"
    printf '%s\n' "${left_out[@]}"
  fi
  say "$gpus_text; the runners' own counts:"
  printf '%s\n' "${counts[@]}"
  echo "left out: ${#left_out[@]}, named above"
  [ ${#failures[@]} -gt 0 ] || return 0
  printf 'FAILED: %s\n' "${failures[@]}"
  return 1
}
