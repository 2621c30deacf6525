// The element rules of pooling (docs/bits.md). F is float or a SIMD type.
#pragma once

#include "core/element.h"

EVK_NAMESPACE_BEGIN

// NaN wins, the first of equals stays.
template <class F>
EVK_INLINE F larger(F most, F x) {
  return Element<F>::select((x > most) | (x != x), x, most);
}

// The part of a window of `kernel` elements from `start` that lies inside an axis of `size`.
struct Window {
  i64 begin, end;
};

EVK_INLINE Window inside(i64 start, i64 kernel, i64 size) {
  return Window{start < 0 ? 0 : start, start + kernel < size ? start + kernel : size};
}

// The windows of a pool's outputs along either axis. S is a Step, or has its fields of a pool.
template <class S>
EVK_INLINE Window rows_of(const S& s, i64 row) {
  return inside(row * s.stride_height - s.pad_height, s.kernel_height, s.height);
}

template <class S>
EVK_INLINE Window columns_of(const S& s, i64 column) {
  return inside(column * s.stride_width - s.pad_width, s.kernel_width, s.width);
}

// What an average divides by: the elements of a window, padding counted or not.
template <class S>
EVK_INLINE float window_elements(const S& s, Window rows, Window columns) {
  const i64 present = (rows.end - rows.begin) * (columns.end - columns.begin);
  const i64 elements = s.count_include_pad ? s.kernel_height * s.kernel_width : present;
  return static_cast<float>(elements);
}

EVK_NAMESPACE_END
