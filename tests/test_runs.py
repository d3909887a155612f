"""A run on disk, interrupted at any moment and resumed, is the uninterrupted run."""

import functools
import json
import pathlib
import textwrap
import time

import children
import numpy as np
import pytest
import targets
import tensorflow as tf
import tensorflow_probability as tfp
from cases import slow_but
from small_network import SHAPE, small_network

from keras_tilt.reference.distributions import white_noise
from keras_tilt.sampling import chains, sampler
from keras_tilt.sampling.kernels import KERNELS
from keras_tilt.sampling.sampler import sample
from keras_tilt.storage import loop, run_folder
from keras_tilt.storage.run_folder import Run
from keras_tilt.tilt import Tilt
from keras_tilt.units.selection import unit

BURNIN, DRAWS = 6, 12


def tilt_of(target):
    return Tilt(target.unit, target.reference())


@functools.cache
def class_tilts(seed=0):
    """Two classes of one network, with which the graphs that are traced are kept."""
    network, reference = small_network(seed), white_noise(SHAPE)
    return [Tilt(unit(network, class_index=k), reference) for k in range(2)]


def run(tilt=None, directory=None, **kwargs):
    settings = {"num_chains": 3, "num_results": DRAWS, "num_burnin_steps": BURNIN}
    settings |= {"seed": 7, "progress": False} | kwargs
    tilt = class_tilts()[0] if tilt is None else tilt
    return sample(tilt, directory=directory, **settings)


@functools.cache
def whole_run(case="split"):
    """The run that is neither interrupted nor on disk."""
    return run(**CASES[case])


def interrupt_after(monkeypatch, iterations, error=KeyboardInterrupt):
    """An error after so many iterations of this process."""
    done = []

    class Bar(sampler.tqdm):
        def update(self, n=1):
            super().update(n)
            if n == 1:
                done.append(1)
            if n == 1 and len(done) == iterations:
                raise error

    monkeypatch.setattr(sampler, "tqdm", Bar)


