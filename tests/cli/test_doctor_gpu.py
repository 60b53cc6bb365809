"""`muster doctor` says what there is of GPUs, over libraries that answer as drivers in trouble do."""

import ctypes
import json
import pathlib
import shutil

import pytest
from cli_harness import Muster


@pytest.fixture
def doctor(muster: Muster):
    """Runs `muster doctor` with libraries in front, and variables for them; returns its checks about GPUs by name."""

    def run(*folders: pathlib.Path, words: tuple[str, ...] = (), **variables: str) -> dict:
        hidden = ("LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CUDA_VISIBLE_DEVICES")
        env = {name: value for name, value in muster.env.items() if name not in hidden}
        done = muster(
            "doctor", "--json", *words, env={**env, "LD_LIBRARY_PATH": ":".join(map(str, folders)), **variables}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert "version" in checks  # the other checks are made, whatever the driver does
        for check in checks.values():
            assert (check["mend"] == "") == (check["health"] == "ok")
        return {name: check for name, check in checks.items() if name.startswith(("GPU", "NCCL"))}

    return run


def has(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def test_what_this_machine_has_is_told_and_what_it_lacks_is_no_fault(doctor):
    found = doctor()
    driver, nccl = found["GPU driver"], found["NCCL"]
    missing = "the CUDA driver (libcuda.so.1) was not found"
    if has("libcuda.so.1"):
        assert missing not in driver["found"]
        return
    assert list(found) == ["GPU driver", "NCCL"]
    assert driver["health"] == nccl["health"] == "ok"
    assert missing in driver["found"]
    assert "/usr/lib" in driver["found"]
    assert nccl["found"].startswith("not needed: NCCL (libnccl.so.2) was not found") != has("libnccl.so.2")


def test_gpus_are_listed(doctor, stubs):
    found = doctor(stubs / "cuda", stubs / "nccl", STUB_CUDA_DEVICES="2")
    assert list(found) == ["GPU driver", "GPU 0", "GPU 1", "NCCL"]
    assert {check["health"] for check in found.values()} == {"ok"}
    assert found["GPU driver"]["found"] == f"CUDA 13.0, {stubs}/cuda/libcuda.so.1"
    assert found["GPU 1"]["found"] == (
        "Stub GPU, 80 GiB, compute capability 9.0, GPU-01a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf"
    )
    assert found["NCCL"]["found"] == f"2.32.0, {stubs}/nccl/libnccl.so.2"


def test_the_probe_is_one_document_whatever_the_driver_prints(doctor, stubs):
    assert doctor(stubs / "cuda", STUB_CUDA_INIT="print")["GPU driver"]["health"] == "ok"


@pytest.mark.parametrize(
    ("variables", "found", "mend"),
    [
        ({"STUB_CUDA_VERSION": "12080"}, "it is for CUDA 12.8, and 13.0 is needed at least", "580"),
        ({"STUB_CUDA_LACKS": "cuMemMap"}, "it has no symbol cuMemMap", "LD_LIBRARY_PATH"),
        ({"STUB_CUDA_INIT": "100"}, "CUDA_ERROR_NO_DEVICE (100): no CUDA-capable device", "nvidia-smi -L"),
        ({"STUB_CUDA_DEVICES": "0"}, "CUDA_ERROR_NO_DEVICE (100)", "nvidia-smi -L"),
        ({"STUB_CUDA_INIT": "100", "CUDA_VISIBLE_DEVICES": "-1"}, "(100)", "CUDA_VISIBLE_DEVICES is '-1' and may hide"),
        ({"STUB_CUDA_INIT": "803"}, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)", "reboot"),
        ({"STUB_CUDA_INIT": "crash"}, "was ended by signal SIGABRT; its last step: calls cuInit", "dmesg"),
    ],
)
def test_a_driver_in_trouble_is_warned_of(doctor, stubs, variables, found, mend):
    check = doctor(stubs / "cuda", **variables)["GPU driver"]
    assert check["health"] == "warn"
    assert found in check["found"]
    assert mend in check["mend"]


def test_without_a_device_nccl_is_not_missed(doctor, stubs):
    found = doctor(stubs / "cuda", STUB_CUDA_INIT="100", MUSTER_NCCL_SO="/nowhere/libnccl.so.2")
    assert list(found) == ["GPU driver", "NCCL"]
    assert found["NCCL"]["health"] == "ok"


def test_a_driver_that_hangs_is_given_up(doctor, stubs):
    check = doctor(stubs / "cuda", words=("--timeout", "0.5"), STUB_CUDA_INIT="hang")["GPU driver"]
    assert check["found"] == "musterd --gpu-probe gave no answer within 0.5 s; its last step: calls cuInit"
    assert "--timeout" in check["mend"]


def test_a_driver_that_prints_without_an_end_is_given_up(doctor, stubs):
    check = doctor(stubs / "cuda", words=("--timeout", "0.5"), STUB_CUDA_INIT="flood")["GPU driver"]
    assert check["health"] == "warn"
    assert len(check["found"]) < 400


def test_a_file_that_is_no_library_is_refused(doctor, tmp_path):
    (tmp_path / "libcuda.so.1").write_text("not a library\n" * 10)
    check = doctor(tmp_path)["GPU driver"]
    assert check["health"] == "warn"
    assert "the loader refuses it" in check["found"]
    assert "invalid ELF header" in check["found"]


def test_a_library_of_something_else_is_refused(doctor, stubs, tmp_path):
    shutil.copy(stubs / "nccl" / "libnccl.so.2", tmp_path / "libcuda.so.1")
    check = doctor(tmp_path)["GPU driver"]
    assert check["health"] == "warn"
    assert f"{tmp_path}/libcuda.so.1: it has no symbol cuDriverGetVersion" in check["found"]


@pytest.mark.parametrize(
    ("variables", "found", "mend"),
    [
        ({"STUB_CUDA_COMPUTE_MODE": "3"}, "compute mode exclusive-process", "-c DEFAULT"),
        ({"STUB_CUDA_COMPUTE_MODE": "2"}, "compute mode prohibited", "-c DEFAULT"),
        ({"STUB_CUDA_CAPABILITY": "61"}, "7.5 is needed at least", "CUDA_VISIBLE_DEVICES"),
        ({"STUB_CUDA_WITHOUT": "102"}, "can't be shared by descriptors", "VMM"),
        ({"STUB_CUDA_WITHOUT": "103"}, "can't be shared by descriptors", "VMM"),
        ({"STUB_CUDA_LOST": "1"}, "CUDA_ERROR_NO_DEVICE (100)", "nvidia-smi"),
    ],
)
def test_a_gpu_that_is_of_no_use_is_warned_of(doctor, stubs, variables, found, mend):
    check = doctor(stubs / "cuda", **variables)["GPU 0"]
    assert check["health"] == "warn"
    assert found in check["found"]
    assert mend in check["mend"]


def test_with_a_gpu_nccl_is_missed_unless_the_system_has_it(doctor, stubs):
    check = doctor(stubs / "cuda")["NCCL"]
    if has("libnccl.so.2"):
        assert check["health"] == "ok"
        return
    assert check["health"] == "warn"
    assert "NCCL (libnccl.so.2) was not found" in check["found"]
    assert "the wheel beside musterd" in check["found"]
    assert f"the system's loader: {stubs}/cuda" in check["found"]
    assert "pip install nvidia-nccl-cu13" in check["mend"]


def test_an_nccl_that_is_too_old_is_warned_of(doctor, stubs):
    check = doctor(stubs / "cuda", stubs / "nccl", STUB_NCCL_VERSION="21805")["NCCL"]
    assert check["health"] == "warn"
    assert "it is NCCL 2.18.5, and 2.19.0 is needed at least" in check["found"]
    assert "pip install -U nvidia-nccl-cu13" in check["mend"]


@pytest.fixture
def wheel(stubs, tmp_path) -> pathlib.Path:
    """Returns the library of the wheel in the environment `tmp_path`."""
    file = tmp_path / "lib" / "python3.12" / "site-packages" / "nvidia" / "nccl" / "lib" / "libnccl.so.2"
    file.parent.mkdir(parents=True)
    shutil.copy(stubs / "nccl" / "libnccl.so.2", file)
    return file


def test_the_wheel_beside_musterd_is_found_in_an_environment_that_is_not_activated(doctor, stubs, wheel, muster):
    (wheel.parents[6] / "bin").mkdir()
    musterd = wheel.parents[6] / "bin" / "musterd"
    shutil.copy(pathlib.Path(muster.path).with_name("musterd"), musterd)
    assert doctor(stubs / "cuda", MUSTER_DAEMON=str(musterd))["NCCL"]["found"] == f"2.32.0, {wheel}"


def test_the_users_nccl_comes_before_the_wheel_and_that_before_the_systems(doctor, stubs, wheel, tmp_path):
    named = tmp_path / "named.so"
    shutil.copy(wheel, named)
    folders = (stubs / "cuda", stubs / "nccl")
    everything = {"VIRTUAL_ENV": str(tmp_path), "MUSTER_NCCL_SO": str(named)}
    assert str(named) in doctor(*folders, **everything)["NCCL"]["found"]
    assert str(wheel) in doctor(*folders, VIRTUAL_ENV=str(tmp_path))["NCCL"]["found"]
    assert f"{stubs}/nccl/libnccl.so.2" in doctor(*folders)["NCCL"]["found"]


def test_an_nccl_that_the_user_names_is_not_replaced_by_another(doctor, stubs):
    check = doctor(stubs / "cuda", stubs / "nccl", MUSTER_NCCL_SO="/nowhere/libnccl.so.2")["NCCL"]
    assert check["health"] == "warn"
    assert "/nowhere/libnccl.so.2 (named by MUSTER_NCCL_SO or --nccl-so): it is not there" in check["found"]


def test_a_daemon_that_is_not_found_is_said(muster):
    done = muster("doctor", "--json", env={**muster.env, "MUSTER_DAEMON": "/nowhere/musterd"})
    [check] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "GPU driver"]
    assert check["health"] == "warn"
    assert "musterd was not found" in check["found"]


def test_a_daemon_that_knows_no_gpus_is_said(muster):
    done = muster("doctor", "--json", env={**muster.env, "MUSTER_DAEMON": "/bin/false"})
    [check] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "GPU driver"]
    assert check["health"] == "warn"
    assert "gave no answer, and ended with status 1" in check["found"]


