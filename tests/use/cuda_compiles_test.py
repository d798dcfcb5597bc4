"""The CUDA kernels compile for the oldest and for the fastest GPUs that they are written for."""

# ctest: slow timeout=1800

import pathlib
import shutil
import subprocess
import unittest

import formwork_case

ARCHITECTURES = ["80", "90a"]


def nvcc():
    """CUDA's compiler, or None."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


class CudaCompiles(formwork_case.FormworkCase):
    def compiled(self, source, *more):
        """nvcc's end for one source, and what it said."""
        targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
        done = subprocess.run(
            [nvcc(), "-std=c++17", "-O3", *targets, "-Werror", "all-warnings", "-I",
             str(formwork_case.SOURCE / "src"), *more, "-c", str(source), "-o",
             str(self.folder / "kernel.o")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.returncode, done.stdout

    def test_every_kernel(self):
        if not nvcc():
            self.skipTest("nvcc is not here: the CUDA kernels were compiled for the CPU only")
        sources = sorted((formwork_case.SOURCE / "src" / "kernels" / "cuda").glob("*.cu"))
        self.assertTrue(sources)
        for source in sources:
            with self.subTest(source.name):
                # Registers that do not fit are a warning, and so an error: such a kernel is slow.
                code, said = self.compiled(source, "-Xptxas", "-warn-spills")
                if code != 0:  # once more, for what every kernel takes
                    said += self.compiled(source, "-Xptxas", "-v")[1]
                self.assertEqual(code, 0, said)

    def test_a_wrong_kernel_is_seen(self):
        if not nvcc():
            self.skipTest("nvcc is not here")
        wrong = self.write("wrong.cu", "__global__ void kernel(float* x) { x[0] = missing; }\n")
        code, said = self.compiled(pathlib.Path(wrong))
        self.assertNotEqual(code, 0)
        self.assertIn("missing", said)


if __name__ == "__main__":
    formwork_case.main()
