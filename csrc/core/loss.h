// The element rules of losses (docs/bits.md). F is float, or a SIMD type of several samples; z(i)
// is output i.
#pragma once

#include "core/activation.h"
#include "core/pool.h"

EVK_NAMESPACE_BEGIN

template <class F>
struct LogSumExp {
  F value;       // log(sum(exp(z))), from which the caller takes the label's logit
  F prediction;  // the first of the largest classes, or -1 where a logit is NaN
};

template <class F, class Count, class Z>
EVK_INLINE LogSumExp<F> log_sum_exp(Count classes, const Z& z) {
  using E = Element<F>;
  const F one = E::all(1.0f);
  F most = z(0), number = E::all(0.0f), first = number;
  for (Count c = 1; c < classes; ++c) {
    const F logit = z(c);
    number = number + one;
    first = E::select(logit > most, number, first);
    most = larger(most, logit);
  }
  F sum = E::all(0.0f);
  for (Count c = 0; c < classes; ++c) sum = sum + exp<F>(z(c) - most);
  return {log<F>(sum) + most, E::select(most == most, first, E::all(-1.0f))};
}

template <class Count, class Z>
EVK_INLINE float squared_error(Count outputs, const Z& z, const float* target) {
  float sum = 0.0f;
  for (Count o = 0; o < outputs; ++o) {
    const float error = z(o) - target[o];
    sum = sum + error * error;
  }
  return sum / static_cast<float>(outputs);
}

EVK_NAMESPACE_END