def files_opened(told: str) -> set[str]:
    """Returns the names of the libraries that the loader tells of under LD_DEBUG=files."""
    return {name for name in ("libc.so.6", "libcuda.so.1", "libnccl.so.2") if name in told}


def test_neither_the_command_nor_the_daemon_opens_the_libraries(muster, stubs):
    """They are in front for both. The probe opens them, and what it prints goes to the command only."""
    folders = f"{stubs}/cuda:{stubs}/nccl"
    env = {**muster.env, "LD_LIBRARY_PATH": folders, "LD_DEBUG": "files"}
    assert files_opened(muster("doctor", env=env).stderr) == {"libc.so.6"}
    started = muster("start", "--memory", "64MiB", "--json", env=env)
    assert started.returncode == 0
    # The daemon's own processes write to its log, too; the loader begins each line with the process.
    own = f"{json.loads(started.stdout)['pid']}:"
    log = pathlib.Path(muster.socket + ".log").read_text().splitlines()
    assert files_opened("\n".join(line for line in log if line.strip().startswith(own))) == {"libc.so.6"}


@pytest.fixture
def other_nccl(stubs, tmp_path):
    """NCCL where nobody looks for it."""
    return pathlib.Path(shutil.copy(stubs / "nccl" / "libnccl.so.2", tmp_path / "libnccl-other.so"))


