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

// One mean per image: its sum is one chain of additions, so those of some images go side by side.
void mean_of_images(const PoolParams& p) {
  constexpr i64 together = 8;
  const Window rows = rows_of(p.step, 0), columns = columns_of(p.step, 0);
  const float elements = window_elements(p.step, rows, columns);
#pragma omp parallel
  {
    const FloatEnvironment environment;
#pragma omp for schedule(static)
    for (i64 first = 0; first < p.images; first += together) {
      const float* images[together];
      float sums[together] = {};
      for (i64 i = 0; i < together; ++i) {
        images[i] = p.x + smaller_of(first + i, p.images - 1) * p.image_stride;
      }
      for (i64 row = rows.begin; row < rows.end; ++row) {
        const i64 end = row * p.row_stride + columns.end;
        for (i64 at = row * p.row_stride + columns.begin; at < end; ++at) {
          for (i64 i = 0; i < together; ++i) sums[i] = sums[i] + images[i][at];
        }
      }
      for (i64 i = 0; i < smaller_of(together, p.images - first); ++i) {
        p.out[(first + i) * p.out_image_stride] = sums[i] / elements;
      }
    }
  }
}

// out[i] = x[i] * scale[i] + shift[i]; `out` may be `x`.
void affine_row(const float* x, const float* scale, const float* shift, i64 count, float* out) {
  i64 i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(out + i, load(x + i) * load(scale + i) + load(shift + i));
  }
  for (; i < count; ++i) out[i] = x[i] * scale[i] + shift[i];
}

}  // namespace

void max_pool2d(const PoolParams& p) { pool_images<true>(p); }

void avg_pool2d(const PoolParams& p) {
  p.step.out_height* p.step.out_width == 1 ? mean_of_images(p) : pool_images<false>(p);
}

void affine(const AffineParams& p) {
#pragma omp parallel
  {
    const FloatEnvironment environment;
#pragma omp for collapse(2) schedule(static)
    for (i64 slot = 0; slot < p.slots; ++slot) {
      for (i64 sample = 0; sample < p.samples; ++sample) {
        const float* scale = p.scale + p.index[slot] * p.scale_stride;
        const float* shift = p.shift + p.index[slot] * p.shift_stride;
        const float* x = p.x + slot * p.x_strides[0] + sample * p.x_strides[1];
        float* out = p.out + slot * p.out_strides[0] + sample * p.out_strides[1];
        if (p.length == 1 && p.x_strides[2] == 1 && p.out_strides[2] == 1) {
          affine_row(x, scale, shift, p.channels, out);
          continue;
        }
        for (i64 channel = 0; channel < p.channels; ++channel) {
          const float* from = x + channel * p.x_strides[2];
          float* to = out + channel * p.out_strides[2];
          for (i64 i = 0; i < p.length; ++i) to[i] = from[i] * scale[channel] + shift[channel];
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
