#include "loop.h"
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

namespace semiflat {

namespace {

// As in search/driver.py and search/methods/.
constexpr double EPS = std::numeric_limits<double>::epsilon();
constexpr double TINY = 1e-300;
constexpr std::int64_t CHECK = 100;
constexpr double GROWTH = 1.2, GAIN = 1e-5, RELATIVE = 1e-6;
constexpr std::int64_t POLISH = 12;
constexpr double SMALL = 3.0, LEAST = 1e-4, NEGATIVE = -1e-9, FIRST = 1e-2, SMALLEST = 1e-16, BENT = 0.75;
constexpr double CLEAR = 1e-12; // part of the trace from which on a curvature is taken as positive unasked

double norm(const double *x, int n) {
  double sum = 0.0;
  for (int i = 0; i < n; i++) sum += x[i] * x[i];
  return std::sqrt(sum);
}
double dot(const double *x, const double *y, int n) {
  double sum = 0.0;
  for (int i = 0; i < n; i++) sum += x[i] * y[i];
  return sum;
}
// NaN where there is one.
double largest(const double *x, int n) {
  double most = 0.0;
  for (int i = 0; i < n; i++) most = std::fabs(x[i]) > most || std::isnan(x[i]) ? std::fabs(x[i]) : most;
  return most;
}
bool finite(const double *x, int n) {
  for (int i = 0; i < n; i++)
    if (!std::isfinite(x[i])) return false;
  return true;
}

} // namespace

Derivatives::Derivatives(const Kernel &kernel_, const Net &net_, const double *decays_)
    : net(net_), kernel(kernel_), decays(decays_) {}
Derivatives::~Derivatives() { std::free(memory); }

void Derivatives::on(const Data &data_, const Limit *limit_) { data = &data_, limit = limit_; }

void Derivatives::reserve(Wanted wanted) {
  const std::size_t asked = kernel.memory(net, data->block, wanted) + LANES;
  if (asked <= room) return;
  std::free(memory);
  memory = static_cast<double *>(std::aligned_alloc(64, (8 * asked + 63) / 64 * 64));
  if (!memory) throw std::bad_alloc();
  room = asked;
}

double Derivatives::at(Wanted wanted, const double *theta, double *gradient, double *matrix) {
  reserve(wanted);
  Ask ask{&net, data, limit, theta, nullptr};
  Answer answer{0.0, gradient, nullptr, matrix};
  kernel.run(kernel, ask, wanted, memory, answer);
  if (!decays) return answer.risk;
  double penalty = 0.0;
  for (int i = 0; i < net.parameters; i++) {
    penalty += decays[i] / 2 * theta[i] * theta[i];
    if (gradient) gradient[i] += decays[i] * theta[i];
    if (matrix) matrix[static_cast<std::size_t>(i) * (net.parameters + 1)] += decays[i];
  }
  return answer.risk + penalty;
}

void Derivatives::along(Wanted wanted, const double *theta, const double *direction, double *vector) {
  reserve(wanted);
  Ask ask{&net, data, limit, theta, direction};
  Answer answer{0.0, nullptr, vector, nullptr};
  kernel.run(kernel, ask, wanted, memory, answer);
  if (decays && wanted == PRODUCT)
    for (int i = 0; i < net.parameters; i++) vector[i] += decays[i] * direction[i];
}

Loop::Loop(Derivatives &risk_, const Lapack &lapack_, const Rules &rules_, const std::atomic<bool> &stop_)
    : risk(risk_), lapack(lapack_), rules(rules_), stop(stop_), P(risk_.net.parameters) {
  const std::size_t p = P;
  for (auto *each : {&matrix, &factored, &vectors}) each->resize(p * p);
  for (auto *each : {&values, &unit, &slope, &move, &pulled, &trial, &new_gradient}) each->resize(p);
  work.resize(1 + 6 * p + 2 * p * p);
  integers.resize(3 + 5 * p);
}

bool Loop::beyond(const Run &run) const {
  return largest(run.theta, P) > rules.largest || *run.risk < rules.hopeless;
}
double Loop::gradient_size(const Run &run) const {
  double most = 0.0;
  for (int i = 0; i < P; i++) most = std::max(most, std::fabs(run.gradient[i]) / run.units[i]);
  return most;
}

// What counts as one unit of each parameter: methods/method.py's `sizes`.
void Loop::sizes(const double *theta) {
  const Net &net = risk.net;
  auto fill = [&](int from, int count) {
    const double typical = norm(theta + from, count) / std::sqrt(static_cast<double>(count));
    std::fill_n(unit.begin() + from, count, std::max(typical, SMALL) / SMALL);
  };
  for (int l = 0; l < net.depth; l++) {
    const int out = net.widths[l + 1], count = out * net.widths[l];
    fill(net.first[l], count);
    if (net.biased[l]) fill(net.first[l] + count, out);
  }
}

// Factors the matrix with `shift` added to its diagonal; whether it is positive definite.
bool Loop::factor(double shift) {
  factored = matrix;
  for (int i = 0; i < P; i++) factored[static_cast<std::size_t>(i) * (P + 1)] += shift;
  char lower = 'L';
  int info = 0;
  lapack.potrf(&lower, &P, factored.data(), &P, &info);
  shifted = shift;
  return info == 0;
}
void Loop::solve(std::vector<double> &x) {
  char lower = 'L';
  int one = 1, info = 0;
  lapack.potrs(&lower, &P, &one, factored.data(), &P, x.data(), &P, &info);
}

void Loop::eigen() {
  if (known) return;
  known = true;
  vectors = matrix;
  char with = 'V', lower = 'L';
  int info = 0, doubles = static_cast<int>(work.size()), whole = static_cast<int>(integers.size());
  lapack.syevd(&with, &lower, &P, vectors.data(), &P, values.data(), work.data(), &doubles, integers.data(), &whole,
               &info);
  if (info == 0) return;
  std::fill(values.begin(), values.end(), 0.0); // its step will be rejected
  std::fill(vectors.begin(), vectors.end(), 0.0);
  for (int i = 0; i < P; i++) vectors[static_cast<std::size_t>(i) * (P + 1)] = 1.0;
}

void Loop::model(Method method, const Run &run) {
  sizes(run.theta);
  risk.at(method == TRUST_REGION ? HESSIAN : GAUSS_NEWTON, run.theta, nullptr, matrix.data());
  for (int i = 0; i < P; i++)
    for (int j = 0; j < P; j++) {
      double &x = matrix[static_cast<std::size_t>(i) * P + j];
      x *= unit[i] * unit[j];
      if (method == TRUST_REGION && !std::isfinite(x)) x = 0.0;
    }
  if (method != TRUST_REGION) return;
  known = false;
  definite = factor(0.0);
  // Where it may be singular within rounding the eigenvalues are asked. The least of the factor's squared diagonal
  // lies above the lowest of them, mostly near.
  double trace = 0.0, least = std::numeric_limits<double>::infinity();
  for (int i = 0; definite && i < P; i++) {
    const std::size_t place = static_cast<std::size_t>(i) * (P + 1);
    trace += matrix[place];
    least = std::min(least, factored[place] * factored[place]);
  }
  definite = definite && least > CLEAR * trace;
}

bool Loop::downhill(Method method) {
  if (method != TRUST_REGION || definite) return false;
  eigen();
  return values[0] < NEGATIVE * largest(values.data(), P);
}

// The minimiser of slope·p + ½ pᵀ M p with ‖p‖ ≤ radius for a positive definite M: Newton's method on 1/‖p(μ)‖,
// which from the left does not overshoot (Moré & Sorensen 1983).
Loop::Step Loop::positive(double radius) {
  double mu = 0.0, length = 0.0;
  if (shifted != 0.0) factor(0.0); // the step before was refused
  for (int round = 0; round < 60; round++) {
    if (round && !factor(mu)) break;
    for (int i = 0; i < P; i++) move[i] = -slope[i];
    solve(move);
    length = norm(move.data(), P);
    if (!(length > (round ? 1.01 : 1.0) * radius)) break;
    pulled = move;
    char lower = 'L', no = 'N';
    int one = 1, info = 0;
    lapack.trtrs(&lower, &no, &no, &P, &one, factored.data(), &P, pulled.data(), &P, &info);
    const double along = norm(pulled.data(), P) / length;
    mu += (length - radius) / radius / std::max(along * along, TINY);
  }
  const double bent = -dot(slope.data(), move.data(), P) - mu * length * length; // pᵀ M p
  const double part = std::min(1.0, 1.01 * radius / std::max(length, TINY));
  const double promised = -part * dot(slope.data(), move.data(), P) - part * part * bent / 2;
  for (int i = 0; i < P; i++) move[i] *= part;
  return {promised, part * length};
}

Loop::Step Loop::trust_region(double radius) {
  if (definite) return positive(radius);
  eigen();
  // methods/method.py's `bounded_newton`, along the eigenvectors
  std::vector<double> &along = pulled, &found = trial;
  for (int k = 0; k < P; k++) along[k] = dot(&vectors[static_cast<std::size_t>(k) * P], slope.data(), P);
  const double lowest = values[0], scale = std::max(TINY, largest(values.data(), P));
  double low = std::max(0.0, -lowest) + 1e-15 * scale, high = low + norm(along.data(), P) / radius + 1e-15 * scale;
  double free_length = 0.0;
  for (int k = 0; k < P; k++) {
    const double step = along[k] / std::max(values[k], TINY);
    free_length += step * step;
  }
  const bool free = lowest > 1e-14 * scale && std::sqrt(free_length) <= radius;
  double mu = free ? 0.0 : low;
  for (int round = 0; round < 60 && !free; round++) {
    double squares = 0.0, steeper = 0.0;
    for (int k = 0; k < P; k++) {
      const double shifted = values[k] + mu, step = along[k] / shifted;
      squares += step * step;
      steeper += step * step / shifted;
    }
    const double length = std::sqrt(squares), off = (length - radius) / radius;
    if (!(std::fabs(off) > 0.01 && high - low > 1e-14 * scale)) break;
    (off > 0 ? low : high) = mu;
    const double guess = mu + off * squares / std::max(steeper, TINY);
    const double middle = low > 0.1 * high ? (low + high) / 2 : std::sqrt(low * high);
    mu = guess > low && guess < high ? guess : middle;
  }
  for (int k = 0; k < P; k++) found[k] = -along[k] / (values[k] + mu);
  if (!free) {
    const double part = std::min(1.0, 1.01 * radius / std::max(norm(found.data(), P), TINY));
    for (int k = 0; k < P; k++) found[k] *= part;
  }
  // The hard case: no slope along the lowest, negative curvature. That way to the boundary.
  if (lowest < 0 && norm(found.data(), P) < 0.98 * radius) {
    const double others = norm(found.data() + 1, P - 1);
    const double rest = std::sqrt(std::max(0.0, radius * radius - others * others));
    found[0] = found[0] < 0 ? -rest : rest;
  }
  double promised = 0.0;
  std::fill(move.begin(), move.end(), 0.0);
  for (int k = 0; k < P; k++) {
    promised -= along[k] * found[k] + values[k] * found[k] * found[k] / 2;
    const double *vector = &vectors[static_cast<std::size_t>(k) * P];
    for (int i = 0; i < P; i++) move[i] += found[k] * vector[i];
  }
  return {promised, norm(found.data(), P)};
}

Loop::Step Loop::levenberg_marquardt(const Run &run, double damping) {
  double diagonal = 0.0;
  for (int i = 0; i < P; i++) diagonal = std::max(diagonal, matrix[static_cast<std::size_t>(i) * (P + 1)]);
  damping = std::max(damping, SMALLEST * diagonal);
  std::vector<double> &velocity = move, &acceleration = pulled;
  for (int i = 0; i < P; i++) velocity[i] = -slope[i];
  if (!factor(damping)) return {std::numeric_limits<double>::infinity(), norm(move.data(), P)};
  solve(velocity);
  for (int i = 0; i < P; i++) trial[i] = unit[i] * velocity[i];
  risk.along(BENDING, run.theta, trial.data(), acceleration.data());
  for (int i = 0; i < P; i++) acceleration[i] *= -unit[i];
  solve(acceleration);
  const double speed = norm(velocity.data(), P), turn = 2 * norm(acceleration.data(), P);
  const double promised = (damping * speed * speed - dot(slope.data(), velocity.data(), P)) / 2;
  const bool refused = !(turn <= BENT * speed);
  for (int i = 0; i < P; i++) velocity[i] += acceleration[i] / 2;
  return {refused ? std::numeric_limits<double>::infinity() : promised, norm(move.data(), P)};
}

bool Loop::go(const std::vector<Phase> &phases, Run &run) {
  double &risk_now = *run.risk;
  for (const Phase &phase : phases) {
    const Method method = phase.method;
    const std::int64_t limit = std::min(
        rules.max_iterations,
        phase.steps < rules.max_iterations ? *run.iterations + phase.steps : rules.max_iterations);
    *run.below = 0;
    *run.stuck = *run.creeping = false;
    if (!std::isfinite(risk_now) || !finite(run.gradient, P) || beyond(run) || *run.iterations >= limit ||
        *run.settled)
      continue;
    model(method, run);
    double scale = std::max(*run.length, 1e-3), growth = 2.0;
    if (method == LEVENBERG_MARQUARDT) {
      double diagonal = 0.0, steep = 0.0;
      for (int i = 0; i < P; i++) {
        diagonal = std::max(diagonal, matrix[static_cast<std::size_t>(i) * (P + 1)]);
        steep += run.gradient[i] * unit[i] * run.gradient[i] * unit[i];
      }
      scale = std::max(TINY, std::min(FIRST * diagonal, std::sqrt(steep) / std::max(*run.length, TINY)));
    }
    for (;;) {
      if (stop.load(std::memory_order_relaxed)) return false;
      for (int i = 0; i < P; i++) slope[i] = run.gradient[i] * unit[i];
      const Step step = method == TRUST_REGION ? trust_region(scale) : levenberg_marquardt(run, scale);
      double moved = 0.0;
      for (int i = 0; i < P; i++) {
        const double by = unit[i] * move[i];
        moved += by * by;
        trial[i] = run.theta[i] + by;
      }
      const double new_risk = risk.at(GRADIENT, trial.data(), new_gradient.data(), nullptr);

      // How much of its promise the step kept, and whether it is taken.
      const double size = norm(run.gradient, P), new_size = norm(new_gradient.data(), P);
      double ratio = (risk_now - new_risk) / std::max(step.promised, TINY);
      const double rounding = std::max(EPS * std::fabs(risk_now), rules.value_noise);
      if (step.promised <= 64 * rounding) ratio = new_size < size ? 0.5 : 0.0;
      const bool gains =
          !(*run.below > 0) || new_size < 0.7 * size || step.promised > 1e-6 * std::fabs(risk_now);
      const bool sound = std::isfinite(new_risk) && finite(new_gradient.data(), P);
      if (!sound) ratio = 0.0;
      const bool accepted = sound && ratio > LEAST && gains;

      if (method == TRUST_REGION) {
        double radius = ratio < 0.25 ? step.length / 4 : scale;
        if (ratio > 0.75 && step.length > 0.9 * radius) radius *= 2;
        scale = std::min(radius, 1e4);
      } else if (ratio > LEAST) {
        const double off = 2 * ratio - 1;
        scale *= std::min(1.0, std::max(1.0 / 3, 1 - off * off * off));
        growth = 2.0;
      } else {
        scale *= growth;
        growth = std::min(64.0, 2 * growth);
      }
      ++*run.iterations;
      const double trial_size = norm(trial.data(), P);
      if (accepted) {
        std::copy(trial.begin(), trial.end(), run.theta);
        std::copy(new_gradient.begin(), new_gradient.end(), run.gradient);
        risk_now = new_risk;
        *run.length = step.length;
        model(method, run);
      }
      const double steepest = gradient_size(run), root = std::sqrt(std::fabs(risk_now) / run.scale);
      const bool small = steepest <= rules.tolerance * std::max(1.0, root);
      *run.below += small;
      if (*run.iterations % CHECK == 0) {
        const double now = largest(run.theta, P);
        const double gain = (run.looked[1] - risk_now) / std::max(std::fabs(run.looked[1]), TINY);
        *run.creeping = now > GROWTH * run.looked[0] && std::fabs(gain) < GAIN && !rules.coercive;
        run.last[0] = run.looked[0], run.last[1] = run.looked[1];
        run.looked[0] = now, run.looked[1] = risk_now;
      }
      *run.stuck = std::sqrt(moved) <= 4 * EPS * trial_size && !accepted;
      *run.promised = step.promised;

      bool settled = (small && !accepted) || *run.below >= POLISH;
      settled = settled && !downhill(method);
      *run.settled = settled && method == TRUST_REGION && steepest <= RELATIVE * root;
      if (settled || *run.stuck || *run.creeping || *run.iterations >= limit || steepest < phase.until * root ||
          beyond(run))
        break;
    }
  }
  return true;
}

} // namespace semiflat
