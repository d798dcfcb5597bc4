"""The loss of tokens with the map to their logits in plain PyTorch, forward and backward, timed.

`eager` is what most people write: logits, then cross_entropy. `formwork` loads our operators into
Python (build/libformwork_kernels.so). Each runs in a process of its own, so that the peak of
resident memory is its own. Prints milliseconds and megabytes as JSON.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from torch.nn import functional


def resident_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=["eager", "formwork"])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=50000)
    parser.add_argument("--rounds", type=int, default=3, help="passes timed")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--library", help="libformwork_kernels.so, for side formwork")
    chosen = parser.parse_args()
    if chosen.side == "formwork" and not chosen.library:
        parser.error("--library is needed for side formwork")
    if chosen.library:
        torch.ops.load_library(chosen.library)
    if chosen.threads > 0:
        torch.set_num_threads(chosen.threads)
    torch.manual_seed(1)
    x = torch.randn(chosen.tokens, chosen.width, requires_grad=True)
    weight = (0.02 * torch.randn(chosen.vocabulary, chosen.width)).requires_grad_()
    target = torch.randint(chosen.vocabulary, (chosen.tokens,))
    before, times = resident_megabytes(), []
    for _ in range(chosen.rounds + 1):
        start = time.perf_counter()
        if chosen.side == "eager":
            loss = functional.cross_entropy(x @ weight.T, target)
        else:
            loss = torch.ops.formwork.projected_cross_entropy(x, weight, None, target, 0.0, 0.0)
            loss = loss / chosen.tokens
        loss.backward()
        times.append(1e3 * (time.perf_counter() - start))
        gradient = weight.grad.norm().item()
        x.grad = weight.grad = None
    print(json.dumps({"side": chosen.side, "threads": torch.get_num_threads(),
                      "parameters": weight.numel(),
                      "loss": loss.item(), "gradient_norm": gradient,
                      "ms": {"median": statistics.median(times[1:]), "least": min(times[1:])},
                      "megabytes": {"before": before, "peak": resident_megabytes(),
                                    "added": resident_megabytes() - before}}))


if __name__ == "__main__":
    main()
