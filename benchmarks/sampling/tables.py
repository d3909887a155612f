"""Results as text."""

import numpy as np
from picture import LAG

TOO_LONG = 0.8  # effective samples per draw


def table(case, result):
    """The result of one case as text."""
    lines = {
        "cost lenet": cost_lines,
        "cost squeezenet": cost_lines,
        "ess weak": ess_lines,
        "ess lenet": ess_lines,
        "pixels quadratic": pixels_lines,
        "smc lenet": smc_lines,
        "smc picture": smc_lines,
        "microcanonical lenet": microcanonical_lines,
        "microcanonical picture": trajectory_lines,
        "blackjax lenet": blackjax_lines,
    }.get(case, picture_lines)(result)
    return "\n".join([case, *(f"  {line}" for line in lines)])


def ratio_line(name, ratio, what):
    """Value and standard error."""
    error = ratio["standard_error"]
    return f"{name:28}{ratio['value']:9.3f} +- {error:.3f} {what}".rstrip()


def run_line(name, run):
    """Settings of a run, and what it is worth."""
    mark = ", longer than need be" if run["ess_per_draw"] > TOO_LONG else ""
    return (
        f"{name:28}{run['num_steps']:3.0f} steps of {run['step_size']:.4f}, accepted "
        f"{run['accept_rate']:4.0%}, R-hat {run['r_hat']:.3f}, ESS per draw "
        f"{run['ess_per_draw']:.3f}, per 1000 gradients "
        f"{run['ess_per_1000_gradients']:.2f}{mark}"
    )


def cost_lines(result):
    for name, milliseconds in result["milliseconds_per_gradient"].items():
        yield f"{name:28}{milliseconds:9.2f} ms a gradient"
    for name, ratio in result["time_over_bare"].items():
        low, high = ratio["quartiles"]
        yield ratio_line(f"{name} / bare", ratio, f"time ({low:.3f} to {high:.3f})")


def ess_lines(result):
    for name, runs in result["first_pass"].items():
        for run in runs:
            yield run_line(f"{name}{_settings(run)}", run)
    for name, run in result["best"].items():
        yield run_line(f"best {name}{_settings(run)}", run)
    for name, ratio in result["ess_per_gradient"].items():
        yield ratio_line(name, ratio, "ESS per gradient")


def _settings(run):
    kept = run["momentum_persistence"]
    aimed = f" for {run['target_accept_prob']:.0%}"
    return aimed + (f", kept {kept:g}" if kept else "")


def picture_lines(result):
    burnin = " ".join(f"{f:.2f}" for f in result["burnin_mean_f_by_eighths"])
    yield f"scale {result['scale']:g}"
    yield f"mean f in the eighths of the burn-in: {burnin}"
    for name, run in result["variants"].items():
        one, other = run["mean_f_of_halves"]
        yield (
            f"{name:34} step {run['step_size']:.4f}, accepted {run['accept_rate']:4.0%}"
            f", mean f {one:.2f} then {other:.2f}"
        )
        yield (
            f"  per 1000 gradients: ESS {np.mean(run['ess_per_1000_gradients']):.2f}, "
            f"of thumbnails {np.mean(run['ess_of_small_per_1000_gradients']):.2f}; "
            f"squared change over {LAG} gradients: f {np.mean(run['moved_of_f']):.4g}, "
            f"thumbnails {np.mean(run['moved_of_small']):.4g}"
        )
    for measure, ratios in result["ratios"].items():
        yield f"{measure}: {' / '.join(result['best'][measure].values())}"
        for pair, ratio in ratios.items():
            yield ratio_line(f"  {pair}", ratio, "")


def pixels_lines(result):
    for length, of_kernel in result["steps"].items():
        for runs in zip(*of_kernel.values(), strict=True):
            yield f"{length:14}{runs[0]['pixels']:9d} pixels" + "".join(
                f"  {kernel} {run['num_steps']:2d} steps of {run['step_size']:.4f}, "
                f"accepted {run['accept_rate']:4.0%}"
                for kernel, run in zip(of_kernel, runs, strict=True)
            )
    for length, slopes in result["slopes"].items():
        for kernel, found in slopes.items():
            yield ratio_line(f"{length}, {kernel}", found, "slope of log step")


def smc_lines(result):
    for name, run in result.items():
        yield (
            f"{name:10} {run['stages']:.0f} stages, {run['gradients']:.0f} gradients, "
            f"mean f {run['mean_f']:.2f} +- {run['error_of_mean_f']:.2f}, log Z "
            f"{run['log_z']:.1f}, sd {run['sd_of_log_z']:.1f}, first particles with "
            f"descendants {run['ancestors']:.1f}, ESS {run['ess']:.1f}, per 1000 "
            f"gradients {run['ess_per_1000_gradients']:.1f}"
        )


def microcanonical_lines(result):
    for name, found in result.items():
        yield f"{name}:"
        for kernel in ("split", "isokinetic"):
            yield run_line(f"  {kernel}", found[kernel])
        yield ratio_line("  ratio", found["isokinetic / split"], "ESS per gradient")


def trajectory_lines(result):
    for name, run in result.items():
        yield (
            f"{name}: energy error {run['rms_energy_error']:.3g} nats rms, isokinetic "
            f"{run['rms_energy_error_isokinetic']:.3g}, of their difference "
            f"{run['rms_difference']:.3g}; ends apart by {run['ends_apart']:.2%} of "
            "the way"
        )


def blackjax_lines(result):
    yield f"f differs by {result['largest_relative_error_of_f']:.1g}, relatively"
    for name, run in result["best"].items():
        yield run_line(name, run)
        yield (
            f"  {run['milliseconds_per_gradient']:.2f} ms a gradient, "
            f"ESS per second {run['ess_per_second']:.1f}"
        )
    for name, ratios in result["ratios"].items():
        yield ratio_line(name, ratios["ess_per_second"], "ESS per second")
        yield ratio_line(name, ratios["milliseconds_per_gradient"], "time per gradient")
    yield f"best of BlackJAX's: {result['best_of_blackjax']}"
