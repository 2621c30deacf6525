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

EVK_NAMESPACE_END
