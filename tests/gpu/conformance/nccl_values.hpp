// Values of all of NCCL's types, as doubles: a scalar reference that is written from the formats' definitions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nccl_api.hpp"

namespace conformance {

struct Format {
  ncclDataType_t type;
  const char* name;
  std::size_t bytes;
  bool integral;
  bool is_signed;
  int exponent_bits;  // of floating types
  int mantissa_bits;

  /// The relative error of one rounding.
  [[nodiscard]] double epsilon() const;
};

/// The types that this version has: float8 came with 2.24.
std::vector<Format> formats_of(int version);

using Words = std::vector<unsigned char>;

/// Every value must be one that the format has.
Words encode(const Format& format, const std::vector<double>& values);
std::vector<double> decode(const Format& format, const Words& words);

}  // namespace conformance
