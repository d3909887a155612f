"""Files to start several machines from: each worker gets its place, and starts again.

Slurm's commands are stood in for by scripts of a few lines, and a pod by its variables.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from test_workers import free_ports

LAUNCHERS = pathlib.Path(__file__).parents[1] / "docs" / "launchers"
SHOW = f"{sys.executable} -c 'import os; print(os.environ[\"TF_CONFIG\"])'"


def started(*command, folder=None, **variables):
    """What a launcher prints, with these variables and no others of its kind."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TF_"))}
    path = f"{folder}:{kept['PATH']}"
    environment = kept | {"PATH": path} | variables
    return subprocess.run(
        [*map(str, command)],
        env=environment,
        cwd=LAUNCHERS.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "index", ["SLURM_PROCID", "JOB_COMPLETION_INDEX", "WORKER_INDEX"]
)
def test_a_worker_is_told_all_addresses_and_its_own_index(index):
    run = started(
        *("sh", LAUNCHERS / "worker.sh", "sh", "-c", SHOW),
        **{index: "1", "WORKER_HOSTS": "one,two:31,three", "WORKER_PORT": "9"},
    )
    assert json.loads(run.stdout) == {
        "cluster": {"worker": ["one:9", "two:31", "three:9"]},
        "task": {"type": "worker", "index": 1},
    }


def test_a_worker_without_a_place_says_what_is_missing():
    worker = ("sh", LAUNCHERS / "worker.sh", "true")
    run = started(*worker, WORKER_HOSTS="one")
    assert run.returncode != 0 and "Expected the index of this worker" in run.stderr
    run = started(*worker, WORKER_INDEX="0")
    assert run.returncode != 0 and "Expected the hosts of all workers" in run.stderr


def write(folder, name, text):
    """A command of that name."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def slurm(tmp_path):
    """A folder of commands: two tasks one after the other, and one to be noted."""
    hosts = '[ "$1" = show ] && printf "node1\\nnode2\\n"'
    noted = f'[ "$1" = show ] || echo "$@" >> {tmp_path}/requeued'
    write(tmp_path, "scontrol", f"{hosts}\n{noted}")
    tasks = 'for i in 0 1; do SLURM_PROCID=$i "$@" || code=$?; done; exit ${code:-0}'
    write(tmp_path, "srun", f'code=""; shift; {tasks}')
    return tmp_path


@pytest.mark.parametrize(("code", "again"), [(0, False), (143, True), (1, False)])
def test_slurm_starts_a_worker_a_node_and_queues_again_what_was_stopped(
    slurm, code, again
):
    write(slurm, "keras-tilt", f'echo "$TF_CONFIG $*"; exit {code}')
    variables = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}
    script = ("bash", LAUNCHERS / "slurm.sh", "--epochs", 3)
    run = started(*script, folder=slurm, DATA="images", RUN="run", **variables)
    assert run.returncode == code
    found = [re.fullmatch(r"(\{.*\}) (.*)", line) for line in run.stdout.splitlines()]
    for index, (config, flags) in enumerate(match.groups() for match in found):
        assert json.loads(config) == {
            "cluster": {"worker": ["node1:2222", "node2:2222"]},
            "task": {"type": "worker", "index": index},
        }
        assert flags == "train --data-dir images --out run --epochs 3"
    assert len(found) == 2
    noted = slurm / "requeued"
    assert (noted.read_text() if noted.exists() else "") == "requeue 7\n" * again


def test_a_task_of_a_slurm_array_trains_its_own_seed(tmp_path):
    write(tmp_path, "keras-tilt", 'echo "$*"')
    script = ("bash", LAUNCHERS / "slurm_array.sh", "--epochs", 3)
    variables = {"DATA": "images", "RUN": "runs", "SLURM_ARRAY_TASK_ID": "2"}
    run = started(*script, folder=tmp_path, **variables)
    flags = "train --data-dir images --out runs/seed2 --seed 2 --epochs 3\n"
    assert run.stdout == flags


def test_pods_of_kubernetes_find_each_other_by_the_names_of_the_job():
    """As many hosts as completions, each <job>-<index>.<service>, in order."""
    text = (LAUNCHERS / "kubernetes.yaml").read_text()
    count = int(re.search(r"completions: (\d+)", text)[1])
    job, service = re.findall(r"^  name: (\S+)$", text, re.MULTILINE)[::-1]
    assert re.search(r"subdomain: (\S+)", text)[1] == service
    hosts = [f"{job}-{index}.{service}" for index in range(count)]
    assert f"value: {','.join(hosts)}\n" in text
    assert f"parallelism: {count}\n" in text and "completionMode: Indexed\n" in text


@pytest.mark.slow
def test_two_workers_of_a_launcher_train_to_the_end(tmp_path):
    """As pods do, on ports of this machine."""
    hosts = ",".join(f"localhost:{port}" for port in free_ports(2))
    command = ("sh", LAUNCHERS / "worker.sh", sys.executable, "-m", "keras_tilt")
    flags = ("train", "--smoke", "--network", "convnet", "--out", tmp_path / "run")
    workers = [
        subprocess.Popen(
            [*map(str, (*command, *flags))],
            env=os.environ | {"WORKER_HOSTS": hosts, "JOB_COMPLETION_INDEX": str(i)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert "center crop" in said[0] and said[1] == ""
    assert (tmp_path / "run" / "run" / "last.keras").is_file()
