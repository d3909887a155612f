"""Pictures, numbers and reports of units: a folder for each, and all of them together.

A unit whose folder has a report is done, and is not drawn again; until it has
converged its chains go on, if that is asked for.
"""

__all__ = ["draw", "finished", "settings_of", "sizes_of"]

import hashlib
import json
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_tilt import plotting
from keras_tilt.cli.jobs.pictures.judges import Judge, judged, share, shares_of_draws
from keras_tilt.cli.jobs.pictures.unit_chains import Drawing
from keras_tilt.cli.named.units import class_number, readable_sizes
from keras_tilt.units.selection import Unit

# What is known of the network


def sizes_of(
    network: keras.Model,
    labels: Iterable[str],
    wanted: Sequence[float],
    preprocess: str,
) -> list[float]:
    """Return the wanted sizes at which classes can be read, and print if some cannot.

    Args:
        network: of the units.
        labels: of the units; only classes are read at several sizes.
        wanted: sizes of the image, 1 as the network takes it.
        preprocess: of its pixels.
    """
    if all(class_number(label) is None for label in labels):
        return list(wanted)
    found = readable_sizes(network, wanted, preprocess)
    if others := [f"{size:g}" for size in wanted if size not in found]:
        print(
            f"Sizes: classes are read at {' '.join(f'{size:g}' for size in found)} of "
            f"the image alone, as the network does not take {' '.join(others)} of it",
            flush=True,
        )
    return found


def settings_of(
    values: Mapping[str, Any], files: Mapping[str, pathlib.Path | None]
) -> dict[str, str]:
    """Return what samples depend on: values, and what is in the files, as text."""
    digests = {
        f"sha256 of {name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if path
    }
    return digests | {name: str(value) for name, value in sorted(values.items())}


# The units


def draw(
    units: Mapping[str, Unit],
    names: Mapping[int, str],
    drawing: Drawing,
    judges: Mapping[str, Judge],
    settings: Mapping[str, str],
    out: pathlib.Path,
) -> None:
    """Draw unit by unit, numbers first; then one picture and one table of all.

    Args:
        units: by their labels.
        names: of classes, by their numbers.
        drawing: how they are drawn.
        judges: that say what the images are.
        settings: that samples depend on.
        out: the folder.

    Raises:
        SystemExit: that names the units that were left out, since they do not respond.
    """
    found, left_out, overviews = [], [], []
    for label, unit in units.items():
        number = class_number(label)
        name = label if number is None else names.get(number, label)
        try:
            found.append(_drawn(unit, label, name, drawing, judges, settings, out))
        except ValueError as error:  # of one unit: the others may well have samples
            left_out.append(f"{label} is left out. {error}")
            continue
        overviews = _save_overviews(out, found)
    if found:
        print(_table(report for report, _ in found))
        for report, _ in found:
            if report["advice"]:
                print(f"{report['name']}: {report['advice']}")
        print(f"\nPictures: {', '.join(overviews)}, and in the folder of each unit")
        print(f"Numbers:  {out / 'summary.json'}")
    if left_out:
        raise SystemExit("\n".join(left_out))


def _drawn(unit, label, name, drawing, judges, settings, out):
    """Return report and images of one unit: those of before, or new ones."""
    folder = out / label.replace("/", "_").replace(":", "_")
    settings, seconds = {**settings, "unit": label}, 0
    if (folder / "report.json").is_file():
        before = finished(folder, settings)
        if not drawing.until_converged or before[0]["converged"]:
            return before
        seconds = before[0]["seconds"]
    print(f"{label} {name if name != label else ''}".strip(), flush=True)
    start = time.monotonic()
    tilt = drawing.tilt(unit)
    samples = drawing.samples(tilt, folder / "run")
    images = {"samples": np.asarray(samples.images[-1])}
    images |= drawing.compared(tilt, samples)
    report = {
        "unit": label,
        "name": name,
        "settings": settings,
        "scale": tilt.scale,
        "seconds": seconds + round(time.monotonic() - start),
        "f_of_q": drawing.mean_under_q(unit, tilt),
        **_numbers_of(samples),
        "draws": shares_of_draws(samples.images, label, judges),
        "images": {
            method: judged(found, unit, label, judges, drawing.low, drawing.high)
            for method, found in images.items()
        },
    }
    _save(folder, report, images, samples, drawing)
    return report, images["samples"]


def finished(
    folder: pathlib.Path, settings: Mapping[str, str]
) -> tuple[dict[str, Any], np.ndarray]:
    """Return report and images of a unit that is done.

    Raises:
        SystemExit: if they are of other settings.
    """
    report = json.loads((folder / "report.json").read_text())
    if report["settings"] != settings:
        one, other = report["settings"], settings
        names = sorted(k for k in {*one, *other} if one.get(k) != other.get(k))
        raise SystemExit(
            f"Expected a folder of this run. Received: {folder}, which holds one with "
            f"another {', '.join(names)}. Pass another --out."
        )
    with np.load(folder / "numbers.npz") as numbers:
        return report, numbers["images"]


