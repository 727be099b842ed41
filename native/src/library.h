// Which kernel runs, and whose exp and tanh it calls.
#pragma once
#include "shape.h"
#include <string>
#include <vector>

namespace semiflat {

struct Engine {
  Kernel kernel;
  std::string math; // the library that its functions are of
};

// The kernels that this machine can run, the widest first.
std::vector<std::string> kernels();
// A kernel by name, or the widest, with a library of vector functions by name, or the first of those found.
// Libraries: "libmvec" (glibc 2.35 or later: at most 4 units in the last place), "sleef" (where the process has
// loaded one: at most 1.5), "libm" (lane by lane). Throws std::invalid_argument where there is none of that name.
Engine engine(const std::string &kernel, const std::string &math);

} // namespace semiflat
