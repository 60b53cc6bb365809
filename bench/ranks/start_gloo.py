"""Starts the ranks of Gloo as torchrun would, without its rendezvous."""

import os
import pathlib
import subprocess
import sys

ranks = int(sys.argv[1])
program = pathlib.Path(__file__).with_name("gloo_rank.py")
address = {"BENCH_RENDEZVOUS": os.environ["BENCH_RENDEZVOUS"]}
started = []
for rank in range(ranks):
    url = f"{address['BENCH_RENDEZVOUS']}?rank={rank}&world_size={ranks}"
    environment = {**os.environ, "BENCH_RENDEZVOUS": url, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started.append(subprocess.Popen([sys.executable, program], env=environment))
sys.exit(max(process.wait() for process in started))
