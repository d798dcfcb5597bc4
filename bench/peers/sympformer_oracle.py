"""The oracles of SympFormer (arXiv 2603.16535) in plain eager PyTorch with all N x N weights, timed.

Flow F and force G of both kernels by their closed form, forward and backward, float32; the softmax
kernel causal through the query alone and in both directions, the linear one causal. Prints
milliseconds as JSON.
"""

import argparse
import json
import math
import statistics
import time

import torch


def masked(weights, causal):
    return weights.tril() if causal else weights


def counts(length, causal):
    return torch.arange(1, length + 1).view(-1, 1) if causal else length


def softmax_oracle(x, p, maps, heads, causal):
    """F and G with A = Wq' Wk / (H sqrt(K)) and B = sym(Wv (A + 1e-6)^-1); x, p [B, N, D]."""
    query, key, value = maps
    width = x.size(2)
    a = query.t() @ key / (heads * math.sqrt(width / heads))
    b = torch.linalg.solve(a + 1e-6 * torch.eye(width), value, left=False)
    b = (b + b.t()) / 2
    keys = x @ a.t()
    weights = masked((x @ keys.transpose(1, 2)).clamp(-60, 60).exp(), causal)
    n = counts(x.size(1), causal)
    z = (weights.sum(-1, keepdim=True) / n).clamp_min(1e-8)
    flow = p @ b / z
    pull = weights * (((p * flow).sum(-1, keepdim=True) / z / n + 1) / 2)
    force = pull @ keys
    if not causal:
        force = force + (pull.transpose(1, 2) @ x) @ a
    return flow, force


def linear_oracle(x, p, maps, _, causal):
    """F = K p / n and G = -R (x A') / n + x V'."""
    a, v = maps[:2]
    mapped = x @ a.t()
    n = counts(x.size(1), causal)
    flow = masked(mapped @ x.transpose(1, 2), causal) @ p / n
    return flow, x @ v.t() - masked(p @ p.transpose(1, 2), causal) @ mapped / n


ORACLES = {"softmax_causal": (softmax_oracle, True), "softmax": (softmax_oracle, False),
           "linear_causal": (linear_oracle, True)}


def milliseconds(oracle, causal, chosen):
    """One forward and backward pass, several times."""
    shape = chosen.batch, chosen.length, chosen.width
    x = torch.nn.functional.layer_norm(torch.randn(shape), shape[2:]).requires_grad_(True)
    p = torch.randn(shape).requires_grad_(True)
    maps = [(torch.randn(chosen.width, chosen.width) / math.sqrt(chosen.width)).requires_grad_(True)
            for _ in range(3)]
    seconds = []
    for _ in range(chosen.warm_up + chosen.rounds):
        start = time.perf_counter()
        flow, force = oracle(x, p, maps, chosen.heads, causal)
        (flow.sum() + force.sum()).backward()
        seconds.append(time.perf_counter() - start)
    return [1000 * each for each in seconds[chosen.warm_up:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    chosen = parser.parse_args()
    if chosen.threads > 0:
        torch.set_num_threads(chosen.threads)
    torch.manual_seed(1)
    for name, (oracle, causal) in ORACLES.items():
        each = milliseconds(oracle, causal, chosen)
        print(json.dumps({"oracle": name, "batch": chosen.batch, "length": chosen.length,
                          "width": chosen.width, "threads": torch.get_num_threads(),
                          "torch": torch.__version__, "best_ms": round(min(each), 3),
                          "median_ms": round(statistics.median(each), 3)}))


if __name__ == "__main__":
    main()
