// The derivatives of one network's risk in closed form, a block of samples at a time, all of it in the caches.
//
// Notation as in semiflat's curvature/: per sample S = ∂h_{l-1}/∂z_m and B = ∂δ_l/∂z_m, and the block of W_l and
// W_m is Σ_ν h_{m-1,b} (B[i,a] h_{l-1,j} + δ_{l,i} S[j,a]), the second term for m < l alone. Gauss–Newton is the
// same without what the network bends: no σ'' in B, no second term.
//
// This file is compiled once for each instruction set, and holds no template of the standard library: what the
// linker keeps of those might be another set's.
#include "functions.h"
#include <math.h>
#include <string.h>

#ifndef KERNEL
#error "KERNEL, the name of the kernel, is set by the build for each instruction set"
#endif

namespace semiflat {
namespace {

// Rows of a block's numbers, one after the other.
struct Rows {
  double *start = nullptr;
  int block = 0;
  double *operator[](int row) const { return start + static_cast<std::size_t>(row) * block; }
};

constexpr int SUMS = W == 8 ? 24 : 12;  // of a tile: as many as there are registers for
constexpr int HEIGHT = W == 8 ? 6 : 4; // rows of a tile at most
constexpr int STRIP = 96;              // columns taken at a time at most

// Columns that stay in the innermost cache while all rows go by.
constexpr int INNERMOST = 24 << 10;
int strip_of(int block) {
  const int fit = INNERMOST / 8 / block / 12 * 12;
  return fit < 12 ? 12 : fit > STRIP ? STRIP : fit;
}

// Working memory of one network's derivatives; made twice, the first time without memory to find its size.
struct Room {
  std::size_t size = 0;
  double *memory;
  int block;
  Rows h[MAX_DEPTH + 1];                 // what hidden layers hand on; h[0] is not used
  Rows z[MAX_DEPTH];                     // pre-activations, where gates ask for them
  Rows first[MAX_DEPTH], second[MAX_DEPTH];
  Rows slope[MAX_DEPTH], mixed[MAX_DEPTH], twice[MAX_DEPTH]; // what gates owe to their bases' z
  Rows delta[MAX_DEPTH];                 // δ_l
  Rows pulled[MAX_DEPTH];                // W_{l+1}ᵀ δ_{l+1}
  Rows bend;                             // ∂²(ℓ share)/∂f²: (M) of separable losses, else (M, M)
  Rows moved[MAX_DEPTH];                 // ∂z_l/∂z_m, (out, Σ_{m<l} out_m)
  Rows hidden[MAX_DEPTH];                // ∂h_{l-1}/∂z_m, m < l − 1
  Rows bent[MAX_DEPTH];                  // ∂δ_l/∂z_m, (out, Σ_{m≤l} out_m)
  Rows tile, strip;                      // rows and columns of the sums
  Rows ones;
  int *places[MAX_DEPTH];                // where the entries of [W_l, b_l] stand in the flat order, row after row
  Rows slopes[2], bends[2];              // a path's first two derivatives, of this layer and the next
  Rows p;                                // probabilities
  Rows tangent[MAX_DEPTH];               // along v: of h
  Rows moving[MAX_DEPTH];                // along v: of z
  Rows back[2];                          // along v: of δ

  Room(const Net &net, int block_, Wanted wanted, bool limit, double *memory_) : memory(memory_), block(block_) {
    const int depth = net.depth, outputs = net.widths[depth];
    const bool full = net.loss == CROSS_ENTROPY, curved = wanted != GRADIENT;
    int widest = 0;
    for (int l = 0; l <= depth; l++) widest = net.widths[l] > widest ? net.widths[l] : widest;
    ones = rows(1);
    for (int l = 0; l < depth; l++) {
      const int count = net.widths[l + 1] * net.fed(l);
      places[l] = reinterpret_cast<int *>(memory ? memory + size : nullptr);
      size += (static_cast<std::size_t>(count) + 2 * LANES - 1) / (2 * LANES) * LANES;
      for (int k = 0; memory && k < count; k++) places[l][k] = net.at(l, k / net.fed(l), k % net.fed(l));
    }
    for (int l = 0; l < depth; l++) {
      const int out = net.widths[l + 1];
      delta[l] = rows(out);
      if (l == depth - 1) break;
      h[l + 1] = rows(out);
      first[l] = rows(out);
      pulled[l] = rows(out);
      if (curved) second[l] = rows(out);
      if (limit) {
        z[l] = rows(out);
        slope[l] = rows(out);
        mixed[l] = rows(out);
        twice[l] = rows(out);
      }
    }
    if (full) p = rows(outputs);
    if (curved) bend = rows(full ? outputs * outputs : outputs);
    if (wanted == HESSIAN || wanted == GAUSS_NEWTON) {
      for (int l = 0; l < depth; l++) {
        const int out = net.widths[l + 1];
        moved[l] = rows(out * net.before[l]);
        if (l) hidden[l] = rows(net.widths[l] * net.before[l - 1]);
        bent[l] = rows(out * net.before[l + 1]);
      }
      tile = rows(HEIGHT);
      strip = rows(STRIP);
    } else if (wanted == BENDING) {
      for (int k = 0; k < 2; k++) slopes[k] = rows(widest), bends[k] = rows(widest);
    } else if (wanted == PRODUCT) {
      for (int l = 0; l < depth; l++) {
        moving[l] = rows(net.widths[l + 1]);
        if (l) tangent[l] = rows(net.widths[l]);
      }
      for (int k = 0; k < 2; k++) back[k] = rows(widest);
    }
  }

