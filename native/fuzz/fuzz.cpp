// Random networks, data and limits through every kernel, without Python: for AddressSanitizer and
// UndefinedBehaviorSanitizer, and to see that the kernels agree.
//
//   cmake -S native -B build/fuzz -DSEMIFLAT_FUZZ=ON -DCMAKE_BUILD_TYPE=Debug \
//     -DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all"
//   cmake --build build/fuzz && build/fuzz/fuzz [cases] [seed]
#include "networks.h"
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>

using namespace semiflat;

namespace {

std::mt19937_64 generator;
int whole(int from, int to) { return std::uniform_int_distribution<int>(from, to)(generator); }
double normal() { return std::normal_distribution<double>()(generator); }

struct Case {
  Given given{};
  std::vector<double> X, y, share, decays, offsets, theta, along;
  std::vector<std::int32_t> forms, base;

  Case() {
    Net &net = given.net;
    net.depth = whole(1, 6);
    for (int l = 0; l <= net.depth; l++) net.widths[l] = whole(0, 9) ? whole(1, 9) : whole(1, 40);
    for (int l = 0; l < net.depth; l++) {
      net.biased[l] = whole(0, 1);
      net.activation[l] = static_cast<Activation>(whole(0, ACTIVATIONS - 1));
      net.slopes[l][0] = 0.1 * whole(0, 1), net.slopes[l][1] = 1.0;
    }
    net.loss = static_cast<Loss>(whole(0, LOSSES - 1));
    complete(net);
    given.networks = whole(1, 4);
    given.sets = whole(0, 1) ? given.networks : 1;
    given.samples = whole(1, 700);
    const int M = net.widths[net.depth];
    const std::size_t rows = static_cast<std::size_t>(given.sets) * given.samples;
    for (std::size_t k = 0; k < rows * net.widths[0]; k++) X.push_back(normal());
    for (std::size_t n = 0; n < rows; n++) {
      share.push_back(whole(0, 9) ? 1.0 / given.samples : 0.0);
      const int chosen = whole(0, M - 1);
      for (int m = 0; m < M; m++) {
        const bool hinge = net.loss == HINGE2 || net.loss == HINGE3;
        y.push_back(net.loss == CROSS_ENTROPY ? m == chosen : hinge ? 2 * whole(0, 1) - 1 : whole(0, 10) / 10.0);
      }
    }
    given.X = X.data(), given.y = y.data(), given.share = share.data();
    if (whole(0, 1)) {
      for (int k = 0; k < net.parameters; k++) decays.push_back(0.1 * whole(0, 1));
      given.decays = decays.data();
    }
    if (whole(0, 1) && net.depth > 1) limit();
    for (int k = 0; k < given.networks * net.parameters; k++) {
      theta.push_back(0.7 * normal());
      along.push_back(normal());
    }
  }

  void limit() {
    const Net &net = given.net;
    for (int b = 0; b < given.networks; b++)
      for (int l = 0; l < net.depth - 1; l++) {
        int plain = -1; // the unit whose gate the next one may be
        for (int i = 0; i < net.widths[l + 1]; i++) {
          int form = whole(0, FORMS - 1);
          if (form == GATE && plain < 0) form = UNIT;
          if (form == UNIT) plain = i;
          if (form != UNIT && form != GATE) plain = -1;
          forms.push_back(form);
          base.push_back(plain < 0 ? 0 : plain);
          for (int n = 0; n < given.samples; n++) offsets.push_back(form == STEP ? (whole(0, 1) ? 1e4 : -1e4) : 0.0);
        }
      }
    given.forms = forms.data(), given.base = base.data(), given.offsets = offsets.data();
  }
};

double difference(const std::vector<double> &one, const std::vector<double> &other) {
  double size = 1e-300, most = 0.0;
  for (std::size_t k = 0; k < one.size(); k++) {
    if (!std::isfinite(one[k]) || !std::isfinite(other[k])) return 0.0; // an e^z too large: nothing to compare
    size = std::fmax(size, std::fabs(one[k]));
    most = std::fmax(most, std::fabs(one[k] - other[k]));
  }
  return most / size;
}

} // namespace

int main(int count, char **words) {
  const int cases = count > 1 ? std::atoi(words[1]) : 200;
  generator.seed(count > 2 ? std::atoi(words[2]) : 0);
  double worst = 0.0;
  for (int k = 0; k < cases; k++) {
    const Case made;
    const std::size_t B = made.given.networks, P = made.given.net.parameters;
    std::vector<std::vector<double>> before;
    for (const std::string &kernel : kernels()) {
      const Networks networks(made.given, engine(kernel, k % 2 ? "" : "libm"));
      std::vector<std::vector<double>> found;
      for (int w = 0; w <= PRODUCT; w++) {
        const auto wanted = static_cast<Wanted>(w);
        const bool matrix = wanted == HESSIAN || wanted == GAUSS_NEWTON, vector = wanted >= BENDING;
        std::vector<double> risk(B), gradient(B * P), result(matrix ? B * P * P : B * P);
        networks.evaluate(wanted, made.theta.data(), made.along.data(), risk.data(), vector ? nullptr : gradient.data(),
                          vector ? result.data() : nullptr, matrix ? result.data() : nullptr, whole(1, 3), [] {});
        found.push_back(matrix || vector ? result : gradient);
      }
      if (made.given.net.depth < 4) // sums of products of many layers lose digits by themselves
        for (std::size_t w = 0; w < before.size(); w++) worst = std::fmax(worst, difference(before[w], found[w]));
      before = found;
    }
  }
  std::printf("%d cases; kernels differ by %.1e of a derivative's size at most\n", cases, worst);
  return worst < 1e-9 ? 0 : 1;
}
