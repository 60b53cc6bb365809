"""About 40 of torch's own tests of ``torch.distributed``. ``tests/run torch`` runs all that are for the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import conformance
import pytest

QUICK = [
    "test_Backend_enum_class",
    "test_DistributedDataParallelCPU",
    "test_DistributedDataParallelCPU_grad_is_view",
    "test_DistributedDataParallel_requires_grad",
    "test_accumulate_gradients_no_sync_allreduce_with_then_hook",
    "test_all_gather",
    "test_all_gather_coalesced_complex",
    "test_all_gather_coalesced_with_empty",
    "test_all_gather_object_default_pg",
    "test_all_gather_object_subgroup",
    "test_all_reduce_coalesced_sum",
    "test_all_reduce_complex_unsupported_ops",
    "test_all_reduce_full_group_product",
    "test_all_reduce_min",
    "test_all_reduce_sum_async",
    "test_all_reduce_sum_complex",
    "test_barrier_timeout_full_group",
    "test_batch_isend_irecv_gloo",
    "test_batch_isend_irecv_gloo_tags",
    "test_broadcast",
    "test_ddp_create_graph",
    "test_destroy_full_group",
    "test_gather",
    "test_gather_checks",
    "test_gather_object_subgroup",
    "test_get_backend",
    "test_get_future",
    "test_get_rank_size_group",
    "test_grads_same_across_ranks_with_no_sync",
    "test_irecv",
    "test_isend",
    "test_new_subgroups_with_group_param",
    "test_reduce_full_group_max",
    "test_reduce_sum_twice",
    "test_scatter",
    "test_scatter_complex",
    "test_scatter_object_list",
    "test_send_recv_any_source",
    "test_send_recv_with_tag",
    "test_sparse_all_reduce_sum",
    "test_static_graph_api_cpu",
]
PATIENCE_S = 300
README = Path(__file__).with_name("README.md").read_text()


@pytest.fixture(scope="session")
def outcomes(shared_daemon, tmp_path_factory):
    """Runs them all in one process, which forks the ranks."""
    file = tmp_path_factory.mktemp("conformance") / "outcomes.json"
    command = [sys.executable, conformance.__file__, "--json", str(file), *QUICK]
    environment = {**os.environ, "MUSTER_SOCKET": shared_daemon.socket, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert file.exists(), run.stdout + run.stderr
    return json.loads(file.read_text())["outcomes"]


@pytest.mark.parametrize("name", QUICK)
def test_torchs_own_test(outcomes, name):
    outcome, why = outcomes[name]
    assert outcome == ("fail" if name in conformance.FAILS else "pass"), why


@pytest.mark.parametrize("name", QUICK)
def test_the_table_has_it(name):
    muster = ["fail" if name in fails else "pass" for fails in conformance.FAILS_WITH.values()]
    assert f"| `{name}` | pass | {muster[0]} | pass | {muster[1]} |" in README