@pytest.mark.parametrize("flag", ["--nccl-so", "--nccl-wheel"])
def test_nccl_is_looked_for_where_the_flags_say(doctor, other_nccl, flag):
    assert doctor(words=(flag, str(other_nccl)))["NCCL"]["found"] == f"2.32.0, {other_nccl}"


@pytest.mark.parametrize("setting", ["nccl_so", "nccl_wheel"])
def test_nccl_is_looked_for_where_the_daemon_does(muster, doctor, other_nccl, setting):
    environment = {**muster.env, f"MUSTER_{setting.upper()}": str(other_nccl)}
    assert muster("start", "--gpu-memory", "0", env=environment).returncode == 0
    assert doctor()["NCCL"]["found"] == f"2.32.0, {other_nccl}"
    assert json.loads(muster("status", "--json").stdout)[setting] == str(other_nccl)
    assert muster("stop").returncode == 0


def test_a_place_that_is_given_comes_before_the_daemons(muster, doctor, other_nccl, stubs):
    assert muster("start", "--gpu-memory", "0", "--nccl-so", str(other_nccl)).returncode == 0
    given = stubs / "nccl" / "libnccl.so.2"
    assert doctor(words=("--nccl-so", str(given)))["NCCL"]["found"] == f"2.32.0, {given}"
    assert muster("stop").returncode == 0


@pytest.mark.parametrize(("share", "budget"), [("30%", 24 << 30), ("100%", 78 << 30), ("80GiB", 80 << 30)])
def test_a_share_of_a_gpu_leaves_room_for_contexts_and_nccl(muster, stubs, share, budget):
    environment = {**muster.env, "LD_LIBRARY_PATH": str(stubs / "cuda")}
    assert muster("start", "--gpu-memory", share, env=environment).returncode == 0
    gpus = json.loads(muster("status", "--json").stdout)["gpus"]
    assert [gpu["memory_bytes"] for gpu in gpus] == [budget]
    assert gpus[0]["nccl_bytes"] == 0
    assert muster("stop").returncode == 0
