# shellcheck shell=bash
# Output of our scripts: one line for each step, with the seconds since the start, and one for a failure.

say() {
  printf '\n== [%4d s] %s\n' "$SECONDS" "$*"
}

fail() {
  printf '\n== [%4d s] FAILED: %s\n' "$SECONDS" "$*" >&2
  exit 1
}

# show_steps: shows the steps of a build ("[12/240] ...") in one line that changes; without a terminal each twentieth step.
show_steps() {
  local line every=20
  while IFS= read -r line; do
    [[ $line =~ \[([0-9]+)/([0-9]+)\] ]] || continue
    if [ -t 1 ]; then
      printf '\r   [%4d s] step %s of %s ' "$SECONDS" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    elif [ $((BASH_REMATCH[1] % every)) -eq 0 ]; then
      printf '   [%4d s] step %s of %s\n' "$SECONDS" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    fi
  done
  [ ! -t 1 ] || printf '\r%40s\r' ''
}
