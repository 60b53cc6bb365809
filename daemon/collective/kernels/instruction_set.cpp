// The name of the instruction set that this CPU runs. It is chosen in the same way as in the families.
#include "daemon/collective/kernels/reduce.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "daemon/collective/kernels/instruction_set.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include <string_view>

HWY_BEFORE_NAMESPACE();
namespace musterd::kernels::HWY_NAMESPACE {

const char* instruction_set() { return hwy::TargetName(HWY_TARGET); }

}  // namespace musterd::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace musterd::kernels {

HWY_EXPORT(instruction_set);
const char* instruction_set() {
  const char* const found = HWY_DYNAMIC_DISPATCH(instruction_set)();
  // Highway's own name for AVX-512, with what is beside it: AVX3_DL, AVX3_SPR.
  return std::string_view(found).starts_with("AVX3") ? "AVX-512" : found;
}

}  // namespace musterd::kernels
#endif
