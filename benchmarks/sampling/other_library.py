"""Effective samples of f per second beside BlackJAX."""

import functools

import keras_tilt as kt
import numpy as np

from networks import DIGIT, digit_tilt, trained_lenet
from rounds import in_turns, ratio_of, timed
from runs import ACCEPT, Run, best_of, chains_of, mean_of, scan, worth


def beside_blackjax(
    num_chains, num_gradients, num_burnin_steps, rounds, steps, kept, targets, seed
):
    """Effective samples of f per second, each sampler at its best number of steps.

    All start from one state near equilibrium and adapt there: ours the step, to 80 %
    acceptance, or with momenta kept to that of `kept`, (share, acceptance); BlackJAX's
    HMC step and diagonal mass by its window adaptation, or the step alone (mass 1), to
    80 %; its Metropolis-adjusted microcanonical dynamics (MCLMC), with lengths that
    vary, by its own adaptation to `targets`, with the integrators of one and of two
    gradients a step.
    """
    jax, blackjax = imported_blackjax()
    tilt = digit_tilt(trained_lenet())
    noise = kt.sample(
        tilt, num_chains, 10, num_burnin_steps, seed=seed, progress=False
    ).noise[-1]
    f_in_jax = lenet_in_jax(jax, tilt.unit.terms[0][0].network, DIGIT)
    error = check_same_f(jax.vmap(f_in_jax)(noise), tilt.response(noise))
    samplers = samplers_of(tilt, f_in_jax, kept, targets)

    def adapted(name, num_steps):
        run = samplers[name](noise, num_steps, 0.1, seed)
        run.adapt(num_burnin_steps)
        return run

    first_pass = {
        name: scan(
            name, steps, lambda n, name=name: judged(adapted(name, n), num_gradients)
        )
        for name in samplers
    }
    runs = {
        name: adapted(name, best_of(found, "ess_per_second")["num_steps"])
        for name, found in first_pass.items()
    }
    by_round = {name: [] for name in runs}
    for _, name in in_turns(runs, rounds, "rounds"):
        by_round[name].append(judged(runs[name], num_gradients))
    return {
        "jax": jax.__version__,
        "blackjax": blackjax.__version__,
        "largest_relative_error_of_f": error,
        "first_pass": first_pass,
    } | compared(by_round)


def samplers_of(tilt, f_in_jax, kept, targets):
    """Ours and BlackJAX's by name: noise, steps, step size, seed -> a run."""
    samplers = {
        "blackjax": functools.partial(BlackjaxRun, f_in_jax, True),
        "blackjax, mass 1": functools.partial(BlackjaxRun, f_in_jax, False),
        "hmc": functools.partial(Run, chains_of(tilt, "hmc"), 1.0),
        "split": functools.partial(Run, chains_of(tilt, "split"), 1.0),
        "kept": functools.partial(
            Run, chains_of(tilt, "split"), 1.0, kept=kept[0], accept=kept[1]
        ),
    }
    for integrator, gradients in (("velocity_verlet", 1), ("mclachlan", 2)):
        for target in targets:
            name = f"blackjax, adjusted MCLMC, {integrator}, {target:.0%}"
            how = f_in_jax, integrator, gradients, target
            samplers[name] = functools.partial(MicrocanonicalRun, *how)
    return samplers


def compared(by_round):
    """Means of each sampler over the rounds, and ratios of pairs of them."""
    best = {name: mean_of(found) for name, found in by_round.items()}
    others = [name for name in by_round if name.startswith("blackjax")]
    pairs = [(one, other) for one in ("kept", "split", "hmc") for other in others]
    pairs += [("split", "hmc"), ("kept", "hmc")]
    numbers = ("ess_per_second", "milliseconds_per_gradient")
    return {
        "best": best,
        "best_of_blackjax": max(others, key=lambda name: best[name]["ess_per_second"]),
        "ratios": {
            f"{one} / {other}": {
                number: ratio_of(by_round, one, other, number) for number in numbers
            }
            for one, other in pairs
        },
    }


