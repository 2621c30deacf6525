// Writes an element rule's results for ranges of bit patterns to stdout, as raw fp32:
//   activation_table FUNCTION LANES (FIRST COUNT STRIDE)...
// A range holds the inputs with the bits FIRST, FIRST + STRIDE, ... modulo 2^32. LANES is 1 (float)
// or 8 (a vector); COUNT is a multiple of 8. tests/test_activation.py compiles, runs and compares.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/activation.h"

EVK_NAMESPACE_BEGIN

constexpr int kLanes = 8;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef u32 Uints __attribute__((vector_size(4 * kLanes)));
typedef i32 Ints __attribute__((vector_size(4 * kLanes)));

template <>
struct Element<Floats> {
  using Uint = Uints;
  using Int = Ints;
  static constexpr int lanes = kLanes;

  EVK_INLINE Floats all(float value) { return value - Floats{}; }
  EVK_INLINE Uints all_uint(u32 value) { return value - Uints{}; }
  EVK_INLINE Uints bits(Floats value) { return reinterpret_cast<Uints>(value); }
  EVK_INLINE Floats from_bits(Uints value) { return reinterpret_cast<Floats>(value); }
  EVK_INLINE Floats to_float(Ints value) { return __builtin_convertvector(value, Floats); }
  EVK_INLINE Ints as_int(Uints value) { return reinterpret_cast<Ints>(value); }
};

// leaky_relu's slope, which the NumPy side of the comparison uses too.
constexpr float kSlope = 0.01f;

struct Rule {
  const char* name;
  float (*one)(float);
  void (*many)(const float*, float*);
};

template <Floats (*FUNCTION)(Floats)>
void eight(const float* in, float* out) {
  Floats x;
  std::memcpy(&x, in, sizeof x);
  Floats y = FUNCTION(x);
  std::memcpy(out, &y, sizeof y);
}

template <int CODE, class F>
F activation(F x) {
  return activate<CODE, F>(x, kSlope);
}

template <int CODE>
constexpr Rule rule(const char* name) {
  return {name, activation<CODE, float>, eight<activation<CODE, Floats>>};
}

const Rule kRules[] = {
    {"exp", exp<float>, eight<exp<Floats>>}, {"log", log<float>, eight<log<Floats>>},
    {"erf", erf<float>, eight<erf<Floats>>}, rule<activation_code::identity>("identity"),
    rule<activation_code::relu>("relu"),     rule<activation_code::leaky_relu>("leaky_relu"),
    rule<activation_code::tanh>("tanh"),     rule<activation_code::sigmoid>("sigmoid"),
    rule<activation_code::gelu>("gelu"),     rule<activation_code::gelu_tanh>("gelu_tanh"),
    rule<activation_code::silu>("silu"),
};

void write_table(const Rule& rule, bool vectors, u32 first, u64 count, u32 stride) {
  constexpr u64 kChunk = 1 << 16;
  std::vector<float> in(kChunk), out(kChunk);
  for (u64 start = 0; start < count; start += kChunk) {
    const u64 size = count - start < kChunk ? count - start : kChunk;
    for (u64 i = 0; i < size; ++i) {
      const u32 bits = first + static_cast<u32>(start + i) * stride;
      std::memcpy(&in[i], &bits, 4);
    }
    if (vectors) {
      for (u64 i = 0; i < size; i += kLanes) rule.many(&in[i], &out[i]);
    } else {
      for (u64 i = 0; i < size; ++i) out[i] = rule.one(in[i]);
    }
    if (std::fwrite(out.data(), 4, size, stdout) != size) std::exit(1);
  }
}

u64 number(const char* word) { return std::strtoull(word, nullptr, 10); }

int run(const char* name, const char* lanes, char** ranges) {
  for (const Rule& rule : kRules) {
    if (std::strcmp(rule.name, name) != 0) continue;
    for (; *ranges != nullptr; ranges += 3) {
      write_table(rule, number(lanes) == kLanes, static_cast<u32>(number(ranges[0])),
                  number(ranges[1]), static_cast<u32>(number(ranges[2])));
    }
    return 0;
  }
  return 2;
}

EVK_NAMESPACE_END

int main(int count, char** words) {
  if (count < 3 || count % 3 != 0) return 2;
  return evk::EVK_ISA::run(words[1], words[2], words + 3);
}
