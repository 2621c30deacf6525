// Pools, affine and residual as ops of their own, on arrays as the caller has them.
#include "cpu/network.h"
#include "cpu/pool_window.h"

EVK_NAMESPACE_BEGIN

namespace {

template <bool Max>
void pool_images(const PoolParams& p) {
  const Step& s = p.step;
#pragma omp parallel
  {
    const FloatEnvironment environment;
#pragma omp for schedule(static)
    for (i64 number = 0; number < p.images; ++number) {
      const float* image = p.x + number * p.image_stride;
      for (i64 i = 0; i < s.out_height; ++i) {
        const Window rows = rows_of(s, i);
        float* out = p.out + number * p.out_image_stride + i * p.out_row_stride;
        for (i64 j = 0; j < s.out_width; ++j) {
          const Window columns = columns_of(s, j);
          const float elements = window_elements(s, rows, columns);
          out[j] = pool_window<Max, float>(image, p.row_stride, 1, rows, columns, elements);
        }
      }
    }
  }
}

}  // namespace

void max_pool2d(const PoolParams& p) { pool_images<true>(p); }

void avg_pool2d(const PoolParams& p) { pool_images<false>(p); }

void affine(const AffineParams& p) {
#pragma omp parallel
  {
    const FloatEnvironment environment;
#pragma omp for collapse(2) schedule(static)
    for (i64 slot = 0; slot < p.slots; ++slot) {
      for (i64 sample = 0; sample < p.samples; ++sample) {
        const i64 individual = p.index[slot];
        for (i64 channel = 0; channel < p.channels; ++channel) {
          const float scale = p.scale[individual * p.scale_stride + channel];
          const float shift = p.shift[individual * p.shift_stride + channel];
          const float* x =
              p.x + slot * p.x_strides[0] + sample * p.x_strides[1] + channel * p.x_strides[2];
          float* out = p.out + slot * p.out_strides[0] + sample * p.out_strides[1] +
                       channel * p.out_strides[2];
          for (i64 i = 0; i < p.length; ++i) out[i] = x[i] * scale + shift;
        }
      }
    }
  }
}

void residual(const ResidualParams& p) {
  constexpr i64 chunk = 4096;  // floats that stay in the first cache between add and activation
#pragma omp parallel
  {
    const FloatEnvironment environment;
#pragma omp for schedule(static)
    for (i64 first = 0; first < p.count; first += chunk) {
      const i64 end = smaller_of(first + chunk, p.count);
      for (i64 i = first; i < end; ++i) p.out[i] = p.x[i] + p.y[i];
      activate_in_place(p.out + first, end - first, p.activation, p.slope);
    }
  }
}

EVK_NAMESPACE_END
