"""The models of recipes/bench-listops.toml and bench-characters.toml in plain PyTorch, timed.

What a careful user writes: scaled-dot-product attention, layer norm before each sublayer, learned
positions, a GELU MLP of 4 D, fused AdamW, gradients clipped to norm 1. Eager and in float32, or
with torch.compile, or with bfloat16 by autocast. Prints tokens a second and the peak of resident
memory as JSON.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

# Sizes of the recipes of the same names. `valid`: fewest and most tokens that are no padding.
MODELS = {
    "listops": {"batch": 32, "length": 512, "width": 128, "depth": 4, "heads": 4, "vocabulary": 17,
                "outputs": 10, "decoder": False, "valid": (128, 512)},
    "characters": {"batch": 16, "length": 256, "width": 384, "depth": 6, "heads": 6,
                   "vocabulary": 65, "outputs": 65, "decoder": True, "valid": (256, 256)},
}


class Block(nn.Module):
    """Attention and MLP, each added to what comes in. x [B, N, D] -> [B, N, D]."""

    def __init__(self, width, heads, decoder):
        super().__init__()
        self.heads, self.decoder = heads, decoder
        self.mixer_norm, self.channel_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x, mask):
        batch, length, width = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask,
                                                        is_causal=self.decoder)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x, mask):
        x = x + self.attend(self.mixer_norm(x), mask)
        return x + self.down(functional.gelu(self.up(self.channel_norm(x))))


class Transformer(nn.Module):
    """tokens [B, N] -> logits [B, N, outputs] of a decoder, [B, outputs] of an encoder."""

    def __init__(self, sizes):
        super().__init__()
        width = sizes["width"]
        self.decoder = sizes["decoder"]
        self.embedding = nn.Embedding(sizes["vocabulary"], width)
        self.position = nn.Embedding(sizes["length"], width)
        self.blocks = nn.ModuleList(Block(width, sizes["heads"], self.decoder)
                                    for _ in range(sizes["depth"]))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sizes["outputs"], bias=not self.decoder)

    def forward(self, tokens, valid):
        x = self.embedding(tokens) + self.position.weight[:tokens.size(1)]
        mask = None if self.decoder else valid[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        if not self.decoder:  # the mean over the tokens that are there
            weight = valid.unsqueeze(-1).to(x.dtype)
            x = (x * weight).sum(1) / weight.sum(1)
        return self.head(x)


def random_batch(sizes):
    """Tokens [B, N], which of them are valid [B, N], and targets: made before the clock starts."""
    shape = sizes["batch"], sizes["length"]
    tokens = torch.randint(sizes["vocabulary"], shape)
    low, high = sizes["valid"]
    lengths = torch.randint(low, high + 1, (shape[0], 1))
    valid = torch.arange(shape[1]) < lengths
    targets = torch.randint(sizes["outputs"], shape if sizes["decoder"] else shape[:1])
    return tokens, valid, targets


def seconds_of_steps(model, sizes, chosen):
    """Trains and returns the seconds that each step after the first ones took. `model`: tokens and
    which are valid -> logits."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    batches = [random_batch(sizes) for _ in range(chosen.warm_up + chosen.steps)]
    run = torch.compile(model) if getattr(chosen, "compile", False) else model
    seconds = []
    for tokens, valid, targets in batches:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=chosen.type == "bfloat16"):
            logits = run(tokens, valid)
            loss = functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # as a loop that shows its loss does
        seconds.append(time.perf_counter() - start)
    return seconds[chosen.warm_up:]


def parser_of(description):
    """Options that every training here has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("--type", choices=["float32", "bfloat16"], default="float32",
                        help="bfloat16: by autocast")
    parser.add_argument("--vocabulary", type=int, default=0,
                        help="characters: token ids; 0: as the recipe has")
    parser.add_argument("--steps", type=int, default=10, help="steps timed")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before, not timed")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    return parser


def time_training(make, parser):
    """Reads the options, trains what `make` makes of the model's sizes, and prints the figures."""
    chosen = parser.parse_args()
    if chosen.steps < 1 or chosen.warm_up < 0 or chosen.vocabulary < 0:
        parser.error("--steps must be at least 1, --warm-up and --vocabulary at least 0")
    if chosen.threads > 0:
        torch.set_num_threads(chosen.threads)
    torch.manual_seed(1)
    sizes = dict(MODELS[chosen.model])
    if chosen.vocabulary > 0:
        if not sizes["decoder"]:
            parser.error("--vocabulary is valid for characters only")
        sizes["vocabulary"] = sizes["outputs"] = chosen.vocabulary
    model = make(sizes)
    rates = [sizes["batch"] * sizes["length"] / each
             for each in seconds_of_steps(model, sizes, chosen)]
    print(json.dumps({"model": chosen.model, "type": chosen.type,
                      "parameters": sum(p.numel() for p in model.parameters()),
                      "steps": chosen.steps,
                      "threads": torch.get_num_threads(), "torch": torch.__version__,
                      "tokens_per_second": {"best": max(rates),
                                            "median": statistics.median(rates),
                                            "worst": min(rates)},
                      "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--compile", action="store_true", help="by torch.compile")
    time_training(Transformer, parser)


if __name__ == "__main__":
    main()
