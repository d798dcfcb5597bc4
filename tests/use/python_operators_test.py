# ctest: slow timeout=120
"""The operators from Python: torch.ops.formwork.* out of libformwork_kernels.so, with gradients."""

import subprocess
import unittest

import formwork_case

LIBRARY = formwork_case.PROGRAM.parent / "libformwork_kernels.so"
PYTHON = formwork_case.SOURCE / ".formwork" / "venv" / "bin" / "python"

SCRIPT = """
import sys
import torch

torch.ops.load_library(sys.argv[1])
own = torch.ops.formwork
torch.manual_seed(1)


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


def agree(name, mine, theirs, inputs):
    weight = torch.randn_like(theirs)
    found = [mine, *torch.autograd.grad((mine * weight).sum(), inputs, retain_graph=True)]
    wanted = [theirs, *torch.autograd.grad((theirs * weight).sum(), inputs)]
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda m: name + ": " + m)


q, k, v = leaf(2, 4, 70, 24), leaf(2, 2, 70, 24), leaf(2, 2, 70, 24)
agree("attention", own.attention(q, k, v, None, True, 24 ** -0.5),
      torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
      (q, k, v))
bias = leaf(1, 4, 70, 70)
place = torch.arange(70)
near = (place - place[:, None]).abs() <= 20
agree("attention with bias and window",
      own.attention(q, k, v, None, False, 24 ** -0.5, back=20, ahead=20, bias=bias),
      torch.nn.functional.scaled_dot_product_attention(
          q, k, v, attn_mask=bias.masked_fill(~near, -torch.inf), enable_gqa=True),
      (q, k, v, bias))
agree("attention_with_log_sum",
      own.attention_with_log_sum(q, k, v, None, False, 1.0)[1],
      (q @ k.repeat_interleave(2, 1).mT).logsumexp(-1), (q, k))
x, scale = leaf(5, 33), leaf(33)
agree("rms_norm", own.rms_norm(x, scale, 1e-5),
      torch.nn.functional.rms_norm(x, (33,), scale, 1e-5), (x, scale))
y, total = own.add_rms_norm(x, x, scale, 1e-5)
torch.testing.assert_close(total, 2 * x)
angle = torch.rand(70, 12)
turned = own.rotate_pairs(q, angle.cos(), angle.sin(), False)
left, right = q.chunk(2, -1)
agree("rotate_pairs", turned,
      torch.cat([left * angle.cos() - right * angle.sin(),
                 right * angle.cos() + left * angle.sin()], -1), (q,))
weight, offset = torch.randn(65, 33), torch.randn(65)
packed, row_scale = own.pack_weight(weight)
with torch.no_grad():
    for rows in (3, 40):
        x = torch.randn(2, rows, 33)
        torch.testing.assert_close(
            own.packed_linear(x, packed, row_scale, offset),
            torch.nn.functional.linear(x, packed * row_scale[:, None], offset))
        torch.testing.assert_close(
            own.packed_linear(x, weight.bfloat16(), None, None),
            torch.nn.functional.linear(x, weight.bfloat16().float()))
    try:
        own.packed_linear(x, weight, None, None)
        raise SystemExit("a float32 weight was taken")
    except RuntimeError as error:
        assert "supported: x of Float and a weight of Char" in str(error), error
print("agree")
"""


class Operators(unittest.TestCase):
    def test_agree_with_torch(self):
        if not PYTHON.exists():
            self.skipTest("libtorch came without Python (FORMWORK_LIBTORCH)")
        if formwork_case.sanitized(LIBRARY):
            self.skipTest("a Python without sanitizers cannot load a library with them")
        done = subprocess.run([PYTHON, "-c", SCRIPT, LIBRARY], capture_output=True, text=True,
                              timeout=110, check=False)
        self.assertEqual(done.stdout.strip(), "agree", done.stderr)


if __name__ == "__main__":
    formwork_case.main()
