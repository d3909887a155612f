"""Several workers under Ray: python docs/launchers/ray_workers.py COUNT FLAG...

Ray places COUNT tasks, each tells its address, and each then runs `keras-tilt train` with
a TF_CONFIG of all. When a worker is lost the others end, and all are started again, as
often as RETRIES: they go on from the last save. The same holds for any launcher that can
tell a process where the others are.
"""

import json
import os
import socket
import subprocess
import sys

import ray

RETRIES = 10
GPUS = float(os.environ.get("GPUS_PER_WORKER", "1"))


@ray.remote(num_gpus=GPUS)
class Worker:
    """One of them, on a machine that Ray chooses."""

    def address(self):
        """Return its host and a port that is free."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def train(self, addresses, index, flags):
        """Run the command, and return its exit code."""
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        command = ["keras-tilt", "train", *flags]
        return subprocess.run(command, env=environment, check=False).returncode


def main():
    """Start all workers, again if one is lost, and end as they do."""
    count, flags = int(sys.argv[1]), sys.argv[2:]
    for _ in range(1 + RETRIES):
        workers = [Worker.remote() for _ in range(count)]
        addresses = ray.get([worker.address.remote() for worker in workers])
        running = [w.train.remote(addresses, i, flags) for i, w in enumerate(workers)]
        try:
            codes = ray.get(running)
        except ray.exceptions.RayActorError as lost:
            print(f"A worker was lost, all start again: {lost}", file=sys.stderr)
            codes = [1]
        if 1 not in codes:
            sys.exit(max(codes))
        for worker in workers:
            ray.kill(worker)
    sys.exit(1)


if __name__ == "__main__":
    main()
