// One run of the search from its start to where a method leaves it: the steps of semiflat's search/driver.py with
// the methods TrustRegion and LevenbergMarquardt. What is said there about why holds here.
#pragma once
#include "library.h"
#include <atomic>
#include <cstdint>
#include <vector>

namespace semiflat {

enum Method { TRUST_REGION, LEVENBERG_MARQUARDT, METHODS };

struct Phase {
  Method method;
  std::int64_t steps;
  double until;
};

struct Rules {
  double tolerance;
  std::int64_t max_iterations;
  double largest;     // parameter beyond which a run has gone to infinity
  double hopeless;    // risk below which there is no critical point
  double value_noise; // what rounding may do to a risk
  bool coercive;      // nothing lies at infinity
};

// LAPACK, as SciPy hands it out.
struct Lapack {
  void (*syevd)(char *, char *, int *, double *, int *, double *, double *, int *, int *, int *, int *);
  void (*potrf)(char *, int *, double *, int *, int *);
  void (*potrs)(char *, int *, int *, double *, int *, double *, int *, int *);
  void (*trtrs)(char *, char *, char *, int *, int *, double *, int *, double *, int *, int *);
};

// Where a run is and how it got there, a row of each array of search/driver.py's Runs.
struct Run {
  double *theta, *gradient, *looked, *last; // (P), (P), (2), (2)
  const double *units;                      // (P): what the gradient is measured in
  double scale;                             // and the risk
  double *risk, *promised, *length;
  std::int64_t *iterations, *below;
  bool *settled, *stuck, *creeping;
};

// A network's risk with its penalty, and the memory that its derivatives need.
class Derivatives {
public:
  Derivatives(const Kernel &, const Net &, const double *decays);
  ~Derivatives();
  Derivatives(const Derivatives &) = delete;
  Derivatives &operator=(const Derivatives &) = delete;

  // Of the network on this data from now on; all have one number of samples.
  void on(const Data &, const Limit *);
  // Everything but BENDING and PRODUCT; `matrix` may be null for GRADIENT.
  double at(Wanted, const double *theta, double *gradient, double *matrix);
  // BENDING and PRODUCT.
  void along(Wanted, const double *theta, const double *direction, double *vector);

  const Net &net;

private:
  void reserve(Wanted);

  const Kernel &kernel;
  const double *decays; // (P), or null
  const Data *data = nullptr;
  const Limit *limit = nullptr;
  double *memory = nullptr;
  std::size_t room = 0;
};

class Loop {
public:
  Loop(Derivatives &, const Lapack &, const Rules &, const std::atomic<bool> &stop);
  // Takes a run through the phases; false where `stop` was set before its end.
  bool go(const std::vector<Phase> &, Run &);

private:
  struct Step {
    double promised, length;
  };
  bool beyond(const Run &) const;
  double gradient_size(const Run &) const;
  void sizes(const double *theta);
  void model(Method, const Run &);
  Step trust_region(double radius);
  Step levenberg_marquardt(const Run &, double damping);
  Step positive(double radius);
  void eigen();
  bool factor(double shift);
  void solve(std::vector<double> &x);
  bool downhill(Method);

  Derivatives &risk;
  const Lapack &lapack;
  const Rules &rules;
  const std::atomic<bool> &stop;
  int P;
  std::vector<double> matrix, factored, values, vectors, unit, slope, move, pulled, work, trial, new_gradient;
  std::vector<int> integers;
  double shifted = 0.0; // what was added to the diagonal of the matrix that is factored
  bool definite = false, known = false; // whether the matrix is positive definite; whether its spectrum is known
};

} // namespace semiflat
