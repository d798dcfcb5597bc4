// What ThreadSanitizer is told where a program of tests is built with it (preset tsan): libtorch
// and its OpenMP are not instrumented, so their locks and barriers are not seen.
#if defined(__SANITIZE_THREAD__)

extern "C" {
// The sanitizer's own names.
const char* __tsan_default_options();
const char* __tsan_default_suppressions();

const char* __tsan_default_options() {
  return "ignore_noninstrumented_modules=1";
}
const char* __tsan_default_suppressions() {
  return "called_from_lib:libtorch_cpu.so\n"
         "called_from_lib:libc10.so\n"
         "race:libgomp\n";
}
}

#endif