  Rows rows(int count) {
    Rows made{memory ? memory + size : nullptr, block};
    size += static_cast<std::size_t>(count) * block;
    return made;
  }
};

struct Pass {
  const Kernel &kernel;
  const Net &net;
  const Ask &ask;
  Room &room;
  const int n; // samples of a block
  const int outputs;
  int at = 0; // where the block starts

  // What linear layer l is fed with: row j of the data or of the layer below, and the bias's 1.
  const double *fed(int l, int j) const {
    if (j == net.widths[l]) return room.ones.start;
    return l ? room.h[l][j] : ask.data->X + static_cast<std::size_t>(j) * ask.data->padded + at;
  }
  const double *weights(int l) const { return ask.theta + net.first[l]; }
  const double *offset(int l, int unit) const {
    return ask.limit->offsets[l] + static_cast<std::size_t>(unit) * ask.data->padded + at;
  }
  bool gated(int l, int unit) const { return ask.limit && ask.limit->forms[l][unit] == GATE; }
  int base(int l, int unit) const { return ask.limit->base[l][unit]; }
  bool full() const { return net.loss == CROSS_ENTROPY; }

  void forward();
  double losses(bool curved);
  void cross_entropy(const double *share, double &sum, bool curved);
  void backward();
  void gradient(double *into);
  void add_outer(int l, Rows stack, bool inputs, double *into);
  void responses(bool exact);
  void contract(int l, int m, double *matrix);
  void add_next(int l, double *matrix);
  void contract_by_rows(int l, int m, bool skipping, double *matrix);
  void bending(double *into);
  void product(double *into);
};

// Σ_k weights[k · step] rows[k], added to start, for R results with weights `next` apart.
template <int R, typename Row, typename Put>
INLINE void mix(int n, int count, const double *weights, int next, int step, const double *start, Row row, Put put) {
  for (int at = 0; at < n; at += W) {
    Vec sum[R];
    for (int r = 0; r < R; r++) sum[r] = all(start ? start[r] : 0.0);
    for (int k = 0; k < count; k++) {
      Vec x = load(row(k) + at);
      for (int r = 0; r < R; r++) sum[r] += weights[r * next + static_cast<std::size_t>(k) * step] * x;
    }
    for (int r = 0; r < R; r++) put(r, at, sum[r]);
  }
}
// The same for any number of results, `put` being told which.
template <typename Row, typename Put>
INLINE void mixes(int results, int n, int count, const double *weights, int next, int step, const double *start,
                  Row row, Put put) {
  int done = 0;
  for (; done + 4 <= results; done += 4)
    mix<4>(n, count, weights + static_cast<std::size_t>(done) * next, next, step, start ? start + done : nullptr, row,
           [&](int r, int at, Vec x) { put(done + r, at, x); });
  for (; done < results; done++)
    mix<1>(n, count, weights + static_cast<std::size_t>(done) * next, next, step, start ? start + done : nullptr, row,
           [&](int r, int at, Vec x) { put(done + r, at, x); });
}

void Pass::forward() {
  for (int l = 0; l < net.depth; l++) {
    const int in = net.widths[l], out = net.widths[l + 1];
    const double *weight = weights(l), *bias = net.biased[l] ? weight + static_cast<std::size_t>(in) * out : nullptr;
    const bool top = l == net.depth - 1;
    const Rows to = top ? room.delta[l] : room.h[l + 1];
    mixes(out, n, in, weight, in, 1, bias, [&](int k) { return fed(l, k); },
          [&](int i, int at, Vec x) { store(to[i] + at, x); });
    if (top) return;
    for (int i = 0; i < out; i++) {
      const Form form = ask.limit ? static_cast<Form>(ask.limit->forms[l][i]) : UNIT;
      double *h = to[i], *first = room.first[l][i], *second = room.bend.start ? room.second[l][i] : nullptr;
      for (int at = 0; at < n; at += W) {
        Vec z = load(h + at);
        if (ask.limit) {
          z += load(offset(l, i) + at);
          store(room.z[l][i] + at, z);
        }
        Response r{};
        if (form == GATE) {
          const int b = base(l, i);
          Response own = respond<true>(kernel, net.activation[l], net.slopes[l], load(room.z[l][b] + at));
          r.h = z * own.first;
          r.first = own.first;
          store(room.slope[l][i] + at, z * own.second);
          store(room.mixed[l][i] + at, own.second);
          store(room.twice[l][i] + at, z * own.third);
        } else if (form == TAIL) {
          r.h = r.first = r.second = call(kernel, EXP, z);
        } else if (form == LINEAR) {
          r.h = z;
          r.first = all(1.0);
        } else {
          r = respond<false>(kernel, net.activation[l], net.slopes[l], z);
        }
        store(h + at, r.h);
        store(first + at, r.first);
        if (second) store(second + at, r.second);
      }
    }
  }
}

// Losses times shares summed up; δ of the last layer in place of its z, and the second derivatives.
double Pass::losses(bool curved) {
  const double *share = ask.data->share + at;
  const Rows f = room.delta[net.depth - 1];
  double sum = 0.0;
  if (full()) {
    cross_entropy(share, sum, curved);
    return sum;
  }
  Vec add{};
  for (int i = 0; i < outputs; i++) {
    const double *y = ask.data->y + static_cast<std::size_t>(i) * ask.data->padded + at;
    for (int k = 0; k < n; k += W) {
      Vec value, first, second, part = load(share + k);
      separable(kernel, net.loss, load(f[i] + k), load(y + k), value, first, second);
      // What pads a block counts nothing, whatever its outputs.
      add += either(part > 0.0, value * part, all(0.0));
      store(f[i] + k, either(part > 0.0, first * part, all(0.0)));
      if (curved) store(room.bend[i] + k, either(part > 0.0, second * part, all(0.0)));
    }
  }
  return total(add);
}

// Σ_k y_k log(1 + Σ_{j≠k} e^{f_j − f_k}), which keeps the digits of a good fit, for targets that sum to about 1.
void Pass::cross_entropy(const double *share, double &sum, bool curved) {
  const Rows f = room.delta[net.depth - 1], p = room.p;
  const int M = outputs;
  const std::size_t padded = ask.data->padded;
  const double *y = ask.data->y + at;
  Vec add{};
  for (int at = 0; at < n; at += W) {
    const Vec part = load(share + at);
    Vec top = load(f[0] + at), weight{}, mass{};
    for (int k = 1; k < M; k++) top = larger(top, load(f[k] + at));
    for (int k = 0; k < M; k++) {
      Vec e = call(kernel, EXP, load(f[k] + at) - top);
      store(p[k] + at, e);
      mass += e;
      weight += load(y + k * padded + at);
    }
    Vec value{};
    for (int k = 0; k < M; k++) {
      const Vec target = load(y + k * padded + at), own = load(f[k] + at);
      bool asked = false;
      for (int lane = 0; lane < W; lane++) asked |= target[lane] > 0.0;
      if (!asked) continue;
      // log Σ_{j≠k} e^{f_j − f_k} by the largest of them
      Vec most = all(-INFINITY), others{};
      for (int j = 0; j < M; j++)
        if (j != k) most = larger(most, load(f[j] + at));
      for (int j = 0; j < M; j++)
        if (j != k) others += call(kernel, EXP, load(f[j] + at) - most);
      // log(1 + e^{m + log s}) = softplus; s ≥ 1, so what is small is e^m alone
      Vec gap = most - own, capped = either(gap > 40.0, all(0.0), gap);
      Vec near = call(kernel, LOG1P, others * call(kernel, EXP, capped));
      Vec far = gap + call(kernel, LOG1P, others - 1.0 + call(kernel, EXP, -magnitude(gap)));
      value += either(target > 0.0, target * either(gap > 40.0, far, near), all(0.0));
    }
    add += either(part > 0.0, value * part, all(0.0));
    const Vec scale = 1.0 / mass;
    for (int k = 0; k < M; k++) store(p[k] + at, load(p[k] + at) * scale);
    for (int k = 0; k < M; k++) {
      const Vec own = load(p[k] + at), target = load(y + k * padded + at);
      Vec apart{}, rest{}; // Σ_{j≠k} y_j and p_j: p_k Σ y − y_k Σ p without the terms that cancel
      for (int j = 0; j < M; j++)
        if (j != k) {
          apart += load(y + j * padded + at);
          rest += load(p[j] + at);
        }
      store(f[k] + at, either(part > 0.0, (own * apart - target * rest) * part, all(0.0)));
      if (!curved) continue;
      const Vec counted = either(part > 0.0, part * weight, all(0.0));
      for (int j = 0; j < M; j++)
        store(room.bend[k * M + j] + at, (j == k ? own * rest : -own * load(p[j] + at)) * counted);
    }
  }
  sum = total(add);
}

// to += factor · row, sample by sample
INLINE void add_product(double *to, const double *factor, const double *row, int n) {
  for (int at = 0; at < n; at += W) store(to + at, load(to + at) + load(factor + at) * load(row + at));
}
INLINE void multiply(double *to, const double *factor, int n) {
  for (int at = 0; at < n; at += W) store(to + at, load(to + at) * load(factor + at));
}

// Σ_i stack_i ∂h_i/∂z_j of hidden layer l for each unit j, in place; rows of the stack stand `apart`.
INLINE void pull_back(const Pass &pass, int l, double *stack, std::size_t apart) {
  const Room &room = pass.room;
  const int width = pass.net.widths[l + 1];
  for (int j = 0; j < width; j++) {
    multiply(stack + j * apart, room.first[l][j], pass.n);
    if (pass.gated(l, j)) continue;
    // The gates of a unit stand right after it, and are still as they came.
    for (int g = j + 1; g < width && pass.gated(l, g); g++)
      add_product(stack + j * apart, stack + g * apart, room.slope[l][g], pass.n);
  }
}

// Σ_k ∂h_j/∂z_k stack_k of hidden layer l for each unit j: into `to`, whose rows may be the stack's own.
INLINE void push_on(const Pass &pass, int l, const double *stack, double *to, std::size_t apart) {
  const Room &room = pass.room;
  for (int j = pass.net.widths[l + 1] - 1; j >= 0; j--) { // gates before their bases
    const double *first = room.first[l][j], *own = stack + j * apart;
    double *put = to + j * apart;
    for (int at = 0; at < pass.n; at += W) store(put + at, load(own + at) * load(first + at));
    if (pass.gated(l, j)) add_product(put, stack + pass.base(l, j) * apart, room.slope[l][j], pass.n);
  }
}

void Pass::backward() {
  for (int l = net.depth - 2; l >= 0; l--) {
    const int width = net.widths[l + 1], above = net.widths[l + 2];
    const Rows pulled = room.pulled[l], delta = room.delta[l], from = room.delta[l + 1];
    mixes(width, n, above, weights(l + 1), 1, width, nullptr, [&](int k) { return from[k]; },
          [&](int j, int at, Vec x) {
            store(pulled[j] + at, x);
            store(delta[j] + at, x);
          });
    pull_back(*this, l, delta.start, n);
  }
}

// out[r, c] = Σ_ν a[r] b[c] for a tile of R rows and C columns; rows of `out` stand STRIP apart.
template <int R, int C> INLINE void tile(int n, const double *const *a, const double *const *b, double *out) {
  constexpr int PADDED = (R * C + W - 1) / W * W;
  Vec sum[PADDED]{};
  for (int at = 0; at < n; at += W) {
    Vec x[R];
    for (int r = 0; r < R; r++) x[r] = load(a[r] + at);
    for (int c = 0; c < C; c++) {
      const Vec column = load(b[c] + at);
      for (int r = 0; r < R; r++) sum[r * C + c] += x[r] * column;
    }
  }
  double found[PADDED];
  for (int k = 0; k < PADDED; k += W) store(found + k, totals(sum + k));
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) out[r * STRIP + c] = found[r * C + c];
}
// The same for any number of columns, C at a time and then those that are left.
template <int R, int C>
void tiles(int n, const double *const *a, const double *const *b, int columns, double *out) {
  int c = 0;
  for (; c + C <= columns; c += C) tile<R, C>(n, a, b + c, out + c);
  if constexpr (C > 1)
    if (c < columns) tiles<R, C - 1>(n, a, b + c, columns - c, out + c);
}
// The same for up to HEIGHT rows: as many columns at a time as there are registers for.
void sums(int n, int rows, const double *const *a, const double *const *b, int columns, double *out) {
  switch (rows) {
  case 1: return tiles<1, SUMS / 2>(n, a, b, columns, out);
  case 2: return tiles<2, SUMS / 2>(n, a, b, columns, out);
  case 3: return tiles<3, SUMS / 3>(n, a, b, columns, out);
  case 4: return tiles<4, SUMS / 4>(n, a, b, columns, out);
#if WIDTH == 8
  case 5: return tiles<5, SUMS / 5>(n, a, b, columns, out);
  case 6: return tiles<6, SUMS / 6>(n, a, b, columns, out);
#endif
  }
}
// Rows of the next tile where `count` rows are left: all alike, as nearly as can be.
int height(int count) {
  const int tiles = (count + HEIGHT - 1) / HEIGHT;
  return (count + tiles - 1) / tiles;
}

// Σ_ν rows_i h̃_{l-1,j} of every linear layer, added to a vector of parameters.
void Pass::gradient(double *into) {
  for (int l = 0; l < net.depth; l++) add_outer(l, room.delta[l], true, into);
}

// Σ_ν stack_i h̃_{l-1,j}, or the tangent of h in place of h̃, added at the places of W_l.
void Pass::add_outer(int l, Rows stack, bool inputs, double *into) {
  const int out = net.widths[l + 1], fan = inputs ? net.fed(l) : net.widths[l];
  const double *columns[STRIP], *rows[HEIGHT];
  double found[HEIGHT * STRIP];
  for (int from = 0; from < fan; from += STRIP) {
    const int here = fan - from < STRIP ? fan - from : STRIP;
    for (int c = 0; c < here; c++) columns[c] = inputs ? fed(l, from + c) : room.tangent[l][from + c];
    for (int i = 0, count; i < out; i += count) {
      count = height(out - i);
      for (int r = 0; r < count; r++) rows[r] = stack[i + r];
      sums(n, count, rows, columns, here, found);
      for (int r = 0; r < count; r++)
        for (int c = 0; c < here; c++)
          into[room.places[l][(i + r) * net.fed(l) + from + c]] += found[r * STRIP + c];
    }
  }
}

// ∂z_l/∂z_m and ∂h_{l-1}/∂z_m, then ∂δ_l/∂z_m; what bends is left out unless `exact`.
void Pass::responses(bool exact) {
  const int depth = net.depth;
  for (int l = 1; l < depth; l++) {
    const int out = net.widths[l + 1], width = net.widths[l], below = net.before[l - 1], all_below = net.before[l];
    const double *weight = weights(l);
    const std::size_t apart = static_cast<std::size_t>(below) * n;
    for (int a = 0; a < below; a++) {
      const double *stack = room.moved[l - 1][a];
      double *through = room.hidden[l][a];
      push_on(*this, l - 1, stack, through, apart);
      mixes(out, n, width, weight, width, 1, nullptr, [&](int j) { return through + j * apart; },
            [&](int i, int at, Vec x) { store(room.moved[l][i * all_below + a] + at, x); });
    }
    for (int i = 0; i < out; i++)
      for (int a = 0; a < width; a++) {
        double *to = room.moved[l][i * all_below + below + a];
        const double *first = room.first[l - 1][a];
        for (int at = 0; at < n; at += W) store(to + at, weight[i * width + a] * load(first + at));
        if (gated(l - 1, a)) continue;
        for (int g = a + 1; g < width && gated(l - 1, g); g++) {
          const double *slope = room.slope[l - 1][g];
          for (int at = 0; at < n; at += W)
            store(to + at, load(to + at) + weight[i * width + g] * load(slope + at));
        }
      }
  }
  const int top = depth - 1, M = outputs, below_top = net.before[top], all_top = net.before[depth];
  for (int i = 0; i < M; i++)
    for (int a = 0; a < all_top; a++) {
      double *to = room.bent[top][i * all_top + a];
      for (int at = 0; at < n; at += W) {
        Vec sum{};
        if (!full())
          sum = a < below_top ? load(room.bend[i] + at) * load(room.moved[top][i * below_top + a] + at)
                              : (a - below_top == i ? load(room.bend[i] + at) : Vec{});
        else if (a >= below_top)
          sum = load(room.bend[i * M + a - below_top] + at);
        else
          for (int k = 0; k < M; k++)
            sum += load(room.bend[i * M + k] + at) * load(room.moved[top][k * below_top + a] + at);
        store(to + at, sum);
      }
    }
  for (int l = depth - 2; l >= 0; l--) {
    const int width = net.widths[l + 1], above = net.widths[l + 2];
    const int below = net.before[l], own = net.before[l + 1], upper = net.before[l + 2];
    const std::size_t apart = static_cast<std::size_t>(own) * n;
    for (int a = 0; a < own; a++) {
      mixes(width, n, above, weights(l + 1), 1, width, nullptr,
            [&](int i) { return room.bent[l + 1][i * upper + a]; },
            [&](int j, int at, Vec x) { store(room.bent[l][j * own + a] + at, x); });
      pull_back(*this, l, room.bent[l][a], apart);
    }
    if (!exact) continue;
    // p_j ∂²h_j/∂z_j∂z_k · ∂z_k/∂z_m; of the layer's own z, ∂z_k/∂z_m is 1 or 0.
    for (int j = 0; j < width; j++) {
      const double *pulled = room.pulled[l][j];
      double *scratch = room.tile[0];
      for (int at = 0; at < n; at += W) store(scratch + at, load(pulled + at) * load(room.second[l][j] + at));
      for (int a = 0; a < below; a++)
        add_product(room.bent[l][j * own + a], scratch, room.moved[l][j * below + a], n);
      double *to = room.bent[l][j * own + below + j];
      for (int at = 0; at < n; at += W) store(to + at, load(to + at) + load(scratch + at));
      if (!gated(l, j)) continue;
      const int b = base(l, j);
      double *cross = room.tile[1], *square = room.tile[2];
      for (int at = 0; at < n; at += W) {
        store(cross + at, load(pulled + at) * load(room.mixed[l][j] + at));
        store(square + at, load(pulled + at) * load(room.twice[l][j] + at));
      }
      for (int a = 0; a < below; a++) {
        const double *mine = room.moved[l][j * below + a], *bases = room.moved[l][b * below + a];
        add_product(room.bent[l][j * own + a], cross, bases, n);
        add_product(room.bent[l][b * own + a], cross, mine, n);
        add_product(room.bent[l][b * own + a], square, bases, n);
      }
      double *jb = room.bent[l][j * own + below + b], *bj = room.bent[l][b * own + below + j],
             *bb = room.bent[l][b * own + below + b];
      for (int at = 0; at < n; at += W) {
        store(jb + at, load(jb + at) + load(cross + at));
        store(bj + at, load(bj + at) + load(cross + at));
        store(bb + at, load(bb + at) + load(square + at));
      }
    }
  }
}

// Adds Σ_ν B[i,a] h_{l-1,j} h_{m-1,b}: pairs of units times pairs of inputs. Of m = l those with i ≤ a and b ≤ j alone.
void Pass::contract(int l, int m, double *matrix) {
  const std::size_t P = net.parameters;
  const int out = net.widths[l + 1], lower = net.widths[m + 1], own = net.before[l + 1], from = net.before[m];
  const int pairs = m == l ? out * (out + 1) / 2 : out * lower, breadth = strip_of(n);
  const double *rows[HEIGHT], *columns[STRIP];
  double found[HEIGHT * STRIP];
  int inputs[STRIP][2], j = 0, b = 0;
  while (j < net.fed(l)) {
    int strip = 0;
    for (; strip < breadth && j < net.fed(l); strip++) {
      inputs[strip][0] = j, inputs[strip][1] = b;
      if (l == 0 && ask.data->pairs) {
        columns[strip] = ask.data->pairs + (static_cast<std::size_t>(j) * (j + 1) / 2 + b) * ask.data->padded + at;
      } else {
        const double *one = fed(l, j), *other = fed(m, b);
        double *to = room.strip[strip];
        for (int k = 0; k < n; k += W) store(to + k, load(one + k) * load(other + k));
        columns[strip] = to;
      }
      if (++b == (m == l ? j + 1 : net.fed(m))) j++, b = 0;
    }
    int i = 0, a = 0;
    for (int done = 0, count; done < pairs; done += count) {
      count = height(pairs - done);
      const int *units[HEIGHT][2]; // where the rows of the two layers' units stand
      for (int r = 0; r < count; r++) {
        rows[r] = room.bent[l][i * own + from + a];
        units[r][0] = room.places[l] + i * net.fed(l), units[r][1] = room.places[m] + a * net.fed(m);
        if (++a == lower) i++, a = m == l ? i : 0;
      }
      sums(n, count, rows, columns, strip, found);
      for (int r = 0; r < count; r++)
        for (int c = 0; c < strip; c++)
          matrix[units[r][0][inputs[c][0]] * P + units[r][1][inputs[c][1]]] += found[r * STRIP + c];
    }
  }
}

// Rows of sums that are made one by one: up to HEIGHT of them wait until they are multiplied with inputs of W_m.
struct Waiting {
  Pass &pass;
  const int l, m;
  double *matrix;
  const double *rows[HEIGHT];
  double *to[HEIGHT];        // where a row's sums go in the matrix
  const int *columns[HEIGHT]; // and in which columns
  int count = 0;

