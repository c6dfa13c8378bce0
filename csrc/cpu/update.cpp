// The updates of SGD, Adam and AdamW; and sgd_ and adam_, their ops.
#include "update.h"

#include <torch/csrc/stable/library.h>

#include <cmath>

#include "loops.h"

namespace tmb {
namespace {

// g = a sum + b p, for which penalty, clipping and a coupled weight decay have been multiplied out.
template <typename T>
struct Gradient {
  T a, b;
};

constexpr int64_t kShortSum = 512;

// Σ (a sum + b p)²
template <typename T>
TMB_CLONES double gradient_squares(const T* sum, const T* p, Gradient<T> g, int64_t n) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kShortSum) {
    const int64_t end = std::min(n, begin + kShortSum);
    T part = 0;
    _Pragma("omp simd reduction(+ : part)") for (int64_t i = begin; i < end; ++i) {
      const T gradient = g.a * sum[i] + g.b * p[i];
      part += gradient * gradient;
    }
    total += part;
  }
  return total;
}
template double gradient_squares<float>(const float*, const float*, Gradient<float>, int64_t);
template double gradient_squares<double>(const double*, const double*, Gradient<double>, int64_t);

enum class Momentum { none, plain, nesterov };

// buf ← μ buf + g;  p ← p − η (g, buf, or g + μ buf)
template <typename T, Momentum M>
TMB_CLONES void sgd_range(T* p, const T* sum, T* buffer, Gradient<T> g, T lr, T momentum, int64_t n) {
  TMB_SIMD for (int64_t i = 0; i < n; ++i) {
    T step = g.a * sum[i] + g.b * p[i];
    if constexpr (M != Momentum::none) {
      buffer[i] = momentum * buffer[i] + step;
      step = M == Momentum::nesterov ? step + momentum * buffer[i] : buffer[i];
    }
    p[i] -= lr * step;
  }
}
#define TMB_INSTANTIATE(T, M) \
  template void sgd_range<T, Momentum::M>(T*, const T*, T*, Gradient<T>, T, T, int64_t);
#define TMB_EACH(T) TMB_INSTANTIATE(T, none) TMB_INSTANTIATE(T, plain) TMB_INSTANTIATE(T, nesterov)
TMB_EACH(float)
TMB_EACH(double)
#undef TMB_EACH
#undef TMB_INSTANTIATE

// m ← m + (1−β₁)(g − m);  v ← β₂ v + (1−β₂) g²;  p ← keep p − size m / (√v / correction + ε)
template <typename T>
struct AdamStep {
  T m_share, v_keep, v_share, keep, size, inverse_correction, eps;
};

template <typename T>
TMB_CLONES void adam_range(T* p, const T* sum, T* m, T* v, Gradient<T> g, AdamStep<T> s, int64_t n) {
  TMB_SIMD for (int64_t i = 0; i < n; ++i) {
    const T gradient = g.a * sum[i] + g.b * p[i];
    m[i] += s.m_share * (gradient - m[i]);
    v[i] = s.v_keep * v[i] + s.v_share * gradient * gradient;
    p[i] = s.keep * p[i] - s.size * m[i] / (std::sqrt(v[i]) * s.inverse_correction + s.eps);
  }
}
template void adam_range<float>(float*, const float*, float*, float*, Gradient<float>, AdamStep<float>, int64_t);
template void adam_range<double>(double*, const double*, double*, double*, Gradient<double>, AdamStep<double>, int64_t);

// f(begin, end) over [0, n) in chunks of kGrain, over threads.
template <typename F>
void in_chunks(int64_t n, const F& f) {
  parallel_for((n + kGrain - 1) / kGrain, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      f(i * kGrain, std::min(n, (i + 1) * kGrain));
    }
  });
}

template <typename T>
double squares_of(const Parameter<T>& parameter, Gradient<T> g) {
  if (parameter.n <= kGrain) {
    return gradient_squares(parameter.sum, parameter.p, g, parameter.n);
  }
  std::vector<double> partial(static_cast<size_t>((parameter.n + kGrain - 1) / kGrain));
  in_chunks(parameter.n, [&](int64_t begin, int64_t end) {
    partial[begin / kGrain] = gradient_squares(parameter.sum + begin, parameter.p + begin, g, end - begin);
  });
  double total = 0;
  for (const double part : partial) {
    total += part;
  }
  return total;
}

// torch.nn.utils.clip_grad_norm_'s: min(1, clip_norm / (‖g‖ + 1e-6)); a NaN stays one.
template <typename T, typename Hyper>
double clip_coefficient(const Parameter<T>* parameters, const Hyper* hyper, int64_t count, double scale,
                        double clip_norm) {
  if (clip_norm == std::numeric_limits<double>::infinity()) {
    return 1;
  }
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    squares += squares_of(parameters[i], Gradient<T>{static_cast<T>(scale), static_cast<T>(hyper[i].penalty)});
  }
  const double coefficient = clip_norm / (std::sqrt(squares) + 1e-6);
  return coefficient > 1 ? 1 : coefficient;
}

}  // namespace

template <typename T>
double sum_squares(const T* v, int64_t n) {
  return gradient_squares(v, v, Gradient<T>{1, 0}, n);
}
template double sum_squares<float>(const float*, int64_t);
template double sum_squares<double>(const double*, int64_t);