def imported_blackjax():
    """JAX and BlackJAX, or how to get them."""
    try:
        import blackjax
        import jax
    except ImportError as error:
        raise SystemExit(
            f"Expected BlackJAX, for --parts blackjax. Received: {error}. Make an "
            "environment of its own: python -m venv BLACKJAX && BLACKJAX/bin/pip "
            "install -e . blackjax, and run the part with BLACKJAX/bin/python."
        ) from error
    return jax, blackjax


def lenet_in_jax(jax, network, class_index):
    """The same logit by the same weights: image [height, width, channels] -> []."""
    jnp = jax.numpy
    weights = {
        layer.name: [jnp.asarray(w) for w in layer.get_weights()]
        for layer in network.layers
    }

    # As a matrix product of patches, and by a reshape: inside of a loop the gradients
    # of XLA's own convolution and pooling take eight times as long on a CPU.
    def convolution(x, kernel, bias):
        rows, columns = kernel.shape[:2]
        height, width = x.shape[0] - rows + 1, x.shape[1] - columns + 1
        patches = [
            x[i : i + height, j : j + width]
            for i in range(rows)
            for j in range(columns)
        ]
        flat = kernel.reshape(-1, kernel.shape[-1])
        return jnp.concatenate(patches, axis=-1) @ flat + bias

    def max_pool(x):
        height, width, channels = x.shape
        x = x.reshape(height // 2, 2, width // 2, 2, channels)
        return x.max(axis=(1, 3))

    def f(image):
        x = max_pool(convolution(image, *weights["conv1"]))
        x = max_pool(convolution(x, *weights["conv2"]))
        kernel, bias = weights["ip1"]
        x = jax.nn.relu(x.reshape(-1) @ kernel + bias)
        kernel, bias = weights["ip2"]
        return x @ kernel[:, class_index] + bias[class_index]

    return f


def check_same_f(one, other):
    """The largest relative difference, which must be rounding."""
    one, other = np.asarray(one), np.asarray(other)
    error = np.max(np.abs(one - other) / np.maximum(1.0, np.abs(other)))
    if not error <= 1e-4:
        raise SystemExit(
            "Expected f to be the same in JAX and in TensorFlow, to 1e-4. Received: "
            f"{one[:4]} and {other[:4]}. Compare the layers."
        )
    return error


class BlackjaxRun:
    """BlackJAX's HMC behind the methods of `Run`, compiled with its loop over draws."""

    chunk = 10  # draws

    def __init__(self, f, adapts_mass, noise, num_steps, step_size, seed):
        self.jax, blackjax = imported_blackjax()
        self.num_steps, self.step_size = num_steps, step_size
        self.noise, self.key = noise, self.jax.random.key(seed)
        kernel = blackjax.hmc.build_kernel()

        def log_prob(noise):
            return f(noise) - (noise**2).sum() / 2

        def warm_up(key, noise, iterations):
            adaptation = blackjax.window_adaptation(
                blackjax.hmc,
                log_prob,
                imm_shrinkage_to_previous=0.0 if adapts_mass else 1e9,
                initial_step_size=step_size,
                target_acceptance_rate=ACCEPT,
                num_integration_steps=num_steps,
            )
            (state, found), _ = adaptation.run(key, noise, iterations)
            return state, (found["step_size"], found["inverse_mass_matrix"])

        def iterate(key, state, step_size, inverse_mass):
            parameters = step_size, inverse_mass, num_steps
            state, info = kernel(key, state, log_prob, *parameters)
            f = state.logdensity + (state.position**2).sum() / 2
            return state, (f, info.is_accepted)

        def loop(keys, state, parameters):
            def one_draw(state, keys):
                return self.jax.vmap(iterate)(keys, state, *parameters)

            return self.jax.lax.scan(one_draw, state, keys)

        of_chains = self.jax.vmap(warm_up, in_axes=(0, 0, None))
        self.warm_up = self.jax.jit(of_chains, static_argnums=2)
        self.loop = self.jax.jit(loop)

    def keys(self, *shape):
        """Keys that were not used before."""
        self.key, key = self.jax.random.split(self.key)
        return self.jax.random.split(key, shape)

    def adapt(self, iterations):
        """Step and mass, of every chain on its own."""
        keys = self.keys(len(self.noise))
        self.state, self.parameters = self.warm_up(keys, self.noise, iterations)
        self.step_size = float(self.parameters[0].mean())
        self.draws(self.chunk)  # compiles

    def draws(self, num_draws):
        """f [num_draws, num_chains], and the share of proposals that was accepted."""
        chunks = []
        for _ in range(num_draws // self.chunk):
            keys = self.keys(self.chunk, len(self.noise))
            self.state, numbers = self.loop(keys, self.state, self.parameters)
            chunks.append([np.asarray(values) for values in numbers])
        f, is_accepted = (
            np.concatenate(values) for values in zip(*chunks, strict=True)
        )
        return f, is_accepted.mean()


class MicrocanonicalRun(BlackjaxRun):
    """BlackJAX's adjusted MCLMC, of trajectories of random length, adapted by itself.

    `num_steps` are gradients, on average; those of a step are `gradients`.
    """

    def __init__(
        self, f, integrator, gradients, target, noise, num_steps, step_size, seed
    ):
        self.jax, blackjax = imported_blackjax()
        self.num_steps, self.step_size = num_steps, step_size
        self.noise, self.key = noise, self.jax.random.key(seed)
        self.length = max(1.2, num_steps / gradients)  # less is not reached
        self.dynamics = dynamics = blackjax.mcmc.adjusted_mclmc_dynamic
        self.kernel = dynamics.build_kernel(
            dynamics.make_random_trajectory_length_fn(True),
            getattr(blackjax.mcmc.integrators, f"isokinetic_{integrator}"),
        )
        self.log_prob = lambda noise: f(noise) - (noise**2).sum() / 2
        adapt = functools.partial(self.adapted, blackjax, target)
        of_chains = self.jax.vmap(adapt, in_axes=(0, 0, None))
        self.warm_up = self.jax.jit(of_chains, static_argnums=2)
        self.loop = self.jax.jit(self.looped)

    def adapted(self, blackjax, target, key, noise, iterations):
        """The state after a warm-up of a chain, its step size and steps."""
        first, random = self.jax.random.split(key)
        state, found, _ = blackjax.adjusted_mclmc_find_L_and_step_size(
            lambda rng_key, state, logdensity_fn, step_size, **others: self.kernel(
                rng_key, state, logdensity_fn, step_size, **others
            ),
            self.log_prob,
            iterations * 5,  # of which it takes a fifth
            self.dynamics.init(noise, self.log_prob, random),
            first,
            target,
            diagonal_preconditioning=False,
            target_num_integration_steps=self.length,
        )
        return state, (found.step_size, found.L / found.step_size)

    def looped(self, keys, state, parameters):
        """Draws of all chains, f and whether they were accepted."""

        def iterate(key, state, step_size, length):
            state, info = self.kernel(
                key, state, self.log_prob, step_size, integration_steps_params=(length,)
            )
            f = state.logdensity + (state.position**2).sum() / 2
            return state, (f, info.is_accepted)

        def one_draw(state, keys):
            return self.jax.vmap(iterate)(keys, state, *parameters)

        return self.jax.lax.scan(one_draw, state, keys)


def judged(run, num_gradients):
    """What some draws of an adapted run are worth, and the time they take."""
    num_draws = max(10, num_gradients // run.num_steps // 10 * 10)
    seconds, (f, accept_rate) = timed(run.draws, num_draws)
    found = worth(f, run.num_steps, run.step_size, accept_rate)
    return found | {
        "milliseconds_per_gradient": 1e3 * seconds / (num_draws * run.num_steps),
        "ess_per_second": found["ess_per_draw"] * f.size / seconds,
    }