  double *next() const { return pass.room.tile[count]; }
  void add(int i, int j, int a) {
    const Net &net = pass.net;
    rows[count] = next();
    to[count] = matrix + static_cast<std::size_t>(net.at(l, i, j)) * net.parameters;
    columns[count] = pass.room.places[m] + a * net.fed(m);
    if (++count == HEIGHT) flush();
  }
  void flush() {
    const int fan = count ? pass.net.fed(m) : 0;
    const double *inputs[STRIP];
    double found[HEIGHT * STRIP];
    for (int from = 0; from < fan; from += STRIP) {
      const int here = fan - from < STRIP ? fan - from : STRIP;
      for (int c = 0; c < here; c++) inputs[c] = pass.fed(m, from + c);
      sums(pass.n, count, rows, inputs, here, found);
      for (int r = 0; r < count; r++)
        for (int c = 0; c < here; c++) to[r][columns[r][from + c]] += found[r * STRIP + c];
    }
    count = 0;
  }
};

// Adds Σ_ν δ_{l,i} S[j,a] h_{m-1,b} for m = l − 1: z_a of the layer in between moves unit a, and a's gates.
void Pass::add_next(int l, double *matrix) {
  Waiting waiting{*this, l, l - 1, matrix, {}, {}, {}, 0};
  const int width = net.widths[l];
  for (int i = 0; i < net.widths[l + 1]; i++)
    for (int j = 0; j < width; j++)
      for (int owed = 0; owed < 2; owed++) { // what it is moved by: its own z, its base's
        if (owed && !gated(l - 1, j)) continue;
        const double *delta = room.delta[l][i], *moves = owed ? room.slope[l - 1][j] : room.first[l - 1][j];
        double *to = waiting.next();
        for (int at = 0; at < n; at += W) store(to + at, load(delta + at) * load(moves + at));
        waiting.add(i, j, owed ? base(l - 1, j) : j);
      }
  waiting.flush();
}

// Adds Σ_ν (B[i,a] h_{l-1,j} + δ_{l,i} S[j,a]) h_{m-1,b}, the second term where z_a moves every unit j: for m < l − 1.
void Pass::contract_by_rows(int l, int m, bool skipping, double *matrix) {
  Waiting waiting{*this, l, m, matrix, {}, {}, {}, 0};
  const int in = net.widths[l], own = net.before[l + 1], from = net.before[m], below = net.before[l - 1];
  for (int i = 0; i < net.widths[l + 1]; i++)
    for (int a = 0; a < net.widths[m + 1]; a++) {
      const double *bent = room.bent[l][i * own + from + a], *delta = room.delta[l][i];
      for (int j = 0; j < net.fed(l); j++) {
        const double *h = fed(l, j);
        double *to = waiting.next();
        if (!skipping || j == in) { // the bias's 1 does not move
          for (int at = 0; at < n; at += W) store(to + at, load(bent + at) * load(h + at));
        } else {
          const double *moves = room.hidden[l][j * below + from + a];
          for (int at = 0; at < n; at += W)
            store(to + at, load(bent + at) * load(h + at) + load(delta + at) * load(moves + at));
        }
        waiting.add(i, j, a);
      }
    }
  waiting.flush();
}

// The other entries, which are equal to those that were computed.
void mirror(const Net &net, double *matrix) {
  const std::size_t P = net.parameters;
  for (int l = 0; l < net.depth; l++) {
    for (int m = 0; m < l; m++)
      for (int i = 0; i < net.widths[l + 1]; i++)
        for (int a = 0; a < net.widths[m + 1]; a++)
          for (int j = 0; j < net.fed(l); j++)
            for (int b = 0; b < net.fed(m); b++) {
              const std::size_t row = net.at(l, i, j), column = net.at(m, a, b);
              matrix[column * P + row] = matrix[row * P + column];
            }
    for (int i = 0; i < net.widths[l + 1]; i++)
      for (int a = i; a < net.widths[l + 1]; a++)
        for (int j = 0; j < net.fed(l); j++)
          for (int b = 0; b <= j; b++) {
            const double x = matrix[net.at(l, i, j) * P + net.at(l, a, b)];
            matrix[net.at(l, i, b) * P + net.at(l, a, j)] = x;
            matrix[net.at(l, a, b) * P + net.at(l, i, j)] = x;
            matrix[net.at(l, a, j) * P + net.at(l, i, b)] = x;
          }
  }
}

// Σ_ν J_νᵀ ∂²ℓ_ν/∂f² f''_ν[v, v], added; it overwrites δ.
void Pass::bending(double *into) {
  const double *along = ask.along;
  Rows slope = room.slopes[0], bend = room.bends[0], next_slope = room.slopes[1], next_bend = room.bends[1];
  for (int l = 0; l < net.depth; l++) {
    const int in = net.widths[l], out = net.widths[l + 1];
    const double *weight = weights(l), *moved = along + net.first[l];
    const double *start = net.biased[l] ? moved + static_cast<std::size_t>(in) * out : nullptr;
    const bool top = l == net.depth - 1;
    mixes(out, n, in, moved, in, 1, start, [&](int k) { return fed(l, k); },
          [&](int i, int at, Vec x) { store(next_slope[i] + at, x); });
    if (l) {
      mixes(out, n, in, weight, in, 1, nullptr, [&](int k) { return slope[k]; },
            [&](int i, int at, Vec x) { store(next_slope[i] + at, load(next_slope[i] + at) + x); });
      mixes(out, n, in, weight, in, 1, nullptr, [&](int k) { return bend[k]; },
            [&](int i, int at, Vec x) { store(next_bend[i] + at, x); });
      mixes(out, n, in, moved, in, 1, nullptr, [&](int k) { return slope[k]; },
            [&](int i, int at, Vec x) { store(next_bend[i] + at, load(next_bend[i] + at) + 2.0 * x); });
    } else {
      memset(next_bend.start, 0, sizeof(double) * out * n);
    }
    if (!top)
      for (int i = out - 1; i >= 0; i--) { // gates before their bases
        const bool gate = gated(l, i);
        const int b = gate ? base(l, i) : i;
        for (int at = 0; at < n; at += W) {
          const Vec first = load(room.first[l][i] + at), second = load(room.second[l][i] + at);
          const Vec s = load(next_slope[i] + at), own = load(next_bend[i] + at);
          Vec to_slope = first * s, to_bend = first * own + second * s * s;
          if (gate) {
            const Vec other = load(next_slope[b] + at), owed = load(room.slope[l][i] + at);
            to_slope += owed * other;
            to_bend += owed * load(next_bend[b] + at) + 2.0 * load(room.mixed[l][i] + at) * s * other +
                       load(room.twice[l][i] + at) * other * other;
          }
          store(next_slope[i] + at, to_slope);
          store(next_bend[i] + at, to_bend);
        }
      }
    Rows keep = slope;
    slope = next_slope, next_slope = keep;
    keep = bend;
    bend = next_bend, next_bend = keep;
  }
  for (int i = 0; i < outputs; i++)
    for (int at = 0; at < n; at += W) {
      Vec sum{};
      if (full())
        for (int k = 0; k < outputs; k++) sum += load(room.bend[i * outputs + k] + at) * load(bend[k] + at);
      else
        sum = load(room.bend[i] + at) * load(bend[i] + at);
      store(room.delta[net.depth - 1][i] + at, sum);
    }
  backward();
  gradient(into);
}

// ∇²R v, added: a tangent forward and back.
void Pass::product(double *into) {
  const double *along = ask.along;
  const int depth = net.depth;
  for (int l = 0; l < depth; l++) {
    const int in = net.widths[l], out = net.widths[l + 1];
    const double *weight = weights(l), *moved = along + net.first[l];
    const double *start = net.biased[l] ? moved + static_cast<std::size_t>(in) * out : nullptr;
    const Rows to = room.moving[l];
    mixes(out, n, in, moved, in, 1, start, [&](int k) { return fed(l, k); },
          [&](int i, int at, Vec x) { store(to[i] + at, x); });
    if (l)
      mixes(out, n, in, weight, in, 1, nullptr, [&](int k) { return room.tangent[l][k]; },
            [&](int i, int at, Vec x) { store(to[i] + at, load(to[i] + at) + x); });
    if (l < depth - 1) push_on(*this, l, to.start, room.tangent[l + 1].start, n);
  }
  Rows now = room.back[0], next = room.back[1];
  for (int i = 0; i < outputs; i++)
    for (int at = 0; at < n; at += W) {
      Vec sum{};
      if (full())
        for (int k = 0; k < outputs; k++)
          sum += load(room.bend[i * outputs + k] + at) * load(room.moving[depth - 1][k] + at);
      else
        sum = load(room.bend[i] + at) * load(room.moving[depth - 1][i] + at);
      store(now[i] + at, sum);
    }
  for (int l = depth - 1; l >= 0; l--) {
    const int out = net.widths[l + 1], in = net.widths[l];
    add_outer(l, now, true, into);
    if (l) add_outer(l, room.delta[l], false, into);
    if (!l) break;
    // δ_{l-1} along v: by δ_l's change, by W_l's, and by how the units bend.
    mixes(in, n, out, weights(l), 1, in, nullptr, [&](int k) { return now[k]; },
          [&](int j, int at, Vec x) { store(next[j] + at, x); });
    mixes(in, n, out, along + net.first[l], 1, in, nullptr, [&](int k) { return room.delta[l][k]; },
          [&](int j, int at, Vec x) { store(next[j] + at, load(next[j] + at) + x); });
    pull_back(*this, l - 1, next.start, n);
    for (int j = 0; j < in; j++) {
      const double *pulled = room.pulled[l - 1][j], *own = room.moving[l - 1][j];
      for (int at = 0; at < n; at += W)
        store(next[j] + at,
              load(next[j] + at) + load(pulled + at) * load(room.second[l - 1][j] + at) * load(own + at));
      if (!gated(l - 1, j)) continue;
      const int b = base(l - 1, j);
      const double *bases = room.moving[l - 1][b];
      for (int at = 0; at < n; at += W) {
        const Vec cross = load(pulled + at) * load(room.mixed[l - 1][j] + at);
        const Vec square = load(pulled + at) * load(room.twice[l - 1][j] + at);
        store(next[j] + at, load(next[j] + at) + cross * load(bases + at));
        store(next[b] + at, load(next[b] + at) + cross * load(own + at) + square * load(bases + at));
      }
    }
    const Rows keep = now;
    now = next, next = keep;
  }
}

std::size_t memory_of(const Net &net, int block, Wanted wanted) { return Room(net, block, wanted, true, nullptr).size; }

void run(const Kernel &kernel, const Ask &ask, Wanted wanted, double *memory, Answer &answer) {
  const Net &net = *ask.net;
  const std::size_t P = net.parameters;
  Room room(net, ask.data->block, wanted, ask.limit != nullptr, memory);
  Pass pass{kernel, net, ask, room, ask.data->block, net.widths[net.depth]};
  for (int at = 0; at < pass.n; at++) room.ones.start[at] = 1.0;
  answer.risk = 0.0;
  if (answer.gradient) memset(answer.gradient, 0, sizeof(double) * P);
  const bool matrix = wanted == HESSIAN || wanted == GAUSS_NEWTON;
  if (matrix) memset(answer.matrix, 0, sizeof(double) * P * P);
  if (wanted == BENDING || wanted == PRODUCT) memset(answer.vector, 0, sizeof(double) * P);
  for (; pass.at < ask.data->padded; pass.at += pass.n) {
    pass.forward();
    answer.risk += pass.losses(wanted != GRADIENT);
    pass.backward();
    if (answer.gradient) pass.gradient(answer.gradient);
    if (matrix) {
      pass.responses(wanted == HESSIAN);
      for (int l = 0; l < net.depth; l++) {
        for (int m = 0; m <= l; m++) {
          const bool skipping = wanted == HESSIAN && m < l - 1;
          // Whichever makes fewer rows: of units and an input, or of pairs of inputs.
          const bool fewer = m < l && net.widths[l + 1] * net.widths[m + 1] < net.fed(m);
          if (skipping || fewer)
            pass.contract_by_rows(l, m, skipping, answer.matrix);
          else
            pass.contract(l, m, answer.matrix);
        }
        if (wanted == HESSIAN && l) pass.add_next(l, answer.matrix);
      }
    } else if (wanted == BENDING) {
      pass.bending(answer.vector);
    } else if (wanted == PRODUCT) {
      pass.product(answer.vector);
    }
  }
  if (matrix) mirror(net, answer.matrix);
}

template <double (*function)(double)> Vec lane_by_lane(Vec x) {
  for (int lane = 0; lane < W; lane++) x[lane] = function(x[lane]);
  return x;
}
template <double (*function)(double)> void *wrapped() { return reinterpret_cast<void *>(lane_by_lane<function>); }
void own_functions(void **functions) {
  void *own[FUNCTIONS] = {wrapped<exp>(), wrapped<expm1>(), wrapped<log1p>(), wrapped<tanh>(), wrapped<erfc>(),
                          wrapped<sin>(), wrapped<cos>(), wrapped<sinh>(),    wrapped<cosh>()};
  memcpy(functions, own, sizeof own);
}

} // namespace

// Loading the module must run nothing of this file: the machine may lack the instructions. Hence constexpr.
extern const Kernel KERNEL;
constexpr Kernel KERNEL{NAME, W, memory_of, run, own_functions, {}};

} // namespace semiflat
