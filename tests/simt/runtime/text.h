// What failures say.
#pragma once

#include <string>

#include "harness.h"

#pragma GCC visibility push(hidden)

namespace simt {

std::string text_of(Site site);
std::string text_of(uint3 at);
std::string text_of(Collective what);
std::string text_of_mask(uint32_t mask);
std::string text_of_wait(const Thread& thread);

}  // namespace simt

#pragma GCC visibility pop
