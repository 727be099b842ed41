// What Python sees of the engine.
#include "networks.h"
#include <cmath>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <optional>
#include <stdexcept>
#include <tuple>

namespace nb = nanobind;
using namespace semiflat;

namespace {

template <typename T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

template <typename A> void expect(const char *name, const A &array, std::initializer_list<std::size_t> shape) {
  std::size_t axis = 0;
  for (std::size_t size : shape) {
    if (array.shape(axis) != size)
      throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.shape(axis)) + " along axis " +
                                  std::to_string(axis) + ", expected " + std::to_string(size));
    axis++;
  }
}
template <typename A> void expect_finite(const char *name, const A &array) {
  for (std::size_t k = 0; k < array.size(); k++)
    if (!std::isfinite(array.data()[k])) throw std::invalid_argument(std::string(name) + " is not finite everywhere");
}

// Called with the interpreter's lock released; raises what Ctrl-C did.
void look_for_signals() {
  nb::gil_scoped_acquire hold;
  if (PyErr_CheckSignals()) throw nb::python_error();
}

Networks made(const std::vector<int> &widths, const std::vector<bool> &biased,
              const std::vector<std::tuple<int, double, double>> &activations, int loss, int networks,
              Array<const double, 3> X, Array<const double, 3> y, Array<const double, 2> share,
              std::optional<Array<const double, 1>> decays, std::optional<Array<const std::int32_t, 2>> forms,
              std::optional<Array<const std::int32_t, 2>> base, std::optional<Array<const double, 3>> offsets,
              const std::string &kernel, const std::string &math) {
  Given given{};
  given.net.depth = static_cast<int>(widths.size()) - 1;
  if (given.net.depth < 1 || given.net.depth > MAX_DEPTH)
    throw std::invalid_argument("the engine takes 1 to " + std::to_string(MAX_DEPTH) + " linear layers, not " +
                                std::to_string(given.net.depth));
  const std::size_t depth = given.net.depth;
  if (biased.size() != depth || activations.size() != depth - 1)
    throw std::invalid_argument("a bias or none is to be said for each layer, and an activation for each hidden one");
  for (std::size_t l = 0; l <= depth; l++) given.net.widths[l] = widths[l];
  for (std::size_t l = 0; l < depth; l++) {
    given.net.biased[l] = biased[l];
    given.net.activation[l] = PIECEWISE;
    if (l + 1 == depth) break;
    const auto [kind, left, right] = activations[l];
    given.net.activation[l] = static_cast<Activation>(kind);
    given.net.slopes[l][0] = left, given.net.slopes[l][1] = right;
  }
  given.net.loss = static_cast<Loss>(loss);
  complete(given.net);
  const std::size_t sets = X.shape(0), samples = X.shape(1);
  if (networks < 1 || (sets != 1 && sets != static_cast<std::size_t>(networks)))
    throw std::invalid_argument("there are " + std::to_string(sets) + " sets of data for " + std::to_string(networks) +
                                " networks; expected is one, or one for each");
  if (samples < 1 || samples > 1u << 28) throw std::invalid_argument("the engine takes 1 to 2^28 samples");
  expect("X", X, {sets, samples, static_cast<std::size_t>(widths[0])});
  expect("y", y, {sets, samples, static_cast<std::size_t>(widths[depth])});
  expect("share", share, {sets, samples});
  expect_finite("X", X), expect_finite("y", y), expect_finite("share", share);
  given.networks = networks, given.sets = static_cast<int>(sets), given.samples = static_cast<int>(samples);
  given.X = X.data(), given.y = y.data(), given.share = share.data();
  if (decays) {
    expect("decays", *decays, {static_cast<std::size_t>(given.net.parameters)});
    expect_finite("decays", *decays);
    given.decays = decays->data();
  }
  if (forms) {
    if (!base || !offsets) throw std::invalid_argument("forms come with base and offsets");
    const std::size_t hidden = given.net.before[depth - 1], each = networks;
    expect("forms", *forms, {each, hidden});
    expect("base", *base, {each, hidden});
    expect("offsets", *offsets, {each, hidden, samples});
    expect_finite("offsets", *offsets);
    given.forms = forms->data(), given.base = base->data(), given.offsets = offsets->data();
  }
  return Networks(given, engine(kernel, math));
}

