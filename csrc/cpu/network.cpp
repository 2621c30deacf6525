// network_forward and network_loss. A batch of many samples goes through the layers as tiles of
// samples side by side; residual and recurrent layers, large images and few samples go one by one
// (use_tiles of evokern/backends/steps.py). Both give the same bits: every output is one chain of
// multiply-adds in the order of its inputs.
#include "cpu/network.h"

EVK_NAMESPACE_BEGIN

int64_t network_workspace_bytes(const NetworkParams& p) {
  return p.tiles ? tiles_workspace_bytes(p) : samples_workspace_bytes(p);
}

void network(const NetworkParams& p) { p.tiles ? run_tiles(p) : run_samples(p); }

EVK_NAMESPACE_END
