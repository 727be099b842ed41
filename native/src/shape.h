// What the kernels are told: a network, its data, and what of it is at infinity. Plain memory, owned elsewhere.
#pragma once
#include <cstddef>

namespace semiflat {

constexpr int MAX_DEPTH = 16;      // linear layers
constexpr int MAX_WIDTH = 1 << 14; // of any layer
constexpr int LANES = 8;           // samples are padded to a multiple of it, whatever the kernel

enum Activation { TANH, SIGMOID, SOFTPLUS, GELU, SILU, SIN, PIECEWISE, ACTIVATIONS };
enum Loss { SQUARED, LOG_COSH, LOGISTIC, HINGE2, HINGE3, CROSS_ENTROPY, LOSSES };
enum Form { UNIT, GATE, TAIL, LINEAR, STEP, FORMS };
enum Wanted { GRADIENT, HESSIAN, GAUSS_NEWTON, BENDING, PRODUCT };

// A fully connected network: z_l = W_l h_{l-1} + b_l, h_l = σ_l(z_l), the last layer linear.
struct Net {
  int depth;                      // linear layers L
  int widths[MAX_DEPTH + 1];      // d, hidden layers, M
  bool biased[MAX_DEPTH];         // whether a linear layer has a bias
  Activation activation[MAX_DEPTH];
  double slopes[MAX_DEPTH][2];    // left and right of 0, for PIECEWISE
  Loss loss;
  int first[MAX_DEPTH];           // where a layer's weights start in the flat order; its biases follow them
  int before[MAX_DEPTH + 1];      // z's of the layers below: Σ_{m<l} widths[m+1]
  int parameters;                 // P

  int fed(int layer) const { return widths[layer] + biased[layer]; }
  // The place of W_l[i, j] in the flat order; of b_l[i] for j = widths[l].
  int at(int layer, int i, int j) const {
    int in = widths[layer];
    return j < in ? first[layer] + i * in + j : first[layer] + widths[layer + 1] * in + i;
  }
};

// Samples stand last: row q of X is the feature q of all samples. Those that pad the last block have share 0.
struct Data {
  int padded;          // samples, a multiple of the block
  int block;           // samples taken at a time
  const double *X;     // (d, padded)
  const double *y;     // (M, padded): targets; of classes, 1 at the sample's own
  const double *share; // (padded): what a sample's loss counts with in the risk
  const double *pairs; // (D (D + 1) / 2, padded): products of features b ≤ j of the D with the bias's 1; or null
};

// The units of a limiting network, for each hidden layer.
struct Limit {
  const int *forms[MAX_DEPTH];      // (width)
  const int *base[MAX_DEPTH];       // (width): the plain unit that a gate is a gate of
  const double *offsets[MAX_DEPTH]; // (width, padded), added to z
};

struct Ask {
  const Net *net;
  const Data *data;
  const Limit *limit; // null for a finite network
  const double *theta;
  const double *along; // (P) for BENDING and PRODUCT
};

struct Answer {
  double risk;
  double *gradient; // (P)
  double *vector;   // (P): for BENDING and PRODUCT
  double *matrix;   // (P, P): for HESSIAN and GAUSS_NEWTON
};

// Vector functions of a kept library, W doubles at a time; in the order of FUNCTIONS.
enum Function { EXP, EXPM1, LOG1P, TANH_, ERFC, SIN_, COS_, SINH, COSH, FUNCTIONS };
extern const char *const FUNCTION_NAMES[FUNCTIONS];

struct Kernel {
  const char *name;
  int lanes; // doubles in a vector
  // Doubles of working memory, aligned to 64 bytes, that `run` needs.
  std::size_t (*memory)(const Net &, int block, Wanted);
  void (*run)(const Kernel &, const Ask &, Wanted, double *memory, Answer &);
  void (*own_functions)(void **functions); // libm's, lane by lane
  void *functions[FUNCTIONS];              // of vectors; none until they are found
};

extern const Kernel BASELINE;
#if defined(__x86_64__)
extern const Kernel AVX2, AVX512;
#endif

} // namespace semiflat
