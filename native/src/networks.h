// A batch of networks of one shape, each on its data or all on the same, and what is computed of all of them.
#pragma once
#include "loop.h"
#include <functional>

namespace semiflat {

// Row-major arrays; `sets` is 1 where all networks share their data.
struct Given {
  Net net;
  int networks, sets, samples;
  const double *X, *y, *share;  // (sets, N, d), (sets, N, M), (sets, N)
  const double *decays;         // (P), or null
  const std::int32_t *forms, *base; // (networks, Σ hidden), or null for finite networks
  const double *offsets;        // (networks, Σ hidden, N)
};

// Fills in what follows from widths and biases. Throws std::invalid_argument for a shape that no kernel takes.
void complete(Net &);

class Networks {
public:
  Networks(const Given &, const Engine &);

  // Of each network: risk (B), and gradient (B, P), vector (B, P) and matrix (B, P, P) where they are not null.
  void evaluate(Wanted, const double *theta, const double *along, double *risk, double *gradient, double *vector,
                double *matrix, int threads, const std::function<void()> &meanwhile) const;
  // Takes runs, by their rows, through the phases. Where `meanwhile` throws, they are left where they are.
  void drive(const std::vector<std::int64_t> &rows, const std::vector<Phase> &, const Rules &, const Lapack &,
             const std::function<Run(std::int64_t)> &run, int threads, const std::function<void()> &meanwhile) const;

  const Net net;
  const Engine engine;
  const int networks;

private:
  // Work on rows 0 … count − 1 by several threads, `meanwhile` being called every tenth of a second by this one;
  // what it throws stops the others and is thrown again.
  void spread(std::size_t count, int threads, const std::function<void()> &meanwhile,
              const std::function<void(Derivatives &, const std::atomic<bool> &, std::size_t)> &work) const;
  const Data &data_of(std::size_t row) const { return sets[sets.size() == 1 ? 0 : row]; }
  const Limit *limit_of(std::size_t row) const { return limits.empty() ? nullptr : &limits[row]; }

  std::vector<double> decays, X, y, share, pairs, offsets;
  std::vector<int> forms, base;
  std::vector<Data> sets;
  std::vector<Limit> limits;
};

} // namespace semiflat
