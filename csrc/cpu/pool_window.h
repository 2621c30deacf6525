// One window of a pool, wherever the elements of an image lie.
#pragma once

#include "core/pool.h"
#include "cpu/simd.h"

EVK_NAMESPACE_BEGIN

// F is float, or Float where channels or samples lie side by side.
template <bool Max, class F>
EVK_INLINE F pool_window(const float* x, i64 row_stride, i64 column_stride, Window rows,
                         Window columns, float elements) {
  const auto at = [&](i64 row, i64 column) {
    const float* from = x + row * row_stride + column * column_stride;
    if constexpr (Element<F>::lanes > 1) {
      return load(from);
    } else {
      return *from;
    }
  };
  F acc = Max ? at(rows.begin, columns.begin) : Element<F>::all(0.0f);
  for (i64 row = rows.begin; row < rows.end; ++row) {
    for (i64 column = columns.begin; column < columns.end; ++column) {
      const F value = at(row, column);
      acc = Max ? larger(acc, value) : acc + value;
    }
  }
  return Max ? acc : acc / Element<F>::all(elements);
}

EVK_NAMESPACE_END
