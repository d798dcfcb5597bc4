"""The mathematics of Formwork's mixers in plain PyTorch, timed: what a careful user writes.

Whole mixers, linear maps included, forward and backward, float32. Prints milliseconds as JSON.
"""

import argparse
import json
import math
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

EPS = 1e-6


class Maps(nn.Module):
    """Queries, keys and values of each head [B, H, N, K] and the map of the mixed values."""

    def __init__(self, sizes, bias=False, keys=True):
        super().__init__()
        width, self.heads, self.causal = sizes.width, sizes.heads, sizes.causal
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width, bias=bias) if keys else None
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.out_proj = nn.Linear(width, width, bias=bias)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def parts(self, x):
        return self.split(self.q_proj(x)), self.split(self.k_proj(x)), self.split(self.v_proj(x))

    def forward(self, x):
        return self.out_proj(self.mix(*self.parts(x)).transpose(1, 2).flatten(2))


class Softmax(Maps):
    def mix(self, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class Linear(Maps):
    """elu + 1 features; causal sums k vᵀ by cumsum."""

    def mix(self, q, k, v):
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        if not self.causal:
            return (q @ (k.transpose(-2, -1) @ v)) / (q @ k.sum(2).unsqueeze(-1) + EPS)
        sums = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)
        below = (q * k.cumsum(2)).sum(-1, keepdim=True)
        return (q.unsqueeze(-2) @ sums).squeeze(-2) / (below + EPS)


class KernelRpe(Maps):
    """Positive random features and relative positions over all N x N pairs."""

    def __init__(self, sizes):
        super().__init__(sizes, bias=True)
        head_width = sizes.width // sizes.heads
        self.rel_bias = nn.Parameter(torch.zeros(sizes.heads, 2 * sizes.tokens - 1))
        directions, _ = torch.linalg.qr(torch.randn(head_width, head_width))
        lengths = torch.randn(head_width, head_width).norm(dim=1, keepdim=True)
        self.register_buffer("directions", directions.T * lengths)

    def features(self, x):
        x = functional.normalize(x, dim=-1)
        return torch.exp(x @ self.directions.T - 0.5) / math.sqrt(len(self.directions))

    def mix(self, q, k, v):
        n = q.size(2)
        rows = (self.rel_bias - self.rel_bias.amax(1, keepdim=True)).exp()
        pairs = (self.features(q) @ self.features(k).transpose(-2, -1)
                 * rows.unfold(1, n, 1).flip(1))  # entry (i, j) is that of j - i
        if self.causal:
            pairs = pairs.tril()
        return (pairs @ v) / pairs.sum(-1, keepdim=True)


class Inverse(torch.autograd.Function):
    """Newton's iteration with the gradient of the exact inverse."""

    @staticmethod
    def forward(ctx, matrix, start, steps):
        inverse = start * matrix
        for _ in range(steps):
            inverse = 2 * inverse - inverse @ matrix @ inverse
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx, gradient):
        inverse = ctx.saved_tensors[0].transpose(-2, -1)
        return -inverse @ gradient @ inverse, None, None


class Soft(Maps):
    """Gaussian kernel through one landmark for every four tokens."""

    def __init__(self, sizes):
        super().__init__(sizes, bias=True, keys=False)
        width = sizes.width // sizes.heads
        self.pool = nn.Conv1d(width, width, 4, stride=4, bias=False)
        self.pool_norm = nn.LayerNorm(width)
        self.skip = nn.Conv2d(sizes.heads, sizes.heads, (1, 3), padding=(0, 1), groups=sizes.heads,
                              bias=False)

    @staticmethod
    def gaussian(a, b):
        squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1).unsqueeze(-2)
        return (a @ b.transpose(-2, -1) - 0.5 * squares).clamp(max=0).exp()

    def parts(self, x):
        return self.split(self.q_proj(x)), self.split(self.v_proj(x))

    def mix(self, q, v):
        batch, heads, _, width = q.shape
        q = q * width ** -0.25
        pooled = self.pool(q.flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        marks = functional.gelu(self.pool_norm(pooled)).unflatten(0, (batch, heads))
        kernel, within = self.gaussian(q, marks), self.gaussian(marks, marks)
        ridge = 0.01 * torch.eye(within.size(-1))
        start = 1.8 / within.detach().sum(-1, keepdim=True).amax(-2, keepdim=True).square()
        inverse = Inverse.apply(within + ridge, start, 20)
        skip = self.skip(v.permute(0, 3, 1, 2).reshape(batch * width, heads, 1, -1))
        skip = skip.view(batch, width, heads, -1).permute(0, 2, 3, 1)
        return kernel @ (inverse @ (kernel.transpose(-2, -1) @ v)) + skip


class Complexformer(Maps):
    """Pairs of channels as complex numbers, their phases scaled and turned by the position."""

    def __init__(self, sizes):
        super().__init__(sizes)
        pairs = sizes.width // sizes.heads // 2
        self.delta = nn.Parameter(torch.randn(sizes.heads, pairs) / math.sqrt(pairs))
        self.phase_bias = nn.Parameter(torch.zeros(sizes.heads, pairs))
        turns = 10000.0 ** (-torch.arange(pairs) / pairs)
        self.register_buffer("angles", torch.arange(sizes.tokens).unsqueeze(1) * turns)

    def turned(self, x, shift):
        real, imaginary = x.chunk(2, -1)
        size = (real.square() + imaginary.square() + 1e-9).sqrt()
        phase = self.delta.unsqueeze(1) * torch.atan2(imaginary, real) + shift
        return torch.cat([size * phase.cos(), size * phase.sin()], -1)

    def mix(self, q, k, v):
        q = self.turned(q, self.angles + self.phase_bias.unsqueeze(1))
        k = self.turned(k, self.angles)
        return functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=1.0)


