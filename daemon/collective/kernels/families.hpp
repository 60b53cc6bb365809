// The families of kernels, one translation unit each so that they compile side by side. Each chooses the instruction
// set of this CPU by itself; reduce.cpp chooses the family.
#pragma once

#include "daemon/collective/kernels/reduce.hpp"

// Whether the instruction set being compiled has vectors; without them a family is the reference.
#define MUSTERD_KERNELS_SIMD (HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128)

namespace musterd::kernels {

void reduce_integers(const Reduce& call);
void reduce_floats(const Reduce& call);
void reduce_halves(const Reduce& call);
void reduce_widening(const Reduce& call);
void reduce_logic(const Reduce& call);

}  // namespace musterd::kernels
