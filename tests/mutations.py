"""Do the quick tests see a fault? python tests/mutations.py breaks lines one by one.

Each mutation changes one line of a copy of the package, in any of its wings, and runs
the quick tests of one file against the copy: at least one of them must fail. It prints
a line for each, and ends with an error if one is not seen. About a quarter of an hour.

    python tests/mutations.py [NUMBER ...]
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import typing

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Mutation(typing.NamedTuple):
    """A line of the package, what it becomes, and the tests that are to see it."""

    module: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(*row)
    for row in [
        # p: the tilt
        ("tilt", "self.scale * self.response(images) +", "self.response(images) +", "test_tilt"),
        ("tilt", "return self.scale * tf.sqrt(", "return tf.sqrt(", "test_tilt"),
        # q: references
        ("reference/transports", "tf.math.ndtri(below), -tf", "tf.math.ndtri(above), -tf", "test_reference"),
        ("reference/transports", "size = (0.5 - tail)", "size = (1.0 - tail)", "test_reference"),
        ("reference/transports", "log_normal = -0.5 * z**2", "log_normal = -0.4 * z**2", "test_reference"),
        ("reference/heavy_tails", "log_size + _log_cosh(", "_log_cosh(", "test_wavelets"),
        ("reference/heavy_tails", "field - self._strength**2", "field", "test_wavelets"),
        ("reference/wavelet_transform", "low - low @ high.T @ high", "low", "test_wavelets"),
        ("reference/transports", "tf.roll(others, 1, axis=-2)", "others", "test_transports"),
        ("networks/coupling_flow", "log_det -= tf", "log_det += tf", "test_learned"),
        ("reference/learned/objective", "noise**2, axis=-1) + log_det", "noise**2, axis=-1)", "test_learned"),
        ("reference/learned/fitting", "return int(self.optimizer.iterations)", "return int(self.optimizer.iterations) - 1", "test_learned"),
        ("reference/learned/law", "radius = within[:, _NEIGHBOURS]", "radius = within[:, 1]", "test_learned"),
        ("reference/generators", "parameters=parameters,", "parameters={},", "test_learned"),
        ("reference/transports", "(_SLOPE / 2) / norm**3", "(_SLOPE / 2) / norm**2", "test_reference"),
        ("reference/spectrum", "falloff *= np.exp(-(", "falloff *= np.exp(-2 * (", "test_reference"),
        ("reference/sums", "parts.append(first + of_part)", "parts.append(of_part)", "test_sums"),
        ("reference/sums", "sum(map(generators_of, references), []),", "[],", "test_sums"),
        ("networks/principal_path", "np.sqrt(len(flat)) / size[:, None]", "np.sqrt(len(flat))", "test_principal_path"),
        ("networks/principal_path", "size / stddev) ** 2", "size / stddev)", "test_principal_path"),
        # f: units
        ("units/statistics", "offset + mean, stddev", "mean, stddev", "test_feature_statistics"),
        ("units/statistics", "(_DEGREES + 1) / 2 *", "_DEGREES / 2 *", "test_feature_statistics"),
        ("networks/graph", "made.update((key, values[key])", "{}.update((key, values[key])", "test_units"),
        ("networks/graph", "others.update(step.outputs)\n", "pass\n", "test_units"),
        # draws of p
        ("units/random_views", "- cosine * y + down * height", "+ cosine * y + down * height", "test_random_views"),
        ("units/random_views", "            self.rest()\n            return it", "            return it", "test_random_views"),
        ("sampling/sampler", "state._replace(results=None)", "state", "test_random_views"),
        ("sampling/kernels", "(coordinates or 0) / 4", "0 / 4", "test_kernels"),
        ("sampling/kernels", "noise = cosine * at.noise + sine * at.momentum", "noise = cosine * at.noise - sine * at.momentum", "test_kernels"),
        ("sampling/kernels", "tf.where(left > 1, 2 * half, half)", "2 * half", "test_kernels"),
        ("sampling/kernels", "end.f - here.target_log_prob - end.kicks", "end.f - here.target_log_prob", "test_kernels"),
        ("sampling/kernels", "next_noise = _choose(is_accepted, end.noise, noise)", "next_noise = end.noise", "test_kernels"),
        ("sampling/kernels", "_choose(is_accepted, end.momentum, -momentum)", "_choose(is_accepted, end.momentum, momentum)", "test_kernels"),
        ("sampling/kernels", "tf.sqrt(1 - kept**2) * drawn", "(1 - kept) * drawn", "test_kernels"),
        ("sampling/verdict/advice", "max(ess_limit / ess, ", "max(0.0, ", "test_advice"),
        ("sampling/adaptation", "error = accept_prob - target", "error = target - accept_prob", "test_adaptation"),
        ("sampling/adaptation", "self.num_changes + (sign * self.sign < 0)", "self.num_changes + 1", "test_adaptation"),
        ("sampling/samples", "range(0, len(images), -(-len(images) // _AVERAGED))", "range(-(-len(images) // _AVERAGED))", "test_samples"),
        ("sampling/adaptation", "(log_step - self.log_mean) / count", "(log_step - self.log_mean)", "test_adaptation"),
        ("storage/loop", "                keep(position)\n                saved_at", "                saved_at", "test_runs"),
        ("sampling/chains", "results_of(noise, factor[:, None] * f,", "results_of(noise, f,", "test_chains"),
        ("sampling/tilt_scale", "float(signal) ** 2 *", "float(signal) *", "test_scale"),
        # Z: partition functions
        ("partition/bennett", "return value, error / slope", "return value, error", "test_partition"),
        ("partition/bennett", "rises[::-1] @ f[2 *", "rises @ f[2 *", "test_partition"),
        ("partition/importance", "log_ess = 2.0 *", "log_ess = 1.0 *", "test_importance"),
        # f: networks and units
        ("units/algebra", "return _scaled(self, -1.0)", "return _scaled(self, 1.0)", "test_units"),
        ("networks/receptive_fields/intervals", "return (cell * self.stride - self.pad + self.size - 1) // self.up", "return (cell * self.stride - self.pad + self.size) // self.up", "test_receptive_field"),
        ("networks/architectures", "alpha / self.size", "alpha", "test_networks"),
        # training
        ("training/losses", "excess + tf.reduce_sum(shifts)", "excess", "test_replicas"),
        ("training/losses", "square_sum=tf.reduce_sum(tf.square(importance_weights), axis=0)", "square_sum=tf.reduce_sum(importance_weights, axis=0)", "test_objective"),
        ("training/losses", "loss - generative_weight * mean_weight *", "loss - mean_weight *", "test_labels_and_weights"),
        ("training/calibration", "sums.log_sum - np.log(sums.num_images)", "sums.log_sum", "test_model"),
        ("training/reference_queue", "mass=share * (statistics.mass", "mass=(statistics.mass", "test_reference_queue"),
        ("training/classifier", "            queue.push(batch)", "            pass", "test_model"),
        ("training/optimizers", "of_bias = (self.bias_multiplier, self.bias_l2_multiplier)", "of_bias = (self.bias_l2_multiplier, self.bias_multiplier)", "test_optimizer"),
        # data
        ("data/orders", "np.random.default_rng([seed, epoch]).permutation", "np.random.default_rng([seed, 0]).permutation", "test_batches"),
        ("data/orders", "np.flatnonzero(labels < 0)", "np.flatnonzero(labels <= 0)", "test_batches"),
        ("data/image_files", "expand_animations=False", "expand_animations=True", "test_batches"),
        # storage
        ("storage/run_folder", "_check_same(self.directory, saved, self.identity | same)", "pass", "test_runs"),
        ("storage/files", "        os.replace(part, file)", "        shutil.copy(part, file)", "test_runs"),
        # serving
        ("serving/answers", "scale = tf.gather(self.scale, unit) / temperature", "scale = tf.gather(self.scale, unit)", "test_serving"),
        ("serving/answers", "return self.first.base.log_prob(noise)", "return 0.0 * self.first.base.log_prob(noise)", "test_learned"),
        ("serving/requests", "return name in self._functions", "return name in self._graphs", "test_serving"),
        ("serving/certificate", "if not difference <= limit:", "if difference <= 0:", "test_certificate"),
        ("serving/certify", "scale=t.scale / temperature", "scale=t.scale * temperature", "test_certificate"),
        # masking
        ("masking/labelling", "tf.math.rsqrt(tf.maximum(areas, 1))", "tf.math.sqrt(tf.maximum(areas, 1))", "test_masking_labelling"),
        ("masking/assignment", "found = objects.max(axis=1, initial=0.0) >= POSITIVE_IOU", "found = objects.max(axis=1, initial=0.0) > 0.9", "test_masking_assignment"),
        ("masking/pooling", "((numbers + 1) * sizes + bins - 1) // bins", "((numbers + 1) * sizes) // bins", "test_masking_pooling"),
        # cli and validation
        ("cli/flags", "lambda n: n >= 1,", "lambda n: n >= 0,", "test_flags"),
        ("validation", "not smallest <= value <= largest", "not smallest <= value", "test_validation"),
    ]
]  # fmt: skip


def is_seen(mutation):
    """Whether a quick test fails where the package has the mutation."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("keras_tilt", "tests", "train", "export", "benchmarks"):
            shutil.copytree(ROOT / name, root / name)
        for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md"):
            shutil.copy(ROOT / name, root / name)
        path = root / "keras_tilt" / f"{mutation.module}.py"
        source = path.read_text(encoding="utf-8")
        assert source.count(mutation.old) == 1, f"{mutation.module}: {mutation.old}"
        path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        run = subprocess.run(
            [*command, f"tests/{mutation.tests}.py"],
            cwd=root,
            env=os.environ | {"PYTHONPATH": folder},
            capture_output=True,
            text=True,
        )
    failed = re.search(r"^(FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    return failed[2] if failed else None


def main():
    numbers = [int(text) for text in sys.argv[1:]] or range(len(MUTATIONS))
    unseen = []
    for number in numbers:
        mutation = MUTATIONS[number]
        seen = is_seen(mutation)
        unseen += [] if seen else [number]
        line = mutation.old.strip().splitlines()[0]
        print(
            f"{number:3d} {mutation.module}: {line}\n    {seen or 'NOT SEEN'}",
            flush=True,
        )
    print(f"{len(numbers) - len(unseen)} of {len(numbers)} seen; not seen: {unseen}")
    sys.exit(bool(unseen))


if __name__ == "__main__":
    main()
