// init_genomes, crossover_mutate, mutate_sigma, replay.
#include <algorithm>

#include "cpu/bindings.h"

namespace {

// Parts [n, 4] as (rows, outputs, content, continues), scales [n] or none.
std::vector<evk::GenePart> parts_of(const Array& parts, const OptionalArray& scales) {
  std::vector<evk::GenePart> result(static_cast<size_t>(parts.shape(0)));
  const int64_t* values = data<int64_t>(parts);
  for (size_t i = 0; i < result.size(); ++i, values += 4) {
    const auto content = static_cast<evk::GeneContent>(values[2]);
    const float scale = scales ? data<float>(*scales)[i] : 0.0f;
    result[i] = {values[0], values[1], content, values[3] != 0, scale};
  }
  return result;
}

void init_genomes(const Array& out, const Array& parts, const Array& scales, int scheme,
                  uint64_t seed, uint32_t first) {
  const std::vector<evk::GenePart> list = parts_of(parts, scales);
  const evk::InitGenomesParams p{mutable_data<float>(out),
                                 stride(out, 0),
                                 out.shape(0),
                                 out.shape(1),
                                 list.data(),
                                 static_cast<int64_t>(list.size()),
                                 static_cast<evk::InitScheme>(scheme),
                                 seed,
                                 first};
  const Running running;
  active->init_genomes(p);
}

void crossover_mutate(const Array& genomes, const Array& parents, const Array& sigma,
                      const OptionalArray& weights, const OptionalArray& parts, const Array& out,
                      const OptionalArray& out_rows, int kind, int distribution,
                      uint64_t rate_threshold, uint64_t mutation_threshold, uint64_t seed,
                      uint32_t generation, uint32_t first) {
  const std::vector<evk::GenePart> list =
      parts ? parts_of(*parts, std::nullopt) : std::vector<evk::GenePart>{};
  evk::CrossoverMutateParams p{};
  p.genomes = data<float>(genomes);
  p.genomes_stride = stride(genomes, 0);
  p.parents = data<int32_t>(parents);
  p.parents_stride = stride(parents, 0);
  p.sigma = data<float>(sigma);
  p.weights = data<float>(weights);
  p.weights_stride = weights ? stride(*weights, 0) : 0;
  p.out_rows = data<int32_t>(out_rows);
  p.out = mutable_data<float>(out);
  p.out_stride = stride(out, 0);
  p.parent_count = parents.shape(0);
  p.slots = parents.shape(1);
  p.genes = genomes.shape(1);
  p.kind = static_cast<evk::CrossoverKind>(kind);
  p.distribution = static_cast<evk::Distribution>(distribution);
  p.rate_threshold = rate_threshold;
  p.mutation_threshold = mutation_threshold;
  p.parts = list.data();
  p.part_count = static_cast<int64_t>(list.size());
  p.seed = seed;
  p.generation = generation;
  p.first = first;
  const Running running;
  active->crossover_mutate(p);
}

void mutate_sigma(const Array& sigma, const Array& out, float tau, uint64_t seed,
                  uint32_t generation, uint32_t first) {
  const evk::MutateSigmaParams p{
      data<float>(sigma), mutable_data<float>(out), sigma.shape(0), tau, seed, generation, first};
  const Running running;
  active->mutate_sigma(p);
}

// What a thread's scratch rows may take together: they stay in its second cache.
constexpr int64_t kReplayCacheBytes = 512 << 10;
constexpr int64_t kReplayGenes = 4096;

// Genes that go through a program at once.
int64_t replay_segment(int64_t rows, int64_t genes) {
  const int64_t units = (genes + evk::kReplayUnit - 1) / evk::kReplayUnit;
  const int64_t most = kReplayGenes / evk::kReplayUnit;
  const int64_t fitting = kReplayCacheBytes / (rows * evk::kReplayUnit * int64_t{4});
  return evk::kReplayUnit * std::max<int64_t>(1, std::min({units, most, fitting}));
}

// The arrays of an evokern._replay_program.ReplayProgram; weights [R] for arithmetic crossover.
void replay(const py::object& program, const Array& out, const Array& parts, const Array& scales,
            const OptionalArray& weights, int scheme, int kind, int distribution,
            uint64_t rate_threshold, uint64_t mutation_threshold, uint64_t seed) {
  const std::vector<evk::GenePart> list = parts_of(parts, scales);
  const auto array = [&program](const char* name) { return program.attr(name).cast<Array>(); };
  const auto number = [&program](const char* name) { return program.attr(name).cast<int64_t>(); };
  evk::ReplayParams p{};
  p.out = mutable_data<float>(out);
  p.out_stride = stride(out, 0);
  p.outputs = out.shape(0);
  p.genes = out.shape(1);
  p.parts = list.data();
  p.part_count = static_cast<int64_t>(list.size());
  p.scheme = static_cast<evk::InitScheme>(scheme);
  p.kind = static_cast<evk::CrossoverKind>(kind);
  p.distribution = static_cast<evk::Distribution>(distribution);
  p.rate_threshold = rate_threshold;
  p.mutation_threshold = mutation_threshold;
  p.weights = data<float>(weights);
  p.seed = seed;
  p.runs = array("target").shape(0);
  p.start = data<int32_t>(array("start"));
  p.source = data<int32_t>(array("source"));
  p.target = data<int32_t>(array("target"));
  p.final = data<bool>(array("final"));
  p.first_step = data<int64_t>(array("first_step"));
  p.crossed = data<int32_t>(array("crossed"));
  p.parent_count = array("crossed").shape(1);
  p.generation = data<uint32_t>(array("generation"));
  p.number = data<uint32_t>(array("number"));
  p.sigma = data<float>(array("sigma"));
  p.independent = program.attr("independent").cast<bool>();
  p.scratch_rows = number("scratch_rows");
  p.segment = replay_segment(p.scratch_rows + 1, p.genes);
  for (const evk::GenePart& part : list) {
    if (part.content == evk::GeneContent::kWeights) p.weight_columns += part.outputs;
  }

  const int64_t founders = p.scheme == evk::InitScheme::kUnitRows ? number("founders") : 0;
  const int threads = thread_count();
  const int64_t scratch = threads * (p.scratch_rows + 1) * p.segment;
  const auto bytes = static_cast<size_t>(scratch + founders * p.weight_columns) * sizeof(float);
  const Memory memory = allocate(bytes);
  p.scratch = static_cast<float*>(memory.get());
  p.lengths = founders > 0 ? p.scratch + scratch : nullptr;
  const Running running(threads);
  active->replay(p);
}

}  // namespace

void bind_variation(py::module_& m) {
  m.def("init_genomes", &init_genomes);
  m.def("crossover_mutate", &crossover_mutate);
  m.def("mutate_sigma", &mutate_sigma);
  m.def("replay", &replay);
}
