// init_genomes, crossover_mutate, mutate_sigma, replay. Small arrays are addresses in one block of
// the device's memory (device.Block), 0 for none.
#include <stddef.h>

#include <map>

#include "cuda/bindings.h"

namespace {

// evokern/backends/parts.py builds them as a NumPy structure.
static_assert(sizeof(evk::GenePart) == 56 && offsetof(evk::GenePart, first_gene) == 32);

void init_genomes(const py::object& out, Address parts, int64_t part_count, int scheme,
                  uint64_t seed, uint32_t first, Address stream) {
  const Array to(out);
  const evk::InitGenomesParams p{to.data<float>(),
                                 to.stride(0),
                                 to.shape(0),
                                 to.shape(1),
                                 at<const evk::GenePart>(parts),
                                 part_count,
                                 static_cast<evk::InitScheme>(scheme),
                                 seed,
                                 first};
  check("init_genomes", evk::cuda::init_genomes(p, stream_of(stream)));
}

void crossover_mutate(const py::object& genomes, const py::object& out, int64_t parent_count,
                      int64_t slots, Address parents, Address sigma, Address weights,
                      Address out_rows, Address parts, int64_t part_count, int kind,
                      int distribution, uint64_t rate_threshold, uint64_t mutation_threshold,
                      uint64_t seed, uint32_t generation, uint32_t first, Address stream) {
  const Array from(genomes), to(out);
  evk::CrossoverMutateParams p{};
  p.genomes = from.data<const float>();
  p.genomes_stride = from.stride(0);
  p.parents = at<const int32_t>(parents);
  p.parents_stride = slots;
  p.sigma = at<const float>(sigma);
  p.weights = at<const float>(weights);
  p.weights_stride = slots;
  p.out_rows = at<const int32_t>(out_rows);
  p.out = to.data<float>();
  p.out_stride = to.stride(0);
  p.parent_count = parent_count;
  p.slots = slots;
  p.genes = from.shape(1);
  p.kind = static_cast<evk::CrossoverKind>(kind);
  p.distribution = static_cast<evk::Distribution>(distribution);
  p.rate_threshold = rate_threshold;
  p.mutation_threshold = mutation_threshold;
  p.parts = at<const evk::GenePart>(parts);
  p.part_count = part_count;
  p.seed = seed;
  p.generation = generation;
  p.first = first;
  check("crossover_mutate", evk::cuda::crossover_mutate(p, stream_of(stream)));
}

void mutate_sigma(const py::object& sigma, const py::object& out, float tau, uint64_t seed,
                  uint32_t generation, uint32_t first, Address stream) {
  const Array from(sigma), to(out);
  const evk::MutateSigmaParams p{
      from.data<const float>(), to.data<float>(), from.shape(0), tau, seed, generation, first};
  check("mutate_sigma", evk::cuda::mutate_sigma(p, stream_of(stream)));
}

// `arrays` holds the addresses of a program's arrays by their names in
// evokern._replay_program.ReplayProgram, and those of `parts`, `weights`, `scratch` [scratch_rows,
// segment] and `lengths`.
void replay(const py::object& out, const std::map<std::string, Address>& arrays, int64_t runs,
            int64_t parent_count, int64_t part_count, int64_t weight_columns, bool independent,
            int64_t segment, int scheme, int kind, int distribution, uint64_t rate_threshold,
            uint64_t mutation_threshold, uint64_t seed, Address stream) {
  const Array to(out);
  evk::ReplayParams p{};
  p.out = to.data<float>();
  p.out_stride = to.stride(0);
  p.outputs = to.shape(0);
  p.genes = to.shape(1);
  p.parts = at<const evk::GenePart>(arrays.at("parts"));
  p.part_count = part_count;
  p.scheme = static_cast<evk::InitScheme>(scheme);
  p.kind = static_cast<evk::CrossoverKind>(kind);
  p.distribution = static_cast<evk::Distribution>(distribution);
  p.rate_threshold = rate_threshold;
  p.mutation_threshold = mutation_threshold;
  p.weights = at<const float>(arrays.at("weights"));
  p.seed = seed;
  p.runs = runs;
  p.start = at<const int32_t>(arrays.at("start"));
  p.source = at<const int32_t>(arrays.at("source"));
  p.target = at<const int32_t>(arrays.at("target"));
  p.first_step = at<const int64_t>(arrays.at("first_step"));
  p.crossed = at<const int32_t>(arrays.at("crossed"));
  p.parent_count = parent_count;
  p.generation = at<const uint32_t>(arrays.at("generation"));
  p.number = at<const uint32_t>(arrays.at("number"));
  p.sigma = at<const float>(arrays.at("sigma"));
  p.independent = independent;
  p.segment = segment;
  p.scratch = at<float>(arrays.at("scratch"));
  p.lengths = at<float>(arrays.at("lengths"));
  p.weight_columns = weight_columns;
  check("replay", evk::cuda::replay(p, stream_of(stream)));
}

}  // namespace

void bind_variation(py::module_& m) {
  m.def("init_genomes", &init_genomes);
  m.def("crossover_mutate", &crossover_mutate);
  m.def("mutate_sigma", &mutate_sigma);
  m.def("replay", &replay);
}
