#include "text.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

std::string text_of(Site site) {
  const char* slash = strrchr(site.file, '/');
  return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

std::string text_of(uint3 at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) +
         ")";
}

std::string text_of_mask(uint32_t mask) {
  char text[16];
  snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

std::string text_of(Collective what) {
  static const char* const names[] = {"__syncwarp",        "__shfl_sync",       "__shfl_up_sync",
                                      "__shfl_down_sync",  "__shfl_xor_sync",   "__ballot_sync",
                                      "__match_any_sync",  "__reduce_add_sync", "__reduce_min_sync",
                                      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",
                                      "__reduce_xor_sync"};
  return names[static_cast<int>(what)];
}

std::string text_of_wait(const Thread& thread) {
  if (thread.state == State::kAtBarrier) return "__syncthreads at " + text_of(thread.site);
  return text_of(thread.what) + " at " + text_of(thread.site);
}

std::string kernel_name(const void* key) {
  std::string name;
#if defined(__SANITIZE_ADDRESS__)
  char text[1024];
  // It wants to be given return addresses.
  char* inside = static_cast<char*>(const_cast<void*>(key)) + 1;
  __sanitizer_symbolize_pc(inside, "%f", text, sizeof text);
  name = text;
#else
  Dl_info info;
  if (!dladdr(key, &info) || !info.dli_sname) return "a kernel";
  int status = 0;
  char* text = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  name = text ? text : info.dli_sname;
  free(text);
#endif
  name = name.substr(0, name.find('('));
  // Templates come with what they return.
  return name.rfind("void ", 0) == 0 ? name.substr(5) : name;
}

}  // namespace simt
