"""The same trainings with the models built by x-transformers, timed.

As near to recipes/bench-listops.toml and bench-characters.toml as its options go: its layer norms
have no bias, and neither has its head. Prints what pytorch_eager.py prints.
"""

from pytorch_eager import parser_of, time_training
from torch import nn
from x_transformers import Decoder, Encoder, TransformerWrapper


class Model(nn.Module):
    """tokens [B, N] -> logits, as in pytorch_eager.py."""

    def __init__(self, sizes):
        super().__init__()
        self.decoder = sizes["decoder"]
        layers = (Decoder if self.decoder else Encoder)(
            dim=sizes["width"], depth=sizes["depth"], heads=sizes["heads"],
            attn_dim_head=sizes["width"] // sizes["heads"], attn_flash=True)
        self.wrapper = TransformerWrapper(
            num_tokens=sizes["vocabulary"], max_seq_len=sizes["length"],
            logits_dim=sizes["outputs"], average_pool_embed=not self.decoder, attn_layers=layers)

    def forward(self, tokens, valid):
        return self.wrapper(tokens) if self.decoder else self.wrapper(tokens, mask=valid)


if __name__ == "__main__":
    time_training(Model, parser_of(__doc__))