void evaluate(const Networks &self, int wanted, Array<const double, 2> theta, Array<double, 1> risk,
              Array<double, 2> gradient, std::optional<Array<double, 3>> matrix, int threads) {
  const std::size_t B = self.networks, P = self.net.parameters;
  if (wanted != GRADIENT && wanted != HESSIAN && wanted != GAUSS_NEWTON)
    throw std::invalid_argument("wanted is GRADIENT, HESSIAN or GAUSS_NEWTON");
  expect("theta", theta, {B, P});
  expect("risk", risk, {B});
  expect("gradient", gradient, {B, P});
  if ((wanted != GRADIENT) != matrix.has_value())
    throw std::invalid_argument("a matrix is needed for a Hessian or Gauss-Newton, and for nothing else");
  if (matrix) expect("matrix", *matrix, {B, P, P});
  nb::gil_scoped_release unlocked;
  self.evaluate(static_cast<Wanted>(wanted), theta.data(), nullptr, risk.data(), gradient.data(), nullptr,
                matrix ? matrix->data() : nullptr, threads, look_for_signals);
}

void along(const Networks &self, int wanted, Array<const double, 2> theta, Array<const double, 2> direction,
           Array<double, 2> vector, int threads) {
  const std::size_t B = self.networks, P = self.net.parameters;
  if (wanted != BENDING && wanted != PRODUCT) throw std::invalid_argument("wanted is BENDING or PRODUCT");
  expect("theta", theta, {B, P});
  expect("direction", direction, {B, P});
  expect("vector", vector, {B, P});
  nb::gil_scoped_release unlocked;
  self.evaluate(static_cast<Wanted>(wanted), theta.data(), direction.data(), nullptr, nullptr, vector.data(), nullptr,
                threads, look_for_signals);
}

// LAPACK as scipy.linalg.cython_lapack hands it out.
Lapack lapack_of_scipy() {
  const nb::dict handed = nb::cast<nb::dict>(nb::module_::import_("scipy.linalg.cython_lapack").attr("__pyx_capi__"));
  auto take = [&](const char *name) {
    const nb::object capsule = handed[name];
    const char *signature = PyCapsule_GetName(capsule.ptr());
    void *function = PyCapsule_GetPointer(capsule.ptr(), signature);
    if (!function || std::string(signature).find("int *") == std::string::npos)
      throw std::runtime_error(std::string("SciPy's LAPACK has no ") + name + " of 32-bit integers");
    return function;
  };
  Lapack lapack;
  lapack.syevd = reinterpret_cast<decltype(lapack.syevd)>(take("dsyevd"));
  lapack.potrf = reinterpret_cast<decltype(lapack.potrf)>(take("dpotrf"));
  lapack.potrs = reinterpret_cast<decltype(lapack.potrs)>(take("dpotrs"));
  lapack.trtrs = reinterpret_cast<decltype(lapack.trtrs)>(take("dtrtrs"));
  return lapack;
}

void drive(const Networks &self, const std::vector<std::int64_t> &rows,
           const std::vector<std::tuple<int, std::int64_t, double>> &given, double tolerance,
           std::int64_t max_iterations, double largest, double hopeless, double value_noise, bool coercive,
           Array<double, 2> theta, Array<double, 1> risk, Array<double, 2> gradient, Array<const double, 2> units,
           Array<const double, 1> scale, Array<std::int64_t, 1> iterations, Array<std::int64_t, 1> below,
           Array<bool, 1> settled, Array<bool, 1> stuck, Array<double, 1> promised, Array<bool, 1> creeping,
           Array<double, 2> looked, Array<double, 2> last, Array<double, 1> length, int threads) {
  const std::size_t B = self.networks, P = self.net.parameters;
  expect("theta", theta, {B, P}), expect("gradient", gradient, {B, P}), expect("units", units, {B, P});
  expect("looked", looked, {B, 2}), expect("last", last, {B, 2});
  for (auto *each : {&risk, &promised, &length}) expect("a number for each run", *each, {B});
  for (auto *each : {&settled, &stuck, &creeping}) expect("a flag for each run", *each, {B});
  for (auto *each : {&iterations, &below}) expect("a count for each run", *each, {B});
  expect("scale", scale, {B});
  std::vector<bool> seen(B);
  for (std::int64_t row : rows) {
    if (row < 0 || static_cast<std::size_t>(row) >= B || seen[row])
      throw std::invalid_argument("rows are different numbers of runs, below " + std::to_string(B));
    seen[row] = true;
  }
  std::vector<Phase> phases;
  for (const auto &[method, steps, until] : given) {
    if (method < 0 || method >= METHODS) throw std::invalid_argument("there is no method of that number");
    phases.push_back({static_cast<Method>(method), steps, until});
  }
  static const Lapack lapack = lapack_of_scipy();
  const Rules rules{tolerance, max_iterations, largest, hopeless, value_noise, coercive};
  auto run = [&](std::int64_t b) {
    return Run{theta.data() + b * P,  gradient.data() + b * P, looked.data() + 2 * b, last.data() + 2 * b,
               units.data() + b * P,  scale.data()[b],         risk.data() + b,       promised.data() + b,
               length.data() + b,     iterations.data() + b,   below.data() + b,      settled.data() + b,
               stuck.data() + b,      creeping.data() + b};
  };
  nb::gil_scoped_release unlocked;
  self.drive(rows, phases, rules, lapack, run, threads, look_for_signals);
}

} // namespace

