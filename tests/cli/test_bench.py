"""`muster bench`: every collective is verified, and the figures have the format that others parse."""

import json
import os
import re
import signal
import subprocess

import pytest
from cli_harness import PATIENCE_S, wait_gone

OPS = [
    "allreduce",
    "reduce",
    "broadcast",
    "allgather",
    "gather",
    "scatter",
    "reduce_scatter",
    "all_to_all",
    "sendrecv",
    "barrier",
]
REDUCING = ["allreduce", "reduce", "reduce_scatter"]
KEYS = {
    "system",
    "client",
    "op",
    "variant",
    "ranks",
    "bytes",
    "median_us",
    "min_us",
    "p99_us",
    "cpu_us",
    "gbps",
    "wrong",
}


def bench(muster, *words):
    done = muster("bench", *words, "--json", "-w", "1", "-i", "3", "--memory", "512MiB")
    return done, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("ranks", [1, 4])
def test_every_op_is_right(muster, op, ranks):
    done, lines = bench(muster, op, "-n", str(ranks), "-b", "1K", "-e", "1M", "-f", "32")
    assert done.returncode == 0, done.stderr
    assert [line["bytes"] for line in lines] == ([0] if op == "barrier" else [1 << 10, 1 << 15, 1 << 20])
    for line in lines:
        assert set(line) >= KEYS
        assert (line["system"], line["client"], line["op"], line["variant"]) == ("muster", "c++", op, "default")
        assert line["ranks"] == ranks
        assert line["wrong"] == 0
        assert 0 < line["min_us"] <= line["median_us"] <= line["p99_us"]
        assert line["cpu_us"] > 0


@pytest.mark.parametrize("op", [op for op in OPS if op != "barrier"])
def test_a_planted_error_is_found(muster, op):
    done, lines = bench(muster, op, "-n", "3", "-b", "64K", "-e", "64K", "--plant-error")
    assert done.returncode == 1
    assert lines[0]["wrong"] > 0
    assert "wrong" in done.stderr
    assert "hint: " in done.stderr


@pytest.mark.parametrize("redop", ["sum", "prod", "min", "max", "mean"])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "bfloat16", "float64"])
def test_dtypes_and_reduce_ops(muster, dtype, redop):
    done, lines = bench(muster, "allreduce", "-n", "3", "-b", "20000", "-e", "20000", "-d", dtype, "-o", redop)
    assert done.returncode == 0, done.stderr
    assert lines[0]["dtype"] == dtype
    assert lines[0]["redop"] == redop
    assert lines[0]["wrong"] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("-d", "complex128", "-o", "prod"),
        ("-d", "int32", "-o", "bxor"),
        ("-d", "float32", "-o", "land"),
        ("-d", "uint8", "-o", "bor"),
    ],
)
def test_more_reduce_ops(muster, words):
    done, lines = bench(muster, "reduce_scatter", "-n", "3", "-b", "30000", "-e", "30000", *words)
    assert done.returncode == 0, done.stderr
    assert lines[0]["wrong"] == 0


@pytest.mark.parametrize("variant", ["out", "first_read"])
@pytest.mark.parametrize("op", ["allreduce", "allgather"])
def test_variants(muster, op, variant):
    done, lines = bench(muster, op, "-n", "2", "-b", "1M", "-e", "1M", "--variant", variant)
    assert done.returncode == 0, done.stderr
    assert lines[0]["variant"] == variant
    assert lines[0]["wrong"] == 0
    done, lines = bench(muster, op, "-n", "2", "-b", "1M", "-e", "1M", "--variant", variant, "--plant-error")
    assert done.returncode == 1


def test_table_has_nccl_tests_columns(muster):
    done = muster(
        "bench", "allreduce", "-n", "2", "-b", "8", "-e", "1K", "-f", "2", "-i", "2", "-w", "0", "--memory", "256MiB"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for title in ("size", "count", "type", "redop", "algbw", "busbw", "#wrong"):
        assert title in lines[1]
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert [int(row[0]) for row in rows] == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert all(row[2:4] == ["float32", "sum"] and row[-1] == "0" for row in rows)


def test_busbw_is_nccl_tests(muster):
    _, lines = bench(muster, "allreduce", "-n", "4", "-b", "1M", "-e", "1M")
    assert lines[0]["gbps"] == pytest.approx(lines[0]["bytes"] / lines[0]["median_us"] / 1e3, rel=1e-4)
    assert lines[0]["busbw_gbps"] == pytest.approx(1.5 * lines[0]["gbps"], rel=1e-4)


@pytest.fixture
def busy_cores():
    """Runs one process for each core that works all the time."""
    hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in os.sched_getaffinity(0)]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


def test_a_busy_machine_is_told_of(muster, busy_cores):
    words = ("bench", "allreduce", "-n", "2", "-b", "4M", "-e", "4M", "-i", "200", "--memory", "512MiB")
    told = json.loads(muster(*words, "--json").stdout)
    assert told["busy"] is True
    assert 0 < told["others_cpu"] <= 1
    assert re.search(
        r"^# the machine was busy: other processes used \d+ % of \d+ cores?; ", muster(*words).stdout, re.MULTILINE
    )


def test_programs_learn_of_others_or_that_it_is_unknown(muster):
    _, lines = bench(muster, "barrier", "-n", "1")
    assert lines[0].keys() >= {"others_cpu", "busy"}
    assert (lines[0]["others_cpu"] is None) == (lines[0]["busy"] is None)


def test_a_store_that_is_too_small(muster):
    muster("start", "--memory", "16MiB")
    done = muster("bench", "allreduce", "-n", "2", "-b", "64M", "-e", "64M", "-T", "1")
    assert done.returncode == 5, done.stderr
    assert "OutOfMemory" in done.stderr
    assert "hint: " in done.stderr


def test_it_leaves_the_store_empty(muster):
    muster("start", "--memory", "256MiB")
    assert bench_status(muster) == 0
    # The daemon notices their ends a moment later.
    told = muster.status_once(lambda told: told["clients"] == [] and told["objects"] == told["groups"] == 0)
    assert told["ops_failed"] == 0
    assert told["bytes_copied"] == 0


def bench_status(muster):
    return muster("bench", "allgather", "-n", "4", "-b", "1K", "-e", "1M").returncode


def endless(muster, timeout_s=PATIENCE_S):
    """Starts an endless benchmark; yields it, once its ranks work, with the ranks' pids in order."""
    muster("start", "--memory", "256MiB")
    process = muster.start(
        "bench", "allreduce", "-n", "3", "-b", "1K", "-e", "1K", "-i", "1000000", "-T", str(timeout_s)
    )
    while True:
        groups = json.loads(muster("groups", "--json").stdout)["groups"]
        if groups and all(seat["contributed"] > 0 for seat in groups[0]["seats"]):
            return process, [seat["pid"] for seat in groups[0]["seats"]]
        assert process.poll() is None, process.stderr.read()


def test_a_rank_that_is_killed_is_named(muster):
    process, pids = endless(muster)
    os.kill(pids[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 6
    assert "rank 1" in errors
    for pid in pids:
        wait_gone(pid)


def test_a_rank_that_hangs_is_a_timeout(muster):
    process, pids = endless(muster, timeout_s=5)
    os.kill(pids[2], signal.SIGSTOP)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4, errors
    assert "Timeout" in errors
    assert "hint: " in errors
    for pid in pids:
        wait_gone(pid)


def test_interrupting_the_benchmark_ends_its_ranks(muster):
    process, pids = endless(muster)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGINT
    for pid in pids:
        wait_gone(pid)