template <typename T>
void sgd_update(const Parameter<T>* parameters, const SgdHyper* hyper, int64_t count, double scale, double clip_norm,
                bool nesterov) {
  const double clip = clip_coefficient(parameters, hyper, count, scale, clip_norm);
  for (int64_t i = 0; i < count; ++i) {
    const Parameter<T>& u = parameters[i];
    const Gradient<T> g{static_cast<T>(clip * scale),
                        static_cast<T>(clip * hyper[i].penalty + hyper[i].weight_decay)};
    const auto range = u.first == nullptr ? &sgd_range<T, Momentum::none>
                       : nesterov         ? &sgd_range<T, Momentum::nesterov>
                                          : &sgd_range<T, Momentum::plain>;
    in_chunks(u.n, [&](int64_t begin, int64_t end) {
      range(u.p + begin, u.sum + begin, u.first == nullptr ? nullptr : u.first + begin, g, static_cast<T>(hyper[i].lr),
            static_cast<T>(hyper[i].momentum), end - begin);
    });
  }
}
template void sgd_update<float>(const Parameter<float>*, const SgdHyper*, int64_t, double, double, bool);
template void sgd_update<double>(const Parameter<double>*, const SgdHyper*, int64_t, double, double, bool);

template <typename T>
void adam_update(const Parameter<T>* parameters, const AdamHyper* hyper, int64_t count, double scale, double clip_norm,
                 bool decoupled) {
  const double clip = clip_coefficient(parameters, hyper, count, scale, clip_norm);
  AdamStep<T> s{};
  for (int64_t i = 0; i < count; ++i) {
    const Parameter<T>& u = parameters[i];
    const AdamHyper& now = hyper[i];
    const bool as_before = i > 0 && now.beta1 == hyper[i - 1].beta1 && now.beta2 == hyper[i - 1].beta2 &&
                           now.lr == hyper[i - 1].lr && u.steps == parameters[i - 1].steps;
    if (!as_before) {  // two powers cost as much as a small parameter
      s.size = static_cast<T>(now.lr / (1 - std::pow(now.beta1, u.steps)));
      s.inverse_correction = static_cast<T>(1 / std::sqrt(1 - std::pow(now.beta2, u.steps)));
    }
    s.m_share = static_cast<T>(1 - now.beta1);
    s.v_keep = static_cast<T>(now.beta2);
    s.v_share = static_cast<T>(1 - now.beta2);
    s.keep = static_cast<T>(decoupled ? 1 - now.lr * now.weight_decay : 1);
    s.eps = static_cast<T>(now.eps);
    const Gradient<T> g{static_cast<T>(clip * scale),
                        static_cast<T>(clip * now.penalty + (decoupled ? 0 : now.weight_decay))};
    in_chunks(u.n, [&](int64_t begin, int64_t end) {
      adam_range(u.p + begin, u.sum + begin, u.first + begin, u.second + begin, g, s, end - begin);
    });
  }
}
template void adam_update<float>(const Parameter<float>*, const AdamHyper*, int64_t, double, double, bool);
template void adam_update<double>(const Parameter<double>*, const AdamHyper*, int64_t, double, double, bool);

namespace {

template <typename T>
std::vector<Parameter<T>> parameters_of(const Tensors& p, const Tensors& g, const Tensors& first,
                                        const Tensors& second) {
  std::vector<Parameter<T>> parameters(p.size());
  for (size_t i = 0; i < p.size(); ++i) {
    parameters[i] = {data<T>(p[i]), const_data<T>(g[i]), p[i].numel(), first.empty() ? nullptr : data<T>(first[i]),
                     second.empty() ? nullptr : data<T>(second[i]), 0};
  }
  return parameters;
}

void sgd_(Tensors p, Tensors g, Tensors momentum_buffer, Tensor hyper, double clip_norm, bool nesterov) {
  check_sgd_update(p, g, momentum_buffer, hyper);
  with_wide_type(p[0].scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto parameters = parameters_of<T>(p, g, momentum_buffer, {});
    sgd_update(parameters.data(), const_data<SgdHyper>(hyper), p.size(), 1.0, clip_norm, nesterov);
  });
}

void adam_(Tensors p, Tensors g, Tensors exp_avg, Tensors exp_avg_sq, Tensors step, Tensor hyper, double clip_norm,
           bool decoupled) {
  check_adam_update(p, g, exp_avg, exp_avg_sq, step, hyper);
  with_wide_type(p[0].scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    auto parameters = parameters_of<T>(p, g, exp_avg, exp_avg_sq);
    for (size_t i = 0; i < p.size(); ++i) {
      parameters[i].steps = *const_data<float>(step[i]) + 1;
    }
    adam_update(parameters.data(), const_data<AdamHyper>(hyper), p.size(), 1.0, clip_norm, decoupled);
    for (size_t i = 0; i < p.size(); ++i) {
      *data<float>(step[i]) = static_cast<float>(parameters[i].steps);
    }
  });
}

}  // namespace
}  // namespace tmb

STABLE_TORCH_LIBRARY_IMPL(torch_manual_bp, CPU, m) {
  m.impl("sgd_", TORCH_BOX(&tmb::sgd_));
  m.impl("adam_", TORCH_BOX(&tmb::adam_));
}