NB_MODULE(_engine, m) {
  m.attr("__version__") = VERSION;
  auto numbers = [&](const char *name, std::initializer_list<const char *> words) {
    nb::dict made;
    int number = 0;
    for (const char *word : words) made[word] = number++;
    m.attr(name) = made;
  };
  numbers("ACTIVATIONS", {"tanh", "sigmoid", "softplus", "gelu", "silu", "sin", "piecewise"});
  numbers("LOSSES", {"squared", "log_cosh", "logistic", "hinge2", "hinge3", "cross_entropy"});
  numbers("METHODS", {"trust_region", "levenberg_marquardt"});
  m.attr("FORMS") = static_cast<int>(FORMS);
  m.attr("GRADIENT") = static_cast<int>(GRADIENT);
  m.attr("HESSIAN") = static_cast<int>(HESSIAN);
  m.attr("GAUSS_NEWTON") = static_cast<int>(GAUSS_NEWTON);
  m.attr("BENDING") = static_cast<int>(BENDING);
  m.attr("PRODUCT") = static_cast<int>(PRODUCT);
  m.def(
      "takes",
      [](const std::vector<int> &widths) {
        bool fits = widths.size() >= 2 && widths.size() <= MAX_DEPTH + 1;
        for (int width : widths) fits = fits && width >= 1 && width <= MAX_WIDTH;
        return fits;
      },
      nb::arg("widths"), "Whether networks of these widths are not too deep or wide.");
  m.def("kernels", &kernels, "The kernels that this machine runs, the widest first.");
  nb::class_<Networks>(m, "Networks", "A batch of networks of one shape, with their data.")
      .def_static("made", &made, nb::kw_only(), nb::arg("widths"), nb::arg("biased"), nb::arg("activations"),
                  nb::arg("loss"), nb::arg("networks"), nb::arg("X"), nb::arg("y"), nb::arg("share"),
                  nb::arg("decays").none(), nb::arg("forms").none(), nb::arg("base").none(), nb::arg("offsets").none(),
                  nb::arg("kernel") = "", nb::arg("math") = "")
      .def_prop_ro("kernel", [](const Networks &self) { return self.engine.kernel.name; })
      .def_prop_ro("math", [](const Networks &self) { return self.engine.math; })
      .def("evaluate", &evaluate, nb::arg("wanted"), nb::arg("theta"), nb::arg("risk"), nb::arg("gradient"),
           nb::arg("matrix").none(), nb::arg("threads") = 1)
      .def("along", &along, nb::arg("wanted"), nb::arg("theta"), nb::arg("direction"), nb::arg("vector"),
           nb::arg("threads") = 1)
      .def("drive", &drive, nb::kw_only(), nb::arg("rows"), nb::arg("phases"), nb::arg("tolerance"),
           nb::arg("max_iterations"), nb::arg("largest"), nb::arg("hopeless"), nb::arg("value_noise"),
           nb::arg("coercive"), nb::arg("theta"), nb::arg("risk"), nb::arg("gradient"), nb::arg("units"),
           nb::arg("scale"), nb::arg("iterations"), nb::arg("below"), nb::arg("settled"), nb::arg("stuck"),
           nb::arg("promised"), nb::arg("creeping"), nb::arg("looked"), nb::arg("last"), nb::arg("length"),
           nb::arg("threads") = 1);
}
