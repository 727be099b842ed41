// Vectors of W doubles, of the compiler's own kind: one source for every instruction set.
#pragma once
#include <cstdint>

#ifndef WIDTH
#error "WIDTH, the doubles in a vector, is set by the build for each instruction set"
#endif
#define INLINE static inline __attribute__((always_inline))

namespace semiflat {
namespace {

typedef double Vec __attribute__((vector_size(8 * WIDTH)));
typedef std::int64_t Mask __attribute__((vector_size(8 * WIDTH)));
constexpr int W = WIDTH;

INLINE Vec load(const double *from) {
  Vec x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}
INLINE void store(double *to, Vec x) { __builtin_memcpy(to, &x, sizeof x); }
INLINE Vec all(double x) { return x - Vec{}; }
INLINE Vec either(Mask where, Vec one, Vec other) { return where ? one : other; }
INLINE Vec magnitude(Vec x) {
  Mask bits;
  __builtin_memcpy(&bits, &x, sizeof x);
  bits &= INT64_MAX;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
INLINE Vec larger(Vec x, Vec y) { return either(x > y, x, y); }
INLINE double total(Vec x) {
#if WIDTH == 8
  typedef double Half __attribute__((vector_size(32)));
  typedef double Quarter __attribute__((vector_size(16)));
  Half low, high;
  __builtin_memcpy(&low, &x, 32);
  __builtin_memcpy(&high, reinterpret_cast<const char *>(&x) + 32, 32);
  low += high;
  Quarter a, b;
  __builtin_memcpy(&a, &low, 16);
  __builtin_memcpy(&b, reinterpret_cast<const char *>(&low) + 16, 16);
  a += b;
  return a[0] + a[1];
#elif WIDTH == 4
  return (x[0] + x[2]) + (x[1] + x[3]);
#else
  return x[0] + x[1];
#endif
}

} // namespace
} // namespace semiflat
