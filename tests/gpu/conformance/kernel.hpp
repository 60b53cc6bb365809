// One kernel in PTX, which every driver compiles for its device: it stores a value at an address.
#pragma once

namespace conformance {

constexpr const char* kernel_image = R"(
.version 6.4
.target sm_70
.address_size 64
.visible .entry store_value(.param .u64 address, .param .u32 value)
{
  .reg .b64 %rd<3>;
  .reg .b32 %r<2>;
  ld.param.u64 %rd1, [address];
  ld.param.u32 %r1, [value];
  cvta.to.global.u64 %rd2, %rd1;
  st.global.u32 [%rd2], %r1;
  ret;
}
)";

}  // namespace conformance