def assert_same(one, other):
    for name in ("noise", "f", "log_prob", "is_accepted", "warmup_f"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name, values in one.functionals.items():
        np.testing.assert_array_equal(values, other.functionals[name])
    np.testing.assert_array_equal(one.swap_accept_rate, other.swap_accept_rate)
    assert one.step_size == other.step_size
    assert repr(one.diagnostics) == repr(other.diagnostics)  # NaN included


# Interrupted


def test_ctrl_c_while_sampling_returns_the_draws_made(monkeypatch):
    whole = whole_run()
    interrupt_after(monkeypatch, BURNIN + 7)
    with pytest.warns(UserWarning, match="interrupted: 5 of 12"):
        part = run()
    np.testing.assert_array_equal(part.noise, whole.noise[:7])
    np.testing.assert_array_equal(part.images, whole.images[:7])
    assert part.f.shape == part.is_accepted.shape == (7, 3)
    assert "interrupted 5 draws before the end" in part.diagnostics.verdict


@pytest.mark.parametrize("iterations", [2, BURNIN + 3])
def test_ctrl_c_before_there_are_four_draws_stops(monkeypatch, iterations):
    interrupt_after(monkeypatch, iterations)
    with pytest.raises(KeyboardInterrupt):
        run()


def test_ctrl_c_in_one_of_several_runs_stops_them_all(monkeypatch):
    classifier, reference = small_network(), white_noise((8, 8, 1))
    units = [unit(classifier, class_index=0), unit(classifier, "conv1:1")]
    interrupt_after(monkeypatch, BURNIN + 7)
    with pytest.raises(KeyboardInterrupt):
        run([Tilt(one, reference) for one in units])


# Interrupted and resumed

CASES = {
    **{kernel: {"kernel": kernel} for kernel in KERNELS},
    "ladder": {"inverse_temperatures": (1.0, 0.5)},
    "thin": {"thin": 3},
    "fixed step": {"step_size": 0.3, "num_leapfrog_steps": 2},
}


MOMENTS = (1, BURNIN - 1, BURNIN, BURNIN + 2, BURNIN + 7)


@pytest.mark.parametrize(
    "case, iterations",
    slow_but(
        [*(("split", moment) for moment in MOMENTS), ("ladder", 8)],
        [*(("split", moment) for moment in MOMENTS), *((case, 8) for case in CASES)],
    ),
)
def test_interrupted_anywhere_and_resumed_it_is_the_whole_run_bit_for_bit(
    monkeypatch, tmp_path, case, iterations
):
    whole = whole_run(case)
    with monkeypatch.context() as patch:
        interrupt_after(patch, iterations)
        if iterations >= BURNIN + 4:
            with pytest.warns(UserWarning, match="interrupted"):
                run(directory=tmp_path / "run", **CASES[case])
        else:
            with pytest.raises(KeyboardInterrupt):
                run(directory=tmp_path / "run", **CASES[case])
    assert_same(run(directory=tmp_path / "run", **CASES[case]), whole)


def test_a_run_interrupted_many_times_is_the_whole_run(monkeypatch, tmp_path):
    whole = whole_run()
    interruptions = 0
    while True:
        with monkeypatch.context() as patch:
            interrupt_after(patch, 4)
            try:
                with pytest.warns(UserWarning, match="interrupted"):
                    run(directory=tmp_path / "run")
            except KeyboardInterrupt:
                pass
            except pytest.fail.Exception:  # no warning: the run has come to its end
                break
        interruptions += 1
    assert interruptions == (BURNIN + DRAWS - 1) // 4
    assert_same(run(directory=tmp_path / "run"), whole)


def test_a_list_of_tilts_is_resumed(monkeypatch, tmp_path):
    whole = run(class_tilts())
    with monkeypatch.context() as patch:
        interrupt_after(patch, BURNIN + 1)
        with pytest.raises(KeyboardInterrupt):
            run(class_tilts(), tmp_path / "run")
    for one, other in zip(run(class_tilts(), tmp_path / "run"), whole, strict=True):
        assert_same(one, other)


def test_tilts_that_run_apart_have_folders_of_their_own(tmp_path):
    classifier = small_network()
    reference = white_noise((8, 8, 1))
    units = [unit(classifier, class_index=0), unit(classifier, "conv1:1")]
    tilts = [Tilt(one, reference) for one in units]
    whole = run(tilts)
    for _ in range(2):
        for one, other in zip(run(tilts, tmp_path / "run"), whole, strict=True):
            assert_same(one, other)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["tilt0", "tilt1"]


@pytest.mark.slow
def test_split_chains_are_resumed(monkeypatch, tmp_path, strategy):
    with strategy.scope():
        whole = run()
        with monkeypatch.context() as patch:
            interrupt_after(patch, BURNIN + 1)
            with pytest.raises(KeyboardInterrupt):
                run(directory=tmp_path / "run")
        assert_same(run(directory=tmp_path / "run"), whole)
    with pytest.raises(ValueError, match="num_replicas 2 there, 1 here"):
        run(directory=tmp_path / "run")


def test_a_finished_run_is_read_and_not_run_again(monkeypatch, tmp_path):
    whole = run(directory=tmp_path / "run")
    monkeypatch.setattr(chains.Chains, "advance", None)
    again = run(directory=tmp_path / "run")
    assert_same(again, whole)
    assert isinstance(again.noise, np.memmap) and isinstance(whole.noise, np.memmap)


def test_the_last_checkpoint_is_enough(monkeypatch, tmp_path):
    """A process killed between two checkpoints repeats what it had not saved."""
    whole = whole_run()
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    kept = []
    keep = Run.checkpoint

    def checkpoint(self, arrays):
        kept.append(int(arrays["iteration"]))
        if len(kept) <= 9:
            keep(self, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "checkpoint", checkpoint)
        interrupt_after(patch, 14)
        with pytest.warns(UserWarning, match="interrupted"):
            run(directory=tmp_path / "run")
    assert kept[:9] == list(range(1, 10)) and kept[-1] == 14
    assert_same(run(directory=tmp_path / "run"), whole)


SCRIPT = """
    import sys
    import tensorflow as tf
    from keras_tilt.sampling import sampler
    from keras_tilt.storage import loop
    from keras_tilt.reference.distributions import white_noise
    from keras_tilt.tilt import Tilt
    loop._SAVE_EVERY = 0.0
    tilt = Tilt(lambda z: tf.reduce_sum(tf.sin(3 * z), axis=1), white_noise([5]))
    samples = sampler.sample(tilt, 4, int(sys.argv[2]), 60, seed=3,
                             directory=sys.argv[1], progress=False)
    print(samples.noise.tobytes().hex()[-4000:], samples.f.sum(), samples.step_size)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills, draws", [(1, 30), (3, 200)])
def test_killed_at_random_moments_it_is_the_whole_run_bit_for_bit(
    tmp_path, kills, draws
):
    """SIGKILL, also in the middle of a checkpoint: one is written every iteration."""

    def start(name):
        command = ["-c", textwrap.dedent(SCRIPT), tmp_path / name, draws]
        with open(tmp_path / f"{name}.txt", "w") as file:
            return children.Child(command, stdout=file)

    whole = start("whole")
    killed, random = 0, np.random.default_rng(0)
    state = tmp_path / "run" / "state.npz"
    while True:
        process = start("run")
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None:
            if state.exists() and state.stat().st_mtime_ns > before:
                break
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, draws / 400))
        if process.poll() is not None or killed == kills:
            break
        process.kill()
        process.wait()
        killed += 1
    assert killed >= 1 and process.wait() == whole.wait() == 0
    assert (tmp_path / "run.txt").read_text() == (tmp_path / "whole.txt").read_text()


# Lengthened


def all_files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", slow_but(["split", "thin", "ladder"], CASES))
def test_a_longer_run_goes_on_and_its_first_draws_stay(tmp_path, case):
    """Finished, or not; and of a run of several lengths it is the longest."""
    whole = whole_run(case)
    for num_results in (3, DRAWS // 2, DRAWS):
        found = run(directory=tmp_path / "run", num_results=num_results, **CASES[case])
        np.testing.assert_array_equal(found.f, whole.f[:num_results])
        np.testing.assert_array_equal(
            found.noise, whole.noise[: num_results // CASES[case].get("thin", 1)]
        )
    assert_same(found, whole)


def test_of_a_longer_run_the_first_draws_are_read_and_nothing_is_lost(
    tmp_path, monkeypatch
):
    whole = run(directory=tmp_path / "run")
    short = run(num_results=5)
    before = all_files_of(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(chains.Chains, "advance", None)
        assert_same(run(directory=tmp_path / "run", num_results=5), short)
        assert_same(run(directory=tmp_path / "run"), whole)
    longer = run(directory=tmp_path / "run", num_results=DRAWS + 3)
    np.testing.assert_array_equal(longer.noise[:DRAWS], whole.noise)
    assert before.keys() == all_files_of(tmp_path / "run").keys()


def test_a_run_interrupted_while_it_is_lengthened_is_the_whole_run(
    tmp_path, monkeypatch
):
    whole = whole_run()
    run(directory=tmp_path / "run", num_results=5)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.warns(UserWarning, match="interrupted: 4 of 12"):
            run(directory=tmp_path / "run")
    with monkeypatch.context() as patch:  # the disk is full while the states grow
        patch.setattr(run_folder.os, "replace", None)
        with pytest.raises(TypeError):
            run(directory=tmp_path / "run", num_results=DRAWS + 1)
    assert_same(run(directory=tmp_path / "run"), whole)


def test_a_list_of_tilts_is_lengthened(tmp_path):
    whole = run(class_tilts())
    run(class_tilts(), tmp_path / "run", num_results=4)
    for one, other in zip(run(class_tilts(), tmp_path / "run"), whole, strict=True):
        assert_same(one, other)


def test_a_run_with_a_callback_is_lengthened_and_not_shortened(tmp_path):
    seen = []

    def callback(number, noise):
        seen.append((number, noise[0]))

    whole = whole_run()
    run(directory=tmp_path / "run", callback=callback, num_results=5)
    longer = run(directory=tmp_path / "run", callback=callback)
    assert [number for number, _ in seen] == list(range(DRAWS))
    np.testing.assert_array_equal([noise for _, noise in seen], whole.noise)
    np.testing.assert_array_equal(longer.f, whole.f)
    with pytest.raises(ValueError, match="`num_results` must be 12 or more"):
        run(directory=tmp_path / "run", callback=callback, num_results=5)


# What is not resumed, and not touched


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 8}, "seed "),
        ({"target_accept_prob": 0.7}, "target_accept_prob 0.8 there, 0.7 here"),
        ({"num_chains": 4}, "num_chains 3 there, 4 here"),
        ({"mass": 2.0}, "mass "),
        ({"initial_noise": np.ones([3, *SHAPE])}, "initial_noise "),
        ({"kernel": "hmc"}, "kernel 'split' there, 'hmc' here"),
    ],
)
def test_another_run_in_the_folder_is_an_error_that_says_what_differs(
    tmp_path, change, message
):
    run(directory=tmp_path / "run")
    before = files_of(tmp_path / "run")
    with pytest.raises(ValueError, match=f"which holds another: .*{message}"):
        run(directory=tmp_path / "run", **change)
    assert files_of(tmp_path / "run") == before


def test_another_tilt_in_the_folder_is_an_error(tmp_path):
    first, second = class_tilts()
    run(first, tmp_path / "run")
    before = files_of(tmp_path / "run")
    for other, message in (
        (second, r"units \['class 0'\] there, \['class 1'\] here"),
        (Tilt(first.unit, first.reference, scale=2.0), "scales"),
        (class_tilts(seed=1)[0], "The network or the reference differs"),
        (Tilt(first.unit, white_noise((8, 8, 1), 0.5)), "differs"),
    ):
        with pytest.raises(ValueError, match=message):
            run(other, tmp_path / "run")
        assert files_of(tmp_path / "run") == before


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="which holds other files"):
        run(directory=tmp_path)
    assert files_of(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_run_killed_at_its_very_first_moment_is_no_other_run(tmp_path):
    whole = whole_run()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json.part").write_text('{"seed": [1')
    assert_same(run(directory=tmp_path / "run"), whole)
    assert not (tmp_path / "run" / "run.json.part").exists()


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "run").write_text("years of work")
    with pytest.raises(ValueError, match="which is a file"):
        run(directory=tmp_path / "run")
    assert (tmp_path / "run").read_text() == "years of work"


@pytest.mark.parametrize("keeps", [True, False])
def test_a_run_that_keeps_its_states_is_none_that_hands_them_on(tmp_path, keeps):
    def callback(draw, noise):
        pass

    first, second = (None, callback) if keeps else (callback, None)
    run(directory=tmp_path / "run", callback=first)
    with pytest.raises(ValueError, match=f"keeps_states {keeps} there"):
        run(directory=tmp_path / "run", callback=second)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    "name, damage",
    [
        ("noise.npy", cut),
        ("noise.npy", pathlib.Path.unlink),
        ("state.npz", cut),
        ("run.json", cut),
        ("run.json", pathlib.Path.unlink),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_damaged_run_is_an_error_that_names_the_file(tmp_path, name, damage):
    run(directory=tmp_path / "run")
    damage(tmp_path / "run" / name)
    before = files_of(tmp_path / "run")
    with pytest.raises(ValueError, match="`directory` must .*run.*(noise|state|run)"):
        run(directory=tmp_path / "run")
    assert files_of(tmp_path / "run") == before


def test_a_run_of_another_version_is_an_error_that_says_so(tmp_path):
    run(directory=tmp_path / "run")
    state = tmp_path / "run" / "state.npz"
    with np.load(state) as saved:
        older = {name: saved[name] for name in saved if name != "sign"}
    np.savez(state, **older)
    with pytest.raises(ValueError, match="this version of keras_tilt.*without sign"):
        run(directory=tmp_path / "run")


def test_numbers_of_numpy_are_numbers(tmp_path):
    settings = {
        "num_chains": np.int64(3),
        "num_results": np.int32(DRAWS),
        "thin": np.int64(1),
        "target_accept_prob": np.float64(0.7),
        "inverse_temperatures": np.array([1.0, 0.5]),
    }
    plain = {name: np.asarray(value).tolist() for name, value in settings.items()}
    whole = run(directory=tmp_path / "run", **settings)
    assert_same(run(directory=tmp_path / "run", **plain), whole)


def test_another_reference_of_the_same_f_is_another_run(tmp_path):
    def tilt(stddev):
        normal = tfp.distributions.Normal(tf.zeros(targets.SHAPE), stddev)
        reference = tfp.distributions.Independent(normal, len(targets.SHAPE))
        return Tilt(targets.linear().unit, reference)

    settings = {"initial_noise": np.ones([3, *targets.SHAPE]), "kernel": "hmc"}
    run(tilt(2.0), tmp_path / "run", **settings)
    with pytest.raises(ValueError, match="log_prob .* The network or the reference"):
        run(tilt(9.0), tmp_path / "run", **settings)


def test_the_states_of_a_run_cannot_be_overwritten_by_its_samples(tmp_path):
    samples = run(directory=tmp_path / "run")
    with pytest.raises(ValueError, match="read-only"):
        samples.noise[...] = 0.0


def test_a_folder_is_that_of_the_user_who_writes_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(directory="~/run")
    assert (tmp_path / "run" / "run.json").exists()


def test_the_empty_path_is_the_folder_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(directory="")
    assert (tmp_path / "run.json").exists()


def test_several_runs_are_not_put_into_the_folder_of_another(tmp_path):
    first, _ = class_tilts()
    run(first, tmp_path / "run")
    before = files_of(tmp_path / "run")
    with pytest.raises(ValueError, match="which holds other files"):
        run([first, tilt_of(targets.relu())], tmp_path / "run")
    assert files_of(tmp_path / "run") == before


def test_chains_that_cannot_start_leave_no_folder(tmp_path):
    nowhere = Tilt(lambda x: np.nan * x[:, 0], white_noise([3]))
    with pytest.raises(ValueError, match="must be finite where a chain starts"):
        run(nowhere, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_run_of_a_list_begins_before_all_of_them_can(tmp_path, monkeypatch):
    monkeypatch.setattr(chains.Chains, "advance", None)
    first, _ = class_tilts()
    nowhere = Tilt(lambda x: np.nan * x[:, 0, 0, 0], first.reference)
    with pytest.raises(ValueError, match="must be finite where a chain starts"):
        run([first, nowhere], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "tilt1").mkdir(parents=True)
    (tmp_path / "run" / "tilt1" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="which holds other files"):
        run([first, tilt_of(targets.relu())], tmp_path / "run")
    assert not (tmp_path / "run" / "tilt0").exists()


# The folder


def test_a_checkpoint_that_fails_leaves_the_last_good_one(tmp_path, monkeypatch):
    store = Run(tmp_path / "run", {})
    store.create()
    store.checkpoint({"iteration": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        store.checkpoint({"iteration": 2})
    assert store.load()["iteration"] == 1


def test_draws_are_found_again_and_settings_are_plain_text(tmp_path):
    settings = {"seed": (1, 2), "kernel": "split"}
    store = Run(tmp_path / "run", settings)
    assert store.load() is None and not (tmp_path / "run").exists()
    store.create()
    draws = store.draws((3, 2), np.float32)
    draws[1] = 7.0
    draws.flush()
    store.checkpoint({"iteration": 1})
    again = Run(tmp_path / "run", settings)
    np.testing.assert_array_equal(again.draws((3, 2), np.float32)[1], 7.0)
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    assert saved == {"seed": [1, 2], "kernel": "split"}


def test_states_on_disk_are_not_in_memory(tmp_path):
    samples = run(directory=tmp_path / "run")
    assert isinstance(samples.noise, np.memmap)
    whole = whole_run()
    np.testing.assert_array_equal(samples.images[-1], whole.images[-1])
    got = []
    streamed = run(
        directory=tmp_path / "other", callback=lambda draw, noise: got.append(noise)
    )
    assert len(got) == DRAWS and len(streamed.noise) == 1
    assert not (tmp_path / "other" / "noise.npy").exists()
    np.testing.assert_array_equal(np.concatenate(got), whole.noise)


# The loop


def iterated(stop, error, **kwargs):
    """A loop of five that an error leaves at a position; what was kept and shown."""

    def advance(position):
        if position == stop:
            raise error
        return position + 1

    kept, shown = [], []
    try:
        found = loop.iterate(
            0,
            advance,
            is_over=lambda position: position == 5,
            show=shown.append,
            keep=kept.append,
            **kwargs,
        )
    except error:
        found = None
    return found, kept, shown


@pytest.mark.parametrize("stop", [0, 3, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_ends_a_loop_its_last_position_is_kept_once(stop, error):
    found, kept, shown = iterated(stop, error)
    assert found == (5 if stop == 5 else None)
    assert kept == [stop] and shown == list(range(1, stop + 1))


def test_an_interrupt_returns_the_position_where_the_run_may_stop():
    at_three = {"may_stop": lambda position: position == 3}
    assert iterated(3, KeyboardInterrupt, **at_three)[:2] == (3, [3])
    assert iterated(2, KeyboardInterrupt, **at_three)[:2] == (None, [2])
    assert iterated(3, ValueError, **at_three)[:2] == (None, [3])
