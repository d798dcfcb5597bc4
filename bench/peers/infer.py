"""Forward passes of a BERT-base shaped encoder by PyTorch and by engines for inference, timed.

`pytorch_eager`, `torch_compile` and `openvino` and `onnxruntime` (which get it as each one's own
converter makes it) run the model of bench/peers/bert.py, `hugging_face` BertModel of transformers.
In bfloat16 PyTorch and Hugging Face hold the whole model in it; OpenVINO gets it as a hint, which
it follows where the processor has such products (else it takes float32, and says so here under
"precision"). ONNX Runtime has no bfloat16 on a CPU. With --weights, the folder that
`formwork bench infer --save` wrote, the output is compared with ours. Prints milliseconds as JSON.

    bench/peers/infer.py openvino --batch 8 --tokens 128
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import torch
from bert import VOCABULARY, Bert, HuggingFaceBert, make, parameters_of
from safetensors.torch import load_file


def eager(model, tokens, chosen):
    return model.to(getattr(torch, chosen.type)), chosen.type


def compiled(model, tokens, chosen):
    return torch.compile(model.to(getattr(torch, chosen.type))), chosen.type


def openvino(model, tokens, chosen):
    import openvino as ov

    program = ov.convert_model(model, example_input=tokens, input=[tuple(tokens.shape)])
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
             "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[chosen.type]}
    ready = ov.Core().compile_model(program, "CPU", hints)
    request, name = ready.create_infer_request(), ready.input(0)
    taken = ready.get_property("INFERENCE_PRECISION_HINT").to_string()

    def run(ids):
        return torch.from_numpy(request.infer({name: ids.numpy()})[0])

    return run, taken


def onnxruntime(model, tokens, chosen):
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.onnx")
        torch.onnx.export(model, (tokens,), str(path), input_names=["tokens"], dynamo=False)
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda ids: torch.from_numpy(session.run(None, {"tokens": ids.numpy()})[0]), chosen.type


ENGINES = {"pytorch_eager": (Bert, eager), "torch_compile": (Bert, compiled),
           "openvino": (Bert, openvino), "onnxruntime": (Bert, onnxruntime),
           "hugging_face": (HuggingFaceBert, eager)}


def compared(run, folder, shape):
    """The largest difference to our output, as a part of our largest output."""
    example = load_file(pathlib.Path(folder, f"{shape}.safetensors"))
    difference = run(example["input"]).float() - example["output"]
    return (difference.abs().max() / example["output"].abs().max()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--type", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--weights", help="folder that formwork bench infer --save wrote")
    parser.add_argument("--rounds", type=int, default=10, help="passes timed")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    chosen = parser.parse_args()
    if min(chosen.batch, chosen.tokens, chosen.rounds) < 1:
        parser.error("--batch, --tokens and --rounds must be at least 1")
    if chosen.engine == "onnxruntime" and chosen.type == "bfloat16":
        parser.error("onnxruntime has float32 only here")
    if chosen.threads > 0:
        torch.set_num_threads(chosen.threads)
    kind, prepare = ENGINES[chosen.engine]
    model = make(kind, chosen.weights)
    parameters = parameters_of(model)
    tokens = torch.randint(VOCABULARY, (chosen.batch, chosen.tokens))
    with torch.inference_mode():
        run, precision = prepare(model, tokens, chosen)
        times = []
        for _ in range(chosen.rounds + 2):  # two to warm up
            start = time.perf_counter()
            run(tokens)
            times.append(1e3 * (time.perf_counter() - start))
        result = {"engine": chosen.engine, "type": chosen.type, "precision": precision,
                  "batch": chosen.batch, "tokens": chosen.tokens,
                  "threads": torch.get_num_threads(), "torch": torch.__version__,
                  "parameters": parameters,
                  "ms": {"median": statistics.median(times[2:]), "least": min(times[2:])}}
        if chosen.weights:
            shape = f"{chosen.batch}x{chosen.tokens}"
            result["difference"] = compared(run, chosen.weights, shape)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
