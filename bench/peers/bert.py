"""The model of recipes/bench-bert.toml in plain PyTorch and in Hugging Face transformers.

BERT-base's shape (Devlin et al. 2018, arXiv 1810.04805) without the vector of the sentence: tokens
and learned positions, a norm, 12 layers with the norm behind each sublayer, and one linear map of
the tokens' mean to 10 classes. Both can take the weights that `formwork bench infer --save` writes.
"""

import pathlib

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

WIDTH, DEPTH, HEADS, VOCABULARY, LENGTH, CLASSES = 768, 12, 12, 30522, 512, 10


class Layer(nn.Module):
    """x [B, N, D] -> [B, N, D]; one product makes queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.mixer_norm, self.channel_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x):
        batch, length, _ = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = self.mixer_norm(x + self.output(mixed.transpose(1, 2).reshape(batch, length, WIDTH)))
        return self.channel_norm(x + self.down(functional.gelu(self.up(x))))


class Bert(nn.Module):
    """tokens [B, N] -> [B, CLASSES]."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens):
        x = self.norm(self.embedding(tokens) + self.position.weight[:tokens.size(1)])
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))

    @staticmethod
    def named(ours):
        """Our tensors by the names of this class."""
        named = {"embedding.weight": ours["stem.weight"], "position.weight": ours["position.weight"]}
        for kind in ("weight", "bias"):
            named[f"norm.{kind}"] = ours[f"embed_norm.{kind}"]
            named[f"head.{kind}"] = ours[f"head.{kind}"]
            for i in range(DEPTH):
                here, there = f"layers.{i}", f"layers.{i}"
                named[f"{here}.query_key_value.{kind}"] = torch.cat(
                    [ours[f"{there}.{part}_proj.{kind}"] for part in "qkv"])
                named[f"{here}.output.{kind}"] = ours[f"{there}.out_proj.{kind}"]
                for part in ("up", "down"):
                    named[f"{here}.{part}.{kind}"] = ours[f"{there}.ffn.{part}.{kind}"]
                named[f"{here}.mixer_norm.{kind}"] = ours[f"{there}.attn.norm_res.{kind}"]
                named[f"{here}.channel_norm.{kind}"] = ours[f"{there}.ffn.norm_res.{kind}"]
        return named


class HuggingFaceBert(nn.Module):
    """BertModel without its pooler, and the same head. Its table of sentence kinds, which ours
    lacks, has one row, 0."""

    def __init__(self):
        super().__init__()
        import transformers

        config = transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=DEPTH,
            num_attention_heads=HEADS, intermediate_size=4 * WIDTH, type_vocab_size=1,
            max_position_embeddings=LENGTH, layer_norm_eps=1e-5, attn_implementation="sdpa")
        self.bert = transformers.BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens):
        return self.head(self.bert(input_ids=tokens).last_hidden_state.mean(1))

    @staticmethod
    def named(ours):
        """Our tensors by the names of this class."""
        named = {"bert.embeddings.word_embeddings.weight": ours["stem.weight"],
                 "bert.embeddings.position_embeddings.weight": ours["position.weight"],
                 "bert.embeddings.token_type_embeddings.weight": torch.zeros(1, WIDTH)}
        parts = {"attention.self.query": "q_proj", "attention.self.key": "k_proj",
                 "attention.self.value": "v_proj", "attention.output.dense": "out_proj",
                 "attention.output.LayerNorm": "attn.norm_res", "intermediate.dense": "ffn.up",
                 "output.dense": "ffn.down", "output.LayerNorm": "ffn.norm_res"}
        for kind in ("weight", "bias"):
            named[f"bert.embeddings.LayerNorm.{kind}"] = ours[f"embed_norm.{kind}"]
            named[f"head.{kind}"] = ours[f"head.{kind}"]
            for i in range(DEPTH):
                for theirs, name in parts.items():
                    named[f"bert.encoder.layer.{i}.{theirs}.{kind}"] = ours[f"layers.{i}.{name}.{kind}"]
        return named


def make(kind, folder):
    """A model in evaluation mode, with the weights in `folder` where one is given."""
    torch.manual_seed(1)
    model = kind().eval()
    if folder:
        model.load_state_dict(kind.named(load_file(pathlib.Path(folder, "model.safetensors"))))
    return model


def parameters_of(model):
    """Numbers that are trained, without a table of kinds of one row."""
    return sum(p.numel() for name, p in model.named_parameters() if "token_type" not in name)
