#include "library.h"
#include <cstdio>
#include <dlfcn.h>
#include <stdexcept>

namespace semiflat {

const char *const FUNCTION_NAMES[FUNCTIONS] = {"exp", "expm1", "log1p", "tanh", "erfc", "sin", "cos", "sinh", "cosh"};

namespace {

#if defined(__x86_64__)
const Kernel *const ALL[] = {&AVX512, &AVX2, &BASELINE};
bool runs(const Kernel &kernel) {
  if (&kernel == &AVX512) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  if (&kernel == &AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return true;
}
#else
const Kernel *const ALL[] = {&BASELINE};
bool runs(const Kernel &) { return true; }
#endif

// What libraries call a function of vectors: libmvec by glibc's vector ABI, SLEEF by its accuracy and set.
std::string mvec_name(const Kernel &kernel, const char *function) {
#if defined(__x86_64__)
  const char set = kernel.lanes == 8 ? 'e' : kernel.lanes == 4 ? 'd' : 'b';
#else
  const char set = 'n';
#endif
  return std::string("_ZGV") + set + "N" + std::to_string(kernel.lanes) + "v_" + function;
}
std::string sleef_name(const Kernel &kernel, const char *function) {
#if defined(__x86_64__)
  const char *set = kernel.lanes == 8 ? "avx512f" : kernel.lanes == 4 ? "avx2" : "sse2";
#else
  const char *set = "advsimd";
#endif
  const bool less = std::string(function) == "erfc";
  return std::string("Sleef_") + function + "d" + std::to_string(kernel.lanes) + (less ? "_u15" : "_u10") + set;
}

bool take(Kernel &kernel, void *from, std::string (*named)(const Kernel &, const char *)) {
  void *found[FUNCTIONS];
  for (int f = 0; f < FUNCTIONS; f++) {
    found[f] = dlsym(from, named(kernel, FUNCTION_NAMES[f]).c_str());
    if (!found[f]) return false;
  }
  for (int f = 0; f < FUNCTIONS; f++) kernel.functions[f] = found[f];
  return true;
}

} // namespace

std::vector<std::string> kernels() {
  std::vector<std::string> names;
  for (const Kernel *kernel : ALL)
    if (runs(*kernel)) names.push_back(kernel->name);
  return names;
}

Engine engine(const std::string &kernel, const std::string &math) {
  const Kernel *chosen = nullptr;
  for (const Kernel *each : ALL)
    if (!chosen && runs(*each) && (kernel.empty() || kernel == each->name)) chosen = each;
  if (!chosen) throw std::invalid_argument("this machine runs no kernel '" + kernel + "'");
  Engine made{*chosen, "libm"};
  made.kernel.own_functions(made.kernel.functions);
  if (math.empty() || math == "libmvec")
    if (void *mvec = dlopen("libmvec.so.1", RTLD_NOW | RTLD_LOCAL))
      if (take(made.kernel, mvec, mvec_name)) made.math = "libmvec";
  if (made.math == "libm" && (math.empty() || math == "sleef"))
    for (const char *holder : {"libsleef.so.3", "libtorch_cpu.so"})
      if (void *sleef = dlopen(holder, RTLD_NOW | RTLD_LOCAL | (holder[3] == 't' ? RTLD_NOLOAD : 0)))
        if (made.math == "libm" && take(made.kernel, sleef, sleef_name)) made.math = "sleef";
  if (!math.empty() && math != made.math)
    throw std::invalid_argument("no library '" + math + "' of vector functions for kernel '" + chosen->name + "'");
  return made;
}

} // namespace semiflat
