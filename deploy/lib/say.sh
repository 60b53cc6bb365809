# shellcheck shell=bash
# How our scripts speak: one line for each step, with the seconds since the start, and one for a failure.

say() {
  printf '\n== [%4d s] %s\n' "$SECONDS" "$*"
}

fail() {
  printf '\n== [%4d s] FAILED: %s\n' "$SECONDS" "$*" >&2
  exit 1
}