def _numbers_of(samples):
    """Return what a unit's samples are judged by."""
    diagnostics = samples.diagnostics
    return {
        "converged": diagnostics.converged,
        "verdict": diagnostics.verdict,
        "advice": None if diagnostics.advice is None else str(diagnostics.advice),
        "num_draws": diagnostics.num_draws,
        "smallest_ess": diagnostics.smallest_ess,
        "r_hat": diagnostics.r_hat,
        "worst_r_hat": diagnostics.worst_r_hat,
        "ess": diagnostics.ess,
        "accept_rate": diagnostics.accept_rate,
        "step_size": samples.step_size,
        "num_leapfrog_steps": samples.num_leapfrog_steps,
        "f": [float(f) for f in samples.f[-1]],
    }


# Files


def _save(folder, report, images, samples, drawing):
    """Write numbers, then pictures, then the report, which says the unit is done."""
    f = np.concatenate([samples.warmup_f, samples.f])
    rest = dict(images)
    means, last = samples.mean_images, rest.pop("samples")
    np.savez_compressed(folder / "numbers.npz", images=last, means=means, f=f, **rest)
    names = dict.fromkeys([report["name"], report["unit"]])
    title = f"{', '.join(names)}, scale {report['scale']:g}\n{report['verdict']}"
    titles = [
        f"{method} f {value:.4g}"
        for method in images
        for value in report["images"][method]["f"]
    ]
    low, high = drawing.low, drawing.high
    plotting.image_grid(
        np.clip(np.concatenate(list(images.values())), low, high),
        columns=drawing.chains,
        low=low,
        high=high,
        titles=titles,
        title=title,
        inches=2,
    ).savefig(folder / "images.png", dpi=110)
    plotting.trace_plot(
        {report["name"]: f}, num_burnin_steps=len(samples.warmup_f), title=title
    ).savefig(folder / "traces.png", dpi=80)
    _save_means(folder / "means.png", means, title)
    _save_far(folder / "far_apart.png", samples, low, high)
    part = folder / "report.json.part"
    part.write_text(json.dumps(report, indent=1) + "\n")
    part.replace(folder / "report.json")


def _save_means(path, means, title):
    """Draw the mean of the draws of each chain: all alike if they have converged."""
    low, high = float(means.min()), float(means.max())
    plotting.image_grid(
        means,
        columns=len(means),
        low=low,
        high=high if high > low else low + 1.0,
        titles=[f"mean of chain {chain}" for chain in range(len(means))],
        title=title,
        inches=2,
    ).savefig(path, dpi=110)


def _save_far(path, samples, low, high):
    """Draw the two chains that differ most; none if they have converged."""
    advice = samples.diagnostics.advice
    if advice is None:
        path.unlink(missing_ok=True)  # of fewer draws
        return
    plotting.image_grid(
        np.clip(samples.far_images, low, high),
        columns=2,
        low=low,
        high=high,
        titles=[f"chain {chain}" for chain in advice.far_chains],
        title=f"far apart in {advice.worst},\n{advice.meaning}",
        inches=2.5,
    ).savefig(path, dpi=110)


def _save_overviews(out, found):
    """Write a picture of all units of one size, two chains of each, and the reports."""
    reports = [report for report, _ in found]
    (out / "summary.json").write_text(json.dumps(reports, indent=1) + "\n")
    names = []
    for shape in sorted({images.shape[1:] for _, images in found}):
        chosen = [(r, i[:2]) for r, i in found if i.shape[1:] == shape]
        settings = chosen[0][0]["settings"]
        low, high = float(settings["low"]), float(settings["high"])
        titles = [r["name"] if k == 0 else "" for r, i in chosen for k in range(len(i))]
        names.append(str(out / f"overview_{shape[0]}x{shape[1]}.png"))
        plotting.image_grid(
            np.clip(np.concatenate([images for _, images in chosen]), low, high),
            columns=8,
            low=low,
            high=high,
            titles=titles,
        ).savefig(names[-1], dpi=110)
    return names


def _table(reports):
    """Return a line for each unit, the verdict last."""
    lines = [
        "own, judge: share of the images that the network, and the judge, call the "
        "class; top 5: nearly; outside: share of the pixels beyond black or white",
        f"{'unit':<24}{'scale':>8}{'f of q':>8}{'f':>8}{'own':>6}{'judge':>7}"
        f"{'top 5':>7}{'outside':>9}{'R-hat':>7}  verdict",
    ]
    for report in reports:
        start = f"{report['name'][:23]:<24}{report['scale']:8g}{report['f_of_q']:8.1f}"
        end = f"{report['r_hat']:7.2f}  {report['verdict']}"
        for method, of_method in report["images"].items():
            if method != "samples":
                start, end = f"  {method:<38}", ""
            lines.append(start + _columns_of(of_method) + end)
    return "\n".join(lines)


def _columns_of(of_method):
    """Return what the table says of some images."""
    shares = [share(of_method, "own"), share(of_method, "judge")]
    shares.append(share(of_method, "judge", 5))
    own, judge, top = ("-" if s is None else f"{s:.0%}" for s in shares)
    return (
        f"{np.mean(of_method['f']):8.4g}{own:>6}{judge:>7}{top:>7}"
        f"{of_method['outside']:9.1%}"
    )
