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

// Doubles in memory, wherever they start. Not by memcpy, after which everything in memory would have to be read again.
typedef double Loose __attribute__((vector_size(8 * WIDTH), aligned(8)));
INLINE Vec load(const double *from) { return *reinterpret_cast<const Loose *>(from); }
INLINE void store(double *to, Vec x) { *reinterpret_cast<Loose *>(to) = x; }
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
// Sums over the lanes of W vectors at once, as the lanes of one: half as many vectors at each step.
INLINE Vec totals(const Vec *x) {
#define PICK __builtin_shufflevector
#if WIDTH == 8
  Vec four[4], two[2];
  for (int k = 0; k < 4; k++)
    four[k] = PICK(x[2 * k], x[2 * k + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
              PICK(x[2 * k], x[2 * k + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  for (int k = 0; k < 2; k++)
    two[k] = PICK(four[2 * k], four[2 * k + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
             PICK(four[2 * k], four[2 * k + 1], 2, 3, 10, 11, 6, 7, 14, 15);
  return PICK(two[0], two[1], 0, 1, 2, 3, 8, 9, 10, 11) + PICK(two[0], two[1], 4, 5, 6, 7, 12, 13, 14, 15);
#elif WIDTH == 4
  Vec two[2];
  for (int k = 0; k < 2; k++)
    two[k] = PICK(x[2 * k], x[2 * k + 1], 0, 4, 2, 6) + PICK(x[2 * k], x[2 * k + 1], 1, 5, 3, 7);
  return PICK(two[0], two[1], 0, 1, 4, 5) + PICK(two[0], two[1], 2, 3, 6, 7);
#else
  return PICK(x[0], x[1], 0, 2) + PICK(x[0], x[1], 1, 3);
#endif
#undef PICK
}
INLINE double total(Vec x) {
  Vec one[W]{x};
  return totals(one)[0];
}

} // namespace
} // namespace semiflat
