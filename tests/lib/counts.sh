# shellcheck shell=bash
# Keeps the summary of each test runner, so that a long run can end with all of them.

counts=()

# counted NAME PATTERN COMMAND...: runs the command, and keeps the last line of its output that matches.
counted() {
  local name=$1 pattern=$2 log=build/logs/$1.log line
  shift 2
  "$@" </dev/null 2>&1 | tee "$log" || fail "$name: $*"
  line=$(grep -E "$pattern" "$log" | tail -n 1) || fail "$name: no line like '$pattern' in the output of: $*"
  counts+=("$name:" "$line")
}

# run_ctest PRESET
run_ctest() {
  counted "$1-ctest" '^100% tests passed.* out of [1-9]' \
    ctest --test-dir "build/$1" --parallel "$(build_jobs)" --output-on-failure --no-tests=error
}

# run_pytest NAME VARIABLE=VALUE... -- ARGUMENT...
run_pytest() {
  local name=$1 variables=()
  shift
  while [ "$1" != -- ]; do
    variables+=("$1")
    shift
  done
  shift
  counted "$name-pytest" '[0-9]+ passed.* in ' env "${variables[@]}" .venv/bin/python -m pytest --color=no "$@"
}

show_counts() {
  say "all passed; the runners' own counts:"
  printf '%s\n' "${counts[@]}"
}
