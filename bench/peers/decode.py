"""Generating at batch 1 in Hugging Face transformers and in CTranslate2, timed.

A decoder of GPT-2's shape with random weights reads a prompt and then makes tokens, the likeliest
each time. `hugging_face` is GPT2LMHeadModel in a plain loop with its cache, in float32 or bfloat16;
`ctranslate2` is the same model converted by CTranslate2's own converter, in float32 or in int8
(which rounds activations to 8 bits too). Prints milliseconds and tokens a second as JSON.

    bench/peers/decode.py ctranslate2 --weights int8
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import torch
import transformers


def make_model(chosen):
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=chosen.vocabulary, n_embd=chosen.width, n_layer=chosen.depth,
        n_head=chosen.heads, n_positions=chosen.context + chosen.tokens + 1,
        bos_token_id=chosen.vocabulary - 1, eos_token_id=chosen.vocabulary - 1)
    return transformers.GPT2LMHeadModel(config).eval()


class HuggingFace:
    """A round gives the moments when each token was there, after that of the start."""

    def __init__(self, chosen):
        self.model = make_model(chosen).to(getattr(torch, chosen.weights))

    def round(self, prompt, tokens):
        moments, cache = [time.perf_counter()], None
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            for _ in range(tokens + 1):
                out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = out.past_key_values
                ids = out.logits[:, -1].argmax(-1, keepdim=True)
                moments.append(time.perf_counter())
        return moments


class CTranslate2:
    """The same; CTranslate2 works with words, which are the ids here."""

    def __init__(self, chosen):
        import ctranslate2

        self.folder = tempfile.TemporaryDirectory()
        source, converted = (pathlib.Path(self.folder.name, name) for name in ("hf", "ct2"))
        make_model(chosen).save_pretrained(source)
        # A word for each id, so that the converter finds the tokenizer it asks for.
        words = {self.word(i): i for i in range(chosen.vocabulary - 1)}
        words["<|endoftext|>"] = chosen.vocabulary - 1
        (source / "vocab.json").write_text(json.dumps(words))
        (source / "merges.txt").write_text("#version: 0.2\n")
        (source / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
        ctranslate2.converters.TransformersConverter(str(source)).convert(
            str(converted), quantization=chosen.weights)
        self.generator = ctranslate2.Generator(
            str(converted), compute_type=chosen.weights, inter_threads=1,
            intra_threads=chosen.threads or torch.get_num_threads())

    @staticmethod
    def word(i):
        return f"w{i}"

    def round(self, prompt, tokens):
        moments = [time.perf_counter()]

        def made(_):
            moments.append(time.perf_counter())
            return False

        self.generator.generate_batch(
            [[self.word(i) for i in prompt]], max_length=tokens + 1, min_length=tokens + 1,
            include_prompt_in_result=False, sampling_topk=1, beam_size=1, callback=made)
        return moments


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=["hugging_face", "ctranslate2"])
    parser.add_argument("--weights", choices=["float32", "bfloat16", "int8"], default="float32")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--context", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens made and timed")
    parser.add_argument("--rounds", type=int, default=5, help="times that it is measured")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    chosen = parser.parse_args()
    if chosen.side == "hugging_face" and chosen.weights == "int8":
        parser.error("hugging_face has float32 and bfloat16 here")
    if chosen.threads > 0:
        torch.set_num_threads(chosen.threads)
    peer = (HuggingFace if chosen.side == "hugging_face" else CTranslate2)(chosen)
    prompt = torch.randint(chosen.vocabulary - 1, (chosen.context,)).tolist()
    peer.round(prompt, chosen.tokens)
    prompts, rates = [], []
    for _ in range(chosen.rounds):
        moments = peer.round(prompt, chosen.tokens)
        assert len(moments) == chosen.tokens + 2, "a token is missing"
        prompts.append(1e3 * (moments[1] - moments[0]))
        rates.append(chosen.tokens / (moments[-1] - moments[1]))
    print(json.dumps({"side": chosen.side, "weights": chosen.weights,
                      "threads": torch.get_num_threads(),
                      "parameters": sum(p.numel() for p in make_model(chosen).parameters()),
                      "prompt_ms": {"median": statistics.median(prompts), "least": min(prompts)},
                      "tokens_per_second": {"median": statistics.median(rates),
                                            "best": max(rates)}}))


if __name__ == "__main__":
    main()