class Minimal(nn.Module):
    """One matrix for queries and keys, none for values and output; one head."""

    def __init__(self, sizes):
        super().__init__()
        self.causal = sizes.causal
        self.qk_proj = nn.Linear(sizes.width, sizes.width, bias=False)

    def forward(self, x):
        q, k = self.qk_proj(x).unsqueeze(1), x.unsqueeze(1)
        return functional.scaled_dot_product_attention(q, k, k, is_causal=self.causal).squeeze(1)


class SaturatedAttention(Maps):
    """Equal weights on the largest scores; no gradient to queries and keys."""

    def mix(self, q, k, v):
        with torch.no_grad():
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
            if self.causal:
                future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(future, -math.inf)
            chosen = (scores == scores.amax(-1, keepdim=True)).to(v.dtype)
        return (chosen @ v) / chosen.sum(-1, keepdim=True)


class Local(Maps):
    """Blocks of 64 tokens that see themselves."""

    def mix(self, q, k, v):
        q, k, v = (part.unflatten(2, (-1, 64)).transpose(1, 2).flatten(0, 1) for part in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return mixed.unflatten(0, (self.batch, -1)).transpose(1, 2).flatten(2, 3)

    def forward(self, x):
        self.batch = x.size(0)
        return super().forward(x)


class LocalSliding(Maps):
    """Each token sees 128 to either side (causal: the last 128, itself included), by a mask."""

    def mix(self, q, k, v):
        places = torch.arange(q.size(2))
        apart = places.unsqueeze(1) - places
        near = (apart >= 0) & (apart < 128) if self.causal else apart.abs() <= 128
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=near)


class ConditionedTokens(nn.Module):
    """X + s1 U Vᵀ by the singular value decomposition, differentiated by autograd."""

    def __init__(self, sizes):
        super().__init__()
        del sizes

    def forward(self, x):
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        return x + s[..., :1, None] * (u @ vh)


PEERS = {"softmax": Softmax, "linear": Linear, "kernel_rpe": KernelRpe, "soft": Soft,
         "complexformer": Complexformer, "minimal": Minimal, "local": Local,
         "local_sliding": LocalSliding, "saturated_attention": SaturatedAttention,
         "conditioned_embedded_tokens": ConditionedTokens}


def milliseconds_of_passes(module, sizes, rounds):
    """Forward and backward passes; the first, which is not counted, warms up."""
    x = torch.randn(sizes.batch, sizes.tokens, sizes.width, requires_grad=True)
    gradient = torch.randn(sizes.batch, sizes.tokens, sizes.width)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        module(x).backward(gradient)
        times.append(1e3 * (time.perf_counter() - start))
        x.grad = None
        module.zero_grad(set_to_none=True)
    return times[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mixer", choices=sorted(PEERS))
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="passes timed")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    chosen = parser.parse_args()
    if min(chosen.tokens, chosen.width, chosen.heads, chosen.batch, chosen.rounds) < 1:
        parser.error("sizes and --rounds must be at least 1")
    if chosen.threads > 0:
        torch.set_num_threads(chosen.threads)
    torch.manual_seed(1)
    module = PEERS[chosen.mixer](chosen)
    times = milliseconds_of_passes(module, chosen, chosen.rounds)
    print(json.dumps({"mixer": chosen.mixer, "threads": torch.get_num_threads(),
                      "torch": torch.__version__,
                      "parameters": sum(p.numel() for p in module.parameters()),
                      "ms": {"median": statistics.median(times), "least": min(times)}}))


if __name__ == "__main__":
    main()
