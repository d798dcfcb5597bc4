#!/usr/bin/env python3
"""Does a converted folder load in Hugging Face's library and give the same outputs there?

    formwork convert IN OUT --transform pre_rms
    pip install transformers
    bench/peers/hugging_face_loads.py IN OUT

Prints the keys that were missing or not expected, and the largest difference of the logits in float64
on random input. Ends with 1 where there are any such keys or the difference is above 1e-5.
"""
import argparse
import json
import pathlib
import sys

import torch
import transformers


def load(folder):
    config = json.loads(pathlib.Path(folder, "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    return model.double().eval(), {key: list(names) for key, names in told.items() if names}


def random_input(config):
    torch.manual_seed(0)
    if hasattr(config, "image_size"):
        return torch.randn(2, config.num_channels, config.image_size, config.image_size).double()
    return torch.randint(0, config.vocab_size, (2, 20))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    folders = parser.parse_args()
    transformers.logging.set_verbosity_error()
    before, _ = load(folders.before)
    after, told = load(folders.after)
    x = random_input(before.config)
    with torch.no_grad():
        one, other = before(x).logits, after(x).logits
    difference = (one - other).abs().max().item()
    print(f"transformers {transformers.__version__}, {type(after).__name__}: keys out of place: {told or 'none'}; "
          f"largest difference {difference:.2e} (outputs reach {one.abs().max().item():.3g})")
    sys.exit(1 if told or difference > 1e-5 else 0)


if __name__ == "__main__":
    main()
