#include "networks.h"
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace semiflat {

namespace {

constexpr std::size_t NEAR = 1 << 20;       // bytes of working memory that stay in a core's own caches
constexpr int LEAST_BLOCK = 128, MOST = 192; // samples of a block: shorter sums do not pay, longer ones leave the cache
constexpr int PAIRS = 256;                   // pairs of features whose products are kept with the data
constexpr auto PATIENCE = std::chrono::milliseconds(100);

int rounded_up(int samples) { return (samples + LANES - 1) / LANES * LANES; }

// It depends on network and samples alone: another block sums in another order.
int block_of(const Engine &engine, const Net &net, int samples) {
  const std::size_t each = 8 * engine.kernel.memory(net, LANES, HESSIAN) / LANES;
  const int most = std::clamp(static_cast<int>(NEAR / each) / LANES * LANES, LEAST_BLOCK, MOST);
  const int blocks = (rounded_up(samples) + most - 1) / most;
  return rounded_up((samples + blocks - 1) / blocks);
}

} // namespace

void complete(Net &net) {
  auto refuse = [](const std::string &why) { throw std::invalid_argument(why); };
  if (net.depth < 1 || net.depth > MAX_DEPTH)
    refuse("the engine takes 1 to " + std::to_string(MAX_DEPTH) + " linear layers, not " + std::to_string(net.depth));
  std::int64_t parameters = 0, before = 0;
  for (int l = 0; l <= net.depth; l++)
    if (net.widths[l] < 1 || net.widths[l] > MAX_WIDTH)
      refuse("the engine takes widths from 1 to " + std::to_string(MAX_WIDTH) + ", not " +
             std::to_string(net.widths[l]));
  for (int l = 0; l < net.depth; l++) {
    net.first[l] = static_cast<int>(parameters);
    net.before[l] = static_cast<int>(before);
    parameters += static_cast<std::int64_t>(net.widths[l + 1]) * net.fed(l);
    before += net.widths[l + 1];
    if (parameters > 1 << 24) refuse("the engine takes up to 2^24 parameters");
    if (net.activation[l] < 0 || net.activation[l] >= ACTIVATIONS) refuse("there is no activation of that number");
  }
  net.before[net.depth] = static_cast<int>(before);
  net.parameters = static_cast<int>(parameters);
  if (net.loss < 0 || net.loss >= LOSSES) refuse("there is no loss of that number");
}

Networks::Networks(const Given &given, const Engine &engine_) : net(given.net), engine(engine_), networks(given.networks) {
  const int N = given.samples, d = net.widths[0], M = net.widths[net.depth];
  if (N < 1) throw std::invalid_argument("the engine needs at least one sample");
  const int block = block_of(engine, net, N), padded = (N + block - 1) / block * block;
  auto turned = [&](const double *from, int count, int columns) { // (sets, N, columns) to (sets, columns, padded)
    std::vector<double> made(static_cast<std::size_t>(count) * columns * padded);
    for (int s = 0; s < count; s++)
      for (int n = 0; n < N; n++)
        for (int c = 0; c < columns; c++)
          made[(static_cast<std::size_t>(s) * columns + c) * padded + n] =
              from[(static_cast<std::size_t>(s) * N + n) * columns + c];
    return made;
  };
  X = turned(given.X, given.sets, d);
  y = turned(given.y, given.sets, M);
  share = turned(given.share, given.sets, 1);
  const int D = net.fed(0), couples = D * (D + 1) / 2 <= PAIRS ? D * (D + 1) / 2 : 0;
  pairs.resize(static_cast<std::size_t>(given.sets) * couples * padded);
  for (int s = 0; s < given.sets && couples; s++) {
    double *to = &pairs[static_cast<std::size_t>(s) * couples * padded];
    auto feature = [&](int q, int n) { return q < d ? X[(static_cast<std::size_t>(s) * d + q) * padded + n] : 1.0; };
    for (int j = 0; j < D; j++)
      for (int b = 0; b <= j; b++)
        for (int n = 0; n < padded; n++) *to++ = feature(j, n) * feature(b, n);
  }
  if (given.decays) decays.assign(given.decays, given.decays + net.parameters);
  for (int s = 0; s < given.sets; s++)
    sets.push_back({padded, block, &X[static_cast<std::size_t>(s) * d * padded],
                    &y[static_cast<std::size_t>(s) * M * padded], &share[static_cast<std::size_t>(s) * padded],
                    couples ? &pairs[static_cast<std::size_t>(s) * couples * padded] : nullptr});
  if (!given.forms) return;
  const int hidden = net.before[net.depth - 1];
  const std::size_t units = static_cast<std::size_t>(networks) * hidden;
  forms.assign(given.forms, given.forms + units);
  base.assign(given.base, given.base + units);
  offsets.resize(units * padded);
  for (std::size_t u = 0; u < units; u++)
    std::copy_n(given.offsets + u * N, N, offsets.begin() + u * padded);
  for (int b = 0; b < networks; b++) {
    Limit limit{};
    for (int l = 0; l < net.depth - 1; l++) {
      const std::size_t at = static_cast<std::size_t>(b) * hidden + net.before[l];
      limit.forms[l] = &forms[at];
      limit.base[l] = &base[at];
      limit.offsets[l] = &offsets[at * padded];
      for (int i = 0; i < net.widths[l + 1]; i++) {
        const int form = forms[at + i], plain = base[at + i];
        bool sound = form >= 0 && form < FORMS;
        if (form == GATE) { // a gate stands right after its base or another gate of it
          sound = plain >= 0 && plain < i && forms[at + plain] == UNIT;
          for (int k = plain + 1; sound && k < i; k++) sound = forms[at + k] == GATE && base[at + k] == plain;
        }
        if (!sound) throw std::invalid_argument("unit " + std::to_string(i) + " has no form that the engine knows");
      }
    }
    limits.push_back(limit);
  }
}

void Networks::spread(std::size_t count, int threads, const std::function<void()> &meanwhile,
                      const std::function<void(Derivatives &, const std::atomic<bool> &, std::size_t)> &work) const {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable ended;
  std::exception_ptr thrown;
  const std::size_t team = std::max<std::size_t>(1, std::min<std::size_t>(threads, count));
  std::size_t running = team;
  auto member = [&] {
    try {
      Derivatives derivatives(engine.kernel, net, decays.empty() ? nullptr : decays.data());
      for (std::size_t row; !stop && (row = next++) < count;) work(derivatives, stop, row);
    } catch (...) {
      std::lock_guard<std::mutex> hold(mutex);
      if (!thrown) thrown = std::current_exception();
      stop = true;
    }
    std::lock_guard<std::mutex> hold(mutex);
    running--;
    ended.notify_one();
  };
  std::vector<std::thread> members;
  try {
    for (std::size_t k = 0; k < team; k++) members.emplace_back(member);
    std::unique_lock<std::mutex> hold(mutex);
    while (running) {
      if (ended.wait_for(hold, PATIENCE, [&] { return running == 0; })) break;
      hold.unlock();
      meanwhile();
      hold.lock();
    }
  } catch (...) { // Ctrl-C, or no more threads to be had
    std::lock_guard<std::mutex> hold(mutex);
    if (!thrown) thrown = std::current_exception();
    stop = true;
  }
  for (auto &each : members) each.join();
  if (thrown) std::rethrow_exception(thrown);
}

void Networks::evaluate(Wanted wanted, const double *theta, const double *along, double *risk, double *gradient,
                        double *vector, double *matrix, int threads, const std::function<void()> &meanwhile) const {
  const std::size_t P = net.parameters;
  spread(networks, threads, meanwhile, [&](Derivatives &derivatives, const std::atomic<bool> &, std::size_t b) {
    derivatives.on(data_of(b), limit_of(b));
    if (wanted == BENDING || wanted == PRODUCT)
      derivatives.along(wanted, theta + b * P, along + b * P, vector + b * P);
    else
      risk[b] = derivatives.at(wanted, theta + b * P, gradient ? gradient + b * P : nullptr,
                               matrix ? matrix + b * P * P : nullptr);
  });
}

void Networks::drive(const std::vector<std::int64_t> &rows, const std::vector<Phase> &phases, const Rules &rules,
                     const Lapack &lapack, const std::function<Run(std::int64_t)> &run, int threads,
                     const std::function<void()> &meanwhile) const {
  spread(rows.size(), threads, meanwhile, [&](Derivatives &derivatives, const std::atomic<bool> &stop, std::size_t k) {
    const std::int64_t row = rows[k];
    derivatives.on(data_of(row), limit_of(row));
    Loop loop(derivatives, lapack, rules, stop);
    Run own = run(row);
    loop.go(phases, own);
  });
}

} // namespace semiflat
