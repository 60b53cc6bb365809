"""Starts ranks of torch.distributed as torchrun would, without its rendezvous: ``start_torch.py SYSTEM RANKS``."""

import os
import pathlib
import subprocess
import sys

system, ranks = sys.argv[1], int(sys.argv[2])
program = pathlib.Path(__file__).with_name("torch_rank.py")
rendezvous = os.environ["BENCH_RENDEZVOUS"]
started = []
for rank in range(ranks):
    url = f"{rendezvous}?rank={rank}&world_size={ranks}"
    environment = {**os.environ, "BENCH_RENDEZVOUS": url, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started.append(subprocess.Popen([sys.executable, program, system], env=environment))
sys.exit(max(process.wait() for process in started))
