// Activations and losses with their derivatives, a vector of samples at a time.
//
// The forms are those of semiflat's activations.py and losses/, chosen so that no digits are lost where a unit
// saturates or a fit is good. exp, tanh and the like are a kept library's.
#pragma once
#include "shape.h"
#include "vec.h"

namespace semiflat {
namespace {

typedef Vec (*VectorFunction)(Vec);
INLINE Vec call(const Kernel &k, Function which, Vec x) {
  return reinterpret_cast<VectorFunction>(k.functions[which])(x);
}

// log(1 + e^x); above 40 it is x to the last bit.
INLINE Vec softplus(const Kernel &k, Vec x) {
  Vec low = either(x > 40.0, all(0.0), x);
  return either(x > 40.0, x, call(k, LOG1P, call(k, EXP, low)));
}
// s = 1/(1 + e^-x) and t = 1 − s, each to its own digits.
INLINE void logistic(const Kernel &k, Vec x, Vec &s, Vec &t) {
  Vec e = call(k, EXP, -magnitude(x)), q = 1.0 / (1.0 + e), r = e * q;
  s = either(x < 0.0, r, q);
  t = either(x < 0.0, q, r);
}

struct Response {
  Vec h, first, second, third;
};

// σ and its derivatives; the third only where it is asked for.
template <bool THIRD> INLINE Response respond(const Kernel &k, Activation kind, const double *slopes, Vec z) {
  Response r{};
  switch (kind) {
  case TANH: {
    // e^{−2|z|} keeps the digits of σ' however saturated the unit is; expm1 those of σ near 0.
    Vec twice = -2.0 * magnitude(z), t = call(k, EXP, twice), less = call(k, EXPM1, twice);
    Vec q = 1.0 / (2.0 + less), size = -less * q; // 2 + less is 1 + t
    r.h = either(z < 0.0, -size, size);
    r.first = 4.0 * t * q * q;
    r.second = -2.0 * r.h * r.first;
    if (THIRD) r.third = r.first * (4.0 * r.h * r.h - 2.0 * r.first);
    break;
  }
  case SIGMOID: {
    Vec s, t;
    logistic(k, z, s, t);
    r.h = s;
    r.first = s * t;
    r.second = r.first * (t - s);
    if (THIRD) r.third = r.second * (t - s) - 2.0 * r.first * r.first;
    break;
  }
  case SOFTPLUS: {
    Vec s, t;
    logistic(k, z, s, t);
    r.h = softplus(k, z);
    r.first = s;
    r.second = s * t;
    if (THIRD) r.third = r.second * (t - s);
    break;
  }
  case GELU: {
    Vec below = call(k, ERFC, -0.70710678118654752440 * z) * 0.5;
    Vec density = call(k, EXP, -0.5 * z * z) * 0.39894228040143267794;
    r.h = z * below;
    r.first = below + z * density;
    r.second = density * (2.0 - z * z);
    if (THIRD) r.third = density * (z * z * z - 4.0 * z);
    break;
  }
  case SILU: {
    Vec s, t;
    logistic(k, z, s, t);
    Vec st = s * t, apart = t - s;
    r.h = z * s;
    r.first = s * (1.0 + z * t);
    r.second = st * (2.0 + z * apart);
    if (THIRD) r.third = st * (apart * (3.0 + z * apart) - 2.0 * z * st);
    break;
  }
  case SIN:
    r.h = call(k, SIN_, z);
    r.first = call(k, COS_, z);
    r.second = -r.h;
    if (THIRD) r.third = -r.first;
    break;
  default: // PIECEWISE: at the kink the left slope counts, as in torch
    r.first = either(z > 0.0, all(slopes[1]), all(slopes[0]));
    r.h = r.first * z;
  }
  return r;
}

// ρ and its derivatives of one output, for losses that are sums over outputs.
INLINE void separable(const Kernel &k, Loss loss, Vec f, Vec y, Vec &value, Vec &first, Vec &second) {
  switch (loss) {
  case SQUARED: {
    Vec r = f - y;
    value = 0.5 * r * r;
    first = r;
    second = all(1.0);
    break;
  }
  case LOG_COSH: {
    Vec r = f - y, size = magnitude(r), capped = either(size < 1.0, size, all(1.0));
    Vec sinh = call(k, SINH, capped), t = call(k, EXP, -2.0 * size), q = 1.0 / (1.0 + t);
    Vec small = 0.5 * call(k, LOG1P, sinh * sinh);
    Vec large = size + call(k, LOG1P, t) - 0.69314718055994530942;
    value = either(size < 1.0, small, large);
    first = call(k, TANH_, r);
    second = 4.0 * t * q * q;
    break;
  }
  case LOGISTIC: {
    Vec p, q;
    logistic(k, f, p, q);
    value = softplus(k, f) - y * f;
    first = (1.0 - y) * p - y * q;
    second = p * q;
    break;
  }
  default: { // HINGE2, HINGE3
    Vec gap = 1.0 - y * f, lack = either(gap > 0.0, gap, all(0.0));
    bool two = loss == HINGE2;
    value = lack * lack * (two ? all(1.0) : lack);
    first = (two ? -2.0 * y : -3.0 * y * lack) * lack;
    second = two ? either(gap > 0.0, all(2.0), all(0.0)) : 6.0 * lack;
  }
  }
}

} // namespace
} // namespace semiflat
