"""A comparison's summary as `compare` writes it, with every kind of variant that a page must show."""

import math
import random

STEPS = 2000
HOSTILE = "</script><b>bold"
KINDS = {  # name: (set, loss at the end, accuracy, tokens a second, seconds of delay in learning)
    "pre": ({}, 1.207, 0.5482, 41_200, 300),
    "pre-rms": ({"model.norm.kind": "rms_norm"}, 1.204, 0.5493, 44_900, 300),
    "peri": ({"model.wiring.kind": "peri"}, 1.168, 0.5661, 36_100, 240),
    "sandwich": ({"model.wiring.kind": "sandwich", "model.norm.kind": "layer_norm"}, 1.182, 0.5588, 36_600, 260),
    "local": ({"model.mixer": {"kind": "local", "window": 32}}, 1.251, 0.5301, 58_700, 320),
}


def spread(values):
    mean = sum(values) / len(values)
    return {"mean": mean, "values": values, "deviation": math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))}


def curve(end, delay, rate, noise, points=80):
    random.seed(int(1e6 * end))
    steps = [round((i + 1) * STEPS / points) for i in range(points)]
    mean = [end + (2.3 - end) * math.exp(-s / delay) + noise * random.gauss(0, 1) for s in steps]
    width = [noise * (1.5 + random.random()) + 0.06 * math.exp(-s / 400) for s in steps]
    return {"step": steps, "tokens": [16_384 * s for s in steps],
            "seconds": [16_384 * s / rate for s in steps], "mean": mean,
            "low": [m - w for m, w in zip(mean, width)], "high": [m + w for m, w in zip(mean, width)]}


def finished(name):
    changes, loss, accuracy, rate, delay = KINDS[name]
    random.seed(name)
    losses = [loss + random.gauss(0, 0.006) for _ in range(3)]
    hits = [accuracy + random.gauss(0, 0.004) for _ in range(3)]
    seconds = 16_384 * STEPS / rate
    variant = {
        "name": name, "baseline": name == "pre", "set": changes,
        "recipe_difference": [{"key": "model.norm.eps", "baseline": 1e-5, "variant": None}] if name == "pre-rms" else [], "status": "done", "failure": None,
        "runs": [{"seed": seed, "folder": f"runs/norms/{name}-{seed}", "status": "done", "failure": None,
                  "metric": hits[seed - 1], "loss": losses[seed - 1], "seconds": seconds * (1 + 0.01 * seed),
                  "tokens": 16_384 * STEPS, "spikes": 2 if name == "local" and seed == 2 else 0,
                  "largest_gradient_norm": 3.1 + random.random()} for seed in (1, 2, 3)],
        "metric": spread(hits), "loss": spread(losses),
        "parameters": 812_426 + 512 * len(name), "flops_per_token": 4.93e6 - 6e5 * (name == "local") + 2e4 * len(changes),
        "tokens_per_second": rate, "peak_memory_bytes": 412_000_000 + 9_000_000 * len(name),
        "latency_ms": {"batch_1": 151_000 / rate, "training_batch": 1.6e6 / rate},
        "to_baseline_loss": {"seconds": 0.8 * seconds, "tokens": 0.8 * 16_384 * STEPS} if loss < 1.21 else None,
        "curve": curve(loss - 0.05, delay, rate, 0.012), "validation_curve": curve(loss, delay, rate, 0.004, 10),
        "metric_curve": curve(accuracy, delay, rate, 0.004, 10),
        "probes": {
            "activation_variance": {"step": [500, 1000, 2000], "layers": [
                [(1 + layer * (0.9 if name == "pre" else 0.13 + 0.02 * len(name))) * (1 + s / 2000) for layer in range(6)]
                for s in (500, 1000, 2000)]},
            "attention_entropy": {"step": [500, 1000, 2000], "layers": [
                [4.1 - 0.3 * layer - s / 1500 + 0.1 * len(name) for layer in range(6)] for s in (500, 1000, 2000)]}},
    }
    if name != "pre":
        better = {"metric": accuracy > 0.5482 + 0.005, "loss": loss < 1.2}
        variant["against_baseline"] = {
            part: {"difference": variant[part]["mean"] - base, "p": 0.012 if told else 0.41,
                   "smallest_detectable": size,
                   "pairs": 3, "verdict": "better" if told else "no difference seen"}
            for part, base, told, size in (("metric", 0.5482, better["metric"], 0.0061),
                                           ("loss", 1.207, better["loss"], 0.0144))}
    if name == "local":
        variant["against_baseline"]["metric"].update(p=0.004, verdict="worse")
        variant["against_baseline"]["loss"].update(p=0.007, verdict="worse")
    return variant


def unfinished(name, status, failure, changes):
    runs = [{"seed": seed, "folder": f"runs/norms/odd-{seed}", "status": status, "failure": failure}
            for seed in (1, 2, 3)]
    variant = {"name": name, "baseline": False, "set": changes, "status": status, "failure": failure, "runs": runs}
    if status == "diverged":
        runs[0].update(seconds=212.5, tokens=4_915_200, spikes=7, largest_gradient_norm=8.4e4)
        runs[1].update(status="done", failure=None, metric=0.171, loss=2.196, seconds=790.0)
        variant.update(parameters=812_426, flops_per_token=4.93e6, tokens_per_second=41_000,
                       curve=curve(1.9, 500, 41_000, 0.02, 24),
                       metric={"mean": 0.171, "deviation": None, "values": [None, 0.171, None]},
                       loss={"mean": 2.196, "deviation": None, "values": [None, 2.196, None]})
    return variant


def summary():
    return {
        "recipe": "recipes/norms.toml", "date": "2026-05-04T10:11:12+0000",
        "command": "formwork compare recipes/norms.toml --seeds 3 --jobs 2 --out runs/norms",
        "machine": {"processor": "AMD EPYC 9R14", "cores": 2, "threads": 1, "memory_bytes": 16_500_000_000,
                    "system": "Debian GNU/Linux 12 (Linux 6.1.0 x86_64)", "libtorch": "2.13.0",
                    "compiler": "GNU 12.2.0", "formwork": "0.1.0", "commit": "0123456789ab"},
        "complete": False, "jobs": 2, "threads_per_job": 1, "equal": "steps", "budget": STEPS, "metric": {"name": "accuracy", "higher_is_better": True},
        "seeds": [1, 2, 3], "baseline_recipe": "[task]\nkind = \"listops\"\n\n[model]\nwidth = 128\n",
        "variants": [*map(finished, KINDS),
                     unfinished("post", "diverged", "seed 1: the loss became NaN at step 300; try a smaller optimizer.lr",
                                {"model.wiring.kind": "post"}),
                     unfinished("wide", "failed", "model.heads: found 5, which does not divide model.width = 128",
                                {"model.heads": 5}),
                     unfinished(HOSTILE, "running", None, {"task.note": "<img src=x onerror=alert(1)>"}),
                     unfinished("b2t", "missing", None, {"model.wiring.kind": "b2t"})],
    }
